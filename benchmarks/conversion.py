"""Converting models for the libraries once, each in a process of its own; what comes out is kept in the cache.

Usage: python -m benchmarks.conversion CONTENDER MODEL
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders import CONTENDERS, OURS, CannotRunError, Contender, versions, why
from benchmarks.models import TrainedModel, trained

# gcc takes minutes for the largest model of which it is asked.
TIMEOUT_SECONDS = 1800


def prepare(contender: Contender, model: TrainedModel) -> None:
    """Have the file written that the contender loads, unless it is in the cache.

    A failure is kept in the cache as well: some take many minutes to come about.

    Parameters
    ----------
    contender, model
        Whose file of which model.

    Raises
    ------
    CannotRunError
        With the reason, found now or earlier.
    """
    versions(contender)
    path = contender.artifact(model)
    if path == model.ubjson:
        return
    # A sealed file is good only for the enclave of this build, and quick to write.
    if contender.name == OURS or not _record(path).exists():
        print(f"converting {model.name} for {contender.name} ...", flush=True)
        start = time.perf_counter()
        reason = _convert_in_process(contender, model)
        _record(path).write_text(json.dumps({"reason": reason, "seconds": round(time.perf_counter() - start, 3)}))
    check_prepared(contender, model)


def check_prepared(contender: Contender, model: TrainedModel) -> None:
    """Convert nothing, only see what came of it.

    Parameters
    ----------
    contender, model
        Whose file of which model.

    Raises
    ------
    CannotRunError
        If there is no file.
    """
    path = contender.artifact(model)
    if path == model.ubjson:
        return
    if not _record(path).exists():
        raise CannotRunError("the model was not converted")
    reason = json.loads(_record(path).read_text())["reason"]
    if reason:
        raise CannotRunError(reason)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".record")


def _convert_in_process(contender: Contender, model: TrainedModel) -> str | None:
    """Run this module for them; the reason if that fails."""
    command = [sys.executable, "-m", "benchmarks.conversion", contender.name, model.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the conversion takes over {TIMEOUT_SECONDS // 60} minutes"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or ["no message"]
    return lines[-1][:200] if done.returncode == 1 else f"the conversion ended with status {done.returncode}"


def main() -> None:
    name, letter = sys.argv[1:]
    try:
        CONTENDERS[name].prepare(trained(letter))
    except Exception as error:  # whatever a converter may raise is a reason to report
        print(why(error), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
