"""What enclaves, models, sealed files and verdicts say of themselves at a prompt and in a notebook."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path

import pytest
from reference_enclave import MRENCLAVE, ReferenceEnclave, ReferenceModel
from remote_host import Host

import confidential_ml as cml
from confidential_ml import card
from confidential_ml.attestation import INTEL_ROOT, AttestationResult
from confidential_ml.attestation.tcb import TcbStatus
from confidential_ml.simulated_platform import SimulatedPlatform

HOSTILE = "<script>alert('1')</script>&\"><img src=x>"
TAGS = {"div", "table", "tr", "th", "td", "code", "span"}


class Elements(html.parser.HTMLParser):
    """Checks that every element is closed in order, and gathers the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def parsed(markup: str) -> Elements:
    elements = Elements()
    elements.feed(markup)
    elements.close()
    assert elements.open == []
    return elements


@pytest.fixture
def host(tmp_path: Path) -> Host:
    platform = SimulatedPlatform(tmp_path)
    return Host(platform, ReferenceEnclave(platform, ReferenceModel(features=3, groups=2, values=2)))


@pytest.fixture
def result(host: Host) -> AttestationResult:
    return host.client().attest()


def test_who_runs_and_that_it_is_a_simulation_is_shown(
    regression_file: Path, enclave: cml.Enclave, tmp_path: Path
) -> None:
    identity = enclave.identity
    if identity.platform == "openenclave":
        pytest.skip("not a simulation")
    assert not identity.protects
    sealed = cml.seal(regression_file, tmp_path / "one.sealed", model_id="regression", enclave=enclave)
    with cml.ConfidentialModel.load_sealed(tmp_path / "one.sealed", enclave=enclave) as model:
        for text in (repr(model), repr(enclave)):
            assert "SIMULATION" in text
            assert identity.mrenclave[:12] in text
        assert "'regression' reg:squarederror" in repr(model)
        for text in (repr(model.info), repr(sealed), repr(identity)):
            assert f"platform='{identity.platform}'" in text
            assert identity.mrenclave in text
        for shown in (model, enclave, model.info, sealed, identity):
            elements = parsed(shown._repr_html_())
            assert "SIMULATION" in elements.text
            assert "protects nothing" in elements.text
            assert identity.mrenclave in elements.text
            assert identity.mrsigner in elements.text
            assert elements.tags <= TAGS
        for of_model in (model, model.info, sealed):
            assert model.info.model_digest in parsed(of_model._repr_html_()).text
        assert "not authenticated" in parsed(sealed._repr_html_()).text
        assert "(closed)" not in model._repr_html_()
    assert "(closed)" in model._repr_html_()
    assert "closed" not in model.info._repr_html_()


def test_what_a_card_shows_is_escaped() -> None:
    for platform, debug in (("simulation", False), ("openenclave-simulation", False), ("openenclave", True)):
        identity = cml.EnclaveIdentity(platform, HOSTILE, HOSTILE, 1, 1, debug)
        elements = parsed(card.of_enclave(HOSTILE, identity, [(HOSTILE, HOSTILE)], note=HOSTILE))
        assert elements.tags <= TAGS
        assert elements.text.count(HOSTILE) == 6
        assert "SIMULATION" in elements.text or "DEBUG" in elements.text
    sgx = parsed(cml.EnclaveIdentity("openenclave", "", "", 1, 1, False)._repr_html_())
    assert "SGX enclave" in sgx.text
    assert "SIMULATION" not in sgx.text


def test_a_header_cannot_pass_itself_off_as_an_enclave() -> None:
    fields = {field.name: 0 if field.type == "int" else "x" for field in dataclasses.fields(cml.SealedInfo)}
    shown = cml.SealedInfo(**(fields | {"platform": "openenclave", "owner": None}))._repr_html_()  # type: ignore[arg-type]
    assert "it says" in shown
    assert card.banner("openenclave", debug=False)[0] not in shown


def test_a_remote_model_shows_its_enclave_once_it_is_verified(host: Host) -> None:
    client = host.client()
    assert "Not attested yet" in parsed(client._repr_html_()).text
    assert host.wire == []
    client.attest()
    asked = len(host.wire)
    elements = parsed(client._repr_html_())
    assert "SIMULATION" in elements.text
    assert "protects nothing" in elements.text
    assert MRENCLAVE.hex() in elements.text
    assert elements.tags <= TAGS
    assert len(host.wire) == asked


def test_a_verdict_is_green_only_if_nothing_is_to_be_said_against_it(result: AttestationResult) -> None:
    green = card.banner("openenclave", debug=False)[0]
    in_sgx = dataclasses.replace(result.claims, platform="openenclave")
    report = dataclasses.replace(result.quote.report, flags=result.quote.report.flags & ~2)
    released = dataclasses.replace(result.quote, report=report)
    best = dataclasses.replace(
        result,
        claims=in_sgx,
        quote=released,
        root=INTEL_ROOT,
        tcb_status=TcbStatus.UP_TO_DATE,
        advisories=("INTEL-SA-1",),
    )
    shown = best._repr_html_()
    assert green in shown
    assert "INTEL-SA-1" in shown
    for change, said in (
        ({"root": result.root}, f"on the word of {result.root.name}"),
        ({"tcb_status": TcbStatus.OUT_OF_DATE}, "TCB OutOfDate"),
        ({"quote": result.quote}, "DEBUG"),
        ({"claims": result.claims}, "protects nothing"),
    ):
        worse = dataclasses.replace(best, **change)._repr_html_()
        assert green not in worse
        assert said in parsed(worse).text


def test_an_endpoint_says_whether_it_takes_models(enclave: cml.Enclave, tmp_path: Path) -> None:
    assert (
        repr(cml.ConfidentialEndpoint(enclave))
        == f"<confidential_ml.ConfidentialEndpoint of {enclave!r}, refuses models>"
    )
    assert "takes models" in repr(cml.ConfidentialEndpoint(enclave, store=tmp_path))
