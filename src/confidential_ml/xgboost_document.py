"""Typed access to a parsed XGBoost document; every error says where in the document, and shows no values."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from confidential_ml import strict_json
from confidential_ml.errors import ModelFormatError

__all__ = [
    "Document",
    "DoubleRoundingError",
    "Floats",
    "Integers",
    "check_length",
    "count_in",
    "flags",
    "integer_array_in",
    "integers",
    "kind_of",
    "member_of",
    "number_array_in",
    "numbers",
    "object_in",
    "string_in",
]

_WHOLE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class DoubleRoundingError(Exception):
    """A decimal may have come out wrong as float32: the document must be read again, exactly."""


@dataclass(frozen=True)
class Document:
    """A parsed document and what its numbers went through."""

    root: Any
    has_decimals: bool
    """Numbers are float64 that were rounded from decimals (JSON)."""

    def float32(self, values: npt.NDArray[Any]) -> Floats:
        """Round numbers of the document to float32; `DoubleRoundingError` if that would be the second rounding."""
        if self.has_decimals and strict_json.contains_float32_midpoint(values):
            raise DoubleRoundingError
        with np.errstate(over="ignore", invalid="ignore"):  # not finite is refused where it matters
            return values.astype(np.float32)


def kind_of(value: object) -> str:
    """Say what a value is, without its content."""
    names = {dict: "an object", list: "an array", np.ndarray: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def object_in(parent: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return the object of that name."""
    value = member_of(parent, name, where)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}.{name}: expected an object, found {kind_of(value)}")
    return value


def member_of(parent: dict[str, Any], name: str, where: str) -> Any:
    """Return the value of that name, of any kind."""
    if name not in parent:
        raise ModelFormatError(f"{where}: {name} is missing; the file is damaged or no XGBoost model")
    return parent[name]


def string_in(parent: dict[str, Any], name: str, where: str) -> str:
    """Return the string of that name."""
    value = member_of(parent, name, where)
    if not isinstance(value, str):
        raise ModelFormatError(f"{where}.{name}: expected a string, found {kind_of(value)}")
    return value


def count_in(parent: dict[str, Any], name: str, where: str, default: int | None = None) -> int:
    """Read a whole number, which XGBoost keeps as a string."""
    if default is not None and name not in parent:
        return default
    text = string_in(parent, name, where)
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ModelFormatError(f"{where}.{name}: not a whole number of at most 18 digits")
    return int(text)


def integers(value: object) -> Integers:
    """Make an int64 array of an array of the document; TypeError or OverflowError if it is something else."""
    if isinstance(value, list) and bool in set(map(type, value)):
        raise TypeError
    return flags(value)


def flags(value: object) -> Integers:
    """Like `integers`, but a list may hold true and false for 1 and 0, as XGBoost 1.0 wrote them."""
    # array.array checks every element at C speed: it refuses floats, strings, nested lists and too large integers.
    if isinstance(value, list):
        return np.asarray(array("q", value), np.int64)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int64)
    raise TypeError


def numbers(value: object) -> npt.NDArray[Any]:
    """Make a float array of an array of the document; TypeError or OverflowError if it is something else."""
    if isinstance(value, list) and bool not in set(map(type, value)):
        return np.asarray(array("d", value), np.float64)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value
    raise TypeError


def integer_array_in(parent: dict[str, Any], name: str, where: str) -> Integers:
    """Return the array of integers of that name."""
    value = member_of(parent, name, where)
    try:
        return integers(value)
    except (TypeError, OverflowError):
        raise ModelFormatError(f"{where}.{name}: not an array of integers") from None


def number_array_in(parent: dict[str, Any], name: str, where: str, document: Document) -> Floats:
    """Return the array of that name as finite float32."""
    value = member_of(parent, name, where)
    try:
        array_of_numbers = numbers(value)
    except (TypeError, OverflowError):
        raise ModelFormatError(f"{where}.{name}: not an array of numbers") from None
    result = document.float32(array_of_numbers)
    not_finite = np.flatnonzero(~np.isfinite(result))
    if len(not_finite):
        raise ModelFormatError(f"{where}.{name}[{not_finite[0]}]: not a finite float32")
    return result


def check_length(what: str, length: int, expected: int) -> None:
    """Refuse an array of another length."""
    if length != expected:
        raise ModelFormatError(f"{what}: {length} elements, must be {expected}; the file was cut short or changed")
