"""`confidential-ml policy`: write and show what a relying party accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import UsageError
from confidential_ml.cli.output import note, print_facts, print_json
from confidential_ml.errors import InvalidInputError

__all__ = ["policy_commands"]

policy_commands = typer.Typer(help="Policies: which enclaves and models are accepted.", no_args_is_help=True)

_Several = list[str] | None
_NAMES = {
    "mrenclave": "MRENCLAVE",
    "mrsigner": "MRSIGNER",
    "isv_prod_id": "product id",
    "min_isv_svn": "least SVN",
    "accepted_tcb": "TCB status",
    "accepted_advisories": "advisories",
    "min_tcb_evaluation_number": "TCB evaluation",
    "allow_debug": "debug enclaves",
    "model_digest": "model digest",
    "model_owner": "model owner",
    "min_model_version": "least version",
    "max_age": "age in seconds",
    "ppids": "machines (PPID)",
    "config_digest": "config digest",
    "rollback": "rollback",
}


@policy_commands.command("init")
def init(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Standard output if not given.")] = None,
    mrenclave: Annotated[_Several, typer.Option("--mrenclave", metavar="HEX", help="Image; several, or ANY.")] = None,
    mrsigner: Annotated[_Several, typer.Option("--mrsigner", metavar="HEX", help="Signer; several, or ANY.")] = None,
    isv_prod_id: Annotated[str | None, typer.Option("--isv-prod-id", metavar="N|ANY", help="Product id.")] = None,
    min_isv_svn: Annotated[int | None, typer.Option("--min-isv-svn", metavar="N", help="Least SVN.")] = None,
    this_image: Annotated[bool, typer.Option("--this-image", help="MRENCLAVE of the image installed here.")] = False,
    model_digest: Annotated[
        _Several, typer.Option("--model-digest", metavar="HEX", help="Model; several, or ANY.")
    ] = None,
    model_owner: Annotated[_Several, typer.Option("--model-owner", metavar="HEX", help="Owner's public key.")] = None,
    min_model_version: Annotated[
        int | None, typer.Option("--min-model-version", metavar="N", help="Least version of the owner's.")
    ] = None,
    sealed: Annotated[
        Path | None, typer.Option("--sealed", metavar="FILE", help="Model digest of a sealed model, unauthenticated.")
    ] = None,
    accept_tcb: Annotated[
        _Several, typer.Option("--accept-tcb", metavar="STATUS", help="TCB status; UpToDate alone by default.")
    ] = None,
    accept_advisory: Annotated[
        _Several, typer.Option("--accept-advisory", metavar="ID", help="INTEL-SA-...; several, or ANY.")
    ] = None,
    max_age: Annotated[float | None, typer.Option("--max-age", metavar="SECONDS", help="Of a verification.")] = None,
    ppid: Annotated[_Several, typer.Option("--ppid", metavar="HEX", help="Machine; all by default.")] = None,
    allow_debug: Annotated[
        bool, typer.Option("--allow-debug", help="Accept enclaves whose memory can be read: every simulation.")
    ] = False,
) -> None:
    """Write a policy.

    The enclave must be named by image or signer, the model by digest or owner; ANY says that any will do.
    """
    from confidential_ml.attestation import AttestationPolicy

    images = [*(mrenclave or []), *([_installed()] if this_image else [])]
    digests = [*(model_digest or []), *([_digest_of(sealed)] if sealed is not None else [])]
    fields: dict[str, Any] = {
        "mrenclave": _any_or(images),
        "mrsigner": _any_or(mrsigner),
        "isv_prod_id": _product(isv_prod_id),
        "min_isv_svn": min_isv_svn,
        "accepted_tcb": accept_tcb,
        "accepted_advisories": _any_or(accept_advisory),
        "allow_debug": allow_debug,
        "model_digest": _any_or(digests),
        "model_owner": model_owner,
        "min_model_version": min_model_version,
        "max_age": max_age,
        "ppids": ppid,
    }
    try:
        policy = AttestationPolicy(**{name: value for name, value in fields.items() if value not in (None, [])})
    except InvalidInputError as error:
        raise UsageError(_in_options(str(error))) from None
    if file is None:
        print(policy.to_toml(), end="")
        return
    if file.exists():
        raise UsageError(f"{file} exists; remove it first, or write to another file")
    policy.save(file)
    note(f"wrote {file}; look at it with: confidential-ml policy show {file}")


@policy_commands.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy (TOML).")], json: options.Json = False
) -> None:
    """Show a policy, and what it leaves open."""
    import tomllib

    from confidential_ml.attestation import AttestationPolicy

    policy = AttestationPolicy.load(file)
    fields = tomllib.loads(policy.to_toml())
    if json:
        print_json(fields)
        return
    open_fields = [name for name in AttestationPolicy.__dataclass_fields__ if name not in fields]
    shown = {_NAMES[name]: _shown(value) for name, value in fields.items()}
    print_facts(f"{file}", {**shown, "not asked for": ", ".join(_NAMES[name] for name in open_fields)})
    if policy.allow_debug:
        note("this policy accepts enclaves whose memory can be read; never use it for anything secret")


def _in_options(message: str) -> str:
    """A message about arguments, in the options' names: ``model_digest=ANY`` is ``--model-digest ANY``."""

    def option(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}{' ' if found[2] else ''}{found[2]}"

    return re.sub(r"\b([a-z_]+)=(\w*)", option, message)


def _shown(value: object) -> object:
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _any_or(values: _Several) -> Any:
    from confidential_ml.attestation import ANY

    if values and ANY.value in values:
        if len(values) > 1:
            raise UsageError("ANY stands alone: it accepts the others too")
        return ANY
    return values


def _product(text: str | None) -> Any:
    from confidential_ml.attestation import ANY

    if text is None or text == ANY.value:
        return None if text is None else ANY
    if not text.isascii() or not text.isdecimal():
        raise UsageError("--isv-prod-id must be a whole number, or ANY")
    return int(text)


def _installed() -> str:
    import confidential_ml as cml

    with cml.Enclave() as enclave:
        return enclave.identity.mrenclave


def _digest_of(sealed: Path) -> str:
    from confidential_ml.sealed_file import inspect_sealed

    return inspect_sealed(sealed).model_digest
