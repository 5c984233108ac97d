"""XGBoost files to flat models: the fixtures of five XGBoost versions, hostile files, models trained here."""

from __future__ import annotations

import copy
import csv
import json
import random
import re
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from flat_reader import DART, GBLINEAR, GBTREE, read
from hypothesis import given
from hypothesis import strategies as st

from confidential_ml import document_limits, flat_model, strict_json, xgboost_trees
from confidential_ml.errors import InvalidInputError, ModelFormatError
from confidential_ml.xgboost_format import to_flat_model

Array = npt.NDArray[Any]
Document = dict[str, Any]
Change = Callable[[Document], object]
Sample = tuple[Array, Array]

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
MODELS = sorted(path.name for path in FIXTURES.glob("*.json"))
TWINS = sorted(path.stem for path in FIXTURES.glob("*.ubj"))
BINARY = sorted(path.name for pattern in ("*.model", "*.deprecated") for path in FIXTURES.glob(pattern))

# Cases of make_fixtures.py see X.npy, those of make_fixtures_extra.py see Xcat.npy.
EXTRA_CASES = {"aft", "cat", "expectile", "multitarget", "quantile", "vectorleaf"}

# Where the writing version's prediction is not bit for bit that of XGBoost 3.4.1, and why (fixtures/xgboost/README.md).
FEW_DIGITS = {  # 1.0.2 wrote too few digits to give the same float32 back
    "xgb-1.0.2.dart.json",
    "xgb-1.0.2.logit.json",
    "xgb-1.0.2.prune.json",
    "xgb-1.0.2.reg.json",
    "xgb-1.0.2.softprob.json",
}
FEW_DIGITS_TOLERANCE = 2e-6
UNSORTED_QUANTILES = {"xgb-3.0.5.quantile.json"}  # 3.4.1 sorts the values of a row, 3.0.5 did not


def flat(source: object) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return to_flat_model(source)


def document(name: str) -> Document:
    value: Document = json.loads((FIXTURES / name).read_text())
    return value


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def refused(value: object, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        flat(value if isinstance(value, bytes) else as_json(value))


def forest_of(value: Document) -> Document:
    model: Document = value["learner"]["gradient_booster"]["model"]
    return model


def fixture_rows(case: str) -> Array:
    if case == "stringcats":
        codes = {"s": ["blue", "grün", "red", 'x,"y'], "k": ["-30", "10", "20"]}
        with (FIXTURES / "stringcats.csv").open(encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        columns = [[float(row["q"] or "nan") for row in table]]
        columns += [[codes[name].index(row[name]) for row in table] for name in ("s", "k")]
        return np.array(columns, np.float32).T
    rows: Array = np.load(FIXTURES / ("Xcat.npy" if case in EXTRA_CASES else "X.npy"))
    return rows


# ---- fixtures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if "skl_early" not in name])
def test_predictions_equal_those_of_the_writing_version(name: str) -> None:
    case = name.split(".")[-2]
    model = read(flat(FIXTURES / name))
    with np.load(FIXTURES / name.replace(".json", ".pred.npz")) as predictions:
        expected_margin, expected_value = predictions["margin"], predictions["value"]
    margin = reference.margins(model, fixture_rows(case))
    value = reference.transform(model.objective, margin)
    if name in UNSORTED_QUANTILES:
        assert (np.diff(expected_value, axis=1) < 0).any()
        expected_value = np.sort(expected_value, axis=1)
    if name in FEW_DIGITS:
        np.testing.assert_allclose(margin.ravel(), expected_margin.ravel(), rtol=0, atol=FEW_DIGITS_TOLERANCE)
        np.testing.assert_allclose(value.ravel(), expected_value.ravel(), rtol=0, atol=FEW_DIGITS_TOLERANCE)
        return
    # softmax has no margin of its own shape in old versions' files; everything else is compared as bits.
    assert_same_bits(margin, expected_margin)
    assert_same_bits(value, expected_value)


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert expected.dtype == actual.dtype == np.float32
    np.testing.assert_array_equal(actual.ravel().view(np.uint32), expected.ravel().view(np.uint32))


def test_early_stopped_classifier() -> None:
    model = read(flat(FIXTURES / "xgb-3.4.1.skl_early.json"))
    with np.load(FIXTURES / "xgb-3.4.1.skl_early.pred.npz") as predictions:
        rows, proba, label, best = (predictions[name] for name in ("X", "proba", "label", "best"))
    margin = reference.margins(model, rows, iteration_range=(0, int(best) + 1))
    assert_same_bits(reference.transform(model.objective, margin), proba)
    np.testing.assert_array_equal(np.argmax(margin, axis=1), label)
    assert len(model.round_begin) - 1 > int(best) + 1


@pytest.mark.parametrize("stem", TWINS)
def test_json_and_ubjson_give_the_same_bytes(stem: str) -> None:
    assert flat(FIXTURES / f"{stem}.json") == flat(FIXTURES / f"{stem}.ubj")


@pytest.mark.parametrize("name", BINARY)
def test_old_binary_format_is_refused_with_advice(name: str) -> None:
    assert len(BINARY) >= 4
    refused((FIXTURES / name).read_bytes(), r"old binary format.*1\.6 to 3\.0.*save_model")


def test_fixtures_cover_every_booster_and_form_of_leaf() -> None:
    models = [read(flat(FIXTURES / name)) for name in MODELS]
    assert {model.booster for model in models} == {GBTREE, DART, GBLINEAR}
    assert any(model.leaf_size > 1 for model in models)
    assert any(tree.category_sets for model in models for tree in model.trees)


def test_no_message_about_a_damaged_model_shows_its_values() -> None:
    value = document("xgb-3.4.1.reg.json")
    messages = []
    for field in ("split_conditions", "left_children", "right_children", "split_indices", "default_left"):
        for replacement in (1e300, "secret", -7.25, 12345678):
            broken = copy.deepcopy(value)
            forest_of(broken)["trees"][1][field][0] = replacement
            try:
                flat(as_json(broken))
            except ModelFormatError as error:
                messages.append(str(error))
    assert len(messages) >= 16
    for message in messages:
        assert "tree 1" in message
        assert not re.search(r"e\+?300|secret|7\.25|12345678", message)


# ---- sources --------------------------------------------------------------------------------------------------------


def test_sources_of_bytes_and_paths(tmp_path: Path) -> None:
    data = (FIXTURES / "xgb-3.4.1.reg.ubj").read_bytes()
    expected = flat(data)
    path = tmp_path / "model.of.any.name"
    path.write_bytes(data)
    for source in (str(path), path, bytearray(data), memoryview(data)):
        assert flat(source) == expected
    assert flat(b" \n" + (FIXTURES / "xgb-3.4.1.reg.json").read_bytes() + b"\n") == expected


class FakeBooster:
    def save_raw(self, raw_format: str) -> bytearray:
        return bytearray((FIXTURES / f"xgb-3.4.1.reg.{raw_format}").read_bytes())


class FakeEstimator:
    def get_booster(self) -> FakeBooster:
        return FakeBooster()


class NotFittedError(ValueError):
    pass


class UnfittedEstimator:
    def get_booster(self) -> FakeBooster:
        raise NotFittedError("need to call fit")


def test_boosters_are_recognised_by_what_they_can_do() -> None:
    expected = flat(FIXTURES / "xgb-3.4.1.reg.ubj")
    assert flat(FakeBooster()) == flat(FakeEstimator()) == expected
    with pytest.raises(ModelFormatError, match="not been fitted"):
        to_flat_model(UnfittedEstimator())


@pytest.mark.parametrize("source", [None, 7, 1.5, ["model.json"], np.zeros(3), object])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(InvalidInputError, match="expected a path, bytes"):
        to_flat_model(source)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no model file .*none\.json"):
        to_flat_model(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty: it has 0 bytes"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"binf" + bytes(200), "old binary format.*1.6 to 3.0"),
        (b"bs64\tAAAA", "old binary format.*1.6 to 3.0"),
        (b"CONFIG-offset:" + bytes(8), "snapshot.*save_model"),
        (b"booster[0]:\n0:[f0<1]", "dump"),
        (b'[{"nodeid": 0}]', "dump"),
        (b"CMLFLAT\0", "already"),
        (b"CMLSEAL\0", "already"),
        (b"PK\x03\x04", "neither JSON nor UBJSON"),
        # Over HTTP as well, where nothing can be passed as text.
        (b"model.json", "the path of a file, the content of that file is needed here"),
        (b'{"Model": {}, "Config": {}}', "snapshot.*save_model"),
        (b'{"learner": {}}', "version"),
        (b"{}", "version"),
    ],
)
def test_other_files_are_refused_by_name(data: bytes, message: str) -> None:
    refused(data, message)


@pytest.mark.parametrize(
    ("version", "message"),
    [([0, 90, 0], "before 1.0"), ([4, 0, 0], "4.0.0"), ([3, 4], "three numbers"), ("3.4.1", "three numbers")],
)
def test_versions_that_are_refused(version: object, message: str) -> None:
    value = document("xgb-3.4.1.reg.json")
    value["version"] = version
    refused(value, message)


@pytest.mark.parametrize(("version", "message"), [([1, 5, 2], "Before 1.6"), ([3, 5, 0], "newer than")])
def test_versions_that_warn(version: list[int], message: str) -> None:
    value = document("xgb-3.4.1.reg.json")
    value["version"] = version
    with pytest.warns(UserWarning, match=message) as caught:
        to_flat_model(as_json(value))
    assert len(caught) == 1  # test_inputs.py sees whom it points at


def test_no_warning_for_tested_versions() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in MODELS:
            if not name.startswith("xgb-1.0.2"):
                to_flat_model(FIXTURES / name)


# ---- decimals -------------------------------------------------------------------------------------------------------


def nearest_float32(exact: Fraction) -> float:
    """By definition: try the neighbours of a first guess, take the nearest, on a tie the even one."""
    guess = np.float32(float(exact))
    candidates = {guess, np.nextafter(guess, np.float32(-np.inf)), np.nextafter(guess, np.float32(np.inf))}
    finite = [c for c in candidates if np.isfinite(c)]
    return float(min(finite, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.uint32)) & 1)))


midpoints = st.builds(
    lambda bits, offset, digits: (Fraction(float(np.uint32(bits).view(np.float32))), offset, digits),
    st.integers(0, 0x7F7FFFFE),
    st.sampled_from([-1, 0, 1]),
    st.integers(0, 60),
)


def decimal_text(exact: Fraction) -> str:
    """A dyadic fraction as a decimal, digit for digit."""
    power = exact.denominator.bit_length() - 1
    return f"{exact.numerator * 5**power}e-{power}"


@given(midpoints)
def test_decimals_near_float32_midpoints_round_once(case: tuple[Fraction, int, int]) -> None:
    low, offset, digits = case
    high = Fraction(float(np.nextafter(np.float32(float(low)), np.float32(np.inf))))
    middle = (low + high) / 2
    exact = middle + offset * (high - low) / 2 ** (30 + digits)
    result = strict_json.float32_from_decimal(decimal_text(exact))
    assert result == nearest_float32(exact)
    # The vectorised test finds every decimal that rounding twice would get wrong.
    twice = float(np.float32(float(exact)))
    if twice != result:
        assert strict_json.contains_float32_midpoint(np.array([1.5, float(exact)]))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_themselves_are_no_midpoints_and_come_back(number: float) -> None:
    assert not strict_json.contains_float32_midpoint(np.array([number]))
    for text in (repr(number), f"{number:.9g}", f"{number:.60f}"):
        result = strict_json.float32_from_decimal(text)
        assert struct.pack("<f", result) == struct.pack("<f", number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("340282356779733661637539395458142568448", np.inf),  # FLT_MAX and half a step: to even, which is beyond
        ("340282356779733661637539395458142568447.9", 3.4028234663852886e38),
        ("7.0064923216240853546186479164495e-46", 0.0),  # half of the smallest float32, cut off
        ("7.0064923216240853546186479164496e-46", 1.401298464324817e-45),
        ("-0.0", -0.0),
        ("1e400", np.inf),
        ("-1e-400", -0.0),
    ],
)
def test_decimals_at_the_ends_of_the_range(text: str, expected: float) -> None:
    assert struct.pack("<d", strict_json.float32_from_decimal(text)) == struct.pack("<d", expected)


def test_midpoint_in_a_document_is_read_again_exactly() -> None:
    raw = (FIXTURES / "xgb-3.4.1.reg.json").read_text()
    leaf = document("xgb-3.4.1.reg.json")["learner"]["gradient_booster"]["model"]["trees"][0]["split_conditions"][-1]
    assert leaf > 0
    middle = 1 + Fraction(1, 2**24)  # between 1 and its successor; float64 cannot tell the two texts from it
    for delta, expected in ((Fraction(-1, 10**40), 1.0), (0, 1.0), (Fraction(1, 10**40), 1 + 2.0**-23)):
        number = middle + delta
        text = f"1.{int((number - 1) * 10**60):060d}"
        assert float(text) == float(middle)
        section = raw[raw.index('"split_conditions":[') :]
        section = section[: section.index("]") + 1]
        changed = raw.replace(section, section[: section.rindex(",") + 1] + text + "]", 1)
        assert read(flat(changed.encode())).trees[0].value[-1] == np.float32(expected)


# ---- refusals, one by one -------------------------------------------------------------------------------------------


def tree_0(value: Document) -> Document:
    tree: Document = forest_of(value)["trees"][0]
    return tree


def set_node(field: str, node: int, new: object) -> Change:
    def change(value: Document) -> None:
        tree_0(value)[field][node] = new

    return change


def set_learner(name: str, new: object) -> Change:
    def change(value: Document) -> None:
        value["learner"]["learner_model_param"][name] = new

    return change


def set_model(name: str, new: object) -> Change:
    def change(value: Document) -> None:
        forest_of(value)[name] = new

    return change


def set_objective(name: str) -> Change:
    def change(value: Document) -> None:
        value["learner"]["objective"]["name"] = name

    return change


def set_base_score(objective: str, text: str) -> Change:
    def change(value: Document) -> None:
        set_objective(objective)(value)
        set_learner("base_score", text)(value)

    return change


def cycle(value: Document) -> None:
    # Node 1 becomes a child of its own child 4, and no longer of the root.
    tree = tree_0(value)
    child = tree["left_children"][4]
    tree["left_children"][0], tree["right_children"][0] = child, child + 1
    tree["left_children"][4], tree["right_children"][4] = 1, 2


def shared_children(value: Document) -> None:
    tree = tree_0(value)
    tree["left_children"][2], tree["right_children"][2] = tree["left_children"][1], tree["right_children"][1]


def root_as_child(value: Document) -> None:
    cycle(value)
    tree = tree_0(value)
    tree["left_children"][4], tree["right_children"][4] = 0, 1


def sizes_whose_sum_wraps(value: Document) -> None:
    # Four times 2^62 is 0 in 64 bits: the sizes seem to add up to the number of categories.
    tree = tree_0(value)
    n_sets, n_categories = len(tree["categories_sizes"]), len(tree["categories"])
    sizes = [2**62] * 4 + [1] * (n_sets - 5)
    sizes.append(n_categories - (n_sets - 5))
    tree["categories_sizes"] = sizes
    tree["categories_segments"] = (np.cumsum(sizes) - sizes).tolist()


BROKEN: list[tuple[Change, str]] = [
    (set_node("left_children", 0, 99), "tree 0, node 0: left child out of range"),
    (set_node("left_children", 0, -2), "tree 0, node 0: left child out of range"),
    (set_node("right_children", 0, 99), "tree 0, node 0: right child out of range"),
    (set_node("right_children", 0, 3), "tree 0, node 0: right child does not follow"),
    (set_node("right_children", -1, 3), "has a right child but no left child"),
    (set_node("left_children", 0, 10**30), "tree 0: left_children is not an array of integers"),
    (set_node("left_children", 0, 1.0), "tree 0: left_children is not an array of integers"),
    (set_node("split_indices", 0, 6), "tree 0, node 0: splits on a feature that is not below num_feature"),
    (set_node("split_indices", 0, -1), "tree 0, node 0: splits on a feature"),
    (set_node("split_indices", 0, 2147483647), "is deleted but still part of the tree"),
    (set_node("split_conditions", 0, float("nan")), "tree 0, node 0: the threshold .* finite"),
    (set_node("split_conditions", 0, 1e39), "tree 0, node 0: the threshold .* finite"),
    (set_node("split_conditions", 0, 10**400), "tree 0: split_conditions is not an array of numbers"),
    (set_node("split_conditions", -1, float("inf")), "the leaf value .* finite"),
    (set_node("split_conditions", 0, "1"), "tree 0: split_conditions is not an array of numbers"),
    (set_node("default_left", 0, 2), "tree 0, node 0: default_left"),
    (set_node("default_left", 0, -1), "tree 0, node 0: default_left"),
    (set_node("split_type", 0, 2), "tree 0: split_type"),
    (set_node("split_type", 0, 1), "tree 0: categories_nodes"),
    (shared_children, "has more than one parent"),
    (root_as_child, "tree 0, node 0: the root is the child of a node"),
    (cycle, "tree 0, node 1: cannot be reached from the root"),
    (lambda v: tree_0(v)["left_children"].pop(), "tree 0: left_children: 12 elements, must be 13"),
    (lambda v: tree_0(v)["loss_changes"].pop(), "tree 0: loss_changes: 12 elements"),
    (lambda v: tree_0(v).pop("split_indices"), "tree 0: split_indices is missing"),
    (lambda v: tree_0(v).update(id=1), "tree 0: id"),
    (lambda v: tree_0(v)["tree_param"].update(num_deleted="2"), "tree 0: num_deleted"),
    (lambda v: tree_0(v)["tree_param"].update(num_nodes="15.0"), "tree 0: tree_param.num_nodes: not a whole number"),
    (lambda v: tree_0(v)["tree_param"].update(num_nodes="0"), "tree 0: num_nodes is 0"),
    (lambda v: tree_0(v)["tree_param"].update(size_leaf_vector="3"), "tree 0: size_leaf_vector"),
    (lambda v: forest_of(v)["trees"].pop(), "model.trees: 5 elements, must be 6"),
    (set_model("tree_info", [0, 0, 0, 0, 0, 1]), r"model.tree_info\[5\]"),
    (set_model("tree_info", [0, 0, 0, 0, 0]), "model.tree_info: 5 elements, must be 6"),
    (set_model("iteration_indptr", [0, 1, 2, 3, 4, 5]), "iteration_indptr"),
    (set_model("iteration_indptr", [0, 4, 2, 6]), "iteration_indptr"),
    (set_model("iteration_indptr", [1, 6]), "iteration_indptr"),
    (set_model("iteration_indptr", []), "iteration_indptr"),
    (set_model("weight_drop", [1.0] * 5), "weight_drop: 5 elements, must be 6"),
    (set_model("weight_drop", [1.0] * 5 + [float("nan")]), r"weight_drop\[5\]: not a finite"),
    (set_model("gbtree_model_param", {"num_trees": "7"}), "model.trees: 6 elements, must be 7"),
    (set_learner("num_feature", "0"), "not been fitted"),
    (set_learner("num_feature", str(2**22 + 1)), "limit is 4194304"),
    (set_learner("num_feature", "1" * 400), "not a whole number"),
    (set_learner("num_feature", 6), "expected a string"),
    (set_learner("num_class", str(2**16 + 1)), "limit is 65536"),
    (set_learner("num_target", "0"), "num_target"),
    (set_learner("base_score", "[1E0,2E0]"), "2 values for 1 groups"),
    (set_learner("base_score", "[nan]"), r"base_score\[0\]: not a finite number"),
    (set_learner("base_score", "[]"), "not a finite number"),
    (set_learner("base_score", "1_0"), "not a finite number"),
    (set_learner("base_score", "1e39"), "must be finite"),
    (set_base_score("binary:logistic", "1.5"), "within 0 to 1"),
    (set_base_score("count:poisson", "-1"), "at least 0"),
    (set_base_score("reg:gamma", "0"), "above 0"),
    (set_objective("multi:softprob"), "num_class.*multi:softprob"),
    (set_objective("reg:mine"), "unknown objective 'reg:mine'; known are reg:squarederror"),
    (lambda v: v["learner"]["gradient_booster"].update(name="gbforest"), "unknown booster 'gbforest'"),
    (lambda v: v["learner"]["gradient_booster"].update(weight_drop=[1.0] * 6), "weight_drop: belongs to dart"),
    (lambda v: v["learner"].pop("objective"), "objective is missing"),
    (lambda v: v.update(learner=[]), "expected an object, found an array"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_models_are_refused(change: Change, message: str) -> None:
    value = document("xgb-3.4.1.reg.json")
    change(value)
    refused(value, message)


BROKEN_CATEGORIES: list[tuple[Change, str]] = [
    (set_node("categories", 0, -1), "tree 0, node 0: a category is not within"),
    (set_node("categories", 0, 2**24), "tree 0, node 0: a category is not within"),
    (set_node("categories_sizes", 0, 0), "tree 0: categories_segments and"),
    (set_node("categories_sizes", 0, 2**62), "tree 0: categories_segments and"),
    (sizes_whose_sum_wraps, "tree 0: categories_segments and"),
    (set_node("categories_segments", 1, 0), "tree 0: categories_segments and"),
    (set_node("categories_nodes", 0, 4), "categories_nodes"),
    (lambda v: tree_0(v)["categories"].pop(), "tree 0: categories_sizes|tree 0: categories_segments"),
    (lambda v: tree_0(v)["categories"].append(1), "tree 0: categories_sizes do not add up"),
    (lambda v: tree_0(v)["categories_nodes"].pop(), "tree 0: categories_nodes"),
]


def test_too_many_categories_are_refused_before_they_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    value = document("xgb-3.4.1.cat.json")
    count = sum(len(tree["categories"]) for tree in forest_of(value)["trees"])
    monkeypatch.setattr(xgboost_trees, "MAX_CATEGORIES", count)
    to_flat_model(json.dumps(value).encode())
    monkeypatch.setattr(xgboost_trees, "MAX_CATEGORIES", count - 1)
    refused(value, f"categories: {count} in all sets together, more than the limit")


@pytest.mark.parametrize("objective", ["binary:logistic", "count:poisson", "reg:gamma", "reg:squarederror"])
def test_without_rounds_base_score_must_have_been_set(objective: str) -> None:
    """XGBoost takes the 0.5 that is yet to be estimated for a margin, and one that was set for a value."""
    value = document("xgb-3.4.1.reg.json")
    learner = value["learner"]
    learner["objective"] = {"name": objective, "reg_loss_param": {"scale_pos_weight": "1"}}
    model = forest_of(value)
    model["trees"], model["tree_info"], model["iteration_indptr"] = [], [], [0]
    model["gbtree_model_param"]["num_trees"] = "0"
    learner["learner_model_param"] |= {"base_score": "[5E-1]", "boost_from_average": "0"}
    to_flat_model(json.dumps(value).encode())
    learner["learner_model_param"]["boost_from_average"] = "1"
    if objective == "reg:squarederror":
        to_flat_model(json.dumps(value).encode())
    else:
        refused(value, "no rounds, and its base_score is yet to be estimated")


@pytest.mark.parametrize(("change", "message"), BROKEN_CATEGORIES)
def test_broken_categories_are_refused(change: Change, message: str) -> None:
    value = document("xgb-3.4.1.cat.json")
    change(value)
    refused(value, message)


BROKEN_VECTORS: list[tuple[Change, str]] = [
    (lambda v: [tree.pop("leaf_weights") for tree in forest_of(v)["trees"]], "before XGBoost 3.2"),
    (set_node("right_children", -1, 0), "shares its leaf vector"),
    (set_node("right_children", -1, 15), "leaf vector .* out of range"),
    (set_node("right_children", -1, -1), "leaf vector .* out of range"),
    (set_node("leaf_weights", 4, float("nan")), "tree 0: leaf_weights"),
    (lambda v: tree_0(v)["leaf_weights"].pop(), "tree 0: leaf_weights: 44 elements, must be 45"),
    (lambda v: tree_0(v)["tree_param"].update(size_leaf_vector="1"), "tree 0: size_leaf_vector"),
    (set_model("tree_info", [0, 1, 0, 0]), r"tree_info\[1\]: must be 0"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_VECTORS)
def test_broken_leaf_vectors_are_refused(change: Change, message: str) -> None:
    value = document("xgb-3.4.1.vectorleaf.json")
    change(value)
    refused(value, message)


def test_broken_linear_models_are_refused() -> None:
    for name, new, message in (
        ("weights", [0.0] * 6, "6 values, must be 7"),
        ("weights", [0.0] * 6 + [float("inf")], r"weights\[6\]: not a finite"),
        ("boosted_rounds", "6", "boosted_rounds"),
        ("boosted_rounds", 2**20 + 1, "limit is 1048576"),
    ):
        value = document("xgb-3.4.1.linear.json")
        forest_of(value)[name] = new
        refused(value, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"7" * 5000 + b"}", "too many digits"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1} x', "Extra data at character"),
        (b'{"a": 1', "at character"),
    ],
)
def test_bad_json_is_refused(data: bytes, message: str) -> None:
    refused(data, message)


# Objects with names of the user's own, and those that no prediction uses.
FREE = re.compile(r"\.attributes$|\.objective\.\w+$|\.cats\b")


def objects_in(value: Any, path: str = "") -> Iterator[tuple[str, Document]]:
    if isinstance(value, dict):
        yield path, value
        for name, member in value.items():
            yield from objects_in(member, f"{path}.{name}")
    elif isinstance(value, list):
        for position, member in enumerate(value[:2]):
            yield from objects_in(member, f"{path}[{position}]")


@pytest.mark.parametrize(
    "name", ["xgb-1.7.6.dart.json", "xgb-3.0.5.linear.json", "xgb-3.4.1.dart.json", "xgb-3.4.1.vectorleaf.json"]
)
def test_unknown_members_are_refused_by_name(name: str) -> None:
    whole = document(name)
    before = flat(as_json(whole))
    checked = 0
    for path, found in objects_in(whole):
        found["linear_leaf"] = "7"
        if FREE.search(path):
            assert flat(as_json(whole)) == before
        else:
            refused(whole, "unknown member 'linear_leaf'")
            checked += 1
        del found["linear_leaf"]
    assert checked >= 6


def test_unknown_types_of_features_are_refused() -> None:
    value = document("xgb-3.4.1.reg.json")
    n_features = int(value["learner"]["learner_model_param"]["num_feature"])
    value["learner"]["feature_types"] = ["float", "int", "i", "q", "c", "float"][:n_features]
    flat(as_json(value))
    value["learner"]["feature_types"][1] = "wow"
    refused(value, r"feature_types\[1\]: 'wow' is none of c, float, i, int, q")
    value["learner"]["feature_types"] = "float"
    refused(value, "feature_types: expected an array of strings, found a string")


def test_nan_in_old_files_of_categorical_splits_and_in_statistics() -> None:
    assert b"NaN" in (FIXTURES / "xgb-1.7.6.cat.json").read_bytes()
    value = document("xgb-3.4.1.cat.json")
    expected = flat(as_json(value))
    tree_0(value)["split_conditions"][0] = float("nan")  # node 0 is categorical
    tree_0(value)["loss_changes"][0] = float("nan")
    assert flat(as_json(value)) == expected


def test_rounds_of_files_that_do_not_tell_them() -> None:
    value = document("xgb-3.4.1.softprob.json")
    expected = flat(as_json(value))
    del forest_of(value)["iteration_indptr"]
    assert flat(as_json(value)) == expected
    forest_of(value)["gbtree_model_param"]["num_parallel_tree"] = "5"
    refused(value, "36 trees are no whole number of rounds of 15")


@pytest.mark.parametrize("text", ["5E-1", "[5E-1]", "(5E-1)", "[ 0.5 ]", "0.500000", "0.05e+1"])
def test_spellings_of_base_score(text: str) -> None:
    value = document("xgb-3.4.1.reg.json")
    value["learner"]["learner_model_param"]["base_score"] = text
    assert read(flat(as_json(value))).base_score.tolist() == [0.5]


@pytest.mark.parametrize(
    "text",
    ["+1", "[+1]", " 1 ", "1 ", " [1]", "01", "[01]", ".5", "5.", "[1)", "(1", "1]", "[[1]]", "\uff11", "1_0", "[1\n]"],
)
def test_base_scores_that_are_no_numbers_of_json(text: str) -> None:
    value = document("xgb-3.4.1.reg.json")
    value["learner"]["learner_model_param"]["base_score"] = text
    refused(value, "base_score.*not a finite number")


@pytest.mark.parametrize(
    "content",
    [
        "--+e",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1.2.3",
        "1e2e3",
        "1e2.5",
        "+1",
        "1 2",
        "1,,1",
        "-01",
        "1-1",
        "1e--5",
        "0x1",
        "e5",
    ],
)
def test_statistics_are_numbers_too(content: str) -> None:
    """Also those arrays that no prediction uses, and that are not converted."""
    raw = json.dumps(document("xgb-3.4.1.reg.json"), separators=(",", ":"))
    array = re.search(r'"sum_hessian":\[([^,]+),([^,]+),', raw)
    assert array is not None
    for group in (1, 2):
        changed = raw[: array.start(group)] + content + raw[array.end(group) :]
        with pytest.raises(ModelFormatError, match="JSON"):
            flat(changed.encode())


@pytest.mark.parametrize("spelling", [(",", ":"), (", ", ": ")])
def test_a_number_is_no_array(spelling: tuple[str, str]) -> None:
    value = document("xgb-3.4.1.reg.json")
    for name in ("sum_hessian", "parents", "base_weights"):
        changed = copy.deepcopy(value)
        content: Any
        size = len(tree_0(changed)[name])
        for content in (size, str(size), [[size]], {}, True, float(size)):
            tree_0(changed)[name] = content
            with pytest.raises(ModelFormatError, match=f"tree 0: {name}"):
                flat(json.dumps(changed, separators=spelling).encode())


def test_true_is_no_number_but_in_old_flags() -> None:
    value = document("xgb-3.4.1.reg.json")
    expected = flat(as_json(value))
    tree = tree_0(value)
    for name in ("split_conditions", "left_children", "split_indices", "split_type"):
        changed = copy.deepcopy(value)
        tree_0(changed)[name][-1] = True
        refused(changed, f"tree 0: {name} is not an array of")
    tree["default_left"] = [bool(flag) for flag in tree["default_left"]]  # as XGBoost 1.0 wrote it
    assert flat(as_json(value)) == expected


def test_old_and_new_place_of_dart_weights() -> None:
    value = document("xgb-3.4.1.dart.json")
    expected = flat(as_json(value))
    booster = value["learner"]["gradient_booster"]
    weights = booster["model"].pop("weight_drop")
    value["learner"]["gradient_booster"] = {"name": "dart", "gbtree": booster, "weight_drop": weights}
    assert flat(as_json(value)) == expected
    booster["model"]["weight_drop"] = weights
    refused(value, "weight_drop appears twice")


def chain(depth: int) -> Document:
    """A model of one tree in which every left child is a split, as deep as asked for."""
    value = document("xgb-3.4.1.reg.json")
    n_nodes = 2 * depth + 1
    internal = [0, *range(1, n_nodes - 2, 2)]
    left = [-1] * n_nodes
    for position, node in enumerate(internal):
        left[node] = 2 * position + 1
    zeros = [0] * n_nodes
    tree: Document = {name: list(zeros) for name in tree_0(value) if isinstance(tree_0(value)[name], list)}
    tree.update({name: [] for name in tree if name.startswith("categories")})
    tree.update(id=0, left_children=left, right_children=[child + 1 if child > 0 else -1 for child in left])
    tree["tree_param"] = {"num_nodes": str(n_nodes), "num_deleted": "0", "size_leaf_vector": "1"}
    model = forest_of(value)
    model.update(trees=[tree], tree_info=[0], iteration_indptr=[0, 1])
    model["gbtree_model_param"]["num_trees"] = "1"
    return value


def test_limit_of_depth() -> None:
    assert len(read(flat(as_json(chain(flat_model.MAX_DEPTH)))).trees[0].left) == 2 * flat_model.MAX_DEPTH + 1
    refused(chain(flat_model.MAX_DEPTH + 1), "tree 0: deeper than the limit of 4096")


def test_limit_of_category_words_is_checked_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_model, "MAX_SIZE", 1 << 20)
    value = document("xgb-3.4.1.cat.json")
    tree_0(value)["categories"][0] = 2**24 - 1
    refused(value, "524.* words of category sets")


def test_limit_of_total_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_model, "MAX_SIZE", 100)
    refused(document("xgb-3.4.1.reg.json"), "bytes in its flat form; the limit is 100")


def test_limit_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confidential_ml.xgboost_format.MAX_DOCUMENT_SIZE", 1000)
    with pytest.raises(ModelFormatError, match="limit of 1000 bytes"):
        flat(FIXTURES / "xgb-3.4.1.reg.json")


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_limits_of_what_a_document_holds(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Met with room to spare by every model; a file of empty arrays would take 38 times its size in memory."""
    for stem in TWINS:
        raw = as_json(document(f"{stem}.json"))
        n_trees = raw.count(b'"tree_param"')
        assert raw.count(b"[") + raw.count(b"{") <= 18 * n_trees + 40, stem
        assert raw.count(b'"') // 2 <= 27 * n_trees + 150, stem
    path = FIXTURES / f"xgb-3.4.1.reg.{suffix}"
    flat(path)
    for name, limit, message in (
        ("MAX_CONTAINERS", 100, "objects and arrays than the limit of 100"),
        ("MAX_STRINGS", 150, "strings than the limit of 150"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(document_limits, name, limit)
            with pytest.raises(ModelFormatError, match=message):
                flat(path)


def test_limits_are_those_of_the_enclave() -> None:
    header = (Path(__file__).parents[1] / "common" / "limits.h").read_text()
    names = {
        "kMaxFlatModelSize": flat_model.MAX_SIZE,
        "kMaxFeatures": flat_model.MAX_FEATURES,
        "kMaxGroups": flat_model.MAX_GROUPS,
        "kMaxRounds": flat_model.MAX_ROUNDS,
        "kMaxTrees": flat_model.MAX_TREES,
        "kMaxNodes": flat_model.MAX_NODES,
        "kMaxDepth": flat_model.MAX_DEPTH,
    }
    for name, limit in names.items():
        found = re.search(rf"{name} = (?:uint64_t\{{)?(\d+)u?\}}?(?: << (\d+))?;", header)
        assert found is not None
        assert int(found[1]) << int(found[2] or 0) == limit, name


# ---- hostile files --------------------------------------------------------------------------------------------------

HOSTILE = ["xgb-3.4.1.cat", "xgb-1.7.6.dart", "xgb-3.4.1.vectorleaf", "xgb-3.4.1.linear", "xgb-3.0.5.prune"]
MUTATIONS = 1000
REPLACEMENTS = [
    None, True, False, 0, 1, 2, -1, -2, 5, 7, 31, 2**24, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 0.5,
    -0.0, 1e-45, 3e38, 1e39, float("nan"), float("inf"), "", "0", "1", "2", "-1", "1e3", "[1,2]", "dart", "gblinear",
    "99999999999999999999", "\ud800", [], [0], [1.5], [[0]], {}, {"name": "gbtree"},
]  # fmt: skip


def accepted_or_refused(data: bytes) -> bool:
    """Nothing but a valid flat model or a ModelFormatError may come out."""
    try:
        result = flat(data)
    except ModelFormatError:
        return False
    read(result)
    return True


def mutate(value: Any, rng: random.Random) -> None:
    """Change one thing in a copy of a document: replace, delete, duplicate, or swap."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        # Long arrays would draw nearly all changes; a few of their elements are enough.
        if isinstance(holder, list) and len(holder) > 4:
            keys = rng.sample(keys, 4)
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                stack.append(holder[key])
    if not places:  # an earlier change took everything away
        return
    holder, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(rng.choice(holder)))
    elif action == 2:
        other, other_key = rng.choice([place for place in places if type(place[0]) is type(holder)])
        holder[key] = copy.deepcopy(other[other_key])
    else:
        holder[key] = copy.deepcopy(rng.choice(REPLACEMENTS))


def test_mutated_json() -> None:
    rng = random.Random(20240601)
    originals = [document(f"{stem}.json") for stem in HOSTILE]
    accepted = 0
    for number in range(MUTATIONS):
        value = copy.deepcopy(originals[number % len(originals)])
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            mutate(value, rng)
        accepted += accepted_or_refused(as_json(value))
    assert 0 < accepted < MUTATIONS


def test_mutated_ubjson() -> None:
    rng = random.Random(20240602)
    originals = [(FIXTURES / f"{stem}.ubj").read_bytes() for stem in HOSTILE]
    accepted = 0
    for number in range(MUTATIONS):
        data = bytearray(originals[number % len(originals)])
        action = rng.randrange(4)
        if action == 0:
            del data[rng.randrange(2, len(data)) :]
        elif action == 1:
            position = rng.randrange(2, len(data))
            data[position : position + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(0, 9))
        else:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(2, len(data))] ^= 1 << rng.randrange(8)
        accepted += accepted_or_refused(bytes(data))
    assert 0 < accepted < MUTATIONS


def test_truncated_ubjson_is_always_refused() -> None:
    data = (FIXTURES / "xgb-3.4.1.linear.ubj").read_bytes()
    for end in range(len(data)):
        assert not accepted_or_refused(data[:end])


# ---- models trained here --------------------------------------------------------------------------------------------


class TestTrainedHere:
    """Against the XGBoost that is installed, if one is."""

    @pytest.fixture(scope="class")
    @staticmethod
    def xgb() -> Any:
        xgboost = pytest.importorskip("xgboost")
        if tuple(map(int, xgboost.__version__.split(".")[:2])) < (3, 4):
            pytest.skip("predictions are compared with XGBoost 3.4 only")
        return xgboost

    @pytest.fixture(scope="class")
    @staticmethod
    def data() -> Sample:
        rng = np.random.RandomState(5)
        rows = rng.normal(size=(300, 5)).astype(np.float32)
        rows[:, 3] = rng.randint(0, 70, 300)
        target = np.nan_to_num(rows[:, 0]) + rows[:, 3] % 5
        rows[rng.rand(300, 5) < 0.1] = np.nan
        return rows, target.astype(np.float32)

    def check(self, booster: Any, xgb: Any, rows: Array, types: list[str] | None = None, **options: Any) -> bytes:
        matrix = xgb.DMatrix(rows, feature_types=types, base_margin=options.get("base_margin"))
        data = flat(booster)
        with tempfile.TemporaryDirectory() as directory:
            for suffix in ("json", "ubj"):
                path = Path(directory) / f"model.{suffix}"
                booster.save_model(path)
                assert flat(path) == data
        model = read(data)
        margin = reference.margins(model, rows, **options)
        chosen = {"iteration_range": options.get("iteration_range", (0, 0))}
        assert_same_bits(margin, booster.predict(matrix, output_margin=True, **chosen))
        assert_same_bits(reference.transform(model.objective, margin), booster.predict(matrix, **chosen))
        return data

    @pytest.mark.parametrize("objective", [n for n in flat_model.OBJECTIVES if not n.startswith(("rank", "multi"))])
    def test_objectives(self, xgb: Any, data: Sample, objective: str) -> None:
        rows, target = data
        binary = "logi" in objective or "hinge" in objective
        matrix = xgb.DMatrix(rows, label=target > 2 if binary else abs(target) + 1)
        parameters = {"objective": objective, "max_depth": 3, "verbosity": 0}
        if objective == "survival:aft":
            matrix.set_float_info("label_lower_bound", abs(target) + 1)
            matrix.set_float_info("label_upper_bound", abs(target) + 2)
        if objective == "reg:quantileerror":
            parameters["quantile_alpha"] = [0.2, 0.8]
        if objective == "reg:expectileerror":
            parameters["expectile_alpha"] = [0.2, 0.8]
        self.check(xgb.train(parameters, matrix, 5), xgb, rows)

    @pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
    def test_multiclass_forest(self, xgb: Any, data: Sample, objective: str) -> None:
        rows, target = data
        parameters = {"objective": objective, "num_class": 3, "num_parallel_tree": 2, "subsample": 0.7}
        booster = xgb.train(parameters, xgb.DMatrix(rows, label=np.clip(target, 0, 2).astype(int)), 4)
        base_margin = np.random.RandomState(1).normal(size=(len(rows), 3)).astype(np.float32)
        self.check(booster, xgb, rows, base_margin=base_margin, iteration_range=(1, 3))

    @pytest.mark.parametrize("objective", ["rank:pairwise", "rank:ndcg", "rank:map"])
    def test_ranking(self, xgb: Any, data: Sample, objective: str) -> None:
        rows, target = data
        matrix = xgb.DMatrix(rows, label=(target > 2).astype(int))
        matrix.set_group([100, 200])
        self.check(xgb.train({"objective": objective}, matrix, 3), xgb, rows)

    def test_pruned_categorical_splits(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        types = ["q", "q", "q", "c", "q"]
        matrix = xgb.DMatrix(rows, label=target, feature_types=types)
        grown = xgb.train({"max_depth": 6, "max_cat_to_onehot": 2}, matrix, 4)
        booster = xgb.train({"process_type": "update", "updater": "prune", "gamma": 5.0}, matrix, 4, xgb_model=grown)
        trees = forest_of(json.loads(booster.save_raw("json")))["trees"]
        assert any(int(tree["tree_param"]["num_deleted"]) for tree in trees)
        assert any(kind for tree in trees for kind in tree["split_type"])
        unusual = rows.copy()
        unusual[:18, 3] = [-1, -0.5, -0.0, 0.5, 1.5, 4, 31, 32, 33, 63, 64, 69, 70, 96, 2**24 - 1, 2**24, 2**25, 3e38]
        self.check(booster, xgb, unusual, types)

    @pytest.mark.parametrize("max_depth", [1, 4])
    def test_vector_leaves(self, xgb: Any, data: Sample, max_depth: int) -> None:
        rows, target = data
        matrix = xgb.DMatrix(rows, label=np.stack([target, -target], axis=1))
        parameters = {"multi_strategy": "multi_output_tree", "max_depth": max_depth}
        self.check(xgb.train(parameters, matrix, 3), xgb, rows)

    def test_vector_leaves_of_trees_without_a_split(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        matrix = xgb.DMatrix(rows, label=np.stack([target, -target], axis=1))
        parameters = {"multi_strategy": "multi_output_tree", "min_child_weight": 1e9}
        self.check(xgb.train(parameters, matrix, 2), xgb, rows)

    def test_dart(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        booster = xgb.train({"rate_drop": 0.5, "one_drop": 1}, xgb.DMatrix(rows, label=target), 8)
        assert read(self.check(booster, xgb, rows)).booster == DART

    def test_linear_multiclass_uses_the_first_base_score(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        matrix = xgb.DMatrix(rows, label=np.clip(target, 0, 2).astype(int))
        booster = xgb.train({"booster": "gblinear", "objective": "multi:softprob", "num_class": 3}, matrix, 3)
        assert read(self.check(booster, xgb, rows)).booster == GBLINEAR

    def test_no_rounds(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        assert read(self.check(xgb.train({}, xgb.DMatrix(rows, label=target), 0), xgb, rows)).trees == []

    def test_single_leaf_trees(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        self.check(xgb.train({"gamma": 1e9}, xgb.DMatrix(rows, label=target), 3), xgb, rows)

    def test_sliced_booster(self, xgb: Any, data: Sample) -> None:
        rows, target = data
        self.check(xgb.train({}, xgb.DMatrix(rows, label=target), 5)[1:4], xgb, rows)

    def test_unfitted(self, xgb: Any) -> None:
        for source in (xgb.Booster(), xgb.XGBRegressor()):
            with pytest.raises(ModelFormatError, match=r"been (trained|fitted)"):
                to_flat_model(source)

    def test_estimator_and_pickle(self, xgb: Any, data: Sample) -> None:
        pytest.importorskip("sklearn")
        import pickle

        rows, target = data
        estimator = xgb.XGBRegressor(n_estimators=3).fit(rows, target)
        assert flat(estimator) == flat(estimator.get_booster())
        refused(pickle.dumps(estimator), "pickle")
        refused(bytes(estimator.get_booster().__getstate__()["handle"]), "snapshot")
