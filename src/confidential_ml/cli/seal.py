"""`confidential-ml seal`: encrypt a model so that only this enclave on this machine can read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from confidential_ml.cli import options
from confidential_ml.cli.inspect_file import print_sealed

__all__ = ["seal"]


def seal(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="XGBoost model, JSON or UBJSON.")],
    sealed: Annotated[Path, typer.Argument(metavar="SEALED", help="Where the sealed model goes.")],
    model_id: Annotated[str, typer.Option("--model-id", metavar="ID", help="Its name, stored in clear.")] = "model",
    sealing_policy: options.SealingPolicy = "mrenclave",
    version: Annotated[int, typer.Option("--version", metavar="N", help="As the owner counts.")] = 0,
    owner_key: options.OwnerKey = None,
    image: options.Image = None,
    json: options.Json = False,
) -> None:
    """Encrypt a model for this machine's enclave."""
    import confidential_ml as cml

    key = options.read_owner_key(owner_key)
    if image is None:
        info = cml.seal(model, sealed, model_id=model_id, policy=sealing_policy, version=version, owner_key=key)
    else:
        with cml.Enclave(image) as enclave:
            info = cml.seal(
                model, sealed, model_id=model_id, policy=sealing_policy, version=version, owner_key=key, enclave=enclave
            )
    print_sealed(sealed, info, json=json)
