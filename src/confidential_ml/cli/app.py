"""The commands, and how each begins and ends. What a command needs it imports itself, so that `--help` is quick."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.attest import attest
from confidential_ml.cli.bench import bench
from confidential_ml.cli.doctor import doctor
from confidential_ml.cli.exit_status import Exit, status_of
from confidential_ml.cli.inspect_file import inspect_file
from confidential_ml.cli.policy import policy_commands
from confidential_ml.cli.predict import predict
from confidential_ml.cli.provision import provision
from confidential_ml.cli.seal import seal
from confidential_ml.cli.serve import serve
from confidential_ml.cli.simulation import simulation_commands
from confidential_ml.cli.verify_receipt import verify_receipt
from confidential_ml.errors import ConfidentialMLError

__all__ = ["app", "run"]

app = typer.Typer(
    name="confidential-ml",
    help="Run XGBoost models inside an SGX enclave, where nobody else reads the model or the rows.",
    epilog="Exit status: 0 done, 1 refused, 2 wrong usage, 3 could not be done or found out.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from confidential_ml import __version__

        print(f"confidential-ml {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # its callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_AT_HOME, _REMOTE, _MACHINE = "Models", "Over the network", "This machine"
for _function, _name, _panel in (
    (seal, "seal", _AT_HOME),
    (inspect_file, "inspect", _AT_HOME),
    (predict, "predict", _AT_HOME),
    (bench, "bench", _AT_HOME),
    (attest, "attest", _REMOTE),
    (provision, "provision", _REMOTE),
    (verify_receipt, "verify-receipt", _REMOTE),
):
    app.command(_name, rich_help_panel=_panel)(_function)
app.add_typer(policy_commands, name="policy", rich_help_panel=_REMOTE)
app.command("serve", rich_help_panel=_MACHINE)(serve)
app.command("doctor", rich_help_panel=_MACHINE)(doctor)
app.add_typer(simulation_commands, name="simulation", rich_help_panel=_MACHINE)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. No error shows a traceback unless it is a defect."""
    warnings.showwarning = _say_warning
    # What goes wrong is said once, as the error.
    logging.getLogger("confidential_ml").addHandler(logging.NullHandler())
    try:
        given = None if arguments is None else list(arguments)
        status = int(app(given, prog_name="confidential-ml", standalone_mode=False) or 0)
    except (ConfidentialMLError, OSError, KeyboardInterrupt, typer.Abort, ImportError) as error:
        return _ended(error)
    except Exception as error:
        message = getattr(error, "format_message", None)  # of the parser, whose errors have no public base
        if message is None:
            raise
        if message():  # without arguments the help was printed, and that is all
            _say(f"{message()} (see {_command_path(error)} --help)")
        return Exit.USAGE
    return _interrupted() if status == Exit.INTERRUPTED else status  # typer ends a command so, and says nothing


def _ended(error: BaseException) -> int:
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _interrupted()
    if isinstance(error, BrokenPipeError):
        # Whoever read has read enough. Nothing more is written, also not when Python ends.
        sys.stdout = None
        return Exit.DONE
    if isinstance(error, ImportError):
        _say(str(error))
        return Exit.USAGE
    if str(error):
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        _say(text + options.advice(error))
    return status_of(error)


def _interrupted() -> int:
    _say("interrupted")
    # CPython dies of SIGINT in place of ending with our status if the interrupt came while `exec` ran a text, as
    # dataclasses do when a module is imported (run_eval_code_obj, pythonrun.c). Running another text takes that back.
    exec("")  # noqa: S102
    return Exit.INTERRUPTED


def _say(sentence: str) -> None:
    printable = "".join(one if one.isprintable() or one == "\n" else "?" for one in sentence)
    print(f"confidential-ml: {printable}", file=sys.stderr)


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {str(message).split('. ')[0]}.")


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return str(getattr(context, "command_path", None) or "confidential-ml")
