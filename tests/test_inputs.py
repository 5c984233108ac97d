"""What predict takes as rows, missing marks, rounds and base margins, and what it refuses without telling values."""

from __future__ import annotations

import array
import decimal
import fractions
import functools
import json
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

import confidential_ml as cml
from confidential_ml.rows import as_base_margin, as_rows

Array = npt.NDArray[Any]

N_FEATURES = 6
# In every row that is refused here; no error may show it.
SENTINEL = 7654.3125
SENTINEL_TEXT = "7654"
NOT_A_NUMBER = float("nan")


@pytest.fixture(scope="module")
def rows() -> Array:
    """Small whole numbers, exact in every dtype below, beside halves where the dtype has them."""
    return np.random.default_rng(0).integers(-3, 4, (40, N_FEATURES)).astype(np.float32)


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def refused(call: Callable[[], object], match: str | None = None) -> None:
    """The call is refused as an invalid input, with a sentence that names no value of the input."""
    with pytest.raises(cml.InvalidInputError, match=match) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, cml.ConfidentialMLError)
    shown = "".join(traceback.format_exception(caught.value))
    assert SENTINEL_TEXT not in str(caught.value)
    assert SENTINEL_TEXT not in shown
    assert len(str(caught.value)) < 300


# ---- dtypes and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", ["f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "O"])
def test_every_real_dtype_in_either_byte_order(
    code: str, order: str, rows: Array, regression: cml.ConfidentialModel
) -> None:
    whole = np.abs(rows) if code.startswith("u") else rows
    typed = whole.astype(np.dtype(order + code))
    expected = regression.predict(typed.astype(np.float32))
    assert_same_bits(regression.predict(typed), expected)
    if code not in {"?", "O"} and not code.startswith("u"):
        assert_same_bits(expected, regression.predict(rows))


def test_float64_is_rounded_as_a_cast_does(regression: cml.ConfidentialModel) -> None:
    precise = np.random.default_rng(1).normal(size=(200, N_FEATURES)) * 10.0 ** np.arange(-50, 58, 18)
    with np.errstate(over="ignore"):
        expected = regression.predict(precise.astype(np.float32))
    assert_same_bits(regression.predict(precise), expected)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(np.asfortranarray, id="fortran"),
        pytest.param(lambda a: np.repeat(a, 2, axis=0)[::2], id="every second row"),
        pytest.param(lambda a: np.repeat(a, 2, axis=1)[:, ::2], id="every second column"),
        pytest.param(lambda a: a[::-1].copy()[::-1], id="negative row stride"),
        pytest.param(lambda a: a[:, ::-1].copy()[:, ::-1], id="negative column stride"),
        pytest.param(lambda a: a.view(np.ndarray), id="view"),
        pytest.param(
            lambda a: np.frombuffer(b"?" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape), id="odd"
        ),
        pytest.param(lambda a: np.rec.fromarrays([a])["f0"], id="field of records"),
        pytest.param(lambda a: np.concatenate([a, a])[: len(a)], id="front of a larger array"),
        pytest.param(lambda a: a.tolist(), id="lists"),
        pytest.param(lambda a: tuple(map(tuple, a.tolist())), id="tuples"),
        pytest.param(lambda a: list(a), id="list of arrays"),
        pytest.param(lambda a: memoryview(a), id="memoryview"),
        pytest.param(lambda a: np.asmatrix(a), id="matrix", marks=pytest.mark.filterwarnings("ignore::Warning")),
        pytest.param(lambda a: [array.array("f", row) for row in a], id="array.array"),
        pytest.param(lambda a: [[np.float64(v) for v in row] for row in a], id="numpy scalars"),
        pytest.param(lambda a: [[decimal.Decimal(float(v)) for v in row] for row in a], id="Decimal"),
        pytest.param(lambda a: [[fractions.Fraction(float(v)) for v in row] for row in a], id="Fraction"),
    ],
)
def test_layout_and_container_change_nothing(
    make: Callable[[Array], Any], rows: Array, regression: cml.ConfidentialModel
) -> None:
    given = make(rows)
    actual = regression.predict(given)
    assert type(actual) is np.ndarray
    assert_same_bits(actual, regression.predict(rows))


def test_none_among_objects_is_missing(rows: Array, regression: cml.ConfidentialModel) -> None:
    objects = rows.astype(object)
    objects[::3, 1] = None
    expected = rows.copy()
    expected[::3, 1] = np.nan
    assert_same_bits(regression.predict(objects), regression.predict(expected))


def test_rows_are_read_only_neither_copied_nor_changed(rows: Array, regression: cml.ConfidentialModel) -> None:
    locked = rows.copy()
    locked.flags.writeable = False
    assert as_rows(locked, N_FEATURES, NOT_A_NUMBER) is locked
    before = locked.tobytes()
    for missing in (NOT_A_NUMBER, 0.0):
        assert_same_bits(regression.predict(locked, missing=missing), regression.predict(rows, missing=missing))
    assert locked.tobytes() == before


def test_a_float32_matrix_is_passed_on_without_a_copy(rows: Array) -> None:
    assert as_rows(rows, N_FEATURES, NOT_A_NUMBER) is rows
    assert as_rows(rows, N_FEATURES, 12345.0) is rows  # nothing to mark: still no copy
    part = rows[10:20]
    assert as_rows(part, N_FEATURES, NOT_A_NUMBER) is part
    marked = as_rows(rows, N_FEATURES, 0.0)
    assert not np.shares_memory(marked, rows)
    assert as_rows(rows.astype(np.float64), N_FEATURES, NOT_A_NUMBER).dtype == np.float32


def test_the_filters_of_warnings_are_left_alone(rows: Array, regression: cml.ConfidentialModel) -> None:
    """They belong to the whole process: whoever changes them for a moment changes them for every thread."""
    seen = []

    class Watching:
        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            seen.append((warnings.filters, list(warnings.filters)))
            return rows

    before = (warnings.filters, list(warnings.filters))
    regression.predict(Watching(), base_margin=np.zeros(len(rows)))
    assert seen[0][0] is before[0]
    assert seen[0][1] == before[1]


def test_base_margin_that_fits_is_passed_on_without_a_copy() -> None:
    margins = np.zeros((5, 3), np.float32)
    assert as_base_margin(margins, 5, 3) is margins
    assert as_base_margin(None, 5, 3) is None


# ---- rows that are refused ------------------------------------------------------------------------------------------


class Frame:
    """Looks like a data frame of pandas."""

    iloc = None

    def __array__(self, dtype: object = None, copy: object = None) -> Array:
        return np.full((2, N_FEATURES), SENTINEL, np.float32)


class LazyFrame:
    """Looks like a lazy frame of polars."""

    def collect(self) -> Frame:
        raise AssertionError


class Series(Frame):
    """Looks like a series of pandas."""

    shape = (2,)


class InterchangeFrame:
    """Looks like a data frame of any library with the interchange protocol."""

    def __dataframe__(self) -> None:
        return None


class ArrowTable:
    def __arrow_c_stream__(self) -> None:
        return None


class Sparse:
    """Looks like a sparse matrix of SciPy."""

    def tocsr(self) -> None:
        return None


class Unconvertible:
    def __array__(self, dtype: object = None, copy: object = None) -> Array:
        raise ValueError(f"value {SENTINEL} is bad")


class UnconvertibleNumber:
    def __float__(self) -> float:
        raise ValueError(f"value {SENTINEL} is bad")

    def __repr__(self) -> str:
        return f"number {SENTINEL}"


def full(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.full(shape, SENTINEL, dtype)


def objects(value: object) -> Array:
    matrix = np.empty((2, N_FEATURES), object)
    for index in np.ndindex(matrix.shape):
        matrix[index] = value
    return matrix


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        pytest.param(SENTINEL, "0 dimensions", id="number"),
        pytest.param(full(()), "0 dimensions", id="0-D"),
        pytest.param(full((N_FEATURES,)), r"1 dimension,.*\[row\]", id="1-D"),
        pytest.param(full((2, 3, N_FEATURES)), "3 dimensions", id="3-D"),
        pytest.param([SENTINEL] * N_FEATURES, "1 dimension", id="flat list"),
        pytest.param([], "1 dimension", id="empty list"),
        pytest.param([[]], "0 columns", id="row without columns"),
        pytest.param(full((2, N_FEATURES - 1)), "5 columns.*6 features", id="too few columns"),
        pytest.param(full((2, N_FEATURES + 1)), "7 columns.*6 features", id="too many columns"),
        pytest.param(full((N_FEATURES, 2)), "2 columns", id="transposed"),
        pytest.param(np.broadcast_to(np.float32(SENTINEL), (1 << 31, N_FEATURES)), "rows, at most", id="2^31 rows"),
        pytest.param(np.broadcast_to(SENTINEL, (1 << 57, N_FEATURES)), "rows, at most", id="2^57 float64 rows"),
        pytest.param(np.broadcast_to(SENTINEL, (1 << 40, 2)), "2 columns", id="2^40 rows of too few columns"),
        pytest.param(full((2, N_FEATURES), np.complex64), "complex64", id="complex64"),
        pytest.param(full((2, N_FEATURES), np.complex128), "complex128", id="complex128"),
        pytest.param(full((2, N_FEATURES)).astype("U"), "<U", id="text"),
        pytest.param(full((2, N_FEATURES)).astype("S"), "S", id="bytes"),
        pytest.param(full((2, N_FEATURES)).astype(np.int64).astype("M8[s]"), "datetime64", id="datetime"),
        pytest.param(full((2, N_FEATURES)).astype(np.int64).astype("m8[s]"), "timedelta64", id="timedelta"),
        pytest.param(np.zeros((2, N_FEATURES), "V4"), r"\|V4", id="void"),
        pytest.param(np.zeros((2, N_FEATURES), [("a", "f4")]), "dtype", id="records"),
        pytest.param([[str(SENTINEL)] * N_FEATURES], "<U", id="list of text"),
        pytest.param(full((2, N_FEATURES)).astype("U").astype(object), "text", id="text objects"),
        pytest.param(full((2, N_FEATURES)).astype("S").astype(object), "text", id="bytes objects"),
        pytest.param(objects(bytearray(str(SENTINEL), "ascii")), "real numbers|text", id="bytearray objects"),
        pytest.param(objects(np.str_(SENTINEL)), "text", id="numpy text objects"),
        pytest.param(objects(np.datetime64(7654, "s")), "real numbers", id="datetime objects"),
        pytest.param(objects(np.full(2, SENTINEL)), "real numbers", id="array objects"),
        pytest.param(full((2, N_FEATURES), np.complex64).astype(object), "complex", id="complex objects"),
        pytest.param([[UnconvertibleNumber()] * N_FEATURES], "real numbers", id="objects that are no numbers"),
        pytest.param([[10**400] * N_FEATURES], "real numbers", id="integers beyond every float"),
        pytest.param([[SENTINEL] * N_FEATURES, [SENTINEL]], "cannot be made an array", id="ragged"),
        pytest.param(np.ma.masked_array(full((2, N_FEATURES))), r"masked.*filled\(numpy.nan\)", id="masked"),
        pytest.param(Sparse(), "sparse", id="sparse"),
        pytest.param(None, "X is None", id="None"),
        pytest.param({"a": 1}, "X is a dict, which has no rows and columns; pass a matrix", id="dict"),
        pytest.param({1.0, 2.0}, "X is a set, which has no rows", id="set"),
        pytest.param((row for row in [[1.0]]), "X is a generator, which has no rows", id="generator"),
        pytest.param(LazyFrame(), r"X is lazy.*X\.collect\(\)\.to_numpy\(\)", id="lazy frame"),
        pytest.param(Series(), r"X is a series.*X\.to_numpy\(\)", id="series"),
        pytest.param(Frame(), r"data frame.*cat\.codes.*to_numpy\(\)", id="data frame"),
        pytest.param(InterchangeFrame(), "data frame", id="interchange data frame"),
        pytest.param(ArrowTable(), "data frame", id="arrow table"),
        pytest.param(Unconvertible(), "cannot be made an array", id="unconvertible"),
        pytest.param({"a": SENTINEL}, None, id="dict"),
        pytest.param({SENTINEL}, None, id="set"),
        pytest.param((SENTINEL for _ in range(3)), None, id="generator"),
        pytest.param(object(), None, id="object"),
        pytest.param(np.float32, None, id="class"),
    ],
)
def test_rows_that_are_refused(bad: Any, match: str | None, regression: cml.ConfidentialModel) -> None:
    refused(lambda: regression.predict(bad), match)


@pytest.mark.parametrize("make", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "lil_matrix", "dok_matrix"])
def test_every_sparse_container_of_scipy_is_refused(make: str, regression: cml.ConfidentialModel) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    refused(lambda: regression.predict(getattr(sparse, make)(full((2, N_FEATURES)))), "sparse")


def test_a_dmatrix_is_refused_with_advice(regression: cml.ConfidentialModel) -> None:
    xgboost = pytest.importorskip("xgboost")
    refused(lambda: regression.predict(xgboost.DMatrix(full((2, N_FEATURES)))), "DMatrix.*pass what it was made of")


def test_data_frames_of_pandas_are_refused(regression: cml.ConfidentialModel) -> None:
    pandas = pytest.importorskip("pandas")
    refused(lambda: regression.predict(pandas.DataFrame(full((2, N_FEATURES)))), "data frame")


# ---- missing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing", [-1.0, 0.0, -0.0, 2, True, np.float32(1), np.int8(3), np.inf, -np.inf, 1e300, 1e-300, decimal.Decimal(2)]
)
def test_a_number_can_mean_missing(missing: Any, rows: Array, regression: cml.ConfidentialModel) -> None:
    given = rows.copy()
    given[::7, 2], given[1::7, 2], given[2::7, 3] = np.inf, -np.inf, np.nan
    with np.errstate(over="ignore", under="ignore"):
        mark = np.array(float(missing)).astype(np.float32)
    expected = np.where(given == mark, np.float32(np.nan), given)
    assert_same_bits(regression.predict(given, missing=missing), regression.predict(expected))
    assert_same_bits(regression.predict(given.astype(np.float64), missing=missing), regression.predict(expected))


def test_missing_is_compared_after_rounding_to_float32(rows: Array, regression: cml.ConfidentialModel) -> None:
    given = rows.astype(np.float64)
    given[::2] = 0.1
    marked = rows.copy()
    marked[::2] = np.nan
    expected = regression.predict(marked)
    assert not np.array_equal(expected, regression.predict(given))
    # Numbers of Python take the precision of what they are compared with, those of numpy keep their own.
    for missing in (0.1, np.float64(0.1), np.float32(0.1), decimal.Decimal("0.1")):
        number: Any = missing
        assert_same_bits(regression.predict(given, missing=number), expected)
        assert_same_bits(regression.predict(given.astype(np.float32), missing=number), expected)


@pytest.mark.parametrize(
    "missing",
    [None, "nan", b"0", 1j, [1.0], [], object(), (0.0, 1.0), 10**400, decimal.Decimal("sNaN")],
    ids=lambda x: type(x).__name__,
)
def test_missing_that_is_no_number_is_refused(missing: Any, rows: Array, regression: cml.ConfidentialModel) -> None:
    refused(lambda: regression.predict(rows, missing=missing), "missing")


# ---- iteration_range ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [
        (-1, 0),
        (-1, 3),
        (0, -1),
        (2, 1),
        (6, 5),
        (0, 7),
        (7, 0),
        (7, 7),
        (0, 2**31),
        (0, 2**32 - 1),
        (0, 2**32),
        (2**32, 0),
        (2**32, 2**32 + 1),
        (2**64, 2**64),
        (0, 10**100),
        (-(10**100), 1),
        (0.0, 1.0),
        (0, 1.5),
        (np.float32(0), np.float32(1)),
        ("0", "1"),
        (None, None),
        (0, None),
        (),
        (1,),
        (0, 1, 2),
        "01",
        "ab",
        5,
        0.5,
        object(),
        [[0, 1]],
    ],
    ids=repr,
)
def test_iteration_ranges_that_are_refused(bounds: Any, rows: Array, regression: cml.ConfidentialModel) -> None:
    refused(lambda: regression.predict(rows, iteration_range=bounds), "iteration_range")


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.int32, bool])
def test_iteration_ranges_of_any_integer_type(kind: Any, rows: Array, regression: cml.ConfidentialModel) -> None:
    expected = regression.predict(rows, iteration_range=(0, 1))
    assert_same_bits(regression.predict(rows, iteration_range=(kind(0), kind(1))), expected)
    as_list: Any = [kind(0), kind(1)]
    assert_same_bits(regression.predict(rows, iteration_range=as_list), expected)
    assert not np.array_equal(expected, regression.predict(rows))


def test_a_linear_model_takes_only_ranges_from_its_beginning(
    rows: Array, enclave: cml.Enclave, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from test_predict import FIXTURES

    path = tmp_path_factory.mktemp("linear") / "linear.sealed"
    cml.seal(FIXTURES / "xgb-3.4.1.linear.ubj", path)
    with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as model:
        assert_same_bits(model.predict(rows, iteration_range=(0, 2)), model.predict(rows))
        refused(lambda: model.predict(rows, iteration_range=(1, 2)), "gblinear")


# ---- base_margin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.int16, object])
def test_base_margin_of_any_dtype_and_layout(dtype: Any, rows: Array, classifier: cml.ConfidentialModel) -> None:
    margins = np.random.default_rng(2).integers(-3, 4, (len(rows), 3)).astype(np.float32)
    expected = classifier.predict(rows, base_margin=margins)
    typed = margins.astype(dtype)
    for given in (typed, np.asfortranarray(typed), typed.ravel(), typed[::-1].copy()[::-1], typed.tolist()):
        assert_same_bits(classifier.predict(rows, base_margin=given), expected)
    assert not np.array_equal(expected, classifier.predict(rows))


def test_base_margin_of_one_group_may_be_a_vector_or_a_column(rows: Array, regression: cml.ConfidentialModel) -> None:
    margins = np.arange(len(rows), dtype=np.float32)
    expected = regression.predict(rows, base_margin=margins)
    assert_same_bits(regression.predict(rows, base_margin=margins.reshape(-1, 1)), expected)
    no_trees = regression.predict(rows, base_margin=margins, iteration_range=(3, 3))
    assert_same_bits(no_trees, margins)


@pytest.mark.parametrize(
    "shape",
    [(), (0,), (1,), (40,), (3,), (40, 1), (3, 40), (39, 3), (41, 3), (40, 4), (119,), (121,), (1, 120), (40, 3, 1)],
)
def test_base_margins_of_wrong_shape_are_refused(
    shape: tuple[int, ...], rows: Array, classifier: cml.ConfidentialModel
) -> None:
    refused(lambda: classifier.predict(rows, base_margin=full(shape)), "base_margin has shape")


@pytest.mark.parametrize(
    "bad",
    [
        full((40, 3), np.complex64),
        full((40, 3)).astype("U"),
        full((40, 3)).astype("U").astype(object),
        np.ma.masked_array(full((40, 3))),
        Sparse(),
        Frame(),
        Unconvertible(),
        [[SENTINEL], [SENTINEL, SENTINEL]],
        np.broadcast_to(SENTINEL, (1 << 57,)),
    ],
    ids=lambda bad: type(bad).__name__,
)
def test_base_margins_of_wrong_kind_are_refused(bad: Any, rows: Array, classifier: cml.ConfidentialModel) -> None:
    refused(lambda: classifier.predict(rows, base_margin=bad), "base_margin")


@pytest.mark.parametrize("option", ["output_margin", "strict_shape"])
def test_options_are_true_or_false(option: str, rows: Array, regression: cml.ConfidentialModel) -> None:
    given: Any
    predict: Any = regression.predict
    for given in (True, False, np.True_, np.False_, 0, 1):
        assert_same_bits(predict(rows, **{option: given}), predict(rows, **{option: bool(given)}))
    for given in (None, "no", 2, -1, 1.0, np.array([True]), np.array([True, False]), [SENTINEL], object()):
        refused(functools.partial(predict, rows, **{option: given}), option)


def test_options_are_keywords_only(rows: Array, regression: cml.ConfidentialModel) -> None:
    predict: Any = regression.predict
    with pytest.raises(TypeError):
        predict(rows, True)


def test_rounds_that_are_too_long_to_be_written(rows: Array, regression: cml.ConfidentialModel) -> None:
    refused(lambda: regression.predict(rows, iteration_range=(0, 10**5000)), "a number of 16610 bits")


@pytest.mark.parametrize("size", [-1, 1 << 64, 1.0, True, "many", None])
def test_the_size_of_a_request_is_a_number(size: Any, enclave: cml.Enclave) -> None:
    refused(lambda: enclave.check_request(b"secret header", size), "size must be the number of bytes")


# ---- the extension module itself ------------------------------------------------------------------------------------


def test_the_extension_shows_no_arguments_in_its_errors(enclave: cml.Enclave, rows: Array) -> None:
    """Its callers are in the package; still, a TypeError of pybind11 would print every argument."""
    core: Any = enclave._core
    secret = full((2, N_FEATURES))
    attempts: list[Callable[[], object]] = [
        lambda: core.predict(1, secret.astype(np.float64), 1, 1, 1, False, 0, 0, None, 0),
        lambda: core.predict(1, np.asfortranarray(secret), 1, 1, 1, False, 0, 0, None, 0),
        lambda: core.predict(1, secret, 1, 1, 1, False, 0, 0, secret.astype(np.float64), 0),
        lambda: core.predict(1, secret.ravel(), 1, 1, 1, False, 0, 0, None, 0),
        lambda: core.seal_model(str(SENTINEL), b"id", 1, 0, b""),
        lambda: core.load_model(bytearray(str(SENTINEL), "ascii")),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)) as caught:
            attempt()
        assert SENTINEL_TEXT not in str(caught.value)


def test_the_enclave_itself_checks_handle_columns_and_rounds(
    enclave: cml.Enclave, regression: cml.ConfidentialModel, rows: Array
) -> None:
    core, handle = enclave._core, regression._handle
    with pytest.raises(cml.EnclaveError, match="not loaded"):
        core.predict(handle + 10**6, rows, 1, 1, 1, False, 0, 0, None, 0)
    with pytest.raises(cml.InvalidInputError, match="do not match"):
        core.predict(handle, np.ascontiguousarray(rows[:, 1:]), 1, 1, 1, False, 0, 0, None, 0)
    with pytest.raises(cml.InvalidInputError, match="rounds"):
        core.predict(handle, rows, 1, 1, 1, False, 0, 7, None, 0)
    with pytest.raises(cml.InvalidInputError, match="rounds"):
        core.predict(handle, rows, 1, 1, 1, False, 5, 4, None, 0)
    with pytest.raises(cml.InvalidInputError, match="base_margin"):
        core.predict(handle, rows, 1, 1, 1, False, 0, 0, np.zeros(3, np.float32), 0)
    with pytest.raises(cml.EnclaveError, match="sizes"):
        core.predict(handle, rows, 1, 2, 1, False, 0, 0, None, 0)


# ---- the text of a model in the place of something else -------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"learner": 7654.3125}', '  {"version": [7654.3125' + ", 1" * 4000, "7654.3125," * 30]
)
def test_the_text_of_a_model_is_no_path_and_not_shown(text: str, tmp_path: Path, regression_file: Path) -> None:
    """Nor is it the `filename` of an error that this one came from."""
    good = regression_file
    attempts: list[Callable[[], object]] = [
        lambda: cml.seal(text, tmp_path / "x"),
        lambda: cml.seal(good, text),
        lambda: cml.seal(good, tmp_path / "x", policy=cast("cml.SealingPolicy", text)),
        lambda: cml.seal(good, tmp_path / "x", model_id=text),
        lambda: cml.ConfidentialModel.load_sealed(text),
        lambda: cml.ConfidentialModel.load_sealed(text.encode()),
        lambda: cml.inspect_sealed(text),
        lambda: cml.Enclave(text),
    ]
    for attempt in attempts:
        with pytest.raises(cml.ConfidentialMLError) as caught:
            attempt()
        shown = "".join(traceback.format_exception_only(caught.value))
        assert "7654" not in shown
        assert "7654" not in repr(caught.value.__cause__)


def test_something_else_in_the_place_of_an_enclave(
    tmp_path: Path, regression_file: Path, regression: cml.ConfidentialModel
) -> None:
    cml.seal(regression_file, tmp_path / "x")
    wrong: Any
    for wrong in ("enclave", regression, cml.Enclave):
        with pytest.raises(cml.InvalidInputError, match=r"must be a confidential_ml\.Enclave"):
            cml.ConfidentialModel.load_sealed(tmp_path / "x", enclave=wrong)
        with pytest.raises(cml.InvalidInputError, match=r"must be a confidential_ml\.Enclave"):
            cml.seal(regression_file, tmp_path / "y", enclave=wrong)


def test_an_error_in_a_model_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"learner": {')
    with pytest.raises(cml.ModelFormatError, match=r"cut\.json: .*JSON"):
        cml.seal(path, tmp_path / "x")


def test_a_warning_points_at_who_called_seal(tmp_path: Path, regression_file: Path) -> None:
    path = tmp_path / "old.json"
    document = json.loads(regression_file.with_suffix(".json").read_text())
    document["version"] = [1, 4, 0]
    path.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"XGBoost 1\.4") as caught:
        cml.seal(path, tmp_path / "x")
    assert [warning.filename for warning in caught if "1.4" in str(warning.message)] == [__file__]
