"""The attacks of attestation_attacks.py are refused, each for its reason, and genuine evidence is accepted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from attestation_attacks import (
    ATTACKS,
    BASE,
    NEWEST,
    NONCE,
    ODD_CERTIFICATES,
    POLICY,
    PROCESSOR_CA,
    SECOND,
    STATUSES,
    Attack,
    attested,
    before,
    both_roots,
    both_signers,
    passes_dcap_qvl,
    trusted,
    under_intels_name,
)
from attestation_pki import (
    DAY,
    NOW,
    YEAR,
    Crl,
    Model,
    changed,
    extension,
    iso,
    qe_level,
    set_json,
    tcb_level,
    tlv,
)

from confidential_ml.attestation import (
    ANY,
    INTEL_ROOT,
    AttestationError,
    AttestationPolicy,
    Collateral,
    Reason,
    TrustRoot,
    appraise,
    verify,
)

# Verdicts as in production, where warnings about odd certificates are no errors.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ODD_CERTIFICATES]


def test_an_attack_is_named_once() -> None:
    names = [one.name for one in ATTACKS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: one.name)
def test_an_attack_is_refused_for_its_reason(one: Attack) -> None:
    with pytest.raises(AttestationError) as refused:
        one.strike()
    assert refused.value.reason == one.reason, refused.value.explain()


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: one.name)
def test_what_is_said_of_dcap_qvl_is_so(one: Attack) -> None:
    assert passes_dcap_qvl(one.built()) == one.passes_dcap_qvl


# Reasons that no bytes can reach, and the test that reaches them otherwise.
REACHED_ELSEWHERE = {"rollback": "test_rollback_is_compared_with_the_policy"}


def test_every_reason_is_in_the_table() -> None:
    assert set(REACHED_ELSEWHERE.values()) <= set(globals())
    assert {one.reason for one in ATTACKS} | set(REACHED_ELSEWHERE) == {reason.value for reason in Reason}


def test_rollback_is_compared_with_the_policy() -> None:
    """Version 1 of the claims knows one value only; a later one is played by changing what was parsed."""
    built = BASE.build()
    collateral = Collateral.from_json(built.collateral_json)
    verified = verify(built.evidence, collateral, root=trusted(built.root_der), now=built.now)
    later = replace(verified, claims=replace(verified.claims, rollback="protected"))
    with pytest.raises(AttestationError) as refused:
        appraise(later, AttestationPolicy(**POLICY), nonce=NONCE, now=built.now)
    assert refused.value.reason == "rollback"


# --- What must be accepted, so that no check refuses more than it says


REASON_CODE = (extension("2.5.29.21", tlv(0x0A, b"\1")),)
TWO_MODELS = (Model(digest=bytes(32), model_id=b"other", owner=bytes(32)), *BASE.claims.models)
SIGNER_OF_ITS_OWN = replace(BASE.tcb_signer, key="second tcb signer", serial=0x4005)

GENUINE: dict[str, dict[str, object]] = {
    "the base scenario": {},
    "Intel's names": under_intels_name(),
    "chain without the NUL of a C string": {"certification_tail": b""},
    "machine of a processor CA": {
        "pck_ca": PROCESSOR_CA,
        "pck__issuer": PROCESSOR_CA.subject,
        "pck__signer": PROCESSOR_CA.key,
        "pck__sgx__platform_instance": None,
        "pck__sgx__configuration": None,
        "pck_crl": Crl(PROCESSOR_CA.subject, PROCESSOR_CA.key),
    },
    "other certificates revoked": {
        "root_crl__revoked": (1, BASE.pck.serial),
        "root_crl__entry": REASON_CODE,
        "pck_crl__revoked": (2, BASE.pck_ca.serial, BASE.tcb_signer.serial),
        "pck_crl__entry": REASON_CODE,
    },
    "QE identity signed by a signer of its own": {
        "qe_identity_signer": SIGNER_OF_ITS_OWN,
        "qe_identity__signer": SIGNER_OF_ITS_OWN.key,
    },
    "machine newer than every level": {"pck__sgx__components": (255,) * 16, "pck__sgx__pcesvn": 0x7FFF},
    "quoting enclave newer than every level": {"qe_report__svn": 9},
    "enclave of a newer security version": {"report__svn": 0x100},
    "CPUSVN of an older machine, components of a new one": {"pck__sgx__cpusvn": bytes([11, 11, *NEWEST[2:]])},
    "newer evaluation": before("tcb_info", set_json("tcbEvaluationDataNumber", to=18)),
    "TCB info with line ends and spaces": before("tcb_info", lambda text: json.dumps(json.loads(text), indent=2)),
    "TCB info with a key of a later version": before("tcb_info", set_json("later", to={"a": [1]})),
    "TCB info with FMSPC in small letters": before("tcb_info", set_json("fmspc", to="00a067110000")),
    "XFRM of the quoting enclave, masked": {"qe_report__xfrm": 0xE7},
    "bits of MISCSELECT, masked": {
        "qe_report__miscselect": 0x1,
        **before("qe_identity", set_json("miscselectMask", to="FEFFFFFF")),
    },
    "first byte of MISCSELECT is the lowest": {
        "qe_report__miscselect": 0x1,
        **before("qe_identity", set_json("miscselect", to="01000000")),
    },
    "two models": {"claims__models": TWO_MODELS},
    "a later epoch": {"claims__epoch": 1 << 40},
    "a simulated platform without DEBUG": {"claims__platform": 1},
}


@pytest.mark.parametrize("changes", GENUINE.values(), ids=list(GENUINE))
def test_genuine_evidence_is_accepted(changes: dict[str, object]) -> None:
    built = changed(BASE, **changes).build()
    result = attested(built)
    assert (result.tcb_status, result.advisories) == ("UpToDate", ())
    assert result.root == trusted(built.root_der)
    if "CPUSVN" not in str(changes):
        assert passes_dcap_qvl(built)


EDGES: dict[str, dict[str, object]] = {
    "root": {**both_roots(not_before=NOW, not_after=NOW)},
    "PCK CA": {"pck_ca__not_before": NOW, "pck_ca__not_after": NOW},
    "PCK": {"pck__not_before": NOW, "pck__not_after": NOW},
    "TCB signer": both_signers(not_before=NOW, not_after=NOW),
    "root CRL": {"root_crl__this_update": NOW, "root_crl__next_update": NOW},
    "PCK CRL": {"pck_crl__this_update": NOW, "pck_crl__next_update": NOW},
    "TCB info": before("tcb_info", set_json("issueDate", to=iso(NOW)), set_json("nextUpdate", to=iso(NOW))),
    "QE identity": before("qe_identity", set_json("issueDate", to=iso(NOW)), set_json("nextUpdate", to=iso(NOW))),
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=list(EDGES))
def test_dates_hold_from_their_first_to_their_last_second(changes: dict[str, object]) -> None:
    assert attested(changed(BASE, **changes).build()).earliest_expiry == NOW
    for moment in (NOW - SECOND, NOW + SECOND):
        with pytest.raises(AttestationError, match=r"expired|not-yet-valid"):
            attested(changed(BASE, **changes, now=moment).build())


# --- The TCB level


ANY_STATUS = {
    "accepted_tcb": [*STATUSES, "OutOfDateConfigurationNeeded"],
    "accepted_advisories": ANY,
}
# Machine (its first two components and its seventh), SVN of its quoting enclave, what the two are together.
TOGETHER = [
    ((11, 12), 8, "UpToDate", ()),
    ((11, 12), 7, "OutOfDate", ("INTEL-SA-00615",)),
    ((11, 11), 8, "ConfigurationNeeded", ("INTEL-SA-00289",)),
    ((11, 11), 6, "OutOfDateConfigurationNeeded", ("INTEL-SA-00289", "INTEL-SA-00615")),
    ((10, 12), 8, "OutOfDate", ("INTEL-SA-00289", "INTEL-SA-00828")),
    ((9, 12), 6, "OutOfDate", ("INTEL-SA-00289", "INTEL-SA-00615", "INTEL-SA-00828")),
    ((8, 12), 8, "OutOfDateConfigurationNeeded", ("INTEL-SA-00477",)),
    ((5, 12), 6, "OutOfDateConfigurationNeeded", ("INTEL-SA-00477", "INTEL-SA-00615")),
]


@pytest.mark.parametrize(("machine", "qe_svn", "status", "advisories"), TOGETHER)
def test_level_of_machine_and_quoting_enclave_together(
    machine: tuple[int, int], qe_svn: int, status: str, advisories: tuple[str, ...]
) -> None:
    components = (machine[0], machine[0], *NEWEST[2:6], machine[1], *NEWEST[7:])
    built = changed(BASE, pck__sgx__components=components, qe_report__svn=qe_svn).build()
    result = attested(built, policy=ANY_STATUS)
    assert (result.tcb_status, result.advisories) == (status, advisories)


def test_no_component_makes_up_for_another() -> None:
    for position in range(16):
        if NEWEST[position] == 0:
            continue
        components = tuple(svn - 1 if at == position else 255 for at, svn in enumerate(NEWEST))
        built = changed(BASE, pck__sgx__components=components).build()
        with pytest.raises(AttestationError) as refused:
            attested(built)
        assert refused.value.reason in ("tcb-status", "tcb-level-unknown"), position


OUT_OF_ORDER = {
    "the newest level, revoked, behind an older one that is not": [
        tcb_level((9, 9, *NEWEST[2:]), 13, "UpToDate"),
        tcb_level(NEWEST, 13, "Revoked"),
    ],
    "the same components with a newer PCE, revoked, behind the older": [
        tcb_level(NEWEST, 12, "UpToDate"),
        tcb_level(NEWEST, 13, "Revoked"),
    ],
}


@pytest.mark.parametrize("levels", OUT_OF_ORDER.values(), ids=list(OUT_OF_ORDER))
def test_levels_out_of_order_make_no_machine_better(levels: list[dict[str, object]]) -> None:
    """Intel's library sorts the levels. Whoever takes the first that fits must see that they are sorted."""
    built = changed(BASE, **before("tcb_info", set_json("tcbLevels", to=levels))).build()
    assert not passes_dcap_qvl(built)
    with pytest.raises(AttestationError) as refused:
        attested(built)
    assert refused.value.reason in ("tcb-revoked", "tcb-info-format")


def test_levels_out_of_order_make_no_quoting_enclave_better() -> None:
    """A document that others read as revoked is not one of Intel's kind, whose levels descend."""
    levels = [qe_level(3, "Revoked"), qe_level(8, "UpToDate")]
    built = changed(BASE, **before("qe_identity", set_json("tcbLevels", to=levels))).build()
    assert not passes_dcap_qvl(built)
    with pytest.raises(AttestationError) as refused:
        attested(built)
    assert refused.value.reason in ("tcb-revoked", "qe-identity-format")


# --- Whom one trusts


def test_intels_root_is_the_default_and_refuses_everybody_else() -> None:
    for changes in ({}, under_intels_name()):
        built = changed(BASE, **changes).build()
        collateral = Collateral.from_json(built.collateral_json)
        with pytest.raises(AttestationError) as refused:
            verify(built.evidence, collateral, now=built.now)
        assert refused.value.reason == "root-untrusted"


def test_a_root_is_trusted_by_its_key_alone() -> None:
    """The root that the chain shows may be an older or newer certificate of the pinned key."""
    root = replace(BASE.root, serial=0x1002, not_after=NOW + 20 * YEAR)
    assert attested(changed(BASE, root=root).build()).tcb_status == "UpToDate"


def test_what_was_verified_for_one_root_is_not_for_another() -> None:
    """The verifier keeps what it has checked of collateral; the same collateral under another root starts anew."""
    built = BASE.build()
    collateral = Collateral.from_json(built.collateral_json)
    verify(built.evidence, collateral, root=trusted(built.root_der), now=built.now)
    other = TrustRoot.from_certificate(replace(BASE.root, key="attacker root").der(), name="root of the tests")
    for root in (other, INTEL_ROOT):
        with pytest.raises(AttestationError) as refused:
            verify(built.evidence, collateral, root=root, now=built.now)
        assert refused.value.reason == "root-untrusted"


def test_what_was_verified_at_one_time_is_not_for_ever() -> None:
    built = BASE.build()
    collateral = Collateral.from_json(built.collateral_json)
    root = trusted(built.root_der)
    verify(built.evidence, collateral, root=root, now=built.now)
    for now, reason in ((NOW + 40 * DAY, "expired"), (NOW - 2 * DAY, "not-yet-valid")):
        with pytest.raises(AttestationError) as refused:
            verify(built.evidence, collateral, root=root, now=now)
        assert reason in refused.value.reason


def test_evidence_of_one_machine_with_collateral_of_another() -> None:
    """Two machines of two families, each accepted with its own collateral and refused with the other's."""
    fmspc = bytes.fromhex("00606a000000")
    other = changed(
        BASE,
        pck__key="other pck",
        pck__serial=0x3303,
        pck__sgx__fmspc=fmspc,
        qe_report_signer="other pck",
        **before("tcb_info", set_json("fmspc", to=fmspc.hex())),
    )
    one, two = BASE.build(), other.build()
    attested(one)
    attested(two)
    for mixed in (one._replace(collateral=two.collateral), two._replace(collateral=one.collateral)):
        with pytest.raises(AttestationError) as refused:
            attested(mixed)
        assert refused.value.reason == "tcb-info-fmspc"
