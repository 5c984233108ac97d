"""One HTTP request and its response: bounded in size and time, to the server that was named and no other.

No redirect is followed, no cookie kept, nothing unpacked; neither proxies nor certificates are taken from the
environment.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import ssl
import threading
import time
import typing
import urllib.parse
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, field

import anyio
import httpcore
import httpx

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
        transport = _TimedTransport(context, _proxy(proxy), self._limit)
        self._client = httpx.Client(transport=transport, **_client_arguments(timeout))

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request; UnreachableError, ReplyLostError or RemoteError if no whole response comes in time."""
        _check_open(self._client)
        self._limit.end = time.monotonic() + self._timeout
        with (
            _failures_said(request, self._timeout),
            self._client.stream(**_request_arguments(request)) as response,
        ):
            _check_size(response, request)
            parts, size = [], 0
            for part in response.iter_raw():
                size += len(part)
                _check_so_far(size, request)
                parts.append(part)
            return _whole(response, parts)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class AsyncExchange:
    """For event loops of asyncio or trio."""

    def __init__(self, context: ssl.SSLContext | None, proxy: str | None, timeout: float) -> None:
        self._timeout = timeout
        transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context() if context is None else context,
            proxy=_proxy(proxy),
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_SECONDS),
            trust_env=False,
        )
        self._client = httpx.AsyncClient(transport=transport, **_client_arguments(timeout))

    async def send(self, request: HttpRequest) -> HttpResponse:
        """As `Exchange.send`."""
        _check_open(self._client)
        with _failures_said(request, self._timeout), anyio.fail_after(self._timeout):
            async with self._client.stream(**_request_arguments(request)) as response:
                _check_size(response, request)
                parts, size = [], 0
                # Raised in here, the error would hold the half-read generators until after the event loop is closed.
                async with contextlib.aclosing(typing.cast(AsyncGenerator[bytes], response.aiter_raw())) as body:
                    async for part in body:
                        parts.append(part)
                        size += len(part)
                        if size > request.max_size:
                            break
                _check_so_far(size, request)
                return _whole(response, parts)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _check_open(client: httpx.Client | httpx.AsyncClient) -> None:
    if client.is_closed:
        raise InvalidInputError("the client is closed; make a new one")


def _client_arguments(timeout: float) -> dict[str, typing.Any]:
    return {
        "headers": {"User-Agent": "confidential_ml", "Accept-Encoding": "identity"},
        "cookies": http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _LONGEST_CONNECT)),
        "follow_redirects": False,
        "trust_env": False,
    }


def _request_arguments(request: HttpRequest) -> dict[str, typing.Any]:
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "content": request.body or None,
    }


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}


def _check_size(response: httpx.Response, request: HttpRequest) -> None:
    told = _headers(response).get("content-length", "")
    if told.isdecimal():
        _check_so_far(int(told[:20]), request)


def _check_so_far(size: int, request: HttpRequest) -> None:
    if size > request.max_size:
        raise RemoteError(
            f"the response of {request.place} has more than {request.max_size} bytes, which no reply has; "
            "check that the address is that of the server"
        )


def _whole(response: httpx.Response, parts: Iterable[bytes]) -> HttpResponse:
    return HttpResponse(response.status_code, _headers(response), b"".join(parts))


def _proxy(proxy: str | None) -> httpx.Proxy | None:
    if proxy is None:
        return None
    try:
        parts = urllib.parse.urlsplit(proxy if isinstance(proxy, str) else "")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError
        auth = (parts.username or "", parts.password or "") if parts.username else None
        return httpx.Proxy(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), auth=auth)
    except (ValueError, httpx.InvalidURL):
        # Without what raised it, which may show a password.
        raise InvalidInputError("proxy must be like http://host:port") from None


@contextlib.contextmanager
def _failures_said(request: HttpRequest, timeout: float) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        untrusted = _certificate_error(error)
        if untrusted is not None:
            raise RemoteError(
                f"the certificate of {request.place} is not trusted: {untrusted.verify_message.rstrip('.')}; if it is "
                "the server's own, give it, or that of its CA, as ca_file"
            ) from error
        raise UnreachableError(
            f"no connection to {request.place}: {str(error) or type(error).__name__}; check address, port and network"
        ) from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise ReplyLostError(f"no whole reply came from {request.place} within {timeout:g} seconds") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError, OSError) as error:
        problem = str(error) or type(error).__name__
        raise ReplyLostError(
            f"the connection to {request.place} broke before the whole reply came: {problem}"
        ) from error
    except (httpx.ProtocolError, httpx.UnsupportedProtocol) as error:
        raise RemoteError(f"{request.place} cannot be asked: {type(error).__name__}") from error


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


# ---- a time limit for all of a request ------------------------------------------------------------------------------


class _TimedTransport(httpx.BaseTransport):
    """Of httpx's own, the sync one cannot be given such a limit; what is beneath it, httpcore, can."""

    def __init__(self, context: ssl.SSLContext | None, proxy: httpx.Proxy | None, limit: _TimeLimit) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            proxy=None if proxy is None else httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth),
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_TimedBackend(limit),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        with _as_httpx(request):
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=typing.cast(Iterable[bytes], request.stream),
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_TimedBody(response, request),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _TimedBody(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response, self._request = response, request

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextlib.contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Errors of httpcore as those of httpx, which are called the same."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error


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
