"""Verify evidence: a genuine enclave of some kind signed it, and how its machine stands (docs/attestation.md 4)."""

from __future__ import annotations

import datetime
import functools
import hashlib
from dataclasses import dataclass, fields

from cryptography.hazmat.primitives.asymmetric import ec

from confidential_ml.attestation import der
from confidential_ml.attestation.certificates import PCK_CHAIN, Chain, checked_chain, is_signed_by
from confidential_ml.attestation.claims import Claims, parse_claims
from confidential_ml.attestation.collateral import CheckedCollateral, Collateral, checked_collateral
from confidential_ml.attestation.pck_extension import SGX_EXTENSION_OID, PckExtension, parse_pck_extension
from confidential_ml.attestation.quote import Evidence, Quote, parse_evidence, parse_quote
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.result import VerifiedEvidence, VerifiedQuote
from confidential_ml.attestation.steps import Steps
from confidential_ml.attestation.tcb import TcbLevel, TcbStatus, merged_status
from confidential_ml.attestation.trust_root import INTEL_ROOT, TrustRoot, public_key_der
from confidential_ml.errors import AttestationError, InvalidInputError

__all__ = ["checked_now", "verify", "verify_quote"]

_CACHED_PCKS = 256


def verify_quote(
    quote: bytes,
    collateral: Collateral,
    *,
    root: TrustRoot = INTEL_ROOT,
    now: datetime.datetime | None = None,
    allow_debug: bool = False,
) -> VerifiedQuote:
    """Verify a bare quote: signatures, certificates, revocation, TCB, dates.

    Parameters
    ----------
    quote
        The quote; nothing may follow it.
    collateral
        From whoever delivers it.
    root
        Whom to believe; Intel by default.
    now
        The time to verify for, with its time zone; by default the clock's.
    allow_debug
        Accept an enclave whose memory can be read. Evidence with claims is refused by its policy, a bare quote here.

    Returns
    -------
    VerifiedQuote
        A quote of a genuine enclave of some kind: what it is worth, the caller must see.

    Raises
    ------
    AttestationError
        With the reason, if anything is not right.
    InvalidInputError
        If an argument is of another type, or `now` has no time zone.
    """
    moment = _checked_arguments(collateral, root, now)
    steps = Steps()
    if type(allow_debug) is not bool:
        raise InvalidInputError(f"allow_debug must be True or False, not {type(allow_debug).__name__}")
    with steps.told():
        verified = _verify(parse_quote(quote), collateral, root, moment, steps)
        if verified.debug and not allow_debug:
            raise AttestationError(
                Reason.DEBUG_ENCLAVE,
                "the enclave is a debug enclave: its memory can be read; only allow_debug=True accepts it, for tests",
            )
    return verified


def verify(
    evidence: bytes, collateral: Collateral, *, root: TrustRoot = INTEL_ROOT, now: datetime.datetime | None = None
) -> VerifiedEvidence:
    """Verify evidence: the quote as :func:`verify_quote` does, and that it binds the claims.

    Parameters
    ----------
    evidence
        As `Enclave.evidence` returns it.
    collateral, root, now
        As for :func:`verify_quote`.

    Returns
    -------
    VerifiedEvidence

    Raises
    ------
    AttestationError
        With the reason, if anything is not right.
    InvalidInputError
        If an argument is of another type, or `now` has no time zone.
    """
    moment = _checked_arguments(collateral, root, now)
    steps = Steps()
    with steps.told():
        parsed = parse_evidence(evidence)
        claims = parse_claims(parsed.claims)
        verified = _verify(parsed.quote, collateral, root, moment, steps)
        _check_binding(parsed, claims, steps)
    known = {one.name: getattr(verified, one.name) for one in fields(verified)}
    return VerifiedEvidence(**{**known, "steps": steps.lines}, claims=claims)


def checked_now(now: datetime.datetime | None) -> datetime.datetime:
    """The time that was given, or the clock's, in UTC.

    Raises
    ------
    InvalidInputError
        If it has no time zone.
    """
    if now is None:
        return datetime.datetime.now(datetime.UTC)
    if not isinstance(now, datetime.datetime) or now.utcoffset() is None:
        raise InvalidInputError("now must be a datetime with a time zone, such as datetime.now(timezone.utc)")
    try:
        return now.astimezone(datetime.UTC)
    except OverflowError:
        raise InvalidInputError("now is too near to the first or last year of datetime") from None


def _checked_arguments(collateral: object, root: object, now: datetime.datetime | None) -> datetime.datetime:
    if not isinstance(collateral, Collateral):
        raise InvalidInputError(f"collateral must be a Collateral, not {type(collateral).__name__}")
    if not isinstance(root, TrustRoot):
        raise InvalidInputError(f"root must be a TrustRoot, not {type(root).__name__}")
    return checked_now(now)


@dataclass(frozen=True)
class _Pck:
    """A machine's PCK: its chain, checked up to the root, and its SGX extension."""

    chain: Chain
    extension: PckExtension


@functools.lru_cache(maxsize=_CACHED_PCKS)
def _checked_pck(pem: bytes, root: TrustRoot) -> _Pck:
    chain = checked_chain(pem, PCK_CHAIN, root, of="the quote")
    found = [one for one in chain.certificates[0].extensions if one.oid.dotted_string == SGX_EXTENSION_OID]
    try:
        # Whatever cryptography does not know comes as its bytes.
        return _Pck(chain, parse_pck_extension(found[0].value.value if found else b""))
    except der.DerError as error:
        raise AttestationError(
            Reason.PCK_EXTENSION, f"the SGX extension of the PCK certificate is missing or malformed: {error}"
        ) from None


def _verify(
    quote: Quote, collateral: Collateral, root: TrustRoot, now: datetime.datetime, steps: Steps
) -> VerifiedQuote:
    steps.ok(f"quote of {quote.size} bytes: version 3, ECDSA P-256, SGX")
    pck = _checked_pck(quote.certificates, root)
    steps.ok(f"PCK certificate chain up to {root.name}; FMSPC {pck.extension.fmspc}, PCE id {pck.extension.pce_id}")
    checked = checked_collateral(collateral, root)
    steps.extend(checked.steps)
    validities = (*pck.chain.validities, *checked.validities)
    for validity in validities:
        validity.check(now)
    earliest = min(validity.end for validity in validities)
    steps.ok(f"all of it valid at {now:%Y-%m-%dT%H:%M:%SZ}; the first expires at {earliest:%Y-%m-%dT%H:%M:%SZ}")
    _check_revocation(pck.chain, checked)
    steps.ok("PCK, PCK CA and TCB signing certificates not revoked")
    _check_signatures(quote, pck.chain.keys[0])
    steps.ok("quoting enclave signed by the PCK, attestation key by the quoting enclave, quote by the attestation key")
    level = _tcb_level(quote, pck.extension, checked)
    steps.ok(
        f"TCB status {level.status}, advisories {', '.join(level.advisories) or 'none'}, TCB of {level.date:%Y-%m-%d}"
    )
    _check_attributes(quote)
    steps.ok(
        f"enclave initialised, 64-bit, {'DEBUG: its memory can be read' if quote.report.is_debug else 'not debug'}"
    )
    return VerifiedQuote(
        quote=quote,
        root=root,
        tcb_status=level.status,
        advisories=level.advisories,
        tcb_date=level.date,
        tcb_evaluation_number=min(checked.tcb_info.evaluation_number, checked.qe_identity.evaluation_number),
        ppid=pck.extension.ppid,
        fmspc=pck.extension.fmspc,
        pce_id=pck.extension.pce_id,
        verified_at=now,
        earliest_expiry=earliest,
        steps=steps.lines,
    )


def _check_revocation(chain: Chain, checked: CheckedCollateral) -> None:
    leaf, pck_ca, root = chain.certificates
    same_name = pck_ca.subject == checked.pck_ca.subject
    if not same_name or public_key_der(chain.keys[1]) != public_key_der(checked.pck_ca_key):
        raise AttestationError(
            Reason.CRL_ISSUER, "the PCK CRL is not of the CA that issued the PCK certificate (platform or processor)"
        )
    on_root_list = checked.root_crl.serials
    if on_root_list & {root.serial_number, *checked.roots}:
        raise AttestationError(Reason.ROOT_UNTRUSTED, "the root has revoked itself: trust nothing of it")
    if on_root_list & {pck_ca.serial_number, checked.pck_ca.serial_number}:
        raise AttestationError(Reason.PCK_CA_REVOKED, "the PCK CA's certificate is revoked")
    if on_root_list & checked.tcb_signers:
        raise AttestationError(Reason.TCB_SIGNER_REVOKED, "the TCB signing certificate is revoked; get collateral anew")
    if leaf.serial_number in checked.pck_crl.serials:
        raise AttestationError(Reason.PCK_REVOKED, "the PCK certificate of this machine is revoked: do not trust it")


def _check_signatures(quote: Quote, pck: ec.EllipticCurvePublicKey) -> None:
    if not is_signed_by(pck, quote.qe_report_signature, quote.qe_report_bytes):
        raise AttestationError(Reason.QE_REPORT_SIGNATURE, "the quoting enclave's report is not signed by the PCK")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise AttestationError(Reason.QE_REPORT_DATA, "the quoting enclave does not vouch for this attestation key")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        raise AttestationError(Reason.ATTESTATION_KEY, "the attestation key is no point of P-256") from None
    if not is_signed_by(key, quote.signature, quote.signed):
        raise AttestationError(Reason.QUOTE_SIGNATURE, "the quote is not signed by the attestation key: it was changed")


def _tcb_level(quote: Quote, pck: PckExtension, checked: CheckedCollateral) -> TcbLevel:
    """The level of platform and quoting enclave together."""
    info = checked.tcb_info
    if info.fmspc != pck.fmspc:
        raise AttestationError(
            Reason.TCB_INFO_FMSPC, f"the TCB info is for FMSPC {info.fmspc}, the machine has {pck.fmspc}"
        )
    if info.pce_id != pck.pce_id:
        raise AttestationError(
            Reason.TCB_INFO_PCEID, f"the TCB info is for PCE id {info.pce_id}, the machine has {pck.pce_id}"
        )
    checked.qe_identity.check(quote.qe_report)
    platform, quoting_enclave = info.level_of(pck), checked.qe_identity.level_of(quote.qe_report)
    if platform is None or quoting_enclave is None:
        raise AttestationError(
            Reason.TCB_LEVEL_UNKNOWN,
            f"the {'platform' if platform is None else 'quoting enclave'} reaches no TCB level that Intel lists",
        )
    status = merged_status(platform.status, quoting_enclave.status)
    if status is TcbStatus.REVOKED:
        raise AttestationError(Reason.TCB_REVOKED, "Intel has revoked the TCB level of this machine: do not trust it")
    advisories = tuple(sorted({*platform.advisories, *quoting_enclave.advisories}))
    date = min(platform.date, quoting_enclave.date)
    return TcbLevel(platform.components, platform.svn, date, status, advisories)


def _check_attributes(quote: Quote) -> None:
    report = quote.report
    if not report.is_initialised or not report.is_64_bit or report.has_provision_key:
        raise AttestationError(
            Reason.ENCLAVE_ATTRIBUTES,
            f"the enclave has attributes {report.flags:#x}; INIT and MODE64 must be set, PROVISION_KEY must not",
        )


def _check_binding(evidence: Evidence, claims: Claims, steps: Steps) -> None:
    if evidence.quote.report.report_data != evidence.claims_digest + bytes(32):
        raise AttestationError(
            Reason.CLAIMS_MISMATCH, "the claims are not those that the enclave's report binds: they were exchanged"
        )
    steps.ok(f"claims bound by the report data: epoch {claims.epoch}, {len(claims.models)} models, {claims.platform}")
