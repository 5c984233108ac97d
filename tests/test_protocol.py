"""Bytes of the protocol against the tables of docs/protocol.md, and every field of an answer or receipt violated."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference_enclave
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from reference_enclave import MRENCLAVE, ReferenceEnclave, ReferenceModel, anybody_can_sign, limits
from request_cases import Case, predictions, provisions, unreadable

import confidential_ml as cml
from confidential_ml import errors, flat_model, owner, protocol, statuses
from confidential_ml.answer import Answer, open_answer
from confidential_ml.attestation import ANY, AttestationPolicy, Claims, ModelClaim, parse_claims
from confidential_ml.owner_key import is_sound
from confidential_ml.protocol import Kind, bucket_size
from confidential_ml.receipt import Receipt, parse_receipt, verify_receipt
from confidential_ml.request import OwnerSignature, Request, predict_request, provision_request
from confidential_ml.simulated_platform import SimulatedPlatform

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
MODEL = ReferenceModel(features=3, groups=2, values=2, owner=bytes(range(32)), version=9)
# No enclave of the tests looks further than the magic.
FLAT = b"CMLFLAT\0" + os.urandom(500)
ROWS = np.array([[1, 2, np.nan], [-4, np.inf, 0.25]], np.float32)
SIZES = {"u16": 2, "u32": 4, "u64": 8}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def enclave(platform: SimulatedPlatform) -> ReferenceEnclave:
    return ReferenceEnclave(platform, MODEL)


@pytest.fixture
def claims(enclave: ReferenceEnclave) -> Claims:
    return parse_claims(enclave.claims())


# ---- the tables of the document -------------------------------------------------------------------------------------


class Field(NamedTuple):
    offset: int
    size: int | None  # None: up to the end
    name: str
    is_integer: bool = False


def table(heading: str) -> list[Field]:
    """The first table with offsets under a heading of the document; where it tells both, offsets and sizes agree."""
    text = DOCUMENT.split(f"\n{heading}", 1)[1]
    lines = text.split("| offset | type | field |\n|---|---|---|\n", 1)[1].split("\n\n", 1)[0].splitlines()
    fields: list[Field] = []
    for line in lines:
        offset, kind, name = (cell.strip() for cell in line.strip("|").split("|", 2))
        if not offset:
            continue
        found = re.fullmatch(r"(\d+) bytes", kind)
        size = int(found[1]) if found else SIZES.get(kind)
        if fields and fields[-1].size is not None:
            assert int(offset) == fields[-1].offset + fields[-1].size, line
        fields.append(Field(int(offset), size, name, kind in SIZES))
    return fields


def by_table(heading: str, data: bytes) -> dict[str, Any]:
    """Fields of some bytes by the first words of their names in the document; integers where it says so."""
    result: dict[str, Any] = {}
    for field in table(heading):
        end = len(data) if field.size is None else field.offset + field.size
        value = data[field.offset : end]
        name = re.split(r"[:,;(]", field.name)[0].strip()
        name = name if name not in result else f"{name} at {field.offset}"
        result[name] = int.from_bytes(value, "little") if field.is_integer else value
    return result


def test_the_tables_are_of_the_sizes_that_the_document_says_elsewhere() -> None:
    ends = {heading: table(heading)[-1].offset for heading in ("## 3.", "### 3.1", "### 3.2", "## 4.", "## 6.")}
    assert ends == {"## 3.": 104, "### 3.1": 40, "### 3.2": 128, "## 4.": 48, "## 6.": 280}
    assert table("## 2.")[-1] == Field(152, None, "nonce, as the client sent it")
    assert "The **epoch part** is bytes [0, 144)" in DOCUMENT
    assert "The **header** is bytes [0, 56)" in DOCUMENT
    assert protocol.REQUEST_OVERHEAD == 104 + 16
    assert protocol.ANSWER_OVERHEAD == 48 + 16
    assert protocol.RECEIPT_SIZE == 280 + 64


def test_the_claims_of_the_reference_enclave_are_those_of_the_document_and_are_parsed(
    enclave: ReferenceEnclave,
) -> None:
    data = enclave.claims(b"nonce of the test")
    found = by_table("## 2.", data)
    claims = parse_claims(data)
    assert found["magic `43 4d 4c 43 4c 41 49 4d`"] == b"CMLCLAIM"
    assert (found["version"], found["platform"], found["suites"]) == (1, 1, 1)
    assert (found["zero"], found["zero at 148"], found["rollback"]) == (0, 0, 0)
    assert (found["epoch"], found["instance"]) == (claims.epoch, claims.instance) == (1, claims.instance)
    assert (found["epoch public key"], found["receipt public key"]) == (
        claims.epoch_public_key,
        claims.receipt_public_key,
    )
    assert found["config digest"].hex() == claims.config_digest
    assert claims.nonce == b"nonce of the test"
    assert claims.epoch_digest == hashlib.sha256(data[:144]).digest()
    expected = ModelClaim(MODEL.digest.hex(), "reference", bytes(range(32)).hex(), 9, 3, 2, 2)
    assert claims.models == (expected,)


# ---- requests -------------------------------------------------------------------------------------------------------


def test_a_predict_request_is_that_of_the_document(enclave: ReferenceEnclave, claims: Claims) -> None:
    margins = np.arange(4, dtype=np.float32)
    request = predict_request(
        claims,
        MODEL.digest.hex(),
        ROWS,
        columns=2,
        output_margin=True,
        round_range=(2, 7),
        base_margin=margins,
        wants_receipt=True,
        time=1_234_567_890_123,
    )
    found = by_table("## 3.", request.message)
    assert (found["version"], found["suite"], found["kind"]) == (1, 1, 1)
    assert (found["zero"], found["zero at 52"]) == (0, 0)
    assert (found["key id"], found["model digest"]) == (claims.key_id, MODEL.digest)
    assert found["answer size"] == request.answer_size == 416  # 48 + 16 + 344 = 408
    inside = enclave._open(request.message, 1).plaintext
    fields = by_table("### 3.1", inside)
    assert (fields["flags"], fields["round_begin"], fields["round_end"]) == (3, 2, 7)
    assert (fields["features"], fields["row_count"], fields["base_margin_size in bytes"]) == (3, 2, 16)
    assert fields["time"] == 1_234_567_890_123
    content = ROWS.astype("<f4").tobytes() + margins.astype("<f4").tobytes()
    assert inside == inside[:40] + content + bytes(256 - 40 - len(content))


def test_the_least_predict_request(enclave: ReferenceEnclave, claims: Claims) -> None:
    request = predict_request(claims, MODEL.digest.hex(), ROWS[:0], columns=2)
    assert request.answer_size == 256
    inside = enclave._open(request.message, 1).plaintext
    assert inside == struct.pack("<IIIIQQQ", 0, 0, 0, 3, 0, 0, 0) + bytes(216)


def test_a_provision_request_is_that_of_the_document(enclave: ReferenceEnclave, claims: Claims) -> None:
    key = Ed25519PrivateKey.generate()
    digest = hashlib.sha256(FLAT).hexdigest()
    signature = owner.sign_model(key, model_digest=digest, version=11, model_id="credit")
    request = provision_request(
        claims,
        FLAT,
        model_digest=digest,
        model_id="credit",
        policy="mrsigner",
        version=11,
        owner=OwnerSignature(owner.owner_id(key), signature),
        time=77,
    )
    found = by_table("## 3.", request.message)
    assert (found["kind"], found["model digest"], found["answer size"]) == (2, bytes(32), 416)  # 48 + 344 = 392
    inside = enclave._open(request.message, 2).plaintext
    fields = by_table("### 3.2", inside)
    assert (fields["sealing policy"], fields["zero"], fields["model id size"]) == (2, 0, 6)
    assert (fields["model version"], fields["time"], fields["flat model size"]) == (11, 77, len(FLAT))
    assert fields["owner public key"] == key.public_key().public_bytes_raw()
    assert fields["owner signature"] == signature
    assert inside[128:] == (b"credit" + FLAT).ljust(704 - 128, b"\0")  # 128 + 6 + 508 = 642


def test_without_an_owner_there_is_no_signature(enclave: ReferenceEnclave, claims: Claims) -> None:
    request = provision_request(claims, FLAT, model_digest=hashlib.sha256(FLAT).hexdigest(), model_id="m")
    fields = by_table("### 3.2", enclave._open(request.message, 2).plaintext)
    assert (fields["owner public key"], fields["owner signature"], fields["sealing policy"]) == (
        bytes(32),
        bytes(64),
        1,
    )


def test_a_signature_over_something_else_is_not_sent(claims: Claims) -> None:
    key = Ed25519PrivateKey.generate()
    digest = hashlib.sha256(FLAT).hexdigest()
    signature = owner.sign_model(key, model_digest=digest, version=1, model_id="m")
    with pytest.raises(cml.InvalidInputError, match="signature is not over"):
        provision_request(
            claims,
            FLAT,
            model_digest=digest,
            model_id="m",
            version=2,
            owner=OwnerSignature(owner.owner_id(key), signature),
        )


def test_requests_over_a_limit_are_refused_before_anything_is_encrypted(claims: Claims) -> None:
    # A broadcast array takes no memory, and neither does what is refused by its size.
    wide = np.broadcast_to(np.float32(0), (1 << 14, 1 << 12))
    with pytest.raises(cml.InvalidInputError, match="the answer would have"):
        predict_request(claims, MODEL.digest.hex(), ROWS, columns=1 << 24)
    with pytest.raises(cml.InvalidInputError, match="the request would have"):
        predict_request(claims, MODEL.digest.hex(), wide[:, :2304], columns=1)
    with pytest.raises(cml.InvalidInputError, match="the request would have"):
        provision_request(claims, bytes(144 << 20), model_digest="00" * 32, model_id="m")


def test_nothing_is_encrypted_to_a_key_of_low_order(claims: Claims) -> None:
    weak = dataclasses.replace(claims, epoch_public_key=bytes(32))
    with pytest.raises(cml.RemoteError, match="no X25519 key"):
        predict_request(weak, MODEL.digest.hex(), ROWS, columns=1)


def test_no_request_shows_what_opens_its_answer(claims: Claims) -> None:
    request = predict_request(claims, MODEL.digest.hex(), ROWS, columns=2)
    assert request.answer_secret.hex() not in repr(request)
    assert repr(request.answer_secret) not in repr(request)
    assert request.answer_secret not in request.message


# ---- padding --------------------------------------------------------------------------------------------------------

BUCKETS = sorted(m << k for m in range(8, 16) for k in range(5, 26))


@given(st.one_of(st.integers(0, 5000), st.integers(0, BUCKETS[-1])))
def test_the_bucket_is_the_smallest_that_holds_the_size(size: int) -> None:
    assert bucket_size(size) == next(one for one in BUCKETS if one >= size)
    assert bucket_size(bucket_size(size)) == bucket_size(size)
    assert size <= 256 or bucket_size(size) - size <= bucket_size(size) / 8


def test_buckets_begin_as_the_document_says() -> None:
    assert "(256, 288, 320, ... 480, 512, 576, ...)" in DOCUMENT
    assert sorted({bucket_size(size) for size in range(577)}) == [256, 288, 320, 352, 384, 416, 448, 480, 512, 576]


# ---- what enclaves must say to broken requests ----------------------------------------------------------------------


def said(enclave: ReferenceEnclave, case: Case) -> int | None:
    """The status that came back; None if the request could not be read."""
    provisions = case.request.kind is Kind.PROVISION
    try:
        answer = (
            enclave.import_model(case.request.message)[1]
            if provisions
            else enclave.answer_request(case.request.message)
        )
    except cml.RequestUnreadableError:
        return None
    return open_answer(case.request, answer).status


def test_broken_requests_are_answered_as_the_document_says(platform: SimulatedPlatform) -> None:
    enclave = ReferenceEnclave(platform, MODEL)
    claims = parse_claims(enclave.claims())
    cases = [
        *unreadable(claims, MODEL.digest, MODEL.features),
        *predictions(claims, MODEL.digest, MODEL.features, MODEL.groups, MODEL.rounds),
        *provisions(claims, FLAT),
    ]
    assert len({(case.name, case.request.kind) for case in cases}) == len(cases) > 90
    found = [(case.name, said(enclave, case)) for case in cases]
    assert found == [(case.name, case.expected) for case in cases]


# ---- answers --------------------------------------------------------------------------------------------------------


def plain_answer(
    status: int = 0,
    content: bytes = b"",
    receipt: bytes = b"",
    blind: bytes = bytes(32),
    *,
    size: int = 512,
    receipt_size: int | None = None,
    content_size: int | None = None,
) -> bytes:
    sizes = (
        len(receipt) if receipt_size is None else receipt_size,
        len(content) if content_size is None else content_size,
    )
    return (struct.pack("<IIQ", status, *sizes) + blind + content + receipt).ljust(size, b"\0")


@pytest.fixture
def exchanged(enclave: ReferenceEnclave, claims: Claims) -> tuple[Request, Callable[[bytes], bytes]]:
    """A request with an answer of 512 bytes, and what encrypts any plaintext as its answer."""
    request = predict_request(claims, MODEL.digest.hex(), np.zeros((50, 3), np.float32), columns=2)
    assert request.answer_size == 448
    request = dataclasses.replace(request, answer_size=448)
    opened = enclave._open(request.message, 1)
    return request, lambda plaintext: enclave.encrypted_answer(opened, plaintext)


Exchanged = tuple[Request, Callable[[bytes], bytes]]


def test_an_answer_is_that_of_the_document(enclave: ReferenceEnclave, claims: Claims) -> None:
    request = predict_request(
        claims, MODEL.digest.hex(), ROWS[:1], columns=2, output_margin=True, wants_receipt=True, time=5
    )
    data = enclave.answer_request(request.message)
    found = by_table("## 4.", data)
    assert (found["version"], found["kind"], found["zero"], found["key id"]) == (1, 1, 0, claims.key_id)
    assert len(data) == 48 + request.answer_size + 16
    answer = open_answer(request, data)
    assert answer.status == 0
    assert np.frombuffer(answer.content, "<f4").tolist() == [0.5 + 3 * 10, 0.5 + 3 * 10 * 2]
    assert len(answer.receipt) == 344
    assert answer.blind != bytes(32)


@pytest.mark.parametrize(
    ("plaintext", "expected"),
    [
        (plain_answer(content=b"abc", size=448), Answer(0, b"abc", b"", bytes(32))),
        (plain_answer(content=bytes(range(1, 201)) * 2, size=448), Answer(0, bytes(range(1, 201)) * 2, b"", bytes(32))),
        (
            plain_answer(content=b"abc", receipt=b"r" * 344, blind=b"b" * 32, size=448),
            Answer(0, b"abc", b"r" * 344, b"b" * 32),
        ),
        (plain_answer(501, size=448), Answer(501, b"", b"", bytes(32))),
    ],
    ids=["content", "full", "receipt", "status"],
)
def test_answers_that_are_right(exchanged: Exchanged, plaintext: bytes, expected: Answer) -> None:
    request, encrypt = exchanged
    assert open_answer(request, encrypt(plaintext)) == expected


@pytest.mark.parametrize(
    ("plaintext", "problem"),
    [
        (plain_answer(receipt_size=343, size=448), "sizes"),
        (plain_answer(receipt_size=345, size=448), "sizes"),
        (plain_answer(content_size=401, size=448), "sizes"),
        (plain_answer(content_size=(1 << 64) - 1, size=448), "sizes"),
        (plain_answer(receipt=b"r" * 344, content_size=57, blind=b"b" * 32, size=448), "sizes"),
        (plain_answer(content_size=2, content=b"abc", size=448), "padding"),
        (plain_answer(size=447) + b"\1", "padding"),
        (plain_answer(501, content=b"abc", size=448), "failure and holds a result"),
        (plain_answer(501, receipt=b"r" * 344, blind=b"b" * 32, size=448), "failure and holds a result"),
        (plain_answer(content=b"abc", blind=b"b" * 32, size=448), "blind and no receipt"),
    ],
)
def test_answers_that_break_a_rule_inside(exchanged: Exchanged, plaintext: bytes, problem: str) -> None:
    request, encrypt = exchanged
    assert len(plaintext) == 448
    with pytest.raises(cml.RemoteError, match=problem):
        open_answer(request, encrypt(plaintext))


def test_an_answer_whose_size_is_not_the_one_named_is_refused(exchanged: Exchanged) -> None:
    request, encrypt = exchanged
    for size in (256, 447, 449, 512):
        with pytest.raises(cml.RemoteError, match=f"has {size + 64} bytes, not {448 + 64}"):
            open_answer(request, encrypt(plain_answer(size=size)))


@pytest.mark.parametrize("change", [{"kind": 2}, {"epoch": None}])
def test_an_answer_that_says_it_is_to_something_else_is_refused(
    enclave: ReferenceEnclave, claims: Claims, change: dict[str, Any]
) -> None:
    """Authentic, of the enclave itself, and with the header of another answer."""
    request = predict_request(claims, MODEL.digest.hex(), ROWS, columns=2)
    opened = enclave._open(request.message, 1)
    if "epoch" in change:
        enclave.new_epoch()
        change = {"epoch": enclave.epoch}
    answer = enclave.encrypted_answer(dataclasses.replace(opened, **change), plain_answer(size=256))
    with pytest.raises(cml.RemoteError, match="header is not that of an answer to this request"):
        open_answer(request, answer)


def test_every_bit_of_an_answer_matters(exchanged: Exchanged) -> None:
    request, encrypt = exchanged
    answer = encrypt(plain_answer(content=b"abc", size=448))
    assert open_answer(request, answer).content == b"abc"
    for position in range(len(answer)):
        changed = bytearray(answer)
        changed[position] ^= 1 << position % 8
        with pytest.raises(cml.RemoteError):
            open_answer(request, bytes(changed))


def test_the_answer_to_another_request_does_not_open(enclave: ReferenceEnclave, claims: Claims) -> None:
    one, other = (predict_request(claims, MODEL.digest.hex(), ROWS, columns=2) for _ in range(2))
    answers = [enclave.answer_request(request.message) for request in (one, other)]
    for request, answer in ((one, answers[1]), (other, answers[0])):
        with pytest.raises(cml.RemoteError, match="not what the enclave sent for this request"):
            open_answer(request, answer)
    changed = dataclasses.replace(one, head=one.head[:56] + other.head[56:88] + one.head[88:])
    with pytest.raises(cml.RemoteError, match="not what the enclave sent for this request"):
        open_answer(changed, answers[0])
    assert open_answer(one, answers[0]).status == 0


# ---- receipts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def receipted(enclave: ReferenceEnclave, claims: Claims) -> tuple[Request, Answer]:
    request = predict_request(claims, MODEL.digest.hex(), ROWS, columns=2, wants_receipt=True, time=1_700_000_000_000)
    return request, open_answer(request, enclave.answer_request(request.message))


def test_a_receipt_of_predictions_is_that_of_the_document(receipted: tuple[Request, Answer], claims: Claims) -> None:
    request, answer = receipted
    found = by_table("## 6.", answer.receipt)
    receipt = parse_receipt(answer.receipt)
    assert found["magic `43 4d 4c 52 43 50 54 00`"] == b"CMLRCPT\0"
    assert (found["version"], found["kind"], found["sealing policy"]) == (1, receipt.kind, 0)
    assert (receipt.kind, receipt.policy) == (Kind.PREDICT, None)
    assert found["instance"] == receipt.instance == claims.instance
    assert found["counter"] == receipt.counter == 1
    assert found["time"] == receipt.time == 1_700_000_000_000
    assert receipt.asked_at is not None
    assert receipt.asked_at.isoformat() == "2023-11-14T22:13:20+00:00"
    assert found["model version"] == receipt.model_version == 9
    assert found["model digest"].hex() == receipt.model_digest == MODEL.digest.hex()
    assert found["owner public key"].hex() == receipt.owner == bytes(range(32)).hex()
    assert found["epoch digest"] == receipt.epoch_digest == claims.epoch_digest
    assert found["MRENCLAVE"].hex() == receipt.mrenclave == MRENCLAVE.hex()
    assert found["SHA-256"].hex() == receipt.request_digest == hashlib.sha256(request.message).hexdigest()
    hashed = hashlib.sha256(b"confidential_ml content v1" + answer.blind + answer.content).hexdigest()
    assert found["kind 1"].hex() == receipt.content_digest == hashed
    assert receipt.data == answer.receipt


def verified(received: Answer, claims: Claims, mrenclave: str = MRENCLAVE.hex(), **what: Any) -> Receipt:
    return verify_receipt(received.receipt, claims, mrenclave, **what)


def test_a_receipt_is_verified_offline(receipted: tuple[Request, Answer], claims: Claims) -> None:
    request, answer = receipted
    everything: dict[str, Any] = {"request": request.message, "answer": answer.content, "blind": answer.blind}
    assert verified(answer, claims, **everything) == parse_receipt(answer.receipt)
    assert verified(answer, claims).counter == 1
    assert verify_receipt(parse_receipt(answer.receipt), claims, MRENCLAVE.hex().upper(), **everything).counter == 1


def test_a_receipt_that_was_made_up_as_an_object_is_not_believed(
    receipted: tuple[Request, Answer], claims: Claims
) -> None:
    made_up = dataclasses.replace(parse_receipt(receipted[1].receipt), counter=7)
    assert verify_receipt(made_up, claims, MRENCLAVE.hex()).counter == 1


def test_every_bit_of_a_receipt_is_signed(receipted: tuple[Request, Answer], claims: Claims) -> None:
    _, answer = receipted
    for position in range(344):
        changed = bytearray(answer.receipt)
        changed[position] ^= 1 << position % 8
        with pytest.raises(cml.ReceiptError):
            verify_receipt(bytes(changed), claims, MRENCLAVE.hex())


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ({"request": b"another"}, "another request"),
        ({"answer": b"another", "blind": None}, "other predictions"),
        ({"answer": None, "blind": b"a" * 32}, "other predictions"),
        ({"sealed": b"sealed"}, "not of a model provisioned"),
    ],
)
def test_a_receipt_of_something_else_is_refused(
    receipted: tuple[Request, Answer], claims: Claims, what: dict[str, bytes | None], problem: str
) -> None:
    _, answer = receipted
    given: dict[str, Any] = {"answer": answer.content, "blind": answer.blind} if "answer" in what else {}
    given |= {name: value for name, value in what.items() if value is not None}
    with pytest.raises(cml.ReceiptError, match=problem):
        verified(answer, claims, **given)


def test_bytes_cannot_move_between_blind_and_predictions(receipted: tuple[Request, Answer], claims: Claims) -> None:
    _, answer = receipted
    with pytest.raises(cml.InvalidInputError, match="blind must have 32 bytes"):
        verified(answer, claims, blind=answer.blind[:-4], answer=answer.blind[-4:] + answer.content)
    with pytest.raises(cml.InvalidInputError, match="belong together"):
        verified(answer, claims, answer=answer.content)


def test_a_receipt_of_another_enclave_run_or_epoch_is_refused(
    receipted: tuple[Request, Answer], enclave: ReferenceEnclave, claims: Claims
) -> None:
    _, answer = receipted
    with pytest.raises(cml.ReceiptError, match="MRENCLAVE"):
        verified(answer, claims, mrenclave="00" * 32)
    with pytest.raises(cml.ReceiptError, match="another run"):
        verified(answer, parse_claims(enclave.restarted().claims()))
    with pytest.raises(cml.ReceiptError, match="not signed"):
        verified(answer, dataclasses.replace(claims, receipt_public_key=bytes(32)))
    enclave.new_epoch()
    with pytest.raises(cml.ReceiptError, match="another epoch"):
        verified(answer, parse_claims(enclave.claims()))


def test_the_blind_hides_a_prediction_that_can_be_guessed(enclave: ReferenceEnclave, claims: Claims) -> None:
    digests = set()
    for _ in range(3):
        request = predict_request(claims, MODEL.digest.hex(), ROWS, columns=2, wants_receipt=True)
        answer = open_answer(request, enclave.answer_request(request.message))
        digests.add(parse_receipt(answer.receipt).content_digest)
    assert len(digests) == 3


def test_receipts_count(enclave: ReferenceEnclave, claims: Claims) -> None:
    counters = []
    for _ in range(3):
        request = predict_request(claims, MODEL.digest.hex(), ROWS, columns=2, wants_receipt=True)
        answer = open_answer(request, enclave.answer_request(request.message))
        counters.append(verified(answer, claims).counter)
    assert counters == [1, 2, 3]


def test_a_receipt_of_a_provisioned_model(enclave: ReferenceEnclave, claims: Claims) -> None:
    digest = hashlib.sha256(FLAT).hexdigest()
    request = provision_request(claims, FLAT, model_digest=digest, model_id="m", policy="mrsigner", version=4, time=9)
    sealed, message = enclave.import_model(request.message)
    answer = open_answer(request, message)
    assert (answer.status, answer.content, answer.blind) == (0, b"", bytes(32))
    receipt = verified(answer, claims, request=request.message, sealed=sealed)
    assert (receipt.kind, receipt.policy, receipt.model_digest) == (Kind.PROVISION, "mrsigner", digest)
    assert (receipt.model_version, receipt.time, receipt.owner) == (4, 9, None)
    with pytest.raises(cml.ReceiptError, match="another sealed model"):
        verified(answer, claims, sealed=sealed + b"\0")
    with pytest.raises(cml.ReceiptError, match="not of a prediction"):
        verified(answer, claims, answer=b"", blind=bytes(32))


@pytest.mark.parametrize("bad", [b"", bytes(343), bytes(344), b"CMLRCPT\0" + bytes(337)])
def test_what_is_no_receipt(bad: bytes) -> None:
    with pytest.raises(cml.ReceiptError):
        parse_receipt(bad)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 2), (12, 0), (12, 3), (14, 1), (32, 0), (248, 1), (279, 1)],
    ids=["version", "no kind", "unknown kind", "policy", "counter", "zero", "last zero"],
)
def test_receipts_with_a_field_out_of_range(receipted: tuple[Request, Answer], offset: int, value: int) -> None:
    changed = bytearray(receipted[1].receipt)
    changed[offset] = value
    with pytest.raises(cml.ReceiptError, match="version"):
        parse_receipt(bytes(changed))


def test_a_provision_receipt_must_name_a_policy(enclave: ReferenceEnclave, claims: Claims) -> None:
    request = provision_request(claims, FLAT, model_digest=hashlib.sha256(FLAT).hexdigest(), model_id="m")
    data = bytearray(open_answer(request, enclave.import_model(request.message)[1]).receipt)
    for policy in (0, 3):
        data[14] = policy
        with pytest.raises(cml.ReceiptError, match="version 1 does not know"):
            parse_receipt(bytes(data))


def test_times_beyond_the_calendar_are_no_date(receipted: tuple[Request, Answer]) -> None:
    receipt = parse_receipt(receipted[1].receipt)
    assert dataclasses.replace(receipt, time=0).asked_at is None
    assert dataclasses.replace(receipt, time=(1 << 64) - 1).asked_at is None


# ---- owners ---------------------------------------------------------------------------------------------------------


def test_an_owner_signs_what_the_document_says() -> None:
    key = Ed25519PrivateKey.generate()
    digest = "ab" * 32
    signature = owner.sign_model(key, model_digest=digest, version=3, model_id="credit")
    signed = b"confidential_ml owner v1" + b"\xab" * 32 + struct.pack("<QH", 3, 6) + b"credit"
    key.public_key().verify(signature, signed)
    name = owner.owner_id(key)
    assert name == owner.owner_id(key.public_key()) == key.public_key().public_bytes_raw().hex()
    right: dict[str, Any] = {"model_digest": digest, "version": 3, "model_id": "credit"}
    assert owner.is_signed_by_owner(name, signature, **right)
    changes: list[dict[str, Any]] = [{"model_digest": "ac" * 32}, {"version": 4}, {"model_id": "credi"}]
    for change in changes:
        assert not owner.is_signed_by_owner(name, signature, **(right | change))
    assert not owner.is_signed_by_owner(owner.owner_id(Ed25519PrivateKey.generate()), signature, **right)
    assert not owner.is_signed_by_owner(name, signature[:-1], **right)


WEAK_KEYS = [
    bytes.fromhex(y)[:31] + bytes([bytes.fromhex(y)[31] | sign])
    for sign in (0, 0x80)
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "ff" * 31 + "7f",
    )
]


def test_keys_under_which_anybody_signs_are_told_from_others() -> None:
    assert [is_sound(key) for key in WEAK_KEYS] == [not anybody_can_sign(key) for key in WEAK_KEYS] == [False] * 16
    for _ in range(50):
        key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        assert is_sound(key)
        assert not anybody_can_sign(key)
    assert is_sound(bytes.fromhex("eb" + "ff" * 30 + "7f"))


def test_a_signature_that_nobody_made_is_refused_because_of_its_key() -> None:
    neutral = b"\1" + bytes(31)
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"whatever")  # so says the library
    with pytest.raises(cml.InvalidInputError, match="anybody can sign"):
        owner.is_signed_by_owner(
            neutral.hex(), neutral + bytes(32), model_digest="ab" * 32, version=0, model_id="whatever"
        )


@pytest.mark.parametrize("key", WEAK_KEYS, ids=bytes.hex)
def test_an_owner_under_whom_anybody_signs_is_taken_nowhere(key: bytes, claims: Claims) -> None:
    name = key.hex()
    signed: dict[str, Any] = {"model_digest": hashlib.sha256(FLAT).hexdigest(), "model_id": "m"}
    for attempt in (
        lambda: AttestationPolicy(mrenclave=ANY, model_owner=name),
        lambda: AttestationPolicy(mrenclave=ANY, model_owner=[owner.owner_id(Ed25519PrivateKey.generate()), name]),
        lambda: AttestationPolicy.from_toml(f'mrenclave = "ANY"\nmodel_owner = "{name}"\n'),
        lambda: owner.owner_id(Ed25519PublicKey.from_public_bytes(key)),
        lambda: owner.is_signed_by_owner(name, bytes(64), version=0, **signed),
        lambda: provision_request(claims, FLAT, owner=OwnerSignature(name, bytes(64)), **signed),
        lambda: cml.ConfidentialModel.load_sealed("no such file", owner=name),
    ):
        with pytest.raises(cml.InvalidInputError, match="anybody can sign"):
            attempt()


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "ab"},
        {"model_digest": None},
        {"version": -1},
        {"version": 1 << 64},
        {"version": True},
        {"model_id": ""},
        {"model_id": ".m"},
        {"model_id": "m" * 65},
        {"model_id": "ü"},
        {"model_id": b"m"},
    ],
)
def test_what_cannot_be_signed(change: dict[str, Any]) -> None:
    right: dict[str, Any] = {"model_digest": "ab" * 32, "version": 0, "model_id": "m"}
    assert len(owner.sign_model(Ed25519PrivateKey.generate(), **right)) == 64
    with pytest.raises(cml.InvalidInputError, match=next(iter(change)).replace("model_id", "model.id")):
        owner.sign_model(Ed25519PrivateKey.generate(), **(right | change))


def test_other_keys_sign_nothing() -> None:
    with pytest.raises(cml.InvalidInputError, match="Ed25519PrivateKey"):
        owner.sign_model(object(), model_digest="ab" * 32, version=0, model_id="m")  # type: ignore[arg-type]
    with pytest.raises(cml.InvalidInputError, match="Ed25519PrivateKey"):
        owner.owner_id(b"key")  # type: ignore[arg-type]


# ---- what is said twice agrees --------------------------------------------------------------------------------------


def test_limits_agree_with_those_of_the_enclave_and_the_document() -> None:
    assert limits()["kMaxRequestContent"] == protocol.MAX_REQUEST_CONTENT
    assert limits()["kMaxAnswerContent"] == protocol.MAX_ANSWER_CONTENT
    assert limits()["kMaxEpochRequests"] == 262_144
    assert "opened 262,144 requests" in DOCUMENT
    assert limits()["kMaxProvisionContent"] == protocol.MAX_PROVISION_CONTENT == 144 << 20
    assert protocol.MAX_REQUEST_CONTENT == protocol.MAX_ANSWER_CONTENT == 16 << 20
    assert "kMaxRequestContent = 16 MiB (kind 1) and kMaxProvisionContent = 144 MiB (kind 2)" in DOCUMENT
    assert "kMaxAnswerContent = 16 MiB" in DOCUMENT
    assert protocol.MAX_PROVISION_CONTENT - 192 >= flat_model.MAX_SIZE
    named = re.search(r"each as u64: ([^.]+)\.", DOCUMENT)
    assert named is not None
    assert re.findall(r"k\w+", named[1]) == reference_enclave.CONFIG_LIMITS


def test_the_table_of_statuses_is_that_of_the_extension() -> None:
    numbers = dict(
        re.findall(r"^\s*(k\w+) = (\d+),", (ROOT / "common" / "status.h").read_text(encoding="utf-8"), re.MULTILINE)
    )
    text = (ROOT / "host" / "status_table.cpp").read_text(encoding="utf-8")
    entry = r'Status::(k\w+):\s*return \{\s*"(\w+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\}'
    table = {
        int(numbers[name]): (exception, "".join(re.findall(r'"([^"]*)"', sentence)))
        for name, exception, sentence in re.findall(entry, text)
    }
    assert len(table) == len(numbers) > 30
    del table[0]
    assert {number: (one.exception.__name__, one.sentence) for number, one in statuses.MEANINGS.items()} == table
    unknown = text.rsplit("return {", 1)[1]
    name, *parts = re.findall(r'"([^"]*)"', unknown)
    assert (statuses.UNKNOWN.exception.__name__, statuses.UNKNOWN.sentence) == (name, "".join(parts))


def test_the_statuses_that_the_document_numbers() -> None:
    text = (ROOT / "common" / "status.h").read_text(encoding="utf-8")
    line = next(line for line in DOCUMENT.splitlines() if line.startswith("Their numbers: "))
    found = re.findall(r"([A-Z_]+) (\d+)", line)
    assert len(found) == 5
    for name, number in found:
        constant = "k" + name.title().replace("_", "")
        assert re.search(rf"\b{constant} = {number},", text), name


@pytest.mark.parametrize("status", [*statuses.MEANINGS, 999])
def test_every_status_becomes_its_error(status: int) -> None:
    error = statuses.error_of(status)
    meaning = statuses.MEANINGS.get(status, statuses.UNKNOWN)
    assert type(error) is meaning.exception
    assert str(error) == meaning.sentence
    assert type(error).__name__ in errors.__all__
