"""HTTP connections with limits that uvicorn's parser has not: size of the head, time for everything a client does.

Of itself uvicorn with httptools reads a head of any length for ever. Here a connection has so many seconds from the
first byte of a request to its last, and to take an answer; heads are short; connections are counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from confidential_ml.server.body import REFUSAL, too_late
from confidential_ml.server.errors import ERROR_HEADER, HttpError, own_form
from confidential_ml.server.immediate import ImmediateAnswers, Target

_GRACE_SECONDS = 5.0
_VERSIONS = frozenset({"1.0", "1.1"})

__all__ = ["ConnectionLimits", "protocol_class"]


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may take.

    Attributes
    ----------
    connections
        How many there may be.
    request_seconds
        From the first byte of a request to its last; and for the client to take what was written.
    head_bytes, head_lines
        Request line and headers; and what a body has besides its content, between two parts of it or after the last.
    pipelined
        Requests that wait for the answers to those before them.
    """

    connections: int
    request_seconds: float
    head_bytes: int = 64 << 10
    head_lines: int = 100
    pipelined: int = 64


def protocol_class(limits: ConnectionLimits, immediate: ImmediateAnswers) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with these limits; the application is asked for what `immediate` does not answer."""

    class LimitedProtocol(_LimitedProtocol):
        connection_limits = limits
        immediate_answers = immediate

    return LimitedProtocol


class _LimitedProtocol(HttpToolsProtocol):
    connection_limits: ConnectionLimits
    immediate_answers: ImmediateAnswers

    # ---- a request comes in -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal: HttpError | None = None
        self._is_refusal_owed = False  # to be said after the answers to the requests before
        self._is_in_head, self._is_in_request = True, False
        self._head_bytes = 0  # since the last byte of a body: of a head, or of chunks' sizes and trailers
        self._is_one_answered = False  # for the piece of bytes that is being read
        self._held: Target | None = None  # what the application is not yet told of: perhaps it is answered at_once
        self._held_body = b""
        self._running: RequestResponseCycle | None = None  # the last one the application began with
        if len(self.connections) > self.connection_limits.connections:
            self._refuse(HttpError(503, "busy", "too many connections; come again later", {"Retry-After": "1"}))
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_write_timer()
        if self._running is not None:
            # uvicorn tells the newest request alone, which may wait for this one; an answer would be written to nobody.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        # After a reset uvicorn lets it run, and it keeps the last request: thousands, for more than a minute.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._head_bytes += len(data)
        self._is_one_answered = False
        self._parse(data)
        if self._held is not None:
            self._let_go()
        if self._refusal is not None or self.transport.is_closing():
            return
        if self._head_bytes > self.connection_limits.head_bytes:
            self._refuse(_head_too_large())
        elif self._is_in_request or self._head_bytes:
            # A request that came in one piece, as most do, never needs the timer.
            self._arm()

    def _parse(self, data: bytes) -> None:
        """In the place of uvicorn's `data_received`, which logs a line for every broken request."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                # uvicorn drops the rest: of a request cut in two, the body would be read as the next request.
                data = data[stopped.args[0] :]
            except httptools.HttpParserError:
                self._refuse_unreadable()
                return

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_request = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is no header: it comes after the headers were judged, and must not add to them.
        if self._is_in_head:
            super().on_header(name, value.rstrip(b" \t"))  # the parser leaves what stands before the end of the line

    def on_headers_complete(self) -> None:
        limits = self.connection_limits
        if self.parser.get_http_version() not in _VERSIONS:
            raise _RefusedError
        hosts, size = 0, len(self.url)
        for name, value in self.headers:
            hosts += name == b"host"
            size += len(name) + len(value) + 4
        if len(self.headers) > limits.head_lines or size > limits.head_bytes:
            self._refusal = _head_too_large()
            raise _RefusedError
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            # RFC 9112, 3.2. What stands between client and server might go by another one than this server.
            self._refusal = HttpError(400, "body_malformed", "a request has one header Host")
            raise _RefusedError
        if len(self.pipeline) >= limits.pipelined:
            # For uvicorn reads on whenever one is answered, and keeps thousands of small ones for each.
            self._refusal = HttpError(503, "busy", "too many requests at once on one connection")
            raise _RefusedError
        if self.parser.should_upgrade() and _has_body(self.headers):
            # The parser takes the body for one of the other protocol, and the request would seem to have none.
            self._refusal = HttpError(400, "body_malformed", "this server speaks HTTP/1.1 alone; send no Upgrade")
            raise _RefusedError
        self.scope[REFUSAL] = None  # type: ignore[literal-required]
        self._held = self._immediate_target()
        if self._held is None:
            self._begin()
        self._is_in_head, self._head_bytes = False, 0

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._held is None:
            super().on_body(body)
        else:
            self._held_body += body

    def on_message_complete(self) -> None:
        answer = self._immediate_answer()
        if answer is None:
            super().on_message_complete()
        self._is_in_head, self._is_in_request, self._head_bytes = True, False, 0
        self._disarm()
        if answer is not None:
            self.transport.write(answer)
            self.on_response_complete()

    def _refuse_unreadable(self) -> None:
        """Also when :meth:`on_headers_complete` has raised."""
        refusal = self._refusal or HttpError(400, "body_malformed", "this is no HTTP/1.1 request")
        self._refusal = None
        self._refuse(refusal)

    # ---- a request that is all there is answered at once ------------------------------------------------------------

    def _immediate_target(self) -> Target | None:
        """Where a request leads that may be answered when its last byte is read, if that is in this piece of bytes."""
        is_next = self.cycle is None or self.cycle.response_complete
        # One for each piece: who sends many requests in one does not keep the other connections waiting.
        if self._is_one_answered or not is_next or self.flow.write_paused or self.parser.get_method() != b"POST":
            return None
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return None
        return self.immediate_answers.find(self.url, self.headers)

    def _immediate_answer(self) -> bytes | None:
        if self._held is None:
            return None
        content = self.immediate_answers.answer(self._held, self.headers, self._held_body)
        if content is None:
            self._let_go()
            return None
        self._held, self._held_body, self._is_one_answered = None, b"", True
        lines = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        return b"".join([b"HTTP/1.1 200 OK\r\n", *lines, content])

    def _let_go(self) -> None:
        """Tell the application of what was held back."""
        body, self._held, self._held_body = self._held_body, None, b""
        self._begin()
        if body:
            super().on_body(body)

    def _begin(self) -> None:
        """Tell the application that there is a request."""
        # After a immediate answer in the same piece of bytes the connection is taken for idle.
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    # ---- time is over -----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(self.connection_limits.request_seconds, self._request_timed_out)

    def _disarm(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _request_timed_out(self) -> None:
        self._request_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse_body(too_late(self.connection_limits.request_seconds))
        elif self._is_in_head and self._head_bytes == 0:
            self._close()  # nothing was ever asked
        elif self._is_in_head:
            self._refuse(HttpError(408, "request_timeout", "the head of the request did not arrive in time"))
        else:
            self._close()  # answered long ago, and the rest of the body still comes in

    def _refuse(self, refusal: HttpError) -> None:
        """Answer before there is a request, or in the place of one that cannot be read; then close."""
        self._refusal = refusal
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._is_in_request and not self._is_in_head:
            if not is_answered:
                self._refuse_body(refusal)
                return
        elif is_answered:
            self.transport.write(_written(refusal))
        else:
            # Out of turn it would be taken for the answer to a request before it.
            self._is_refusal_owed = True
            self._disarm()
            return
        self._close()

    def _refuse_body(self, refusal: HttpError) -> None:
        """Whoever reads the body is woken and says so; the connection is cut if nobody does."""
        self._disarm()
        self.cycle.scope[REFUSAL] = refusal  # type: ignore[literal-required]
        self.cycle.message_event.set()
        self._request_timer = self.loop.call_later(_GRACE_SECONDS, self.transport.abort)

    def _close(self) -> None:
        self._disarm()
        self.transport.close()
        self._abort_later()

    # ---- an answer goes out -----------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_write_timer()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._refusal is not None and self.cycle.response_complete:
            if self._is_refusal_owed:
                self.transport.write(_written(self._refusal))
            self._close()  # else it was answered by an endpoint that has no use for the body
        elif self._is_in_request:
            # Refused before it was all here: the rest has the time that is left, and is thrown away.
            self._arm()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def _abort_later(self) -> None:
        """For a client that does not take what was written: closing alone would wait for it for ever."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.connection_limits.request_seconds, self.transport.abort)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _RefusedError(Exception):
    """Stops the parser."""


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


def _head_too_large() -> HttpError:
    return HttpError(431, "head_too_large", "the request line or the header lines are too long or too many")


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def _written(refusal: HttpError) -> bytes:
    body = own_form(refusal)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        ERROR_HEADER: refusal.code,
        **refusal.headers,
    }
    lines = [f"HTTP/1.1 {refusal.status} {_PHRASES[refusal.status]}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
