"""Numbers of docs/protocol.md that more than one module needs: kinds, results, sizes, padding."""

from __future__ import annotations

import enum

from confidential_ml import flat_model

__all__ = [
    "ANSWER_OVERHEAD",
    "ANSWER_PREFIX_SIZE",
    "MAX_ANSWER_CONTENT",
    "MAX_NONCE_SIZE",
    "MAX_PROVISION_CONTENT",
    "MAX_REQUEST_CONTENT",
    "RECEIPT_SIZE",
    "REQUEST_HEADER_SIZE",
    "REQUEST_NONCE_SIZE",
    "REQUEST_OVERHEAD",
    "SUITE",
    "VERSION",
    "Kind",
    "Operation",
    "Result",
    "bucket_size",
]

VERSION = 1
SUITE = 1
"""DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; bit ``SUITE - 1`` of the claims' suites."""

MAX_NONCE_SIZE = 64
RECEIPT_SIZE = 344
REQUEST_HEADER_SIZE = 56
REQUEST_NONCE_SIZE = 16
REQUEST_OVERHEAD = REQUEST_HEADER_SIZE + 32 + REQUEST_NONCE_SIZE + 16
"""Bytes of a request besides the padded plaintext: header, enc, nonce, tag."""
ANSWER_PREFIX_SIZE = 48
"""Bytes of an answer's plaintext before its content."""
ANSWER_OVERHEAD = 16 + 32 + 16
"""Bytes of an answer besides the padded plaintext: header, nonce, tag."""

_SMALLEST_BUCKET = 256
_BUCKETS_PER_OCTAVE = 8


class Kind(enum.IntEnum):
    """What a request asks for."""

    PREDICT = 1
    PROVISION = 2


class Operation(enum.IntEnum):
    """What a message asks the host for."""

    EVIDENCE = 1
    REQUEST = 2


class Result(enum.IntEnum):
    """How a reply begins."""

    OK = 0
    UNREADABLE = 1
    REFUSED = 2
    TRY_LATER = 3


def bucket_size(size: int) -> int:
    """The smallest bucket size that holds `size` bytes: m x 2^k with m in 8..15 and k >= 5 (docs/protocol.md 3.3)."""
    if size <= _SMALLEST_BUCKET:
        return _SMALLEST_BUCKET
    step = (1 << (size - 1).bit_length()) // (2 * _BUCKETS_PER_OCTAVE)
    return -(-size // step) * step


MAX_REQUEST_CONTENT = 16 << 20
"""Bytes of the padded plaintext of a request of kind 1."""
MAX_PROVISION_CONTENT = bucket_size(flat_model.MAX_SIZE + 192)
"""Bytes of the padded plaintext of kind 2: the largest flat model with its fields (128) and id (64)."""
MAX_ANSWER_CONTENT = 16 << 20
"""Bytes of an answer's padded plaintext."""
