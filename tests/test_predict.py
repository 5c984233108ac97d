"""Sealed, loaded and predicted: the same bits, shapes and types as XGBoost gives."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flat_reader
import numpy as np
import numpy.typing as npt
import pytest
import reference

import confidential_ml as cml
from confidential_ml.xgboost_format import to_flat_model

xgboost: Any
try:
    import xgboost
except ImportError:
    xgboost = None

Array = npt.NDArray[Any]
Open = Callable[[str], cml.ConfidentialModel]

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
MODELS = sorted(path.name for kind in ("*.json", "*.ubj") for path in FIXTURES.glob(kind))
# Either form of a file gives the same flat model (test_xgboost_format.py): from here on one of them will do.
ONE_OF_EACH = [name for name in MODELS if name.endswith(".ubj") or name.startswith("xgb-1.0.2")]

# Cases whose rows are in Xcat.npy; those of the others are in X.npy.
CATEGORICAL_ROWS = {"aft", "cat", "expectile", "multitarget", "quantile", "vectorleaf"}

# What the predictions stored beside a file differ in from those of XGBoost 3.4 (fixtures/xgboost/README.md).
FEW_DIGITS = "xgb-1.0.2."  # these files do not hold every digit
FEW_DIGITS_TOLERANCE = 2e-6
UNSORTED_QUANTILES = "xgb-3.0.5.quantile."


def version_of(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removeprefix("xgb-").split(".")[:3])


def case_of(name: str) -> str:
    return name.split(".")[3]


def rows_of(name: str) -> Array:
    case = case_of(name)
    if case == "skl_early":
        with np.load(FIXTURES / "xgb-3.4.1.skl_early.pred.npz") as stored:
            return np.asarray(stored["X"])
    if case == "stringcats":
        return stringcats_as_codes()
    return np.asarray(np.load(FIXTURES / ("Xcat.npy" if case in CATEGORICAL_ROWS else "X.npy")))


def stringcats_as_codes() -> Array:
    """The data frame of the stringcats case as the category codes a caller without data frames would pass."""
    codes = {"s": ["blue", "grün", "red", 'x,"y'], "k": ["-30", "10", "20"]}
    with (FIXTURES / "stringcats.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    columns = [[float(row["q"] or "nan") for row in table]]
    columns += [[float(codes[name].index(row[name])) for row in table] for name in ("s", "k")]
    return np.array(columns, np.float32).T.copy()


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(
        np.ascontiguousarray(actual).view(np.uint32), np.ascontiguousarray(expected).view(np.uint32)
    )


@pytest.fixture(scope="module")
def open_model(enclave: cml.Enclave, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """A fixture's model, sealed, loaded and kept for the tests of this file."""
    directory = tmp_path_factory.mktemp("sealed")
    models: dict[str, cml.ConfidentialModel] = {}

    def open_model(name: str) -> cml.ConfidentialModel:
        if name not in models:
            path = directory / f"{name}.sealed"
            with warnings.catch_warnings():
                # Files of XGBoost 1.0 are read with a warning, see test_xgboost_format.py.
                warnings.filterwarnings("ignore", "this model was written by XGBoost 1.0", UserWarning)
                cml.seal(FIXTURES / name, path, model_id=name)
            models[name] = cml.ConfidentialModel.load_sealed(path, enclave=enclave)
        return models[name]

    yield open_model
    for model in models.values():
        model.close()


# ---- what the writing version predicted -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if "skl_early" not in name])
def test_predictions_are_those_of_the_version_that_wrote_the_file(name: str, open_model: Open) -> None:
    with np.load(FIXTURES / (name.rsplit(".", 1)[0] + ".pred.npz")) as stored:
        margin, value = stored["margin"], stored["value"]
    model, rows = open_model(name), rows_of(name)
    if name.startswith(FEW_DIGITS):
        np.testing.assert_allclose(model.predict(rows, output_margin=True), margin, atol=FEW_DIGITS_TOLERANCE, rtol=0)
        np.testing.assert_allclose(model.predict(rows), value, atol=FEW_DIGITS_TOLERANCE, rtol=0)
        return
    if name.startswith(UNSORTED_QUANTILES):
        assert (np.diff(value) < 0).any()
        value = np.sort(value)
    assert_same_bits(model.predict(rows, output_margin=True), margin)
    assert_same_bits(model.predict(rows), value)


def test_early_stopping_is_asked_for_by_iteration_range(open_model: Open) -> None:
    name = "xgb-3.4.1.skl_early.ubj"
    with np.load(FIXTURES / "xgb-3.4.1.skl_early.pred.npz") as stored:
        rows, probabilities, labels, best = stored["X"], stored["proba"], stored["label"], int(stored["best"])
    model = open_model(name)
    assert best + 1 < model.info.n_rounds
    assert_same_bits(model.predict(rows, iteration_range=(0, best + 1)), probabilities)
    np.testing.assert_array_equal(np.argmax(model.predict(rows, iteration_range=(0, best + 1)), axis=1), labels)


def test_info_says_what_the_file_says(open_model: Open, enclave: cml.Enclave) -> None:
    info = open_model("xgb-3.4.1.softprob.ubj").info
    assert (info.model_id, info.booster, info.objective) == ("xgb-3.4.1.softprob.ubj", "gbtree", "multi:softprob")
    assert (info.n_features, info.n_groups, info.n_trees, info.n_rounds) == (6, 3, 36, 6)
    flat = flat_reader.read(to_flat_model(FIXTURES / "xgb-3.4.1.softprob.ubj"))
    assert info.n_nodes == sum(len(tree.left) for tree in flat.trees)
    assert info.depth == 3
    assert info.policy == "mrenclave"
    assert info.enclave == enclave.identity
    assert (info.mrenclave, info.platform) == (enclave.identity.mrenclave, enclave.identity.platform)
    linear = open_model("xgb-3.4.1.linear.ubj").info
    assert (linear.booster, linear.n_trees, linear.n_nodes, linear.depth) == ("gblinear", 0, 0, 0)
    assert open_model("xgb-3.4.1.dart.ubj").info.booster == "dart"


# ---- rows that sit on every edge ------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38]
SPECIAL += [-1.0, -0.5, 0.5, 1.0, 2.9999998, 3.0, 31.0, 32.0, 33.0, 16777215.0, 16777216.0, 2147483648.0, 1e30]


def edge_rows(name: str) -> Array:
    """Rows of special values, of the thresholds themselves and of their neighbours."""
    model = flat_reader.read(flat_of(name))
    rng = np.random.default_rng(5)
    special = rng.choice(np.array(SPECIAL, np.float32), (200, model.n_features))
    pools: list[list[float]] = [[0.0] for _ in range(model.n_features)]
    for tree in model.trees:
        for node in np.flatnonzero(tree.left >= 0):
            pools[tree.feature[node]].append(float(tree.value[node]))
    columns = []
    for pool in pools:
        thresholds = rng.choice(np.array(pool, np.float32), 300)
        thresholds[100:200] = np.nextafter(thresholds[100:200], np.float32(-np.inf))
        thresholds[200:] = np.nextafter(thresholds[200:], np.float32(np.inf))
        columns.append(thresholds)
    return np.concatenate([special, np.stack(columns, axis=1)])


def flat_of(name: str) -> bytes:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "this model was written by XGBoost 1.0", UserWarning)
        return to_flat_model(FIXTURES / name)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_edges_agree_with_the_reference(name: str, open_model: Open) -> None:
    flat = flat_reader.read(flat_of(name))
    rows = edge_rows(name)
    if flat.booster == flat_reader.GBLINEAR:
        rows = rows[np.isfinite(rows).all(axis=1) & (np.abs(rows) < 1e9).all(axis=1)]
    margin = reference.margins(flat, rows)
    model = open_model(name)
    assert_same_bits(model.predict(rows, output_margin=True, strict_shape=True), margin)
    assert_same_bits(model.predict(rows, strict_shape=True), reference.transform(flat.objective, margin))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_number_of_rows_in_a_call_changes_nothing(name: str, open_model: Open) -> None:
    rows = np.tile(rows_of(name), (2, 1))[:300]
    model = open_model(name)
    whole = model.predict(rows, strict_shape=True)
    for count in (1, 2, 31, 32, 33, 63, 64, 65, 300):
        assert_same_bits(model.predict(rows[:count], strict_shape=True), whole[:count])
        assert_same_bits(model.predict(rows[300 - count :], strict_shape=True), whole[300 - count :])


# ---- XGBoost in this process ----------------------------------------------------------------------------------------

RUNNING = tuple(int(part) for part in xgboost.__version__.split(".")[:2]) if xgboost is not None else (0, 0)
needs_xgboost = pytest.mark.skipif(xgboost is None, reason="xgboost is not installed")
needs_xgboost_3_4 = pytest.mark.skipif(RUNNING < (3, 4), reason="needs XGBoost 3.4 or later")

# XGBoost reads files of older versions, not always of newer ones; and one of 1.0 it refuses.
READABLE = [
    name for name in ONE_OF_EACH if version_of(name)[:2] <= RUNNING and name != "xgb-1.0.2.prune.json" and xgboost
]


def booster_of(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        booster = xgboost.Booster(model_file=str(FIXTURES / name))
        booster.set_param({"nthread": 1, "verbosity": 0})
        return booster


def needs_matrix(info: cml.ModelInfo) -> bool:
    """Linear models cannot be predicted in place; and before 3.4 DART was computed another way there."""
    return info.booster == "gblinear" or (info.booster == "dart" and RUNNING < (3, 4))


def xgboost_predict(booster: Any, rows: Array, *, by_matrix: bool, **options: Any) -> Array:
    """In place where possible: it takes infinities as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not by_matrix:
            options["predict_type"] = "margin" if options.pop("output_margin", False) else "value"
            return np.asarray(booster.inplace_predict(rows, validate_features=False, **options))
        matrix = {name: options.pop(name) for name in ("missing", "base_margin") if name in options}
        return np.asarray(
            booster.predict(xgboost.DMatrix(rows, nthread=1, **matrix), validate_features=False, **options)
        )


@needs_xgboost
@pytest.mark.parametrize("name", READABLE)
def test_every_option_agrees_with_xgboost(name: str, open_model: Open) -> None:
    booster, model = booster_of(name), open_model(name)
    by_matrix, linear = needs_matrix(model.info), model.info.booster == "gblinear"
    rows, rounds, groups = rows_of(name), model.info.n_rounds, model.info.n_groups
    rng = np.random.default_rng(3)
    marked = np.where(rng.random(rows.shape) < 0.2, np.float32(-999.25), rows).astype(np.float32)
    base_margin = rng.normal(size=(len(rows), groups)).astype(np.float32)
    options: list[tuple[Array, dict[str, Any]]] = [
        (rows, {}),
        (rows, {"strict_shape": True}),
        (rows[:1], {}),
        (rows[:1], {"strict_shape": True}),
        (rows, {"base_margin": base_margin}),
        (marked, {"missing": -999.25}),
        (marked, {"missing": 0.0}),
        (rows, {"iteration_range": (0, 0)}),
    ]
    if not linear:
        ranges = [(0, 1), (1, 0), (1, rounds), (2, 3), (3, 3), (0, rounds), (rounds, rounds)]
        options += [(rows, {"iteration_range": bounds}) for bounds in ranges]
        options += [(rows, {"iteration_range": (1, 3), "base_margin": base_margin})]
    if not by_matrix:
        options += [(edge_rows(name), {}), (edge_rows(name), {"missing": np.inf})]
    for given, option in options:
        for output_margin in (False, True):
            if case_of(name) == "quantile" and not output_margin and RUNNING < (3, 4):
                continue
            expected = xgboost_predict(booster, given, by_matrix=by_matrix, output_margin=output_margin, **option)
            assert_same_bits(model.predict(given, output_margin=output_margin, **option), expected)


@needs_xgboost
@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith("xgb-3")])
def test_values_of_many_margins_agree_with_xgboost(name: str, open_model: Open) -> None:
    """The last bit of an exponential differs in one row of a thousand or fewer, if it differs."""
    if case_of(name) == "quantile" and RUNNING < (3, 4):
        pytest.skip("XGBoost sorts quantiles since 3.4")
    model = open_model(name)
    rng = np.random.default_rng(9)
    rows = np.tile(rows_of(name), (80, 1))
    scale = rng.choice([0.1, 1.0, 20.0, 90.0], (len(rows), 1))
    base_margin = (rng.normal(size=(len(rows), model.info.n_groups)) * scale).astype(np.float32)
    by_matrix = needs_matrix(model.info)
    expected = xgboost_predict(booster_of(name), rows, by_matrix=by_matrix, base_margin=base_margin)
    assert_same_bits(model.predict(rows, base_margin=base_margin), expected)


@needs_xgboost
@needs_xgboost_3_4
@pytest.mark.parametrize("case", ["reg", "softprob", "softmax", "linear"])
@pytest.mark.parametrize("output_margin", [False, True])
@pytest.mark.parametrize("strict_shape", [False, True])
def test_no_rows_give_what_xgboost_gives(case: str, output_margin: bool, strict_shape: bool, open_model: Open) -> None:
    name = f"xgb-3.0.5.{case}.ubj"
    rows = np.empty((0, 6), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = xgboost.DMatrix(rows)
        expected = booster_of(name).predict(matrix, output_margin=output_margin, strict_shape=strict_shape)
    actual = open_model(name).predict(rows, output_margin=output_margin, strict_shape=strict_shape)
    assert actual.shape == expected.shape == (0, 0)
    assert actual.dtype == expected.dtype


def test_no_rows_still_check_the_model_and_the_arguments(open_model: Open) -> None:
    model = open_model("xgb-3.4.1.reg.ubj")
    rows = np.empty((0, 6), np.float32)
    assert model.predict(rows).shape == (0, 0)
    with pytest.raises(cml.InvalidInputError):
        model.predict(rows, iteration_range=(0, 7))
    with pytest.raises(cml.InvalidInputError):
        model.predict(np.empty((0, 5), np.float32))


@needs_xgboost
@needs_xgboost_3_4
def test_scikit_learn_estimators_and_their_boosters_are_one_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 3, 200)
    classifier = xgboost.XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1).fit(rows, labels)
    by_estimator = cml.seal(classifier, tmp_path / "estimator.sealed")
    by_booster = cml.seal(classifier.get_booster(), tmp_path / "booster.sealed")
    assert by_estimator.model_digest == by_booster.model_digest
    with cml.ConfidentialModel.load_sealed(tmp_path / "estimator.sealed") as model:
        assert_same_bits(model.predict(rows), classifier.predict_proba(rows))
