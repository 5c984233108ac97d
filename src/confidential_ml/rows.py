"""From what a caller passes to the float32 matrix the enclave takes; no copy if it is one already."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Set
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from confidential_ml.errors import InvalidInputError

FloatArray = npt.NDArray[np.float32]

_NUMBER_KINDS = "fiub"
_NUMBER_OBJECTS = (numbers.Real, np.bool_, Decimal, type(None))  # None is a missing value
_MAX_ROWS = 1 << 31


def as_rows(rows: Any, n_features: int, missing: float) -> FloatArray:
    """The rows as a C-contiguous float32 matrix with NaN for missing values.

    Parameters
    ----------
    rows
        Anything ``numpy.asarray`` makes a real-valued matrix of, shape (rows, `n_features`). Values are rounded to
        float32 as XGBoost does; infinities are kept, as by ``Booster.inplace_predict``.
    missing
        The value that means "missing" besides NaN, compared after rounding to float32.

    Raises
    ------
    InvalidInputError
        For another shape or dtype, and for containers whose meaning a plain array would lose (data frames, sparse
        and masked arrays).
    """
    if (
        type(rows) is np.ndarray
        and rows.dtype == np.float32
        and rows.ndim == 2
        and rows.shape[1] == n_features
        and rows.flags.c_contiguous
        and rows.flags.aligned
        and rows.dtype.isnative
    ):
        matrix = rows
    else:
        array = _as_array(rows, "X")
        # Before the conversion: the shape of a broadcast array may be that of more memory than there is.
        _check_shape(array.shape, n_features)
        matrix = _as_float32(array, "X")
    if matrix.shape[0] >= _MAX_ROWS:
        raise _too_many_rows(matrix.shape[0])
    return matrix if _is_nan(missing) else _mark_missing(matrix, missing)


def as_base_margin(base_margin: Any, n_rows: int, n_groups: int) -> FloatArray | None:
    """Base margins as a float32 array of `n_rows` x `n_groups` values, or None.

    Raises
    ------
    InvalidInputError
        Unless the shape is (rows, groups), (rows * groups,) or, with one group, (rows,).
    """
    if base_margin is None:
        return None
    margins = _as_array(base_margin, "base_margin")
    if margins.shape not in {(n_rows, n_groups), (n_rows * n_groups,)}:
        raise InvalidInputError(
            f"base_margin has shape {margins.shape}, expected ({n_rows}, {n_groups}) or ({n_rows * n_groups},)"
        )
    return _as_float32(margins, "base_margin")


def _check_shape(shape: tuple[int, ...], n_features: int) -> None:
    if len(shape) != 2:
        raise InvalidInputError(
            f"X has {len(shape)} dimension{'s' if len(shape) != 1 else ''}, expected 2 (rows, features); "
            "for a single row pass [row] or row.reshape(1, -1)"
        )
    if shape[1] != n_features:
        raise InvalidInputError(f"X has {shape[1]} columns, the model has {n_features} features")
    if shape[0] >= _MAX_ROWS:
        raise _too_many_rows(shape[0])


def _too_many_rows(count: int) -> InvalidInputError:
    return InvalidInputError(f"X has {count} rows, at most {_MAX_ROWS - 1} go into one call")


def _as_array(values: Any, name: str) -> npt.NDArray[Any]:
    _refuse_containers(values, name)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} cannot be made an array: {type(error).__name__}; pass a numpy array") from None
    if array.dtype.kind not in _NUMBER_KINDS + "O":
        raise InvalidInputError(f"{name} has dtype {array.dtype}; pass real numbers (float, integer or bool)")
    return array


def _as_float32(array: npt.NDArray[Any], name: str) -> FloatArray:
    if array.dtype.kind == "O":
        return _from_objects(array, name)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.require(array, dtype=np.float32, requirements=["C", "A"])


def _from_objects(array: npt.NDArray[Any], name: str) -> FloatArray:
    # NumPy would take the text "1.5" for a number, and a date for its count of seconds; nobody means either.
    if not all(isinstance(value, _NUMBER_OBJECTS) for value in array.flat):
        raise InvalidInputError(
            f"{name} has dtype object and holds values that are not real numbers (text, complex numbers, dates ...)"
        )
    try:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.require(array, dtype=np.float32, requirements=["C", "A"])
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"{name} has dtype object and holds values that are not real numbers") from None


def _refuse_containers(values: Any, name: str) -> None:
    if values is None:
        raise InvalidInputError(f"{name} is None; pass a matrix of real numbers, NaN where one is missing")
    if hasattr(values, "num_row") and hasattr(values, "num_col"):
        raise InvalidInputError(f"{name} is a DMatrix, which does not give its values back; pass what it was made of")
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidInputError(f"{name} is a masked array; pass {name}.filled(numpy.nan)")
    if hasattr(values, "tocsr"):
        raise InvalidInputError(f"{name} is a sparse matrix; pass a dense one with NaN for absent values")
    if isinstance(values, (Mapping, Set, Iterator)):
        raise InvalidInputError(
            f"{name} is a {type(values).__name__}, which has no rows and columns; pass a matrix, or a list of rows"
        )
    if callable(getattr(values, "collect", None)):
        raise InvalidInputError(f"{name} is lazy and has no values yet; pass {name}.collect().to_numpy()")
    if hasattr(values, "__dataframe__") or hasattr(values, "iloc") or hasattr(values, "__arrow_c_stream__"):
        if len(getattr(values, "shape", ())) == 1:
            raise InvalidInputError(f"{name} is a series, whose labels would be ignored; pass {name}.to_numpy()")
        raise InvalidInputError(
            f"{name} is a data frame, whose column names would be ignored; "
            "bring the columns into the model's order, replace categories by the codes they had in training "
            f"(column.cat.codes, with the same categories in the same order), and pass {name}.to_numpy()"
        )


def _is_nan(missing: float) -> bool:
    try:
        return math.isnan(missing)
    except (TypeError, ValueError, OverflowError):  # ValueError: a signalling NaN of decimal.Decimal
        raise InvalidInputError("missing must be a real number in the range of a float") from None


def _mark_missing(matrix: FloatArray, missing: float) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        found = matrix == np.float32(missing)
    return np.where(found, np.float32(np.nan), matrix) if found.any() else matrix
