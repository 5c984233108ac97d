"""Time the predictions of all libraries with one number of threads, interleaved in this one process.

Usage: python -m benchmarks.measure --threads N --output FILE [--models LETTERS] [--rows COUNTS] [--rounds N]
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.agreement import largest_difference, same_bits
from benchmarks.contenders import CONTENDERS, OURS, REFERENCE, Predictor, why
from benchmarks.conversion import check_prepared
from benchmarks.models import FloatArray, TrainedModel, trained
from benchmarks.results import Cell, ModelTimes, quartiles

SAMPLE_SECONDS = 0.02
# Worker threads of the library before may still spin; they fall asleep meanwhile.
PAUSE_SECONDS = 0.005
# Calls expected to take longer are left out unless the ratios need them, or the benchmark would take an hour.
SLOW_SECONDS = 2.0
TOLERANCE = 1e-3
# A model as large as h is only timed up to here.
FEW_RUNS_MAX_ROWS = 1000
# Different rows in turn: a branch predictor that has learned one row by heart is of no use in practice.
DISTINCT_ROWS = 10_000
MAX_BATCHES = 1000


class DifferentBitsError(Exception):
    """Predictions differ from XGBoost's where they must not: no time is worth reporting."""


@dataclass
class Runner:
    """A loaded library and what is to be called in turn."""

    predict: Predictor
    batches: list[FloatArray]
    calls: int = 1
    next_batch: int = 0

    def batch(self) -> FloatArray:
        """The next batch, round and round."""
        self.next_batch = (self.next_batch + 1) % len(self.batches)
        return self.batches[self.next_batch]


def load(model: TrainedModel, threads: int) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Load a model in every library.

    Parameters
    ----------
    model
        The model.
    threads
        How many threads each may use.

    Returns
    -------
    tuple
        The libraries that loaded it, and the reasons of the others.
    """
    predictors, reasons = {}, {}
    for name, contender in CONTENDERS.items():
        try:
            check_prepared(contender, model)
            predictors[name] = contender.load(model, threads)
        except Exception as error:
            if name in (OURS, REFERENCE):
                raise
            reasons[name] = why(error)
    return predictors, reasons


def check(name: str, predict: Predictor, batches: list[FloatArray], expected: list[npt.NDArray[Any]]) -> Cell:
    """Compare a library's predictions with XGBoost's before it is timed.

    Parameters
    ----------
    name, predict
        The library.
    batches, expected
        Rows, and XGBoost's predictions for them.

    Raises
    ------
    DifferentBitsError
        If this library's differ in a single bit.
    """
    difference = 0.0
    for batch, right in zip(batches, expected, strict=True):
        try:
            values = np.asarray(predict(batch))
        except Exception as error:
            if name == OURS:
                raise
            return Cell("cannot", why(error))
        if name == OURS and not same_bits(values, right):
            raise DifferentBitsError(
                f"predictions of {len(batch)} rows differ from XGBoost's by up to {largest_difference(values, right)}"
            )
        difference = max(difference, largest_difference(values, right))
    if difference > TOLERANCE:
        return Cell("wrong", f"differs from XGBoost's predictions by up to {difference:.2g}", difference=difference)
    return Cell("ok", difference=difference)


def sample(runner: Runner, each_call: bool) -> list[float]:
    """Seconds per call: of every call, or of all calls of one sample together.

    Parameters
    ----------
    runner
        What to call.
    each_call
        Look at the clock around each.
    """
    time.sleep(PAUSE_SECONDS)
    predict, clock = runner.predict, time.perf_counter_ns
    if runner.calls > 1:
        predict(runner.batch())
    batches = [runner.batch() for _ in range(runner.calls)]
    if each_call:
        taken = []
        for batch in batches:
            start = clock()
            predict(batch)
            taken.append((clock() - start) * 1e-9)
        return taken
    start = clock()
    for batch in batches:
        predict(batch)
    return [(clock() - start) * 1e-9 / runner.calls]


def calibrate(runner: Runner, seconds: float, most: int, least: int) -> None:
    """Choose how many calls make a sample.

    Parameters
    ----------
    runner
        What will be called; its `calls` are set.
    seconds
        How long a sample takes at least.
    most, least
        Bounds.
    """
    runner.calls = 1
    once = sample(runner, each_call=False)[0]
    while once * runner.calls < seconds / 2 and runner.calls < most:
        runner.calls = min(most, max(runner.calls * 2, math.ceil(seconds / 2 / once)))
        once = sample(runner, each_call=False)[0]
    # A little more than needed: the machine may get faster.
    runner.calls = max(least, min(most, math.ceil(1.2 * seconds / once)))


def time_interleaved(runners: dict[str, Runner], rounds: int, each_call: bool) -> dict[str, list[list[float]]]:
    """Every library in turn, as often as there are rounds; a list of seconds per call for each round.

    Parameters
    ----------
    runners
        The libraries.
    rounds
        How often.
    each_call
        Time every call by itself.
    """
    samples: dict[str, list[list[float]]] = {name: [] for name in runners}
    names = list(runners)
    gc.collect()
    gc.disable()
    for number in range(rounds):
        # Another library begins each round, so that none always follows the same one.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(sample(runners[name], each_call))
    gc.enable()
    return samples


def batches_of(rows: FloatArray, count: int) -> list[FloatArray]:
    """Distinct batches of `count` rows, each contiguous."""
    number = min(MAX_BATCHES, max(1, min(DISTINCT_ROWS, len(rows)) // count))
    return [rows[i * count : (i + 1) * count] for i in range(number)]


def measure_rows(
    predictors: dict[str, Predictor], batches: list[FloatArray], rounds: int, slow: set[str]
) -> dict[str, Cell]:
    """Check, then time, all libraries for one number of rows.

    Parameters
    ----------
    predictors
        The libraries that loaded the model.
    batches
        What to predict.
    rounds
        Samples of each library.
    slow
        Libraries to leave out.
    """
    expected = [np.asarray(predictors[REFERENCE](batch)) for batch in batches]
    cells: dict[str, Cell] = {}
    runners: dict[str, Runner] = {}
    single = len(batches[0]) == 1
    for name, predict in predictors.items():
        if name in slow:
            cells[name] = Cell("slow", f"left out, since one call would take over {SLOW_SECONDS:.0f} seconds")
            continue
        cells[name] = Cell("ok") if name == REFERENCE else check(name, predict, batches, expected)
        if cells[name].status == "ok":
            runners[name] = Runner(predict, batches)
            calibrate(runners[name], SAMPLE_SECONDS, 2000 if single else 1_000_000, 100 if single else 1)
    # Thousands of calls where each is timed.
    for name, samples in time_interleaved(runners, 3 * rounds if single else rounds, each_call=single).items():
        cell = cells[name]
        cell.rounds = [float(np.median(taken)) for taken in samples]
        every = [seconds for taken in samples for seconds in taken]
        cell.low, cell.median, cell.high = quartiles(every)
        if single:
            cell.p99 = float(np.quantile(every, 0.99))
    return cells


def measure_model(model: TrainedModel, threads: int, counts: list[int], rounds: int) -> ModelTimes:
    """All row counts of one model.

    Parameters
    ----------
    model
        The model.
    threads
        Threads for each library.
    counts
        Rows per call.
    rounds
        Samples of each library.
    """
    if model.recipe.few_runs:
        counts, rounds = [count for count in counts if count <= FEW_RUNS_MAX_ROWS], min(rounds, 3)
    rows = model.rows(max([DISTINCT_ROWS if not model.recipe.few_runs else FEW_RUNS_MAX_ROWS, *counts]))
    predictors, reasons = load(model, threads)
    cells: dict[int, dict[str, Cell]] = {}
    seconds_per_row: dict[str, float] = {}
    for count in sorted(counts):
        print(f"  {model.name}, threads: {threads}, rows: {count}", flush=True)
        peers = [name for name in seconds_per_row if name not in (OURS, REFERENCE)]
        needed = {OURS, REFERENCE, min(peers, key=lambda name: seconds_per_row[name], default="")}
        slow = {name for name in peers if seconds_per_row[name] * count > SLOW_SECONDS} - needed
        measured = measure_rows(predictors, batches_of(rows, count), rounds, slow)
        seconds_per_row.update({name: cell.median / count for name, cell in measured.items() if cell.status == "ok"})
        everyone = {**measured, **{name: Cell("cannot", reason) for name, reason in reasons.items()}}
        cells[count] = {name: everyone[name] for name in CONTENDERS}
    cml = importlib.import_module(OURS)
    with cml.ConfidentialModel.load_sealed(CONTENDERS[OURS].artifact(model)) as loaded:
        info = loaded.info
    return ModelTimes(info.n_features, info.n_trees, info.n_nodes, info.depth, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    # Whatever a library makes of its setting, it has no more processors than threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    counts = [int(count) for count in arguments.rows.split(",")]
    times = {}
    for name in arguments.models.split(","):
        try:
            times[name] = measure_model(trained(name), arguments.threads, counts, arguments.rounds).as_json()
        except DifferentBitsError as error:
            sys.exit(f"model {name}, threads: {arguments.threads}: {error}")
    arguments.output.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
