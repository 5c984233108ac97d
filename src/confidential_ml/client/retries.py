"""What is sent again, after which failures, how often and how long (an `Again` of `remote_session`)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from confidential_ml.client.errors import HttpStatusError, ReplyLostError, UnreachableError
from confidential_ml.errors import InvalidInputError, RemoteBusyError, RemoteError
from confidential_ml.protocol import Kind
from confidential_ml.remote_session import Pause, Steps

__all__ = ["Retries"]

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_MAX_RETRIES, _MAX_SECONDS = 100, 86400.0


class Retries:
    """Attempts a message again where that is safe and may help.

    Every attempt is encrypted anew: the same bytes twice are a replay, which the enclave cannot read.

    Parameters
    ----------
    count
        Attempts after the first.
    deadline
        Seconds from the first attempt after which none begins.
    monotonic
        Seconds that never go back.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    """

    def __init__(self, count: int, deadline: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        if type(count) is not int or not 0 <= count <= _MAX_RETRIES:
            raise InvalidInputError(f"retries must be a whole number from 0 to {_MAX_RETRIES}")
        self._count = count
        self._deadline = checked_seconds(deadline, "deadline")
        self._monotonic = monotonic

    def again(self, attempt: Callable[[], Steps[Any]], kind: Kind | None, *, repeat: bool = False) -> Steps[Any]:
        """Attempt and attempt again.

        Parameters
        ----------
        attempt
            Makes the steps of one attempt.
        kind
            Of the request. One of kind 2 is not attempted again once it may have been received: each that is received
            stores a sealed model.
        repeat
            Attempt those too.
        """
        end = self._monotonic() + self._deadline
        number = 0
        while True:
            try:
                return (yield from attempt())
            except RemoteError as error:
                wait = max(_backoff(number), error.retry_after if isinstance(error, HttpStatusError) else 0.0)
                may_help = _nothing_was_done(error) or (
                    isinstance(error, ReplyLostError) and (repeat or kind is not Kind.PROVISION)
                )
                if not may_help or number == self._count or self._monotonic() + wait > end:
                    raise
            yield Pause(wait)
            number += 1


def _nothing_was_done(error: RemoteError) -> bool:
    return isinstance(error, (RemoteBusyError, UnreachableError))


def _backoff(attempt: int) -> float:
    """Seconds: doubled each time, and from half of it on by chance, lest many clients come back as one."""
    return random.SystemRandom().uniform(0.5, 1.0) * min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT)


def checked_seconds(seconds: object, name: str) -> float:
    """Return seconds above zero up to a day, or raise :class:`InvalidInputError`."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _MAX_SECONDS:
        raise InvalidInputError(f"{name} must be seconds, above 0 and at most {_MAX_SECONDS:.0f}")
    return float(seconds)
