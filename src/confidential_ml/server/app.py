"""The application: every route of docs/http.md, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

import confidential_ml
from confidential_ml.server import (
    attestation_routes,
    confidential_route,
    mlflow_scoring,
    open_inference,
    openapi,
    own_routes,
)
from confidential_ml.server.access import Access
from confidential_ml.server.errors import HttpError, error_response
from confidential_ml.server.front import Forms, Front, Origins, form_of
from confidential_ml.server.hosts import Hosts
from confidential_ml.server.immediate import ImmediateAnswers
from confidential_ml.server.serving import Serving
from confidential_ml.server.settings import ServerSettings, load_settings

__all__ = ["create_app"]

# The busiest routes first: they are tried one after the other.
_FAMILIES = (own_routes, confidential_route, attestation_routes, open_inference, mlflow_scoring)
_FORMS: Forms = [
    ("/v2", open_inference.error_form),
    ("/invocations", mlflow_scoring.error_form),
    ("/ping", mlflow_scoring.error_form),
    ("/version", mlflow_scoring.error_form),
]
_OF_STARLETTE = {
    404: ("path_unknown", "there is no such path; /openapi.json lists those there are"),
    405: ("method_wrong", "this path has other methods, which the header Allow names"),
}


def create_app(settings: ServerSettings | None = None, *, serving: Serving | None = None) -> Starlette:
    """Make the ASGI application; models are loaded before it returns.

    Parameters
    ----------
    settings
        By default those of :func:`load_settings`, from the environment.
    serving
        What to serve; by default made of `settings`. The application closes it when it ends.

    Returns
    -------
    starlette.applications.Starlette
        For one process and one event loop: another would have another enclave and could not have the store.

    Raises
    ------
    SettingsError
        If the settings cannot be used, or the enclave protects less than they say.
    SealError
        If the model store cannot be used.
    EnclaveError
        If there is no enclave.
    """
    if serving is None:
        serving = Serving(load_settings() if settings is None else settings)
    served = serving

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        epochs = asyncio.create_task(served.keep_epochs())
        try:
            yield
        finally:
            epochs.cancel()
            await asyncio.to_thread(served.close)

    routes = [route for family in _FAMILIES for route in family.routes(served)]
    paths = {route.path for route in routes}
    document = openapi.document(
        [one for family in _FAMILIES for one in family.descriptions() if one.path in paths],
        version=confidential_ml.__version__,
        anonymous=served.settings.unsafe.anonymous,
    )
    routes += openapi.routes(document)
    access, hosts = Access(served.settings), Hosts(served.settings)
    origins = Origins(served.settings.allowed_origins)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Front, serving=served, hosts=hosts, origins=origins, routes=routes, forms=_FORMS)],
        exception_handlers={HttpError: _answer_refusal, HTTPException: _answer_starlette},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.serving = served
    app.state.access = access
    app.state.immediate = ImmediateAnswers(served, access, hosts, routes, origins.headers_for([]))
    return app


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error_response(error, form_of(request.scope["path"], _FORMS))


async def _answer_starlette(request: Request, error: Exception) -> Response:
    """What Starlette itself raises: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    code, message = _OF_STARLETTE.get(error.status_code, ("path_unknown", "the request cannot be answered"))
    refusal = HttpError(error.status_code, code, message, error.headers)
    return error_response(refusal, form_of(request.scope["path"], _FORMS))
