"""Names under which the server may be asked, so that no page makes a browser ask it under its own (docs/http.md 7)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from confidential_ml.server.access import Headers
from confidential_ml.server.errors import HttpError

if TYPE_CHECKING:
    from confidential_ml.server.settings import ServerSettings

__all__ = ["Hosts", "host_name"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_KEPT, _LONGEST = 256, 300  # a name has at most 255 bytes, and a port six


def host_name(authority: str) -> str:
    """The host of an authority (RFC 3986, 3.2) in lower case, without its port; IPv6 in its brackets."""
    end = authority.rfind("]") + 1
    name, _, port = authority[end:].partition(":")
    return (authority[:end] + name).lower() if not port or port.isdecimal() else ""


class Hosts:
    """Decides whether a request was meant for this server.

    A server that only its machine reaches takes requests for loopback names alone: whoever visits a page gives its
    name's owner the choice of where it leads next, and that may be here (DNS rebinding).
    """

    def __init__(self, settings: ServerSettings) -> None:
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        is_restricted = bool(settings.allowed_hosts) or settings.is_loopback
        self._allowed = {*_LOOPBACK, own.lower(), *settings.allowed_hosts} if is_restricted else None
        self._is_allowed = functools.lru_cache(maxsize=_KEPT)(self._look_up)

    def check(self, headers: Headers) -> None:
        """Raise `HttpError` 421 ``host_unknown`` for another name, for none and for several.

        Parameters
        ----------
        headers
            Of the request, names in lower case.
        """
        if self._allowed is None:
            return
        given = [value for name, value in headers if name == b"host"]
        if len(given) != 1 or len(given[0]) > _LONGEST or not self._is_allowed(given[0]):
            raise HttpError(
                421,
                "host_unknown",
                "this server is not asked under that name: use localhost, or have the operator add the name to "
                "allowed_hosts",
            )

    def _look_up(self, header: bytes) -> bool:
        return self._allowed is not None and host_name(header.decode("latin-1")) in self._allowed
