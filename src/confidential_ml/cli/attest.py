"""`confidential-ml attest`: whether an enclave is genuine, and one that the policy accepts."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import NotAcceptedError, UsageError
from confidential_ml.cli.output import fact_table, print_json, show

if TYPE_CHECKING:
    from rich.table import Table

    from confidential_ml.attestation import AttestationPolicy, AttestationResult, Collateral

__all__ = ["attest"]


@dataclass(frozen=True)
class _Found:
    """Evidence to be looked at, what it shall be verified with, and the nonce it must name."""

    evidence: bytes
    collateral: Collateral
    nonce: bytes | None


def attest(
    source: Annotated[str, typer.Argument(metavar="URL|EVIDENCE", help="A server, or a file of evidence.")],
    policy: options.PolicyFile = None,
    root: options.RootFile = None,
    collateral: options.CollateralFile = None,
    collateral_service: Annotated[
        str | None, typer.Option("--collateral-service", metavar="URL", help="A PCS or PCCS; `intel` is Intel's.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help="That a file must name; a server gets a new one.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Keep the evidence of a server.")] = None,
    ca_file: options.CaFile = None,
    timeout: options.Timeout = 60.0,
    json: options.Json = False,
) -> None:
    """Verify evidence and compare it with a policy.

    Exit status 0: accepted, 1: refused, 3: could not find out.
    """
    from confidential_ml import attestation
    from confidential_ml.errors import AttestationError

    wanted = options.needed_policy(policy)
    believed = options.read_root(root)
    if options.is_url(source):
        found = _of_server(source, wanted, collateral, collateral_service, nonce, ca_file, timeout)
        if save is not None:
            save.write_bytes(found.evidence)
    elif ":" in source and not Path(source).exists():
        raise UsageError(f"{source} is no file; a server's URL begins with https:// or http://")
    else:
        found = _of_file(Path(source), collateral, collateral_service, nonce)
    try:
        result = attestation.attest(found.evidence, found.collateral, wanted, nonce=found.nonce, root=believed)
    except AttestationError as refusal:
        _print_refusal(source, refusal, json=json)
        raise NotAcceptedError from refusal
    print_json(_document(result)) if json else _print_accepted(source, result)


def _of_server(
    url: str,
    policy: AttestationPolicy,
    collateral: Path | None,
    service: str | None,
    nonce: str | None,
    ca_file: Path | None,
    timeout: float,
) -> _Found:
    from confidential_ml.client import ConfidentialClient

    # The routes of evidence need no token, so none is sent to somebody who is not verified yet.
    with ConfidentialClient(url, policy, ca_file=ca_file, timeout=timeout) as client:
        evidence, sent = client.report(None if nonce is None else _nonce(nonce))
        given = _given_collateral(evidence, collateral, service)
        return _Found(evidence, given or client.server_collateral(), sent)


def _of_file(path: Path, collateral: Path | None, service: str | None, nonce: str | None) -> _Found:
    from confidential_ml.attestation.files import read_small

    evidence = read_small(path, 256 << 10)[1]
    given = _given_collateral(evidence, collateral, service)
    if given is None:
        raise UsageError("what shall it be verified with? Give --collateral FILE or --collateral-service intel|URL")
    return _Found(evidence, given, None if nonce is None else _nonce(nonce))


def _given_collateral(evidence: bytes, file: Path | None, service: str | None) -> Collateral | None:
    from confidential_ml.attestation import Collateral

    if file is not None and service is not None:
        raise UsageError("--collateral and --collateral-service exclude each other")
    if file is not None:
        return Collateral.load(file)
    if service is None:
        return None
    from confidential_ml.attestation.collateral_service import INTEL_PCS_URL, CollateralService

    return CollateralService(INTEL_PCS_URL if service == "intel" else service).collateral(evidence)


def _nonce(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError("--nonce must be hexadecimal, up to 64 bytes") from None


def _step_table(steps: tuple[str, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for step in steps:
        table.add_row(Text("ok", style="green"), step.removeprefix("ok").strip())
    return table


def _print_refusal(source: str, refusal: Any, *, json: bool) -> None:
    from rich.text import Text

    if json:
        print_json(
            {"accepted": False, "reason": str(refusal.reason), "sentence": refusal.sentence, "steps": refusal.steps}
        )
        return
    verdict = Text(f"REFUSED  {refusal.reason}", style="bold red")
    show(_step_table(refusal.steps), "", verdict, f"{source}: {refusal.sentence}{options.advice(refusal)}")


def _print_accepted(source: str, result: AttestationResult) -> None:
    from rich.text import Text

    is_genuine = result.claims.platform == "openenclave" and not result.debug
    verdict = "ACCEPTED" if is_genuine else "ACCEPTED, and PROTECTS NOTHING"
    models = [
        f"{one.model_id}, version {one.version}: digest{' and owner' if one.owner else ''}\n"
        + "\n".join(filter(None, (one.model_digest, one.owner)))
        for one in result.models
    ]
    show(
        _step_table(result.steps),
        "",
        Text(f"{verdict}  {source}", style="bold green" if is_genuine else "bold yellow"),
        fact_table(
            {
                "root": result.root.name,
                "platform": result.claims.platform + (", DEBUG: its memory can be read" if result.debug else ""),
                "TCB": f"{result.tcb_status}, advisories {', '.join(result.advisories) or 'none'}",
                "machine (PPID)": result.ppid,
                "MRENCLAVE": result.mrenclave,
                "MRSIGNER": result.mrsigner,
                "product id, SVN": f"{result.report.isv_prod_id}, {result.report.isv_svn}",
                "epoch": str(result.claims.epoch),
                "models accepted": "\n".join(models) or "none loaded",
                "holds until": _time(result.earliest_expiry),
            }
        ),
    )


def _document(result: AttestationResult) -> dict[str, Any]:
    return {
        "accepted": True,
        "protects": result.claims.platform == "openenclave" and not result.debug,
        "root": result.root.name,
        "platform": result.claims.platform,
        "debug": result.debug,
        "tcb_status": str(result.tcb_status),
        "advisories": list(result.advisories),
        "ppid": result.ppid,
        "mrenclave": result.mrenclave,
        "mrsigner": result.mrsigner,
        "isv_prod_id": result.report.isv_prod_id,
        "isv_svn": result.report.isv_svn,
        "epoch": result.claims.epoch,
        "config_digest": result.claims.config_digest,
        "rollback": result.claims.rollback,
        "models": [
            {"model_id": one.model_id, "model_digest": one.model_digest, "owner": one.owner, "version": one.version}
            for one in result.models
        ],
        "verified_at": _time(result.verified_at),
        "earliest_expiry": _time(result.earliest_expiry),
        "steps": result.steps,
    }


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
