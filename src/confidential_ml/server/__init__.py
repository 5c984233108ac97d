"""The HTTP server (docs/http.md): ``create_app``, ``serve``, ``load_settings``. Needs ``confidential_ml[server]``."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confidential_ml.server.app import create_app
    from confidential_ml.server.run import serve
    from confidential_ml.server.serving import Serving
    from confidential_ml.server.settings import ServerSettings, SettingsError, load_settings

__all__ = ["ServerSettings", "Serving", "SettingsError", "create_app", "load_settings", "serve"]

_NEEDED = ("starlette", "uvicorn", "httptools", "msgspec", "prometheus_client", "pydantic_settings")
_MODULE_OF = {
    "ServerSettings": "settings",
    "Serving": "serving",
    "SettingsError": "settings",
    "create_app": "app",
    "load_settings": "settings",
    "serve": "run",
}

_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f"confidential_ml.server needs {', '.join(_missing)}; install it with: pip install 'confidential_ml[server]'"
    )


def __getattr__(name: str) -> object:
    # At first use (PEP 562), so that reading settings imports no web framework.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
