"""`confidential-ml simulation`: what a client needs to believe the simulated platform of this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from confidential_ml.cli.output import note

__all__ = ["simulation_commands"]

simulation_commands = typer.Typer(help="The simulated platform of this user on this machine.", no_args_is_help=True)


@simulation_commands.callback()
def _simulation() -> None:
    pass


@simulation_commands.command("root")
def root(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Standard output if not given.")] = None,
) -> None:
    """Write the certificate of the simulated root, for --root (PEM).

    Who believes it accepts enclaves that protect nothing.
    """
    from confidential_ml import simulated_platform
    from confidential_ml.attestation.files import replace_small

    certificate = simulated_platform.of_this_installation().root_certificate
    if file is None:
        print(certificate.decode("ascii"), end="")
        return
    replace_small(file, certificate)
    note(f"{file} is the root of a simulation: a client that is given it accepts enclaves that protect nothing")
