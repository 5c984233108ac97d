"""The record of what was checked, from which `explain` is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from confidential_ml.errors import AttestationError

__all__ = ["Steps"]


class Steps:
    """The checks that passed so far, one line each."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lines = list(lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """What was recorded, in order."""
        return tuple(self._lines)

    def ok(self, text: str) -> None:
        """Record a check that passed."""
        self._lines.append(f"ok      {text}")

    def extend(self, lines: Iterable[str]) -> None:
        """Add what an earlier run of the same checks has recorded."""
        self._lines.extend(lines)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Hand what was recorded to an :class:`AttestationError` that comes by."""
        try:
            yield
        except AttestationError as error:
            error.steps = (*self._lines, *error.steps)
            raise
