"""Receipts: what an enclave signs of what it did, hashes only, to be verified by anybody later (docs/protocol.md 6)."""

from __future__ import annotations

import datetime
import hashlib
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confidential_ml.arguments import checked_digest
from confidential_ml.attestation import AttestationResult, Claims
from confidential_ml.errors import InvalidInputError, ReceiptError
from confidential_ml.protocol import RECEIPT_SIZE, Kind
from confidential_ml.sealed_file import POLICIES

__all__ = ["Receipt", "parse_receipt", "verify_receipt"]

_MAGIC = b"CMLRCPT\0"
_VERSION = 1
_LABEL = b"confidential_ml receipt v1"
_CONTENT_LABEL = b"confidential_ml content v1"
_FIELDS = struct.Struct("<8sIHH16sQQQ32s32s32s32s32s32s32s")
_NO_OWNER = bytes(32)
_BLIND_SIZE = 32
_POLICIES_OF: dict[int, dict[int, str | None]] = {
    Kind.PREDICT: {0: None},
    Kind.PROVISION: dict(zip(POLICIES.values(), POLICIES, strict=True)),
}
_EPOCH_1970 = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Receipt:
    """A receipt, taken apart. Nothing in it is verified before `verify_receipt`.

    Attributes
    ----------
    kind
        What was done: a prediction, or a model provisioned.
    policy
        ``"mrenclave"`` or ``"mrsigner"`` for a model provisioned; None for a prediction.
    instance
        The 16 random bytes of the claims: which run of the enclave.
    counter
        1 for the first receipt of an instance, then one more each time.
    time
        Milliseconds since 1970-01-01 UTC by the clock of whoever asked, 0 if they did not say.
    model_digest, model_version, owner
        The model; owner is an Ed25519 public key in hexadecimal, or None.
    epoch_digest
        SHA-256 of the epoch part of the claims.
    mrenclave
        The enclave's measurement, hexadecimal.
    request_digest
        SHA-256 of the request, hexadecimal.
    content_digest
        Of a prediction SHA-256(label | blind | predictions), of a model provisioned SHA-256(sealed model);
        hexadecimal.
    data
        All 344 bytes, signature last.
    """

    kind: Kind
    policy: str | None
    instance: bytes
    counter: int
    time: int
    model_version: int
    model_digest: str
    owner: str | None
    epoch_digest: bytes
    mrenclave: str
    request_digest: str
    content_digest: str
    data: bytes = field(repr=False)

    @property
    def asked_at(self) -> datetime.datetime | None:
        """`time` as a date, UTC; None if it is 0 or beyond the year 9999."""
        try:
            return _EPOCH_1970 + datetime.timedelta(milliseconds=self.time) if self.time else None
        except OverflowError:
            return None


def parse_receipt(data: bytes) -> Receipt:
    """Take a receipt apart, strictly; nothing is verified.

    Raises
    ------
    ReceiptError
        If it is none, or of another version.
    InvalidInputError
        If it is not bytes.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidInputError(f"a receipt must be bytes, not {type(data).__name__}")
    data = bytes(data)
    if len(data) != RECEIPT_SIZE or not data.startswith(_MAGIC):
        raise ReceiptError(f"this is no receipt of confidential_ml, which has {RECEIPT_SIZE} bytes")
    _, version, kind, policy, instance, counter, time, model_version, *hashes = _FIELDS.unpack_from(data)
    model_digest, owner, epoch_digest, mrenclave, request_digest, content_digest, zero = hashes
    if version != _VERSION:
        raise ReceiptError(f"the receipt has version {version}; this release reads version {_VERSION}")
    is_known = kind in _POLICIES_OF and policy in _POLICIES_OF[kind]
    if not is_known or counter == 0 or zero != bytes(len(zero)):
        raise ReceiptError("the receipt is malformed: a field has a value that version 1 does not know")
    return Receipt(
        kind=Kind(kind),
        policy=_POLICIES_OF[kind][policy],
        instance=instance,
        counter=counter,
        time=time,
        model_version=model_version,
        model_digest=model_digest.hex(),
        owner=None if owner == _NO_OWNER else owner.hex(),
        epoch_digest=epoch_digest,
        mrenclave=mrenclave.hex(),
        request_digest=request_digest.hex(),
        content_digest=content_digest.hex(),
        data=data,
    )


def verify_receipt(
    receipt: Receipt | bytes,
    claims: AttestationResult | Claims,
    mrenclave: str | None = None,
    *,
    request: bytes | None = None,
    answer: bytes | None = None,
    blind: bytes | None = None,
    sealed: bytes | None = None,
) -> Receipt:
    """Verify, without any connection, that an enclave signed a receipt, and what it is a receipt of.

    Parameters
    ----------
    receipt
        The receipt, or its 344 bytes.
    claims
        Of the enclave that is to have signed it: what `attestation.attest` returned for its evidence. The receipt's
        model must be one that the policy accepts, too (docs/protocol.md 6). Or the claims of **verified** evidence
        alone, which say nothing about whether anybody wants that enclave or that model; `mrenclave` goes with them.
    mrenclave
        Of the verified evidence, hexadecimal; with claims alone.
    request
        The request that was sent; compared if given.
    answer, blind
        The predictions, as float32 bytes in row-major order, and the 32 bytes that came with the receipt: both or
        neither.
    sealed
        The sealed model that a provisioning left with the host; compared if given.

    Returns
    -------
    Receipt
        The receipt that was verified.

    Raises
    ------
    ReceiptError
        If it is malformed, not of this enclave, its signature is wrong, or it is not of what it is compared with or
        of a model that the policy accepts.
    InvalidInputError
        If an argument is of another type or form.
    """
    # Parsed again if it is an object: what was signed is bytes, and an object can be made of anything.
    if not isinstance(receipt, Receipt) and hasattr(receipt, "receipt"):
        raise InvalidInputError(f"a receipt must be a Receipt or its bytes; the {type(receipt).__name__} has .receipt")
    parsed = parse_receipt(receipt.data if isinstance(receipt, Receipt) else receipt)
    result = claims if isinstance(claims, AttestationResult) else None
    if result is not None:
        if mrenclave is not None:
            raise InvalidInputError("mrenclave is for claims alone; a result of attest has its own")
        claims, mrenclave = result.claims, result.mrenclave
    if not isinstance(claims, Claims):
        raise InvalidInputError(
            f"claims must be what attest returned, or the claims of verified evidence, not {type(claims).__name__}"
        )
    _check_enclave(parsed, claims, checked_digest(mrenclave, "mrenclave"))
    try:
        key = Ed25519PublicKey.from_public_bytes(claims.receipt_public_key)
        key.verify(parsed.data[_FIELDS.size :], _LABEL + parsed.data[: _FIELDS.size])
    except (InvalidSignature, ValueError):
        raise ReceiptError("the receipt is not signed by the receipt key of the enclave; it was changed") from None
    if result is not None:
        _check_model(parsed, result)
    if (answer is None) != (blind is None):
        raise InvalidInputError("answer and blind belong together: give both or neither")
    for data, name in ((request, "request"), (answer, "answer"), (blind, "blind"), (sealed, "sealed")):
        if data is not None and not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidInputError(f"{name} must be bytes, not {type(data).__name__}")
    # As bytes: a view of other items would have another length than what is hashed.
    blind = None if blind is None else bytes(blind)
    _check_contents(parsed, request, answer, blind, sealed)
    return parsed


def _check_enclave(receipt: Receipt, claims: Claims, mrenclave: str) -> None:
    if receipt.mrenclave != mrenclave:
        raise ReceiptError(f"the receipt is of an enclave with MRENCLAVE {receipt.mrenclave}, not {mrenclave}")
    if receipt.instance != claims.instance:
        raise ReceiptError("the receipt is of another run of the enclave than the claims")
    if receipt.epoch_digest != claims.epoch_digest:
        raise ReceiptError("the receipt is of another epoch than the claims; use the evidence of that epoch")


def _check_model(receipt: Receipt, result: AttestationResult) -> None:
    model = receipt.model_digest, receipt.owner, receipt.model_version
    if result.policy.accepts_model(*model):
        return
    # Of several that are loaded with one digest any may have answered, since they predict the same.
    claimed = {(one.model_digest, one.owner, one.version) for one in result.claims.models}
    accepted = {one.model_digest for one in result.models}
    if receipt.kind is not Kind.PREDICT or model not in claimed or receipt.model_digest not in accepted:
        raise ReceiptError(
            f"the receipt is of model {receipt.model_digest}, version {receipt.model_version} of "
            f"{f'owner {receipt.owner}' if receipt.owner else 'nobody'}, which the policy does not accept"
        )


def _check_contents(
    receipt: Receipt, request: bytes | None, answer: bytes | None, blind: bytes | None, sealed: bytes | None
) -> None:
    if request is not None and hashlib.sha256(request).hexdigest() != receipt.request_digest:
        raise ReceiptError("the receipt is of another request")
    if answer is not None and blind is not None:
        if receipt.kind is not Kind.PREDICT:
            raise ReceiptError("the receipt is of a model provisioned, not of a prediction")
        # Of fixed size: else bytes could move between blind and predictions under the same hash.
        if len(blind) != _BLIND_SIZE:
            raise InvalidInputError(f"blind must have {_BLIND_SIZE} bytes, it has {len(blind)}")
        if hashlib.sha256(_CONTENT_LABEL + blind + bytes(answer)).hexdigest() != receipt.content_digest:
            raise ReceiptError("the receipt is of other predictions, or the blind is of another receipt")
    if sealed is not None:
        if receipt.kind is not Kind.PROVISION:
            raise ReceiptError("the receipt is of a prediction, not of a model provisioned")
        if hashlib.sha256(sealed).hexdigest() != receipt.content_digest:
            raise ReceiptError("the receipt is of another sealed model")
