"""The console's HPKE, requests, answers and receipts, in JavaScript, against RFC 9180 and against Python's."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console_node import Node, node
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from reference_enclave import MRENCLAVE, ReferenceEnclave, ReferenceModel
from test_hpke import LOW_ORDER, vectors

from confidential_ml import hpke
from confidential_ml.errors import RequestUnreadableError
from confidential_ml.protocol import bucket_size
from confidential_ml.simulated_platform import SimulatedPlatform

__all__ = ["node"]

ROWS = np.array([[5.1, -0.0, np.nan, np.inf], [1e-45, 3.4e38, -np.inf, 0.1]], dtype=np.float32)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["info"][:16])
def test_every_message_and_export_of_the_rfc(node: Node, vector: dict[str, Any]) -> None:
    answer = node.ask(
        "hpkeVector",
        publicKey=vector["pkRm"],
        info=vector["info"],
        ephemeral=vector["skEm"],
        enc=vector["enc"],
        messages=[[one["aad"], one["pt"]] for one in vector["encryptions"]],
        exports=[[one["exporter_context"], one["L"]] for one in vector["exports"]],
    )
    assert answer["sealed"] == [one["ct"] for one in vector["encryptions"]]
    assert answer["exported"] == [one["exported_value"] for one in vector["exports"]]


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_python_reads_what_the_page_seals(node: Node, size: int) -> None:
    key = X25519PrivateKey.generate()
    plaintext = bytes(range(256)) * (size // 256 + 1)
    public_key = key.public_key().public_bytes_raw().hex()
    answer = node.ask("seal", publicKey=public_key, info="01", aad="02", plaintext=plaintext[:size].hex())
    context = hpke.setup_recipient(bytes.fromhex(answer["enc"]), key, b"\1")
    assert context.open(b"\2", bytes.fromhex(answer["sealed"])) == plaintext[:size]
    assert context.export(b"\0", 77).hex() == answer["exported"]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_keys_of_low_order_are_refused(node: Node, point: str) -> None:
    assert "error" in node.ask("seal", publicKey=point, info="", aad="", plaintext="")


def test_padding_is_that_of_python(node: Node) -> None:
    sizes = [0, 1, 255, 256, 257, 288, 289, 480, 481, 511, 512, 513, 576, 577]
    sizes += [near + step for power in range(10, 25) for near in (1 << power, 9 << power - 3) for step in (-1, 0, 1)]
    assert node.ask("buckets", sizes=sizes) == [bucket_size(size) for size in sizes]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


def ask_for(node: Node, enclave: ReferenceEnclave, rows: Any, **options: Any) -> Any:
    """Make the page's modules encrypt rows to the enclave's first model; NaN and infinities travel as text."""
    asked = {"outputMargin": False, "wantsReceipt": False, "time": "0", **options}
    plain = [str(float(value)).replace("inf", "Infinity") for value in rows.reshape(-1)]
    return node.ask("request", claims=enclave.claims().hex(), rows=plain, options=asked)


MODELS = [ReferenceModel(), ReferenceModel(groups=3, values=3, owner=b"\5" * 32, version=(1 << 64) - 1)]


@pytest.mark.parametrize("model", MODELS, ids=["one column", "three columns"])
@pytest.mark.parametrize("wants_receipt", [False, True])
@pytest.mark.parametrize("output_margin", [False, True])
def test_an_enclave_written_apart_reads_the_request_and_is_understood(
    node: Node, platform: SimulatedPlatform, model: ReferenceModel, wants_receipt: bool, output_margin: bool
) -> None:
    enclave = ReferenceEnclave(platform, model)
    time = str((1 << 64) - 1) if wants_receipt else "0"
    sent = ask_for(node, enclave, ROWS, outputMargin=output_margin, wantsReceipt=wants_receipt, time=time)
    message = bytes.fromhex(sent["message"])
    assert len(message) == 56 + 32 + 16 + bucket_size(40 + ROWS.nbytes) + 16
    answer = enclave.answer_request(message)
    opened = node.ask("answer", answer=answer.hex(), mrenclave=MRENCLAVE.hex())
    expected = model.predict(ROWS, None, output_margin, 0, 0)
    assert opened == {"status": 0, "content": expected.tobytes().hex(), "counter": "1" if wants_receipt else None}


def test_a_request_is_for_one_enclave_and_encrypted_anew_each_time(node: Node, platform: SimulatedPlatform) -> None:
    enclave, other = (ReferenceEnclave(platform, ReferenceModel()) for _ in range(2))
    first, second = (bytes.fromhex(ask_for(node, enclave, ROWS)["message"]) for _ in range(2))
    assert first[56:88] != second[56:88]  # enc
    assert first[88:104] != second[88:104]  # nonce
    assert first[104:] != second[104:]
    with pytest.raises(RequestUnreadableError):
        other.answer_request(first)
    enclave.answer_request(first)


def test_every_changed_byte_of_an_answer_is_refused(node: Node, platform: SimulatedPlatform) -> None:
    enclave = ReferenceEnclave(platform, ReferenceModel())
    answer = enclave.answer_request(bytes.fromhex(ask_for(node, enclave, ROWS)["message"]))
    assert node.ask("answer", answer=answer.hex(), mrenclave=MRENCLAVE.hex())["status"] == 0
    for position in [*range(64), *range(64, len(answer), 37), len(answer) - 1]:
        changed = answer[:position] + bytes([answer[position] ^ 1]) + answer[position + 1 :]
        assert node.ask("answer", answer=changed.hex(), mrenclave=MRENCLAVE.hex())["error"] == "RemoteError", position
    for cut in (answer[:-1], answer + b"\0", b""):
        assert node.ask("answer", answer=cut.hex(), mrenclave=MRENCLAVE.hex())["error"] == "RemoteError"


def test_the_answer_to_another_request_is_refused(node: Node, platform: SimulatedPlatform) -> None:
    enclave = ReferenceEnclave(platform, ReferenceModel())
    answer = enclave.answer_request(bytes.fromhex(ask_for(node, enclave, ROWS)["message"]))
    ask_for(node, enclave, ROWS)
    assert node.ask("answer", answer=answer.hex(), mrenclave=MRENCLAVE.hex())["error"] == "RemoteError"


# Offsets in an answer's plaintext, and what an enclave that breaks the protocol writes there.
MALFORMED = {
    "receipt of another size": (4, struct.pack("<I", 343)),
    "content beyond the end": (8, struct.pack("<Q", 1 << 63)),
    "padding that is not zero": (255, b"\1"),
    "a failure with a result": (0, struct.pack("<I", 106)),
    "a blind without a receipt": (16, b"\1"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=list(MALFORMED))
def test_answers_that_break_the_protocol_are_refused(
    node: Node, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch, change: tuple[int, bytes]
) -> None:
    enclave = ReferenceEnclave(platform, ReferenceModel())
    genuine = enclave.encrypted_answer
    start, new = change
    monkeypatch.setattr(
        enclave,
        "encrypted_answer",
        lambda opened, plain: genuine(opened, plain[:start] + new + plain[start + len(new) :]),
    )
    answer = enclave.answer_request(bytes.fromhex(ask_for(node, enclave, ROWS)["message"]))
    refused = node.ask("answer", answer=answer.hex(), mrenclave=MRENCLAVE.hex())
    assert refused["error"] == "RemoteError"
    assert "malformed" in refused["sentence"]


# Offsets in a receipt, with what is refused there.
RECEIPT_FIELDS = {
    "magic": 0,
    "version": 8,
    "kind": 12,
    "policy": 14,
    "instance": 16,
    "counter": 32,
    "time": 40,
    "model version": 48,
    "model digest": 56,
    "owner": 88,
    "epoch digest": 120,
    "MRENCLAVE": 152,
    "request digest": 184,
    "content digest": 216,
    "reserved": 248,
    "signature": 280,
}


@pytest.mark.parametrize("start", RECEIPT_FIELDS.values(), ids=list(RECEIPT_FIELDS))
def test_receipts_that_were_changed_are_refused(
    node: Node, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    enclave = ReferenceEnclave(platform, ReferenceModel())
    genuine = enclave.encrypted_answer

    def changed(opened: Any, plain: bytes) -> bytes:
        at = 48 + 8 + start  # prefix, two predictions
        return genuine(opened, plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :])

    monkeypatch.setattr(enclave, "encrypted_answer", changed)
    answer = enclave.answer_request(bytes.fromhex(ask_for(node, enclave, ROWS, wantsReceipt=True)["message"]))
    refused = node.ask("answer", answer=answer.hex(), mrenclave=MRENCLAVE.hex())
    assert (refused["error"], refused["reason"]) == ("RemoteError", "receipt")


def test_a_receipt_may_name_another_of_the_models_with_the_same_digest(node: Node, platform: SimulatedPlatform) -> None:
    owned, nobodys = ReferenceModel(owner=b"\5" * 32, version=3), ReferenceModel()
    enclave = ReferenceEnclave(platform, owned, nobodys)
    for loaded, answers_with in ([owned, nobodys], nobodys), ([owned], nobodys):
        enclave.models = loaded
        request = bytes.fromhex(ask_for(node, enclave, ROWS, wantsReceipt=True)["message"])
        enclave.models = [answers_with]
        told = node.ask("answer", answer=enclave.answer_request(request).hex(), mrenclave=MRENCLAVE.hex())
        assert told.get("reason") == (None if answers_with in loaded else "receipt")


def test_modules_have_no_dependency_and_no_way_to_run_text() -> None:
    sources = sorted((Path(__file__).parent.parent / "src/confidential_ml/server/console").rglob("*.js"))
    assert len(sources) > 15
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for forbidden in ("eval(", "Function(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
            assert forbidden not in text, (path.name, forbidden)
        assert '"http' not in text.replace('"http:', "").replace('"https:', "").replace('"http://www.w3.org', "")
