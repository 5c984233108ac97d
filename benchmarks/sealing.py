"""Sealing and loading against XGBoost's own loading of the same model, in interleaved runs.

Usage: python -m benchmarks.sealing MODEL RUNS OUTPUT
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xgboost as xgb

import confidential_ml as cml
from benchmarks.models import TrainedModel, trained
from benchmarks.results import quartiles


def measure(model: TrainedModel, runs: int) -> dict[str, Any]:
    """Seconds of each way to load, and of sealing.

    Parameters
    ----------
    model
        What to seal.
    runs
        How often; one more warms up.
    """
    warnings.simplefilter("ignore", cml.SimulationWarning)
    with tempfile.TemporaryDirectory() as name, cml.Enclave() as enclave:
        as_json, sealed = Path(name) / "model.json", Path(name) / "model.sealed"
        booster = xgb.Booster(model_file=model.ubjson)
        booster.save_model(as_json)

        def seal(source: object) -> None:
            cml.seal(source, sealed, enclave=enclave)

        def load() -> None:
            cml.ConfidentialModel.load_sealed(sealed, enclave=enclave).close()

        def seal_and_load(source: object) -> None:
            seal(source)
            load()

        actions: dict[str, Callable[[], None]] = {
            "xgboost: load_model, JSON": lambda: xgb.Booster().load_model(as_json),
            "xgboost: load_model, UBJSON": lambda: xgb.Booster().load_model(model.ubjson),
            "seal and load, JSON file": lambda: seal_and_load(as_json),
            "seal and load, UBJSON file": lambda: seal_and_load(model.ubjson),
            "seal and load, Booster": lambda: seal_and_load(booster),
            "seal, UBJSON file": lambda: seal(model.ubjson),
            "load": load,
        }
        times: dict[str, list[float]] = {name: [] for name in actions}
        for run in range(runs + 1):  # the first warms up
            for name, action in actions.items():
                start = time.perf_counter()
                action()
                if run:
                    times[name].append(time.perf_counter() - start)
        base = times["xgboost: load_model, JSON"]
        return {
            "model": model.name,
            "runs": runs,
            "platform": enclave.identity.platform,
            "json_size": as_json.stat().st_size,
            "ubjson_size": model.ubjson.stat().st_size,
            "sealed_size": sealed.stat().st_size,
            "actions": {
                name: {
                    "seconds": quartiles(values),
                    "of_json_load": statistics.median(own / json for own, json in zip(values, base, strict=True)),
                }
                for name, values in times.items()
            },
        }


def main() -> None:
    letter, runs, output = sys.argv[1:]
    Path(output).write_text(json.dumps(measure(trained(letter), int(runs))))


if __name__ == "__main__":
    main()
