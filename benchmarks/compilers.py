"""The engine built by two compilers, in turns; prints how fast the second build is beside the first.

Usage: python -m benchmarks.compilers FIRST SECOND MODELS ROUNDS

FIRST and SECOND are `engine_bench` of either build, MODELS letters with commas between them.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks import engine
from benchmarks.models import trained
from benchmarks.results import quartiles

_SHOWN_COUNTS = (1, 1000)


def speeds(first: Path, second: Path, letter: str, rounds: int) -> dict[int, list[float]]:
    """Times as fast as `first`, of each round and for each number of rows; calls of the engine as a plain function.

    Raises
    ------
    RuntimeError
        If a program fails.
    """
    found: dict[int, list[float]] = {count: [] for count in _SHOWN_COUNTS}
    for number in range(rounds):
        pair = (first, second) if number % 2 else (second, first)
        times = {
            (program, one.rows): one.median_ns
            for program in pair
            for one in engine.measure(program, trained(letter), 1)
            if one.path == "function"
        }
        for count, values in found.items():
            values.append(times[first, count] / times[second, count])
    return found


def main() -> None:
    first, second, letters, rounds = sys.argv[1:]
    print("| model |" + "".join(f" {count:,} row{'s' if count > 1 else ''} |" for count in _SHOWN_COUNTS))
    print("| --- |" + " ---: |" * len(_SHOWN_COUNTS))
    for letter in letters.split(","):
        cells = []
        for values in speeds(Path(first), Path(second), letter, int(rounds)).values():
            lower, _, upper = quartiles(values)
            cells.append(f"{statistics.median(values):.2f} [{lower:.2f}, {upper:.2f}]")
        print(f"| {letter} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
