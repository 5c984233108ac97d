"""Read Universal Binary JSON, the subset that XGBoost writes; strict and bounded.

Integers and floats are big-endian. A strongly typed array becomes a numpy array in native byte order; every count is
compared with the bytes that are left before anything is allocated for it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from confidential_ml.document_limits import check_counts
from confidential_ml.errors import ModelFormatError

__all__ = ["MAX_DEPTH", "parse"]

MAX_DEPTH = 32
"""Nested objects and arrays; XGBoost's own models need nine."""

_TYPED_ARRAYS: dict[int, np.dtype[Any]] = {
    ord("i"): np.dtype(">i1"),
    ord("U"): np.dtype(">u1"),
    ord("I"): np.dtype(">i2"),
    ord("l"): np.dtype(">i4"),
    ord("L"): np.dtype(">i8"),
    ord("d"): np.dtype(">f4"),
    ord("D"): np.dtype(">f8"),
}
_NUMBERS = {
    ord("i"): struct.Struct(">b"),
    ord("U"): struct.Struct(">B"),
    ord("C"): struct.Struct(">B"),  # XGBoost reads a char as an integer
    ord("I"): struct.Struct(">h"),
    ord("l"): struct.Struct(">i"),
    ord("L"): struct.Struct(">q"),
    ord("d"): struct.Struct(">f"),
    ord("D"): struct.Struct(">d"),
}
_NATIVE = {dtype: dtype.newbyteorder("=") for dtype in _TYPED_ARRAYS.values()}
_CONSTANTS: dict[int, bool | None] = {ord("Z"): None, ord("T"): True, ord("F"): False}
_LENGTH = struct.Struct(">cq")
_ARRAY_HEADER = struct.Struct(">cBccq")

_OBJECT, _OBJECT_END = ord("{"), ord("}")
_ARRAY, _ARRAY_END = ord("["), ord("]")
_TYPE, _COUNT = ord("$"), ord("#")
_STRING = ord("S")


def parse(data: bytes) -> Any:
    """Read one UBJSON value that takes up all of `data`.

    Parameters
    ----------
    data
        The document.

    Returns
    -------
    object
        dict, list, `numpy.ndarray`, str, int, float, bool or None.

    Raises
    ------
    ModelFormatError
        The document is cut short, is nested too deeply, names a key twice, uses a construct XGBoost does not write,
        goes on after its end, or is over a limit of `document_limits`.
    """
    reader = _Reader(data)
    value = reader.value(reader.byte(), 0)
    if reader.position != len(data):
        raise ModelFormatError(
            f"UBJSON: {len(data) - reader.position} bytes are left over after the document; the file was changed"
        )
    return value


class _Reader:
    __slots__ = ("_containers", "_data", "_strings", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._containers = 0
        self._strings = 0
        self.position = 0

    def value(self, marker: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH}")
        if marker == _ARRAY:
            return self._array(depth)
        if marker == _OBJECT:
            return self._object(depth)
        if marker == _STRING:
            return self._text()
        if marker in _NUMBERS:
            number = _NUMBERS[marker]
            return number.unpack_from(self._data, self._advance(number.size))[0]
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker == ord("H"):
            raise self._error("high-precision numbers are not supported, by XGBoost neither")
        raise self._error(f"0x{marker:02x} begins no value")

    def byte(self) -> int:
        return self._data[self._advance(1)]

    def _advance(self, size: int) -> int:
        """Pass over the next `size` bytes and return where they begin."""
        begin = self.position
        if size > len(self._data) - begin:
            raise self._error(f"{size} bytes are needed and {len(self._data) - begin} are left; the file was cut short")
        self.position = begin + size
        return begin

    def _length(self) -> int:
        marker, length = _LENGTH.unpack_from(self._data, self._advance(_LENGTH.size))
        if marker != b"L":
            raise self._error("a length must be of type L")
        if length < 0:
            raise self._error("a length is negative")
        return int(length)

    def _count(self, containers: int, strings: int) -> None:
        self._containers += containers
        self._strings += strings
        check_counts("UBJSON", self._containers, self._strings)

    def _text(self) -> str:
        self._count(0, 1)
        size = self._length()
        begin = self._advance(size)
        try:
            return self._data[begin : begin + size].decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a string is not UTF-8") from None

    def _object(self, depth: int) -> dict[str, Any]:
        self._count(1, 0)
        result: dict[str, Any] = {}
        while self._peek() != _OBJECT_END:
            key = self._text()
            if key in result:
                raise self._error(f"key {key[:60]!a} appears twice in one object")
            result[key] = self.value(self.byte(), depth + 1)
        self.position += 1
        return result

    def _array(self, depth: int) -> Any:
        self._count(1, 0)
        marker = self._peek()
        if marker == _TYPE:
            return self._typed_array()
        if marker == _COUNT:
            self.position += 1
            count = self._length()
            # An element takes at least a byte, so a count beyond the end is refused before the list is made.
            if count > len(self._data) - self.position:
                raise self._error(f"an array of {count} elements does not fit into the rest of the file")
            return [self.value(self.byte(), depth + 1) for _ in range(count)]
        elements = []
        while self._peek() != _ARRAY_END:
            elements.append(self.value(self.byte(), depth + 1))
        self.position += 1
        return elements

    def _typed_array(self) -> np.ndarray[Any, Any]:
        _, kind, count_marker, length_marker, count = _ARRAY_HEADER.unpack_from(
            self._data, self._advance(_ARRAY_HEADER.size)
        )
        dtype = _TYPED_ARRAYS.get(kind)
        if dtype is None:
            raise self._error("unknown element type of an array")
        if count_marker != b"#" or length_marker != b"L" or count < 0:
            raise self._error("an array with a type must have a count")
        begin = self._advance(count * dtype.itemsize)
        elements: np.ndarray[Any, Any] = np.frombuffer(self._data, dtype, count, begin)
        return elements.astype(_NATIVE[dtype], copy=False)

    def _peek(self) -> int:
        if self.position >= len(self._data):
            raise self._error("an object or array does not end; the file was cut short")
        return self._data[self.position]

    def _error(self, problem: str) -> ModelFormatError:
        return ModelFormatError(f"UBJSON, byte {self.position}: {problem}")
