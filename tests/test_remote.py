"""Whole sessions of a remote model over a wire that is watched, cut, changed and replayed; and keys that change."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from reference_enclave import MRENCLAVE, Opened, ReferenceEnclave, ReferenceModel, StatusError
from remote_host import POLICY, Host, exit_code_of_child

import confidential_ml as cml
from confidential_ml import statuses
from confidential_ml.attestation import (
    ANY,
    INTEL_ROOT,
    AttestationError,
    AttestationPolicy,
    Collateral,
    Reason,
    attest,
    parse_claims,
    parse_evidence,
    verify,
)
from confidential_ml.protocol import Kind, Operation
from confidential_ml.receipt import verify_receipt
from confidential_ml.remote import RemoteModel
from confidential_ml.simulated_platform import SimulatedPlatform
from confidential_ml.xgboost_format import to_flat_model

MODEL = ReferenceModel(features=3, groups=2, values=2, owner=bytes(range(32)), version=9)
MODEL_FILE = Path(__file__).parent / "fixtures" / "xgboost" / "xgb-3.4.1.reg.ubj"
ROWS = np.array([[1, 2, np.nan], [-4, np.inf, 0.25], [1e-40, 7, -0.0]], np.float32)
OK, UNREADABLE, REFUSED, TRY_LATER = (b"\1\0" + bytes([result, 0]) for result in range(4))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def host(platform: SimulatedPlatform) -> Host:
    return Host(platform, ReferenceEnclave(platform, MODEL))


def serving(platform: SimulatedPlatform, *models: ReferenceModel, **options: Any) -> Host:
    return Host(platform, ReferenceEnclave(platform, *models), **options)


def policy_of(model: ReferenceModel) -> AttestationPolicy:
    return AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=model.digest.hex())


# ---- predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "values"), [(1, 1), (3, 3), (3, 1)])
@pytest.mark.parametrize("output_margin", [False, True])
@pytest.mark.parametrize("strict_shape", [False, True])
def test_values_and_shapes_are_those_of_a_local_prediction(
    platform: SimulatedPlatform, groups: int, values: int, output_margin: bool, strict_shape: bool
) -> None:
    model = ReferenceModel(features=3, groups=groups, values=values)
    found = serving(platform, model).client().predict(ROWS, output_margin=output_margin, strict_shape=strict_shape)
    expected = model.predict(ROWS, None, output_margin, 0, 0)
    columns = groups if output_margin else values
    assert found.dtype == np.float32
    assert found.shape == ((3, columns) if strict_shape or columns > 1 else (3,))
    np.testing.assert_array_equal(found.reshape(3, columns), expected)
    found[0] = 0  # the caller's own, to be written to


@pytest.mark.parametrize("n_rows", [0, 1])
def test_no_rows_and_one_row(host: Host, n_rows: int) -> None:
    found = host.client().predict(np.zeros((n_rows, 3)), strict_shape=True)
    assert found.shape == ((0, 0) if n_rows == 0 else (1, 2))


def test_rows_are_converted_as_for_a_local_prediction(host: Host) -> None:
    client = host.client()
    expected = MODEL.predict(np.array([[1, 2, np.nan], [3, 4, 5]], np.float32), None, False, 0, 0)
    for rows in ([[1, 2, None], [3, 4, 5]], np.array([[1, 2, np.nan], [3, 4, 5]]).T.copy().T):
        np.testing.assert_array_equal(client.predict(rows), expected)
    np.testing.assert_array_equal(client.predict([[1, 2, -9], [3, 4, 5]], missing=-9), expected)


@pytest.mark.parametrize("margins", [[[1, 2], [3, 4], [5, 6]], [1, 2, 3, 4, 5, 6]], ids=["matrix", "flat"])
def test_base_margins(host: Host, margins: list[Any]) -> None:
    expected = MODEL.predict(ROWS, np.array(margins, np.float32).reshape(3, 2), False, 0, 0)
    for size in (1, 1 << 20):
        client = host.client(request_size=size)
        np.testing.assert_array_equal(client.predict(ROWS, base_margin=margins), expected)


@pytest.mark.parametrize("rounds", [(0, 0), (0, 4), (2, 7), (3, 3), (9, 10), (3, 0)])
def test_rounds(host: Host, rounds: tuple[int, int]) -> None:
    found = host.client().predict(ROWS, iteration_range=rounds)
    np.testing.assert_array_equal(found, MODEL.predict(ROWS, None, False, *rounds))


def test_rounds_of_a_linear_model(platform: SimulatedPlatform) -> None:
    linear = ReferenceModel(features=3, is_linear=True)
    client = serving(platform, linear).client()
    expected = linear.predict(ROWS, None, False, 0, 0).reshape(-1)
    for rounds in ((0, 0), (0, 3), (0, 99)):
        np.testing.assert_array_equal(client.predict(ROWS, iteration_range=rounds), expected)
    with pytest.raises(cml.InvalidInputError, match="iteration_range"):
        client.predict(ROWS, iteration_range=(1, 0))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"X": ROWS[:, :2]}, "has 2 columns, the model has 3 features"),
        ({"X": ROWS[0]}, "1 dimension"),
        ({"X": [["a", "b", "c"]]}, "dtype"),
        ({"base_margin": [1, 2]}, "base_margin has shape"),
        ({"output_margin": "yes"}, "output_margin must be True or False"),
        ({"strict_shape": 2}, "strict_shape must be True or False"),
        ({"receipt": None}, "receipt must be True or False"),
        ({"iteration_range": 3}, "pair of integers"),
        ({"iteration_range": (0, 1 << 32)}, "must be from 0 to"),
        ({"missing": "x"}, "missing must be"),
    ],
)
def test_wrong_arguments_are_refused_before_rows_are_sent(host: Host, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(cml.InvalidInputError, match=problem):
        host.client().predict(**{"X": ROWS, **arguments})
    assert host.sent(Operation.REQUEST) == []


def test_a_round_too_many_is_refused_by_the_enclave_with_the_same_error(host: Host) -> None:
    with pytest.raises(cml.InvalidInputError, match="iteration_range is outside the model's boosting rounds"):
        host.client().predict(ROWS, iteration_range=(0, 11))


def test_large_calls_are_cut_into_requests_of_bounded_size(platform: SimulatedPlatform) -> None:
    rows = np.random.default_rng(1).normal(size=(1000, 3)).astype(np.float32)
    host = serving(platform, MODEL)
    client = host.client(request_size=1200)
    found, receipts = client.predict(rows, receipt=True)
    np.testing.assert_array_equal(found, MODEL.predict(rows, None, False, 0, 0))
    sent = host.sent(Operation.REQUEST)
    assert len(sent) == len(receipts) == 10
    assert max(map(len, sent)) <= 4 + 120 + 1280  # the bucket of 40 + 1200
    assert [one.rows for one in receipts] == [slice(start, start + 100) for start in range(0, 1000, 100)]
    assert [one.receipt.counter for one in receipts] == list(range(1, 11))


@pytest.mark.parametrize(
    ("model", "margins"),
    [(ReferenceModel(features=1, groups=64, values=64), False), (ReferenceModel(features=4, groups=4, values=1), True)],
    ids=["wide answers", "base margins"],
)
def test_answers_and_base_margins_count_when_calls_are_cut(
    platform: SimulatedPlatform, model: ReferenceModel, margins: bool
) -> None:
    host = serving(platform, model)
    rows = np.ones((100, model.features), np.float32)
    base = np.ones((100, model.groups), np.float32) if margins else None
    found = host.client(request_size=1024).predict(rows, base_margin=base, strict_shape=True)
    np.testing.assert_array_equal(found, model.predict(rows, base, False, 0, 0))
    requests = [(message, reply) for message, reply in host.wire if message[2:4] == b"\2\0"]
    assert len(requests) == (25 if not margins else 4)  # 1024 // (4 * 64) and 1024 // (4 * 8) rows each
    assert max(len(part) for pair in requests for part in pair) <= 4 + 104 + 1280


def test_a_row_that_is_larger_than_a_request_should_be_goes_alone(host: Host) -> None:
    np.testing.assert_array_equal(host.client(request_size=1).predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert len(host.sent(Operation.REQUEST)) == 3


def test_by_default_requests_have_about_4_mib(platform: SimulatedPlatform) -> None:
    host = serving(platform, ReferenceModel(features=1024))
    host.client().predict(np.zeros((1500, 1024), np.float32))
    sizes = [len(message) for message in host.sent(Operation.REQUEST)]
    assert len(sizes) == 2
    assert 4 << 20 < max(sizes) < 5 << 20


# ---- whom one talks to ----------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_it_is_needed(host: Host) -> None:
    client = host.client()
    assert repr(client) == "<confidential_ml.RemoteModel, not attested yet>"
    assert (host.wire, client.attestation_count) == ([], 0)
    client.predict(ROWS)
    client.predict(ROWS)
    assert (len(host.wire), client.attestation_count) == (3, 1)
    assert MRENCLAVE.hex()[:12] in repr(client)


def test_every_attestation_has_a_nonce_of_its_own(host: Host) -> None:
    client = host.client()
    for _ in range(3):
        client.attest()
    host.client().attest()
    nonces = [message[4:] for message in host.sent(Operation.EVIDENCE)]
    assert {len(nonce) for nonce in nonces} == {32}
    assert len(set(nonces)) == 4
    assert client.attestation_count == 3


def test_what_is_known_of_the_enclave(host: Host) -> None:
    client = host.client()
    result = client.attestation
    assert result.mrenclave == MRENCLAVE.hex()
    assert [one.model_digest for one in result.models] == [MODEL.digest.hex()]
    assert parse_claims(parse_evidence(client.evidence).claims) == result.claims
    assert client.collateral == host.collateral()
    assert client.attestation is result
    assert client.attest() is not result
    assert client.attestation_count == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mrenclave": "00" * 32}, Reason.MRENCLAVE),
        ({"allow_debug": False}, Reason.DEBUG_ENCLAVE),
        ({"model_digest": "00" * 32}, Reason.MODEL),
        ({"model_owner": "02" * 32}, Reason.MODEL_OWNER),
        ({"model_owner": bytes(range(32)).hex(), "min_model_version": 10}, Reason.MODEL_VERSION),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else "",
)
def test_an_enclave_that_the_policy_refuses_is_sent_nothing(
    host: Host, changes: dict[str, Any], reason: Reason
) -> None:
    wanted: dict[str, Any] = {"mrenclave": MRENCLAVE.hex(), "allow_debug": True, "model_digest": ANY}
    client = host.client(AttestationPolicy(**(wanted | changes)))
    for _ in range(2):
        with pytest.raises(AttestationError) as refusal:
            client.predict(ROWS)
        assert refusal.value.reason is reason
    assert host.sent(Operation.REQUEST) == []
    assert client.attestation_count == 0


def test_a_simulation_is_refused_unless_its_root_is_given(host: Host) -> None:
    client = RemoteModel(host.transport, POLICY, clock=host.clock)
    with pytest.raises(AttestationError) as refusal:
        client.predict(ROWS)
    assert refusal.value.reason in (Reason.ROOT_UNTRUSTED, Reason.CHAIN_INVALID)
    assert host.platform.root != INTEL_ROOT
    assert host.sent(Operation.REQUEST) == []


def test_collateral_may_be_the_clients_own(platform: SimulatedPlatform) -> None:
    host = serving(platform, MODEL, collateral=None)
    client = host.client()
    with pytest.raises(cml.RemoteError, match="sends no collateral along"):
        client.predict(ROWS)
    client = host.client(collateral=host.collateral())
    assert client.predict(ROWS).shape == (3, 2)
    assert client.collateral == host.collateral()


@pytest.mark.parametrize(
    "options",
    [
        {"transport": None},
        {"policy": None},
        {"root": b"root"},
        {"collateral": "{}"},
        {"model_digest": "ab"},
        {"request_size": 0},
        {"request_size": 1.5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_cannot_be(host: Host, options: dict[str, Any]) -> None:
    right: dict[str, Any] = {"transport": host.transport, "policy": POLICY}
    RemoteModel(**right)
    with pytest.raises(cml.InvalidInputError, match=next(iter(options))):
        RemoteModel(**(right | options))


def test_a_clock_without_a_time_zone_is_refused(host: Host) -> None:
    client = RemoteModel(host.transport, POLICY, root=host.platform.root, clock=datetime.datetime.now)
    with pytest.raises(cml.InvalidInputError, match="time zone"):
        client.predict(ROWS)
    assert host.sent(Operation.REQUEST) == []


def test_a_clock_that_says_nothing_is_not_the_systems(host: Host) -> None:
    nothing: Any = lambda: None  # noqa: E731
    client = RemoteModel(host.transport, POLICY, root=host.platform.root, clock=nothing)
    with pytest.raises(cml.InvalidInputError, match="it returned None"):
        client.predict(ROWS)
    assert host.sent(Operation.REQUEST) == []


# ---- which model ----------------------------------------------------------------------------------------------------


def test_of_several_models_one_is_named(platform: SimulatedPlatform) -> None:
    other = ReferenceModel("other", features=5)
    host = serving(platform, MODEL, other)
    with pytest.raises(cml.InvalidInputError, match="2 models that the policy accepts; say which"):
        host.client().predict(ROWS)
    assert host.client(model_digest=MODEL.digest.hex().upper()).predict(ROWS).shape == (3, 2)
    assert host.client(model_digest=other.digest.hex()).predict(np.zeros((3, 5))).shape == (3,)
    with pytest.raises(cml.EnclaveError, match="has not loaded the model 0000"):
        host.client(model_digest="00" * 32).predict(ROWS)
    assert host.client(policy_of(MODEL)).predict(ROWS).shape == (3, 2)


def test_an_enclave_without_models(platform: SimulatedPlatform) -> None:
    with pytest.raises(cml.EnclaveError, match="has not loaded any model"):
        serving(platform).client().predict(ROWS)


@pytest.mark.parametrize("named", [False, True])
def test_a_model_that_is_loaded_later_is_found(platform: SimulatedPlatform, named: bool) -> None:
    host = serving(platform, *([dataclasses.replace(MODEL, features=4)] if named else []))
    client = host.client(model_digest=MODEL.digest.hex() if named else None)
    for attestations in (1, 2):
        with pytest.raises(cml.EnclaveError, match="has not loaded"):
            client.predict(ROWS)
        assert client.attestation_count == attestations
    host.enclave.models.append(MODEL)
    assert client.predict(ROWS).shape == (3, 2)
    assert client.predict(ROWS).shape == (3, 2)
    assert client.attestation_count == 3


def test_a_model_that_was_unloaded_since(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    host.enclave.models.clear()
    with pytest.raises(cml.EnclaveError, match="the model is not loaded"):
        client.predict(ROWS)


def test_a_model_that_changed_owner_with_the_key_is_sent_nothing(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    host.restart()
    host.enclave.models = [dataclasses.replace(MODEL, owner=bytes(32))]
    with pytest.raises(cml.EnclaveError, match="now has it from another owner"):
        client.predict(ROWS)
    assert len(host.sent(Operation.REQUEST)) == 2
    assert client.predict(ROWS).shape == (3, 2)


# ---- keys that change -----------------------------------------------------------------------------------------------


def test_within_the_grace_the_former_key_serves(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    host.clock.advance(3600)
    client.predict(ROWS)
    host.clock.advance(299)
    client.predict(ROWS)
    assert host.enclave.epoch.number == 2
    assert client.attestation_count == 1


def test_after_the_grace_the_new_key_is_attested_and_said(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    client = host.client()
    client.predict(ROWS)
    host.clock.advance(3600)
    client.predict(ROWS)
    host.clock.advance(300)
    caplog.clear()
    with caplog.at_level(logging.INFO, "confidential_ml"):
        np.testing.assert_array_equal(client.predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert [record.getMessage() for record in caplog.records] == [
        f"attested the remote enclave (it could not read a request): MRENCLAVE {MRENCLAVE.hex()}, epoch 2"
    ]
    assert client.attestation_count == 2
    client.predict(ROWS)
    assert client.attestation_count == 2


def test_an_enclave_that_was_started_again_is_attested_again(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    former = client.attestation.claims
    host.restart()
    np.testing.assert_array_equal(client.predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert client.attestation.claims.instance != former.instance
    assert client.attestation_count == 2


def test_a_full_epoch_ends_and_nobody_notices(platform: SimulatedPlatform) -> None:
    host = Host(platform, ReferenceEnclave(platform, MODEL, max_epoch_requests=3))
    client = host.client()
    for _ in range(10):
        np.testing.assert_array_equal(client.predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert host.enclave.epoch.number == 4
    assert client.attestation_count == 4
    assert len(host.sent(Operation.REQUEST)) == 13


def test_a_key_may_change_in_the_middle_of_a_call(platform: SimulatedPlatform) -> None:
    host = Host(platform, ReferenceEnclave(platform, MODEL, max_epoch_requests=2))
    client = host.client(request_size=12)
    found, receipts = client.predict(ROWS, receipt=True)
    np.testing.assert_array_equal(found, MODEL.predict(ROWS, None, False, 0, 0))
    evidences = [one.evidence for one in receipts]
    assert evidences[0] == evidences[1] != evidences[2]
    for one in receipts:
        checked_receipt(host, one, found)


def test_a_changed_model_policy_stops_a_session_that_changes_keys(host: Host) -> None:
    client = host.client(policy_of(MODEL))
    client.predict(ROWS)
    host.restart()
    host.enclave.models = [ReferenceModel("other", features=9)]
    with pytest.raises(AttestationError) as refusal:
        client.predict(ROWS)
    assert refusal.value.reason is Reason.MODEL
    assert len(host.sent(Operation.REQUEST)) == 2


def test_evidence_that_expires_is_asked_for_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    client = host.client()
    client.predict(ROWS)
    host.clock.now = client.attestation.earliest_expiry - datetime.timedelta(seconds=1)
    client.predict(ROWS)
    assert client.attestation_count == 1
    host.clock.advance(2)
    with pytest.raises(AttestationError) as refusal:  # the host's collateral has expired too
        client.predict(ROWS)
    assert refusal.value.reason is Reason.CRL_EXPIRED
    host.forget_collateral()
    with caplog.at_level(logging.INFO, "confidential_ml"):
        client.predict(ROWS)
        assert client.attestation_count == 2
        assert "the last attestation was refused" in caplog.text
        host.clock.now = client.attestation.earliest_expiry + datetime.timedelta(seconds=1)
        host.forget_collateral()
        client.predict(ROWS)
    assert client.attestation_count == 3
    assert "the former attestation has expired" in caplog.text


def aged(seconds: float) -> AttestationPolicy:
    return AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=ANY, max_age=seconds)


def test_collateral_expires_before_a_greater_age(host: Host) -> None:
    client = host.client(aged(30 * 86400))
    client.predict(ROWS)
    host.clock.now = client.attestation.earliest_expiry + datetime.timedelta(seconds=1)
    with pytest.raises(AttestationError) as refusal:
        client.predict(ROWS)
    assert refusal.value.reason is Reason.CRL_EXPIRED


def passing(host: Host, seconds: float) -> Callable[[bytes], bytes]:
    """A wire on which every message takes that long."""

    def change(message: bytes) -> bytes:
        host.clock.advance(seconds)
        return message

    return change


def test_what_expires_in_the_middle_of_a_call_is_attested_again(host: Host) -> None:
    client = host.client(aged(60), request_size=12)  # a row each
    client.attest()
    host.change_message = passing(host, 25)
    values, receipts = client.predict(ROWS, receipt=True)
    np.testing.assert_array_equal(values, MODEL.predict(ROWS, None, False, 0, 0))
    # Sent after 0, 25 and 50 seconds; a fourth row would have been after 75.
    assert (len(receipts), client.attestation_count) == (3, 1)
    client.predict(np.repeat(ROWS, 2, axis=0))
    assert client.attestation_count > 2


def test_what_expires_while_rows_are_converted_is_attested_again(host: Host) -> None:
    class Slow(list[Any]):
        def __array__(self, *_: Any, **__: Any) -> Any:
            host.clock.advance(61)
            return ROWS.copy()

    client = host.client(aged(60))
    client.predict(ROWS)
    assert client.predict(Slow()).shape == (3, 2)
    assert client.attestation_count == 2


def test_a_model_that_changes_owner_in_the_middle_of_a_call_gets_no_more_rows(host: Host) -> None:
    client = host.client(aged(60), request_size=12)
    client.attest()

    def change(message: bytes) -> bytes:
        host.clock.advance(61)
        host.enclave.models[:] = [dataclasses.replace(MODEL, owner=b"o" * 32)]
        return message

    host.change_message = change
    with pytest.raises(cml.EnclaveError, match="no longer has the model, or now has it from another owner"):
        client.predict(ROWS)
    assert len(host.sent(Operation.REQUEST)) == 1


def test_a_new_attestation_that_has_expired_by_then_is_not_used(host: Host) -> None:
    """Another thread may have found the new key long ago."""
    client = host.client(aged(60))
    client.predict(ROWS)

    def change(message: bytes) -> bytes:
        host.change_message = lambda other: other
        host.clock.advance(59)
        host.enclave.new_epoch()
        host.enclave.end_former_epoch()
        client.attest()
        host.clock.advance(61)
        return message

    host.change_message = change
    np.testing.assert_array_equal(client.predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert client.attestation_count == 3


def test_a_refused_attestation_ends_the_one_before(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    earlier = host.wire[0][1]
    host.change_reply = lambda reply, _: earlier
    with pytest.raises(AttestationError) as refusal:
        client.attest()
    assert refusal.value.reason is Reason.NONCE
    assert "not attested yet" in repr(client)
    host.change_reply = lambda reply, _: reply
    client.predict(ROWS)
    assert len(host.sent(Operation.EVIDENCE)) == 3


def test_max_age_of_the_policy(host: Host) -> None:
    client = host.client(aged(60))
    client.predict(ROWS)
    host.clock.advance(59)
    client.predict(ROWS)
    assert client.attestation_count == 1
    host.clock.advance(1)
    client.predict(ROWS)
    assert client.attestation_count == 2


def test_a_max_age_of_zero_attests_every_time(host: Host) -> None:
    client = host.client(aged(0))
    client.predict(ROWS)
    before = client.attestation_count
    client.predict(ROWS)
    assert client.attestation_count > before


def test_a_clock_that_was_set_back_attests_again(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    host.clock.advance(-1)
    client.predict(ROWS)
    assert client.attestation_count == 2


def test_many_threads_while_keys_change(platform: SimulatedPlatform) -> None:
    host = Host(platform, ReferenceEnclave(platform, MODEL, max_epoch_requests=7))
    client = host.client()
    expected = MODEL.predict(ROWS, None, False, 0, 0)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(12):
            for _ in range(30):
                # With so short epochs the key may change again before the request is there, which is told.
                try:
                    found = client.predict(ROWS)
                    break
                except cml.RequestUnreadableError:
                    continue
                except Exception as error:
                    wrong.append(error)
                    return
            if not np.array_equal(found, expected):
                wrong.append(found)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []
    assert host.enclave.epoch.number >= 72 // 7


def test_threads_that_come_first_attest_once(host: Host) -> None:
    client = host.client()
    coming = threading.Barrier(6)
    results: list[object] = []

    def wait_for_the_others(message: bytes) -> bytes:
        if message[2:4] == b"\1\0":
            coming.wait(20)  # they are on their way
            time.sleep(0.05)
        return message

    def ask(is_first: bool) -> None:
        if not is_first:
            while not client._lock.get().locked():
                time.sleep(0.001)
            coming.wait(20)
        results.append(client.predict(ROWS))

    host.change_message = wait_for_the_others
    threads = [threading.Thread(target=ask, args=(number == 0,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert client.attestation_count == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_attests_though_a_thread_of_its_parent_does(host: Host) -> None:
    expected = host.client().predict(ROWS)
    client = host.client()
    asking, go_on = threading.Event(), threading.Event()

    def wait(message: bytes) -> bytes:
        asking.set()
        assert go_on.wait(20)
        return message

    host.change_message = wait
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(client.predict(ROWS)), daemon=True)
    thread.start()
    assert asking.wait(20)

    def predict() -> None:
        host.change_message = lambda message: message
        assert client.predict(ROWS).tobytes() == expected.tobytes()
        assert client.attestation_count == 1

    assert exit_code_of_child(predict) == 0
    go_on.set()
    thread.join(20)
    assert [one.tobytes() for one in results] == [expected.tobytes()]


def test_threads_that_meet_a_new_key_attest_once(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    host.restart()
    barrier = threading.Barrier(6)
    results: list[object] = []

    def wait_for_all(message: bytes) -> bytes:
        if message[2:4] == b"\2\0" and message[12:20] == old_key_id:
            barrier.wait(20)
        return message

    old_key_id = client.attestation.claims.key_id
    host.change_message = wait_for_all
    threads = [threading.Thread(target=lambda: results.append(client.predict(ROWS)), daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert client.attestation_count == 2


def test_a_newer_attestation_of_the_same_key_is_not_taken_for_a_new_key(host: Host) -> None:
    """Another thread attests again (here because of its age), then the key changes, then a request comes back."""
    client = host.client()
    client.attest()
    state = {"first": True}

    def change(message: bytes) -> bytes:
        if message[2:4] == b"\2\0" and state.pop("first", False):
            client.attest()
            host.restart()
        return message

    host.change_message = change
    np.testing.assert_array_equal(client.predict(ROWS), MODEL.predict(ROWS, None, False, 0, 0))
    assert client.attestation_count == 3


# ---- somebody in the middle -----------------------------------------------------------------------------------------


def replies_to(operation: Operation, change: Callable[[bytes], bytes]) -> Callable[[bytes, bytes], bytes]:
    prefix = b"\1\0" + operation.to_bytes(2, "little")
    return lambda reply, message: change(reply) if message.startswith(prefix) else reply


def requests_only(change: Callable[[bytes], bytes], message: bytes) -> bytes:
    return change(message) if message[2:4] == b"\2\0" else message


ANSWER_SIZE = 4 + 48 + 256 + 16


def cut_to(size: int) -> Callable[[bytes], bytes]:
    return lambda reply: reply[:size]


def with_byte_changed(position: int, by: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ by]) + data[position + 1 :]


def test_evidence_of_another_genuine_enclave_is_noticed_by_its_nonce(host: Host) -> None:
    other = ReferenceEnclave(host.platform, MODEL)

    def exchange(reply: bytes) -> bytes:
        size = int.from_bytes(reply[4:8], "little")
        evidence = other.evidence(b"n" * 32)
        return OK + len(evidence).to_bytes(4, "little") + evidence + reply[8 + size :]

    host.change_reply = replies_to(Operation.EVIDENCE, exchange)
    with pytest.raises(AttestationError) as refusal:
        host.client().predict(ROWS)
    assert refusal.value.reason is Reason.NONCE
    assert host.sent(Operation.REQUEST) == []


def test_evidence_that_is_replayed_is_noticed(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    (_, old), *_ = host.wire
    host.change_reply = replies_to(Operation.EVIDENCE, lambda reply: old)
    with pytest.raises(AttestationError) as refusal:
        client.attest()
    assert refusal.value.reason is Reason.NONCE


@pytest.mark.parametrize(
    ("field", "offset"), [("key", 80), ("receipt key", 112), ("instance", 32), ("model", 152 + 32), ("columns", -12)]
)
def test_claims_that_are_changed_are_noticed(host: Host, field: str, offset: int) -> None:
    def change(reply: bytes) -> bytes:
        size = int.from_bytes(reply[4:8], "little")
        claims = parse_evidence(reply[8 : 8 + size]).claims
        position = 8 + size - len(claims) + offset if offset >= 0 else 8 + size + offset
        return with_byte_changed(position, 1)(reply)

    host.change_reply = replies_to(Operation.EVIDENCE, change)
    with pytest.raises(AttestationError) as refusal:
        host.client().predict(ROWS)
    assert refusal.value.reason in (Reason.CLAIMS_MISMATCH, Reason.CLAIMS_FORMAT), field
    assert host.sent(Operation.REQUEST) == []


def test_an_enclave_that_offers_no_known_suite_is_sent_nothing(platform: SimulatedPlatform) -> None:
    host = serving(platform, MODEL)
    epoch = host.enclave.epoch
    epoch.part = epoch.part[:14] + b"\2\0" + epoch.part[16:]
    with pytest.raises(cml.RemoteError, match="no cipher suite"):
        host.client().predict(ROWS)
    assert host.sent(Operation.REQUEST) == []


def test_every_byte_of_an_answer_that_is_changed_is_noticed(host: Host) -> None:
    client = host.client()
    client.attest()
    for position in range(ANSWER_SIZE):
        host.change_reply = replies_to(Operation.REQUEST, with_byte_changed(position, 1 << position % 8))
        with pytest.raises(cml.RemoteError):
            client.predict(ROWS)
        assert len(host.wire[-1][1]) == ANSWER_SIZE
    host.change_reply = lambda reply, _: reply
    assert client.predict(ROWS).shape == (3, 2)


def test_an_answer_that_is_cut_or_lengthened_anywhere_is_noticed(host: Host) -> None:
    client = host.client()
    client.attest()
    for size in range(ANSWER_SIZE):
        host.change_reply = replies_to(Operation.REQUEST, cut_to(size))
        with pytest.raises(cml.RemoteError):
            client.predict(ROWS)
        assert len(host.wire[-1][1]) == size
    host.change_reply = replies_to(Operation.REQUEST, lambda reply: reply + b"\0")
    with pytest.raises(cml.RemoteError, match="was cut short or exchanged"):
        client.predict(ROWS)


def test_evidence_that_is_cut_is_noticed(host: Host) -> None:
    client = host.client()
    client.attest()
    whole = len(host.wire[0][1])
    for size in [*range(64), *range(64, whole, 149), whole - 1]:
        host.change_reply = replies_to(Operation.EVIDENCE, cut_to(size))
        with pytest.raises((cml.RemoteError, AttestationError)):
            client.attest()
    assert client.attestation_count == 1


def test_bytes_of_evidence_that_are_changed_are_noticed_or_change_nothing(host: Host) -> None:
    """A quote's text can be written in several ways (docs/attestation.md 1); who is attested must not change by it."""
    client = host.client(collateral=host.collateral())
    genuine = client.attest()
    size = int.from_bytes(host.wire[0][1][4:8], "little")
    positions = [
        *range(8),
        *range(8, 8 + 1020, 5),
        *range(8 + 1020, 8 + size - 260, 37),
        *range(8 + size - 260, 8 + size),
    ]
    accepted = 0
    for position in positions:
        host.change_reply = replies_to(Operation.EVIDENCE, with_byte_changed(position, 1 << position % 8))
        try:
            result = client.attest()
        except (AttestationError, cml.RemoteError):
            continue
        accepted += 1
        assert result.claims.epoch_part == genuine.claims.epoch_part
        assert (result.mrenclave, result.models, result.ppid) == (genuine.mrenclave, genuine.models, genuine.ppid)
    assert accepted < len(positions) // 20


def test_an_answer_to_an_earlier_request_is_noticed(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    earlier = host.wire[-1][1]
    host.change_reply = replies_to(Operation.REQUEST, lambda reply: earlier)
    with pytest.raises(cml.RemoteError, match="not what the enclave sent for this request"):
        client.predict(ROWS)


def test_a_request_of_another_client_in_place_of_ones_own_is_noticed(host: Host) -> None:
    foreign: list[bytes] = []

    def keep(message: bytes) -> bytes:
        if message[2:4] == b"\1\0":
            return host.transport(message)
        foreign.append(message)
        return TRY_LATER

    other = RemoteModel(keep, POLICY, root=host.platform.root, clock=host.clock)
    with pytest.raises(cml.RemoteBusyError):
        other.predict(ROWS + 1)
    assert len(foreign) == 1
    host.change_message = lambda message: foreign.pop() if message[2:4] == b"\2\0" else message
    with pytest.raises(cml.RemoteError, match="not what the enclave sent for this request"):
        host.client().predict(ROWS)
    assert foreign == []
    assert host.wire[-1][1].startswith(OK)  # the enclave did answer


def test_a_request_that_is_changed_on_the_way_is_told(host: Host) -> None:
    client = host.client()
    client.attest()
    for position in (4, 8, 14, 20, 52, 60, 92, 200, 363):
        sent = len(host.sent(Operation.REQUEST))
        change = with_byte_changed(position, 1)
        host.change_message = functools.partial(requests_only, change)
        with pytest.raises(cml.RequestUnreadableError, match="has no new key"):
            client.predict(ROWS)
        assert len(host.sent(Operation.REQUEST)) == sent + 1


def test_a_request_that_is_sent_twice_is_answered_once(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    message, reply = host.wire[-1]
    assert reply.startswith(OK)
    assert host.endpoint.handle(message) == UNREADABLE
    host.restart()
    assert host.endpoint.handle(message) == UNREADABLE


def test_who_says_unreadable_for_ever_gets_one_more_attestation_and_no_more_rows(host: Host) -> None:
    client = host.client()
    client.attest()
    host.change_reply = replies_to(Operation.REQUEST, lambda reply: UNREADABLE)
    with pytest.raises(cml.RequestUnreadableError, match="has no new key"):
        client.predict(ROWS)
    assert len(host.sent(Operation.REQUEST)) == 1
    assert client.attestation_count == 2


def test_unreadable_after_a_new_key_too(host: Host) -> None:
    client = host.client()
    client.attest()
    host.restart()
    host.change_reply = replies_to(Operation.REQUEST, lambda reply: UNREADABLE)
    with pytest.raises(cml.RequestUnreadableError, match="encrypted anew to its new key"):
        client.predict(ROWS)
    assert len(host.sent(Operation.REQUEST)) == 2


def test_unreadable_and_no_new_evidence(host: Host) -> None:
    client = host.client()
    client.attest()
    host.change_reply = lambda reply, message: UNREADABLE if message[2:4] == b"\2\0" else REFUSED
    with pytest.raises(cml.RemoteError, match="refused"):
        client.predict(ROWS)


@pytest.mark.parametrize(
    ("reply", "error", "problem"),
    [
        (REFUSED, cml.RemoteError, "refused the message"),
        (TRY_LATER, cml.RemoteBusyError, "try again later"),
        (b"", cml.RemoteError, "not one of the protocol"),
        (b"\1\0\0", cml.RemoteError, "not one of the protocol"),
        (b"\2\0\0\0", cml.RemoteError, "not one of the protocol"),
        (b"\1\0\4\0", cml.RemoteError, "not one of the protocol"),
        (b"\1\0\0\1", cml.RemoteError, "not one of the protocol"),
        (b"<html>not found</html>", cml.RemoteError, "not one of the protocol"),
        (TRY_LATER + b"x", cml.RemoteError, "reports a failure and holds more"),
        (UNREADABLE + b"x", cml.RemoteError, "reports a failure and holds more"),
        ("text", cml.RemoteError, "returned str, not bytes"),
        (None, cml.RemoteError, "returned NoneType, not bytes"),
    ],
)
@pytest.mark.parametrize("operation", list(Operation))
def test_replies_that_are_none(
    host: Host, operation: Operation, reply: Any, error: type[Exception], problem: str
) -> None:
    host.change_reply = replies_to(operation, lambda _: reply)
    with pytest.raises(error, match=problem) as raised:
        host.client().predict(ROWS)
    assert type(raised.value) is error


def test_evidence_that_is_unreadable_is_no_answer(host: Host) -> None:
    host.change_reply = replies_to(Operation.EVIDENCE, lambda _: UNREADABLE)
    with pytest.raises(cml.RemoteError, match="refused"):
        host.client().predict(ROWS)


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\xff\xff\xff\xff", b"\x05\0\0\0abcd"])
def test_replies_with_malformed_evidence(host: Host, body: bytes) -> None:
    host.change_reply = replies_to(Operation.EVIDENCE, lambda _: OK + body)
    with pytest.raises(cml.RemoteError, match="the reply with the evidence is malformed"):
        host.client(collateral=host.collateral()).predict(ROWS)


def test_collateral_that_is_too_large_or_none(host: Host) -> None:
    for document in (b"x" * ((8 << 20) + 1), b"{}"):
        host.change_reply = replies_to(Operation.EVIDENCE, lambda _, sent=document: OK + bytes(4) + sent)  # type: ignore[misc]
        with pytest.raises(AttestationError) as refusal:
            host.client().predict(ROWS)
        assert refusal.value.reason is Reason.COLLATERAL_FORMAT


@pytest.mark.parametrize("error", [ConnectionResetError("peer"), TimeoutError(), ValueError("of a library")])
def test_a_transport_that_fails(host: Host, error: Exception) -> None:
    def fail(message: bytes) -> bytes:
        raise error

    client = RemoteModel(fail, POLICY, root=host.platform.root)
    with pytest.raises(cml.RemoteError, match=f"the transport failed: {type(error).__name__}") as raised:
        client.predict(ROWS)
    assert raised.value.__cause__ is error


def test_after_a_failure_the_session_goes_on(host: Host) -> None:
    client = host.client()
    host.change_reply = replies_to(Operation.REQUEST, lambda _: TRY_LATER)
    with pytest.raises(cml.RemoteBusyError):
        client.predict(ROWS)
    host.change_reply = lambda reply, _: reply
    assert client.predict(ROWS).shape == (3, 2)
    assert client.attestation_count == 1


# ---- failures inside the answer -------------------------------------------------------------------------------------


class Refusing(ReferenceEnclave):
    """Answers every request with a status, encrypted."""

    status = 0

    def _predict(self, opened: Opened) -> tuple[bytes, bytes, bytes]:
        raise StatusError(self.status)


def test_a_status_inside_the_answer_is_the_same_error_as_locally(platform: SimulatedPlatform) -> None:
    enclave = Refusing(platform, MODEL)
    client = Host(platform, enclave).client()
    for status in [*statuses.MEANINGS, 999]:
        enclave.status = status
        meaning = statuses.MEANINGS.get(status, statuses.UNKNOWN)
        with pytest.raises(meaning.exception) as raised:
            client.predict(ROWS)
        assert type(raised.value) is meaning.exception
        assert str(raised.value) == meaning.sentence


def test_success_and_failure_look_the_same_on_the_wire(platform: SimulatedPlatform) -> None:
    enclave = Refusing(platform, MODEL)
    enclave.status = 502
    failing, good = Host(platform, enclave), serving(platform, MODEL)
    good.client().predict(ROWS)
    with pytest.raises(cml.InvalidInputError):
        failing.client().predict(ROWS)
    assert [len(reply) for _, reply in failing.wire][1:] == [len(reply) for _, reply in good.wire][1:]
    assert [reply[:20] for _, reply in failing.wire][1:] != [reply[:20] for _, reply in good.wire][1:]  # key ids
    assert [reply[:12] for _, reply in failing.wire][1:] == [reply[:12] for _, reply in good.wire][1:]


class Lying(ReferenceEnclave):
    """Signs receipts, or sends contents, of something else than was asked for."""

    lie: dict[str, Any]

    def _predict(self, opened: Opened) -> tuple[bytes, bytes, bytes]:
        content, receipt, blind = super()._predict(opened)
        if "content" in self.lie:
            content += self.lie["content"]
        if "receipt" in self.lie:
            receipt, blind = self.lie["receipt"], bytes(32)
        return content, receipt, blind

    def _receipt(self, opened: Opened, policy: int, time: int, model: ReferenceModel, hashed: bytes) -> bytes:
        told = super()._receipt(
            opened,
            self.lie.get("policy", policy),
            self.lie.get("time", time),
            dataclasses.replace(model, **self.lie.get("model", {})),
            self.lie.get("hashed", hashed),
        )
        return told[:-1] + bytes([told[-1] ^ 1]) if self.lie.get("forged") else told


def lying(platform: SimulatedPlatform, lie: dict[str, Any], **options: Any) -> Host:
    enclave = Lying(platform, MODEL)
    enclave.lie = lie
    return Host(platform, enclave, **options)


@pytest.mark.parametrize(
    "lie",
    [
        {"time": 5},
        {"model": {"features": 4}},
        {"model": {"owner": b"o" * 32}},
        {"model": {"version": 8}},
        {"hashed": b"h" * 32},
        {"forged": True},
    ],
    ids=["time", "model", "owner", "version", "content", "signature"],
)
def test_a_receipt_of_something_else_is_refused(platform: SimulatedPlatform, lie: dict[str, Any]) -> None:
    host = lying(platform, lie)
    assert host.client().predict(ROWS).shape == (3, 2)
    with pytest.raises(cml.ReceiptError, match=r"not of what was asked for|other predictions|not signed by"):
        host.client().predict(ROWS, receipt=True)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_model_that_is_loaded_under_several_names_has_receipts(
    platform: SimulatedPlatform, order: tuple[int, ...]
) -> None:
    """Whichever the enclave answers with, it is the model; that the owner signed it stands in the claims."""
    names = [
        MODEL,
        dataclasses.replace(MODEL, owner=bytes(32), version=0),
        dataclasses.replace(MODEL, model_id="other", version=10),
    ]
    host = serving(platform, *[names[index] for index in order])
    policy = AttestationPolicy(
        mrenclave=MRENCLAVE.hex(), allow_debug=True, model_owner=MODEL.owner.hex(), min_model_version=10
    )
    values, (receipt,) = host.client(policy).predict(ROWS, receipt=True)
    assert values.tobytes() == host.client().predict(ROWS).tobytes()
    first = names[order[0]]
    assert receipt.receipt.model_digest == MODEL.digest.hex()
    assert receipt.receipt.model_version == first.version
    assert receipt.receipt.owner == (first.owner.hex() if any(first.owner) else None)


def test_a_model_that_was_unloaded_before_a_long_answer_is_named(platform: SimulatedPlatform) -> None:
    """An enclave that does not know the model cannot tell why the answer should be so long."""
    wide = ReferenceModel(features=1, groups=200, values=200)
    host = serving(platform, wide)
    client = host.client(AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=ANY))
    rows = np.ones((500, 1), np.float32)
    assert client.predict(rows).shape == (500, 200)
    host.enclave.models.clear()
    host.endpoint.forget_evidence()
    with pytest.raises(cml.EnclaveError, match="no longer has the model"):
        client.predict(rows)


def test_a_receipt_of_another_model_that_is_loaded_too_is_refused(platform: SimulatedPlatform) -> None:
    host = lying(platform, {"model": {"features": 4}})
    host.enclave.models.append(dataclasses.replace(MODEL, features=4))
    client = host.client(model_digest=MODEL.digest.hex())
    with pytest.raises(cml.ReceiptError, match="not of what was asked for"):
        client.predict(ROWS, receipt=True)


def test_a_receipt_that_was_asked_for_and_is_not_there(platform: SimulatedPlatform) -> None:
    with pytest.raises(cml.RemoteError, match="not of the size"):
        lying(platform, {"receipt": b""}).client().predict(ROWS, receipt=True)


def test_predictions_of_another_size(platform: SimulatedPlatform) -> None:
    with pytest.raises(cml.RemoteError, match="not of the size"):
        lying(platform, {"content": b"more"}).client().predict(ROWS)


# ---- receipts -------------------------------------------------------------------------------------------------------


def checked_receipt(host: Host, found: cml.PredictionReceipt, predictions: Any) -> None:
    """As an auditor does it, from bytes alone."""
    verified = verify(found.evidence, found.collateral, root=host.platform.root, now=host.clock.now)
    answer = np.ascontiguousarray(predictions[found.rows], dtype="<f4").tobytes()
    data = found.receipt.data
    receipt = verify_receipt(data, verified.claims, verified.mrenclave, answer=answer, blind=found.blind)
    assert receipt == found.receipt


def test_receipts_are_returned_when_asked_for(host: Host) -> None:
    client = host.client()
    found, receipts = client.predict(ROWS, receipt=True, output_margin=True)
    assert len(receipts) == 1
    (one,) = receipts
    checked_receipt(host, one, found)
    assert one.rows == slice(0, 3)
    assert one.receipt.kind is Kind.PREDICT
    assert one.receipt.model_digest == MODEL.digest.hex()
    assert one.receipt.owner == bytes(range(32)).hex()
    assert one.receipt.model_version == 9
    assert one.receipt.asked_at is not None
    assert abs(one.receipt.asked_at - host.clock.now) < datetime.timedelta(seconds=1)
    assert one.receipt.request_digest == hashlib.sha256(host.sent(Operation.REQUEST)[-1][4:]).hexdigest()
    wrong = found.copy()
    wrong[0, 0] += 1
    with pytest.raises(cml.ReceiptError, match="other predictions"):
        checked_receipt(host, one, wrong)


OWNED: dict[str, Any] = {"mrenclave": MRENCLAVE.hex(), "allow_debug": True, "model_owner": MODEL.owner.hex()}


def audited(host: Host, found: cml.PredictionReceipt, policy: AttestationPolicy) -> cml.Receipt:
    """As somebody does it who has a policy of their own."""
    result = attest(found.evidence, found.collateral, policy, root=host.platform.root, now=host.clock.now)
    return verify_receipt(found.receipt, result)


def test_a_receipt_is_verified_by_a_policy_enclave_and_model(platform: SimulatedPlatform) -> None:
    other = dataclasses.replace(MODEL, model_id="other", owner=bytes(32), features=4)
    host = serving(platform, MODEL, other)
    _, (one,) = host.client(model_digest=MODEL.digest.hex()).predict(ROWS, receipt=True)
    _, (others,) = host.client(model_digest=other.digest.hex()).predict(np.ones((1, 4)), receipt=True)
    wanted = policy_of(MODEL)
    owned = AttestationPolicy(**OWNED)
    for policy in (wanted, owned, POLICY):
        assert audited(host, one, policy) == one.receipt
    assert audited(host, others, POLICY) == others.receipt
    # Loaded beside the one that is wanted, signed by the enclave that is wanted, and another model all the same.
    for policy in (wanted, owned):
        with pytest.raises(cml.ReceiptError, match="of nobody, which the policy does not accept"):
            audited(host, others, policy)
    with pytest.raises(AttestationError) as refusal:
        audited(host, one, AttestationPolicy(mrenclave="00" * 32, allow_debug=True, model_digest=ANY))
    assert refusal.value.reason is Reason.MRENCLAVE


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_a_receipt_under_another_name_of_the_accepted_model_is_verified(
    platform: SimulatedPlatform, order: tuple[int, ...]
) -> None:
    """What the client accepts when it is answered, it can show later."""
    names = [dataclasses.replace(MODEL, version=2), dataclasses.replace(MODEL, version=3)]
    host = serving(platform, *[names[index] for index in order])
    policy = AttestationPolicy(
        mrenclave=MRENCLAVE.hex(), allow_debug=True, model_owner=MODEL.owner.hex(), min_model_version=3
    )
    _, (one,) = host.client(policy).predict(ROWS, receipt=True)
    assert audited(host, one, policy).model_version == names[order[0]].version
    # Of an enclave that has only the old one, the same receipt says that the old one answered.
    alone = serving(platform, names[0])
    _, (old,) = alone.client().predict(ROWS, receipt=True)
    with pytest.raises(AttestationError, match="in version 2, the policy wants at least 3"):
        audited(alone, old, policy)


def test_what_is_no_receipt_and_no_result(host: Host) -> None:
    values, (one,) = host.client().predict(ROWS, receipt=True)
    joined = one.blind + values.tobytes()
    moved: Any = memoryview(joined[:48]).cast("f")  # 12 numbers, 48 bytes
    longer: Any = memoryview(joined + bytes(104))[:128].cast("f")  # 32 of them
    claims = verify(one.evidence, one.collateral, root=host.platform.root, now=host.clock.now).claims
    for blind in (moved, longer):
        with pytest.raises(cml.InvalidInputError, match="blind must have 32 bytes"):
            verify_receipt(one.receipt, claims, MRENCLAVE.hex(), answer=joined[48:], blind=blind)
    result = attest(one.evidence, one.collateral, POLICY, root=host.platform.root, now=host.clock.now)
    wrong: Any = one
    with pytest.raises(cml.InvalidInputError, match="the PredictionReceipt has"):
        verify_receipt(wrong, result)
    verified: Any = verify(one.evidence, one.collateral, root=host.platform.root, now=host.clock.now)
    with pytest.raises(cml.InvalidInputError, match="what attest returned, or the claims"):
        verify_receipt(one.receipt, verified)
    with pytest.raises(cml.InvalidInputError, match="has its own"):
        verify_receipt(one.receipt, result, result.mrenclave)
    with pytest.raises(cml.InvalidInputError, match="mrenclave must be 32 bytes"):
        verify_receipt(one.receipt, result.claims)


def test_a_clock_before_1970_tells_no_time(host: Host) -> None:
    moments: list[datetime.datetime] = []
    client = RemoteModel(
        host.transport, POLICY, root=host.platform.root, clock=lambda: moments.pop(0) if moments else host.clock.now
    )
    client.attest()
    moments[:] = [host.clock.now, datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)]
    _, (one,) = client.predict(ROWS, receipt=True)
    assert (one.receipt.time, one.receipt.asked_at, moments) == (0, None, [])


def test_no_rows_have_a_receipt_too(host: Host) -> None:
    found, receipts = host.client().predict(ROWS[:0], receipt=True)
    assert (found.shape, len(receipts), receipts[0].rows) == ((0, 0), 1, slice(0, 0))


def test_a_request_without_a_receipt_does_not_tell_the_time(host: Host) -> None:
    """The clock of a client is nobody's business; and what is not needed is not sent."""
    opened: list[bytes] = []
    inner = host.enclave._open

    def remember(request: bytes, kind: int) -> Opened:
        found = inner(request, kind)
        opened.append(found.plaintext)
        return found

    host.enclave._open = remember  # type: ignore[method-assign]
    host.client().predict(ROWS)
    host.client().predict(ROWS, receipt=True)
    times = [int.from_bytes(plaintext[32:40], "little") for plaintext in opened]
    assert times[0] == 0
    assert times[1] > 1_700_000_000_000


# ---- provisioning ---------------------------------------------------------------------------------------------------


def test_a_model_is_provisioned(platform: SimulatedPlatform, tmp_path: Path) -> None:
    host = serving(platform, store=tmp_path)
    client = host.client()
    key = Ed25519PrivateKey.generate()
    receipt = client.provision(MODEL_FILE, model_id="credit", policy="mrsigner", version=3, owner_key=key)
    (path,) = tmp_path.iterdir()
    flat = to_flat_model(MODEL_FILE)
    assert receipt.model_digest == hashlib.sha256(flat).hexdigest()
    assert (receipt.kind, receipt.policy, receipt.model_version) == (Kind.PROVISION, "mrsigner", 3)
    assert receipt.owner == cml.owner_id(key)
    assert cml.inspect_sealed(path).model_digest == receipt.model_digest
    assert cml.inspect_sealed(path).policy == "mrsigner"
    verified = verify(client.evidence, client.collateral, root=platform.root, now=host.clock.now)
    request = host.sent(Operation.REQUEST)[0][4:]
    sealed = path.read_bytes()
    assert verify_receipt(receipt, verified.claims, verified.mrenclave, request=request, sealed=sealed) == receipt


def test_a_provisioned_model_and_the_evidence_of_then(platform: SimulatedPlatform, tmp_path: Path) -> None:
    host = serving(platform, store=tmp_path)
    client = host.client()
    receipt, evidence, collateral = client.provision_with_evidence(MODEL_FILE, model_id="credit")
    host.clock.advance(2 * 3600)  # into another epoch
    client.attest()
    result = attest(evidence, collateral, POLICY, root=platform.root, now=host.clock.now)
    assert verify_receipt(receipt, result) == receipt
    later = attest(client.evidence, client.collateral, POLICY, root=platform.root, now=host.clock.now)
    with pytest.raises(cml.ReceiptError, match="another epoch"):
        verify_receipt(receipt, later)
    # It was not there yet when it was attested, so its digest is compared with the policy alone.
    owner = cml.owner_id(Ed25519PrivateKey.generate())
    someone = AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=ANY, model_owner=owner)
    with pytest.raises(cml.ReceiptError, match="which the policy does not accept"):
        verify_receipt(receipt, dataclasses.replace(result, policy=someone))


def test_a_receipt_of_a_provisioned_model_is_of_its_own_owner(platform: SimulatedPlatform, tmp_path: Path) -> None:
    """Whose model was sealed is what such a receipt is for; that another has the same one loaded is no matter."""
    same = dataclasses.replace(MODEL, flat=to_flat_model(MODEL_FILE))
    host = serving(platform, same, dataclasses.replace(same, owner=bytes(32), version=0), store=tmp_path)
    receipt, evidence, collateral = host.client().provision_with_evidence(MODEL_FILE, model_id="m")
    for policy, is_accepted in ((policy_of(same), True), (AttestationPolicy(**OWNED), False)):
        result = attest(evidence, collateral, policy, root=platform.root, now=host.clock.now)
        if is_accepted:
            assert verify_receipt(receipt, result) == receipt
            continue
        with pytest.raises(cml.ReceiptError, match="of nobody, which the policy does not accept"):
            verify_receipt(receipt, result)


def test_a_model_of_nobody(platform: SimulatedPlatform, tmp_path: Path) -> None:
    receipt = serving(platform, store=tmp_path).client().provision(MODEL_FILE, model_id="m")
    assert (receipt.owner, receipt.policy, receipt.model_version) == (None, "mrenclave", 0)


def test_a_model_is_provisioned_to_a_key_that_changed(platform: SimulatedPlatform, tmp_path: Path) -> None:
    host = serving(platform, store=tmp_path)
    client = host.client()
    client.attest()
    host.restart()
    assert client.provision(MODEL_FILE, model_id="m").epoch_digest == client.attestation.claims.epoch_digest
    assert client.attestation_count == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model_id": "a/b"}, cml.InvalidInputError),
        ({"model_id": 5}, cml.InvalidInputError),
        ({"policy": "nobody"}, cml.InvalidInputError),
        ({"version": -1}, cml.InvalidInputError),
        ({"owner_key": b"key"}, cml.InvalidInputError),
        ({"model": b"no model"}, cml.ModelFormatError),
        ({"model": 5}, cml.InvalidInputError),
    ],
    ids=str,
)
def test_what_cannot_be_provisioned_is_not_sent(
    platform: SimulatedPlatform, tmp_path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    host = serving(platform, store=tmp_path)
    right: dict[str, Any] = {"model": MODEL_FILE, "model_id": "m"}
    with pytest.raises(error):
        host.client().provision(**(right | arguments))
    assert host.wire == []


def test_a_host_that_takes_no_models(host: Host) -> None:
    with pytest.raises(cml.RemoteError, match="takes none at all"):
        host.client().provision(MODEL_FILE, model_id="m")


@pytest.mark.parametrize(
    "lie",
    [
        {"time": 5},
        {"model": {"flat": b"other"}},
        {"model": {"owner": b"o" * 32}},
        {"model": {"version": 8}},
        {"policy": 2},
        {"forged": True},
    ],
    ids=["time", "model", "owner", "version", "policy", "signature"],
)
def test_a_receipt_of_another_provisioning_is_refused(
    platform: SimulatedPlatform, tmp_path: Path, lie: dict[str, Any]
) -> None:
    with pytest.raises(cml.ReceiptError, match=r"not of what was sent|not signed by"):
        lying(platform, lie, store=tmp_path).client().provision(MODEL_FILE, model_id="m")


def test_every_byte_of_the_answer_to_a_model_that_is_changed_is_noticed(platform: SimulatedPlatform) -> None:
    host = serving(platform, store=lambda sealed, model_id: None)
    client = host.client()
    client.attest()
    model = MODEL_FILE.read_bytes()
    size = 4 + 48 + 416 + 16
    for position in range(size):
        host.change_reply = replies_to(Operation.REQUEST, with_byte_changed(position, 1))
        with pytest.raises(cml.RemoteError):
            client.provision(model, model_id="m")
        assert len(host.wire[-1][1]) == size
    host.change_reply = lambda reply, _: reply
    assert client.provision(model, model_id="m").kind is Kind.PROVISION


# ---- what a wire shows ----------------------------------------------------------------------------------------------


def windows(data: bytes, size: int = 8) -> set[bytes]:
    """Every run of `size` bytes at every fourth place that is not mostly zeros or one repeated byte."""
    return {
        part for part in (data[i : i + size] for i in range(0, len(data) - size + 1, 4)) if len(set(part)) > size // 2
    }


def test_a_whole_session_shows_neither_model_nor_row_nor_answer(platform: SimulatedPlatform, tmp_path: Path) -> None:
    host = serving(platform, MODEL, store=tmp_path)
    client = host.client()
    key = Ed25519PrivateKey.generate()
    client.provision(MODEL_FILE, model_id="credit", owner_key=key)
    rows = np.random.default_rng(7).normal(size=(400, 3)).astype(np.float32)
    margins = np.random.default_rng(8).normal(size=(400, 2)).astype(np.float32)
    found, receipts = client.predict(rows, receipt=True, base_margin=margins)
    host.restart()
    again = client.predict(rows[:5])
    with pytest.raises(cml.InvalidInputError):
        client.predict(rows, iteration_range=(0, 99))
    wire = b"".join(part for pair in host.wire for part in pair)
    flat = to_flat_model(MODEL_FILE)
    secrets = {
        "model": windows(flat[64:]),
        "rows": windows(rows.tobytes()),
        "margins": windows(margins.tobytes()),
        "answers": windows(found.tobytes()) | windows(again.tobytes()),
        "blinds": {one.blind[:8] for one in receipts},
        "signatures": windows(receipts[0].receipt.data[280:]),
    }
    present = windows_at_every_place(wire)
    for name, parts in secrets.items():
        assert len(parts) >= 1, name
        assert parts.isdisjoint(present), name
    # The search finds what is there: the digest of the model stands in the header of every request.
    assert windows(MODEL.digest) <= present
    assert secrets["rows"] <= windows_at_every_place(b"x" + rows.tobytes())
    assert len(host.sent(Operation.REQUEST)) == 5


def windows_at_every_place(data: bytes, size: int = 8) -> set[bytes]:
    return {data[i : i + size] for i in range(len(data) - size + 1)}


def test_requests_of_one_size_class_look_alike(host: Host) -> None:
    client = host.client()
    for n_rows in (1, 9, 18):
        client.predict(np.zeros((n_rows, 3)))
    sizes = {(len(message), len(reply)) for message, reply in host.wire if message[2:4] == b"\2\0"}
    assert sizes == {(4 + 120 + 256, 4 + 64 + 256)}


def test_no_two_messages_of_a_session_share_bytes_that_should_differ(host: Host) -> None:
    client = host.client()
    for _ in range(4):
        client.predict(ROWS)
    requests = host.sent(Operation.REQUEST)
    replies = [reply for message, reply in host.wire if message[2:4] == b"\2\0"]
    for one, other in itertools.combinations(requests, 2):
        assert one[: 4 + 88] == other[: 4 + 88]  # header and enc, as long as the attestation holds
        assert windows_at_every_place(one[92:]).isdisjoint(windows_at_every_place(other[92:]))
    for one, other in itertools.combinations(replies, 2):
        assert windows_at_every_place(one[20:]).isdisjoint(windows_at_every_place(other[20:]))


def test_requests_of_an_unlinkable_client_have_an_enc_each(host: Host) -> None:
    client = host.client(unlinkable=True, request_size=ROWS.nbytes // 2)
    client.predict(ROWS)
    client.predict(ROWS)
    encs = [message[4 + 56 : 4 + 88] for message in host.sent(Operation.REQUEST)]
    assert len(set(encs)) == len(encs) > 2  # several for one call
    assert client.attestation_count == 1
    with pytest.raises(cml.InvalidInputError, match="unlinkable"):
        host.client(unlinkable=1)


def test_a_nonce_is_new_though_random_numbers_repeat(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left where a copy of a machine goes on from one snapshot twice: its clock."""
    client = host.client()
    client.attest()
    asked: list[int] = []

    def repeated(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    monkeypatch.setattr(os, "urandom", repeated)
    for _ in range(50):
        client.predict(ROWS)
    requests = host.sent(Operation.REQUEST)
    assert len({message[4 + 56 : 4 + 104] for message in requests}) == 50 == len(requests)
    assert asked.count(32) >= 50  # and without the clock it would be these


def test_a_nonce_is_new_though_the_clock_stands_still(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    client = host.client()
    monkeypatch.setattr("confidential_ml.request.time_ns", lambda: 0)
    for _ in range(50):
        client.predict(ROWS)
    assert len({message[4 + 88 : 4 + 104] for message in host.sent(Operation.REQUEST)}) == 50


def test_a_new_attestation_and_a_provisioned_model_have_an_enc_of_their_own(
    platform: SimulatedPlatform, tmp_path: Path
) -> None:
    host = serving(platform, MODEL, store=tmp_path)
    client = host.client()
    for _ in range(2):
        client.predict(ROWS)
        client.predict(ROWS)
        client.attest()
    client.predict(ROWS)
    encs = [message[4 + 56 : 4 + 88] for message in host.sent(Operation.REQUEST)]
    assert [one == other for one, other in itertools.pairwise(encs)] == [True, False, True, False]
    before = len(encs)
    for number in range(2):
        client.provision(MODEL_FILE, model_id=f"m{number}")
    encs = [message[4 + 56 : 4 + 88] for message in host.sent(Operation.REQUEST)]
    assert len(set(encs[before - 1 :])) == 3


def test_threads_never_use_a_nonce_twice(host: Host) -> None:
    client = host.client()
    client.predict(ROWS)
    threads = [threading.Thread(target=client.predict, args=(ROWS,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    nonces = [message[4 + 88 : 4 + 104] for message in host.sent(Operation.REQUEST)]
    assert len(set(nonces)) == len(nonces) == 9


def test_an_error_never_shows_a_row(host: Host) -> None:
    client = host.client()
    host.change_reply = replies_to(Operation.REQUEST, lambda reply: reply[:-1])
    with pytest.raises(cml.RemoteError) as raised:
        client.predict([[12345.678, 2, 3]])
    assert "12345" not in "".join(map(str, (raised.value, raised.value.__cause__, raised.value.__context__)))


def test_collateral_from_the_host_need_not_be_trusted(host: Host, platform: SimulatedPlatform) -> None:
    """It is verified: collateral that was changed is refused, and nothing is sent."""
    genuine = host.collateral()
    changed = dataclasses.replace(genuine, tcb_info=genuine.tcb_info.replace('"svn":1', '"svn":0'))
    assert isinstance(changed, Collateral)
    host.endpoint = cml.ConfidentialEndpoint(host.enclave, collateral=changed)
    with pytest.raises(AttestationError) as refusal:
        host.client().predict(ROWS)
    assert refusal.value.reason is Reason.TCB_INFO_SIGNATURE
    assert host.sent(Operation.REQUEST) == []


def test_a_local_model_does_not_wait_for_the_import_of_cryptography() -> None:
    code = """
import sys, confidential_ml
assert not {"cryptography", "confidential_ml.remote"} & set(sys.modules)
assert set(confidential_ml.__all__) <= set(dir(confidential_ml))
from confidential_ml import RemoteModel, verify_receipt
assert RemoteModel is sys.modules["confidential_ml.remote"].RemoteModel
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="has no attribute 'RemoteModels'"):
        cml.RemoteModels  # noqa: B018
