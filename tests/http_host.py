"""A host of `remote_host` behind HTTP on a free port of this machine, which tests can make do anything."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from remote_host import Host

Misbehave = Callable[["Handler"], bool]
"""Answers a request in its own way and returns True; False leaves it to the host."""


class HttpHost:
    """The server, what was asked of it, and how it misbehaves."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.plan: list[Misbehave] = []  # for the next requests, one each
        self.always: Misbehave = lambda handler: False
        self.ended = threading.Event()  # those who keep a client waiting end with this
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.host = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[HttpHost]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            self._server.server_close()

    def messages(self, operation: int) -> list[bytes]:
        return [body for _, path, _, body in self.asked if path == "/confidential" and body[2] == operation]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    @property
    def http_host(self) -> HttpHost:
        found: HttpHost = self.server.host  # type: ignore[attr-defined]
        return found

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status: int, code: str, message: str = "as told", **headers: str) -> None:
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        self.answer(status, body, Confidential_ML_Error=code, **headers)

    def do_POST(self) -> None:
        self._do()

    def do_GET(self) -> None:
        self._do()

    def _do(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        one = self.http_host
        one.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.body))
        misbehave = one.plan.pop(0) if one.plan else one.always
        with contextlib.suppress(ConnectionError):
            if not misbehave(self):
                self.serve()

    def serve(self) -> None:
        host = self.http_host.host
        path, _, query = self.path.partition("?")
        if path == "/confidential":
            self.answer(200, host.transport(self.body))
        elif path == "/health":
            self.answer(200, b'{"status": "ok", "platform": "simulation"}')
        elif path == "/models":
            self.answer(200, b'{"models": [{"model_id": "reference", "version": 1}]}')
        elif path == "/attestation/report":
            evidence = host.enclave.evidence(bytes.fromhex(query.removeprefix("nonce=")))
            self.answer(200, json.dumps({"evidence": base64.b64encode(evidence).decode()}).encode())
        elif path == "/attestation/collateral":
            self.answer(200, host.collateral().to_json().encode())
        else:
            self.error(404, "path_unknown")


# ---- ways to misbehave ----------------------------------------------------------------------------------------------


def says(status: int, code: str, message: str = "as told", **headers: str) -> Misbehave:
    def misbehave(handler: Handler) -> bool:
        handler.error(status, code, message, **headers)
        return True

    return misbehave


def answers(status: int, body: bytes, **headers: str) -> Misbehave:
    def misbehave(handler: Handler) -> bool:
        handler.answer(status, body, **headers)
        return True

    return misbehave


def hangs_up(handler: Handler) -> bool:
    """Takes the request and closes the connection."""
    handler.close_connection = True
    return True


def serves_and_hangs_up(handler: Handler) -> bool:
    """Lets the enclave answer, and loses the answer."""
    handler.http_host.host.transport(handler.body)
    handler.close_connection = True
    return True


def cuts(handler: Handler) -> bool:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"\1\0\0\0")
    handler.close_connection = True
    return True


def drips(handler: Handler) -> bool:
    """One byte of the head of a response at a time, for ever."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000:
        if handler.http_host.ended.wait(0.02):
            break
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
    handler.close_connection = True
    return True


def floods(handler: Handler) -> bool:
    """A body without end."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while not handler.http_host.ended.is_set():
        handler.wfile.write(chunk)
    return True
