"""Read JSON strictly, and its decimals as float32 without rounding twice.

Python's reader rounds a decimal to float64; XGBoost rounds it to float32. Rounding the float64 again gives the same
float32 unless the float64 lies exactly halfway between two float32. So the fast reader is used first, and only if such
a midpoint turns up is the document read again with `exact_float32=True`.
"""

from __future__ import annotations

import functools
import json
import math
import re
import secrets
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from confidential_ml.document_limits import check_counts
from confidential_ml.errors import ModelFormatError
from confidential_ml.json_depth import MAX_DEPTH, is_too_deep

__all__ = ["ArrayLength", "contains_float32_midpoint", "float32_from_decimal", "parse"]

_SMALLEST_EXPONENT = -149  # the smallest float32 is 2**-149
_FLOAT32_BITS = 24
_SAFE_INTEGER_DIGITS = 15  # integers this short are float64 numbers
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_NUMBERS = re.compile(rb"(?:%b,)*+%b(?=\])" % (_NUMBER, _NUMBER))


class ArrayLength(int):
    """The length of an array of numbers, in its place."""


def parse(data: bytes, *, exact_float32: bool = False, unread: tuple[str, ...] = ()) -> Any:
    """Read one JSON document.

    Parameters
    ----------
    data
        The document in UTF-8.
    exact_float32
        Round each decimal straight to float32 (the numbers still come as Python floats); several times slower.
    unread
        Names of arrays of numbers whose values the caller does not look at: they may come as an `ArrayLength`, which
        saves a third of the time for a large model.

    Returns
    -------
    object
        dict, list, str, int, float, bool or None. `NaN` and `Infinity`, which old XGBoost wrote, become floats.

    Raises
    ------
    ModelFormatError
        The document is not JSON or not UTF-8, is nested too deeply, names a key twice, or is over a limit of
        `document_limits`.
    """
    # Brackets and quotes inside strings count too; no model has that many.
    check_counts("JSON", data.count(b"[") + data.count(b"{"), data.count(b'"') // 2)
    if is_too_deep(data):
        raise ModelFormatError(f"JSON: nested too deeply, deeper than {MAX_DEPTH}; this is no model")
    if unread:
        mark = secrets.token_hex(16)  # no document can hold a string that begins with it
        try:
            return _parse(_with_lengths(data, unread, mark), exact_float32, mark)
        except ModelFormatError:
            pass  # read it as it is, for an error that names the place in the caller's document
    return _parse(data, exact_float32)


def _parse(data: bytes, exact_float32: bool, mark: str | None = None) -> Any:
    parse_float = float32_from_decimal if exact_float32 else None
    parse_int = _exact_integer if exact_float32 else None
    hook = _unique if mark is None else functools.partial(_unique_with_lengths, mark)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=hook, parse_float=parse_float, parse_int=parse_int)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at character {error.pos}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError:  # Python's limit on the digits of an integer
        problem = "an integer has too many digits"
    # Raised out here, so that no exception carries the document along as JSONDecodeError does.
    raise ModelFormatError(f"JSON: {problem}; the file was cut short or changed")


def _with_lengths(data: bytes, names: tuple[str, ...], mark: str) -> bytes:
    """Replace the arrays of numbers of these names by a string, the mark and their lengths."""
    spans = sorted(span for name in names for span in _number_arrays(data, b'"%s":[' % name.encode()))
    parts, end = [], 0
    for start, stop in spans:
        parts += [data[end:start], b'"%s%d"' % (mark.encode(), data.count(b",", start, stop) + 1)]
        end = stop
    parts.append(data[end:])
    return b"".join(parts)


def _number_arrays(data: bytes, key: bytes) -> Iterator[tuple[int, int]]:
    """Where arrays under a key start and stop, if they hold numbers only and no spaces."""
    found = data.find(key)
    while found >= 0:
        start = found + len(key)
        numbers = _NUMBERS.match(data, start)
        # After a backslash the quote is not the beginning of a key but inside one.
        if numbers and data[found - 1 : found] != b"\\":
            yield start - 1, numbers.end() + 1
        found = data.find(key, numbers.end() if numbers else start)


def contains_float32_midpoint(values: npt.NDArray[np.float64]) -> bool:
    """Whether some value lies exactly halfway between two adjacent float32.

    Parameters
    ----------
    values
        Numbers; NaN and infinity are no midpoints.

    Returns
    -------
    bool
    """
    bits = values.view(np.uint64)
    if bool(np.any((bits & np.uint64(0x1FFFFFFF)) == np.uint64(0x10000000))):
        return True
    # Below 2**-126 float32 are 2**-149 apart. Few values are that small, and scaling by a power of two is exact.
    small = values[np.abs(values) < 2.0**-126] * 2.0**149
    return bool(np.any(small - np.floor(small) == 0.5))


def float32_from_decimal(text: str) -> float:
    """Round a decimal correctly to float32, ties to even.

    Parameters
    ----------
    text
        The decimal, in a form that `float` reads.

    Returns
    -------
    float
        A float32 number, or infinity.
    """
    nearest = float(text)
    if not math.isfinite(nearest):
        return nearest
    exponent = max(math.frexp(nearest)[1] - _FLOAT32_BITS, _SMALLEST_EXPONENT)
    scaled = math.ldexp(nearest, -exponent)  # in units of the float32 spacing; exact
    below = math.floor(scaled)
    rounded = round(scaled)  # ties to even
    if scaled - below == 0.5:
        # The float64 is a midpoint; the decimal need not be, and lies on the side where its difference points.
        exact, midpoint = Decimal(text), Decimal(nearest)
        if exact != midpoint:
            rounded = below + 1 if exact > midpoint else below
    result = math.copysign(math.ldexp(rounded, exponent), nearest)
    return result if abs(result) < 2.0**128 else math.copysign(math.inf, nearest)


def _exact_integer(text: str) -> int | float:
    return int(text) if len(text) <= _SAFE_INTEGER_DIGITS else float32_from_decimal(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ModelFormatError(f"JSON: key {key[:60]!a} appears twice in one object; the file was changed")
            seen.add(key)
    return result


def _unique_with_lengths(mark: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = _unique(pairs)
    for key, value in pairs:
        if isinstance(value, str) and value.startswith(mark):
            result[key] = ArrayLength(value.removeprefix(mark))
    return result
