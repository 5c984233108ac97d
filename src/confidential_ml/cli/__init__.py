"""The command line, ``confidential-ml`` (docs/command-line.md). Needs the extra `cli`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("typer", "rich", "httpx", "httpcore", "anyio", "pyarrow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; the arguments are those of the process by default."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"confidential-ml needs {', '.join(missing)}; install it with: pip install 'confidential_ml[cli]'",
            file=sys.stderr,
        )
        return 2
    from confidential_ml.cli.app import run

    return run(arguments)
