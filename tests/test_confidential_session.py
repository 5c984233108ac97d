"""Whole remote sessions with the real enclave: the two ends of docs/protocol.md were written apart and meet here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from remote_host import exit_code_of_child
from request_cases import UNREADABLE, encrypted, predictions, provisions, unreadable

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.answer import open_answer
from confidential_ml.attestation import ANY, AttestationError, AttestationPolicy, Reason
from confidential_ml.request import predict_request
from confidential_ml.xgboost_format import to_flat_model

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
ROWS = np.load(FIXTURES / "X.npy")
MODELS = ["xgb-3.4.1.reg.ubj"]


class Session:
    """An enclave of its own behind an endpoint, and everything that goes over the wire."""

    def __init__(self, directory: Path) -> None:
        self.enclave = cml.Enclave()
        self.platform = simulated_platform.of_this_installation()
        self.directory = directory
        self.endpoint = cml.ConfidentialEndpoint(self.enclave, collateral=self.platform.collateral(), store=directory)
        self.wire: list[bytes] = []

    def carry(self, message: bytes) -> bytes:
        reply = self.endpoint.handle(message)
        self.wire += [message, reply]
        return reply

    def remote(self, **policy: Any) -> cml.RemoteModel:
        wanted = {"mrenclave": self.enclave.identity.mrenclave, "model_digest": ANY, "allow_debug": True, **policy}
        return cml.RemoteModel(self.carry, AttestationPolicy(**wanted), root=self.platform.root)

    def load_stored(self) -> cml.ConfidentialModel:
        (path,) = self.directory.glob("*.sealed")
        return cml.ConfidentialModel.load_sealed(path, enclave=self.enclave)


@pytest.fixture
def session(tmp_path: Path, enclave: cml.Enclave) -> Iterator[Session]:
    if enclave.identity.platform == "openenclave":
        pytest.skip("needs the root of a simulated platform")
    session = Session(tmp_path)
    with session.enclave:
        yield session


@pytest.mark.parametrize("name", MODELS)
def test_provision_predict_and_receipts(session: Session, name: str) -> None:
    key = Ed25519PrivateKey.generate()
    owner = cml.owner_id(key)
    receipt = session.remote().provision(FIXTURES / name, model_id="m", version=3, owner_key=key)
    assert (receipt.policy, receipt.owner, receipt.model_version) == ("mrenclave", owner, 3)
    assert receipt.mrenclave == session.enclave.identity.mrenclave
    with session.load_stored() as local:
        assert local.info.model_digest == receipt.model_digest
        remote = session.remote(model_digest=receipt.model_digest, model_owner=owner, min_model_version=3)
        values, receipts = remote.predict(ROWS, receipt=True)
        assert values.tobytes() == local.predict(ROWS).tobytes()
        assert [one.receipt.model_digest for one in receipts] == [receipt.model_digest]
        margins = remote.predict(ROWS[:7], output_margin=True, iteration_range=(0, 1))
        assert margins.tobytes() == local.predict(ROWS[:7], output_margin=True, iteration_range=(0, 1)).tobytes()
        with pytest.raises(AttestationError) as refused:
            session.remote(model_owner=owner, min_model_version=4).predict(ROWS)
        assert refused.value.reason is Reason.MODEL_VERSION


def test_the_wire_shows_neither_model_nor_rows_nor_predictions(session: Session) -> None:
    flat = to_flat_model(FIXTURES / MODELS[0])
    receipt = session.remote().provision(FIXTURES / MODELS[0], model_id="m")
    with session.load_stored() as local:
        values = session.remote(model_digest=receipt.model_digest).predict(ROWS)
        assert values.tobytes() == local.predict(ROWS).tobytes()
    wire = b"".join(session.wire)
    pieces = [flat[i : i + 16] for i in range(0, len(flat) - 16, 16)]
    pieces += [row.tobytes() for row in ROWS] + [values[i : i + 3].tobytes() for i in range(0, len(values) - 3, 3)]
    telling = [piece for piece in pieces if len(set(piece)) > 4]  # not zeros, which headers have too
    assert len(telling) > 100
    assert [piece for piece in telling if piece in wire] == []
    assert all(piece in wire + flat + ROWS.tobytes() + values.tobytes() for piece in telling)  # the search finds


def test_epochs_and_replays(session: Session) -> None:
    receipt = session.remote().provision(FIXTURES / MODELS[0], model_id="m")
    with session.load_stored() as local:
        remote = session.remote(model_digest=receipt.model_digest)
        expected = local.predict(ROWS[:5]).tobytes()
        assert (remote.predict(ROWS[:5]).tobytes(), remote.attestation_count) == (expected, 1)
        request = session.wire[-2]
        assert session.endpoint.handle(request) == bytes([1, 0, 1, 0])  # the same once more
        session.enclave.new_epoch()
        assert (remote.predict(ROWS[:5]).tobytes(), remote.attestation_count) == (expected, 1)  # the former key
        session.enclave.end_former_epoch()
        assert (remote.predict(ROWS[:5]).tobytes(), remote.attestation_count) == (expected, 2)


def test_simulated_evidence_is_refused_by_default(session: Session) -> None:
    policy = AttestationPolicy(mrenclave=session.enclave.identity.mrenclave, model_digest=ANY, allow_debug=True)
    with pytest.raises(AttestationError) as refused:
        cml.RemoteModel(session.carry, policy).predict(ROWS)
    assert refused.value.reason is Reason.ROOT_UNTRUSTED
    with pytest.raises(AttestationError) as refused:
        session.remote(allow_debug=False).predict(ROWS)
    assert refused.value.reason is Reason.DEBUG_ENCLAVE
    assert len(session.wire) == 4  # evidence was asked for twice, and nothing else was sent


def test_every_broken_request_gets_its_status(session: Session) -> None:
    receipt = session.remote().provision(FIXTURES / MODELS[0], model_id="m")
    with session.load_stored() as local:
        info, claims = local.info, session.remote().attestation.claims
        digest = bytes.fromhex(receipt.model_digest)
        cases = [
            *unreadable(claims, digest, info.n_features),
            *predictions(claims, digest, info.n_features, info.n_groups, info.n_rounds),
        ]
        for case in cases:
            try:
                answer = session.enclave.answer_request(case.request.message)
                status: int | None = open_answer(case.request, answer).status
            except cml.EnclaveError:  # also of requests too short to be looked at
                status = UNREADABLE
            assert status == case.expected, case.name
    assert len(cases) > 60


def test_the_enclave_takes_a_view_of_a_request_and_nothing_else_that_is_no_bytes(session: Session) -> None:
    remote = session.remote()
    receipt = remote.provision(FIXTURES / MODELS[0], model_id="m")
    with session.load_stored() as local:
        rows = np.zeros((3, local.info.n_features), np.float32)
        claims = session.remote().attestation.claims
        request = predict_request(claims, receipt.model_digest, rows, columns=claims.models[0].n_values)
        framed = memoryview(b"host" + request.message + b"host")
        for other in (bytearray(request.message), framed[::2], request.message.hex(), None):
            with pytest.raises(cml.InvalidInputError, match="a request must be bytes"):
                session.enclave.answer_request(other)  # type: ignore[arg-type]
        answer = open_answer(request, session.enclave.answer_request(framed[4:-4]))
        assert answer.status == 0
        assert answer.content == local.predict(rows).tobytes()


def test_every_broken_model_gets_its_status(session: Session) -> None:
    claims = session.remote().attestation.claims
    cases = list(provisions(claims, to_flat_model(FIXTURES / MODELS[0])))
    for case in cases:
        sealed, data = session.enclave.import_model(case.request.message)
        answer = open_answer(case.request, data)
        assert (answer.status, bool(sealed)) == (case.expected, case.expected == 0), case.name
        with pytest.raises(cml.RequestUnreadableError):
            session.enclave.import_model(case.request.message)
    assert len(cases) > 20


@pytest.mark.parametrize("owned_first", [False, True])
def test_a_model_loaded_with_and_without_its_owner_has_receipts(
    session: Session, tmp_path: Path, owned_first: bool
) -> None:
    key = Ed25519PrivateKey.generate()
    options: list[dict[str, Any]] = [{"model_id": "nobodys"}, {"model_id": "owned", "owner_key": key, "version": 4}]
    models = []
    for number, one in enumerate(options[::-1] if owned_first else options):
        cml.seal(FIXTURES / MODELS[0], tmp_path / f"{number}.model", enclave=session.enclave, **one)
        models.append(cml.ConfidentialModel.load_sealed(tmp_path / f"{number}.model", enclave=session.enclave))
    remote = session.remote(model_owner=cml.owner_id(key), min_model_version=4)
    values, (receipt,) = remote.predict(ROWS, receipt=True)
    assert values.tobytes() == models[0].predict(ROWS).tobytes()
    first = models[0].info
    assert (receipt.receipt.owner, receipt.receipt.model_version) == (first.owner, first.model_version)


def peak_growth(act: Callable[[], object]) -> int:
    """Bytes by which the memory of this process grows while it does something."""

    def kib(name: str) -> int:
        return int(re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[0])

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kib("VmRSS")
    act()
    return (kib("VmHWM") - before) << 10


def test_a_header_that_asks_for_much_costs_little(session: Session) -> None:
    """360 bytes that anybody can send made the host set aside 16 MiB, several times over."""
    session.remote().provision(FIXTURES / MODELS[0], model_id="m")
    with session.load_stored() as local:
        claims = session.remote().attestation.claims
        good = session.remote()
        good.predict(ROWS)
        digest = bytes.fromhex(local.info.model_digest)
        fields: dict[str, int | bytes] = {"digest": digest, "answer_size": 16 << 20}
        honest_key = encrypted(claims, bytes(256), header=fields).message
        messages = [b"\1\0\2\0" + message for message in (honest_key, honest_key[:8] + bytes(8) + honest_key[16:])]

        def ask() -> None:
            for message in messages:
                assert session.endpoint.handle(message) == b"\1\0\1\0"

        ask()
        assert peak_growth(ask) < 2 << 20
        assert good.predict(ROWS).tobytes() == local.predict(ROWS).tobytes()


def test_a_long_message_to_another_key_is_not_even_copied(session: Session) -> None:
    claims = session.remote().attestation.claims
    good = encrypted(claims, b"", header={"kind": 2}).message
    size = 104 + (64 << 20)
    message = (b"\1\0\2\0" + good[:8] + bytes(8) + good[16:]).ljust(4 + size, b"\0")
    assert session.endpoint.handle(message) == b"\1\0\1\0"
    assert peak_growth(lambda: session.endpoint.handle(message)) < 2 << 20
    assert peak_growth(lambda: message[1:]) > 60 << 20, "what is copied is seen"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_says_whose_the_enclave_is(session: Session) -> None:
    def ask() -> None:
        assert session.endpoint.handle(b"\1\0\1\0") == b"\1\0\3\0"
        with pytest.raises(cml.EnclaveError, match="fork"):
            session.endpoint.evidence()

    session.remote().attest()
    assert session.endpoint.evidence()
    assert exit_code_of_child(ask) == 0
    assert session.endpoint.handle(b"\1\0\1\0").startswith(b"\1\0\0\0")
