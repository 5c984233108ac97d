"""One GET: encrypted, of the host that was named and no other, bounded in size and time, retried where that helps."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import functools
import http.client
import io
import ipaddress
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

from confidential_ml.errors import CollateralError, InvalidInputError

__all__ = ["HttpGet", "Response", "checked_url", "is_loopback", "without_query"]

MAX_BODY_SIZE = 2 << 20
LONGEST_WAIT = 60.0
_FIRST_WAIT = 1.0
_PART = 1 << 16
_SECONDS = re.compile("[0-9]{1,9}")
# Nothing that a parser and a server could read differently.
_URL = re.compile(r"(?:https?)://(?:[A-Za-z0-9.-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*+)?")
_REDIRECTS = {301, 302, 303, 307, 308}
_ADVICE = {
    401: "the service wants to know who asks; ask another",
    403: "the service, or a proxy before it, forbids it; ask another",
    404: "the service does not have it: check the address, or ask another service",
}


@dataclass(frozen=True)
class Response:
    """Headers and whole body of a response with status 200."""

    url: str
    headers: Message
    body: bytes


class _TransientError(Exception):
    """A failure that may be gone in a moment.

    Parameters
    ----------
    problem
        For the error, if it is not.
    wait
        Seconds that the server asks to wait.
    """

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.problem, self.wait = problem, wait


def checked_url(url: object, argument: str) -> str:
    """Return a URL that may be asked: https, or http to this very machine; no user, query or fragment.

    Raises
    ------
    InvalidInputError
        For any other.
    """
    if not isinstance(url, str):
        raise InvalidInputError(f"{argument} must be text, not {type(url).__name__}")
    if not _URL.fullmatch(url):  # and not shown: what is wrong may be a password in it
        raise InvalidInputError(
            f"{argument} must be like https://host:port/path, without user, query and fragment, in ASCII"
        )
    parts = urllib.parse.urlsplit(url)
    try:
        host = parts.hostname or ""
        on_this_machine = is_loopback(host)
        host.encode("idna")  # as connecting would; refuses labels that are empty or too long
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise InvalidInputError(f"{argument} has no host or port that can be: {url}") from None
    if parts.scheme != "https" and not on_this_machine:
        raise InvalidInputError(f"{argument} must begin with https:// unless the host is this machine itself: {url}")
    return url.rstrip("/")


def without_query(url: str) -> str:
    """The part of a URL that an error may show."""
    return urllib.parse.urlsplit(url)._replace(query="", fragment="").geturl()


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this very machine; ValueError for what is no address."""
    if host == "localhost":
        return True
    if ":" not in host and not re.fullmatch("[0-9.]+", host):
        return False
    return ipaddress.ip_address(host).is_loopback


class HttpGet:
    """Asks one host, through the proxies of the environment unless it is this very machine.

    Parameters
    ----------
    url
        Any of that host.
    context
        Whose certificates to believe; by default the CAs of the system.
    timeout
        Seconds for one attempt, from connecting to the last byte.
    retries
        Attempts after the first.
    clock, sleep
        Of the caller.
    """

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None = None,
        timeout: float,
        retries: int,
        clock: Callable[[], datetime.datetime],
        sleep: Callable[[float], None],
    ) -> None:
        self._timeout, self._retries, self._clock, self._sleep = timeout, retries, clock, sleep
        # No handler of redirects, so that none is followed.
        self._opener = urllib.request.OpenerDirector()
        self._opener.addheaders = [("User-Agent", "confidential_ml")]
        parts = urllib.parse.urlsplit(url)
        self._opener.add_handler(urllib.request.ProxyHandler({} if is_loopback(parts.hostname or "") else None))
        # Loading the CAs takes a while. Never left to http.client, whose default a program can change for all.
        if context is None and parts.scheme == "https":
            context = ssl.create_default_context()
        self._opener.add_handler(_Handler(context))

    def get(self, url: str, what: str) -> Response:
        """Fetch a document.

        Parameters
        ----------
        url
            Where it is, with its query.
        what
            What errors call it.

        Raises
        ------
        CollateralError
            If it cannot be had: at once where asking again would not help, otherwise after the last attempt.
        """
        attempt = 0
        while True:
            try:
                return self._attempt(url, what)
            except _TransientError as error:
                wait = self._wait_after(error, attempt, url, what)
            self._sleep(wait)
            attempt += 1

    def _wait_after(self, error: _TransientError, attempt: int, url: str, what: str) -> float:
        if error.wait > LONGEST_WAIT:
            raise _failed(
                what, url, f"{error.problem} and asks to wait {error.wait:.0f} seconds", "try again then"
            ) from error.__cause__
        if attempt == self._retries:
            tried = f", at the last of {attempt + 1} attempts" if attempt else ""
            raise _failed(
                what, url, f"{error.problem}{tried}", "check the network and the service, and try again"
            ) from error.__cause__
        return max(error.wait, _backoff(attempt))

    def _attempt(self, url: str, what: str) -> Response:
        request = urllib.request.Request(url)  # noqa: S310 # the scheme was checked when the service was made
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                self._check_status(response, url, what)
                return Response(url, response.headers, _body(response, url, what))
        except urllib.error.URLError as error:
            raise _of_connection(error.reason, url, what) from error
        except (OSError, http.client.HTTPException) as error:
            raise _of_connection(error, url, what) from error

    def _check_status(self, response: http.client.HTTPResponse, url: str, what: str) -> None:
        status = response.status
        if status == 200:
            return
        if status == 429 or 500 <= status < 600:
            raise _TransientError(f"the server answers HTTP {status}", self._asked_wait(response.headers))
        if status in _REDIRECTS:
            raise _failed(
                what, url, f"the server redirects (HTTP {status})", "redirects are not followed: give the final address"
            )
        raise _failed(what, url, f"the server answers HTTP {status}", _ADVICE.get(status, "ask another service"))

    def _asked_wait(self, headers: Message) -> float:
        """Seconds of a Retry-After header (RFC 9110, 10.2.3)."""
        asked = str(headers.get("Retry-After", "")).strip()
        if _SECONDS.fullmatch(asked):
            return float(asked)
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, (email.utils.parsedate_to_datetime(asked) - self._clock()).total_seconds())
        return 0.0


def _backoff(attempt: int) -> float:
    """Seconds to wait: doubled each time, and from half of it on by chance, lest many clients come back as one."""
    return random.SystemRandom().uniform(0.5, 1.0) * min(_FIRST_WAIT * 2.0**attempt, LONGEST_WAIT)


def _body(response: http.client.HTTPResponse, url: str, what: str) -> bytes:
    parts, size = [], 0
    while part := response.read(_PART):
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_SIZE:
            raise _failed(what, url, f"the response has more than {MAX_BODY_SIZE} bytes", "check the address")
    # Reading in parts, http.client does not tell.
    if response.length:
        raise _TransientError(f"the response was cut short by {response.length} bytes")
    return b"".join(parts)


def _of_connection(error: object, url: str, what: str) -> Exception:
    """What a failure of the connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _failed(
            what,
            url,
            f"its certificate is not trusted: {error.verify_message.rstrip('.')}",
            "if it is a PCCS of your own, give its certificate, or that of its CA, as ca_file",
        )
    if isinstance(error, http.client.HTTPException) and not isinstance(
        error, (http.client.IncompleteRead, http.client.RemoteDisconnected)
    ):
        return _failed(what, url, f"the response is not HTTP: {type(error).__name__}", "check host and port")
    if isinstance(error, TimeoutError):
        return _TransientError("no whole response came in time")
    if isinstance(error, http.client.IncompleteRead):
        return _TransientError("the response was cut short")
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return _TransientError(f"the connection failed: {reason}")


def _failed(what: str, url: str, problem: str, advice: str) -> CollateralError:
    return CollateralError(f"{what} could not be fetched from {without_query(url)}: {problem}; {advice}")


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens http and https with connections that end at a deadline."""

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tls = functools.partial(http.client.HTTPSConnection, context=context)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(self._tls, request)

    def _open(
        self, kind: Callable[..., http.client.HTTPConnection], request: urllib.request.Request
    ) -> http.client.HTTPResponse:
        deadline = time.monotonic() + (request.timeout or 0.0)

        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            made = kind(host, **options)
            made.response_class = functools.partial(_response, deadline)  # type: ignore[assignment]
            return made

        return self.do_open(connection, request)


def _response(deadline: float, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_TimedSocket(sock, deadline), **options)  # type: ignore[arg-type]


class _TimedSocket:
    """A socket, as far as a response needs one."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self._sock, self._deadline), _PART)


class _TimedReader(io.RawIOBase):
    """Reads a socket until a deadline. A socket's own timeout begins anew with every byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open as long as itself

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
