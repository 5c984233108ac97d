"""One HTTP request and its response: bounded in size and time, to the server that was named and no other.

No redirect is followed, no cookie kept, nothing unpacked; neither proxies nor certificates are taken from the
environment.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
import typing
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import anyio
import httpcore

from confidential_ml.attestation.files import StrPath
from confidential_ml.client.errors import ReplyLostError, UnreachableError
from confidential_ml.errors import InvalidInputError, RemoteError
from confidential_ml.regular_file import checked_path

__all__ = ["AsyncExchange", "Exchange", "HttpRequest", "HttpResponse", "tls_context"]

_CONNECTIONS = 100
_IDLE_SECONDS = 5.0
_WRITE_SIZE = 1 << 16
_LONGEST_CONNECT = 10.0


@dataclass(frozen=True)
class HttpRequest:
    """A request; the response's body may have at most `max_size` bytes."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    max_size: int

    @property
    def place(self) -> str:
        """What errors call it."""
        return self.url.partition("?")[0]


@dataclass(frozen=True)
class HttpResponse:
    """A response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


def tls_context(ca_file: StrPath | None, ssl_context: ssl.SSLContext | None) -> ssl.SSLContext:
    """Whose certificates are believed: those of `ca_file` alone, of the context, or the CAs of the system.

    Raises
    ------
    InvalidInputError
        If there is no such file, or it holds no certificates.
    """
    if ssl_context is not None:
        if ca_file is not None or not isinstance(ssl_context, ssl.SSLContext):
            raise InvalidInputError("ssl_context must be an ssl.SSLContext, and ca_file be left out then")
        return ssl_context
    where = None if ca_file is None else checked_path(ca_file, "ca_file")
    try:
        return ssl.create_default_context(cafile=where)
    except (OSError, ssl.SSLError):
        raise InvalidInputError(f"ca_file {where} cannot be read as PEM certificates") from None


class Exchange:
    """For threads."""

    def __init__(self, context: ssl.SSLContext | None, proxy: str | None, timeout: float) -> None:
        self._timeout = timeout
        self._limit = _TimeLimit()
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            proxy=_proxy(proxy),
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_TimedBackend(self._limit),
        )

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request; UnreachableError, ReplyLostError or RemoteError if no whole response comes in time."""
        self._limit.end = time.monotonic() + self._timeout
        with (
            _failures_said(request, self._timeout),
            self._pool.stream(**_arguments(request, self._timeout)) as response,
        ):
            _check_size(response, request)
            parts, size = [], 0
            for part in response.iter_stream():
                size += len(part)
                _check_so_far(size, request)
                parts.append(part)
            return _whole(response, parts)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncExchange:
    """For event loops of asyncio or trio."""

    def __init__(self, context: ssl.SSLContext | None, proxy: str | None, timeout: float) -> None:
        self._timeout = timeout
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, proxy=_proxy(proxy), max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_SECONDS
        )

    async def send(self, request: HttpRequest) -> HttpResponse:
        """As `Exchange.send`."""
        with _failures_said(request, self._timeout), anyio.fail_after(self._timeout):
            async with self._pool.stream(**_arguments(request, self._timeout)) as response:
                _check_size(response, request)
                parts, size = [], 0
                async for part in response.aiter_stream():
                    size += len(part)
                    _check_so_far(size, request)
                    parts.append(part)
                return _whole(response, parts)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def _arguments(request: HttpRequest, timeout: float) -> dict[str, typing.Any]:
    headers = {
        "Host": urllib.parse.urlsplit(request.url).netloc,
        "User-Agent": "confidential_ml",
        "Accept-Encoding": "identity",
        **request.headers,
    }
    if request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    times = {"connect": min(timeout, _LONGEST_CONNECT), "read": timeout, "write": timeout, "pool": timeout}
    return {
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "content": request.body or None,
        "extensions": {"timeout": times},
    }


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _check_size(response: httpcore.Response, request: HttpRequest) -> None:
    told = _headers(response).get("content-length", "")
    if told.isdecimal():
        _check_so_far(int(told[:20]), request)


def _check_so_far(size: int, request: HttpRequest) -> None:
    if size > request.max_size:
        raise RemoteError(
            f"the response of {request.place} has more than {request.max_size} bytes, which no reply has; "
            "check that the address is that of the server"
        )


def _whole(response: httpcore.Response, parts: Iterable[bytes]) -> HttpResponse:
    return HttpResponse(response.status, _headers(response), b"".join(parts))


def _proxy(proxy: str | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    parts = urllib.parse.urlsplit(proxy) if isinstance(proxy, str) else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError("proxy must be like http://host:port")
    auth = (parts.username or "", parts.password or "") if parts.username else None
    return httpcore.Proxy(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), auth=auth)


@contextlib.contextmanager
def _failures_said(request: HttpRequest, timeout: float) -> Iterator[None]:
    try:
        yield
    except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError) as error:
        untrusted = _certificate_error(error)
        if untrusted is not None:
            raise RemoteError(
                f"the certificate of {request.place} is not trusted: {untrusted.verify_message.rstrip('.')}; if it is "
                "the server's own, give it, or that of its CA, as ca_file"
            ) from error
        raise UnreachableError(
            f"no connection to {request.place}: {str(error) or type(error).__name__}; check address, port and network"
        ) from error
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise ReplyLostError(f"no whole reply came from {request.place} within {timeout:g} seconds") from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError, OSError) as error:
        problem = str(error) or type(error).__name__
        raise ReplyLostError(
            f"the connection to {request.place} broke before the whole reply came: {problem}"
        ) from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise RemoteError(f"{request.place} cannot be asked: {type(error).__name__}") from error


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


# ---- a time limit for all of a request ------------------------------------------------------------------------------


class _TimeLimit(threading.local):
    """Until when the request of this thread may take. A request stays in its thread from beginning to end."""

    end = 0.0

    def left(self) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _TimedBackend(httpcore.NetworkBackend):
    """Opens connections with such a limit. A socket's own time-out begins anew with every byte."""

    def __init__(self, limit: _TimeLimit) -> None:
        self._limit = limit
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._backend.connect_tcp(host, port, timeout, local_address, socket_options), self._limit)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, limit: _TimeLimit) -> None:
        self._stream, self._limit = stream, limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 # a limit takes its place
        return self._stream.read(max_bytes, self._limit.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        view = memoryview(buffer)
        for start in range(0, len(view), _WRITE_SIZE):
            self._stream.write(bytes(view[start : start + _WRITE_SIZE]), self._limit.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._limit)

    def get_extra_info(self, info: str) -> typing.Any:
        return self._stream.get_extra_info(info)
