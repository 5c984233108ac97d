"""Time and memory that a library takes to load a model, in a process that has no other library in it.

Usage: python -m benchmarks.loading CONTENDER MODEL
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import CONTENDERS, CannotRunError, Contender, Predictor, why
from benchmarks.conversion import check_prepared
from benchmarks.models import TrainedModel, trained
from benchmarks.results import quartiles

RUNS = 7
MAX_SECONDS = 3.0
TIMEOUT_SECONDS = 600


@dataclass
class Loading:
    """What loading took.

    Attributes
    ----------
    reason
        Why there is nothing else.
    low, median, high
        Seconds until the model is loaded.
    resident
        Bytes of memory in use more than before, after one prediction.
    peak
        Bytes in use more than before at the worst moment; 0 if the system does not tell.
    file_size
        Bytes of the file that was loaded.
    """

    reason: str = ""
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    resident: int = 0
    peak: int = 0
    file_size: int = 0


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> bool:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _settle() -> None:
    """Give back what is free, so that the next allocations show."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def measure(contender: Contender, model: TrainedModel, first: TrainedModel) -> Loading:
    """Load a model several times.

    Parameters
    ----------
    contender
        The library.
    model
        What to load.
    first
        A small model that is loaded before, and kept, for what a library sets up but once.
    """
    kept: list[Predictor] = []
    with contextlib.suppress(CannotRunError):
        kept.append(contender.load(first, 1))
        kept[0](first.rows(1))
    row = model.rows(1)
    _settle()
    before = _status_bytes("VmRSS")
    can_peak = _reset_peak()
    kept.append(contender.load(model, 1))
    kept[-1](row)
    _settle()
    peak = _status_bytes("VmHWM") - before if can_peak else 0
    resident = _status_bytes("VmRSS") - before
    kept.pop()
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < MAX_SECONDS:
        gc.collect()
        start = time.perf_counter()
        loaded = contender.load(model, 1)
        seconds.append(time.perf_counter() - start)
        del loaded
    low, median, high = quartiles(seconds)
    size = contender.artifact(model).stat().st_size
    return Loading("", low, median, high, max(0, resident), max(0, peak), size)


def measure_in_process(name: str, model: str) -> Loading:
    """`measure` in a process of its own.

    Parameters
    ----------
    name, model
        Library and letter.
    """
    command = [sys.executable, "-m", "benchmarks.loading", name, model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Loading(f"takes over {TIMEOUT_SECONDS // 60} minutes")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return Loading((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return Loading(**json.loads(lines[-1]))


def main() -> None:
    name, letter = sys.argv[1:]
    contender, model, first = CONTENDERS[name], trained(letter), trained("a")
    try:
        check_prepared(contender, model)
        found = measure(contender, model, first)
    except Exception as error:  # whatever a library may raise is a reason to report
        found = Loading(why(error))
    print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
