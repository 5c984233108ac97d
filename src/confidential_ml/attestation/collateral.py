"""Collateral: the signed and dated documents that a verifier needs besides the quote (docs/attestation.md 3)."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, fields
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from confidential_ml.attestation import signed_json
from confidential_ml.attestation.certificates import (
    MAX_CHAIN_SIZE,
    MAX_CRL_SIZE,
    PCK_CRL_ISSUER_CHAIN,
    TCB_SIGNER_CHAIN,
    Chain,
    RevocationList,
    Validity,
    checked_chain,
    checked_crl,
    is_signed_by,
)
from confidential_ml.attestation.files import StrPath, read_small, replace_small
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.steps import Steps
from confidential_ml.attestation.tcb import QeIdentity, TcbInfo
from confidential_ml.attestation.trust_root import TrustRoot
from confidential_ml.errors import AttestationError, InvalidInputError

__all__ = ["CheckedCollateral", "Collateral", "checked_collateral"]

MAX_DOCUMENT_SIZE = 256 << 10
MAX_JSON_SIZE = 2 << 20
_SIGNATURE_SIZE = 64
_CACHED_COLLATERALS = 32


@dataclass(frozen=True)
class Collateral:
    """The signed documents that a quote is verified with; who delivers them need not be trusted.

    Nothing here has been verified.

    Attributes
    ----------
    pck_crl_issuer_chain, tcb_info_issuer_chain, qe_identity_issuer_chain
        PEM: the signer, then the root.
    root_ca_crl, pck_crl
        DER.
    tcb_info, qe_identity
        The exact text that was signed, JSON.
    tcb_info_signature, qe_identity_signature
        r and s, big-endian, 32 bytes each.

    Raises
    ------
    AttestationError
        `collateral-format`: a field is larger than any genuine one, or a signature has not 64 bytes.
    InvalidInputError
        If a field is of another type.
    """

    pck_crl_issuer_chain: str = field(repr=False)
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    tcb_info_issuer_chain: str = field(repr=False)
    tcb_info: str = field(repr=False)
    tcb_info_signature: bytes = field(repr=False)
    qe_identity_issuer_chain: str = field(repr=False)
    qe_identity: str = field(repr=False)
    qe_identity_signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            value = getattr(self, name)
            # Exactly: a subclass could compare equal to what it is not, and be found in the cache.
            if type(value) is not kind:
                raise InvalidInputError(f"{name} of a Collateral must be {kind.__name__}, not {type(value).__name__}")
            if kind is str and not value.isascii():
                raise _malformed(f"{name} holds a character that is not ASCII")
            if len(value) > _limit(name):
                raise _malformed(f"{name} has {len(value)} bytes; at most {_limit(name)} are read")
            if name.endswith("_signature") and len(value) != _SIGNATURE_SIZE:
                raise _malformed(f"{name} has {len(value)} bytes, not {_SIGNATURE_SIZE}")

    @classmethod
    def from_json(cls, document: str | bytes) -> Collateral:
        """Read the JSON form of docs/attestation.md, section 3.

        Raises
        ------
        AttestationError
            `collateral-format`, if it is not that.
        InvalidInputError
            If it is neither text nor bytes.
        """
        if not isinstance(document, (str, bytes)):
            raise InvalidInputError(f"document must be text or bytes, not {type(document).__name__}")
        if len(document) > MAX_JSON_SIZE:
            raise _malformed(f"it has {len(document)} bytes; at most {MAX_JSON_SIZE} are read")
        try:
            text = document if isinstance(document, str) else document.decode("utf-8")
        except UnicodeDecodeError:
            raise _malformed("it is not UTF-8") from None
        found = signed_json.parse_object(text, "the collateral", Reason.COLLATERAL_FORMAT)
        if set(found.names()) != set(_TYPES):
            raise _malformed(f"its keys must be {', '.join(_TYPES)}")
        values: dict[str, Any] = {
            name: found.text(name) if kind is str else found.hexadecimal(name) for name, kind in _TYPES.items()
        }
        return cls(**values)

    def to_json(self) -> str:
        """The JSON form that :meth:`from_json` reads, and the tools of others too."""
        values = {name: getattr(self, name) for name in _TYPES}
        return json.dumps({name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()})

    @classmethod
    def load(cls, path: StrPath) -> Collateral:
        """Read a file that :meth:`save` wrote, or another tool.

        Raises
        ------
        AttestationError
            `collateral-format`, if it is no collateral.
        InvalidInputError
            If the file cannot be read.
        """
        _, content = read_small(path, MAX_JSON_SIZE)
        return cls.from_json(content)

    def save(self, path: StrPath) -> None:
        """Write the JSON form to a file, replacing it at one stroke.

        Raises
        ------
        InvalidInputError
            If it cannot be written.
        """
        replace_small(path, self.to_json().encode("ascii"))


_TYPES: dict[str, type[str] | type[bytes]] = {
    one.name: bytes if one.type == "bytes" else str for one in fields(Collateral)
}


def _limit(name: str) -> int:
    if name.endswith("_chain"):
        return MAX_CHAIN_SIZE
    return MAX_CRL_SIZE if name.endswith("_crl") else MAX_DOCUMENT_SIZE


@dataclass(frozen=True)
class CheckedCollateral:
    """Collateral all of whose signatures are right. Whether it is still valid, and fits a quote, depends on the call.

    Attributes
    ----------
    root_crl, pck_crl
        What they revoke.
    pck_ca, pck_ca_key
        Who issued `pck_crl`.
    tcb_signers, roots
        Serial numbers of the certificates that signed TCB info and QE identity, and of the root in each chain.
    tcb_info, qe_identity
        What they say.
    validities
        When each part holds.
    steps
        What was checked, for `explain`.
    """

    root_crl: RevocationList
    pck_crl: RevocationList
    pck_ca: x509.Certificate
    pck_ca_key: ec.EllipticCurvePublicKey
    tcb_signers: frozenset[int]
    roots: frozenset[int]
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    validities: tuple[Validity, ...]
    steps: tuple[str, ...]


# Keyed by the whole collateral and the root: what was checked is what is used. Refusals are not kept.
@functools.lru_cache(maxsize=_CACHED_COLLATERALS)
def checked_collateral(collateral: Collateral, root: TrustRoot) -> CheckedCollateral:
    """Check all that does not depend on the time or the quote.

    Raises
    ------
    AttestationError
        If a chain, CRL, signature or document is not right.
    """
    steps = Steps()
    with steps.told():
        issuer = checked_chain(
            collateral.pck_crl_issuer_chain.encode(), PCK_CRL_ISSUER_CHAIN, root, of="the collateral"
        )
        root_crl = checked_crl(collateral.root_ca_crl, "the root CA CRL", issuer.certificates[1], issuer.keys[1])
        pck_crl = checked_crl(collateral.pck_crl, "the PCK CRL", issuer.certificates[0], issuer.keys[0])
        steps.ok(f"CRLs signed: root CA, {len(root_crl.serials)} revoked; PCK, {len(pck_crl.serials)} revoked")
        tcb_chain = _check_signed(collateral, "tcb_info", Reason.TCB_INFO_SIGNATURE, root)
        tcb_info = TcbInfo.parse(collateral.tcb_info)
        qe_chain = _check_signed(collateral, "qe_identity", Reason.QE_IDENTITY_SIGNATURE, root)
        qe_identity = QeIdentity.parse(collateral.qe_identity)
        steps.ok(
            "TCB info and QE identity signed by a TCB signing certificate of the root; evaluation data numbers "
            f"{tcb_info.evaluation_number} and {qe_identity.evaluation_number}"
        )
    chains = (issuer, tcb_chain, qe_chain)
    return CheckedCollateral(
        root_crl=root_crl,
        pck_crl=pck_crl,
        pck_ca=issuer.certificates[0],
        pck_ca_key=issuer.keys[0],
        tcb_signers=frozenset(chain.certificates[0].serial_number for chain in (tcb_chain, qe_chain)),
        roots=frozenset(chain.certificates[-1].serial_number for chain in chains),
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        validities=(
            *dict.fromkeys(validity for chain in chains for validity in chain.validities),
            root_crl.validity,
            pck_crl.validity,
            _tcb_info_validity(tcb_info),
            _qe_identity_validity(qe_identity),
        ),
        steps=steps.lines,
    )


def _check_signed(collateral: Collateral, name: str, reason: Reason, root: TrustRoot) -> Chain:
    what = {"tcb_info": "the TCB info", "qe_identity": "the QE identity"}[name]
    chain = checked_chain(getattr(collateral, f"{name}_issuer_chain").encode(), TCB_SIGNER_CHAIN, root, of=what)
    signature, signed = getattr(collateral, f"{name}_signature"), getattr(collateral, name).encode()
    if not is_signed_by(chain.keys[0], signature, signed):
        raise AttestationError(reason, f"{what} has a wrong signature: its text is not the one that was signed")
    return chain


def _tcb_info_validity(info: TcbInfo) -> Validity:
    reasons = Reason.TCB_INFO_NOT_YET_VALID, Reason.TCB_INFO_EXPIRED
    return Validity("the TCB info", info.issue_date, info.next_update, *reasons)


def _qe_identity_validity(identity: QeIdentity) -> Validity:
    reasons = Reason.QE_IDENTITY_NOT_YET_VALID, Reason.QE_IDENTITY_EXPIRED
    return Validity("the QE identity", identity.issue_date, identity.next_update, *reasons)


def _malformed(problem: str) -> AttestationError:
    return AttestationError(Reason.COLLATERAL_FORMAT, f"the collateral is malformed: {problem}")
