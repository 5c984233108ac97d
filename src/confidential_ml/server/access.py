"""Who may do what: bearer tokens and their roles, and which routes in clear are open (docs/http.md 4, 5)."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from confidential_ml.server.errors import HttpError

if TYPE_CHECKING:
    from confidential_ml.server.settings import Role, ServerSettings

__all__ = ["Access", "Clear", "Endpoint", "Headers", "guarded"]

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
Clear: TypeAlias = Literal["cleartext_predict", "cleartext_upload"]

_SCHEME = b"bearer "


class Access:
    """Decides about requests. The application has one, as ``app.state.access``."""

    def __init__(self, settings: ServerSettings) -> None:
        self._anonymous = frozenset(settings.unsafe.anonymous)
        self._open = frozenset(
            name for name in ("cleartext_predict", "cleartext_upload") if getattr(settings.unsafe, name)
        )
        self._digests: dict[str, tuple[bytes, ...]] = {
            role: tuple(bytes.fromhex(text.removeprefix("sha256:")) for text in getattr(settings.tokens, role))
            for role in ("owner", "client", "metrics")
        }

    def check(self, headers: Headers, role: Role, clear: Clear | None = None, *, told: str | None = None) -> None:
        """Let a request pass, or raise.

        Parameters
        ----------
        headers
            Of the request, names in lower case.
        role
            Who may make it.
        clear
            The setting that opens its route, if that is in clear.
        told
            Which roles a refusal names, if what the request needs depends on more than its head; by default `role`.

        Raises
        ------
        HttpError
            403 ``route_closed``, 401 ``token_wrong``, 403 ``role_wrong``.
        """
        if clear is not None and clear not in self._open:
            raise HttpError(
                403,
                "route_closed",
                f"this route is in clear and closed; use POST /confidential, or have the operator set unsafe.{clear}",
            )
        if role in self._anonymous:
            return
        roles = self._roles_of(headers)
        if role in roles or (role == "client" and "owner" in roles):
            return
        if roles:
            raise HttpError(403, "role_wrong", f"this token is not of the role {role}; use one that is")
        raise HttpError(
            401,
            "token_wrong",
            f"this needs the token of a role {told or role}, in the header Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )

    def _roles_of(self, headers: Headers) -> frozenset[str]:
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or given[0][: len(_SCHEME)].lower() != _SCHEME:
            return frozenset()
        digest = hashlib.sha256(given[0][len(_SCHEME) :].strip()).digest()
        # Every one is compared: the time tells nothing of which of them it was.
        return frozenset(
            role for role, known in self._digests.items() if sum(hmac.compare_digest(digest, one) for one in known)
        )


def guarded(
    endpoint: Endpoint, *, role: Role | Literal["open"], clear: Clear | None = None, told: str | None = None
) -> Endpoint:
    """An endpoint that only requests reach which its role and the settings allow; see :meth:`Access.check`."""
    if role == "open":
        return endpoint

    @functools.wraps(endpoint)
    async def guarded_endpoint(request: Request) -> Response:
        request.scope["app"].state.access.check(request.scope["headers"], role, clear, told=told)
        return await endpoint(request)

    return guarded_endpoint
