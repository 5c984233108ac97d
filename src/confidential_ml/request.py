"""Confidential requests: rows or a model, encrypted to an enclave's epoch key (docs/protocol.md 3)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from time import time_ns

import numpy as np

from confidential_ml.arguments import checked_model_id, checked_policy, checked_version
from confidential_ml.attestation import Claims
from confidential_ml.errors import InvalidInputError, RemoteError
from confidential_ml.hpke import Encapsulation, extract_unsalted
from confidential_ml.owner import is_signed_by_owner
from confidential_ml.protocol import (
    ANSWER_PREFIX_SIZE,
    MAX_ANSWER_CONTENT,
    MAX_PROVISION_CONTENT,
    MAX_REQUEST_CONTENT,
    RECEIPT_SIZE,
    REQUEST_NONCE_SIZE,
    SUITE,
    VERSION,
    Kind,
    bucket_size,
)
from confidential_ml.rows import FloatArray

__all__ = ["OwnerSignature", "Request", "encapsulation_to", "predict_request", "provision_request"]

_HEADER = struct.Struct("<HHHH8s32sII")
_PREDICT = struct.Struct("<IIIIQQQ")
_PROVISION = struct.Struct("<IHHQQQ32s64s")
_LABEL = b"confidential_ml request v1"
_ANSWER_LABEL = b"confidential_ml answer v1"
_ANSWER_SECRET_SIZE = 32
_OUTPUT_MARGIN, _WANTS_RECEIPT = 1, 2
_FLOAT32_SIZE = 4
_LITTLE_ENDIAN = np.dtype("<f4")


@dataclass(slots=True)
class Request:
    """A request as it is sent, and what opens its answer.

    Attributes
    ----------
    head
        Header, enc and nonce, which are in clear.
    sealed
        Ciphertext and tag; nobody but the enclave can read them, not even the sender.
    kind
        What it asks for.
    answer_size
        Bytes of the answer's padded plaintext.
    answer_secret
        32 bytes that only the enclave can derive too; opens the answer.
    """

    # Two parts, because what is sent has a header of its own before them: joined once, not twice.
    head: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    kind: Kind
    answer_size: int
    answer_secret: bytes = field(repr=False)

    @property
    def message(self) -> bytes:
        """All of its bytes."""
        return self.head + self.sealed


@dataclass(frozen=True)
class OwnerSignature:
    """Who signed a model.

    Attributes
    ----------
    owner
        Ed25519 public key, hexadecimal.
    signature
        64 bytes, as `owner.sign_model` makes it.
    """

    owner: str
    signature: bytes


def encapsulation_to(claims: Claims) -> Encapsulation:
    """What any number of requests to an enclave can be encrypted with, and be known to be of one client.

    Parameters
    ----------
    claims
        **Verified** claims of the enclave.

    Raises
    ------
    RemoteError
        If nothing can be encrypted to the enclave's key.
    """
    try:
        return Encapsulation(claims.epoch_public_key)
    except ValueError:
        raise RemoteError("the enclave's epoch key is no X25519 key that can be encrypted to") from None


def predict_request(
    claims: Claims,
    model_digest: str,
    rows: FloatArray,
    *,
    columns: int,
    output_margin: bool = False,
    round_range: tuple[int, int] = (0, 0),
    base_margin: FloatArray | None = None,
    wants_receipt: bool = False,
    time: int = 0,
    encapsulation: Encapsulation | None = None,
) -> Request:
    """Encrypt rows to an enclave.

    Parameters
    ----------
    claims
        **Verified** claims of the enclave.
    model_digest
        The model to predict with, SHA-256 in hexadecimal.
    rows
        float32, shape (rows, features); `base_margin` as many values as rows x groups, or None.
    columns
        Values per row of the answer.
    time
        Milliseconds since 1970-01-01 UTC, for the receipt; 0 for none.
    encapsulation
        Of `encapsulation_to(claims)`; one for this request alone if not given.

    Raises
    ------
    InvalidInputError
        If rows or answer are too large for one request.
    RemoteError
        If nothing can be encrypted to the enclave's key.
    """
    begin, end = round_range
    flags = _OUTPUT_MARGIN * output_margin + _WANTS_RECEIPT * wants_receipt
    margin_size = 0 if base_margin is None else base_margin.nbytes
    n_rows, n_features = rows.shape
    fields = _PREDICT.pack(flags, begin, end, n_features, n_rows, margin_size, time)
    margins = b"" if base_margin is None else _little_endian(base_margin)
    size = _PREDICT.size + n_rows * n_features * _FLOAT32_SIZE + margin_size
    plaintext = _padded((fields, _little_endian(rows), margins), size, MAX_REQUEST_CONTENT)
    content_size = n_rows * columns * _FLOAT32_SIZE + (RECEIPT_SIZE if wants_receipt else 0)
    used = encapsulation_to(claims) if encapsulation is None else encapsulation
    return _encrypted(claims, Kind.PREDICT, bytes.fromhex(model_digest), content_size, plaintext, used)


def provision_request(
    claims: Claims,
    flat_model: bytes,
    *,
    model_digest: str,
    model_id: str,
    policy: str = "mrenclave",
    version: int = 0,
    owner: OwnerSignature | None = None,
    time: int = 0,
) -> Request:
    """Encrypt a model to an enclave, which is to seal it.

    Parameters
    ----------
    claims
        **Verified** claims of the enclave.
    flat_model, model_digest
        As `xgboost_format.to_flat_model` makes it, and its SHA-256 in hexadecimal, which is not sent.
    model_id, policy, version
        Under which name, for whom and as which version it is sealed.
    owner
        Whose model it is; None for nobody's.
    time
        As for `predict_request`.

    Raises
    ------
    InvalidInputError
        If an argument has another form, the model is too large, or the signature is not over this model.
    RemoteError
        If nothing can be encrypted to the enclave's key.
    """
    name, policy_number = checked_model_id(model_id), checked_policy(policy)
    owner_key, signature = bytes(32), bytes(64)
    if owner is not None:
        if not is_signed_by_owner(
            owner.owner, owner.signature, model_digest=model_digest, version=version, model_id=model_id
        ):
            raise InvalidInputError("the owner's signature is not over this model, version and id; sign them again")
        owner_key, signature = bytes.fromhex(owner.owner), owner.signature
    fields = _PROVISION.pack(
        policy_number, 0, len(name), checked_version(version), time, len(flat_model), owner_key, signature
    )
    size = _PROVISION.size + len(name) + len(flat_model)
    plaintext = _padded((fields, name, flat_model), size, MAX_PROVISION_CONTENT)
    return _encrypted(claims, Kind.PROVISION, bytes(32), RECEIPT_SIZE, plaintext, encapsulation_to(claims))


def _little_endian(values: FloatArray) -> memoryview:
    return np.ascontiguousarray(values, dtype=_LITTLE_ENDIAN).data


def _encrypted(
    claims: Claims,
    kind: Kind,
    model_digest: bytes,
    content_size: int,
    plaintext: bytes,
    encapsulation: Encapsulation,
) -> Request:
    answer_size = bucket_size(ANSWER_PREFIX_SIZE + content_size)
    if answer_size > MAX_ANSWER_CONTENT:
        raise InvalidInputError(f"the answer would have {answer_size} bytes, at most {MAX_ANSWER_CONTENT} come at once")
    header = _HEADER.pack(VERSION, SUITE, kind, 0, claims.key_id, model_digest, answer_size, 0)
    nonce = _new_nonce()
    context = encapsulation.sender(_LABEL + header + nonce + claims.epoch_digest)
    sealed = context.seal(header, plaintext)
    secret = context.export(_ANSWER_LABEL, _ANSWER_SECRET_SIZE)
    return Request(header + encapsulation.enc + nonce, sealed, kind, answer_size, secret)


def _new_nonce() -> bytes:
    """16 bytes that no other request has."""
    # The time as well: a copy of a machine that goes on from one snapshot twice may draw the same random numbers, and
    # two requests of one enc and nonce would be encrypted under one key.
    return extract_unsalted(os.urandom(32) + time_ns().to_bytes(8, "little"))[:REQUEST_NONCE_SIZE]


def _padded(parts: tuple[bytes | memoryview, ...], size: int, max_size: int) -> bytes:
    """The parts, of `size` bytes, one after the other, then zeros up to a bucket size."""
    padded_size = bucket_size(size)
    if padded_size > max_size:
        raise InvalidInputError(f"the request would have {size} bytes, at most {max_size} go into one")
    return b"".join((*parts, bytes(padded_size - size)))
