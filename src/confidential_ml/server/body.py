"""Read a request's body: within its size and its time, and only as it is (docs/http.md 1, 4)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from confidential_ml.server.access import Headers
from confidential_ml.server.admission import Admission, Usage
from confidential_ml.server.errors import HttpError

__all__ = ["HEAD_SIZE", "REFUSAL", "USAGE", "media_type", "read_body", "too_late"]

USAGE = "confidential_ml.usage"
"""Where a request's scope has its `Usage`."""

REFUSAL = "confidential_ml.refusal"
"""Where a request's scope has the `HttpError` for a body that came too late or broken, on connections that find out
(`connection.py`); None until then."""

HEAD_SIZE = 16
"""First bytes of a body by which a limit is decided, if it has so many."""

_LONGEST_TYPE = 256

Limit = int | Callable[[bytes], int]


async def read_body(request: Request, limit: Limit) -> bytes:
    """Read a body; with the last of it the request takes one of the places for requests handled at once.

    Parameters
    ----------
    request
        The request.
    limit
        Bytes that it may have; or a function that says so by its first bytes, and may raise `HttpError`.

    Returns
    -------
    bytes

    Raises
    ------
    HttpError
        413 ``body_too_large``, 408 ``request_timeout``, 415 ``media_type_wrong`` for a content encoding, 503 ``busy``;
        400 ``body_malformed`` and 431 ``head_too_large`` if it is not as HTTP has it.
    """
    scope = request.scope
    length = _declared_length(scope["headers"])
    if length is not None and not callable(limit) and length > limit:
        raise _too_large(limit)
    serving = scope["app"].state.serving
    usage: Usage | None = scope.get(USAGE)
    seconds = serving.settings.limits.request_seconds
    if REFUSAL in scope:
        # The connection keeps the time: a timer for every request would cost as much as the rest of reading it.
        body = await _received(request, limit, serving.admission, usage)
    else:
        try:
            async with asyncio.timeout(seconds):
                body = await _received(request, limit, serving.admission, usage)
        except TimeoutError:
            raise too_late(seconds) from None
    if usage is not None:
        serving.admission.admit(usage)
    return body


async def _received(request: Request, limit: Limit, admission: Admission, usage: Usage | None) -> bytes:
    receive = request.receive
    parts: list[bytes] = []
    total = 0
    allowed = None if callable(limit) else limit
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        refusal: HttpError | None = request.scope.get(REFUSAL)
        if refusal is not None:
            refusal.headers["Connection"] = "close"
            raise refusal
        part = message.get("body", b"")
        total += len(part)
        if part and usage is not None:
            admission.hold(usage, len(part))
        parts.append(part)
        is_whole = not message.get("more_body", False)
        if allowed is None and callable(limit) and (is_whole or total >= HEAD_SIZE):
            allowed = limit(b"".join(parts))
        if allowed is not None and total > allowed:
            raise _too_large(allowed)
        if is_whole:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def media_type(headers: Headers) -> str:
    """The media type of a body in lower case, empty without one.

    Parameters
    ----------
    headers
        Of the request, names in lower case.

    Raises
    ------
    HttpError
        415 ``media_type_wrong`` if it has another parameter than ``charset=utf-8``.
    """
    for name, value in headers:
        if name == b"content-type":
            return _parsed_media_type(value[:_LONGEST_TYPE])
    return ""


@functools.lru_cache(maxsize=64)
def _parsed_media_type(header: bytes) -> str:
    kind, *parameters = header.decode("latin-1").lower().split(";")
    for parameter in parameters:
        if parameter.strip() not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise HttpError(415, "media_type_wrong", "a Content-Type may have charset=utf-8 and no other parameter")
    return kind.strip()


def _declared_length(headers: Headers) -> int | None:
    length = None
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise HttpError(400, "body_malformed", "Content-Length is no number of bytes")
            length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise HttpError(415, "media_type_wrong", "bodies with a Content-Encoding are not taken; send it unpacked")
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise HttpError(415, "media_type_wrong", "bodies may be chunked, and not packed; send it unpacked")
    return length


def too_late(seconds: float) -> HttpError:
    """What a body is refused with that did not arrive in its time."""
    return HttpError(
        408,
        "request_timeout",
        f"the body did not arrive within {seconds:g} seconds; send less or faster",
        {"Connection": "close"},
    )


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body has more than {limit} bytes; send less in one request")
