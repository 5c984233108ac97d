"""The models of the benchmark, made with fixed seeds and kept in a cache; and rows to predict for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost as xgb

FloatArray = npt.NDArray[np.float32]

CACHE = Path(__file__).resolve().parent.parent / "build" / "bench-models"

# Every leaf that may be split is: trees come out full, as they do on real data that is large.
_FULL: dict[str, Any] = {"min_child_weight": 0, "gamma": 0, "verbosity": 0, "seed": 1, "tree_method": "hist"}


@dataclass(frozen=True)
class Data:
    """What a model is trained on."""

    rows: FloatArray
    target: FloatArray
    feature_types: list[str] | None = None


@dataclass(frozen=True)
class Recipe:
    """How one model of the benchmark is made.

    Attributes
    ----------
    description
        For the report.
    make_data
        Draws training rows and their target.
    parameters
        For ``xgboost.train``.
    rounds
        Boosting rounds.
    training_rows
        Rows to train on.
    few_runs
        Too large for the full number of repetitions and rows.
    has_categories
        Some features are categories.
    """

    description: str
    make_data: Callable[[np.random.Generator, int], Data]
    parameters: dict[str, Any]
    rounds: int
    training_rows: int = 20_000
    few_runs: bool = False
    has_categories: bool = False


@dataclass(frozen=True)
class TrainedModel:
    """A model in the cache.

    Attributes
    ----------
    name
        Its letter.
    recipe
        What it was made from.
    ubjson
        The file XGBoost wrote; what other libraries need is cached beside it.
    """

    name: str
    recipe: Recipe
    ubjson: Path

    def beside(self, suffix: str) -> Path:
        """A file for another library's form of this model."""
        return self.ubjson.with_name(f"{self.name}{suffix}")

    def rows(self, count: int) -> FloatArray:
        """Rows to predict, drawn like the training rows but with another seed."""
        return self.recipe.make_data(np.random.default_rng([2, ord(self.name)]), count).rows


def _iris(random: np.random.Generator, count: int) -> Data:
    from sklearn.datasets import load_iris

    iris = load_iris()
    chosen = np.arange(150) if count == 150 else random.integers(0, 150, size=count)
    # Jitter, or 100,000 rows would be 150 distinct ones.
    jitter = random.normal(scale=0.1, size=(count, 4)) if count != 150 else 0.0
    rows = np.asarray(iris.data[chosen] + jitter, dtype=np.float32)
    return Data(rows, iris.target[chosen].astype(np.float32))


def _numeric(n_features: int, kind: str, missing: float = 0.0) -> Callable[[np.random.Generator, int], Data]:
    """Normal features; the target is a noisy function of 20 of them."""

    def make(random: np.random.Generator, count: int) -> Data:
        rows = random.standard_normal(size=(count, n_features), dtype=np.float32)
        signal = rows[:, :20] @ np.linspace(1, 2, 20, dtype=np.float32) / 10 + rows[:, 0] * rows[:, 1]
        signal += random.standard_normal(size=count, dtype=np.float32)
        if kind == "binary":
            target = (signal > 0).astype(np.float32)
        elif kind == "regression":
            target = signal
        else:
            edges = np.quantile(signal, np.linspace(0, 1, 11)[1:-1])
            target = np.digitize(signal, edges).astype(np.float32)
        if missing:
            rows[random.random(size=rows.shape, dtype=np.float32) < missing] = np.nan
        return Data(rows, target)

    return make


def _categorical(random: np.random.Generator, count: int) -> Data:
    """Ten categorical features with 4 to 60 categories, ten numeric ones."""
    sizes = [4, 6, 8, 10, 12, 16, 24, 32, 48, 60]
    codes = np.stack([random.integers(0, size, size=count) for size in sizes], axis=1)
    numbers = random.standard_normal(size=(count, 10), dtype=np.float32)
    effects = [np.random.default_rng([3, size]).normal(size=size) for size in sizes]
    signal = sum(effect[codes[:, i]] for i, effect in enumerate(effects)) + numbers.sum(axis=1)
    signal = signal + random.normal(scale=2, size=count)
    rows = np.concatenate([codes.astype(np.float32), numbers], axis=1)
    return Data(rows, (signal > 0).astype(np.float32), ["c"] * len(sizes) + ["q"] * 10)


RECIPES: dict[str, Recipe] = {
    "a": Recipe(
        "iris, softprob, 10 rounds x 3 classes, depth 3",
        _iris,
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3},
        10,
        150,
    ),
    "b": Recipe(
        "binary, 100 trees, depth 6, 30 features",
        _numeric(30, "binary"),
        {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1},
        100,
    ),
    "c": Recipe(
        "binary, 500 trees, depth 6, 50 features, 5 % missing",
        _numeric(50, "binary", 0.05),
        {"objective": "binary:logistic", "max_depth": 6, "eta": 0.02},
        500,
        40_000,
    ),
    "d": Recipe(
        "regression, 1000 trees, depth 8, 100 features",
        _numeric(100, "regression"),
        # A sample of the columns per tree makes the training short; the trees come out full all the same.
        {"objective": "reg:squarederror", "max_depth": 8, "eta": 0.01, "colsample_bytree": 0.2},
        1000,
        50_000,
    ),
    "e": Recipe(
        "10 classes x 100 rounds, depth 6, 64 features",
        _numeric(64, "classes"),
        {"objective": "multi:softprob", "num_class": 10, "max_depth": 6, "eta": 0.05, "colsample_bytree": 0.5},
        100,
        40_000,
    ),
    "f": Recipe(
        "binary, 10 of 20 features categorical, 200 trees, depth 6",
        _categorical,
        {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1},
        200,
        has_categories=True,
    ),
    "g": Recipe(
        "binary, lossguide, 300 trees of 255 leaves, 50 features",
        _numeric(50, "binary"),
        {
            "objective": "binary:logistic",
            "grow_policy": "lossguide",
            "max_leaves": 255,
            "max_depth": 0,
            "eta": 0.05,
            "colsample_bytree": 0.5,
        },
        300,
    ),
    "h": Recipe(
        "random forest, regression, 500 trees of 5000 leaves, 50 features",
        _numeric(50, "regression"),
        {
            "objective": "reg:squarederror",
            "grow_policy": "lossguide",
            "max_leaves": 5000,
            "max_depth": 0,
            "num_parallel_tree": 500,
            "eta": 1.0,
            "lambda": 0,
            "subsample": 0.8,
            "colsample_bynode": 0.3,
            # Makes the training short.
            "max_bin": 64,
        },
        1,
        30_000,
        few_runs=True,
    ),
}


def cache_directory() -> Path:
    """Where models of this script and this XGBoost are; another script or version has another directory."""
    key = hashlib.sha256(Path(__file__).read_bytes() + xgb.__version__.encode()).hexdigest()[:12]
    return CACHE / key


def trained(name: str) -> TrainedModel:
    """The model of a letter, from the cache if it is there, else trained now.

    Parameters
    ----------
    name
        A key of `RECIPES`.
    """
    recipe = RECIPES[name]
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    ubjson = directory / f"{name}.ubj"
    if not ubjson.exists():
        print(f"training {name}: {recipe.description} ...", flush=True)
        data = recipe.make_data(np.random.default_rng([1, ord(name)]), recipe.training_rows)
        matrix = xgb.DMatrix(
            data.rows, label=data.target, feature_types=data.feature_types, enable_categorical=bool(data.feature_types)
        )
        booster = xgb.train({**_FULL, **recipe.parameters}, matrix, num_boost_round=recipe.rounds)
        # Written beside and renamed: an interrupted run leaves no half of a model.
        partial = directory / f".{name}.ubj"
        booster.save_model(partial)
        partial.rename(ubjson)
    return TrainedModel(name, recipe, ubjson)
