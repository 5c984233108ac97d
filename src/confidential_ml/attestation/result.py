"""What was verified and what was accepted, with everything that is known of it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from confidential_ml import card
from confidential_ml.attestation.claims import Claims, ModelClaim
from confidential_ml.attestation.policy import AttestationPolicy
from confidential_ml.attestation.quote import Quote, ReportBody
from confidential_ml.attestation.tcb import TcbStatus
from confidential_ml.attestation.trust_root import INTEL_ROOT, TrustRoot

__all__ = ["AttestationResult", "VerifiedEvidence", "VerifiedQuote"]


@dataclass(frozen=True, kw_only=True)
class VerifiedQuote:
    """A genuine enclave of some kind signed this. Whether it is one the caller wants, only a policy says.

    Attributes
    ----------
    quote
        The quote.
    root
        The root that was reached.
    tcb_status, advisories, tcb_date
        What Intel says of platform and quoting enclave together: status, advisories in order of their names, and the
        date of the older level.
    tcb_evaluation_number
        The lower of TCB info's and QE identity's.
    ppid, fmspc, pce_id
        Which machine, which family of machines, which PCE; hexadecimal.
    verified_at
        The time it was verified for, UTC.
    earliest_expiry
        When the first of the certificates, CRLs and documents expires, UTC.
    steps
        What was checked, one line each.
    """

    quote: Quote = field(repr=False)
    root: TrustRoot
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    tcb_date: datetime.datetime
    tcb_evaluation_number: int
    ppid: str
    fmspc: str
    pce_id: str
    verified_at: datetime.datetime
    earliest_expiry: datetime.datetime
    steps: tuple[str, ...] = field(repr=False)

    @property
    def report(self) -> ReportBody:
        """The enclave's report body: measurements, product, attributes."""
        return self.quote.report

    @property
    def mrenclave(self) -> str:
        """Measurement of the enclave's image, hexadecimal."""
        return self.report.mrenclave

    @property
    def mrsigner(self) -> str:
        """Measurement of the image's signer, hexadecimal."""
        return self.report.mrsigner

    @property
    def debug(self) -> bool:
        """True if a debugger may read the enclave's memory; every simulation says so."""
        return self.report.is_debug

    def explain(self) -> str:
        """What was checked and found, a line each."""
        return "\n".join(self.steps)


@dataclass(frozen=True, kw_only=True)
class VerifiedEvidence(VerifiedQuote):
    """A genuine enclave of some kind signed this and makes these claims.

    Attributes
    ----------
    claims
        What the enclave says about itself.
    """

    claims: Claims


@dataclass(frozen=True, kw_only=True)
class AttestationResult(VerifiedEvidence):
    """Evidence of an enclave that the policy accepts.

    Attributes
    ----------
    policy
        What it was compared with.
    models
        Of the claimed models those that the policy accepts, in the order they were loaded.
    appraised_at
        The time it was appraised for, UTC.
    """

    policy: AttestationPolicy = field(repr=False)
    models: tuple[ModelClaim, ...]
    appraised_at: datetime.datetime

    def _repr_html_(self) -> str:
        models = ", ".join(f"{model.model_id} {card.short(model.model_digest)}" for model in self.models)
        rows = [
            ("MRENCLAVE", self.mrenclave),
            ("MRSIGNER", self.mrsigner),
            ("product id, SVN", f"{self.report.isv_prod_id}, {self.report.isv_svn}"),
            ("TCB status", f"{self.tcb_status}, evaluation number {self.tcb_evaluation_number}"),
            ("advisories", ", ".join(self.advisories) or "none"),
            ("root of trust", f"{self.root.name}, {card.short(self.root.fingerprint)}"),
            ("accepted models", models or "none loaded"),
            ("verified for", f"{self.verified_at:%Y-%m-%d %H:%M} UTC"),
            ("expires", f"{self.earliest_expiry:%Y-%m-%d %H:%M} UTC"),
        ]
        return card.render("Verified and accepted", self._banner(), rows)

    def _banner(self) -> tuple[str, str]:
        colour, text = card.banner(self.claims.platform, debug=self.debug)
        if self.tcb_status is not TcbStatus.UP_TO_DATE:
            colour, text = card.worse(colour), f"{text}, TCB {self.tcb_status}"
        if self.root != INTEL_ROOT:
            colour, text = card.worse(colour), f"{text}, on the word of {self.root.name}"
        return colour, text
