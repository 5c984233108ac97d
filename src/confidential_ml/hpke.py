"""HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / AES-256-GCM, with secret export.

`cryptography` has HPKE too, but for one message without an export, and an answer's key is made of the export.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["ENC_SIZE", "Encapsulation", "RecipientContext", "SenderContext", "hkdf_expand", "setup_recipient"]

ENC_SIZE = 32

_KEM_ID = b"\x00\x20"
_KEM_SUITE = b"KEM" + _KEM_ID
_HPKE_SUITE = b"HPKE" + _KEM_ID + b"\x00\x01" + b"\x00\x02"
_BASE_MODE = b"\x00"
_HASH_SIZE = 32
_KEY_SIZE = 32
_NONCE_SIZE = 12


class _Context:
    """What sender and recipient share; nonces count up from 0 (RFC 9180, 5.2)."""

    def __init__(self, shared_secret: bytes, info: bytes) -> None:
        info_hash = _labeled_extract(_HPKE_SUITE, b"", b"info_hash", info)
        schedule = _BASE_MODE + _PSK_ID_HASH + info_hash
        secret = _labeled_extract(_HPKE_SUITE, shared_secret, b"secret", b"")
        self._aead = AESGCM(_labeled_expand(_HPKE_SUITE, secret, b"key", schedule, _KEY_SIZE))
        self._base_nonce = _labeled_expand(_HPKE_SUITE, secret, b"base_nonce", schedule, _NONCE_SIZE)
        self._exporter_secret = _labeled_expand(_HPKE_SUITE, secret, b"exp", schedule, _HASH_SIZE)
        self._sequence = 0

    def _nonce(self) -> bytes:
        number = int.from_bytes(self._base_nonce, "big") ^ self._sequence
        return number.to_bytes(_NONCE_SIZE, "big")

    def export(self, exporter_context: bytes, size: int) -> bytes:
        """A secret of `size` bytes (at most 8,160) that only both ends have (RFC 9180, 5.3)."""
        return _labeled_expand(_HPKE_SUITE, self._exporter_secret, b"sec", exporter_context, size)


class SenderContext(_Context):
    """Encrypts messages to one recipient. Not safe to use from several threads at once."""

    def seal(self, aad: bytes, plaintext: bytes | bytearray) -> bytes:
        """Encrypt the next message; the 16-byte tag comes last."""
        ciphertext = self._aead.encrypt(self._nonce(), plaintext, aad)
        self._sequence += 1
        return ciphertext


class RecipientContext(_Context):
    """Decrypts the messages of one sender, in order. Not safe to use from several threads at once."""

    def open(self, aad: bytes, ciphertext: bytes) -> bytes:
        """Decrypt the next message.

        Raises
        ------
        cryptography.exceptions.InvalidTag
            If key, aad or ciphertext are not those of the sender's; the sequence does not advance then.
        """
        plaintext = self._aead.decrypt(self._nonce(), ciphertext, aad)
        self._sequence += 1
        return plaintext


class Encapsulation:
    """Encap of RFC 9180, 4.1: a secret that this side and one recipient share. Safe to use from any number of threads.

    Parameters
    ----------
    public_key
        The recipient's X25519 key, 32 bytes.
    ephemeral
        For the vectors of RFC 9180, which give it; otherwise a new key, used for this encapsulation alone.

    Attributes
    ----------
    enc
        What the recipient learns the secret from, 32 bytes.

    Raises
    ------
    ValueError
        If the key has another size, or is of low order: everybody would know the secret (RFC 7748, 6.1).
    """

    def __init__(self, public_key: bytes, *, ephemeral: X25519PrivateKey | None = None) -> None:
        ephemeral = X25519PrivateKey.generate() if ephemeral is None else ephemeral
        self.enc = ephemeral.public_key().public_bytes_raw()
        dh = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
        self._shared_secret = _shared_secret(dh, self.enc, public_key)

    def sender(self, info: bytes) -> SenderContext:
        """KeySchedule of RFC 9180, 5.1; with a new encapsulation this is SetupBaseS.

        Parameters
        ----------
        info
            What both ends must agree on. Two contexts of the same `info` have the same keys: their first messages
            would be encrypted under one nonce.
        """
        return SenderContext(self._shared_secret, info)


def setup_recipient(enc: bytes, private_key: X25519PrivateKey, info: bytes) -> RecipientContext:
    """SetupBaseR of RFC 9180.

    Raises
    ------
    ValueError
        If `enc` has another size, or is of low order.
    """
    dh = private_key.exchange(X25519PublicKey.from_public_bytes(enc))
    return RecipientContext(_shared_secret(dh, enc, private_key.public_key().public_bytes_raw()), info)


def _shared_secret(dh: bytes, enc: bytes, public_key: bytes) -> bytes:
    """ExtractAndExpand of RFC 9180, 4.1."""
    prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", dh)
    return _labeled_expand(_KEM_SUITE, prk, b"shared_secret", enc + public_key, _HASH_SIZE)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


_PSK_ID_HASH = _labeled_extract(_HPKE_SUITE, b"", b"psk_id_hash", b"")  # of no psk


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return hkdf_expand(prk, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, size)


def hkdf_expand(prk: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, 2.3)."""
    return HKDFExpand(algorithm=SHA256(), length=size, info=info).derive(prk)
