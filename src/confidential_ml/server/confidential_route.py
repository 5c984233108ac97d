"""``POST /confidential``: messages of docs/protocol.md 7 and their replies; rows come encrypted here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from confidential_ml.protocol import REQUEST_OVERHEAD
from confidential_ml.server.body import media_type, read_body
from confidential_ml.server.errors import ErrorBody, HttpError
from confidential_ml.server.immediate import ImmediateRoute
from confidential_ml.server.openapi import BINARY, RouteDescription
from confidential_ml.server.serving import is_provision

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["descriptions", "routes"]

OCTETS = "application/octet-stream"
_SMALL_MESSAGE = 1 << 16
_OVERHEAD = REQUEST_OVERHEAD + 4  # of a message besides the padded plaintext, which is what the limits are about


def routes(serving: Serving) -> list[Route]:
    """The route."""
    limits = serving.settings.limits

    async def confidential(request: Request) -> Response:
        if media_type(request.scope["headers"]) != OCTETS:
            raise HttpError(415, "media_type_wrong", f"a message is sent as {OCTETS}")

        def limit(head: bytes) -> int:
            if not is_provision(head):
                return limits.body_bytes + _OVERHEAD
            # Only now is it known that the message brings a model.
            request.scope["app"].state.access.check(request.scope["headers"], "owner")
            return limits.model_bytes + _OVERHEAD

        return _Reply(await serving.answer(await read_body(request, limit)))

    def at_once(_: Mapping[str, str], message: bytes) -> bytes | None:
        return serving.answer_at_once(message)

    return [
        ImmediateRoute(
            "/confidential",
            confidential,
            role="client",
            # Whether a message brings a model is in its body, which is not read of somebody without a token.
            told="client, or owner to provision a model",
            at_once=at_once,
            media_types=(OCTETS,),
            most_bytes=_SMALL_MESSAGE,
            content_type=OCTETS,
        )
    ]


class _Reply(Response):
    """Bytes with the fewest headers, made in a third of the time that `Response` takes."""

    def __init__(self, body: bytes) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-type", OCTETS.encode()), (b"content-length", b"%d" % len(body))]


def descriptions() -> list[RouteDescription]:
    """What /openapi.json says of the route."""
    return [
        RouteDescription(
            "/confidential",
            "post",
            "A message to the enclave and its reply, which only it and the client can read",
            "client",
            {200: {OCTETS: BINARY}},
            ErrorBody,
            request={OCTETS: BINARY},
        )
    ]
