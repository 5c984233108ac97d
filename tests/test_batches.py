"""How many rows there are, and how many threads predict them, changes no bit of the predictions."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xgboost as xgb

import confidential_ml as cml

Array = npt.NDArray[np.float32]

N_FEATURES = 9


def random_rows(count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, N_FEATURES)).astype(np.float32)
    rows[random.random(size=rows.shape) < 0.1] = np.nan
    return rows


def train(**parameters: Any) -> xgb.Booster:
    rows = random_rows(1500, 1)
    target = np.nan_to_num(rows).sum(axis=1)
    if "num_class" in parameters:
        target = np.digitize(target, [-2, 0, 2]).astype(np.float64)
    defaults = {"max_depth": 7, "min_child_weight": 0, "nthread": 1, "seed": 1}
    return xgb.train({**defaults, **parameters}, xgb.DMatrix(rows, target), num_boost_round=40)


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"objective": "multi:softprob", "num_class": 4, "max_depth": 4},
        {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 400},
    ],
    ids=["complete", "classes", "parts"],
)
def booster(request: pytest.FixtureRequest) -> xgb.Booster:
    return train(**request.param)


@pytest.fixture(scope="module")
def model(booster: xgb.Booster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cml.ConfidentialModel]:
    path = tmp_path_factory.mktemp("batches") / "model.sealed"
    cml.seal(booster, path)
    with cml.ConfidentialModel.load_sealed(path) as loaded:
        yield loaded


def test_every_small_count_of_rows(model: cml.ConfidentialModel, booster: xgb.Booster) -> None:
    """Up to four rows go one by one, others in vectors of 32; 300 are more than the 256 of a block."""
    rows = random_rows(300, 2)
    expected = booster.inplace_predict(rows)
    for count in [*range(1, 70), 255, 256, 257, 300]:
        np.testing.assert_array_equal(model.predict(rows[:count]), expected[:count], strict=True)


def test_any_count_of_threads(model: cml.ConfidentialModel, booster: xgb.Booster) -> None:
    rows = random_rows(40_001, 3)
    expected = booster.inplace_predict(rows)
    for n_threads in (None, 1, 2, 3, 7, 1000, np.int64(2)):
        np.testing.assert_array_equal(model.predict(rows, n_threads=n_threads), expected, strict=True)


def test_base_margins_go_with_their_rows(model: cml.ConfidentialModel, booster: xgb.Booster) -> None:
    rows = random_rows(30_001, 4)
    margins = np.random.default_rng(5).normal(size=(len(rows), model.info.n_groups)).astype(np.float32)
    expected = booster.inplace_predict(rows, base_margin=margins, predict_type="margin")
    actual = model.predict(rows, base_margin=margins, output_margin=True, n_threads=2)
    np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("n_threads", [0, -1, pytest.param(-(10**5000), id="long"), 1.0, "2", [1]])
def test_a_wrong_count_of_threads(model: cml.ConfidentialModel, n_threads: Any) -> None:
    with pytest.raises(cml.InvalidInputError, match="n_threads"):
        model.predict(random_rows(3, 6), n_threads=n_threads)


def test_rounds_of_one_row(model: cml.ConfidentialModel, booster: xgb.Booster) -> None:
    """Rounds need not begin or end where the engine's blocks of trees do."""
    row = random_rows(1, 7)
    for begin in range(0, 40, 3):
        for end in (begin, begin + 1, (begin + 41) // 2, 40):
            if end < begin or end == 0:
                continue
            expected = booster.inplace_predict(row, iteration_range=(begin, end)) if end > begin else None
            actual = model.predict(row, iteration_range=(begin, end))
            if expected is not None:
                np.testing.assert_array_equal(actual, expected, strict=True)


def test_ctrl_c_ends_a_long_prediction(tmp_path: Path) -> None:
    cml.seal(train(max_depth=9), tmp_path / "model.sealed")
    rows = np.resize(random_rows(1000, 8), (2_000_000, N_FEATURES))
    with cml.ConfidentialModel.load_sealed(tmp_path / "model.sealed") as model:
        begin = time.monotonic()
        model.predict(rows[:100_000], n_threads=1)
        whole = (time.monotonic() - begin) * 20

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, whole / 20)
            begin = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                model.predict(rows, n_threads=1)
            assert time.monotonic() - begin < whole / 2
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        np.testing.assert_array_equal(model.predict(rows[:10]), model.predict(rows[1000:1010]))


def test_the_size_of_the_plan(tmp_path: Path) -> None:
    """At most 1.5 times the UBJSON for complete trees, of any kind."""
    random = np.random.default_rng(9)
    rows = random.normal(size=(3000, 8)).astype(np.float32)
    rows[:, :3] = random.integers(0, 40, size=(3000, 3))
    types = ["c"] * 3 + ["q"] * 5
    target = random.normal(size=(3000, 3))
    full = {"max_depth": 6, "min_child_weight": 0, "nthread": 1, "seed": 1}
    kinds: dict[str, tuple[dict[str, Any], Any]] = {
        "numeric and categorical": (full, target[:, 0]),
        "several targets": (full, target),
        "vector leaves": ({**full, "multi_strategy": "multi_output_tree"}, target),
    }
    for kind, (parameters, labels) in kinds.items():
        vector = kind == "vector leaves"
        data = xgb.DMatrix(rows, labels, feature_types=None if vector else types, enable_categorical=not vector)
        booster = xgb.train(parameters, data, num_boost_round=30)
        cml.seal(booster, tmp_path / "model.sealed")
        with cml.ConfidentialModel.load_sealed(tmp_path / "model.sealed") as model:
            assert 0 < model.info.plan_size <= 1.5 * len(booster.save_raw("ubj")), kind
            assert "memory in the enclave" in model._repr_html_()
