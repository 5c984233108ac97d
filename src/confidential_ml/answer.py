"""Answers of an enclave to confidential requests (docs/protocol.md 4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confidential_ml import hpke
from confidential_ml.errors import RemoteError
from confidential_ml.protocol import ANSWER_OVERHEAD, ANSWER_PREFIX_SIZE, RECEIPT_SIZE, VERSION
from confidential_ml.request import Request

__all__ = ["Answer", "open_answer"]

_HEADER = struct.Struct("<HHI8s")
_PREFIX = struct.Struct("<IIQ32s")
_NONCE_SIZE = 32
_KEY_ID = slice(8, 16)  # of request and answer
_ENC = slice(56, 88)  # of the request
_NO_BLIND = bytes(32)


@dataclass(slots=True)
class Answer:
    """What the enclave answered.

    Attributes
    ----------
    status
        0, or a number of common/status.h; content and receipt are empty then.
    content
        Predictions as float32, row-major (kind 1); empty (kind 2).
    receipt
        344 bytes, or none.
    blind
        32 random bytes that open the receipt's hash of the content; zeros without a receipt.
    """

    status: int
    content: bytes = field(repr=False)
    receipt: bytes = field(repr=False)
    blind: bytes = field(repr=False)


def open_answer(request: Request, answer: bytes) -> Answer:
    """Decrypt an answer.

    Parameters
    ----------
    request
        What was asked. The answer to any other request, or to a copy of this one that was changed, does not open.
    answer
        As the transport brought it.

    Raises
    ------
    RemoteError
        If it is not the enclave's answer to this request: cut short, changed, exchanged, or of another form.
    """
    expected_size = ANSWER_OVERHEAD + request.answer_size
    if len(answer) != expected_size:
        raise RemoteError(f"the answer has {len(answer)} bytes, not {expected_size}; it was cut short or exchanged")
    header, nonce = answer[: _HEADER.size], answer[_HEADER.size : _HEADER.size + _NONCE_SIZE]
    if header != _HEADER.pack(VERSION, request.kind, 0, request.head[_KEY_ID]):
        raise RemoteError("the answer's header is not that of an answer to this request; it was changed or exchanged")
    prk = hpke.hkdf_extract(request.head[_ENC] + nonce, request.answer_secret)
    key, gcm_nonce = prk.expand(b"key", 32), prk.expand(b"nonce", 12)
    try:
        plaintext = AESGCM(key).decrypt(gcm_nonce, memoryview(answer)[_HEADER.size + _NONCE_SIZE :], header)
    except InvalidTag:
        raise RemoteError(
            "the answer is not what the enclave sent for this request: it was changed or exchanged on the way"
        ) from None
    return _parse(plaintext)


def _parse(plaintext: bytes) -> Answer:
    status, receipt_size, content_size, blind = _PREFIX.unpack_from(plaintext)
    receipt_start = ANSWER_PREFIX_SIZE + content_size
    end = receipt_start + receipt_size
    if receipt_size not in (0, RECEIPT_SIZE) or end > len(plaintext):
        raise _malformed("its sizes exceed it")
    if plaintext.count(0, end) != len(plaintext) - end:
        raise _malformed("its padding is not zero")
    if status != 0 and (receipt_size or content_size):
        raise _malformed("it reports a failure and holds a result")
    if receipt_size == 0 and blind != _NO_BLIND:
        raise _malformed("it has a blind and no receipt")
    return Answer(status, plaintext[ANSWER_PREFIX_SIZE:receipt_start], plaintext[receipt_start:end], blind)


def _malformed(problem: str) -> RemoteError:
    return RemoteError(f"the enclave's answer is malformed: {problem}; client and enclave do not match")
