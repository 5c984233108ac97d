"""How much work is taken on at once: requests being handled, and bytes of bodies held meanwhile (docs/http.md 4).

Everything here is called from the event loop alone and needs no lock.
"""

from __future__ import annotations

from confidential_ml.server.errors import HttpError

__all__ = ["Admission", "Usage"]

RETRY_AFTER_SECONDS = 1


class Usage:
    """What one request takes up."""

    __slots__ = ("byte_count", "is_admitted")

    def __init__(self) -> None:
        self.byte_count = 0
        self.is_admitted = False


class Admission:
    """Counts what is taken up; refuses what is too much.

    A request takes a place only when its body has been read, so that slow clients cannot keep others out.

    Parameters
    ----------
    max_requests
        Requests handled at once.
    max_bytes
        Bytes of bodies held at once.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def hold(self, usage: Usage, count: int) -> None:
        """Hold so many bytes more; `HttpError` 503 ``busy`` if they are too many."""
        if self.bytes + count > self._max_bytes:
            raise busy()
        self.bytes += count
        usage.byte_count += count

    def admit(self, usage: Usage) -> None:
        """Take a place; `HttpError` 503 ``busy`` if there is none. Does nothing the second time."""
        if usage.is_admitted:
            return
        if self.requests >= self._max_requests:
            raise busy()
        self.requests += 1
        usage.is_admitted = True

    def has_room(self, count: int) -> bool:
        """Whether a request with a body of so many bytes would be taken on now."""
        return self.requests < self._max_requests and self.bytes + count <= self._max_bytes

    def leave(self, usage: Usage) -> None:
        """Give everything back."""
        self.bytes -= usage.byte_count
        self.requests -= usage.is_admitted
        usage.byte_count, usage.is_admitted = 0, False


def busy() -> HttpError:
    """What a request is refused with for which there is no room now."""
    return HttpError(
        503,
        "busy",
        "the server has no room for this now; send it again later",
        {"Retry-After": f"{RETRY_AFTER_SECONDS}"},
    )
