"""Appraise: is verified evidence of an enclave that the caller wants? (docs/attestation.md 4, policy)."""

from __future__ import annotations

import datetime
from dataclasses import fields

from confidential_ml.attestation.claims import MAX_NONCE_SIZE, Claims, ModelClaim
from confidential_ml.attestation.collateral import Collateral
from confidential_ml.attestation.policy import ANY, AttestationPolicy
from confidential_ml.attestation.quote import checked_bytes
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.result import AttestationResult, VerifiedEvidence
from confidential_ml.attestation.steps import Steps
from confidential_ml.attestation.trust_root import INTEL_ROOT, TrustRoot
from confidential_ml.attestation.verify import checked_now, verify
from confidential_ml.errors import AttestationError, InvalidInputError

__all__ = ["appraise", "attest"]


def attest(
    evidence: bytes,
    collateral: Collateral,
    policy: AttestationPolicy,
    *,
    nonce: bytes | None = None,
    root: TrustRoot = INTEL_ROOT,
    now: datetime.datetime | None = None,
) -> AttestationResult:
    """Verify evidence and appraise it: :func:`verify`, then :func:`appraise`.

    Parameters
    ----------
    evidence
        As `Enclave.evidence` returns it.
    collateral
        From whoever delivers it.
    policy
        What is wanted.
    nonce
        What the evidence was asked for with; shows that it was made after that.
    root
        Whom to believe; Intel by default. Simulated evidence needs its simulated platform's.
    now
        The time to verify for, with its time zone; by default the clock's.

    Returns
    -------
    AttestationResult

    Raises
    ------
    AttestationError
        With the reason, if anything is not right or not wanted.
    InvalidInputError
        If an argument is of another type, or `now` has no time zone.
    """
    moment = checked_now(now)
    # First, so that a wrong argument is not found only when the evidence is good.
    _check_arguments(policy, nonce)
    return appraise(verify(evidence, collateral, root=root, now=moment), policy, nonce=nonce, now=moment)


def appraise(
    verified: VerifiedEvidence,
    policy: AttestationPolicy,
    *,
    nonce: bytes | None = None,
    now: datetime.datetime | None = None,
) -> AttestationResult:
    """Compare verified evidence with a policy.

    Parameters
    ----------
    verified
        What :func:`verify` returned. A bare quote makes no claims and cannot be appraised.
    policy
        What is wanted.
    nonce
        What the evidence was asked for with.
    now
        The time to appraise for, with its time zone; by default the clock's.

    Returns
    -------
    AttestationResult

    Raises
    ------
    AttestationError
        With the reason, if the enclave is not wanted.
    InvalidInputError
        If an argument is of another type, or `now` has no time zone.
    """
    if not isinstance(verified, VerifiedEvidence):
        raise InvalidInputError(f"verified must be what verify returned, not {type(verified).__name__}")
    _check_arguments(policy, nonce)
    moment = checked_now(now)
    steps = Steps(verified.steps)
    with steps.told():
        _check_enclave(verified, policy, steps)
        _check_platform(verified, policy, steps)
        _check_freshness(verified, policy, nonce, moment, steps)
        models = _accepted_models(verified.claims, policy)
        steps.ok(
            f"models accepted: {', '.join(f'{one.model_id} {one.model_digest}' for one in models) or 'none asked for'}"
        )
        _check_configuration(verified.claims, policy, steps)
    known = {one.name: getattr(verified, one.name) for one in fields(VerifiedEvidence)}
    return AttestationResult(**{**known, "steps": steps.lines}, policy=policy, models=models, appraised_at=moment)


def _check_arguments(policy: object, nonce: object) -> None:
    if not isinstance(policy, AttestationPolicy):
        raise InvalidInputError(f"policy must be an AttestationPolicy, not {type(policy).__name__}")
    if nonce is not None and not 1 <= len(checked_bytes(nonce, "nonce")) <= MAX_NONCE_SIZE:
        raise InvalidInputError(f"nonce must have 1 to {MAX_NONCE_SIZE} bytes; secrets.token_bytes(32) makes one")


def _check_enclave(verified: VerifiedEvidence, policy: AttestationPolicy, steps: Steps) -> None:
    report = verified.report
    if report.is_debug and not policy.allow_debug:
        raise AttestationError(
            Reason.DEBUG_ENCLAVE,
            "the enclave is a debug enclave: its memory can be read; only a policy's allow_debug accepts it, for tests",
        )
    if not _is_among(report.mrenclave, policy.mrenclave):
        raise AttestationError(Reason.MRENCLAVE, f"MRENCLAVE {report.mrenclave} is not {_accepted(policy.mrenclave)}")
    if not _is_among(report.mrsigner, policy.mrsigner):
        raise AttestationError(Reason.MRSIGNER, f"MRSIGNER {report.mrsigner} is not {_accepted(policy.mrsigner)}")
    if policy.isv_prod_id not in (None, ANY, report.isv_prod_id):
        raise AttestationError(
            Reason.ISV_PROD_ID,
            f"the enclave has product id {report.isv_prod_id}, the policy wants {policy.isv_prod_id}",
        )
    if report.isv_svn < (policy.min_isv_svn or 0):
        raise AttestationError(
            Reason.ISV_SVN, f"the enclave has SVN {report.isv_svn}, the policy wants at least {policy.min_isv_svn}"
        )
    steps.ok(f"MRENCLAVE {report.mrenclave} {_how(policy.mrenclave)}")
    steps.ok(f"MRSIGNER {report.mrsigner} {_how(policy.mrsigner)}")
    steps.ok(
        f"product id {report.isv_prod_id} {_how(policy.isv_prod_id)}, SVN {report.isv_svn} {_how(policy.min_isv_svn)}"
    )


def _check_platform(verified: VerifiedEvidence, policy: AttestationPolicy, steps: Steps) -> None:
    if verified.tcb_status not in policy.accepted_tcb:
        raise AttestationError(
            Reason.TCB_STATUS,
            f"the machine's TCB status is {verified.tcb_status}, the policy accepts "
            f"{', '.join(sorted(policy.accepted_tcb))}; advisories: {', '.join(verified.advisories) or 'none'}",
        )
    if policy.accepted_advisories is not ANY:
        missing = [one for one in verified.advisories if one not in policy.accepted_advisories]
        if missing:
            raise AttestationError(
                Reason.TCB_ADVISORY, f"advisories that the policy does not accept apply: {', '.join(missing)}"
            )
    if verified.tcb_evaluation_number < (policy.min_tcb_evaluation_number or 0):
        raise AttestationError(
            Reason.TCB_EVALUATION_NUMBER,
            f"the collateral has TCB evaluation data number {verified.tcb_evaluation_number}, the policy wants at "
            f"least {policy.min_tcb_evaluation_number}; get newer collateral",
        )
    if not _is_among(verified.ppid, policy.ppids):
        raise AttestationError(Reason.PPID, f"the machine with PPID {verified.ppid} is not one that the policy accepts")
    steps.ok(f"TCB status {verified.tcb_status} and advisories accepted; machine {verified.ppid} {_how(policy.ppids)}")


def _check_freshness(
    verified: VerifiedEvidence, policy: AttestationPolicy, nonce: bytes | None, now: datetime.datetime, steps: Steps
) -> None:
    if nonce is not None and verified.claims.nonce != nonce:
        raise AttestationError(
            Reason.NONCE, "the claims hold another nonce than was asked for: this is the answer to another question"
        )
    age = now - verified.verified_at
    if age < datetime.timedelta(0):
        raise AttestationError(
            Reason.TOO_OLD,
            f"it was verified for {verified.verified_at:%Y-%m-%dT%H:%M:%SZ}, which is after the time it is appraised "
            f"for, {now:%Y-%m-%dT%H:%M:%SZ}; give both the same time, or check the clock",
        )
    if now > verified.earliest_expiry:
        raise AttestationError(
            Reason.TOO_OLD,
            f"what it was verified with expired at {verified.earliest_expiry:%Y-%m-%dT%H:%M:%SZ}; verify again",
        )
    if policy.max_age is not None and age > policy.max_age:
        raise AttestationError(
            Reason.TOO_OLD,
            f"it was verified {age} ago, the policy wants at most {policy.max_age}; ask for new evidence",
        )
    steps.ok(
        f"{'no nonce asked for' if nonce is None else 'nonce as asked for'}; verified {age} ago {_how(policy.max_age)}"
    )


_BEFORE_IT_IS_THERE = "to provision it, use a policy with model_digest=ANY"


def _accepted_models(claims: Claims, policy: AttestationPolicy) -> tuple[ModelClaim, ...]:
    models = tuple(one for one in claims.models if policy.accepts_model(one.model_digest, one.owner, one.version))
    is_any = policy.model_digest in (None, ANY)
    if models or (is_any and policy.model_owner is None):
        return models
    named = [one for one in claims.models if _is_among(one.model_digest, policy.model_digest)]
    if not named and not is_any:
        raise AttestationError(
            Reason.MODEL, f"the enclave has not loaded a model that the policy accepts; {_BEFORE_IT_IS_THERE}"
        )
    versions = [one.version for one in named if _is_among(one.owner or "", policy.model_owner)]
    if not versions:
        raise AttestationError(
            Reason.MODEL_OWNER,
            f"the enclave has loaded no such model of an owner the policy accepts; {_BEFORE_IT_IS_THERE}",
        )
    raise AttestationError(
        Reason.MODEL_VERSION,
        f"the enclave has loaded the model in version {max(versions)}, the policy wants at least "
        f"{policy.min_model_version}; {_BEFORE_IT_IS_THERE}",
    )


def _check_configuration(claims: Claims, policy: AttestationPolicy, steps: Steps) -> None:
    if not _is_among(claims.config_digest, policy.config_digest):
        raise AttestationError(
            Reason.CONFIG, f"the enclave's config digest {claims.config_digest} is not one that the policy accepts"
        )
    if not _is_among(claims.rollback, policy.rollback):
        raise AttestationError(
            Reason.ROLLBACK, f"the enclave says {claims.rollback!a} of rollback, which the policy does not accept"
        )
    steps.ok(f"config digest {claims.config_digest} {_how(policy.config_digest)}; rollback {claims.rollback}")


def _is_among(value: str, accepted: object) -> bool:
    return accepted is None or accepted is ANY or (isinstance(accepted, frozenset) and value in accepted)


def _accepted(values: object) -> str:
    """What a policy wants in place of a value, if that is not too much to read."""
    named = sorted(values) if isinstance(values, frozenset) else []
    if len(named) == 1:
        return f"{named[0]}, which the policy wants"
    return f"one of the {len(named)} that the policy accepts, {named[0]} the first"


def _how(wanted: object) -> str:
    """How a policy came to accept a value, so that nobody takes a value it does not look at for a checked one."""
    if wanted is None:
        return "(not asked for)"
    return "(any)" if wanted is ANY else "as the policy wants"
