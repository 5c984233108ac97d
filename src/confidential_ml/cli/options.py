"""Options that several commands take, each with one meaning, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml import sealed_file
from confidential_ml.cli.exit_status import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from confidential_ml.attestation import AttestationPolicy, TrustRoot
    from confidential_ml.client import ConfidentialClient

__all__ = [
    "AllowPlainHttp",
    "CaFile",
    "CollateralFile",
    "Image",
    "Json",
    "ModelDigest",
    "OwnerKey",
    "PolicyFile",
    "RootFile",
    "SealingPolicy",
    "Timeout",
    "TokenFile",
    "advice",
    "connect",
    "is_url",
    "read_owner_key",
    "read_root",
]

TOKEN_VARIABLE = "CONFIDENTIAL_ML_TOKEN"  # noqa: S105 # a name
_MAX_SMALL_FILE = 64 << 10

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="Which enclaves and models are accepted (TOML).")
]
RootFile = Annotated[
    Path | None,
    typer.Option("--root", metavar="FILE", help="Certificate to believe instead of Intel's root (PEM or DER)."),
]
CollateralFile = Annotated[
    Path | None, typer.Option("--collateral", metavar="FILE", help="Collateral (JSON) instead of the server's.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help=f"File with the bearer token; else ${TOKEN_VARIABLE}."),
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="The only certificates to believe a server by (PEM).")
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="For one attempt at one message.")]
AllowPlainHttp = Annotated[
    bool, typer.Option("--allow-plain-http", help="Send the token over http:// to another machine.")
]
ModelDigest = Annotated[
    str | None, typer.Option("--model-digest", metavar="HEX", help="The model, if the policy accepts several.")
]
SealingPolicy = Annotated[
    sealed_file.SealingPolicy,
    typer.Option("--sealing-policy", metavar="mrenclave|mrsigner", help="Who may open the sealed model."),
]
OwnerKey = Annotated[
    Path | None, typer.Option("--owner-key", metavar="FILE", help="Ed25519 private key that signs the model (PEM).")
]
Image = Annotated[Path | None, typer.Option("--image", metavar="FILE", help="Enclave image; the installed one else.")]


def advice(error: BaseException) -> str:
    """Which option mends what an error says, to be said after it; empty if none does."""
    # By attributes: reading the classes' modules here would import what only some commands need.
    if getattr(error, "code", None) == "token_wrong":
        return f"; give it in a file with --token-file, or in the environment's {TOKEN_VARIABLE}"
    if getattr(error, "reason", None) == "debug-enclave":
        return " (confidential-ml policy init --allow-debug)"
    if getattr(error, "reason", None) in ("model", "model-owner", "model-version"):
        return " (confidential-ml policy init --model-digest ANY)"
    return ""


def is_url(text: str) -> bool:
    """Whether a source is a server and no file."""
    return text.startswith(("http://", "https://"))


def read_root(path: Path | None) -> TrustRoot:
    """The root to believe: Intel's, or that of a certificate."""
    from confidential_ml.attestation import INTEL_ROOT, TrustRoot
    from confidential_ml.attestation.files import read_small

    if path is None:
        return INTEL_ROOT
    certificate = read_small(path, _MAX_SMALL_FILE)[1]
    root = TrustRoot.from_certificate(certificate, name=path.name)
    return TrustRoot(f"{_common_name(certificate)} ({path.name})", root.public_key)


def _common_name(certificate: bytes) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    load = x509.load_pem_x509_certificate if certificate.startswith(b"-----") else x509.load_der_x509_certificate
    found = load(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(found[0].value) if found else ""
    return name if name.isprintable() and name else "a certificate without a name"


def read_owner_key(path: Path | None) -> Ed25519PrivateKey | None:
    """An owner's key, unencrypted PEM as `openssl genpkey -algorithm ed25519` writes it."""
    if path is None:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from confidential_ml.attestation.files import read_small

    try:
        key = load_pem_private_key(read_small(path, _MAX_SMALL_FILE)[1], None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds no Ed25519 private key as unencrypted PEM: openssl genpkey -algorithm ed25519")
    return key


def read_token(path: Path | None) -> str | None:
    """The token of the file, else of the environment; never of the command line, which others can list."""
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    from confidential_ml.attestation.files import read_small

    return read_small(path, _MAX_SMALL_FILE)[1].decode("utf-8", "replace").strip()


def needed_policy(path: Path | None) -> AttestationPolicy:
    """The policy of a file; there is no other way to accept an enclave."""
    from confidential_ml.attestation import AttestationPolicy

    if path is None:
        raise UsageError("which enclave is accepted? Give --policy FILE; `confidential-ml policy init` writes one")
    return AttestationPolicy.load(path)


def connect(
    url: str,
    policy: AttestationPolicy,
    *,
    root: Path | None,
    collateral: Path | None,
    token_file: Path | None,
    ca_file: Path | None,
    timeout: float,
    allow_plain_http: bool,
    **options: Any,
) -> ConfidentialClient:
    """A client, as the common options say."""
    from confidential_ml.attestation import Collateral
    from confidential_ml.client import ConfidentialClient

    return ConfidentialClient(
        url,
        policy,
        root=read_root(root),
        collateral=None if collateral is None else Collateral.load(collateral),
        token=read_token(token_file),
        ca_file=ca_file,
        timeout=timeout,
        allow_plain_http=allow_plain_http,
        **options,
    )
