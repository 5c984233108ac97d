"""Runs `confidential-ml` in this process, quickly, or as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from confidential_ml.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status in (0, 1), self.err
        return json.loads(self.out)


class Run(Protocol):
    def __call__(self, *arguments: object) -> Done: ...


def run_here(*arguments: object) -> Done:
    out, err = io.StringIO(), io.StringIO()
    # What a command sets for its process alone.
    shown, handlers = warnings.showwarning, list(logging.getLogger("confidential_ml").handlers)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
    finally:
        warnings.showwarning = shown
        logging.getLogger("confidential_ml").handlers = handlers
    return Done(status, out.getvalue(), err.getvalue())


def run_process(*arguments: object, env: Mapping[str, str] | None = None, timeout: float = 60) -> Done:
    command = [sys.executable, "-m", "confidential_ml.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    return Done(done.returncode, done.stdout, done.stderr)
