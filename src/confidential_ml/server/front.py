"""Around every request: what it takes up, what is counted of it, and what is said if it fails (docs/http.md 6)."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confidential_ml.server.access import Headers
from confidential_ml.server.admission import Usage
from confidential_ml.server.body import USAGE
from confidential_ml.server.errors import ErrorForm, HttpError, error_response, own_form
from confidential_ml.server.hosts import Hosts

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["Front", "Origins", "form_of"]

_DISCONNECTED = 499  # as nginx has it: the client went away before there was an answer
_KEPT_PATHS, _LONGEST_KEPT_PATH = 1024, 256
_ALWAYS = [(b"x-content-type-options", b"nosniff")]
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}
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


class Origins:
    """Leave for pages from elsewhere to ask this server (docs/http.md 7)."""

    def __init__(self, allowed: list[str]) -> None:
        self._allowed = {origin.encode("ascii") for origin in allowed}

    def headers_for(self, headers: Headers) -> Headers:
        """What every answer has besides, to a request with these headers."""
        if not self._allowed:
            return _ALWAYS
        origin = dict(headers).get(b"origin")
        leave = [(b"access-control-allow-origin", origin)] if origin in self._allowed else []
        return [*_ALWAYS, (b"vary", b"Origin"), *leave]

    def is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks for leave, which it gets."""
        return scope["method"] == "OPTIONS" and dict(scope["headers"]).get(b"origin") in self._allowed


class Front:
    """Middleware without a task or a queue of its own, unlike `BaseHTTPMiddleware`: one coroutine and one closure."""

    def __init__(
        self, app: ASGIApp, serving: Serving, hosts: Hosts, origins: Origins, routes: list[Route], forms: Forms
    ) -> None:
        self._app = app
        self._serving = serving
        self._forms = forms
        self._hosts = hosts
        self._origins = origins
        self._routes = routes
        self._direct = {
            (method, route.path): route for route in routes if "{" not in route.path for method in route.methods or ()
        }
        # Clients ask for few models, again and again, and finding the route costs more than the rest of Starlette.
        self._found = functools.lru_cache(maxsize=_KEPT_PATHS)(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        headers = self._origins.headers_for(scope["headers"])

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        usage = Usage()
        scope[USAGE] = usage
        try:
            self._hosts.check(scope["headers"])
            if self._serving.is_ending and scope["path"] != "/health":
                raise HttpError(
                    503, "shutting_down", "the server is shutting down; send it to another", {"Connection": "close"}
                )
            if scope["method"] == "OPTIONS" and self._origins.is_preflight(scope):
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, observed)
                return
            # A path without parameters needs no search, and what Starlette wraps around an endpoint is done here.
            route, parameters = self._route_of(scope["method"], scope["path"])
            if route is None:
                await self._app(scope, receive, observed)
            else:
                scope["route"], scope["path_params"] = route, parameters
                response = await route.endpoint(Request(scope, receive))
                await response(scope, receive, observed)
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

    def _route_of(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        """The route and its parameters; no route for what Starlette has to answer."""
        route = self._direct.get((method, path))
        if route is not None or len(path) > _LONGEST_KEPT_PATH:
            return route, {}
        route, parameters = self._found(method, path)
        return route, dict(parameters)

    def _find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        for route in self._routes:
            match = route.path_regex.match(path)
            if match is not None and method in (route.methods or ()):
                return route, match.groupdict()
        return None, {}


def _internal(error: Exception) -> HttpError:
    identifier = secrets.token_hex(8)
    _logger.error("request %s failed", identifier, exc_info=error)
    return HttpError(
        500,
        "internal",
        f"the server has a defect or its machine has a problem; the operator's log says more under {identifier}",
    )
