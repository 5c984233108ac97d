"""The UBJSON reader: what XGBoost writes comes back, and nothing malformed gets past or crashes it."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confidential_ml import ubjson
from confidential_ml.errors import ModelFormatError

FORMATS = {"i": "i1", "U": "u1", "I": "i2", "l": "i4", "L": "i8", "d": "f4", "D": "f8"}


def length(count: int) -> bytes:
    return b"L" + struct.pack(">q", count)


def text(value: str) -> bytes:
    encoded = value.encode()
    return length(len(encoded)) + encoded


def typed(kind: str, values: Any) -> bytes:
    array = np.asarray(values, ">" + FORMATS[kind])
    return b"[$" + kind.encode() + b"#" + length(array.size) + array.tobytes()


def write(value: object, *, counted: bool = True) -> bytes:
    """Write a value as XGBoost would; arrays with a count, or up to a closing bracket."""
    if value is None:
        return b"Z"
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"D" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"S" + text(value)
    if isinstance(value, dict):
        return b"{" + b"".join(text(key) + write(v, counted=counted) for key, v in value.items()) + b"}"
    assert isinstance(value, list)
    elements = b"".join(write(v, counted=counted) for v in value)
    return b"[#" + length(len(value)) + elements if counted else b"[" + elements + b"]"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(values, st.booleans())
def test_values_come_back(value: object, counted: bool) -> None:
    result = ubjson.parse(write(value, counted=counted))
    assert result == value
    assert repr(result) == repr(value)  # True is not 1, 1 is not 1.0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"i\xff", -1),
        (b"U\xff", 255),
        (b"C\x41", 65),
        (b"I\xff\xfe", -2),
        (b"l\x80\x00\x00\x00", -(2**31)),
        (b"L\x00\x00\x00\x01\x00\x00\x00\x00", 2**32),
        (b"d\x3f\x80\x00\x00", 1.0),
        (b"D\xbf\xf0\x00\x00\x00\x00\x00\x00", -1.0),
        (b"[]", []),
        (b"{}", {}),
    ],
)
def test_scalars_are_big_endian(data: bytes, expected: object) -> None:
    assert ubjson.parse(data) == expected


@pytest.mark.parametrize(("kind", "dtype"), FORMATS.items())
def test_typed_arrays_become_native_arrays(kind: str, dtype: str) -> None:
    for expected in ([], [1, 2, 100]):
        result: npt.NDArray[Any] = ubjson.parse(typed(kind, expected))
        assert result.tolist() == expected
        assert result.dtype == np.dtype(dtype)
        assert result.dtype.isnative


BAD = [
    (b"", "cut short"),
    (b"N", "begins no value"),
    (b"\x00", "begins no value"),
    (b"]", "begins no value"),
    (b"H" + text("1"), "high-precision"),
    (b"ZZ", "1 bytes are left over"),
    (b"l\x00", "cut short"),
    (b"S", "cut short"),
    (b"Si\x01a", "cut short|type L"),
    (b"Si\x01aaaaaaaaaaaaaa", "type L"),
    (b"S" + length(-1), "negative"),
    (b"S" + length(2) + b"a", "cut short"),
    (b"S" + length(2**63 - 1) + b"a", "cut short"),
    (b"S" + length(1) + b"\xff", "not UTF-8"),
    (b"{", "does not end"),
    (b"{" + text("a"), "cut short"),
    (b"{" + text("a") + b"Z", "does not end"),
    (b"{" + length(1) + b"\xffZ}", "not UTF-8"),
    (b"{" + text("a") + b"Z" + text("a") + b"Z}", "key 'a' appears twice"),
    (b"[", "does not end"),
    (b"[Z", "does not end"),
    (b"[#" + length(-1), "negative"),
    (b"[#" + length(3) + b"ZZ", "does not fit"),
    (b"[#" + length(2**62) + b"ZZ", "does not fit"),
    (b"[$", "cut short"),
    (b"[$S#" + length(0), "unknown element type"),
    (b"[$dL" + length(0), "must have a count"),
    (b"[$d#" + length(-1), "must have a count"),
    (b"[$d#" + length(2) + bytes(7), "cut short"),
    (b"[$L#" + length(2**61) + bytes(8), "cut short"),  # 2^61 elements of 8 bytes are 2^64 bytes
    (b"[$d#i\x01" + bytes(20), "must have a count"),
    (b"[" * 100_000, "nested deeper"),
    ((b"{" + text("a")) * 100_000, "nested deeper"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_malformed_documents_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        ubjson.parse(data)


def test_depth_limit_is_exact() -> None:
    for depth, accepted in ((ubjson.MAX_DEPTH, True), (ubjson.MAX_DEPTH + 1, False)):
        data = b"[" * depth + b"Z" + b"]" * depth
        if accepted:
            ubjson.parse(data)
        else:
            with pytest.raises(ModelFormatError, match="nested deeper"):
                ubjson.parse(data)


def test_a_promised_size_is_not_allocated() -> None:
    tracemalloc.start()
    try:
        for data in (b"[#" + length(2**33), b"[$d#" + length(2**33), b"S" + length(2**33)):
            with pytest.raises(ModelFormatError):
                ubjson.parse(data + bytes(8))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(values, st.data())
def test_every_truncation_is_refused(value: object, data: st.DataObject) -> None:
    document = write(value)
    end = data.draw(st.integers(0, len(document) - 1))
    with pytest.raises(ModelFormatError):
        ubjson.parse(document[:end])


@given(st.binary(max_size=40) | values.map(write), st.data())
def test_any_bytes_are_a_value_or_refused(document: bytes, data: st.DataObject) -> None:
    changed = bytearray(document)
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            position = data.draw(st.integers(0, len(changed) - 1))
            changed[position] = data.draw(st.sampled_from(b"{}[]#$SLlIiUdDCTFZH\x00\xff"))
    with contextlib.suppress(ModelFormatError):
        ubjson.parse(bytes(changed))
