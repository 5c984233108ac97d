"""Read JSON bodies into the Structs that describe them, strictly; write predictions as JSON that reads back exactly."""

from __future__ import annotations

import functools
import json
import re
import sys
from typing import Any, Literal, NoReturn, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from confidential_ml.json_depth import is_too_deep
from confidential_ml.rows import FloatArray
from confidential_ml.server.errors import HttpError

__all__ = ["Cell", "decode", "float32_array", "values"]

T = TypeVar("T")

# One value of a row. JSON has no NaN and no infinities: null or these words, the same as in answers.
Cell = float | bool | None | Literal["NaN", "Infinity", "-Infinity"]

# The quote that ends a name, and its colon: never fewer matches than names, perhaps more because of quotes in texts.
_NAME_END = re.compile(rb'"[ \t\r\n]*:')
# Texts, to step over. Also unfinished ones: else a broken body would be searched again from each of its quotes.
_TEXT = re.compile(rb'("(?:[^"\\]++|\\.)*+(?:"|\\?\Z))', re.DOTALL)
_MOST_QUOTES = 1 << 22  # more than 16 MiB of rows have; so many take a second
_USUAL_RECURSION = 1000
_PLACE = re.compile(r" - at `(\$[][A-Za-z0-9_.]*)`$")
_LEAVES = frozenset({bool, int, float, str, type(None), msgspec.UnsetType})


def decode(body: bytes, kind: type[T]) -> T:
    """Read a body.

    Parameters
    ----------
    body
        One JSON document. ``NaN``, ``Infinity`` and ``-Infinity``, which Python's ``json`` and other clients write
        though JSON has none, are read as the texts of `Cell`.
    kind
        The Struct, or another type that msgspec reads.

    Raises
    ------
    HttpError
        400 ``body_malformed``: not JSON, nested too deeply, a name twice in one object, or not of this form.
    """
    # Readers stop by themselves at the recursion limit; it is safe unless the program has raised it.
    if sys.getrecursionlimit() > _USUAL_RECURSION and is_too_deep(body):
        _refuse(RecursionError())
    decoder: msgspec.json.Decoder[T] = _decoder(kind)  # type: ignore[arg-type]  # types are hashable
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        quoted = _with_quoted_constants(body)
        if quoted is None:
            _refuse(error)
        try:
            value = decoder.decode(quoted)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as second:
            _refuse(second)
    # msgspec takes the last of two equal names. Counting is much faster than reading with another reader to find them.
    if len(_NAME_END.findall(body)) != _count_names(value):
        _refuse_repeated_names(body)
    return value


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, msgspec.ValidationError):
        place = _PLACE.search(str(error))
        where = f"at {place[1]}" if place else "at the top"
        problem = f"the JSON body does not have the form that /openapi.json describes, {where}"
    elif isinstance(error, RecursionError):
        problem = "the JSON body is nested too deeply"
    else:
        problem = "the body is not JSON in UTF-8: it was cut short, changed, or is of another kind"
    raise HttpError(400, "body_malformed", problem) from None


def _with_quoted_constants(body: bytes) -> bytes | None:
    """The body with NaN and infinities as texts; None if it has none. `HttpError` if that would take long."""
    if b"NaN" not in body and b"Infinity" not in body:
        return None
    if body.count(b'"') > _MOST_QUOTES:
        raise HttpError(
            400, "body_malformed", "JSON has no NaN and no Infinity; write null, or fewer texts beside them"
        )
    parts = _TEXT.split(body)
    parts[::2] = map(_quoted, parts[::2])
    return b"".join(parts)


def _quoted(part: bytes) -> bytes:
    if b"N" not in part and b"I" not in part:
        return part
    part = part.replace(b"NaN", b'"NaN"').replace(b"Infinity", b'"Infinity"')
    return part.replace(b'-"Infinity"', b'"-Infinity"')


def _count_names(value: object) -> int:
    """How many names of objects were read, or fewer, which only costs time: never more."""
    kind = type(value)
    if kind in _LEAVES:
        return 0
    if isinstance(value, (list, tuple)):
        return 0 if not value or type(value[0]) in _LEAVES else sum(map(_count_names, value))
    if isinstance(value, dict):
        return len(value) + sum(map(_count_names, value.values()))
    fields = _defaults(kind)  # type: ignore[arg-type]  # types are hashable
    present = [part for name, default in fields if (part := getattr(value, name)) is not default]
    return len(present) + sum(map(_count_names, present))


@functools.cache
def _defaults(kind: type[Any]) -> list[tuple[str, object]]:
    """A Struct's fields and what they are if the body does not have them; without those that would be a new object."""
    fields = msgspec.structs.fields(kind)
    return [(field.name, field.default) for field in fields if field.default_factory is msgspec.NODEFAULT]


def _refuse_repeated_names(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_check_names, parse_int=float)
    except (ValueError, RecursionError) as error:  # in parts that the Struct does not have, which msgspec skips
        _refuse(error)


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise HttpError(400, "body_malformed", "the JSON body has a name twice in one object; leave one of them out")


def float32_array(numbers: npt.NDArray[Any]) -> FloatArray:
    """Round numbers to float32 as ``numpy.ndarray.astype`` does; what is too large becomes an infinity."""
    if numbers.dtype == np.float32:
        return np.require(numbers, requirements=["C", "A"])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return numbers.astype(np.float32, order="C")


def values(predictions: FloatArray) -> Any:
    """Predictions as lists of numbers for JSON.

    Each number, read as float64 and rounded to float32, has the bits of the prediction. NaN is None, infinities are
    the texts ``"Infinity"`` and ``"-Infinity"``.
    """
    if np.isfinite(predictions).all():
        return predictions.tolist()
    flat = predictions.astype(object)
    flat[np.isnan(predictions)] = None
    flat[np.isposinf(predictions)] = "Infinity"
    flat[np.isneginf(predictions)] = "-Infinity"
    return flat.tolist()
