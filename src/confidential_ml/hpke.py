"""HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / AES-256-GCM, with secret export.

`cryptography` has HPKE too, but for one message without an export, and an answer's key is made of the export.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

__all__ = [
    "ENC_SIZE",
    "Encapsulation",
    "Prk",
    "RecipientContext",
    "SenderContext",
    "extract_unsalted",
    "hkdf_extract",
    "setup_recipient",
]

ENC_SIZE = 32

_KEM_ID = b"\x00\x20"
_KEM_SUITE = b"KEM" + _KEM_ID
_HPKE_SUITE = b"HPKE" + _KEM_ID + b"\x00\x01" + b"\x00\x02"
_BASE_MODE = b"\x00"
_HASH_SIZE = 32
_KEY_SIZE = 32
_NONCE_SIZE = 12
_SHA256 = SHA256()


class Prk:
    """A pseudorandom key of HKDF-SHA256 (RFC 5869), to be expanded any number of times, by any number of threads.

    Parameters
    ----------
    key
        32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._keyed = HMAC(key, _SHA256)

    def expand(self, info: bytes, size: int) -> bytes:
        """HKDF-Expand (RFC 5869, 2.3), of at most 8,160 bytes.

        Raises
        ------
        ValueError
            If `size` is larger.
        """
        if size <= _HASH_SIZE:
            # Nearly always: without a call more.
            hashing = self._keyed.copy()
            hashing.update(info + b"\x01")
            return hashing.finalize()[:size]
        if size > 255 * _HASH_SIZE:
            raise ValueError(f"HKDF-SHA256 expands to at most {255 * _HASH_SIZE} bytes, not {size}")
        block = output = b""
        for counter in range(1, -(-size // _HASH_SIZE) + 1):
            block = _after(self._keyed, block + info + counter.to_bytes(1, "big"))
            output += block
        return output[:size]


def hkdf_extract(salt: bytes, ikm: bytes) -> Prk:
    """HKDF-Extract with SHA-256 (RFC 5869, 2.2)."""
    hashing = HMAC(salt, _SHA256)
    hashing.update(ikm)
    return Prk(hashing.finalize())


def _after(keyed: HMAC, message: bytes) -> bytes:
    """HMAC of a message. The key is set up once and copied, which takes less time than to set it up."""
    hashing = keyed.copy()
    hashing.update(message)
    return hashing.finalize()


def _expand_label(suite: bytes, label: bytes, size: int) -> bytes:
    """What LabeledExpand (RFC 9180, 4) puts before the info."""
    return size.to_bytes(2, "big") + b"HPKE-v1" + suite + label


_UNSALTED = HMAC(b"", _SHA256)


def extract_unsalted(ikm: bytes) -> bytes:
    """The 32 bytes of HKDF-Extract without salt, of random bytes that are not uniform (RFC 5869, 2.2)."""
    return _after(_UNSALTED, ikm)


_PSK_ID_HASH = _after(_UNSALTED, b"HPKE-v1" + _HPKE_SUITE + b"psk_id_hash")  # of no psk
_BASE_SCHEDULE = _BASE_MODE + _PSK_ID_HASH
_INFO_HASH = b"HPKE-v1" + _HPKE_SUITE + b"info_hash"
_KEY = _expand_label(_HPKE_SUITE, b"key", _KEY_SIZE)
_BASE_NONCE = _expand_label(_HPKE_SUITE, b"base_nonce", _NONCE_SIZE)
_EXPORTER_SECRET = _expand_label(_HPKE_SUITE, b"exp", _HASH_SIZE)


class _Context:
    """What sender and recipient share; nonces count up from 0 (RFC 9180, 5.2)."""

    def __init__(self, secret: Prk, info: bytes) -> None:
        schedule = _BASE_SCHEDULE + _after(_UNSALTED, _INFO_HASH + info)
        self._aead = AESGCM(secret.expand(_KEY + schedule, _KEY_SIZE))
        self._base_nonce = secret.expand(_BASE_NONCE + schedule, _NONCE_SIZE)
        self._exporter_secret = Prk(secret.expand(_EXPORTER_SECRET + schedule, _HASH_SIZE))
        self._sequence = 0

    def _nonce(self) -> bytes:
        number = int.from_bytes(self._base_nonce, "big") ^ self._sequence
        return number.to_bytes(_NONCE_SIZE, "big")

    def export(self, exporter_context: bytes, size: int) -> bytes:
        """A secret of `size` bytes (at most 8,160) that only both ends have (RFC 9180, 5.3)."""
        return self._exporter_secret.expand(_expand_label(_HPKE_SUITE, b"sec", size) + exporter_context, size)


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
        self._secret = _schedule_secret(dh, self.enc, public_key)

    def sender(self, info: bytes) -> SenderContext:
        """KeySchedule of RFC 9180, 5.1; with a new encapsulation this is SetupBaseS.

        Parameters
        ----------
        info
            What both ends must agree on. Two contexts of the same `info` have the same keys: their first messages
            would be encrypted under one nonce.
        """
        return SenderContext(self._secret, info)


def setup_recipient(enc: bytes, private_key: X25519PrivateKey, info: bytes) -> RecipientContext:
    """SetupBaseR of RFC 9180.

    Raises
    ------
    ValueError
        If `enc` has another size, or is of low order.
    """
    dh = private_key.exchange(X25519PublicKey.from_public_bytes(enc))
    return RecipientContext(_schedule_secret(dh, enc, private_key.public_key().public_bytes_raw()), info)


def _schedule_secret(dh: bytes, enc: bytes, public_key: bytes) -> Prk:
    """ExtractAndExpand of RFC 9180, 4.1, and what KeySchedule (5.1) makes of its shared secret alone."""
    prk = hkdf_extract(b"", b"HPKE-v1" + _KEM_SUITE + b"eae_prk" + dh)
    label = _expand_label(_KEM_SUITE, b"shared_secret", _HASH_SIZE)
    shared_secret = prk.expand(label + enc + public_key, _HASH_SIZE)
    # No psk. The same for every info, so it is made once for all requests of an enc.
    return hkdf_extract(shared_secret, b"HPKE-v1" + _HPKE_SUITE + b"secret")
