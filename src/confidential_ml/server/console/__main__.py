"""Writes the console page to standard output: ``python -m confidential_ml.server.console > console.html``."""

from __future__ import annotations

import sys

from confidential_ml.server.console import page

if __name__ == "__main__":
    sys.stdout.buffer.write(page().html)
