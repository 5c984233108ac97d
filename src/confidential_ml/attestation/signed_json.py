"""Signed JSON of Intel's collateral: bounded before it is read, strict, and its exact bytes kept apart."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from confidential_ml.attestation.reason import Reason
from confidential_ml.errors import AttestationError

__all__ = ["Fields", "cut_out", "parse_object"]

_MAX_DEPTH, _MAX_CONTAINERS = 16, 20_000  # Intel's have 6, and some 500
_MAX_DIGITS = 10
# Also texts without an end, cut even in the middle of an escape: else each quote in them would be searched from anew.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_HEXADECIMAL = re.compile(r"(?:[0-9a-fA-F]{2})*+")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SPACE = " \t\r\n"


class _NotStrictError(ValueError):
    """Something that JSON allows and these documents never hold."""


class Fields:
    """The fields of a JSON object, each read as the type it must have.

    Parameters
    ----------
    values
        The object.
    what
        What errors call it.
    reason
        The reason of those errors.
    """

    def __init__(self, values: object, what: str, reason: Reason) -> None:
        self._what, self._reason = what, reason
        if not isinstance(values, dict):
            raise AttestationError(reason, f"{what} is not a JSON object")
        self._values: dict[str, Any] = values

    def names(self) -> Iterable[str]:
        """The names that are there."""
        return self._values.keys()

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return name in self._values

    def text(self, name: str) -> str:
        """A string."""
        value = self._values.get(name)
        return value if isinstance(value, str) else self._wrong(name, "text")

    def integer(self, name: str, limit: int) -> int:
        """A whole number from 0 to `limit`."""
        value = self._values.get(name)
        # Not isinstance: True is an int.
        if type(value) is not int or not 0 <= value <= limit:
            self._wrong(name, f"a whole number from 0 to {limit}")
        return value

    def hexadecimal(self, name: str, size: int | None = None) -> bytes:
        """Bytes in hexadecimal: `size` of them, if given."""
        text = self.text(name)
        if not _HEXADECIMAL.fullmatch(text) or (size is not None and len(text) != 2 * size):
            self._wrong(name, "hexadecimal" if size is None else f"{size} bytes in hexadecimal")
        return bytes.fromhex(text)

    def time(self, name: str) -> datetime.datetime:
        """A time in UTC (RFC 3339), in whole seconds."""
        text = self.text(name)
        try:
            if _TIME.fullmatch(text):
                return datetime.datetime.fromisoformat(text)
        except ValueError:
            pass
        return self._wrong(name, "a time like 2025-06-19T10:56:11Z")

    def objects(self, name: str) -> list[Fields]:
        """An array of objects."""
        value = self._values.get(name)
        if not isinstance(value, list):
            self._wrong(name, "an array")
        return [Fields(one, f"{self._what}: {name}[{index}]", self._reason) for index, one in enumerate(value)]

    def inner(self, name: str) -> Fields:
        """An object."""
        return Fields(self._values.get(name), f"{self._what}: {name}", self._reason)

    def texts(self, name: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """An array of strings that match, which may be absent."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and pattern.fullmatch(one) for one in value):
            self._wrong(name, f"an array of texts like {pattern.pattern}")
        return tuple(value)

    def _wrong(self, name: str, expected: str) -> NoReturn:
        raise AttestationError(self._reason, f"{self._what}: {name} must be {expected}")


def parse_object(text: str, what: str, reason: Reason) -> Fields:
    """Read a JSON object: nothing twice, no fractions, no NaN, nothing deep.

    Parameters
    ----------
    text
        The document; its size is bounded by the caller.
    what, reason
        For errors.

    Raises
    ------
    AttestationError
        With `reason`, if it is not such a document.
    """
    problem = "it is nested too deeply or holds too much"
    if _is_small(text):
        try:
            return Fields(_read(text), what, reason)
        except _NotStrictError as error:
            problem = str(error)
        except (ValueError, RecursionError):
            problem = "it is not JSON"
    raise AttestationError(reason, f"{what} cannot be read: {problem}")


def cut_out(document: str, name: str, what: str, reason: Reason) -> str:
    """The exact text of one object inside a JSON object, as it was signed.

    Parameters
    ----------
    document
        For example an answer of Intel's PCS: ``{"tcbInfo":{...},"signature":"..."}``.
    name
        Which object: ``"tcbInfo"``.
    what, reason
        For errors.

    Raises
    ------
    AttestationError
        With `reason`, if the document cannot be read strictly or has no such object.
    """
    fields = parse_object(document, what, reason)
    fields.inner(name)
    # The document is known to be strict JSON with this name once, so walking its members finds it.
    decoder = json.JSONDecoder()
    position = document.index("{") + 1
    while True:
        key, position = decoder.raw_decode(document, _past_space(document, position))
        start = _past_space(document, _past_space(document, position) + 1)  # past the colon
        _, end = decoder.raw_decode(document, start)
        if key == name:
            return document[start:end]
        position = _past_space(document, end) + 1  # past the comma


def _past_space(text: str, position: int) -> int:
    while text[position] in _SPACE:
        position += 1
    return position


def _is_small(text: str) -> bool:
    depth = containers = 0
    for token in _TOKEN.finditer(text):
        character = token[0][0]
        if character in "[{":
            depth, containers = depth + 1, containers + 1
            if depth > _MAX_DEPTH or containers > _MAX_CONTAINERS:
                return False
        elif character in "]}":
            depth -= 1
    return True


def _read(text: str) -> object:
    return json.loads(
        text, object_pairs_hook=_unique, parse_float=_no_fraction, parse_constant=_no_fraction, parse_int=_short_integer
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _NotStrictError("a key appears twice in one object")
    return result


def _no_fraction(_text: str) -> NoReturn:
    raise _NotStrictError("it holds a number that is not whole")


def _short_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _NotStrictError("it holds a number with too many digits")
    return int(text)
