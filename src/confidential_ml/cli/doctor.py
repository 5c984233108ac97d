"""`confidential-ml doctor`: what this machine and this installation lack for production."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import NotAcceptedError
from confidential_ml.cli.output import print_json, show

if TYPE_CHECKING:
    from confidential_ml.cli.machine import Finding

__all__ = ["doctor"]

_MARKS = {"good": ("ok", "green"), "missing": ("missing", "bold red"), "unsure": ("?", "yellow"), "note": ("-", "dim")}


def doctor(json: options.Json = False) -> None:
    """Tell what this machine lacks for production.

    Exit status 0: nothing, 1: something.
    """
    from confidential_ml.cli.machine import State, examine

    findings = [*_installation(), *examine()]
    missing = [one.name for one in findings if one.state is State.MISSING]
    if json:
        document = [
            {"name": one.name, "state": one.state, "found": one.found, "remedy": one.remedy} for one in findings
        ]
        print_json({"ready": not missing, "missing": missing, "findings": document})
    else:
        _print(findings, missing)
    if missing:
        raise NotAcceptedError


def _print(findings: list[Finding], missing: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        mark, style = _MARKS[one.state]
        told = Text(one.found)
        if one.remedy:
            told.append(f"\n{one.remedy}", style="dim")
        table.add_row(Text(mark, style=style), one.name, told)
    if missing:
        verdict = Text(f"Not ready for production: {len(missing)} missing ", style="bold red")
        verdict.append(f"({', '.join(missing)})", style="default")
    else:
        verdict = Text("Ready for production.", style="bold green")
    show(table, "", verdict)


def _installation() -> list[Finding]:
    from confidential_ml import __version__
    from confidential_ml.cli.machine import Finding, State
    from confidential_ml.enclave import load_core
    from confidential_ml.errors import EnclaveError

    name = "confidential_ml"
    try:
        platform = load_core().platform
    except EnclaveError:
        return [
            Finding(name, State.MISSING, f"{__version__}, the relying party's half: no enclave", "docs/building.md")
        ]
    if platform == "openenclave":
        return [Finding(name, State.GOOD, f"{__version__}, built for SGX")]
    remedy = "pip install . -C cmake.define.CONFIDENTIAL_ML_PLATFORM=openenclave (docs/building.md)"
    return [Finding(name, State.MISSING, f"{__version__}, {platform}: protects nothing", remedy), _fuse_key()]


def _fuse_key() -> Finding:
    """The key of the simulated machine: where it is, never what it is."""
    from confidential_ml import simulation
    from confidential_ml.cli.machine import Finding, State

    name = "simulated machine"
    if simulation.FUSE_KEY_VARIABLE in os.environ:
        return Finding(name, State.NOTE, f"its fuse key comes from {simulation.FUSE_KEY_VARIABLE}")
    path = simulation.state_directory() / "simulation-fuse-key"
    if not path.exists():
        return Finding(name, State.NOTE, f"its fuse key will be made at first use: {path}")
    return Finding(name, State.NOTE, f"its fuse key: {path}, mode {path.stat().st_mode & 0o777:04o}")
