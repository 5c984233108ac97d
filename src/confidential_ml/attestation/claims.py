"""What an enclave says about itself, read from the bytes behind the quote (docs/protocol.md 2)."""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from dataclasses import dataclass, field

from confidential_ml.attestation.quote import checked_bytes
from confidential_ml.attestation.reason import Reason
from confidential_ml.errors import AttestationError
from confidential_ml.sealed_file import PLATFORMS

__all__ = ["MAX_NONCE_SIZE", "ROLLBACKS", "Claims", "ModelClaim", "parse_claims"]

MAX_NONCE_SIZE = 64
ROLLBACKS = {0: "unprotected"}

_MAGIC = b"CMLCLAIM"
_VERSION = 1
_EPOCH_PART_SIZE = 144
_FIXED = struct.Struct("<8sIHHHHIQ16s32s32s32sHHI")
_MODEL = struct.Struct("<32s32sQIIIH")
_MAX_MODELS = 256
_OBLIVIOUS = 1
_KEY_ID_SIZE = 8
_NO_OWNER = bytes(32)
_MODEL_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ModelClaim:
    """A model that the enclave says it has loaded.

    Attributes
    ----------
    model_digest, model_id
        SHA-256 of the flat model, hexadecimal, and its name.
    owner
        Ed25519 public key of the owner who signed it, hexadecimal, or None.
    version
        The owner's version of the model.
    n_features, n_groups, n_values
        Columns of the rows, margins per row, value columns.
    """

    model_digest: str
    model_id: str
    owner: str | None
    version: int
    n_features: int
    n_groups: int
    n_values: int


@dataclass(frozen=True)
class Claims:
    """What an enclave says about itself.

    What people compare is hexadecimal text (digests, owners); what goes into cryptography is bytes.

    Attributes
    ----------
    platform
        ``"simulation"``, ``"openenclave-simulation"`` or ``"openenclave"``.
    suites
        Bit 0 is suite 1 of docs/protocol.md.
    obliviousness
        1: predictions as described in docs/engine.md.
    rollback
        ``"unprotected"``: an older sealed model can be loaded again.
    epoch, epoch_public_key
        Number of the epoch, and the X25519 key that requests are encrypted to.
    instance
        16 random bytes made when the enclave started.
    config_digest
        Of the enclave's limits (docs/protocol.md 2.1), hexadecimal.
    receipt_public_key
        The Ed25519 key that signs receipts.
    nonce
        As the asker gave it; may be empty.
    models
        What is loaded, in the order of loading.
    epoch_part
        The first 144 bytes, the same for every client of an epoch.
    """

    platform: str
    suites: int
    obliviousness: int
    rollback: str
    epoch: int
    instance: bytes
    config_digest: str
    epoch_public_key: bytes
    receipt_public_key: bytes
    nonce: bytes
    models: tuple[ModelClaim, ...]
    epoch_part: bytes = field(repr=False)

    @functools.cached_property
    def epoch_digest(self) -> bytes:
        """SHA-256 of the epoch part, which every request is bound to."""
        return hashlib.sha256(self.epoch_part).digest()

    @property
    def key_id(self) -> bytes:
        """First 8 bytes of the epoch digest."""
        return self.epoch_digest[:_KEY_ID_SIZE]


def parse_claims(claims: bytes) -> Claims:
    """Read claims, strictly: every length exact, reserved fields zero, nothing left over.

    Parameters
    ----------
    claims
        The bytes behind the quote (`Evidence.claims`). Nothing is verified here.

    Returns
    -------
    Claims

    Raises
    ------
    AttestationError
        `claims-version` if they are of another version, `claims-format` if malformed.
    InvalidInputError
        If they are not bytes.

    Notes
    -----
    The format is docs/protocol.md, section 2.
    """
    data = checked_bytes(claims, "claims")
    if not data.startswith(_MAGIC) or len(data) < _FIXED.size:
        raise _malformed("they are not claims of confidential_ml, or cut short (a bare quote has none: verify_quote)")
    (_, version, platform, suites, oblivious, rollback, zero, epoch, instance, config, epoch_key, receipt_key) = (
        _FIXED.unpack_from(data)[:12]
    )
    nonce_size, model_count, zero_too = _FIXED.unpack_from(data)[12:]
    if version != _VERSION:
        raise AttestationError(
            Reason.CLAIMS_VERSION, f"the claims have version {version}; this release reads version {_VERSION}"
        )
    if zero or zero_too:
        raise _malformed("a reserved field is not zero")
    if platform not in PLATFORMS or rollback not in ROLLBACKS or oblivious != _OBLIVIOUS or epoch == 0:
        raise _malformed("platform, obliviousness, rollback or epoch has a value that version 1 does not know")
    if nonce_size > MAX_NONCE_SIZE or model_count > _MAX_MODELS:
        raise _malformed(f"a nonce of {nonce_size} bytes or {model_count} models are over the limits")
    models_start = _FIXED.size + nonce_size
    return Claims(
        platform=PLATFORMS[platform],
        suites=suites,
        obliviousness=oblivious,
        rollback=ROLLBACKS[rollback],
        epoch=epoch,
        instance=instance,
        config_digest=config.hex(),
        epoch_public_key=epoch_key,
        receipt_public_key=receipt_key,
        nonce=data[_FIXED.size : models_start],
        models=_parse_models(data, models_start, model_count),
        epoch_part=data[:_EPOCH_PART_SIZE],
    )


def _parse_models(data: bytes, position: int, count: int) -> tuple[ModelClaim, ...]:
    models = []
    for _ in range(count):
        if len(data) < position + _MODEL.size:
            raise _malformed("they end inside a model")
        digest, owner, version, features, groups, values, id_size = _MODEL.unpack_from(data, position)
        position += _MODEL.size
        model_id = data[position : position + id_size]
        position += id_size
        if not _MODEL_ID.fullmatch(model_id):
            raise _malformed("a model id is not one")
        owner_text = None if owner == _NO_OWNER else owner.hex()
        models.append(ModelClaim(digest.hex(), model_id.decode("ascii"), owner_text, version, features, groups, values))
    # Beyond the end, if the last id is cut short.
    if position != len(data):
        raise _malformed(f"they should end at byte {position} and have {len(data)}")
    return tuple(models)


def _malformed(problem: str) -> AttestationError:
    return AttestationError(Reason.CLAIMS_FORMAT, f"the claims are malformed: {problem}")
