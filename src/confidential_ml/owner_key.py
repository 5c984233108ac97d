"""Which public keys can be an owner's (docs/protocol.md 5)."""

from __future__ import annotations

from confidential_ml.errors import InvalidInputError

__all__ = ["check_owner_key", "is_sound"]

_PRIME = 2**255 - 19
# y of the points of small order: under these keys anybody can sign.
_SMALL_ORDER = frozenset(
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


def is_sound(key: bytes) -> bool:
    """Whether 32 bytes are written as an Ed25519 public key is, and are none of small order."""
    y = int.from_bytes(key, "little") & (2**255 - 1)  # without the sign of x
    return y < _PRIME and y not in _SMALL_ORDER


def check_owner_key(key: bytes, name: str) -> None:
    """Raise :class:`InvalidInputError` for a key that is not sound."""
    if not is_sound(key):
        raise InvalidInputError(
            f"{name} is no owner's key: anybody can sign under it, or it is another way to write such a key; get the "
            "key from the owner again"
        )
