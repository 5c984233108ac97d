"""The console's verifier, in JavaScript, against the Python verifier: the same evidence accepted, the same refused."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from attestation_attacks import ATTACKS, BASE, NONCE, ODD_CERTIFICATES, POLICY, SECOND, Attack, attested, trusted
from attestation_pki import Built, changed
from console_node import Node, node
from test_attestation_attacks import EDGES, GENUINE, TOGETHER

from confidential_ml.attestation import ANY, AttestationPolicy, TcbStatus

__all__ = ["node"]

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ODD_CERTIFICATES]

# The page reads no bare quotes: what follows a quote must be claims, and with genuine ones it is no attack.
OTHER_REASONS = {"a byte after a bare quote": "claims-format"}
NO_ATTACK_ON_THE_PAGE = {"claims after a bare quote"}


def milliseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)


def fingerprint(root_der: bytes) -> str:
    return trusted(root_der).fingerprint


def as_javascript(policy: Mapping[str, object]) -> dict[str, Any]:
    """A policy as the page has it."""
    wanted = AttestationPolicy(**(POLICY | dict(policy)))
    values: dict[str, Any] = {}
    for name in wanted.__dataclass_fields__:
        value = getattr(wanted, name)
        if isinstance(value, frozenset):
            value = sorted(value)
        elif value is ANY:
            value = "ANY"
        elif isinstance(value, datetime.timedelta):
            value = value.total_seconds()
        elif name == "min_model_version" and value is not None:
            value = str(value)  # JSON numbers of JavaScript have 53 bits
        head, *rest = name.split("_")
        values[head + "".join(word.capitalize() for word in rest)] = value
    return values


def ask(
    node: Node,
    built: Built,
    policy: Mapping[str, object] | None = None,
    *,
    evidence: bytes | None = None,
    nonce: bytes = NONCE,
    after: datetime.timedelta | None = None,
    root: str | None = "pinned",
) -> Any:
    return node.ask(
        "attest",
        evidence=(built.evidence if evidence is None else evidence).hex(),
        collateral=built.collateral_json.encode().hex(),
        root=fingerprint(built.root_der) if root == "pinned" else root,
        now=milliseconds(built.now),
        policy=as_javascript(policy or {}),
        nonce=nonce.hex(),
        after=0 if after is None else after.total_seconds() * 1000,
    )


@pytest.mark.parametrize(
    "one", [one for one in ATTACKS if one.name not in NO_ATTACK_ON_THE_PAGE], ids=lambda one: one.name
)
def test_the_page_refuses_an_attack_for_the_same_reason(node: Node, one: Attack) -> None:
    built = one.built()
    answer = ask(node, built, one.policy, evidence=built.quote if one.bare else None, nonce=one.nonce, after=one.after)
    assert answer.get("error") == "AttestationError", answer
    assert answer["reason"] == OTHER_REASONS.get(one.name, one.reason), answer


def test_what_is_listed_as_different_is_in_the_table() -> None:
    assert {*OTHER_REASONS, *NO_ATTACK_ON_THE_PAGE} <= {one.name for one in ATTACKS}
    assert len(ATTACKS) > 400


def compare(node: Node, built: Built, policy: Mapping[str, object] | None = None) -> Any:
    """The page's result, which must be the Python verifier's."""
    result = attested(built, policy=policy)
    answer = ask(node, built, policy)
    assert answer == {
        "accepted": True,
        "tcbStatus": result.tcb_status,
        "advisories": list(result.advisories),
        "earliestExpiry": milliseconds(result.earliest_expiry),
        "ppid": result.ppid,
        "fmspc": result.fmspc,
        "pceId": result.pce_id,
        "tcbDate": milliseconds(result.tcb_date),
        "models": [[m.model_digest, m.model_id, m.owner, str(m.version)] for m in result.models],
        "claims": {"platform": result.claims.platform, "epoch": str(result.claims.epoch)},
    }
    return answer


@pytest.mark.parametrize("changes", GENUINE.values(), ids=list(GENUINE))
def test_the_page_accepts_genuine_evidence(node: Node, changes: dict[str, object]) -> None:
    compare(node, changed(BASE, **changes).build())


@pytest.mark.parametrize("changes", EDGES.values(), ids=list(EDGES))
def test_dates_hold_from_their_first_to_their_last_second(node: Node, changes: dict[str, object]) -> None:
    compare(node, changed(BASE, **changes).build())
    for moment in (BASE.now - SECOND, BASE.now + SECOND):
        reason = ask(node, changed(BASE, **changes, now=moment).build())["reason"]
        assert reason.endswith(("expired", "not-yet-valid"))


@pytest.mark.parametrize(("machine", "qe_svn", "status", "advisories"), TOGETHER)
def test_level_of_machine_and_quoting_enclave_together(
    node: Node, machine: tuple[int, int], qe_svn: int, status: str, advisories: tuple[str, ...]
) -> None:
    newest = BASE.pck.sgx.components if BASE.pck.sgx else ()
    components = (machine[0], machine[0], *newest[2:6], machine[1], *newest[7:])
    built = changed(BASE, pck__sgx__components=components, qe_report__svn=qe_svn).build()
    every = {"accepted_tcb": [one for one in TcbStatus if one != "Revoked"], "accepted_advisories": ANY}
    answer = compare(node, built, every)
    assert (answer["tcbStatus"], tuple(answer["advisories"])) == (status, advisories)


def test_numbers_of_64_bits_are_exact(node: Node) -> None:
    model = replace(BASE.claims.models[0], version=(1 << 64) - 1)
    built = changed(BASE, claims__epoch=(1 << 64) - 1, claims__models=(model,)).build()
    answer = compare(node, built)
    assert answer["models"][0][3] == answer["claims"]["epoch"] == str((1 << 64) - 1)
    assert ask(node, built, {"min_model_version": (1 << 64) - 1})["accepted"] is True
    older = changed(BASE, claims__models=(replace(model, version=(1 << 64) - 2),)).build()
    assert ask(node, older, {"min_model_version": (1 << 64) - 1})["reason"] == "model-version"


def test_intels_root_is_the_only_one_that_nobody_has_to_pin(node: Node) -> None:
    built = BASE.build()
    refused = ask(node, built, root=None)
    assert refused["reason"] == "root-untrusted"
    assert refused["seen"]["root"]["fingerprint"] == fingerprint(built.root_der)
