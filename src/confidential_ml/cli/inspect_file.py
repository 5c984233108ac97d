"""`confidential-ml inspect`: what the header of a sealed model says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confidential_ml.cli import options
from confidential_ml.cli.output import print_facts, print_json, size_text

if TYPE_CHECKING:
    from confidential_ml.sealed_file import SealedInfo

__all__ = ["inspect_file", "print_sealed"]


def inspect_file(
    sealed: Annotated[Path, typer.Argument(metavar="SEALED", help="A sealed model.")], json: options.Json = False
) -> None:
    """Show the header of a sealed model.

    Nothing in it is authenticated before an enclave opens the file.
    """
    from confidential_ml.sealed_file import inspect_sealed

    print_sealed(sealed, inspect_sealed(sealed), json=json)


def print_sealed(path: Path, info: SealedInfo, *, json: bool) -> None:
    """The header of a sealed model."""
    if json:
        print_json(dataclasses.asdict(info))
        return
    print_facts(
        f"{path}",
        {
            "model id": info.model_id,
            "model digest": info.model_digest,
            "model": size_text(info.model_size),
            "owner": info.owner,
            "version": info.model_version,
            "opens in": "this very image" if info.policy == "mrenclave" else "this signer's images, SVN not lower",
            "sealing policy": info.policy,
            "MRENCLAVE": info.mrenclave,
            "MRSIGNER": info.mrsigner,
            "product id, SVN": f"{info.isv_prod_id}, {info.isv_svn}",
            "platform": info.platform if info.platform == "openenclave" else f"{info.platform} (protects nothing)",
            "file": f"{size_text(info.size)}, format {info.version}",
        },
    )
