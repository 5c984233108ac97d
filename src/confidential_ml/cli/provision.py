"""`confidential-ml provision`: send a model to an enclave elsewhere, which nobody on the way can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from confidential_ml.receipt import Receipt

__all__ = ["provision", "receipt_document", "receipt_facts"]


def provision(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="XGBoost model, JSON or UBJSON.")],
    model_id: Annotated[str, typer.Option("--model-id", metavar="ID", help="Its name, which the operator sees.")],
    policy: options.PolicyFile = None,
    sealing_policy: options.SealingPolicy = "mrenclave",
    version: Annotated[int, typer.Option("--version", metavar="N", help="As the owner counts.")] = 0,
    owner_key: options.OwnerKey = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="Keep the receipt, for verify-receipt.")
    ] = None,
    root: options.RootFile = None,
    collateral: options.CollateralFile = None,
    token_file: options.TokenFile = None,
    ca_file: options.CaFile = None,
    timeout: options.Timeout = 120.0,
    allow_plain_http: options.AllowPlainHttp = False,
    json: options.Json = False,
) -> None:
    """Send a model to an enclave elsewhere.

    The enclave is verified first, seals the model and serves it; the operator never sees it.
    """
    key = options.read_owner_key(owner_key)
    with options.connect(
        url,
        options.needed_policy(policy),
        root=root,
        collateral=collateral,
        token_file=token_file,
        ca_file=ca_file,
        timeout=timeout,
        allow_plain_http=allow_plain_http,
    ) as client:
        signed, evidence, used = client.provision_with_evidence(
            model, model_id=model_id, policy=sealing_policy, version=version, owner_key=key
        )
    if receipt is not None:
        from confidential_ml.cli.receipt_file import ReceiptFile

        ReceiptFile(signed.data, evidence, used).save(receipt)
    if json:
        print_json(receipt_document(signed))
    else:
        print_facts(f"{model_id} is sealed at {url}", receipt_facts(signed))


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """What a receipt says, for programs."""
    asked_at = receipt.asked_at
    return {
        "kind": receipt.kind.name.lower(),
        "model_digest": receipt.model_digest,
        "owner": receipt.owner,
        "model_version": receipt.model_version,
        "sealing_policy": receipt.policy,
        "mrenclave": receipt.mrenclave,
        "counter": receipt.counter,
        "asked_at": None if asked_at is None else asked_at.isoformat(timespec="milliseconds"),
        "request_digest": receipt.request_digest,
        "content_digest": receipt.content_digest,
    }


def receipt_facts(receipt: Receipt) -> dict[str, object]:
    """What a receipt says, for people."""
    is_prediction = receipt.policy is None
    return {
        "what was done": "rows predicted" if receipt.policy is None else f"model sealed for {receipt.policy.upper()}",
        "model digest": receipt.model_digest,
        "owner, version": f"{receipt.owner or 'nobody'}, {receipt.model_version}",
        "MRENCLAVE": receipt.mrenclave,
        "receipt number": receipt.counter,
        "asked at": receipt.asked_at or "not said",
        "of request": receipt.request_digest,
        "of predictions" if is_prediction else "of sealed model": receipt.content_digest,
    }
