"""Around every request: what it takes up, what is counted of it, and what is said if it fails (docs/http.md 6)."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confidential_ml.server.admission import Usage
from confidential_ml.server.body import USAGE
from confidential_ml.server.errors import ErrorForm, HttpError, error_response, own_form

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["Front", "form_of"]

_DISCONNECTED = 499  # as nginx has it: the client went away before there was an answer
_logger = logging.getLogger("confidential_ml")

Forms = list[tuple[str, ErrorForm]]


def form_of(path: str, forms: Forms) -> ErrorForm:
    """The form of errors on a path.

    Parameters
    ----------
    path
        Of the request.
    forms
        First parts of paths and the form below them.
    """
    for prefix, form in forms:
        if path == prefix or path.startswith(f"{prefix}/"):
            return form
    return own_form


class Front:
    """Middleware without a task or a queue of its own, unlike `BaseHTTPMiddleware`: one coroutine and one closure."""

    def __init__(self, app: ASGIApp, serving: Serving, forms: Forms) -> None:
        self._app = app
        self._serving = serving
        self._forms = forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        usage = Usage()
        scope[USAGE] = usage
        try:
            if self._serving.is_ending and scope["path"] != "/health":
                raise HttpError(
                    503, "shutting_down", "the server is shutting down; send it to another", {"Connection": "close"}
                )
            await self._app(scope, receive, observed)
        except ClientDisconnect:
            status = status or _DISCONNECTED
        except Exception as error:
            if status:
                raise  # half an answer is out; the connection is closed
            refusal = error if isinstance(error, HttpError) else _internal(error)
            await error_response(refusal, form_of(scope["path"], self._forms))(scope, receive, observed)
        finally:
            self._serving.admission.leave(usage)
            route = scope.get("route")
            label = "none" if route is None else route.path
            self._serving.metrics.observe(label, scope["method"], status, time.perf_counter() - start)


def _internal(error: Exception) -> HttpError:
    identifier = secrets.token_hex(8)
    _logger.error("request %s failed", identifier, exc_info=error)
    return HttpError(
        500, "internal", f"the server has a defect or its machine has a problem; the operator's log says more under {identifier}"
    )
