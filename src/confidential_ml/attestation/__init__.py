"""Find out which enclave one talks to, before sending it anything: evidence, verification, policy.

>>> from confidential_ml.attestation import AttestationPolicy, Collateral, attest
>>> result = attest(evidence, Collateral.load("collateral.json"), AttestationPolicy.load("policy.toml"), nonce=nonce)
>>> print(result.explain())

Pure Python; no enclave and no extension module is needed. What is checked is docs/attestation.md.
"""

from __future__ import annotations

from confidential_ml.attestation.appraise import appraise, attest
from confidential_ml.attestation.claims import Claims, ModelClaim, parse_claims
from confidential_ml.attestation.collateral import Collateral
from confidential_ml.attestation.policy import ANY, AttestationPolicy
from confidential_ml.attestation.quote import Evidence, Quote, ReportBody, parse_evidence, parse_quote
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.result import AttestationResult, VerifiedEvidence, VerifiedQuote
from confidential_ml.attestation.tcb import TcbStatus
from confidential_ml.attestation.trust_root import INTEL_ROOT, TrustRoot
from confidential_ml.attestation.verify import verify, verify_quote
from confidential_ml.errors import AttestationError

__all__ = [
    "ANY",
    "INTEL_ROOT",
    "AttestationError",
    "AttestationPolicy",
    "AttestationResult",
    "Claims",
    "Collateral",
    "Evidence",
    "ModelClaim",
    "Quote",
    "Reason",
    "ReportBody",
    "TcbStatus",
    "TrustRoot",
    "VerifiedEvidence",
    "VerifiedQuote",
    "appraise",
    "attest",
    "parse_claims",
    "parse_evidence",
    "parse_quote",
    "verify",
    "verify_quote",
]
