"""`confidential-ml verify-receipt`: whether an enclave did what a receipt says."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import UsageError
from confidential_ml.cli.output import print_facts, print_json
from confidential_ml.cli.provision import receipt_document, receipt_facts

if TYPE_CHECKING:
    from confidential_ml.cli.receipt_file import ReceiptFile

__all__ = ["verify_receipt"]


def verify_receipt(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="As provision and predict keep it.")],
    policy: options.PolicyFile = None,
    root: options.RootFile = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="Predictions that it shall be of.")
    ] = None,
    sealed: Annotated[
        Path | None, typer.Option("--sealed", metavar="FILE", help="Sealed model that it shall be of.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Verify as of then (ISO 8601); `asked` is the receipt's own time."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Verify a receipt, offline.

    The evidence of its enclave, that the policy accepts that and the model, its signature, and that it is of what it is
    compared with.
    """
    from confidential_ml.attestation import AttestationError, attest
    from confidential_ml.cli.receipt_file import ReceiptFile
    from confidential_ml.receipt import parse_receipt
    from confidential_ml.receipt import verify_receipt as verify_signature

    kept = ReceiptFile.load(receipt)
    now = _moment(at, parse_receipt(kept.receipt).asked_at)
    wanted = options.needed_policy(policy)
    try:
        accepted = attest(kept.evidence, kept.collateral, wanted, root=options.read_root(root), now=now)
    except AttestationError as error:
        if at is None and error.reason.value.endswith("-expired"):
            sentence = f"{error.sentence}; or verify the receipt as of the time that it was asked for: --at asked"
            raise AttestationError(error.reason, sentence, error.steps) from None
        raise
    compared = _compared(kept, predictions, sealed)
    signed = verify_signature(kept.receipt, accepted, **compared)
    by_its_name = wanted.accepts_model(signed.model_digest, signed.owner, signed.model_version)
    against = [str(path) for path in (predictions, sealed) if path is not None]
    if json:
        print_json(
            {
                "verified": True,
                **receipt_document(signed),
                "root": accepted.root.name,
                "policy_accepts": True,
                "compared_with": against,
            }
        )
        return
    print_facts(
        f"{receipt}: verified",
        {
            **receipt_facts(signed),
            "root": accepted.root.name,
            "policy": "accepts the enclave and the model"
            + ("" if by_its_name else ", which is loaded as another version or owner's too"),
            "compared with": " and ".join(against) or "nothing: --predictions or --sealed",
        },
    )


def _compared(kept: ReceiptFile, predictions: Path | None, sealed: Path | None) -> dict[str, Any]:
    from confidential_ml.cli.row_reader import read_all
    from confidential_ml.sealed_file import read_sealed

    compared: dict[str, Any] = {}
    if sealed is not None:
        compared["sealed"] = read_sealed(str(sealed))
    if predictions is not None:
        if kept.rows is None:
            raise UsageError("the receipt is of a model provisioned; compare it with --sealed")
        begin, end = kept.rows
        compared |= {"answer": read_all(predictions)[begin:end].tobytes(), "blind": kept.blind}
    return compared


def _moment(at: str | None, asked_at: datetime.datetime | None) -> datetime.datetime | None:
    if at is None:
        return None
    if at == "asked":
        if asked_at is None:
            raise UsageError("the receipt says no time; give --at a time in ISO 8601")
        return asked_at
    try:
        moment = datetime.datetime.fromisoformat(at)
    except ValueError:
        raise UsageError("--at must be `asked` or a time in ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise UsageError("--at needs a time zone, such as the Z of 2026-01-31T12:00:00Z")
    return moment
