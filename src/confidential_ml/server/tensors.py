"""Rows from the input tensors of the Open Inference Protocol (docs/http.md 3.1)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from confidential_ml.rows import FloatArray
from confidential_ml.server.errors import HttpError
from confidential_ml.server.json_bodies import float32_array
from confidential_ml.strict_json import contains_float32_midpoint, float32_from_decimal

__all__ = ["InputTensor", "Scalar", "read_rows"]

Scalar = str | bool | int | float
# Integers stay integers: those of INT64 and UINT64 are rounded once, to float32.
Element = int | float | bool | None | Literal["NaN", "Infinity", "-Infinity"]

Datatype = Literal["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"]

_CODES = "? u1 <u2 <u4 <u8 i1 <i2 <i4 <i8 <f4 <f8"
_DTYPES = {name: np.dtype(code) for name, code in zip(get_args(Datatype), _CODES.split(" "), strict=True)}
# Types of the elements that JSON may have for a dtype of this kind.
_ELEMENTS: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float, str, type(None)}}


class InputTensor(msgspec.Struct):
    """An input: all features [n, features] or [features], or of several one feature each [n] or [n, 1].

    The data is row after row, nested as the shape or flat; or is binary, of ``binary_data_size`` bytes.
    """

    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    datatype: Datatype
    parameters: dict[str, Scalar] | msgspec.UnsetType | None = msgspec.UNSET
    data: list[Element | list[Element]] | msgspec.UnsetType = msgspec.UNSET


def read_rows(
    inputs: Sequence[InputTensor], header: bytes, binary: memoryview | bytes, n_features: int, max_rows: int
) -> FloatArray:
    """Read the rows of a request.

    Parameters
    ----------
    inputs
        At least one.
    header
        The JSON they were read from.
    binary
        What follows it: the data of those inputs that have a ``binary_data_size``, one after another.
    n_features
        Columns of the rows.
    max_rows
        Most rows.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous, shape (rows, `n_features`), at least one row.

    Raises
    ------
    HttpError
        400 ``input_invalid``, 413 ``too_many_rows``.
    """
    parts = _binary_parts(inputs, binary)
    if len(inputs) == 1:
        rows, columns = _shape_of_all(inputs[0], n_features)
        _check_rows(rows, max_rows)
        return _values(0, inputs[0], parts[0], header, (rows, columns))
    if len(inputs) != n_features:
        raise _invalid(
            f"the request has {len(inputs)} inputs, the model has {n_features} features; send one input [n, features] "
            "or one input for each feature"
        )
    if len({tensor.name for tensor in inputs}) != len(inputs):
        raise _invalid("two inputs have the same name; rename one of them")
    rows = _rows_of_column(0, inputs[0])
    _check_rows(rows, max_rows)
    for index, tensor in enumerate(inputs):
        if _rows_of_column(index, tensor) != rows:
            raise _invalid(f"inputs[0] and inputs[{index}] differ in their number of rows")
    matrix = np.empty((rows, n_features), dtype=np.float32)
    for index, tensor in enumerate(inputs):
        matrix[:, index : index + 1] = _values(index, tensor, parts[index], header, (rows, 1))
    return matrix


def _invalid(message: str) -> HttpError:
    return HttpError(400, "input_invalid", message)


def _shape_of_all(tensor: InputTensor, n_features: int) -> tuple[int, int]:
    """Rows and columns of an only input."""
    shape = tensor.shape
    if len(shape) == 1:
        shape = [shape[0], 1] if n_features == 1 else [1, shape[0]]
    if len(shape) != 2:
        raise _invalid(f"inputs[0] has {len(shape)} dimensions; its shape must be [n, {n_features}] or [{n_features}]")
    if shape[1] != n_features:
        raise _invalid(f"inputs[0] has {shape[1]} columns, the model has {n_features} features")
    return shape[0], shape[1]


def _rows_of_column(index: int, tensor: InputTensor) -> int:
    shape = tensor.shape
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        return shape[0]
    raise _invalid(f"inputs[{index}] is one of several, so it is one feature: its shape must be [n] or [n, 1]")


def _check_rows(rows: int, max_rows: int) -> None:
    if rows == 0:
        raise _invalid("the request has no rows; send at least one")
    if rows > max_rows:
        raise HttpError(413, "too_many_rows", f"more than {max_rows} rows; send them in several requests")


def _binary_parts(inputs: Sequence[InputTensor], binary: memoryview | bytes) -> list[memoryview | None]:
    """Each input's binary data, None where the data is in the JSON."""
    rest = memoryview(binary)
    parts: list[memoryview | None] = []
    for index, tensor in enumerate(inputs):
        parameters = tensor.parameters or {}
        if any(name.startswith("shared_memory") for name in parameters):
            raise _invalid(f"inputs[{index}] is in shared memory, which this server does not have; send its data")
        size = parameters.get("binary_data_size")
        if (size is None) == (tensor.data is msgspec.UNSET):
            raise _invalid(f"inputs[{index}] must have either data or the parameter binary_data_size")
        if size is None:
            parts.append(None)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise _invalid(f"binary_data_size of inputs[{index}] is not a number of bytes that the body still has")
        parts.append(rest[:size])
        rest = rest[size:]
    if len(rest):
        raise _invalid(f"{len(rest)} bytes are left over after the data of all inputs; check the lengths")
    return parts


def _values(
    index: int, tensor: InputTensor, part: memoryview | None, header: bytes, shape: tuple[int, int]
) -> FloatArray:
    """The data of an input as float32 of this shape, whose product the data itself must have."""
    dtype = _DTYPES[tensor.datatype]
    if part is None:
        return float32_array(_from_json(index, tensor, dtype, header, shape)).reshape(shape)
    expected = shape[0] * shape[1] * dtype.itemsize
    if len(part) != expected:
        raise _invalid(f"binary_data_size of inputs[{index}] is {len(part)}, its shape and datatype make {expected}")
    if dtype.kind == "b":
        # A byte that is neither would be a bool no compiler knows.
        flags = np.frombuffer(part, dtype=np.uint8)
        if flags.max() > 1:
            raise _invalid(f"inputs[{index}] is BOOL and has bytes other than 0 and 1")
        return float32_array(flags).reshape(shape)
    return float32_array(np.frombuffer(part, dtype=dtype)).reshape(shape)


def _from_json(
    index: int, tensor: InputTensor, dtype: np.dtype[Any], header: bytes, shape: tuple[int, int]
) -> npt.NDArray[Any]:
    flat = _flat(index, tensor.data, tensor.shape, shape[0] * shape[1])
    if not set(map(type, flat)) <= _ELEMENTS[dtype.kind]:
        raise _invalid(f"inputs[{index}].data has elements that are not of its datatype")
    try:
        if dtype.kind != "f":
            return np.array(flat, dtype=dtype)
        values = np.array(flat, dtype=np.float64)
    except OverflowError:
        raise _invalid(f"inputs[{index}].data has numbers outside the range of its datatype") from None
    # The text of a float32 may round to a float64 halfway between two of them. It is read again, without the detour.
    if tensor.datatype == "FP32" and contains_float32_midpoint(values):
        values = np.array(_flat(index, _exact_data(header, index), tensor.shape, len(flat)), dtype=np.float64)
    return values


def _exact_data(header: bytes, index: int) -> Any:
    """The data of an input, each number rounded once from decimal to float32."""
    try:
        document = json.loads(header, parse_float=float32_from_decimal, parse_int=float32_from_decimal)
    except (ValueError, RecursionError):  # in parts that no Struct has: only those were not read before
        raise HttpError(400, "body_malformed", "the body is not JSON in UTF-8") from None
    return document["inputs"][index]["data"]


def _flat(index: int, data: Any, shape: Sequence[int], count: int) -> list[Element]:
    """The elements of data that is nested as the shape says, or flat."""
    if data and isinstance(data[0], list):
        is_nested = (
            len(shape) == 2
            and len(data) == shape[0]
            and all(isinstance(row, list) and len(row) == shape[1] for row in data)
        )
        flat = list(itertools.chain.from_iterable(data)) if is_nested else None
    else:
        flat = None if any(isinstance(element, list) for element in data) else data
    if flat is None or len(flat) != count:
        raise _invalid(f"inputs[{index}].data does not have the elements that its shape says")
    return flat
