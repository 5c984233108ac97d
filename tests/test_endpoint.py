"""The host's endpoint: hostile messages, limits, epochs by the clock, the place for provisioned models."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_enclave import ReferenceEnclave, ReferenceModel
from remote_host import Host, exit_code_of_child
from request_cases import predictions, provisions, unreadable

import confidential_ml as cml
from confidential_ml.answer import open_answer
from confidential_ml.attestation import parse_claims, parse_evidence
from confidential_ml.endpoint import ConfidentialEndpoint
from confidential_ml.protocol import MAX_REQUEST_CONTENT, Kind
from confidential_ml.receipt import parse_receipt
from confidential_ml.request import Request, predict_request, provision_request
from confidential_ml.sealed_file import inspect_sealed
from confidential_ml.simulated_platform import SimulatedPlatform

MODEL = ReferenceModel(features=3, groups=2, values=2)
FLAT = b"CMLFLAT\0" + os.urandom(500)
EVIDENCE, REQUEST = b"\1\0\1\0", b"\1\0\2\0"
OK, UNREADABLE, REFUSED, TRY_LATER = (b"\1\0" + bytes([result, 0]) for result in range(4))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def enclave(platform: SimulatedPlatform) -> ReferenceEnclave:
    return ReferenceEnclave(platform, MODEL)


@pytest.fixture
def host(platform: SimulatedPlatform, enclave: ReferenceEnclave) -> Host:
    return Host(platform, enclave)


def evidence_of(reply: bytes) -> tuple[bytes, bytes]:
    assert reply.startswith(OK)
    size = int.from_bytes(reply[4:8], "little")
    return reply[8 : 8 + size], reply[8 + size :]


def request_to(enclave: ReferenceEnclave) -> Request:
    return predict_request(parse_claims(enclave.claims()), MODEL.digest.hex(), np.ones((1, 3), np.float32), columns=2)


def provision_to(enclave: ReferenceEnclave, model_id: str = "credit", flat: bytes = FLAT) -> Request:
    digest = hashlib.sha256(flat).hexdigest()
    return provision_request(parse_claims(enclave.claims()), flat, model_digest=digest, model_id=model_id)


# ---- what it answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enclave", [None, b"", cml.ConfidentialModel])
def test_what_is_no_enclave_is_not_served(enclave: Any) -> None:
    with pytest.raises(cml.InvalidInputError, match="enclave must be an Enclave, not"):
        cml.ConfidentialEndpoint(enclave)


def test_evidence_comes_with_its_nonce_and_collateral(host: Host) -> None:
    for nonce in (b"", b"n", b"n" * 64):
        evidence, document = evidence_of(host.endpoint.handle(EVIDENCE + nonce))
        assert parse_claims(parse_evidence(evidence).claims).nonce == nonce
        assert document == host.collateral().to_json().encode()


def test_evidence_without_collateral(enclave: ReferenceEnclave) -> None:
    assert evidence_of(ConfidentialEndpoint(enclave).handle(EVIDENCE))[1] == b""


def test_collateral_may_be_given_once(host: Host) -> None:
    collateral = host.collateral()
    endpoint = ConfidentialEndpoint(host.enclave, collateral=collateral)
    assert evidence_of(endpoint.handle(EVIDENCE))[1] == collateral.to_json().encode()


def test_a_request_is_answered_once(host: Host) -> None:
    request = request_to(host.enclave)
    reply = host.endpoint.handle(REQUEST + request.message)
    assert reply.startswith(OK)
    assert open_answer(request, reply[4:]).status == 0
    assert host.endpoint.handle(REQUEST + request.message) == UNREADABLE


@pytest.mark.parametrize(
    "message",
    [
        *[b"", b"\1", b"\1\0", b"\1\0\1"],
        *[b"\0\0\1\0", b"\2\0\1\0", b"\1\1\1\0"],
        *[b"\1\0\0\0", b"\1\0\3\0", b"\1\0\1\1", b"\1\0\xff\xff"],
        EVIDENCE + bytes(65),
    ],
    ids=lambda message: message[:5].hex() or "empty",
)
def test_messages_that_are_refused(host: Host, message: bytes) -> None:
    assert host.endpoint.handle(message) == REFUSED
    assert host.enclave.evidence_count == 0


def test_every_broken_request_is_answered_as_the_document_says(platform: SimulatedPlatform) -> None:
    enclave = ReferenceEnclave(platform, MODEL)
    stored: list[str] = []
    endpoint = ConfidentialEndpoint(enclave, store=lambda _, model_id: stored.append(model_id))
    claims = parse_claims(enclave.claims())
    cases = [
        *unreadable(claims, MODEL.digest, MODEL.features),
        *predictions(claims, MODEL.digest, MODEL.features, MODEL.groups, MODEL.rounds),
        *provisions(claims, FLAT),
    ]
    assert len(cases) > 90
    for case in cases:
        reply = endpoint.handle(REQUEST + case.request.message)
        if case.expected is None:
            assert reply == UNREADABLE, case.name
        else:
            assert reply.startswith(OK), case.name
            assert open_answer(case.request, reply[4:]).status == case.expected, case.name
    done = [case for case in cases if case.request.kind is Kind.PROVISION and case.expected == 0]
    assert stored == ["case"] * len(done) != []


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_it_replies(host: Host, data: st.DataObject) -> None:
    good = request_to(host.enclave).message
    message = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.builds(bytes.__add__, st.sampled_from([EVIDENCE, REQUEST]), st.binary(max_size=500)),
            st.builds(lambda end: REQUEST + good[:end], st.integers(0, len(good) - 1)),
            st.builds(
                lambda at, bit, rest: REQUEST + good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :] + rest,
                st.integers(0, len(good) - 1),
                st.integers(1, 255),
                st.binary(max_size=3),
            ),
        )
    )
    reply = host.endpoint.handle(message)
    if message.startswith(EVIDENCE) and len(message) <= 68:
        assert reply.startswith(OK)
    else:
        assert reply in (UNREADABLE, REFUSED)


def test_after_hostile_messages_good_ones_are_answered(host: Host) -> None:
    for _ in range(100):
        host.endpoint.handle(REQUEST + os.urandom(400))
    request = request_to(host.enclave)
    assert open_answer(request, host.endpoint.handle(REQUEST + request.message)[4:]).status == 0


@pytest.mark.parametrize("message", [None, "text", bytearray(b"\1\0\1\0"), memoryview(b"\1\0\1\0")])
def test_what_is_not_bytes_is_a_mistake_of_the_host(host: Host, message: Any) -> None:
    with pytest.raises(cml.InvalidInputError, match="message must be bytes"):
        host.endpoint.handle(message)


# ---- limits ---------------------------------------------------------------------------------------------------------


class Counting(ReferenceEnclave):
    """Tells what reaches it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[int] = []

    def answer_request(self, request: bytes | memoryview) -> bytes:
        self.seen.append(len(request))
        return super().answer_request(request)


def test_messages_that_are_too_long_never_reach_the_enclave(platform: SimulatedPlatform) -> None:
    enclave = Counting(platform, MODEL)
    request = request_to(enclave)
    size = 4 + len(request.message)
    assert ConfidentialEndpoint(enclave, max_message_size=size - 1).handle(REQUEST + request.message) == REFUSED
    assert enclave.seen == []
    assert ConfidentialEndpoint(enclave, max_message_size=size).handle(REQUEST + request.message).startswith(OK)
    assert enclave.seen == [size - 4]
    too_long = REQUEST + bytes(104 + MAX_REQUEST_CONTENT + 17)
    assert ConfidentialEndpoint(enclave).handle(too_long) == REFUSED
    assert ConfidentialEndpoint(enclave, max_message_size=1 << 40).handle(too_long) == REFUSED
    assert ConfidentialEndpoint(enclave).handle(too_long[:-1]) == UNREADABLE
    assert enclave.seen == [size - 4, 104 + MAX_REQUEST_CONTENT + 16]


class Waiting(ReferenceEnclave):
    """Answers when it is let, and tells how many calls wait."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()

    def answer_request(self, request: bytes | memoryview) -> bytes:
        self.entered.release()
        assert self.go_on.wait(20)
        return super().answer_request(request)

    def import_model(self, request: bytes) -> tuple[bytes, bytes]:
        self.entered.release()
        assert self.go_on.wait(20)
        return super().import_model(request)


def in_threads(functions: list[Callable[[], object]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_only_so_many_requests_at_once(platform: SimulatedPlatform) -> None:
    enclave = Waiting(platform, MODEL)
    endpoint = ConfidentialEndpoint(enclave, max_requests=2)
    requests = [request_to(enclave) for _ in range(3)]
    replies: list[bytes] = []

    def ask(request: Request) -> None:
        replies.append(endpoint.handle(REQUEST + request.message))

    threads = in_threads([functools.partial(ask, one) for one in requests[:2]])
    for _ in threads:
        assert enclave.entered.acquire(timeout=20)
    assert endpoint.handle(REQUEST + requests[2].message) == TRY_LATER
    assert endpoint.handle(EVIDENCE) == TRY_LATER
    enclave.go_on.set()
    for thread in threads:
        thread.join(20)
    assert [reply[:4] for reply in replies] == [OK, OK]
    assert endpoint.handle(REQUEST + requests[2].message).startswith(OK)


def test_only_one_model_is_provisioned_at_once(platform: SimulatedPlatform, tmp_path: Path) -> None:
    enclave = Waiting(platform, MODEL)
    endpoint = ConfidentialEndpoint(enclave, store=tmp_path)
    one, other = provision_to(enclave, "one"), provision_to(enclave, "other")
    replies: list[bytes] = []
    (thread,) = in_threads([lambda: replies.append(endpoint.handle(REQUEST + one.message))])
    assert enclave.entered.acquire(timeout=20)
    assert endpoint.handle(REQUEST + other.message) == TRY_LATER
    assert endpoint.handle(EVIDENCE).startswith(OK)
    enclave.go_on.set()
    thread.join(20)
    assert replies[0].startswith(OK)
    assert endpoint.handle(REQUEST + other.message).startswith(OK)


# ---- a forked child -------------------------------------------------------------------------------------------------


class WaitingForAll(Waiting):
    """Waits also where an endpoint holds its other locks."""

    def evidence(self, nonce: bytes = b"") -> bytes:
        self.entered.release()
        assert self.go_on.wait(20)
        return super().evidence(nonce)

    def new_epoch(self) -> None:
        self.entered.release()
        assert self.go_on.wait(20)
        super().new_epoch()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("held", ["evidence", "provisioning", "epochs"])
def test_a_forked_child_waits_for_nothing_that_threads_of_its_parent_hold(
    platform: SimulatedPlatform, tmp_path: Path, held: str
) -> None:
    enclave = WaitingForAll(platform, MODEL)
    host = Host(platform, enclave, store=tmp_path, max_requests=1)
    provision = provision_to(enclave).message
    if held == "epochs":
        host.clock.advance(3600)
    message = REQUEST + provision if held == "provisioning" else EVIDENCE
    (thread,) = in_threads([lambda: host.endpoint.handle(message)])
    assert enclave.entered.acquire(timeout=20)
    assert host.endpoint.handle(EVIDENCE) == TRY_LATER

    def ask_all() -> None:
        enclave.go_on = threading.Event()
        enclave.go_on.set()
        assert host.endpoint.handle(EVIDENCE).startswith(OK)
        assert host.endpoint.handle(REQUEST + provision).startswith(OK)
        assert host.endpoint.handle(REQUEST + request_to(enclave).message).startswith(OK)

    assert exit_code_of_child(ask_all) == 0
    enclave.go_on.set()
    thread.join(20)
    assert host.endpoint.handle(EVIDENCE).startswith(OK)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"grace_seconds": 3600}, "grace_seconds"),
        ({"grace_seconds": -1}, "grace_seconds"),
        ({"epoch_seconds": 300}, "grace_seconds"),
        ({"epoch_seconds": float("nan")}, "grace_seconds"),
        ({"evidence_seconds": -1}, "evidence_seconds"),
        ({"max_requests": 0}, "max_requests"),
        ({"max_requests": 1.5}, "max_requests"),
        ({"max_message_size": 0}, "max_message_size"),
        ({"collateral": b"{}"}, "collateral"),
        ({"store": 5}, "store"),
        ({"check_room": 5}, "check_room"),
        ({"store": "/nowhere/at/all"}, "existing directory"),
    ],
)
def test_options_that_cannot_be(enclave: ReferenceEnclave, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(cml.InvalidInputError, match=problem):
        ConfidentialEndpoint(enclave, **options)


# ---- an enclave that fails ------------------------------------------------------------------------------------------


class Failing(ReferenceEnclave):
    """Raises something in place of an answer."""

    error: Exception = cml.EnclaveError("the enclave is closed")

    def answer_request(self, request: bytes | memoryview) -> bytes:
        raise self.error

    def evidence(self, nonce: bytes = b"") -> bytes:
        raise self.error

    def new_epoch(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [cml.EnclaveError("the enclave is closed"), MemoryError(), RuntimeError("bug")])
def test_an_enclave_that_fails_is_told_to_the_operator_and_not_to_clients(
    platform: SimulatedPlatform, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    enclave = Failing(platform, MODEL)
    enclave.error = error
    host = Host(platform, enclave)
    for message in (EVIDENCE, EVIDENCE + b"nonce", REQUEST + request_to(enclave).message):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "confidential_ml"):
            assert host.endpoint.handle(message) == TRY_LATER
        assert len(caplog.records) == 1
    host.clock.advance(3600)
    assert host.endpoint.handle(EVIDENCE) == TRY_LATER
    with pytest.raises(type(error)):
        host.endpoint.rotate_if_due()


# ---- epochs and cached evidence -------------------------------------------------------------------------------------


def claimed_epoch(host: Host, nonce: bytes = b"") -> int:
    return parse_claims(parse_evidence(evidence_of(host.endpoint.handle(EVIDENCE + nonce))[0]).claims).epoch


def test_evidence_without_a_nonce_is_made_once_for_many(host: Host) -> None:
    first = host.endpoint.handle(EVIDENCE)
    assert [host.endpoint.handle(EVIDENCE) for _ in range(5)] == [first] * 5
    assert host.enclave.evidence_count == 1
    host.clock.advance(9.9)
    assert host.endpoint.handle(EVIDENCE) == first
    host.enclave.models.append(ReferenceModel("other", features=8))
    host.clock.advance(0.2)
    evidence, _ = evidence_of(host.endpoint.handle(EVIDENCE))
    assert len(parse_claims(parse_evidence(evidence).claims).models) == 2
    assert host.enclave.evidence_count == 2


def test_evidence_with_a_nonce_is_never_cached(host: Host) -> None:
    for _ in range(3):
        host.endpoint.handle(EVIDENCE + b"same")
    assert host.enclave.evidence_count == 3


def test_a_request_that_cannot_be_read_makes_evidence_new(platform: SimulatedPlatform) -> None:
    """An epoch that was full has ended inside the enclave, and no clock told the host."""
    host = Host(platform, ReferenceEnclave(platform, MODEL, max_epoch_requests=1))
    assert claimed_epoch(host) == 1
    request = request_to(host.enclave)
    other = request_to(host.enclave)
    assert host.endpoint.handle(REQUEST + request.message).startswith(OK)
    assert claimed_epoch(host) == 1
    assert host.endpoint.handle(REQUEST + other.message) == UNREADABLE
    assert claimed_epoch(host) == 2


def test_epochs_and_grace_follow_the_clock(host: Host) -> None:
    of_first = [request_to(host.enclave) for _ in range(4)]
    assert claimed_epoch(host) == 1
    host.clock.advance(3599)
    assert claimed_epoch(host) == 1
    assert host.endpoint.handle(REQUEST + of_first[0].message).startswith(OK)
    host.clock.advance(1)
    assert claimed_epoch(host) == 2
    assert host.endpoint.handle(REQUEST + of_first[1].message).startswith(OK)
    host.clock.advance(299)
    assert host.endpoint.handle(REQUEST + of_first[2].message).startswith(OK)
    host.clock.advance(1)
    assert host.endpoint.handle(REQUEST + of_first[3].message) == UNREADABLE
    assert host.enclave.former is None
    host.clock.advance(3299)
    assert claimed_epoch(host) == 2
    host.clock.advance(1)
    assert claimed_epoch(host) == 3


def test_a_timer_rotates_without_messages(host: Host) -> None:
    assert host.endpoint.rotate_if_due() == 3600
    host.clock.advance(3600)
    assert host.endpoint.rotate_if_due() == 300
    assert (host.enclave.epoch.number, host.enclave.former is None) == (2, False)
    host.clock.advance(100)
    assert host.endpoint.rotate_if_due() == 200
    host.clock.advance(200)
    assert host.endpoint.rotate_if_due() == 3300
    assert (host.enclave.epoch.number, host.enclave.former is None) == (2, True)
    host.clock.advance(100_000)
    assert host.endpoint.rotate_if_due() == 300
    assert host.enclave.epoch.number == 3


def test_without_grace_the_former_key_is_gone_at_once(platform: SimulatedPlatform, enclave: ReferenceEnclave) -> None:
    host = Host(platform, enclave, grace_seconds=0)
    request = request_to(enclave)
    host.clock.advance(3600)
    assert host.endpoint.rotate_if_due() == 3600
    assert enclave.former is None
    assert host.endpoint.handle(REQUEST + request.message) == UNREADABLE


def test_many_threads_begin_one_epoch(host: Host) -> None:
    host.clock.advance(3600)
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait(20)
        host.endpoint.handle(EVIDENCE)

    for thread in in_threads([ask] * 8):
        thread.join(20)
    assert host.enclave.epoch.number == 2
    assert host.enclave.evidence_count == 1


# ---- provisioning ---------------------------------------------------------------------------------------------------


def test_models_are_refused_where_no_place_is_named(host: Host) -> None:
    assert host.endpoint.handle(REQUEST + provision_to(host.enclave).message) == REFUSED


def test_a_provisioned_model_lies_in_the_directory_under_the_hash_of_its_receipt(
    enclave: ReferenceEnclave, tmp_path: Path
) -> None:
    endpoint = ConfidentialEndpoint(enclave, store=tmp_path)
    request = provision_to(enclave)
    answer = open_answer(request, endpoint.handle(REQUEST + request.message)[4:])
    (path,) = tmp_path.iterdir()
    sealed = path.read_bytes()
    assert parse_receipt(answer.receipt).content_digest == hashlib.sha256(sealed).hexdigest()
    assert path.name == f"credit-{hashlib.sha256(sealed).hexdigest()}.sealed"
    assert inspect_sealed(path).model_digest == hashlib.sha256(FLAT).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_replaces_the_model_of_another(enclave: ReferenceEnclave, tmp_path: Path) -> None:
    endpoint = ConfidentialEndpoint(enclave, store=tmp_path)
    for flat in (FLAT, b"CMLFLAT\0" + os.urandom(500), FLAT):
        assert endpoint.handle(REQUEST + provision_to(enclave, flat=flat).message).startswith(OK)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_directory_takes_256_models(enclave: ReferenceEnclave, tmp_path: Path) -> None:
    endpoint = ConfidentialEndpoint(enclave, store=os.fsencode(tmp_path))
    for number in range(255):
        (tmp_path / f"{number}.sealed").write_bytes(b"")
    assert endpoint.handle(REQUEST + provision_to(enclave).message).startswith(OK)
    answered = enclave.epoch.opened.copy()
    assert endpoint.handle(REQUEST + provision_to(enclave).message) == REFUSED
    assert len(list(tmp_path.iterdir())) == 256
    assert enclave.epoch.opened == answered, "a model was opened that nobody has room for"
    next(tmp_path.glob("7.sealed")).unlink()
    assert endpoint.handle(REQUEST + provision_to(enclave).message).startswith(OK)


def test_a_store_without_room_is_asked_before_a_model_is_opened(enclave: ReferenceEnclave) -> None:
    def check_room() -> None:
        if not stored:
            raise cml.ModelRefusedError("no room")

    stored: list[bytes] = []
    endpoint = ConfidentialEndpoint(enclave, store=lambda sealed, _: stored.append(sealed), check_room=check_room)
    request = provision_to(enclave)
    assert endpoint.handle(REQUEST + request.message) == REFUSED
    stored.append(b"room")
    assert open_answer(request, endpoint.handle(REQUEST + request.message)[4:]).status == 0, "it was not used up"


def test_a_model_that_cannot_be_opened_keeps_nobody_waiting(platform: SimulatedPlatform, tmp_path: Path) -> None:
    """Long messages to a key that the enclave does not have get neither into it nor the turn of another model."""
    enclave = Waiting(platform, MODEL)
    endpoint = ConfidentialEndpoint(enclave, store=tmp_path)
    good = provision_to(enclave).message
    other_key = good[:8] + bytes(8) + good[16:]
    wrong_size = good + b"\0"
    for garbage in (other_key, wrong_size, good[:50]):
        assert endpoint.handle(REQUEST + garbage) == UNREADABLE
    assert not enclave.entered.acquire(blocking=False)
    (thread,) = in_threads([lambda: endpoint.handle(REQUEST + good)])
    assert enclave.entered.acquire(timeout=20)
    assert endpoint.handle(REQUEST + other_key) == UNREADABLE, "not even while another has its turn"
    enclave.go_on.set()
    thread.join(20)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_function_gets_model_and_id(enclave: ReferenceEnclave) -> None:
    stored: list[tuple[bytes, str]] = []
    endpoint = ConfidentialEndpoint(enclave, store=lambda *arguments: stored.append(arguments))
    request = provision_to(enclave, "fraud-2")
    answer = open_answer(request, endpoint.handle(REQUEST + request.message)[4:])
    ((sealed, model_id),) = stored
    assert model_id == "fraud-2"
    assert parse_receipt(answer.receipt).content_digest == hashlib.sha256(sealed).hexdigest()


def test_a_model_that_could_not_be_kept_is_not_confirmed(
    enclave: ReferenceEnclave, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(sealed: bytes, model_id: str) -> None:
        raise OSError("no space")

    endpoint = ConfidentialEndpoint(enclave, store=fail)
    assert endpoint.handle(REQUEST + provision_to(enclave).message) == TRY_LATER
    assert "could not be answered" in caplog.text
    # And the next one has its turn.
    assert endpoint.handle(REQUEST + provision_to(enclave).message) == TRY_LATER


def test_a_model_that_the_store_does_not_take_is_refused_for_good(
    enclave: ReferenceEnclave, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(sealed: bytes, model_id: str) -> None:
        raise cml.ModelRefusedError(f"{model_id} belongs to another owner")

    endpoint = ConfidentialEndpoint(enclave, store=refuse)
    assert endpoint.handle(REQUEST + provision_to(enclave).message) == REFUSED
    assert "credit belongs to another owner" in caplog.text
    assert endpoint.handle(EVIDENCE).startswith(OK)


def test_evidence_alone_is_that_of_the_messages_until_it_is_forgotten(enclave: ReferenceEnclave) -> None:
    endpoint = ConfidentialEndpoint(enclave)
    evidence = endpoint.evidence()
    assert endpoint.evidence() == evidence
    assert endpoint.handle(EVIDENCE)[8:] == evidence
    assert endpoint.evidence(b"nonce") != evidence
    endpoint.forget_evidence()
    assert endpoint.evidence() != evidence


def test_a_model_that_could_not_be_sealed_is_not_kept(enclave: ReferenceEnclave, tmp_path: Path) -> None:
    endpoint = ConfidentialEndpoint(enclave, store=tmp_path)
    request = provision_to(enclave, flat=b"no flat model")
    answer = open_answer(request, endpoint.handle(REQUEST + request.message)[4:])
    assert answer.status == 301
    assert list(tmp_path.iterdir()) == []
