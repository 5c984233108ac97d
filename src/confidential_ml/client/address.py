"""Where the server is, and the token for it: what may be sent whereto."""

from __future__ import annotations

import re
import urllib.parse

from confidential_ml.attestation.http_get import is_loopback
from confidential_ml.errors import InvalidInputError

__all__ = ["checked_address", "checked_token"]

# Nothing that a parser and a server could read differently; a user and password would end up in logs.
_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*+)?")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")  # b64token of RFC 6750


def checked_address(url: object, *, has_token: bool, allow_plain_http: bool) -> str:
    """Return a server's address without a slash at its end.

    Raises
    ------
    InvalidInputError
        If it is none; and for http:// to another machine with a token, unless that is allowed: rows are encrypted to
        the enclave on any wire, a token would be read by everybody on it.
    """
    if not isinstance(url, str):
        raise InvalidInputError(f"url must be text, not {type(url).__name__}")
    if not _URL.fullmatch(url):
        raise InvalidInputError("url must be like https://host:port, without user, query and fragment, in ASCII")
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        on_this_machine = is_loopback(host)
        host.encode("idna")
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise InvalidInputError(f"url has no host or port that can be: {url}") from None
    if parts.path.rstrip("/").endswith("/confidential"):
        raise InvalidInputError("url must be the address of the server, without its route /confidential")
    if parts.scheme == "http" and has_token and not on_this_machine and not allow_plain_http:
        raise InvalidInputError(
            f"a token would cross the network readable to {url}: use https://, or say allow_plain_http=True"
        )
    return url.rstrip("/")


def checked_token(token: object) -> str | None:
    """Return a bearer token or None, or raise :class:`InvalidInputError`, which never shows it."""
    if token is not None and (not isinstance(token, str) or not _TOKEN.fullmatch(token)):
        raise InvalidInputError("token must be a bearer token: letters, digits and . _ ~ + / - alone")
    return token
