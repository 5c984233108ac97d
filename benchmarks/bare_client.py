"""The least that Python can take for a confidential prediction: the cryptography's calls in a row, nothing else.

No session, no checks of what comes back, no endpoint: what it takes no client written on `cryptography` can undercut by
much, whatever is around these calls. Not for use: it trusts every answer's form.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from confidential_ml.protocol import bucket_size

if TYPE_CHECKING:
    import confidential_ml as cml
    from confidential_ml.attestation import Claims
    from confidential_ml.rows import FloatArray

__all__ = ["BareClient"]

_HEADER = struct.Struct("<HHHH8s32sII")
_FIELDS = struct.Struct("<IIIIQQQ")
_ONE = b"\x01"
_SUITE = b"HPKE\x00\x20\x00\x01\x00\x02"
_LABELED = b"HPKE-v1" + _SUITE


class BareClient:
    """Predicts in an enclave of this process, by docs/protocol.md 3 and 4.

    Parameters
    ----------
    enclave, claims
        Of the same enclave; the claims are believed.
    model_digest
        Hexadecimal.
    """

    def __init__(self, enclave: cml.Enclave, claims: Claims, model_digest: str) -> None:
        ephemeral = X25519PrivateKey.generate()
        self._enc = enc = ephemeral.public_key().public_bytes_raw()
        recipient = claims.epoch_public_key
        dh = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
        kem = b"KEM\x00\x20"
        prk = _hmac(b"", b"HPKE-v1" + kem + b"eae_prk" + dh)
        shared = _hmac(prk, b"\x00\x20HPKE-v1" + kem + b"shared_secret" + enc + recipient + _ONE)
        self._secret = HMAC(_hmac(shared, _LABELED + b"secret"), SHA256())
        self._unsalted = HMAC(b"", SHA256())
        self._schedule = b"\x00" + _hmac(b"", _LABELED + b"psk_id_hash")
        self._answer_info = b"\x00\x20" + _LABELED + b"sec" + b"confidential_ml answer v1" + _ONE
        self._enclave = enclave
        self._claims = claims
        self._digest = bytes.fromhex(model_digest)
        self._columns = next(one.n_values for one in claims.models if one.model_digest == model_digest)

    def predict(self, rows: FloatArray) -> FloatArray:
        """Predictions of shape (rows x columns,), float32, for C-contiguous float32 rows."""
        n_rows, features = rows.shape
        size = _FIELDS.size + rows.nbytes
        fields = _FIELDS.pack(0, 0, 0, features, n_rows, 0, 0)
        plaintext = b"".join((fields, rows.data, bytes(bucket_size(size) - size)))
        answer_size = bucket_size(48 + 4 * n_rows * self._columns)
        header = _HEADER.pack(1, 1, 1, 0, self._claims.key_id, self._digest, answer_size, 0)
        nonce = os.urandom(16)
        info = b"confidential_ml request v1" + header + nonce + self._claims.epoch_digest
        context = self._schedule + _after(self._unsalted, _LABELED + b"info_hash" + info) + _ONE
        key = _after(self._secret, b"\x00\x20" + _LABELED + b"key" + context)
        base_nonce = _after(self._secret, b"\x00\x0c" + _LABELED + b"base_nonce" + context)[:12]
        exporter = _after(self._secret, b"\x00\x20" + _LABELED + b"exp" + context)
        sealed = AESGCM(key).encrypt(base_nonce, plaintext, header)
        secret = _hmac(exporter, self._answer_info)
        answer = self._enclave.answer_request(b"".join((header, self._enc, nonce, sealed)))
        prk = HMAC(_hmac(self._enc + answer[16:48], secret), SHA256())
        answer_key, answer_nonce = _after(prk, b"key" + _ONE), _after(prk, b"nonce" + _ONE)[:12]
        opened = AESGCM(answer_key).decrypt(answer_nonce, memoryview(answer)[48:], answer[:16])
        return np.frombuffer(opened, np.float32, n_rows * self._columns, 48).copy()


def _hmac(key: bytes, message: bytes) -> bytes:
    hashing = HMAC(key, SHA256())
    hashing.update(message)
    return hashing.finalize()


def _after(keyed: HMAC, message: bytes) -> bytes:
    hashing = keyed.copy()
    hashing.update(message)
    return hashing.finalize()
