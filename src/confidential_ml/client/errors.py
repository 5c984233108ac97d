"""What can go wrong between client and server, told apart by whether the enclave may have had the request."""

from __future__ import annotations

from confidential_ml.errors import RemoteBusyError, RemoteError

__all__ = ["HttpStatusError", "ReplyLostError", "ServerBusyError", "UnreachableError"]


class UnreachableError(RemoteError):
    """There was no connection: nothing was sent."""


class ReplyLostError(RemoteError):
    """Something was sent and no whole reply came back: the enclave may have answered it, or may never have had it."""


class HttpStatusError(RemoteError):
    """The server answered with another HTTP status than 200.

    Attributes
    ----------
    status
        The HTTP status.
    code
        The server's code (docs/http.md 6), empty if it gave none; stable, for programs.
    retry_after
        Seconds that the server asks to wait, or 0.
    """

    def __init__(self, sentence: str, *, status: int, code: str, retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class ServerBusyError(HttpStatusError, RemoteBusyError):
    """HTTP 503: the server has no room for the request now and did not take it."""
