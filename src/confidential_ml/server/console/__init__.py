"""The console: one static page that attests and encrypts in the visitor's browser (docs/console.md)."""

from __future__ import annotations

from confidential_ml.server.console.page import ConsolePage, page

__all__ = ["ConsolePage", "page"]
