"""HPKE against the vectors of RFC 9180 and against another implementation, in both directions."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from confidential_ml import hpke

SUITE = {"mode": 0, "kem_id": 0x0020, "kdf_id": 0x0001, "aead_id": 0x0002}
OTHER = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def vectors() -> list[dict[str, Any]]:
    package = importlib.util.find_spec("cryptography_vectors")
    assert package is not None
    assert package.origin is not None
    text = (Path(package.origin).parent / "HPKE" / "test-vectors.json").read_text(encoding="utf-8")
    found = [one for one in json.loads(text) if SUITE.items() <= one.items()]
    assert found
    return found


def private_key(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["info"][:16])
def test_every_message_and_export_of_the_rfc(vector: dict[str, Any]) -> None:
    info = bytes.fromhex(vector["info"])
    recipient_key = private_key(vector["skRm"])
    encapsulation = hpke.Encapsulation(bytes.fromhex(vector["pkRm"]), ephemeral=private_key(vector["skEm"]))
    enc, sender = encapsulation.enc, encapsulation.sender(info)
    assert enc.hex() == vector["enc"]
    recipient = hpke.setup_recipient(enc, recipient_key, info)
    assert len(vector["encryptions"]) > 200
    for one in vector["encryptions"]:
        aad, plaintext = bytes.fromhex(one["aad"]), bytes.fromhex(one["pt"])
        assert sender._nonce().hex() == one["nonce"]
        ciphertext = sender.seal(aad, plaintext)
        assert ciphertext.hex() == one["ct"]
        assert recipient.open(aad, ciphertext) == plaintext
    assert len(vector["exports"]) >= 3
    for one in vector["exports"]:
        for context in (sender, recipient):
            exported = context.export(bytes.fromhex(one["exporter_context"]), one["L"])
            assert exported.hex() == one["exported_value"]


def test_another_implementation_reads_what_is_sent_here() -> None:
    key = X25519PrivateKey.generate()
    encapsulation = hpke.Encapsulation(key.public_key().public_bytes_raw())
    enc, sender = encapsulation.enc, encapsulation.sender(b"info")
    recipient = OTHER.create_recipient_context(enc, KEMKey.from_pyca_cryptography_key(key), b"info")
    for message in (b"", b"first", bytes(100_000)):
        assert recipient.open(sender.seal(b"aad", message), b"aad") == message
    assert recipient.export(b"context", 77) == sender.export(b"context", 77)


def test_what_another_implementation_sends_is_read_here() -> None:
    key = X25519PrivateKey.generate()
    public_key = KEMKey.from_pyca_cryptography_key(key.public_key())
    enc, sender = OTHER.create_sender_context(public_key, b"info")
    recipient = hpke.setup_recipient(enc, key, b"info")
    for message in (b"", b"first", bytes(100_000)):
        assert recipient.open(b"aad", sender.seal(message, b"aad")) == message
    assert recipient.export(b"context", 77) == sender.export(b"context", 77)


def test_two_messages_to_one_key_share_nothing() -> None:
    public_key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    first, second = (hpke.Encapsulation(public_key) for _ in range(2))
    assert first.enc != second.enc
    one, other = first.sender(b""), second.sender(b"")
    assert one.seal(b"", b"same") != other.seal(b"", b"same")
    assert one.export(b"", 32) != other.export(b"", 32)


def test_one_encapsulation_gives_other_keys_for_other_info_and_another_implementation_reads_them_all() -> None:
    key = X25519PrivateKey.generate()
    encapsulation = hpke.Encapsulation(key.public_key().public_bytes_raw())
    sealed, exported = set(), set()
    for number in range(5):
        info = b"info %d" % number
        sender = encapsulation.sender(info)
        recipient = OTHER.create_recipient_context(encapsulation.enc, KEMKey.from_pyca_cryptography_key(key), info)
        message = sender.seal(b"", b"same")
        assert recipient.open(message, b"") == b"same"
        sealed.add(message)
        exported.add(recipient.export(b"", 32))
    assert (len(sealed), len(exported)) == (5, 5)


def test_a_message_opens_only_with_its_info_aad_key_and_place() -> None:
    key = X25519PrivateKey.generate()
    encapsulation = hpke.Encapsulation(key.public_key().public_bytes_raw())
    enc, sender = encapsulation.enc, encapsulation.sender(b"info")
    first, second = sender.seal(b"aad", b"one"), sender.seal(b"aad", b"two")
    others = [
        (hpke.setup_recipient(enc, key, b"other"), b"aad", first),
        (hpke.setup_recipient(enc, X25519PrivateKey.generate(), b"info"), b"aad", first),
        (hpke.setup_recipient(enc, key, b"info"), b"other", first),
        (hpke.setup_recipient(enc, key, b"info"), b"aad", second),
        (hpke.setup_recipient(enc, key, b"info"), b"aad", first[:-1] + bytes([first[-1] ^ 1])),
    ]
    for recipient, aad, ciphertext in others:
        with pytest.raises(InvalidTag):
            recipient.open(aad, ciphertext)
    recipient = hpke.setup_recipient(enc, key, b"info")
    with pytest.raises(InvalidTag):
        recipient.open(b"aad", second)  # out of turn, and it does not count
    assert [recipient.open(b"aad", one) for one in (first, second)] == [b"one", b"two"]


# RFC 7748: of order 1, 2, 8 (two) and p - 1; and 0 beyond p.
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_keys_of_low_order_are_refused_by_both_ends(point: str) -> None:
    with pytest.raises(ValueError, match="shared key"):
        hpke.Encapsulation(bytes.fromhex(point))
    with pytest.raises(ValueError, match="shared key"):
        hpke.setup_recipient(bytes.fromhex(point), X25519PrivateKey.generate(), b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hpke.Encapsulation(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        hpke.setup_recipient(bytes(size), X25519PrivateKey.generate(), b"")


def test_hkdf_gives_the_long_output_of_rfc_5869_and_no_longer_one_than_it_can() -> None:
    # Appendix A.2: three blocks.
    prk = hpke.hkdf_extract(bytes(range(0x60, 0xB0)), bytes(range(0x50)))
    expected = (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )
    assert prk.expand(bytes(range(0xB0, 0x100)), 82).hex() == expected
    assert len(prk.expand(b"", 8160)) == 8160
    assert prk.expand(b"", 8160)[:32] == prk.expand(b"", 32)
    with pytest.raises(ValueError, match="at most 8160 bytes, not 8161"):
        prk.expand(b"", 8161)
