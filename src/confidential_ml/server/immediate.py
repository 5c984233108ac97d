"""Answer plain requests of one row at once: no task, no ASGI messages, no objects for request and response.

For one row these take longer than everything else there is to do. What is answered here is answered as by the route's
endpoint, byte for byte; all that is not plain, or is to be refused, is left to it (docs/http.md 8).
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from starlette.routing import BaseRoute, Route

from confidential_ml.server.access import Access, Clear, Endpoint, Headers, guarded
from confidential_ml.server.body import media_type
from confidential_ml.server.hosts import Hosts

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving
    from confidential_ml.server.settings import Role

__all__ = ["AtOnce", "ImmediateAnswers", "ImmediateRoute", "Target"]

AtOnce: TypeAlias = Callable[[Mapping[str, str], bytes], bytes | None]
"""Makes of the parameters in a path and a body the body of the answer, of status 200. It returns None, or raises
`HttpError`, for what the route's endpoint has to answer; then it must have changed nothing."""

_KEPT_URLS, _LONGEST_URL = 1024, 256
_PLAIN_URL = re.compile(rb"[A-Za-z0-9/._-]+")
# With these the answer is another, or there is more to be done than to answer.
_MEANINGFUL = frozenset(
    {b"content-encoding", b"expect", b"inference-header-content-length", b"origin", b"transfer-encoding"}
)
_MOST_DIGITS = 6  # of a length


class ImmediateRoute(Route):
    """A route for POST; the plain ones of its requests are answered without its endpoint.

    Parameters
    ----------
    path, endpoint, role, clear
        As of every route; see :func:`guarded`.
    at_once
        What answers the plain ones.
    media_types, most_bytes
        Those that the bodies of plain requests may have.
    content_type
        Of their answers.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        role: Role,
        clear: Clear | None = None,
        told: str | None = None,
        at_once: AtOnce,
        media_types: tuple[str, ...],
        most_bytes: int,
        content_type: str,
    ) -> None:
        super().__init__(path, guarded(endpoint, role=role, clear=clear, told=told), methods=["POST"])
        self.role: Role = role
        self.clear: Clear | None = clear
        self.at_once = at_once
        self.media_types = media_types
        self.most_bytes = most_bytes
        self.content_type = content_type


@dataclass(frozen=True)
class Target:
    """What a URL leads to."""

    route: ImmediateRoute
    parameters: Mapping[str, str]
    most_bytes: int  # of a body
    head: bytes  # the headers of its answers, with %d for the length of the body


class ImmediateAnswers:
    """Answers what can be answered at once. The application has one, as ``app.state.immediate``.

    Parameters
    ----------
    serving, access, hosts
        Of the application.
    routes
        All of them.
    always
        Headers that every answer has, to a request without ``Origin``.
    """

    def __init__(
        self, serving: Serving, access: Access, hosts: Hosts, routes: Iterable[BaseRoute], always: Headers
    ) -> None:
        self._serving = serving
        self._access = access
        self._hosts = hosts
        self._routes = [route for route in routes if isinstance(route, ImmediateRoute)]
        self._always = b"".join(b"%b: %b\r\n" % header for header in always)
        self._found = functools.lru_cache(maxsize=_KEPT_URLS)(self._find)

    def find(self, url: bytes, headers: Headers) -> Target | None:
        """Where a POST leads that :meth:`answer` may answer, if it is all there; by its head, which is not judged yet.

        Parameters
        ----------
        url
            As in the request line.
        headers
            Names in lower case.
        """
        given = dict(headers)
        length = given.get(b"content-length", b"0")
        if len(url) > _LONGEST_URL or not _MEANINGFUL.isdisjoint(given):
            return None
        if not length.isdigit() or len(length) > _MOST_DIGITS:
            return None
        target = self._found(url)
        # The body of one that is too long is not even collected: most of those have many rows.
        return None if target is None or int(length) > target.most_bytes else target

    def answer(self, target: Target, headers: Headers, body: bytes) -> bytes | None:
        """Answer a request, or leave it to the application, which then does everything from the start.

        Returns
        -------
        bytes
            Headers and body of an answer of status 200; None if the application has to answer.
        """
        start = time.perf_counter()
        serving, route = self._serving, target.route
        # Nothing else happens before this returns: so a place is looked for, but not taken.
        if serving.is_ending or not serving.admission.has_room(len(body)):
            return None
        try:
            self._hosts.check(headers)
            self._access.check(headers, route.role, route.clear)
            content = route.at_once(target.parameters, body) if media_type(headers) in route.media_types else None
        except Exception:
            return None  # the endpoint meets it again, and tells or logs it
        if content is None:
            return None
        serving.metrics.observe(route.path, "POST", 200, time.perf_counter() - start)
        return target.head % len(content) + content

    def _find(self, url: bytes) -> Target | None:
        if not _PLAIN_URL.fullmatch(url):
            return None
        for route in self._routes:
            match = route.path_regex.match(url.decode("ascii"))
            if match is not None:
                head = b"content-type: %b\r\ncontent-length: %%d\r\n%b\r\n" % (
                    route.content_type.encode(),
                    self._always,
                )
                most_bytes = min(route.most_bytes, self._serving.settings.limits.body_bytes)
                return Target(route, match.groupdict(), most_bytes, head)
        return None
