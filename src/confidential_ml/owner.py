"""What a model owner signs, so that nobody else can seal or provision under their name (docs/protocol.md 5)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confidential_ml.arguments import checked_digest, checked_model_id, checked_version
from confidential_ml.errors import InvalidInputError
from confidential_ml.owner_key import check_owner_key

__all__ = ["checked_owner_key", "is_signed_by_owner", "owner_id", "sign_model"]

_LABEL = b"confidential_ml owner v1"


def owner_id(owner_key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """An owner's public key in hexadecimal, as claims, policies and receipts name it.

    Raises
    ------
    InvalidInputError
        If `owner_key` is no Ed25519 key, or one under which anybody can sign.
    """
    if not isinstance(owner_key, Ed25519PublicKey):
        owner_key = checked_owner_key(owner_key).public_key()
    key = owner_key.public_bytes_raw()
    check_owner_key(key, "owner_key")
    return key.hex()


def sign_model(owner_key: Ed25519PrivateKey, *, model_digest: str, version: int, model_id: str) -> bytes:
    """Sign a model under an id and a version.

    Parameters
    ----------
    owner_key
        The owner's key (RFC 8032).
    model_digest
        SHA-256 of the flat model, hexadecimal.
    version
        From 0 to 2^64 - 1; orders the models of one owner.
    model_id
        As in :func:`confidential_ml.seal`.

    Returns
    -------
    bytes
        The signature, 64 bytes.

    Raises
    ------
    InvalidInputError
        If an argument has another form.
    """
    return checked_owner_key(owner_key).sign(_signed(model_digest, version, model_id))


def is_signed_by_owner(owner: str, signature: bytes, *, model_digest: str, version: int, model_id: str) -> bool:
    """Whether `signature` is that of `owner` (public key, hexadecimal) over exactly this model, version and id.

    Raises
    ------
    InvalidInputError
        If an argument other than `signature` has another form.
    """
    key = bytes.fromhex(checked_digest(owner, "owner"))
    check_owner_key(key, "owner")
    signed = _signed(model_digest, version, model_id)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def checked_owner_key(owner_key: object) -> Ed25519PrivateKey:
    """Return the key, or raise :class:`InvalidInputError` for anything that is none."""
    if not isinstance(owner_key, Ed25519PrivateKey):
        raise InvalidInputError(
            f"owner_key must be an Ed25519PrivateKey of the cryptography package, not {type(owner_key).__name__}"
        )
    return owner_key


def _signed(model_digest: str, version: int, model_id: str) -> bytes:
    name = checked_model_id(model_id)
    digest = bytes.fromhex(checked_digest(model_digest, "model_digest"))
    numbers = checked_version(version).to_bytes(8, "little") + len(name).to_bytes(2, "little")
    return _LABEL + digest + numbers + name
