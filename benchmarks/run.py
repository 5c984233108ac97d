"""Measure predictions, loading and sealing against XGBoost and the fast libraries that run its models.

Usage: python -m benchmarks.run [--quick] [--models a,b] [--threads 1,2] [--rows 1,1000] [--rounds N] [--output FOLDER]

Writes benchmarks.md, benchmarks.json and two pictures; into docs/ if all was measured, else into build/bench/.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import engine, loading, machine, plots
from benchmarks.contenders import CONTENDERS, OURS, REFERENCE, CannotRunError
from benchmarks.conversion import prepare
from benchmarks.models import RECIPES, trained
from benchmarks.report import Run, markdown
from benchmarks.results import ModelTimes

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SEALED_MODEL = "d"
# Of the processor time; more than this shows in the figures, first in those of OpenMP with several threads.
MAX_OTHERS = 0.03


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small models, few runs: whether it works")
    parser.add_argument("--models", help="letters, e.g. a,b; all by default")
    parser.add_argument("--threads", help="numbers of threads, e.g. 1,2 (the default)")
    parser.add_argument("--rows", help="rows per call, e.g. 1,1000")
    parser.add_argument("--rounds", type=int, help="samples of each library, 7 by default")
    parser.add_argument("--output", type=Path, help="folder of the report")
    parser.add_argument("--engine-bench", type=Path, help="the C++ program that calls the engine without an enclave")
    chosen = parser.parse_args()
    restricted = chosen.quick or chosen.models or chosen.threads or chosen.rows or chosen.rounds
    chosen.output = chosen.output or ROOT / ("build/bench" if restricted else "docs")
    chosen.models = (chosen.models or ("a,b,f" if chosen.quick else ",".join(RECIPES))).split(",")
    chosen.threads = [int(number) for number in (chosen.threads or "1,2").split(",")]
    chosen.rows = [int(number) for number in (chosen.rows or ("1,1000" if chosen.quick else _ALL_ROWS)).split(",")]
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 7)
    unknown = set(chosen.models) - set(RECIPES)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    return chosen


_ALL_ROWS = "1,100,1000,10000,100000"


def prepare_all(models: list[str]) -> None:
    """Train and convert what is not in the cache, so that nothing else runs while times are taken."""
    # Model a is what each library loads first when memory is measured.
    for name in dict.fromkeys(["a", *models]):
        model = trained(name)
        for contender in CONTENDERS.values():
            try:
                prepare(contender, model)
            except CannotRunError as error:
                if contender.name in (OURS, REFERENCE):
                    sys.exit(f"model {name}: {contender.name}: {error}")


def measure_times(options: argparse.Namespace, threads: int, directory: Path) -> dict[str, ModelTimes]:
    """Run `benchmarks.measure` for one number of threads."""
    output = directory / f"{threads}.json"
    command = [
        *(sys.executable, "-m", "benchmarks.measure", "--output", str(output), "--threads", str(threads)),
        *("--models", ",".join(options.models), "--rows", ",".join(map(str, options.rows))),
        *("--rounds", str(options.rounds)),
    ]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        sys.exit(f"measuring with {threads} thread(s) failed (status {done.returncode})")
    return {name: ModelTimes.from_json(value) for name, value in json.loads(output.read_text()).items()}


def measure_sealing(options: argparse.Namespace, directory: Path) -> dict[str, Any] | None:
    """Run `benchmarks.sealing`, unless all models chosen are too large for its repetitions."""
    possible = [name for name in options.models if not RECIPES[name].few_runs]
    if not possible:
        return None
    name = SEALED_MODEL if SEALED_MODEL in possible else possible[-1]
    print(f"  {name}, sealing", flush=True)
    output = directory / "sealing.json"
    runs = "3" if options.quick else "15"
    subprocess.run([sys.executable, "-m", "benchmarks.sealing", name, runs, str(output)], check=True)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def measure_remote(options: argparse.Namespace, directory: Path) -> dict[str, Any] | None:
    """Run `benchmarks.remote` for the models that are not too large for its repetitions."""
    possible = [name for name in options.models if not RECIPES[name].few_runs]
    if not possible:
        return None
    print(f"  {', '.join(possible)}, confidential requests", flush=True)
    output = directory / "remote.json"
    command = [sys.executable, "-m", "benchmarks.remote", ",".join(possible), str(options.rounds), str(output)]
    program = options.engine_bench and options.engine_bench.with_name("aes_gcm_bench")
    command += [str(program)] if program and program.exists() else []
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def measure_engine(run: Run, program: Path | None, models: list[str], threads: list[int]) -> None:
    """Run `engine_bench`, which may not be there."""
    if program is None or not program.exists():
        run.engine_reason = "engine_bench was not built"
        return
    try:
        for name in models:
            for number in threads:
                run.engine += engine.measure(program, trained(name), number)
    except RuntimeError as error:
        run.engine_reason = str(error)


def repeat_command() -> str:
    """The line that runs this again, without where the program lies on this machine."""
    words = []
    skip = False
    for word in sys.argv[1:]:
        if not skip and not word.startswith(("--engine-bench", "--output")):
            words.append(word)
        skip = word in ("--engine-bench", "--output")
    return f'make bench BENCH="{" ".join(words)}"' if words else "make bench"


def write(run: Run, directory: Path) -> None:
    """Write the report into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        pictures = plots.draw(run, directory)
    except ModuleNotFoundError:
        print("no pictures: matplotlib is not installed", file=sys.stderr)
        pictures = []
    (directory / "benchmarks.json").write_text(json.dumps(dataclasses.asdict(run), indent=1) + "\n")
    (directory / "benchmarks.md").write_text(markdown(run, pictures))
    shown = directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory
    print(f"wrote {shown}/benchmarks.md, benchmarks.json and {len(pictures)} pictures")


def main() -> None:
    options = arguments()
    versions, absent = machine.library_versions()
    for name, reason in absent.items():
        print(f"without {name}: {reason}", file=sys.stderr)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    run = Run(date, repeat_command(), machine.describe(), versions, absent)
    prepare_all(options.models)
    start, others = time.perf_counter(), machine.OtherPrograms()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for threads in options.threads:
            run.times[threads] = measure_times(options, threads, directory)
        for model in options.models:
            print(f"  {model}, loading", flush=True)
            run.loading[model] = {library: loading.measure_in_process(library, model) for library in CONTENDERS}
        run.sealing = measure_sealing(options, directory)
        run.remote = measure_remote(options, directory)
    measure_engine(run, options.engine_bench, options.models, options.threads)
    run.seconds = time.perf_counter() - start
    share = others.share()
    run.machine["other programs"] = f"took {share:.0%} of the processor time meanwhile"
    if share > MAX_OTHERS:
        print(f"Not to be published: other programs took {share:.0%} of the processor time.", file=sys.stderr)
    write(run, options.output.resolve())


if __name__ == "__main__":
    main()
