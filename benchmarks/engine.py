"""The engine as a plain function, in the enclave, and there by confidential requests: the C++ program `engine_bench`.

Usage: python -m benchmarks.engine ENGINE_BENCH MODELS

ENGINE_BENCH is the program (`make bench` builds build/bench-engine/tests/cpp/engine_bench), MODELS letters with commas
between them. Prints how many times as long as in clear a client in C++ takes by confidential requests that does no more
than it must.

The program is run once for each model and number of threads:

    engine_bench --model FLAT --rows FLOATS --features N --count 1 --count 1000 --threads 1

FLAT is the flat model (docs/formats.md), FLOATS holds float32 rows, one after the other, at least as many as the
largest count. It prints a JSON object per line, other lines are passed over:

    {"path": "function", "rows": 1, "threads": 1, "p25_ns": 800, "median_ns": 810, "p75_ns": 830}
    {"path": "enclave",  "rows": 1, "threads": 1, "p25_ns": 900, "median_ns": 915, "p75_ns": 930}
    {"path": "confidential",  "rows": 1, "threads": 1, "p25_ns": 9900, "median_ns": 9915, "p75_ns": 9930}

Times are of one call for all its rows; the paths should be timed in turn. `confidential` is for one thread alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.models import TrainedModel, trained

COUNTS = (1, 100, 1000)
TIMEOUT_SECONDS = 120


@dataclass
class EngineTime:
    """Nanoseconds of one call.

    Attributes
    ----------
    model, path, rows, threads
        What was called; `path` is ``"function"``, ``"enclave"`` or ``"confidential"``.
    p25_ns, median_ns, p75_ns
        Quartiles.
    """

    model: str
    path: str
    rows: int
    threads: int
    p25_ns: float
    median_ns: float
    p75_ns: float


def measure(program: Path, model: TrainedModel, threads: int) -> list[EngineTime]:
    """Run the program for one model.

    Parameters
    ----------
    program
        `engine_bench`.
    model, threads
        What it measures.

    Raises
    ------
    RuntimeError
        If it fails or prints no times.
    """
    from confidential_ml.xgboost_format import to_flat_model

    rows = np.ascontiguousarray(model.rows(max(COUNTS)))
    with tempfile.TemporaryDirectory() as name:
        flat, floats = Path(name) / "model.flat", Path(name) / "rows.f32"
        flat.write_bytes(to_flat_model(model.ubjson))
        floats.write_bytes(rows.tobytes())
        command = [str(program), "--model", str(flat), "--rows", str(floats), "--features", str(rows.shape[1])]
        command += [word for count in COUNTS for word in ("--count", str(count))] + ["--threads", str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"engine_bench: {type(error).__name__}") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"engine_bench printed no times for model {model.name} (status {done.returncode})")
    return [EngineTime(model=model.name, **json.loads(line)) for line in lines]


def main() -> None:
    program, letters = sys.argv[1:]
    print("| model | rows | in clear, us | in confidence, us | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for letter in letters.split(","):
        found = {(one.rows, one.path): one.median_ns for one in measure(Path(program), trained(letter), 1)}
        for count in COUNTS:
            clear, confidential = found[count, "enclave"], found[count, "confidential"]
            cells = f"{clear / 1e3:.1f} | {confidential / 1e3:.1f} | {confidential / clear:.2f}"
            print(f"| {letter} | {count:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
