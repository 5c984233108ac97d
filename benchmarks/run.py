"""Measure sealing and loading against XGBoost's own loading of the same model; prints ratios of interleaved runs.

Usage: python benchmarks/run.py [--runs N]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xgboost as xgb

import confidential_ml as cml

N_TREES, DEPTH, N_FEATURES = 1000, 8, 100


def train(directory: Path) -> tuple[Path, Path, xgb.Booster]:
    """1000 full trees of depth 8 over 100 features, as JSON, as UBJSON and in memory; fixed seeds."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(30_000, N_FEATURES)).astype(np.float32)
    target = rows[:, :20].sum(axis=1) + random.normal(size=len(rows)).astype(np.float32)
    # Few columns per tree make the training short; the trees come out full all the same.
    parameters = {
        "max_depth": DEPTH,
        "eta": 0.1,
        "seed": 1,
        "min_child_weight": 0,
        "colsample_bytree": 0.1,
        "max_bin": 64,
        "verbosity": 0,
        "nthread": 1,
    }
    booster = xgb.train(parameters, xgb.DMatrix(rows, label=target), num_boost_round=N_TREES)
    as_json, as_ubjson = directory / "model.json", directory / "model.ubj"
    booster.save_model(as_json)
    booster.save_model(as_ubjson)
    return as_json, as_ubjson, booster


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    warnings.simplefilter("ignore", cml.SimulationWarning)
    with tempfile.TemporaryDirectory() as name, cml.Enclave() as enclave:
        directory = Path(name)
        print(f"training {N_TREES} trees of depth {DEPTH} ...", flush=True)
        as_json, as_ubjson, booster = train(directory)
        sealed = directory / "model.sealed"

        def seal_and_load(model: object) -> None:
            cml.seal(model, sealed, enclave=enclave)
            cml.ConfidentialModel.load_sealed(sealed, enclave=enclave).close()

        actions: dict[str, Callable[[], None]] = {
            "xgboost load_model, JSON": lambda: xgb.Booster().load_model(as_json),
            "xgboost load_model, UBJSON": lambda: xgb.Booster().load_model(as_ubjson),
            "seal + load, JSON file": lambda: seal_and_load(as_json),
            "seal + load, UBJSON file": lambda: seal_and_load(as_ubjson),
            "seal + load, Booster": lambda: seal_and_load(booster),
            "load only": lambda: cml.ConfidentialModel.load_sealed(sealed, enclave=enclave).close(),
        }
        times: dict[str, list[float]] = {name: [] for name in actions}
        for run in range(runs + 1):  # the first warms up
            for name, action in actions.items():
                taken = seconds(action)
                if run:
                    times[name].append(taken)
        print(
            f"Python {platform.python_version()}, xgboost {xgb.__version__}, {enclave.identity.platform}; "
            f"{as_json.stat().st_size / 1e6:.1f} MB JSON, {as_ubjson.stat().st_size / 1e6:.1f} MB UBJSON, "
            f"{sealed.stat().st_size / 1e6:.1f} MB sealed; medians [quartiles] of {runs} interleaved runs"
        )
    base = times["xgboost load_model, JSON"]
    print(f"\n{'':28} {'seconds':>24} {'ratio to xgboost, JSON':>28}")
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        print(f"{name:28} {quartiles(values):>24} {quartiles(ratios):>28}")


if __name__ == "__main__":
    main()
