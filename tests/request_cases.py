"""Requests that break one rule of docs/protocol.md each, with what an enclave must say to it.

Made from the document alone, for any enclave: the reference enclave of the tests and the real one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from reference_enclave import (
    ANSWER_TOO_SMALL,
    MARGIN_WRONG,
    MODEL_ID_INVALID,
    MODEL_NOT_FLAT,
    OWNER_SIGNATURE_WRONG,
    POLICY_UNKNOWN,
    REQUEST_INVALID,
    ROUNDS_WRONG,
    ROWS_WRONG,
    UNKNOWN_MODEL,
    limits,
    smallest_bucket,
)

from confidential_ml import hpke
from confidential_ml.attestation import Claims
from confidential_ml.protocol import Kind
from confidential_ml.request import Request

UNREADABLE = None
OK = 0
HEAD_SIZE = 104  # header, enc and nonce
Fields = dict[str, int | bytes]


@dataclass(frozen=True)
class Case:
    """A request, and the status that must come back: `UNREADABLE`, or one inside the encrypted answer."""

    name: str
    request: Request
    expected: int | None


def encrypted(
    claims: Claims,
    plaintext: bytes,
    *,
    header: Fields | None = None,
    epoch_digest: bytes | None = None,
    label: bytes = b"confidential_ml request v1",
    aad: bytes | None = None,
) -> Request:
    """A request with any header and plaintext, encrypted as the document says unless told otherwise."""
    fields: Fields = {"version": 1, "suite": 1, "kind": 1, "zero": 0, "key_id": claims.key_id}
    fields |= {"digest": bytes(32), "answer_size": 512, "last": 0, **(header or {})}
    packed = struct.pack("<HHHH8s32sII", *fields.values())
    digest = claims.epoch_digest if epoch_digest is None else epoch_digest
    encapsulation, nonce = hpke.Encapsulation(claims.epoch_public_key), os.urandom(16)
    context = encapsulation.sender(label + packed + nonce + digest)
    message = packed + encapsulation.enc + nonce + context.seal(packed if aad is None else aad, plaintext)
    kind, answer_size = fields["kind"], fields["answer_size"]
    assert isinstance(kind, int)
    assert isinstance(answer_size, int)
    known = Kind(kind) if kind in set(Kind) else Kind.PREDICT
    secret = context.export(b"confidential_ml answer v1", 32)
    return Request(message[:HEAD_SIZE], message[HEAD_SIZE:], known, answer_size, secret)


def padded(content: bytes) -> bytes:
    return content.ljust(smallest_bucket(len(content)), b"\0")


def changed(request: Request, position: int, bit: int = 1) -> Request:
    message = bytearray(request.message)
    message[position] ^= bit
    return with_message(request, bytes(message))


def with_message(request: Request, message: bytes) -> Request:
    return replace(request, head=message[:HEAD_SIZE], sealed=message[HEAD_SIZE:])


def predict_content(
    features: int,
    rows: int = 2,
    *,
    flags: int = 0,
    begin: int = 0,
    end: int = 0,
    margin_size: int = 0,
    time: int = 0,
    row_count: int | None = None,
) -> bytes:
    count = rows if row_count is None else row_count
    fields = struct.pack("<IIIIQQQ", flags, begin, end, features, count, margin_size, time)
    return fields + struct.pack("<f", 1.5) * (rows * features) + bytes(margin_size if margin_size < 1 << 20 else 0)


def unreadable(claims: Claims, digest: bytes, features: int) -> Iterator[Case]:
    """Requests that no enclave opens."""
    plaintext = padded(predict_content(features))
    good = encrypted(claims, plaintext, header={"digest": digest})
    largest = limits()["kMaxAnswerContent"]
    broken: list[tuple[str, int | bytes]] = [
        *[
            ("version", 0),
            ("version", 2),
            ("suite", 0),
            ("suite", 2),
            ("kind", 0),
            ("kind", 3),
            ("zero", 1),
            ("last", 1),
        ],
        *[("answer_size", size) for size in (0, 255, 257, 513, largest + 1, largest // 9 * 10)],
        *[("answer_size", size) for size in (72 << 10, largest)],  # no answer to so few rows is so long
        ("key_id", bytes(8)),
    ]
    for field, value in broken:
        header: Fields = {"digest": digest, field: value}
        yield Case(f"{field} {value!r}", encrypted(claims, plaintext, header=header), UNREADABLE)
    for position in [*range(0, 56, 3), 56, 87, 88, 103, 104, len(good.message) - 17, len(good.message) - 16, -1]:
        yield Case(f"byte {position} changed", changed(good, position), UNREADABLE)
    for size in (0, 1, 55, 56, 87, 88, 103, 104, 119, 120, len(good.message) - 1):
        yield Case(f"cut to {size} bytes", with_message(good, good.message[:size]), UNREADABLE)
    yield Case(
        "kind 2 with a model digest", encrypted(claims, plaintext, header={"digest": digest, "kind": 2}), UNREADABLE
    )
    longest = encrypted(claims, plaintext, header={"kind": 2, "answer_size": 72 << 10})
    yield Case("kind 2 with a long answer", longest, UNREADABLE)
    yield Case("a byte added", with_message(good, good.message + b"\0"), UNREADABLE)
    header = {"digest": digest}
    yield Case("other epoch", encrypted(claims, plaintext, header=header, epoch_digest=bytes(32)), UNREADABLE)
    yield Case("other label", encrypted(claims, plaintext, header=header, label=b"v2"), UNREADABLE)
    yield Case("other aad", encrypted(claims, plaintext, header=header, aad=b""), UNREADABLE)
    yield Case("low order enc", _with_enc(good, bytes(32)), UNREADABLE)


def _with_enc(request: Request, enc: bytes) -> Request:
    return with_message(request, request.message[:56] + enc + request.message[88:])


def predictions(claims: Claims, digest: bytes, features: int, groups: int, rounds: int) -> Iterator[Case]:
    """Requests of kind 1, most of which open; the model must have at least two rounds and not be linear."""

    def case(name: str, content: bytes, expected: int, **header: int | bytes) -> Case:
        return Case(name, encrypted(claims, padded(content), header={"digest": digest, **header}), expected)

    yield case("good", predict_content(features), OK)
    yield case("no rows", predict_content(features, 0), OK)
    yield case("all flags", predict_content(features, flags=3, time=1), OK, answer_size=1024)
    yield case("base margin", predict_content(features, margin_size=2 * groups * 4), OK)
    yield case("unknown flag", predict_content(features, flags=4), REQUEST_INVALID)
    yield case("highest flag", predict_content(features, flags=1 << 31), REQUEST_INVALID)
    yield case("more rows than bytes", predict_content(features, row_count=200), REQUEST_INVALID)
    yield case("rows overflow", predict_content(features, row_count=(1 << 64) // (4 * features)), REQUEST_INVALID)
    yield case("most rows", predict_content(features, row_count=(1 << 64) - 1), REQUEST_INVALID)
    yield case("margin overflows", predict_content(features, margin_size=(1 << 64) - 8), REQUEST_INVALID)
    yield case("fewer rows than bytes", predict_content(features, row_count=1), REQUEST_INVALID)
    yield case("one margin too few", predict_content(features, margin_size=(2 * groups - 1) * 4), MARGIN_WRONG)
    yield case("one feature more", predict_content(features + 1), ROWS_WRONG)
    yield case("rounds the wrong way round", predict_content(features, begin=rounds, end=rounds - 1), ROUNDS_WRONG)
    yield case("a round too many", predict_content(features, end=rounds + 1), ROUNDS_WRONG)
    yield case("another model", predict_content(features), UNKNOWN_MODEL, digest=bytes([digest[0] ^ 1]) + digest[1:])
    yield case("no room for a receipt", predict_content(features, flags=2), ANSWER_TOO_SMALL, answer_size=256)
    content = predict_content(features)
    size = smallest_bucket(len(content))
    for name, plaintext, expected in (
        ("padding not zero", content.ljust(size - 1, b"\0") + b"\1", REQUEST_INVALID),
        ("larger bucket", content.ljust(smallest_bucket(size + 1), b"\0"), REQUEST_INVALID),
        ("no bucket", content.ljust(size + 1, b"\0"), UNREADABLE),
        ("below the smallest bucket", content, UNREADABLE),
        ("cut in its fields", content[:39], UNREADABLE),
        ("empty", b"", UNREADABLE),
    ):
        yield Case(name, encrypted(claims, plaintext, header={"digest": digest}), expected)


def provision_content(
    flat: bytes,
    *,
    policy: int = 1,
    zero: int = 0,
    model_id: bytes = b"case",
    version: int = 0,
    owner: bytes = bytes(32),
    signature: bytes = bytes(64),
    model_size: int | None = None,
    id_size: int | None = None,
) -> bytes:
    found_model_size = len(flat) if model_size is None else model_size
    found_id_size = len(model_id) if id_size is None else id_size
    fields = (policy, zero, found_id_size, version, 7, found_model_size, owner, signature)
    return struct.pack("<IHHQQQ32s64s", *fields) + model_id + flat


def owner_signature(key: Ed25519PrivateKey, flat: bytes, version: int, model_id: bytes) -> bytes:
    digest = hashlib.sha256(flat).digest()
    return key.sign(b"confidential_ml owner v1" + digest + struct.pack("<QH", version, len(model_id)) + model_id)


def provisions(claims: Claims, flat: bytes) -> Iterator[Case]:
    """Requests of kind 2 that open; `flat` is a flat model that the enclave can seal."""

    def case(name: str, content: bytes, expected: int, **header: int | bytes) -> Case:
        return Case(name, encrypted(claims, padded(content), header={"kind": 2, **header}), expected)

    yield case("good", provision_content(flat), OK)
    yield case("other policy", provision_content(flat, policy=2), OK)
    for policy in (0, 3, 1 << 31):
        yield case(f"policy {policy}", provision_content(flat, policy=policy), POLICY_UNKNOWN)
    yield case("field not zero", provision_content(flat, zero=1), REQUEST_INVALID)
    for model_id in (b"", b".hidden", b"a/b", b"a" * 65, b"\xff"):
        yield case(f"id {model_id[:8]!r}", provision_content(flat, model_id=model_id), MODEL_ID_INVALID)
    yield case("model longer than it is", provision_content(flat, model_size=len(flat) + 4096), REQUEST_INVALID)
    yield case("model shorter than it is", provision_content(flat, model_size=len(flat) - 1), REQUEST_INVALID)
    yield case("size overflows", provision_content(flat, model_size=(1 << 64) - 1), REQUEST_INVALID)
    yield case("id longer than all", provision_content(flat, id_size=(1 << 16) - 1), REQUEST_INVALID)
    yield case("no flat model", provision_content(b"x" * len(flat)), MODEL_NOT_FLAT)
    yield case("no room for a receipt", provision_content(flat), ANSWER_TOO_SMALL, answer_size=256)
    yield from _owned(claims, flat)


def _owned(claims: Claims, flat: bytes) -> Iterator[Case]:
    key = Ed25519PrivateKey.generate()
    owner, other = (one.public_key().public_bytes_raw() for one in (key, Ed25519PrivateKey.generate()))
    right = owner_signature(key, flat, 3, b"case")
    unmade = b"\1" + bytes(63)  # right under some keys that nobody needs to have
    for name, content, expected in (
        ("owned", provision_content(flat, owner=owner, signature=right, version=3), OK),
        ("version of another", provision_content(flat, owner=owner, signature=right, version=4), OWNER_SIGNATURE_WRONG),
        (
            "id of another",
            provision_content(flat, owner=owner, signature=right, version=3, model_id=b"cake"),
            OWNER_SIGNATURE_WRONG,
        ),
        ("owner of another", provision_content(flat, owner=other, signature=right, version=3), OWNER_SIGNATURE_WRONG),
        ("not signed", provision_content(flat, owner=owner, version=3), OWNER_SIGNATURE_WRONG),
        (
            "signature for another model",
            provision_content(flat, owner=owner, signature=owner_signature(key, b"other", 3, b"case"), version=3),
            OWNER_SIGNATURE_WRONG,
        ),
        *[
            (f"owner {weak.hex()}", provision_content(flat, owner=weak, signature=unmade), OWNER_SIGNATURE_WRONG)
            for weak in (b"\1" + bytes(31), b"\1" + bytes(30) + b"\x80", b"\xee" + b"\xff" * 30 + b"\x7f")
        ],
        ("signature of nobody", provision_content(flat, signature=right, version=3), OWNER_SIGNATURE_WRONG),
    ):
        yield Case(name, encrypted(claims, padded(content), header={"kind": 2}), expected)
