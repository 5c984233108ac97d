"""Evidence is parsed, verified and appraised: genuine quotes, the simulated platform, policies, hostile bytes.

Every reason is reached by the table of attacks; here it is what is accepted, and that nothing else is raised.
"""

from __future__ import annotations

import ast
import base64
import copy
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import random
import re
import stat
import struct
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import confidential_ml as cml
from confidential_ml import attestation, simulated_platform
from confidential_ml.attestation import (
    ANY,
    INTEL_ROOT,
    AttestationError,
    AttestationPolicy,
    Collateral,
    Reason,
    TcbStatus,
    TrustRoot,
    VerifiedEvidence,
    appraise,
    attest,
    der,
    parse_claims,
    parse_evidence,
    parse_quote,
    verify,
    verify_quote,
)
from confidential_ml.attestation.certificates import is_signed_by
from confidential_ml.attestation.collateral import checked_collateral
from confidential_ml.attestation.pck_extension import SGX_EXTENSION_OID, parse_pck_extension
from confidential_ml.attestation.signed_json import cut_out, parse_object
from confidential_ml.attestation.tcb import TcbInfo, merged_status
from confidential_ml.owner_key import is_sound
from confidential_ml.simulated_platform import SimulatedPlatform

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "confidential_ml"
SECOND, DAY = datetime.timedelta(seconds=1), datetime.timedelta(days=1)

# Of phala_sgx: docs of the vectors say that it verifies then.
GENUINE_TIME = datetime.datetime(2025, 6, 19, 12, tzinfo=datetime.UTC)
PEM_START = 1012 + 2 + 32 + 6

MRENCLAVE, MRSIGNER, CONFIG = "e1" * 32, "51" * 32, "c0" * 32
MODEL, OWNER = "0d" * 32, "0e" * 32
NONCE = bytes(range(32))
INIT, DEBUG, MODE64, PROVISION_KEY = 1, 2, 4, 16

FUZZ = settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def vector(name: str) -> bytes:
    directory = Path(os.environ.get("CONFIDENTIAL_ML_VECTORS", ROOT.parent / "shared" / "vectors"))
    path = directory / "sgx" / name
    if not path.exists():
        pytest.skip(f"the public test vector {path} is not here; CONFIDENTIAL_ML_VECTORS names another directory")
    return path.read_bytes()


@pytest.fixture(scope="session")
def genuine_quote() -> bytes:
    return vector("phala_sgx.quote")


@pytest.fixture(scope="session")
def genuine() -> Collateral:
    return Collateral.from_json(vector("phala_sgx.collateral.json"))


# ---- what a simulated enclave would say -----------------------------------------------------------------------------


def model_entry(digest: str = MODEL, owner: str = OWNER, version: int = 7, name: bytes = b"credit") -> bytes:
    return struct.pack("<32s32sQIIIH", bytes.fromhex(digest), bytes.fromhex(owner), version, 6, 3, 3, len(name)) + name


def claims_bytes(*models: bytes, nonce: bytes = NONCE, platform: int = 1) -> bytes:
    fixed = struct.pack(
        "<8sIHHHHIQ16s32s32s32sHHI",
        *(b"CMLCLAIM", 1, platform, 1, 1, 0, 0, 5, b"i" * 16, bytes.fromhex(CONFIG), b"e" * 32, b"r" * 32),
        *(len(nonce), len(models), 0),
    )
    return fixed + nonce + b"".join(models)


def report_body(claims: bytes, flags: int = INIT | DEBUG | MODE64, svn: int = 4) -> bytes:
    body = bytearray(384)
    struct.pack_into("<QQ", body, 48, flags, 3)
    body[64:96], body[128:160] = bytes.fromhex(MRENCLAVE), bytes.fromhex(MRSIGNER)
    struct.pack_into("<HH", body, 256, 9, svn)
    body[320:352] = hashlib.sha256(claims).digest()
    return bytes(body)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="session")
def collateral(platform: SimulatedPlatform) -> Collateral:
    return platform.collateral()


@pytest.fixture(scope="session")
def evidence(platform: SimulatedPlatform) -> bytes:
    claims = claims_bytes(model_entry())
    return platform.quote(report_body(claims)) + claims


@pytest.fixture(scope="session")
def verified(evidence: bytes, collateral: Collateral, platform: SimulatedPlatform) -> VerifiedEvidence:
    return verify(evidence, collateral, root=platform.root)


def policy(**changes: Any) -> AttestationPolicy:
    return AttestationPolicy(**{"mrenclave": MRENCLAVE, "model_digest": MODEL, "allow_debug": True, **changes})


def refused(reason: Reason, call: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        call()
    assert caught.value.reason is reason, caught.value.explain()
    return caught.value


def accepted(call: Callable[[], object]) -> bool:
    """Whether it is accepted; fails if anything but AttestationError is raised."""
    error = None
    try:
        call()
    except AttestationError as caught:
        error = caught
    assert error is None or (isinstance(error.reason, Reason) and str(error).isprintable())
    return error is None


# ---- genuine quotes -------------------------------------------------------------------------------------------------


def test_a_genuine_quote_verifies_with_what_intel_says_of_the_machine(
    genuine_quote: bytes, genuine: Collateral
) -> None:
    verified = verify_quote(genuine_quote, genuine, now=GENUINE_TIME)
    assert verified.tcb_status is TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
    assert verified.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert verified.root == INTEL_ROOT
    assert (verified.fmspc, verified.pce_id, verified.ppid) == (
        "00a067110000",
        "0000",
        "d04ec06d4e6d92dc90d0ad3cf5ee2ddf",
    )
    assert verified.tcb_evaluation_number == 17
    assert verified.tcb_date == datetime.datetime(2024, 3, 13, tzinfo=datetime.UTC)
    assert verified.earliest_expiry == datetime.datetime(2025, 7, 19, 10, 1, 18, tzinfo=datetime.UTC)
    assert not verified.debug
    theirs = dcap_qvl.verify(
        genuine_quote, dcap_qvl.QuoteCollateralV3.from_json(genuine.to_json()), int(GENUINE_TIME.timestamp())
    )
    assert (theirs.status, tuple(sorted(theirs.advisory_ids))) == (verified.tcb_status, verified.advisories)


def test_a_genuine_quote_is_refused_outside_its_dates(genuine_quote: bytes, genuine: Collateral) -> None:
    first = datetime.datetime(2025, 6, 19, 10, 56, 11, tzinfo=datetime.UTC)
    last = verify_quote(genuine_quote, genuine, now=GENUINE_TIME).earliest_expiry
    # In this order: what was accepted, and is kept, is looked at again.
    assert verify_quote(genuine_quote, genuine, now=first).verified_at == first
    assert (
        verify_quote(genuine_quote, genuine, now=last.astimezone(datetime.timezone(5 * DAY / 24))).verified_at == last
    )
    refused(Reason.TCB_INFO_NOT_YET_VALID, lambda: verify_quote(genuine_quote, genuine, now=first - SECOND))
    refused(Reason.QE_IDENTITY_EXPIRED, lambda: verify_quote(genuine_quote, genuine, now=last + SECOND))
    refused(Reason.CRL_EXPIRED, lambda: verify_quote(genuine_quote, genuine))
    refused(Reason.CERTIFICATE_EXPIRED, lambda: verify_quote(genuine_quote, genuine, now=last + 9999 * DAY))
    refused(Reason.CERTIFICATE_NOT_YET_VALID, lambda: verify_quote(genuine_quote, genuine, now=first - 9999 * DAY))


def test_a_genuine_quote_is_refused_with_another_root(
    genuine_quote: bytes, genuine: Collateral, platform: SimulatedPlatform
) -> None:
    def call() -> object:
        return verify_quote(genuine_quote, genuine, root=platform.root, now=GENUINE_TIME)

    error = refused(Reason.ROOT_UNTRUSTED, call)
    assert "SIMULATION - NOT INTEL SGX Root CA" in str(error)


def test_intels_root_is_the_one_of_the_published_certificate() -> None:
    assert TrustRoot.from_certificate(vector("intel_sgx_root_ca.der"), name=INTEL_ROOT.name) == INTEL_ROOT


def test_a_genuine_debug_quote_is_refused_unless_it_is_asked_for(
    genuine: Collateral,
) -> None:
    debug = vector("automata_debug.quote")
    refused(Reason.DEBUG_ENCLAVE, lambda: verify_quote(debug, genuine, now=GENUINE_TIME))
    with pytest.raises(cml.InvalidInputError, match="allow_debug must be True or False, not int"):
        verify_quote(debug, genuine, now=GENUINE_TIME, allow_debug=1)  # type: ignore[arg-type]
    quote = verify_quote(debug, genuine, now=GENUINE_TIME, allow_debug=True)
    assert quote.debug
    known = {field.name: getattr(quote, field.name) for field in dataclasses.fields(quote)}
    verified = VerifiedEvidence(**known, claims=parse_claims(claims_bytes()))
    wanted = AttestationPolicy(
        mrenclave=quote.mrenclave, model_digest=ANY, accepted_tcb=list(TcbStatus)[:-1], accepted_advisories=ANY
    )
    refused(Reason.DEBUG_ENCLAVE, lambda: appraise(verified, wanted, now=GENUINE_TIME))
    tolerant = dataclasses.replace(wanted, allow_debug=True)
    assert appraise(verified, tolerant, now=GENUINE_TIME).debug


def test_evidence_of_open_enclave_parses_with_its_claims_hash() -> None:
    evidence = parse_evidence(vector("oe_debug.evidence"))
    assert evidence.claims == b""
    assert evidence.quote.report.report_data == evidence.claims_digest + bytes(32)
    assert evidence.quote.report.is_debug
    assert evidence.quote.report.is_initialised
    assert parse_quote(vector("oe_debug.evidence")) == evidence.quote


def test_what_intel_signed_is_cut_out_of_its_answer_to_the_byte() -> None:
    """The endorsements hold answers of Intel's service as they came, and the certificates of their signer."""
    endorsements = vector("oe_debug.endorsements")
    pem = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", endorsements, re.DOTALL)
    keys = [x509.load_pem_x509_certificate(block).public_key() for block in pem]
    for name in ("tcbInfo", "enclaveIdentity"):
        begin = endorsements.index(b'{"%b"' % name.encode())
        answer = endorsements[begin : endorsements.index(b"\0", begin)].decode()
        signature = bytes.fromhex(json.loads(answer)["signature"])
        signed = cut_out(answer, name, "the answer", Reason.TCB_INFO_FORMAT).encode()
        assert any(isinstance(key, ec.EllipticCurvePublicKey) and is_signed_by(key, signature, signed) for key in keys)
        if name == "tcbInfo":
            error = refused(Reason.TCB_INFO_FORMAT, functools.partial(TcbInfo.parse, signed.decode()))
            assert "version 3" in str(error)


@pytest.mark.parametrize(
    "document",
    [
        '{"tcbInfo":{"a":1},"signature":"00"}',
        '{"signature":"00", "tcbInfo" : {"a":1} }',
        '{"xtcbInfo":{"b":2},"tcbInfoSignature":"00","tcbInfo":{"a":1}}',
        ' {"x":{"tcbInfo":{"b":2}},\n"tcb\\u0049nfo":{"a":1}}\n',
    ],
)
def test_an_object_is_cut_out_wherever_it_stands(document: str) -> None:
    assert cut_out(document, "tcbInfo", "the answer", Reason.TCB_INFO_FORMAT) == '{"a":1}'


@pytest.mark.parametrize(
    "document", ["", "[]", "{}", '{"tcbInfo":"{}"}', '{"tcbInfo":{},"tcbInfo":{}}', '{"x":{"tcbInfo":{}}}']
)
def test_what_cannot_be_cut_out_unambiguously_is_refused(document: str) -> None:
    refused(Reason.TCB_INFO_FORMAT, lambda: cut_out(document, "tcbInfo", "the answer", Reason.TCB_INFO_FORMAT))


# ---- every bit counts -----------------------------------------------------------------------------------------------


def test_no_bit_of_a_genuine_quote_can_be_changed(genuine_quote: bytes, genuine: Collateral) -> None:
    assert accepted(lambda: verify_quote(genuine_quote, genuine, now=GENUINE_TIME))
    changed = bytearray(genuine_quote)
    for bit in range(8 * len(genuine_quote)):
        changed[bit >> 3] ^= 1 << (bit & 7)
        assert not accepted(lambda: verify_quote(bytes(changed), genuine, now=GENUINE_TIME)), bit
        changed[bit >> 3] ^= 1 << (bit & 7)
    assert changed == genuine_quote


def test_no_bit_of_evidence_can_be_changed(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    pem_end = parse_evidence(evidence).quote.size
    for bit in [*range(0, 8 * PEM_START, 5), *range(8 * pem_end, 8 * len(evidence))]:
        changed = bytearray(evidence)
        changed[bit >> 3] ^= 1 << (bit & 7)
        assert not accepted(lambda: verify(bytes(changed), collateral, root=platform.root)), bit  # noqa: B023


def test_no_size_of_evidence_but_the_right_one_is_accepted(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    for size in [*range(0, len(evidence), 37), len(evidence) - 1]:
        assert not accepted(lambda: verify(evidence[:size], collateral, root=platform.root))  # noqa: B023
    assert not accepted(lambda: verify(evidence + b"\0", collateral, root=platform.root))
    assert not accepted(lambda: verify(evidence + evidence, collateral, root=platform.root))
    refused(Reason.EVIDENCE_SIZE, lambda: verify(bytes(64 << 20), collateral))


def changed_json(random_: random.Random, text: str) -> str:
    """Change what is not between quotes of a certificate only, so that much of it still reads as JSON."""
    document = bytearray(text.encode())
    for _ in range(random_.choice([1, 1, 1, 2, 4])):
        position = random_.randrange(len(document))
        kind = random_.randrange(3)
        if kind == 0:
            document[position] = random_.choice(b'0123456789abcdefABCDEF"\\{}[],:- \nZT')
        elif kind == 1:
            del document[position : position + random_.choice([1, 2, 64])]
        else:
            document[position:position] = random_.choice([b"0", b" ", b"\\n", b"00", b"=", b"}"])
    return document.decode("utf-8", "replace")


def test_what_is_accepted_after_random_changes_dcap_qvl_accepts_too(genuine_quote: bytes, genuine: Collateral) -> None:
    """Of changes that are accepted there are few: spaces between certificates, digits that were capital."""
    random_ = random.Random(2)
    text = genuine.to_json()
    number_accepted = 0
    for _ in range(1200):
        document = changed_json(random_, text)
        try:
            verified = verify_quote(genuine_quote, Collateral.from_json(document), now=GENUINE_TIME)
        except AttestationError:
            continue
        number_accepted += 1
        assert verified.tcb_status is TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
        theirs = dcap_qvl.QuoteCollateralV3.from_json(document)
        assert dcap_qvl.verify(genuine_quote, theirs, int(GENUINE_TIME.timestamp())).status == verified.tcb_status
    assert number_accepted < 60


# ---- the simulated platform -----------------------------------------------------------------------------------------


def test_simulated_evidence_is_accepted_with_its_own_root_only(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform, tmp_path: Path
) -> None:
    result = attest(evidence, collateral, policy(), nonce=NONCE, root=platform.root)
    assert result.root == platform.root
    assert result.root.name.startswith("SIMULATION - NOT INTEL")
    assert result.debug
    assert (result.tcb_status, result.advisories) == (TcbStatus.UP_TO_DATE, ())
    assert (result.mrenclave, result.mrsigner) == (MRENCLAVE, MRSIGNER)
    assert [one.model_id for one in result.models] == ["credit"]
    refused(Reason.ROOT_UNTRUSTED, lambda: attest(evidence, collateral, policy(), nonce=NONCE))
    other = SimulatedPlatform(tmp_path)
    refused(Reason.ROOT_UNTRUSTED, lambda: attest(evidence, collateral, policy(), nonce=NONCE, root=other.root))
    refused(Reason.ROOT_UNTRUSTED, lambda: verify(evidence, other.collateral(), root=platform.root))
    refused(Reason.DEBUG_ENCLAVE, lambda: attest(evidence, collateral, policy(allow_debug=False), root=platform.root))


def test_dcap_qvl_takes_the_simulated_platform_for_what_it_is(
    platform: SimulatedPlatform, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It refuses DEBUG, so here is the one simulated quote without.
    monkeypatch.setattr(attestation.ReportBody, "is_debug", True)
    quote = platform.quote(report_body(b"", INIT | MODE64))
    theirs = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_json())
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    root = platform._certificates.root.public_bytes(Encoding.DER)
    assert dcap_qvl.verify_with_root_ca(quote, theirs, root, now).status == "UpToDate"
    with pytest.raises(ValueError):
        dcap_qvl.verify(quote, theirs, now)
    with pytest.raises(ValueError, match=r"[Dd]ebug"):
        dcap_qvl.verify_with_root_ca(platform.quote(report_body(b"")), theirs, root, now)


def test_every_name_of_the_simulated_platform_says_so(platform: SimulatedPlatform, collateral: Collateral) -> None:
    quote = parse_quote(platform.quote(report_body(b"")))
    pem = quote.certificates.decode() + collateral.pck_crl_issuer_chain + collateral.tcb_info_issuer_chain
    certificates = x509.load_pem_x509_certificates(pem.encode())
    assert len(certificates) == 7
    for certificate in certificates:
        for attribute in (*certificate.subject, *certificate.issuer):
            assert str(attribute.value).startswith("SIMULATION - NOT INTEL")


def test_a_simulated_quote_always_says_debug(platform: SimulatedPlatform) -> None:
    for body in (report_body(b"", INIT | MODE64), b"", report_body(b"") + b"\0", bytearray(report_body(b""))):
        with pytest.raises(cml.InvalidInputError, match="report_body"):
            platform.quote(body)  # type: ignore[arg-type]


def test_the_platform_is_the_same_every_time_and_another_elsewhere(
    evidence: bytes, collateral: Collateral, tmp_path: Path
) -> None:
    first, again, other = (
        SimulatedPlatform(tmp_path),
        SimulatedPlatform(os.fsencode(tmp_path)),
        SimulatedPlatform(tmp_path / "b"),
    )
    assert first.root == again.root
    assert first.root != other.root
    claims = claims_bytes(model_entry())
    # Quote of the one, collateral of the other.
    assert accepted(lambda: verify(first.quote(report_body(claims)) + claims, again.collateral(), root=first.root))
    keys = [key for name, key in vars(first._keys).items() if name != "ppid"]
    assert len({key.private_numbers().private_value for key in keys}) == 5


def test_the_key_of_the_platform_is_made_once_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        roots = set(pool.map(root_of_this_installation, range(4)))
    assert roots == {simulated_platform.of_this_installation().root.public_key}
    (file,) = (tmp_path / "confidential_ml").iterdir()
    assert file.name == "simulation-platform-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(cml.EnclaveError, match="chmod 600"):
        simulated_platform.of_this_installation()
    file.chmod(0o600)
    file.write_text("not a key")
    with pytest.raises(cml.EnclaveError, match="does not hold a platform key"):
        simulated_platform.of_this_installation()


def root_of_this_installation(_: int) -> bytes:
    return simulated_platform.of_this_installation().root.public_key


def test_simulated_collateral_is_valid_for_some_days(platform: SimulatedPlatform, evidence: bytes) -> None:
    moment = datetime.datetime(2031, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
    collateral = platform.collateral(moment)
    for days in (-1, 0, 6):
        assert accepted(lambda: verify(evidence, collateral, root=platform.root, now=moment + days * DAY))  # noqa: B023
    for days in (-2, 8):
        assert not accepted(lambda: verify(evidence, collateral, root=platform.root, now=moment + days * DAY))  # noqa: B023
    with pytest.raises(cml.InvalidInputError, match="time zone"):
        platform.collateral(moment.replace(tzinfo=None))


def test_the_enclave_attributes_are_looked_at(platform: SimulatedPlatform, collateral: Collateral) -> None:
    for flags in (DEBUG | MODE64, INIT | DEBUG, INIT | DEBUG | MODE64 | PROVISION_KEY):
        quote = platform.quote(report_body(b"", flags))
        refused(Reason.ENCLAVE_ATTRIBUTES, lambda: verify_quote(quote, collateral, root=platform.root))  # noqa: B023


# ---- claims ---------------------------------------------------------------------------------------------------------


def test_claims_are_read_as_they_were_written() -> None:
    data = claims_bytes(model_entry(), model_entry("0a" * 32, "00" * 32, 0, b"x"), platform=3)
    claims = parse_claims(data)
    assert (claims.platform, claims.suites, claims.obliviousness, claims.rollback) == (
        "openenclave",
        1,
        1,
        "unprotected",
    )
    assert (claims.epoch, claims.instance, claims.config_digest, claims.nonce) == (5, b"i" * 16, CONFIG, NONCE)
    assert (claims.epoch_public_key, claims.receipt_public_key) == (b"e" * 32, b"r" * 32)
    assert claims.epoch_part == data[:144]
    assert claims.epoch_digest == hashlib.sha256(data[:144]).digest()
    assert claims.key_id == claims.epoch_digest[:8]
    first, second = claims.models
    assert (first.model_digest, first.model_id, first.owner, first.version) == (MODEL, "credit", OWNER, 7)
    assert (first.n_features, first.n_groups, first.n_values) == (6, 3, 3)
    assert (second.model_digest, second.model_id, second.owner, second.version) == ("0a" * 32, "x", None, 0)
    # Another nonce, another client: the same epoch.
    assert parse_claims(claims_bytes(nonce=b"", platform=3)).epoch_digest == claims.epoch_digest


def test_claims_of_another_evidence_are_refused(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    quote = evidence[: parse_evidence(evidence).quote.size]
    other = claims_bytes(model_entry(), nonce=NONCE[::-1])
    refused(Reason.CLAIMS_MISMATCH, lambda: verify(quote + other, collateral, root=platform.root))
    # The digest is right, but not alone: the rest of the report data must be zero.
    claims = claims_bytes()
    body = bytearray(report_body(claims))
    body[383] = 1
    refused(
        Reason.CLAIMS_MISMATCH, lambda: verify(platform.quote(bytes(body)) + claims, collateral, root=platform.root)
    )


# ---- policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mrenclave": [MRENCLAVE, "00" * 32]},
        {"mrenclave": MRENCLAVE.upper()},
        {"mrenclave": ANY},
        {"mrenclave": None, "mrsigner": MRSIGNER, "isv_prod_id": 9, "min_isv_svn": 4},
        {"mrenclave": None, "mrsigner": (MRSIGNER,), "isv_prod_id": ANY, "min_isv_svn": 0},
        {"mrsigner": MRSIGNER},
        {"model_digest": ANY},
        {"model_digest": {MODEL, "00" * 32}},
        {"model_digest": None, "model_owner": OWNER, "min_model_version": 7},
        {"accepted_tcb": TcbStatus.UP_TO_DATE},
        {"accepted_tcb": ["OutOfDate", "UpToDate"], "accepted_advisories": ["INTEL-SA-00001"]},
        {"min_tcb_evaluation_number": 1},
        {"max_age": 0, "config_digest": CONFIG, "rollback": "unprotected"},
    ],
)
def test_policies_that_accept(verified: VerifiedEvidence, changes: dict[str, Any]) -> None:
    result = appraise(verified, policy(**changes), nonce=NONCE, now=verified.verified_at)
    assert [one.model_digest for one in result.models] == [MODEL]
    assert AttestationPolicy.from_toml(policy(**changes).to_toml()) == policy(**changes)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (Reason.DEBUG_ENCLAVE, {"allow_debug": False}),
        (Reason.MRENCLAVE, {"mrenclave": "00" * 32}),
        (Reason.MRENCLAVE, {"mrenclave": "00" * 32, "mrsigner": MRSIGNER}),
        (Reason.MRSIGNER, {"mrsigner": "00" * 32}),
        (Reason.ISV_PROD_ID, {"isv_prod_id": 0}),
        (Reason.ISV_SVN, {"min_isv_svn": 5}),
        (Reason.TCB_STATUS, {"accepted_tcb": "OutOfDate"}),
        (Reason.TCB_EVALUATION_NUMBER, {"min_tcb_evaluation_number": 2}),
        (Reason.PPID, {"ppids": "00" * 16}),
        (Reason.MODEL, {"model_digest": "00" * 32}),
        (Reason.MODEL_OWNER, {"model_owner": "01" * 32}),
        (Reason.MODEL_VERSION, {"model_owner": OWNER, "min_model_version": 8}),
        (Reason.CONFIG, {"config_digest": "00" * 32}),
    ],
)
def test_policies_that_refuse(verified: VerifiedEvidence, reason: Reason, changes: dict[str, Any]) -> None:
    refused(reason, lambda: appraise(verified, policy(**changes)))


def test_advisories_are_accepted_one_by_one(verified: VerifiedEvidence) -> None:
    told = dataclasses.replace(verified, advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    error = refused(Reason.TCB_ADVISORY, lambda: appraise(told, policy(accepted_advisories="INTEL-SA-00001")))
    assert "INTEL-SA-00002" in str(error)
    assert "INTEL-SA-00001" not in error.sentence
    assert accepted(lambda: appraise(told, policy(accepted_advisories=told.advisories)))
    assert accepted(lambda: appraise(told, policy(accepted_advisories=ANY)))


def test_models_are_accepted_by_what_one_of_them_has(platform: SimulatedPlatform, collateral: Collateral) -> None:
    other, nobody = "0f" * 32, "00" * 32
    claims = claims_bytes(
        model_entry("01" * 32, OWNER, 3), model_entry("02" * 32, other, 9), model_entry("03" * 32, nobody, 9)
    )
    verified = verify(platform.quote(report_body(claims)) + claims, collateral, root=platform.root)

    def accepted_models(**changes: Any) -> list[str]:
        return [one.model_digest[:2] for one in appraise(verified, policy(**changes)).models]

    assert accepted_models(model_digest=ANY) == ["01", "02", "03"]
    assert accepted_models(model_digest=["03" * 32, "02" * 32, MODEL]) == ["02", "03"]
    assert accepted_models(model_digest=None, model_owner=[OWNER, other]) == ["01", "02"]
    assert accepted_models(model_digest=None, model_owner=[OWNER, other], min_model_version=4) == ["02"]
    # The digest of one and the version of another do not add up.
    mixed = policy(model_digest="01" * 32, model_owner=[OWNER, other], min_model_version=4)
    refused(Reason.MODEL_VERSION, lambda: appraise(verified, mixed))
    refused(Reason.MODEL_OWNER, lambda: appraise(verified, policy(model_digest="02" * 32, model_owner=OWNER)))


def test_a_nonce_must_be_the_one_that_was_asked_for(verified: VerifiedEvidence) -> None:
    any_kind: Any = bytearray(NONCE)
    assert accepted(lambda: appraise(verified, policy(), nonce=NONCE))
    assert accepted(lambda: appraise(verified, policy(), nonce=any_kind))
    for nonce in (NONCE[:-1], NONCE + b"\0", bytes(32)):
        refused(Reason.NONCE, lambda: appraise(verified, policy(), nonce=nonce))  # noqa: B023
    for bad in (b"", bytes(65), "text"):
        with pytest.raises(cml.InvalidInputError, match="nonce"):
            appraise(verified, policy(), nonce=bad)  # type: ignore[arg-type]


def test_verified_evidence_grows_old(verified: VerifiedEvidence) -> None:
    hourly, then = policy(max_age=datetime.timedelta(hours=1)), verified.verified_at
    assert accepted(lambda: appraise(verified, hourly, now=then + 3600 * SECOND))
    refused(Reason.TOO_OLD, lambda: appraise(verified, hourly, now=then + 3601 * SECOND))
    refused(Reason.TOO_OLD, lambda: appraise(verified, hourly, now=then - SECOND))
    assert accepted(lambda: appraise(verified, policy(), now=verified.earliest_expiry))
    refused(Reason.TOO_OLD, lambda: appraise(verified, policy(), now=verified.earliest_expiry + SECOND))


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("mrenclave", {"mrenclave": None}),
        ("mrsigner", {"mrenclave": None}),
        ("isv_prod_id", {"mrenclave": None, "mrsigner": MRSIGNER}),
        ("min_isv_svn", {"mrenclave": ANY, "mrsigner": MRSIGNER, "isv_prod_id": 1}),
        ("model_digest", {"model_digest": None}),
        ("model_owner", {"min_model_version": 1}),
        *(
            (name, {name: "0" * 63})
            for name in ("mrenclave", "mrsigner", "model_digest", "model_owner", "config_digest")
        ),
        *(
            (name, {name: []})
            for name in ("mrenclave", "mrsigner", "model_digest", "ppids", "accepted_tcb", "rollback")
        ),
        *((name, {name: b"0" * 64}) for name in ("mrenclave", "model_digest", "accepted_tcb", "accepted_advisories")),
        *((name, {name: "zz" * 32}) for name in ("mrenclave", "config_digest", "accepted_tcb", "rollback")),
        *((name, {name: True}) for name in ("isv_prod_id", "min_isv_svn", "min_tcb_evaluation_number", "max_age")),
        *((name, {name: -1}) for name in ("isv_prod_id", "min_isv_svn", "min_tcb_evaluation_number", "max_age")),
        *((name, {name: 1 << 64}) for name in ("isv_prod_id", "min_isv_svn", "min_tcb_evaluation_number", "max_age")),
        *((name, {name: 1.0}) for name in ("isv_prod_id", "min_isv_svn", "min_model_version")),
        *(("allow_debug", {"allow_debug": value}) for value in (1, "true", None, "True")),
        *(("max_age", {"max_age": value}) for value in (math.nan, math.inf, "3600")),
        ("min_model_version", {"min_model_version": 10**5000, "model_owner": OWNER}),
        ("ppids", {"ppids": "00" * 32}),
        ("ppids", {"ppids": ANY}),
        ("model_owner", {"model_owner": ANY}),
        ("accepted_tcb", {"accepted_tcb": "Revoked"}),
        ("accepted_tcb", {"accepted_tcb": ["UpToDate", "UPTODATE"]}),
        ("accepted_advisories", {"accepted_advisories": ["INTEL SA"]}),
        ("mrenclave", {"mrenclave": (one for one in [MRENCLAVE])}),
        ("mrenclave", {"mrenclave": {MRENCLAVE: 1}}),
        ("mrenclave", {"mrenclave": "\uff10" * 64}),
    ],
)
def test_policies_that_are_mistakes(names: str, values: dict[str, Any]) -> None:
    with pytest.raises(cml.InvalidInputError, match=rf"\b{names}\b"):
        policy(**values)


TEXTS = st.binary(min_size=32, max_size=32).map(bytes.hex) | st.just("aB" * 32)
OWNERS = TEXTS.filter(lambda text: is_sound(bytes.fromhex(text)))
POLICIES = st.fixed_dictionaries(
    {"mrenclave": TEXTS | st.lists(TEXTS, min_size=1, max_size=3) | st.just(ANY), "model_digest": TEXTS | st.just(ANY)},
    optional={
        "mrsigner": TEXTS | st.just(ANY),
        "isv_prod_id": st.integers(0, 65535) | st.just(ANY),
        "accepted_tcb": st.lists(st.sampled_from(list(TcbStatus)[:-1]), min_size=1),
        "accepted_advisories": st.lists(st.from_regex(r"INTEL-SA-[0-9]{5}", fullmatch=True)) | st.just(ANY),
        "min_tcb_evaluation_number": st.integers(0, 2**31 - 1),
        "allow_debug": st.booleans(),
        "max_age": st.integers(0, 10**9) | st.timedeltas(datetime.timedelta(0), datetime.timedelta(days=36500)),
        "config_digest": TEXTS,
        "rollback": st.just("unprotected"),
    },
)


@pytest.mark.parametrize("name", ["mrenclave", "mrsigner", "model_digest"])
def test_the_text_any_is_for_toml(name: str) -> None:
    with pytest.raises(cml.InvalidInputError, match=f'{name} is the text "ANY".*pass ANY itself'):
        policy(**{name: "ANY"})


@FUZZ
@given(POLICIES, st.integers(0, 65535), OWNERS, st.integers(0, 2**63 - 1))
def test_policies_come_back_from_toml_as_they_were(values: dict[str, Any], svn: int, owner: str, version: int) -> None:
    made = AttestationPolicy(
        **{"isv_prod_id": ANY, **values}, min_isv_svn=svn, model_owner=owner, min_model_version=version
    )
    assert AttestationPolicy.from_toml(made.to_toml()) == made
    assert set(tomllib.loads(made.to_toml())) <= {field.name for field in dataclasses.fields(made)}


def test_policies_and_collateral_come_back_from_files(tmp_path: Path, collateral: Collateral) -> None:
    made = policy(ppids="ab" * 16, max_age=0.25)
    made.save(tmp_path / "policy.toml")
    assert AttestationPolicy.load(tmp_path / "policy.toml") == made
    collateral.save(str(tmp_path / "collateral.json"))
    collateral.save(str(tmp_path / "collateral.json"))
    assert Collateral.load(tmp_path / "collateral.json") == collateral
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collateral.json", "policy.toml"]
    for load in (Collateral.load, AttestationPolicy.load):
        with pytest.raises(cml.InvalidInputError, match="cannot be read"):
            load(tmp_path / "absent")
    with pytest.raises(cml.InvalidInputError, match="cannot be written"):
        made.save(tmp_path / "absent" / "policy.toml")
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    for load in (Collateral.load, AttestationPolicy.load):
        with pytest.raises(cml.InvalidInputError, match="more than"):
            load(tmp_path / "large")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("mrenclave =", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
        ("mrenclaves = 'ANY'", "'mrenclaves'"),
        ("mrenclave = 'any'\nmodel_digest = 'ANY'", "mrenclave"),
        ("mrenclave = 'ANY'\nmodel_digest = 'ANY'\nallow_debug = 1", "allow_debug"),
        ("mrenclave = 'ANY'\nmodel_digest = 'ANY'\nallow_debug = 'true'", "allow_debug"),
        ("mrenclave = ['ANY']\nmodel_digest = 'ANY'", "mrenclave"),
        ("mrenclave = 'ANY'\nmodel_digest = 'ANY'\nmax_age = 2025-06-19", "max_age"),
        ("mrenclave = 'ANY'\nmodel_digest = 'ANY'\nmax_age = nan", "max_age"),
        ("model_digest = 'ANY'", "which enclave"),
        ("[mrenclave]\nx = 1", "mrenclave"),
        ("\x00", "not TOML"),
    ],
)
def test_toml_that_is_no_policy(document: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(cml.InvalidInputError, match=re.escape(said)):
        AttestationPolicy.from_toml(document)
    (tmp_path / "policy.toml").write_bytes(document.encode())
    with pytest.raises(cml.InvalidInputError, match=r"policy\.toml: .*" + re.escape(said)):
        AttestationPolicy.load(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff")
    with pytest.raises(cml.InvalidInputError, match="not UTF-8"):
        AttestationPolicy.load(tmp_path / "policy.toml")


def test_the_policy_of_the_documentation_can_be_read() -> None:
    text = (ROOT / "docs" / "attestation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    whole = re.sub(r'"([0-9a-f]{4})\.\.\."', lambda match: f'"{match[1] * 16}"', example)
    made = AttestationPolicy.from_toml(whole)
    assert made.accepted_tcb == {TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED}
    assert made.max_age == datetime.timedelta(hours=1)


# ---- arguments ------------------------------------------------------------------------------------------------------


class Text(str):
    """Text that says it is equal to everything, and could be taken for what is kept."""

    __slots__ = ()

    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = str.__hash__


def test_wrong_arguments_are_mistakes_of_the_caller(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform, verified: VerifiedEvidence
) -> None:
    naive, extreme = datetime.datetime(2026, 1, 1), datetime.datetime.max.replace(tzinfo=datetime.timezone(-DAY / 2))
    anything: Any = evidence
    bare: Any = verify_quote(platform.quote(report_body(b"")), collateral, root=platform.root, allow_debug=True)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("now", lambda: verify(evidence, collateral, root=platform.root, now=naive)),
        ("now", lambda: verify(evidence, collateral, root=platform.root, now=extreme)),
        ("now", lambda: verify(evidence, collateral, root=platform.root, now=anything)),
        ("now", lambda: appraise(verified, policy(), now=naive)),
        ("now", lambda: attest(evidence, collateral, policy(), root=platform.root, now=naive)),
        ("evidence", lambda: parse_evidence("text" * 1000)),  # type: ignore[arg-type]
        ("claims", lambda: parse_claims(None)),  # type: ignore[arg-type]
        ("collateral", lambda: verify(evidence, anything, root=platform.root)),
        ("root", lambda: verify(evidence, collateral, root=anything)),
        ("policy", lambda: attest(evidence, collateral, anything, root=platform.root)),
        ("verified", lambda: appraise(anything, policy())),
        ("verified", lambda: appraise(bare, policy())),
        ("document", lambda: Collateral.from_json(anything[0])),
        ("pck_crl", lambda: dataclasses.replace(collateral, pck_crl=bytearray(collateral.pck_crl))),  # type: ignore[arg-type]
        ("tcb_info", lambda: dataclasses.replace(collateral, tcb_info=b"{}")),  # type: ignore[arg-type]
        ("tcb_info", lambda: dataclasses.replace(collateral, tcb_info=Text(collateral.tcb_info))),
        *(("name", functools.partial(TrustRoot, name, INTEL_ROOT.public_key)) for name in ("", "x\nok      y")),
        ("public_key", lambda: TrustRoot("x", b"")),
        ("public_key", lambda: TrustRoot("x", INTEL_ROOT.public_key + b"\0")),
        ("certificate", lambda: TrustRoot.from_certificate(b"-----BEGIN", name="x")),
        ("certificate", lambda: TrustRoot.from_certificate("\ud800", name="x")),
    ]
    for said, call in calls:
        with pytest.raises(cml.InvalidInputError, match=rf"\b{said}\b"):
            call()


def test_a_root_must_be_a_p256_key(platform: SimulatedPlatform) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(cml.InvalidInputError, match="P-256"):
        TrustRoot("x", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + (
        platform._keys.root.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    with pytest.raises(cml.InvalidInputError, match="uncompressed"):
        TrustRoot("x", compressed)
    pem = platform._certificates.root.public_bytes(Encoding.PEM)
    assert TrustRoot.from_certificate(pem.decode(), name="x").public_key == platform.root.public_key


def test_evidence_may_be_any_kind_of_bytes(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    for kind in (bytes, bytearray, memoryview):
        given_: Any = kind(evidence)
        assert verify(given_, collateral, root=platform.root).quote == parse_evidence(evidence).quote


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_an_explanation_tells_every_check_in_a_line(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    result = attest(evidence, collateral, policy(ppids=None), nonce=NONCE, root=platform.root)
    lines = result.explain().splitlines()
    assert len(lines) > 12
    assert all(line.startswith("ok ") for line in lines)
    for told in (MRENCLAVE, MODEL, "SIMULATION - NOT INTEL", "DEBUG", "UpToDate", "nonce as asked for"):
        assert told in result.explain()
    assert f"MRSIGNER {MRSIGNER} (not asked for)" in result.explain()

    error = refused(
        Reason.MODEL, lambda: attest(evidence, collateral, policy(model_digest="00" * 32), root=platform.root)
    )
    *passed, last = error.explain().splitlines()
    assert len(passed) > 10
    assert passed == [line for line in passed if line.startswith("ok ")]
    assert last == f"REFUSED {error}"
    assert last.endswith("(model)")
    # From a function that parses there is nothing that passed.
    (line,) = refused(Reason.CLAIMS_FORMAT, lambda: parse_claims(b"")).explain().splitlines()
    assert line.startswith("REFUSED ")


def test_an_explanation_is_the_same_from_kept_collateral(genuine_quote: bytes, genuine: Collateral) -> None:
    checked_collateral.cache_clear()
    first = verify_quote(genuine_quote, genuine, now=GENUINE_TIME)
    assert verify_quote(genuine_quote, genuine, now=GENUINE_TIME).explain() == first.explain()
    errors = [refused(Reason.CRL_EXPIRED, lambda: verify_quote(genuine_quote, genuine)).explain() for _ in range(2)]
    assert errors[0] == errors[1]
    broken = dataclasses.replace(genuine, tcb_info=genuine.tcb_info.replace('"svn":11', '"svn":01', 1))
    errors = [
        refused(Reason.TCB_INFO_SIGNATURE, lambda: verify_quote(genuine_quote, broken, now=GENUINE_TIME)).explain()
        for _ in range(2)
    ]
    assert errors[0] == errors[1]
    assert "ok      CRLs signed" in errors[0]


def test_errors_and_results_can_be_copied(verified: VerifiedEvidence) -> None:
    error = refused(Reason.MRENCLAVE, lambda: appraise(verified, policy(mrenclave="00" * 32)))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (again.reason, str(again), again.explain()) == (error.reason, str(error), error.explain())
    assert issubclass(AttestationError, cml.ConfidentialMLError)
    assert cml.AttestationError is AttestationError
    assert pickle.loads(pickle.dumps(verified)) == verified
    assert pickle.loads(pickle.dumps(policy(model_digest=ANY))) == policy(model_digest=ANY)
    assert pickle.loads(pickle.dumps(policy(model_digest=ANY))).model_digest is ANY


def test_reasons_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs" / "attestation.md").read_text(encoding="utf-8")
    section = text.split("## 4. What is checked")[1].split("\n## 5")[0]
    documented = set()
    for line in section.splitlines():
        if line.startswith("| ") and line.count("|") >= 3:
            documented |= set(re.findall(r"`([a-z][a-z-]*)`", line.rsplit("|", 2)[1]))
    assert documented == {reason.value for reason in Reason}


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_collateral_is_checked_once_for_each_root(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    checked_collateral.cache_clear()
    for _ in range(3):
        verify(evidence, Collateral.from_json(collateral.to_json()), root=platform.root)
    assert (checked_collateral.cache_info().misses, checked_collateral.cache_info().hits) == (1, 2)
    assert not accepted(lambda: verify(evidence, collateral))
    alias = TrustRoot("another name", platform.root.public_key)
    assert verify(evidence, collateral, root=alias).root.name == "another name"
    assert "another name" in verify(evidence, collateral, root=alias).explain()


def test_no_part_of_kept_collateral_can_be_exchanged(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    assert accepted(lambda: verify(evidence, collateral, root=platform.root))
    fresh = platform.collateral(datetime.datetime.now(datetime.UTC) - 100 * DAY)
    for field in dataclasses.fields(collateral):
        other = getattr(fresh, field.name)
        if not field.name.endswith("_chain"):
            changed = dataclasses.replace(collateral, **{field.name: other})
            assert not accepted(lambda: verify(evidence, changed, root=platform.root)), field.name  # noqa: B023


def test_what_is_kept_is_bounded(platform: SimulatedPlatform, evidence: bytes) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for seconds in range(40):
        verify(evidence, platform.collateral(now - seconds * SECOND), root=platform.root, now=now)
    information = checked_collateral.cache_info()
    assert information.maxsize is not None
    assert information.currsize == information.maxsize < 40


def test_threads_verify_side_by_side(platform: SimulatedPlatform) -> None:
    checked_collateral.cache_clear()
    collaterals = [platform.collateral() for _ in range(4)]
    results: list[bool] = []

    def run(number: int) -> None:
        claims = claims_bytes(model_entry(), nonce=bytes([number]) * 16)
        quote = platform.quote(report_body(claims)) + claims
        for index in range(8):
            result = attest(quote, collaterals[index % 4], policy(), nonce=bytes([number]) * 16, root=platform.root)
            results.append(result.claims.nonce == bytes([number]) * 16)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 48


# ---- hostile bytes --------------------------------------------------------------------------------------------------


def edited(data: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """Replace parts by others: where, by what, how much of the old."""
    changed = bytearray(data)
    for position, new, size in edits:
        position %= len(changed) + 1
        changed[position : position + size] = new
    return bytes(changed)


EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=8), st.integers(0, 8)), max_size=4)


@FUZZ
@given(st.binary(max_size=3000) | st.binary(max_size=40).map(lambda part: part * 100))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_quote, parse_evidence, parse_claims, Collateral.from_json):
        accepted(lambda: parse(data))  # noqa: B023


@FUZZ
@given(edits=EDITS)
def test_changed_evidence_is_parsed_or_refused(edits: list[tuple[int, bytes, int]], evidence: bytes) -> None:
    accepted(lambda: parse_claims(parse_evidence(edited(evidence, edits)).claims))


@FUZZ
@given(edits=EDITS)
def test_changed_claims_are_read_whole_or_refused(edits: list[tuple[int, bytes, int]]) -> None:
    data = edited(claims_bytes(model_entry(), model_entry(name=b"b")), edits)
    try:
        claims = parse_claims(data)
    except AttestationError:
        return
    sizes = sum(32 + 32 + 8 + 12 + 2 + len(one.model_id) for one in claims.models)
    assert len(data) == 152 + len(claims.nonce) + sizes


@FUZZ
@given(edits=EDITS, name=st.sampled_from([field.name for field in dataclasses.fields(Collateral)]))
def test_changed_collateral_verifies_or_is_refused(
    edits: list[tuple[int, bytes, int]],
    name: str,
    evidence: bytes,
    collateral: Collateral,
    platform: SimulatedPlatform,
) -> None:
    old = getattr(collateral, name)
    new = edited(old if isinstance(old, bytes) else old.encode(), edits)
    value: Any = new if isinstance(old, bytes) else new.decode("latin-1")

    def call() -> object:
        changed = dataclasses.replace(collateral, **{name: value})
        return verify(evidence, changed, root=platform.root)

    if accepted(call):
        # Line ends of PEM, and ECDSA has no two encodings here.
        assert value == old or name.endswith("_chain")


@FUZZ
@given(edits=EDITS)
def test_changed_certificates_of_a_quote_verify_or_are_refused(
    edits: list[tuple[int, bytes, int]], evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    data = with_chain(evidence, edited(parse_evidence(evidence).quote.certificates, edits))
    accepted(lambda: verify(data, collateral, root=platform.root))


def sgx_extension(platform: SimulatedPlatform) -> bytes:
    (extension,) = [one for one in platform._certificates.pck.extensions if one.oid.dotted_string == SGX_EXTENSION_OID]
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    return extension.value.value


@FUZZ
@given(edits=EDITS)
def test_changed_pck_extensions_are_read_or_refused(
    edits: list[tuple[int, bytes, int]], platform: SimulatedPlatform
) -> None:
    data = edited(sgx_extension(platform), edits)
    try:
        extension = parse_pck_extension(data)
    except der.DerError:
        return
    assert (len(extension.ppid), len(extension.components), len(extension.fmspc)) == (32, 16, 12)
    # DER has one form for a value: what is read has the size of the original.
    assert abs(len(data) - len(sgx_extension(platform))) <= 18


OID_7 = bytes.fromhex("2a864886f84d010d0107")


def test_pck_extensions_keep_to_the_letter_of_der(platform: SimulatedPlatform) -> None:
    data = sgx_extension(platform)
    assert parse_pck_extension(data).pce_svn == 1
    size = int.from_bytes(data[2:4], "big")
    assert data[:2] == b"\x30\x82"
    body = data[4:]
    first = body[: 2 + body[1]]
    pce_svn = bytes.fromhex("060b2a864886f84d010d010211020101")
    assert data.count(pce_svn) == 1
    wrong = {
        "cut short": data[:-1],
        "a byte after": data + b"\0",
        "indefinite length": b"\x30\x80" + body + b"\0\0",
        "length in three octets": b"\x30\x83\0" + data[2:],
        "a field twice": b"\x30\x82" + (size + len(first)).to_bytes(2, "big") + body + first,
        "a field missing": b"\x30\x82" + (size - len(first)).to_bytes(2, "big") + body[len(first) :],
        "negative": data.replace(pce_svn, pce_svn[:-1] + b"\xff"),
        "another OID": data.replace(pce_svn, pce_svn.replace(b"\x02\x11", b"\x02\x13", 1)),
        "an INTEGER become an OCTET STRING": data.replace(pce_svn, pce_svn[:-3] + b"\x04\x01\x01"),
        "nothing": b"",
        "an unknown configuration": data.replace(OID_7 + b"\3\1", OID_7 + b"\4\1"),
        "an OID of its last number alone": simulated_platform._der(
            0x30, body.replace(first, simulated_platform._der(0x30, b"\x06\1\1" + first[14:]))
        ),
    }
    for what, changed in wrong.items():
        assert changed != data, what
        with pytest.raises(der.DerError):
            parse_pck_extension(changed)


@pytest.mark.parametrize(
    "data", [b"\x04", b"\x04\x02a", b"\x04\x81\x80" + bytes(127), b"\x04\x82\x01", b"\x1f\x01\x00"]
)
def test_der_that_is_cut_short_or_odd(data: bytes) -> None:
    with pytest.raises(der.DerError):
        der.elements(data)
    assert der.elements(b"\x04\x81\x80" + bytes(128)) == [(der.OCTET_STRING, bytes(128))]


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"\0", 0), (b"\x7f", 127), (b"\0\x80", 128), (b"\0\xff\xff", 65535)],
)
def test_der_integers_in_their_shortest_form(content: bytes, value: int) -> None:
    assert der.integer(content, 65535) == value


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\x7f", b"\x80", b"\xff\xff", b"\1\0\0"])
def test_der_integers_that_are_refused(content: bytes) -> None:
    with pytest.raises(der.DerError):
        der.integer(content, 65535)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@FUZZ
@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Collateral)]) | st.text(), JSON))
def test_any_json_is_collateral_or_refused(document: dict[str, Any]) -> None:
    assert not accepted(lambda: Collateral.from_json(json.dumps(document)))


@pytest.mark.parametrize(
    "document",
    [
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":2}}',
        '{"a":1.0}',
        '{"a":1e2}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":12345678901}',
        '{"a":' + "9" * 100_000 + "}",
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 17 + "1" + "}" * 17,
        '{"a":[' + "[]," * 20_000 + "[]]}",
        '{"a":1}}',
        '{"a":1} x',
        '{"a":"\n"}',
        "{'a':1}",
        '\ufeff{"a":1}',
        "[]",
        "",
    ],
)
def test_json_that_is_refused(document: str) -> None:
    refused(Reason.TCB_INFO_FORMAT, lambda: parse_object(document, "it", Reason.TCB_INFO_FORMAT))
    assert not accepted(lambda: Collateral.from_json(document))
    assert not accepted(lambda: Collateral.from_json(document.encode()))


def test_json_up_to_the_limits_is_read() -> None:
    fields = parse_object('{"a":' * 15 + '{"n":4294967295,"t":"[[[{{"}' + "}" * 15, "it", Reason.TCB_INFO_FORMAT)
    for _ in range(15):
        fields = fields.inner("a")
    assert (fields.integer("n", (1 << 32) - 1), fields.text("t")) == ((1 << 32) - 1, "[[[{{")


@pytest.mark.parametrize(
    "text",
    ["2025-02-30T00:00:00Z", "2025-06-19T10:56:11", "2025-06-19T10:56:11+00:00", "0000-01-01T00:00:00Z", "x", 5, None],
)
def test_times_that_are_none(text: object) -> None:
    fields = parse_object(json.dumps({"t": text}), "it", Reason.TCB_INFO_FORMAT)
    refused(Reason.TCB_INFO_FORMAT, lambda: fields.time("t"))


def test_collateral_in_any_wrong_form_is_refused(collateral: Collateral) -> None:
    document = json.loads(collateral.to_json())
    for name in document:
        without = {key: value for key, value in document.items() if key != name}
        for changed in (without, {**without, name: None}, {**without, name: 5}, {**document, f"{name}x": ""}):
            refused(Reason.COLLATERAL_FORMAT, lambda: Collateral.from_json(json.dumps(changed)))  # noqa: B023
        if name.endswith(("_crl", "_signature")):
            for text in (document[name] + "0", document[name][:-2] + "zz", document[name] + "00" * (257 << 10)):
                changed = {**document, name: text}
                refused(Reason.COLLATERAL_FORMAT, lambda: Collateral.from_json(json.dumps(changed)))  # noqa: B023
        else:
            for text in (document[name] + "\u00e4", document[name] + "\ud800", document[name] + " " * (257 << 10)):
                changed = {**document, name: text}
                refused(Reason.COLLATERAL_FORMAT, lambda: Collateral.from_json(json.dumps(changed)))  # noqa: B023
    refused(Reason.COLLATERAL_FORMAT, lambda: Collateral.from_json(b"\xff"))
    refused(Reason.COLLATERAL_FORMAT, lambda: Collateral.from_json(collateral.to_json() + " " * (2 << 20)))
    assert accepted(lambda: Collateral.from_json(collateral.to_json() + " " * (1 << 20)))


@FUZZ
@given(st.text(max_size=60) | st.from_regex(r"(mrenclave|max_age|allow_debug|ppids) = .{0,30}", fullmatch=True))
def test_any_text_is_a_policy_or_a_mistake(document: str) -> None:
    with pytest.raises(cml.InvalidInputError):
        AttestationPolicy.from_toml(document)


# ---- statuses -------------------------------------------------------------------------------------------------------


def test_the_status_of_the_quoting_enclave_counts() -> None:
    up, old, revoked = TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED
    hardening, configuration = TcbStatus.SW_HARDENING_NEEDED, TcbStatus.CONFIGURATION_NEEDED
    both, old_too = TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
    for status in TcbStatus:
        assert merged_status(status, up) is status
        assert merged_status(status, revoked) is revoked
    merged = {status: merged_status(status, old) for status in TcbStatus}
    assert merged == {
        up: old, hardening: old, configuration: old_too, both: old_too, old: old, old_too: old_too, revoked: revoked
    }  # fmt: skip


# ---- what the code base keeps ---------------------------------------------------------------------------------------


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "confidential_ml":
                yield from (f"confidential_ml.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def test_a_verifier_imports_nothing_of_enclaves_or_arrays() -> None:
    allowed = {"confidential_ml.errors", "confidential_ml.regular_file", "confidential_ml.sealed_file"}
    allowed |= {"confidential_ml.owner_key", "confidential_ml.replacement"}
    allowed |= {"confidential_ml.card", "confidential_ml.identity"}
    modules = [path for path in (PACKAGE / "attestation").glob("*.py") if path.stem != "collateral_service"]
    assert len(modules) > 12
    others = [PACKAGE / f"{name.removeprefix('confidential_ml.')}.py" for name in sorted(allowed)]
    for path in [*modules, *others]:
        for name in imports_of(path):
            top = name.split(".")[0]
            own = name in allowed or name.startswith("confidential_ml.attestation")
            assert top in sys.stdlib_module_names or top == "cryptography" or own, (path.name, name)


def test_nothing_in_the_environment_changes_a_verdict() -> None:
    # These fetch and keep collateral, whose verification does not depend on where it comes from.
    fetching = {"collateral_cache.py", "collateral_service.py", "http_get.py", "service_responses.py"}
    for path in (PACKAGE / "attestation").glob("*.py"):
        assert path.name in fetching or not re.search(r"environ|getenv|simulat(ion|ed_platform)\b", code_of(path)), (
            path.name
        )


def code_of(path: Path) -> str:
    """The code of a file without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree)


def test_hostile_certificates_are_refused_though_warnings_are_errors(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    """A negative serial number makes cryptography warn, and a warning may be an error."""
    root = platform._certificates.root.public_bytes(Encoding.DER)
    assert root.count(b"\x02\x01\x01") >= 1
    odd = root.replace(b"\x02\x01\x01", b"\x02\x01\xff", 1)
    signer, _ = re.findall(r"-----BEGIN.+?-----END CERTIFICATE-----\n", collateral.tcb_info_issuer_chain, re.DOTALL)
    changed = dataclasses.replace(collateral, tcb_info_issuer_chain=signer + pem_of(odd))
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert not accepted(lambda: verify(evidence, changed, root=platform.root))


# ---- what a root could sign and must not be believed ----------------------------------------------------------------


def reissued(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *edits: tuple[bytes, bytes],
    name: x509.Name | None = None,
    serial: int | None = None,
    constraints_critical: bool = True,
) -> bytes:
    """DER of the certificate with other contents, signed anew by `key`; `edits` replace bytes of what is signed."""
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    builder = x509.CertificateBuilder(
        certificate.issuer, name or certificate.subject, public_key, serial or certificate.serial_number, start, end
    )
    for one in certificate.extensions:
        critical = constraints_critical if isinstance(one.value, x509.BasicConstraints) else one.critical
        builder = builder.add_extension(one.value, critical)
    signed = builder.sign(key, hashes.SHA256()).tbs_certificate_bytes
    content = signed[4:]
    assert signed == simulated_platform._der(0x30, content)
    for old, new in edits:
        assert old in content
        content = content.replace(old, new, 1)
    signed = simulated_platform._der(0x30, content)
    signature = b"\0" + key.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    parts = signed + algorithm + simulated_platform._der(0x03, signature)
    return simulated_platform._der(0x30, parts)


def pem_of(*certificates: x509.Certificate | bytes) -> str:
    """A chain of certificates, or DER of such."""
    ders = [one if isinstance(one, bytes) else one.public_bytes(Encoding.DER) for one in certificates]
    return "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n" for der in ders
    )


def with_chain(evidence: bytes, pem: bytes) -> bytes:
    """The evidence with another chain in its quote."""
    quote = parse_evidence(evidence).quote
    size = quote.size - len(quote.certificates)
    data = bytearray(evidence[:size] + pem + evidence[quote.size :])
    struct.pack_into("<I", data, 432, size + len(pem) - 436)
    struct.pack_into("<I", data, size - 4, len(pem))
    return bytes(data)


def revoking(collateral: Collateral, platform: SimulatedPlatform, serial: int) -> Collateral:
    """Collateral whose root CA CRL names a serial number."""
    old = x509.load_der_x509_crl(collateral.root_ca_crl)
    entry = x509.RevokedCertificateBuilder(serial, old.last_update_utc).build()
    builder = x509.CertificateRevocationListBuilder(old.issuer, old.last_update_utc, old.next_update_utc, [], [entry])
    for one in old.extensions:
        builder = builder.add_extension(one.value, one.critical)
    crl = builder.sign(platform._keys.root, hashes.SHA256()).public_bytes(Encoding.DER)
    return dataclasses.replace(collateral, root_ca_crl=crl)


ODD_LEAVES: list[tuple[Reason, dict[str, Any], list[tuple[bytes, bytes]]]] = [
    *(
        (Reason.CHAIN_INVALID, {}, [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + version)])
        for version in (b"\0", b"\1", b"\3")
    ),
    (Reason.CHAIN_INVALID, {}, [(b"\xa0\x03\x02\x01\x02", b"")]),
    (Reason.CHAIN_INVALID, {}, [(b"\x02\x01\x03", b"\x02\x01\x00")]),
    (Reason.CHAIN_INVALID, {}, [(b"\x02\x01\x03", b"\x02\x01\xff")]),
    (Reason.CHAIN_INVALID, {}, [(b"\x17\x0d200101", b"\x17\x0d690101")]),
    (
        Reason.CERTIFICATE_ROLE,
        {
            "name": x509.Name(
                [
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, f"SIMULATION - NOT INTEL {role}")
                    for role in ("SGX PCK Certificate", "SGX TCB Signing")
                ]
            )
        },
        [],
    ),
]


@pytest.mark.parametrize(("reason", "changes", "edits"), ODD_LEAVES)
@pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning"
)  # cryptography warns of odd serial numbers
def test_odd_certificates_are_refused_though_signed(
    reason: Reason,
    changes: dict[str, Any],
    edits: list[tuple[bytes, bytes]],
    evidence: bytes,
    collateral: Collateral,
    platform: SimulatedPlatform,
) -> None:
    own = platform._certificates
    same = reissued(own.pck, platform._keys.pck_ca)
    assert accepted(
        lambda: verify(
            with_chain(evidence, pem_of(same, own.pck_ca, own.root).encode()), collateral, root=platform.root
        )
    )
    odd = reissued(own.pck, platform._keys.pck_ca, *edits, **changes)
    data = with_chain(evidence, pem_of(odd, own.pck_ca, own.root).encode())
    refused(reason, lambda: verify(data, collateral, root=platform.root))


def test_constraints_of_a_ca_must_be_critical(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    own = platform._certificates
    lax = reissued(own.pck_ca, platform._keys.root, constraints_critical=False)
    data = with_chain(evidence, pem_of(own.pck, lax, own.root).encode())
    refused(Reason.CERTIFICATE_CONSTRAINTS, lambda: verify(data, collateral, root=platform.root))


def test_each_certificate_of_the_pck_ca_can_be_revoked(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    """One in the quote and one in the collateral, of the same name and key."""
    own = platform._certificates
    second = reissued(own.pck_ca, platform._keys.root, serial=77)
    data = with_chain(evidence, pem_of(own.pck, second, own.root).encode())
    assert accepted(lambda: verify(data, collateral, root=platform.root))
    for serial in (77, own.pck_ca.serial_number):
        changed = revoking(collateral, platform, serial)
        refused(Reason.PCK_CA_REVOKED, lambda: verify(data, changed, root=platform.root))  # noqa: B023
    assert accepted(lambda: verify(evidence, revoking(collateral, platform, 77), root=platform.root))


@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_each_signer_can_be_revoked(
    document: str, evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    own = platform._certificates
    second = pem_of(reissued(own.tcb_signer, platform._keys.root, serial=78), own.root)
    two: dict[str, Any] = {f"{document}_issuer_chain": second}
    changed = dataclasses.replace(collateral, **two)
    assert accepted(lambda: verify(evidence, changed, root=platform.root))
    for serial in (78, own.tcb_signer.serial_number):
        told = revoking(changed, platform, serial)
        refused(Reason.TCB_SIGNER_REVOKED, lambda: verify(evidence, told, root=platform.root))  # noqa: B023


def test_the_pck_crl_must_be_of_the_ca_by_its_name_too(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    """A processor CA with the key of the platform CA: its list says nothing of the other's certificates."""
    own, keys = platform._certificates, platform._keys
    other = reissued(own.pck_ca, keys.root, name=simulated_platform._name("SGX PCK Processor CA"))
    old = x509.load_der_x509_crl(collateral.pck_crl)
    assert old.next_update_utc is not None
    changed = dataclasses.replace(
        collateral,
        pck_crl_issuer_chain=pem_of(other, own.root),
        pck_crl=simulated_platform._crl(
            x509.load_der_x509_certificate(other), keys.pck_ca, old.last_update_utc, old.next_update_utc
        ),
    )
    refused(Reason.CRL_ISSUER, lambda: verify(evidence, changed, root=platform.root))


def signed_anew(
    collateral: Collateral, platform: SimulatedPlatform, name: str, change: Callable[[Any], None]
) -> Collateral:
    """Collateral whose TCB info or QE identity says something else, as its signer could."""
    document = json.loads(getattr(collateral, name))
    change(document)
    text = json.dumps(document)
    signature = simulated_platform._raw_signature(platform._keys.tcb_signer, text.encode())
    values: dict[str, Any] = {name: text, f"{name}_signature": signature}
    return dataclasses.replace(collateral, **values)


def test_the_tcb_is_as_old_as_the_older_of_its_parts(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    for name in ("tcb_info", "qe_identity"):

        def make_older(document: Any) -> None:
            document["tcbLevels"][0]["tcbDate"] = "2019-05-15T00:00:00Z"

        changed = signed_anew(collateral, platform, name, make_older)
        assert verify(evidence, changed, root=platform.root).tcb_date.year == 2019


def test_a_level_has_sixteen_components(evidence: bytes, collateral: Collateral, platform: SimulatedPlatform) -> None:
    for count in (0, 15, 17):

        def resize(document: Any) -> None:
            document["tcbLevels"][0]["tcb"]["sgxtcbcomponents"] = [{"svn": 1}] * count  # noqa: B023

        changed = signed_anew(collateral, platform, "tcb_info", resize)
        refused(Reason.TCB_INFO_FORMAT, lambda: verify(evidence, changed, root=platform.root))  # noqa: B023


def test_a_crl_from_before_the_epoch_is_none(
    evidence: bytes, collateral: Collateral, platform: SimulatedPlatform
) -> None:
    start, end = datetime.datetime(1965, 1, 1, tzinfo=datetime.UTC), datetime.datetime.now(datetime.UTC) + DAY
    crl = simulated_platform._crl(platform._certificates.pck_ca, platform._keys.pck_ca, start, end)
    changed = dataclasses.replace(collateral, pck_crl=crl)
    refused(Reason.CRL_FORMAT, lambda: verify(evidence, changed, root=platform.root))


def test_a_root_must_be_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it not, its name alone would be the word that the others' names begin with."""
    name = simulated_platform._name

    def named(role: str) -> x509.Name:
        return (
            name(role)
            if role != "SGX Root CA"
            else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SIMULATION - NOT INTEL ")])
        )

    monkeypatch.setattr(simulated_platform, "_name", named)
    odd = SimulatedPlatform(tmp_path)
    quote = odd.quote(report_body(b""))
    refused(Reason.CERTIFICATE_ROLE, lambda: verify_quote(quote, odd.collateral(), root=odd.root))


def test_only_one_nul_may_end_a_chain(evidence: bytes, collateral: Collateral, platform: SimulatedPlatform) -> None:
    for nuls in (0, 1, 2):
        data = with_chain(evidence, parse_evidence(evidence).quote.certificates + bytes(nuls))
        assert accepted(lambda: verify(data, collateral, root=platform.root)) == (nuls < 2)  # noqa: B023


def test_public_names_are_documented() -> None:
    for name in attestation.__all__:
        thing = getattr(attestation, name)
        assert thing.__doc__, name
        if callable(thing) and not isinstance(thing, type):
            assert re.search(r"^ *Raises\n *-+$", thing.__doc__, re.MULTILINE), name


@pytest.mark.parametrize("piece", ['\\"', '\\\\\\"', '"', "\\"])
def test_texts_without_an_end_take_no_longer_than_others(piece: str) -> None:
    # Of the largest size there is; searched again from each quote it would take hours.
    document = '{"a":"' + piece * ((2 << 20) // len(piece) - 10)
    found = multiprocessing.get_context("spawn").Pool(1)
    with found:
        found.apply_async(_refusal_of, (document,)).get(timeout=60)


def _refusal_of(document: str) -> None:
    with pytest.raises(AttestationError):
        Collateral.from_json(document)
