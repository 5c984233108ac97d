"""The most frequent body of ``infer``, one row of FP32 in one input, read without what the general form costs."""

from __future__ import annotations

import re
from array import array
from typing import Literal

import msgspec
import numpy as np

from confidential_ml.rows import FloatArray

__all__ = ["SMALL_BODY", "read_single_row"]

SMALL_BODY = 1 << 12
_MOST_FEATURES = 64  # above, numpy looks at the numbers faster
# Of the five names, which are all needed, and of the two texts; an id makes one name and one text more.
_QUOTES, _QUOTES_OF_ID = 14, 4
_SMALLEST_NORMAL_EXPONENT = 1023 - 126  # of float32, as float64 have it


# Of one row, or of none that has to be read for that; to read many rows in vain would take long.
_ONE_ROW = re.compile(rb'"shape"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*1[ \t\r\n]*,')


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: Literal["FP32"]
    data: list[float]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Tensor]
    id: str | msgspec.UnsetType = msgspec.UNSET


_DECODER = msgspec.json.Decoder(_Body)


def read_single_row(body: bytes, n_features: int) -> tuple[FloatArray, str | msgspec.UnsetType] | None:
    """Read a body that has nothing else in it.

    Parameters
    ----------
    body
        JSON.
    n_features
        Columns of the row.

    Returns
    -------
    tuple of numpy.ndarray and str
        The row, float32, shape (1, `n_features`), and the id; None for every body that has to be read with care, also
        for those that are refused then.
    """
    if len(body) > SMALL_BODY or not _ONE_ROW.search(body):
        return None
    try:
        found = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if len(found.inputs) != 1:
        return None
    tensor = found.inputs[0]
    # With so many quotes no name is there twice: msgspec would take the last.
    quotes = _QUOTES if found.id is msgspec.UNSET else _QUOTES + _QUOTES_OF_ID
    is_plain = body.count(b'"') == quotes and tensor.shape == [1, n_features] and len(tensor.data) == n_features
    if not is_plain or n_features > _MOST_FEATURES or _could_round_twice(tensor.data):
        return None
    # `array` rounds like numpy, but to infinity without a warning.
    return np.frombuffer(array("f", tensor.data), dtype=np.float32).reshape(1, -1), found.id


def _could_round_twice(numbers: list[float]) -> bool:
    """Whether a number lies halfway between two float32, or is so small that this is harder to tell."""
    for bits in array("Q", array("d", numbers).tobytes()):
        if bits & 0x1FFFFFFF == 0x10000000 or 0 < (bits >> 52 & 0x7FF) < _SMALLEST_NORMAL_EXPONENT:
            return True
    return False
