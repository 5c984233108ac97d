"""State that a forked child makes anew: a lock of its parent's may be held by a thread that does not exist in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PerProcess"]

T = TypeVar("T")

_fork_count = 0


def _count_fork() -> None:
    global _fork_count
    _fork_count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class PerProcess(Generic[T]):
    """An object for this process, and another for each process forked from it.

    Parameters
    ----------
    make
        Makes one. Of several made at once by the first threads of a process one is kept.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # The parent's stays in here: to destroy it might need the lock in it.
        self._made = {_fork_count: make()}

    def get(self) -> T:
        """The object of this process."""
        found = self._made.get(_fork_count)
        # setdefault is one step, even for threads.
        return self._made.setdefault(_fork_count, self._make()) if found is None else found
