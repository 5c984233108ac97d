"""The table of attacks on the attestation verifier, from docs/attestation.md 4 and not from the code.

Every attack starts from one scenario that is accepted and says which reason refuses it, and whether dcap-qvl (another
verifier, in Rust) lets it pass: it looks at no claims and no policy, and misses a few things on purpose or not.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dcap_qvl
from attestation_pki import (
    CRL_SIGN,
    DAY,
    DEBUG,
    DIGITAL_SIGNATURE,
    INIT,
    KEY_CERT_SIGN,
    MODE64,
    NON_REPUDIATION,
    NOW,
    PROVISION_KEY,
    SGX_EXTENSION,
    VENDOR,
    YEAR,
    Applied,
    Built,
    Certificate,
    Claims,
    Crl,
    Model,
    Scenario,
    SgxExtension,
    boolean,
    changed,
    delete_json,
    extension,
    integer,
    iso,
    octets,
    oid,
    point,
    sequence,
    set_json,
    tlv,
)

from confidential_ml.attestation import (
    ANY,
    AttestationPolicy,
    AttestationResult,
    Collateral,
    TrustRoot,
    appraise,
    attest,
    verify,
    verify_quote,
)

BASE = Scenario()
NONCE = BASE.claims.nonce
SECOND = datetime.timedelta(seconds=1)

# How the warnings of `cryptography` about certificates that only attackers have begin.
ODD_CERTIFICATES = ("Parsed a serial number which wasn't positive", "Attribute's length must be")

# Everything a policy can ask for is asked for.
POLICY: dict[str, Any] = {
    "mrenclave": BASE.report.mrenclave.hex(),
    "mrsigner": BASE.report.mrsigner.hex(),
    "isv_prod_id": BASE.report.prod_id,
    "min_isv_svn": BASE.report.svn,
    "min_tcb_evaluation_number": 17,
    "model_digest": BASE.claims.models[0].digest.hex(),
    "model_owner": BASE.claims.models[0].owner.hex(),
    "min_model_version": BASE.claims.models[0].version,
    "max_age": datetime.timedelta(hours=1),
    "ppids": bytes(range(16)).hex(),
    "config_digest": BASE.claims.config.hex(),
    "rollback": "unprotected",
}


@functools.cache
def trusted(root_der: bytes) -> TrustRoot:
    return TrustRoot.from_certificate(root_der, name="root of the tests")


def attested(
    built: Built,
    *,
    policy: Mapping[str, object] | None = None,
    nonce: bytes = NONCE,
    after: datetime.timedelta | None = None,
) -> AttestationResult:
    """What a relying party does; `after` is the time between verification and appraisal."""
    collateral = Collateral.from_json(built.collateral_json)
    wanted = AttestationPolicy(**(POLICY | dict(policy or {})))
    root = trusted(built.root_der)
    if after is None:
        return attest(built.evidence, collateral, wanted, nonce=nonce, root=root, now=built.now)
    verified = verify(built.evidence, collateral, root=root, now=built.now)
    return appraise(verified, wanted, nonce=nonce, now=built.now + after)


def passes_dcap_qvl(built: Built) -> bool:
    """Whether dcap-qvl accepts quote and collateral."""
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(built.collateral_json)
        dcap_qvl.verify_with_root_ca(built.quote, collateral, built.root_der, built.now_seconds)
    except ValueError:
        return False
    return True


# --- The table


@dataclass(frozen=True)
class Attack:
    """What is changed, which reason refuses it, and whether dcap-qvl lets it pass."""

    name: str
    reason: str
    passes_dcap_qvl: bool
    changes: Mapping[str, object]
    policy: Mapping[str, object] = field(default_factory=dict)
    nonce: bytes = NONCE
    after: datetime.timedelta | None = None
    bare: bool = False

    def built(self) -> Built:
        return changed(BASE, **self.changes).build()

    def strike(self) -> None:
        built = self.built()
        if self.bare:
            collateral = Collateral.from_json(built.collateral_json)
            verify_quote(built.quote, collateral, root=trusted(built.root_der), now=built.now)
        else:
            attested(built, policy=self.policy, nonce=self.nonce, after=self.after)


def attack(name: str, reason: str, passes: bool, **changes: object) -> Attack:
    """An attack on evidence or collateral."""
    return Attack(name, reason, passes, changes)


def bare(name: str, reason: str, passes: bool, **changes: object) -> Attack:
    """An attack on a quote without claims."""
    return Attack(name, reason, passes, changes, bare=True)


def unwanted(name: str, reason: str, passes: bool = True, **policy: object) -> Attack:
    """Genuine evidence that the policy does not want."""
    return Attack(name, reason, passes, {}, policy=policy)


def splice(start: int, new: bytes) -> Callable[[bytes], bytes]:
    """Bytes put in the place of others."""
    return lambda data: data[:start] + new + data[start + len(new) :]


def flip(position: int, bit: int = 0) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def add_to_u32(position: int, difference: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        value = int.from_bytes(data[position : position + 4], "little") + difference
        return splice(position, value.to_bytes(4, "little"))(data)

    return edit


def then(*edits: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda data: functools.reduce(lambda value, edit: edit(value), edits, data)


SIZE, QE_AUTH = 432, 1012  # offsets in a quote
CERTIFICATION = 1014 + 32  # its type; its size is two bytes further

FORM = [
    attack("evidence of 1,023 bytes", "evidence-size", False, edit_quote=lambda q: q[:1023], edit_claims=lambda c: b""),
    attack(
        "evidence of 256 KiB and a byte", "evidence-size", True, edit_claims=lambda c: c + bytes((256 << 10) - 4000)
    ),
    bare("bare quote of 300 KiB", "evidence-size", False, certification_data=b" " * (300 << 10)),
    attack("quote version 2", "quote-version", False, header__version=2),
    attack("quote version 4", "quote-version", False, header__version=4),
    attack("quote version 0x103", "quote-version", False, header__version=0x103),
    attack("attestation key type 3, P-384", "quote-key-type", False, header__key_type=3),
    attack("attestation key type 0, EPID", "quote-key-type", False, header__key_type=0),
    attack("TEE type TDX", "quote-tee-type", False, header__tee_type=0x81),
    attack("QE vendor, one bit", "quote-vendor", False, header__vendor=flip(15, 7)(BASE.header.vendor)),
    attack("QE vendor zero", "quote-vendor", False, header__vendor=bytes(16)),
    attack("signature data one byte longer", "quote-length", False, edit_quote=add_to_u32(SIZE, 1)),
    attack("signature data one byte shorter", "quote-length", False, edit_quote=add_to_u32(SIZE, -1)),
    attack("signature data of 2**32 - 1", "quote-length", False, edit_quote=splice(SIZE, b"\xff" * 4)),
    attack("signature data of nothing", "quote-length", False, edit_quote=splice(SIZE, bytes(4))),
    attack("a byte inside the signature data left over", "quote-length", True, edit_signature_data=lambda d: d + b"\0"),
    bare("a byte after a bare quote", "quote-length", True, edit_quote=lambda q: q + b"\0"),
    bare("claims after a bare quote", "quote-length", True, edit_quote=lambda q: q + BASE.claims.to_bytes()),
    bare("a bare quote one byte short", "quote-length", False, edit_quote=lambda q: q[:-1]),
    attack("QE authentication data of 1,025 bytes", "quote-qe-auth", False, qe_auth=bytes(1025)),
    attack("QE authentication data of 65,535 bytes", "quote-qe-auth", False, edit_quote=splice(QE_AUTH, b"\xff\xff")),
    attack("QE authentication data of 31 bytes", "quote-qe-auth", False, qe_auth=bytes(31)),
    attack("QE authentication data of nothing", "quote-qe-auth", False, qe_auth=b""),
    *(
        attack(f"certification data of type {kind}", "quote-certification-data", False, certification_type=kind)
        for kind in (0, 1, 2, 3, 4, 6, 7, 0x105)
    ),
    attack("certification data over 16 KiB", "quote-certification-data", True, certification_tail=bytes(16 << 10)),
    attack(
        "certification data one byte longer than there is",
        "quote-length",
        False,
        edit_quote=add_to_u32(CERTIFICATION + 2, 1),
    ),
    attack(
        "certification data one byte shorter than there is",
        "quote-length",
        True,
        edit_quote=add_to_u32(CERTIFICATION + 2, -1),
    ),
    attack("claims: magic", "claims-format", True, claims__magic=b"CMLCLAIN"),
    attack("claims: none", "claims-format", True, edit_claims=lambda c: b""),
    attack("claims: a byte left over, hashed with them", "claims-format", True, claims__tail=b"\0"),
    attack("claims: a byte short", "claims-format", True, edit_claims=lambda c: c[:-1]),
    attack("claims: cut in the fixed part", "claims-format", True, edit_claims=lambda c: c[:151]),
    attack("claims: first reserved field", "claims-format", True, claims__zero1=1),
    attack("claims: second reserved field", "claims-format", True, claims__zero2=1 << 31),
    attack("claims: nonce of 65 bytes", "claims-format", True, claims__nonce=bytes(65)),
    attack("claims: nonce longer than there is", "claims-format", True, claims__nonce_size=64),
    attack("claims: one model more than there is", "claims-format", True, claims__model_count=2),
    attack("claims: one model fewer than there is", "claims-format", True, claims__model_count=0),
    attack("claims: 257 models", "claims-format", True, claims__models=(Model(),) * 257),
    attack("claims: model id of no bytes", "claims-format", True, claims__models=(Model(model_id=b""),)),
    attack("claims: model id of 65 bytes", "claims-format", True, claims__models=(Model(model_id=b"m" * 65),)),
    attack("claims: model id larger than there is", "claims-format", True, claims__models=(Model(id_size=64),)),
    attack("claims: platform unknown", "claims-format", True, claims__platform=4),
    attack("claims: obliviousness unknown", "claims-format", True, claims__obliviousness=2),
    attack("claims: rollback unknown", "claims-format", True, claims__rollback=1),
    attack("claims: epoch 0", "claims-format", True, claims__epoch=0),
    attack("claims: version 2", "claims-version", True, claims__version=2),
    attack("claims: version 0", "claims-version", True, claims__version=0),
]


def collateral_without(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda made: {key: value for key, value in made.items() if key != name}


def collateral_with(name: str, new: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An entry of the collateral changed; a function is applied to what was there."""
    return lambda made: {**made, name: new(made[name]) if callable(new) else new}


COLLATERAL = [
    *(
        attack(f"no {name} in the collateral", "collateral-format", False, edit_collateral=collateral_without(name))
        for name in BASE.build().collateral
    ),
    attack("an unknown entry", "collateral-format", True, edit_collateral=lambda made: {**made, "x": ""}),
    attack("PCK CRL not hexadecimal", "collateral-format", False, edit_collateral=collateral_with("pck_crl", "0g")),
    attack("TCB info not text", "collateral-format", False, edit_collateral=collateral_with("tcb_info", 7)),
    attack(
        "TCB info signature of 63 bytes",
        "collateral-format",
        False,
        edit_collateral=collateral_with("tcb_info_signature", lambda text: text[:-2]),
    ),
    attack(
        "QE identity signature of 65 bytes",
        "collateral-format",
        False,
        edit_collateral=collateral_with("qe_identity_signature", lambda text: text + "00"),
    ),
]


# --- Certificates


ROOT_NAME, PCK_CA_NAME = BASE.root.subject, BASE.pck_ca.subject
PCK_NAME, TCB_SIGNER_NAME = BASE.pck.subject, BASE.tcb_signer.subject
STRANGER = replace(BASE.tcb_signer, subject="somebody else", key="stranger", serial=0x5005)


def by_attacker(**more: object) -> dict[str, object]:
    """A whole PKI of the attacker's under the same names; the relying party pinned the other root."""
    return {
        "root__key": "attacker root",
        "root__signer": "attacker root",
        "pck_ca__signer": "attacker root",
        "tcb_signer__signer": "attacker root",
        "qe_identity_signer__signer": "attacker root",
        "root_crl__signer": "attacker root",
        **more,
    }


def as_intel(certificate: Certificate) -> Certificate:
    subject, issuer = (name.replace(VENDOR, "Intel") for name in (certificate.subject, certificate.issuer))
    return replace(certificate, subject=subject, issuer=issuer)


def under_intels_name(**more: object) -> dict[str, object]:
    """The scenario with the names that Intel's certificates have."""
    parts = ("root", "trusted_root", "pck_ca", "pck", "tcb_signer", "qe_identity_signer")
    names: dict[str, object] = {part: as_intel(getattr(BASE, part)) for part in parts}
    crls: dict[str, object] = {
        "root_crl__issuer": "Intel SGX Root CA",
        "pck_crl__issuer": "Intel SGX PCK Platform CA",
    }
    return {**names, **crls, **more}


def both_roots(**fields: object) -> dict[str, object]:
    """The root itself is made so, and pinned so."""
    return {f"{part}__{name}": value for part in ("root", "trusted_root") for name, value in fields.items()}


def both_signers(**fields: object) -> dict[str, object]:
    """The TCB signing certificate of TCB info and of QE identity."""
    parts = ("tcb_signer", "qe_identity_signer")
    return {f"{part}__{name}": value for part in parts for name, value in fields.items()}


ECDSA_SHA256, ECDSA_SHA384 = "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3"

CHAIN = [
    attack("a whole PKI of the attacker's under the same names", "root-untrusted", False, **by_attacker()),
    attack(
        "a whole PKI of the attacker's under Intel's names",
        "root-untrusted",
        False,
        **under_intels_name(**by_attacker()),
    ),
    attack("the attacker's PKI, showing the right root", "chain-invalid", False, **by_attacker(root=BASE.root)),
    attack("root of the quote exchanged", "chain-invalid", True, pck_chain=("pck", "pck_ca", STRANGER)),
    attack("PCK CA signed by the attacker", "chain-invalid", False, pck_ca__signer="attacker"),
    attack("PCK signed by the attacker", "chain-invalid", False, pck__signer="attacker"),
    attack(
        "PCK with one bit of its signature changed",
        "chain-invalid",
        False,
        pck__edit_signed=lambda d: flip(len(d) - 1)(d),
    ),
    attack("PCK CA with one bit of its body changed", "chain-invalid", False, pck_ca__edit_signed=flip(20)),
    attack("PCK issued in another name", "chain-invalid", False, pck__issuer="somebody else"),
    attack("PCK CA issued in another name", "chain-invalid", False, pck_ca__issuer="somebody else"),
    attack("chain from root to leaf", "chain-invalid", False, pck_chain=("root", "pck_ca", "pck")),
    attack("PCK CA and root exchanged", "chain-invalid", True, pck_chain=("pck", "root", "pck_ca")),
    attack("no root in the chain", "chain-invalid", True, pck_chain=("pck", "pck_ca")),
    attack("no PCK CA in the chain", "chain-invalid", False, pck_chain=("pck", "root")),
    attack("chain of the leaf alone", "chain-invalid", False, pck_chain=("pck",)),
    attack("chain of nothing", "chain-invalid", False, pck_chain=()),
    attack("a certificate too many", "chain-invalid", True, pck_chain=("pck", "pck_ca", "root", STRANGER)),
    attack("the leaf twice", "chain-invalid", True, pck_chain=("pck", "pck", "pck_ca", "root")),
    attack(
        "text before the chain",
        "chain-invalid",
        True,
        certification_data=b"hello\n" + BASE.pem(BASE.pck_chain).encode(),
    ),
    attack("chain that is no PEM", "chain-invalid", False, certification_data=b"\0" * 500),
    attack(
        "PCK issued by the PCK CA through a certificate of the attacker's",
        "chain-invalid",
        False,
        pck__issuer="somebody else",
        pck__signer="stranger",
        pck_chain=("pck", replace(STRANGER, issuer=PCK_CA_NAME, signer="pck ca", ca=True), "pck_ca", "root"),
    ),
    attack(
        "PCK issued by the TCB signer",
        "certificate-role",
        False,
        pck__issuer=TCB_SIGNER_NAME,
        pck__signer="tcb signer",
        pck_chain=("pck", "tcb_signer", "root"),
        pck_crl__issuer=TCB_SIGNER_NAME,
        pck_crl__signer="tcb signer",
    ),
    attack("two NULs behind the chain", "chain-invalid", True, certification_tail=b"\0\0"),
    attack("PCK of 1965", "chain-invalid", False, pck__not_before=NOW.replace(year=1965)),
    attack("PCK with the serial number 0", "chain-invalid", True, pck__serial=0),
    attack("PCK with a negative serial number", "chain-invalid", True, pck__serial=-1),
    attack("PCK with a serial number of 161 bits", "chain-invalid", True, pck__serial=1 << 160),
    attack(
        "PCK that is signed with SHA-256 and says SHA-384 inside",
        "chain-invalid",
        False,
        pck__edit=lambda body: body.replace(oid(ECDSA_SHA256), oid(ECDSA_SHA384), 1),
    ),
    attack(
        "PCK CRL that is signed with SHA-256 and says SHA-384 inside",
        "crl-format",
        False,
        pck_crl__edit_body=lambda body: body.replace(oid(ECDSA_SHA256), oid(ECDSA_SHA384), 1),
    ),
    attack(
        "text between the certificates",
        "chain-invalid",
        True,
        certification_data=BASE.pck.pem().encode() + b"hello\n" + BASE.pem(("pck_ca", "root")).encode(),
    ),
    attack("root that the attacker has signed anew", "chain-invalid", True, root__signer="attacker"),
    attack("PCK of version 1", "chain-invalid", False, pck__version=1),
    attack(
        "another root in the chain of the PCK CRL",
        "root-untrusted",
        True,
        pck_crl_chain=("pck_ca", replace(BASE.root, key="attacker root", signer="attacker root")),
    ),
    attack(
        "another root in the chain of the TCB info",
        "root-untrusted",
        True,
        tcb_info_chain=("tcb_signer", replace(BASE.root, key="attacker root", signer="attacker root")),
    ),
    attack("PCK CRL with the chain of nothing", "chain-invalid", True, pck_crl_chain=()),
    attack("PCK CRL with the chain of the TCB signer", "certificate-role", True, pck_crl_chain=("tcb_signer", "root")),
]

KEYS = [
    attack("PCK on P-384", "certificate-key", False, pck__key="pck@P-384"),
    attack(
        "PCK CA on P-384",
        "certificate-key",
        False,
        pck_ca__key="ca@P-384",
        pck__signer="ca@P-384",
        pck_crl__signer="ca@P-384",
    ),
    attack("TCB signer on P-384", "certificate-key", False, **both_signers(key="tcb@P-384")),
    attack("PCK signed with SHA-384", "certificate-key", False, pck__algorithm="SHA-384"),
    attack("PCK CA signed with SHA-384", "certificate-key", False, pck_ca__algorithm="SHA-384"),
    attack("TCB signer signed with SHA-384", "certificate-key", False, **both_signers(algorithm="SHA-384")),
    attack("PCK signed with SHA-1", "certificate-key", False, pck__algorithm="SHA-1"),
    attack("PCK CA signed with SHA-1", "certificate-key", False, pck_ca__algorithm="SHA-1"),
    attack(
        "PCK that names one algorithm inside and another outside",
        "certificate-key",
        False,
        pck__outer_algorithm="SHA-384",
    ),
]

CONSTRAINTS = [
    attack("PCK that is a CA", "certificate-constraints", False, pck__ca=True),
    attack("PCK without basicConstraints", "certificate-constraints", True, pck__ca=None),
    attack("PCK CA that is none", "certificate-constraints", False, pck_ca__ca=False, pck_ca__path_length=None),
    attack("PCK CA without basicConstraints", "certificate-constraints", False, pck_ca__ca=None),
    attack("TCB signer that is a CA", "certificate-constraints", False, **both_signers(ca=True)),
    attack("root with a path length of 0", "certificate-constraints", True, **both_roots(path_length=0)),
    attack("root that is no CA", "certificate-constraints", True, **both_roots(ca=False, path_length=None)),
    attack("PCK CA without keyCertSign", "certificate-constraints", True, pck_ca__usage=(CRL_SIGN,)),
    attack("PCK CA without cRLSign", "certificate-constraints", False, pck_ca__usage=(KEY_CERT_SIGN,)),
    attack("PCK CA without keyUsage", "certificate-constraints", True, pck_ca__usage=None),
    attack("PCK without digitalSignature", "certificate-constraints", True, pck__usage=(NON_REPUDIATION,)),
    attack("PCK with keyCertSign", "certificate-constraints", True, pck__usage=(DIGITAL_SIGNATURE, KEY_CERT_SIGN)),
    attack("PCK without keyUsage", "certificate-constraints", True, pck__usage=None),
    attack(
        "TCB signer without digitalSignature", "certificate-constraints", True, **both_signers(usage=(NON_REPUDIATION,))
    ),
    attack(
        "TCB signer with keyCertSign",
        "certificate-constraints",
        True,
        **both_signers(usage=(DIGITAL_SIGNATURE, KEY_CERT_SIGN)),
    ),
    attack(
        "PCK with an unknown critical extension",
        "certificate-constraints",
        False,
        pck__more=(extension("1.3.6.1.4.1.99999.1", b"\5\0", critical=True),),
    ),
    attack(
        "TCB signer with an unknown critical extension",
        "certificate-constraints",
        False,
        **both_signers(more=(extension("1.3.6.1.4.1.99999.1", b"\5\0", critical=True),)),
    ),
    attack(
        "PCK CA whose basicConstraints are not critical",
        "certificate-constraints",
        True,
        pck_ca__constraints_critical=False,
    ),
    attack(
        "PCK for TLS servers",
        "certificate-constraints",
        True,
        pck__more=(extension("2.5.29.37", sequence(oid("1.3.6.1.5.5.7.3.1"))),),
    ),
    attack(
        "PCK CA with name constraints",
        "certificate-constraints",
        True,
        pck_ca__more=(extension("2.5.29.30", sequence(tlv(0xA0, sequence(tlv(0x82, b"intel.com"))))),),
    ),
    attack(
        "PCK with basicConstraints twice",
        "chain-invalid",
        False,
        pck__more=(extension("2.5.29.19", sequence(boolean(True)), critical=True),),
    ),
]


def root_named_by_its_word_alone() -> dict[str, object]:
    """All others are named by that word and their role, as if the root had said its own."""
    names = {
        f"{part}__subject": getattr(BASE, part).subject.replace(f"{VENDOR} ", VENDOR) for part in ("pck_ca", "pck")
    }
    signer = TCB_SIGNER_NAME.replace(f"{VENDOR} ", VENDOR)
    return {
        **names,
        **both_roots(subject=VENDOR, issuer=VENDOR),
        **both_signers(subject=signer, issuer=VENDOR),
        "pck_ca__issuer": VENDOR,
        "root_crl__issuer": VENDOR,
        "pck__issuer": names["pck_ca__subject"],
        "pck_crl__issuer": names["pck_ca__subject"],
    }


ROLES = [
    attack("PCK with the name of a TCB signer", "certificate-role", True, pck__subject=TCB_SIGNER_NAME),
    attack("PCK with a name that begins alike", "certificate-role", True, pck__subject=PCK_NAME + "s"),
    attack("PCK with a name that ends alike", "certificate-role", True, pck__subject="Not " + PCK_NAME),
    attack("PCK of another vendor than its root", "certificate-role", True, pck__subject="Intel SGX PCK Certificate"),
    attack(
        "PCK CA with another name",
        "certificate-role",
        True,
        pck_ca__subject=f"{VENDOR} SGX PCK CA",
        pck__issuer=f"{VENDOR} SGX PCK CA",
        pck_crl__issuer=f"{VENDOR} SGX PCK CA",
    ),
    attack(
        "PCK CA of another vendor than its root",
        "certificate-role",
        True,
        pck_ca__subject="Intel SGX PCK Platform CA",
        pck__issuer="Intel SGX PCK Platform CA",
        pck_crl__issuer="Intel SGX PCK Platform CA",
    ),
    attack("root with the vendor's word for a name", "certificate-role", True, **root_named_by_its_word_alone()),
    attack(
        "TCB signer of another vendor than its root",
        "tcb-signer",
        True,
        **both_signers(subject="Intel SGX TCB Signing"),
    ),
    attack("TCB signer with another name", "tcb-signer", True, tcb_signer__subject=f"{VENDOR} SGX TCB"),
    attack("signer of the QE identity with another name", "tcb-signer", True, qe_identity_signer__subject=PCK_NAME),
]

DATES = [
    *(
        found
        for part, passes in (
            ("root", True),
            ("pck_ca", False),
            ("pck", False),
            ("tcb_signer", False),
            ("qe_identity_signer", False),
        )
        for found in (
            attack(
                f"{part} expired a second ago", "certificate-expired", passes, **{f"{part}__not_after": NOW - SECOND}
            ),
            attack(
                f"{part} valid in a second",
                "certificate-not-yet-valid",
                passes,
                **{f"{part}__not_before": NOW + SECOND},
            ),
        )
    ),
    attack("all of it, ten years later", "certificate-expired", False, now=NOW + 10 * YEAR),
    attack("all of it, ten years earlier", "certificate-not-yet-valid", False, now=NOW - 10 * YEAR),
]

DELTA_CRL = extension("2.5.29.27", integer(1), critical=True)
ISSUING_POINT = extension("2.5.29.28", sequence(tlv(0x81, b"\xff")), critical=True)  # for user certificates only

SISTER_CA = replace(BASE.pck_ca, key="sister", serial=0x2012)
RENEWED_ROOT = replace(BASE.root, serial=0x1002)
RENEWED_CA = replace(BASE.pck_ca, serial=0x2032)
RENAMED_CA = replace(RENEWED_CA, subject=f"{VENDOR} SGX PCK Processor CA")
PROCESSOR_CA = replace(BASE.pck_ca, subject=f"{VENDOR} SGX PCK Processor CA", key="processor ca", serial=0x2022)

CRLS = [
    attack("root CRL in another name", "crl-issuer", False, root_crl__issuer="somebody else"),
    attack("PCK CRL in another name", "crl-issuer", False, pck_crl__issuer="somebody else"),
    attack("PCK CRL of the processor CA", "crl-issuer", False, pck_crl__issuer=f"{VENDOR} SGX PCK Processor CA"),
    attack("CRLs exchanged", "crl-issuer", False, root_crl=BASE.pck_crl, pck_crl=BASE.root_crl),
    attack("PCK CRL in the place of the root CRL too", "crl-issuer", False, root_crl=BASE.pck_crl),
    attack("root CRL in the place of the PCK CRL too", "crl-issuer", False, pck_crl=BASE.root_crl),
    attack("root CRL signed by the PCK CA", "crl-signature", False, root_crl__signer="pck ca"),
    attack("PCK CRL signed by the root", "crl-signature", False, pck_crl__signer="root"),
    attack("PCK CRL signed by the attacker", "crl-signature", False, pck_crl__signer="attacker"),
    attack(
        "root CRL with a serial number changed",
        "crl-signature",
        False,
        root_crl__revoked=(BASE.pck_ca.serial,),
        root_crl__edit=lambda der: der.replace(integer(BASE.pck_ca.serial), integer(0x7777)),
    ),
    attack("PCK CRL signed with SHA-384", "crl-signature", False, pck_crl__algorithm="SHA-384"),
    attack("PCK CRL expired a second ago", "crl-expired", False, pck_crl__next_update=NOW - SECOND),
    attack("root CRL expired a second ago", "crl-expired", False, root_crl__next_update=NOW - SECOND),
    attack("PCK CRL of the future", "crl-not-yet-valid", True, pck_crl__this_update=NOW + SECOND),
    attack("root CRL of the future", "crl-not-yet-valid", True, root_crl__this_update=NOW + SECOND),
    attack("PCK CRL without nextUpdate", "crl-format", False, pck_crl__next_update=None),
    attack("root CRL without nextUpdate", "crl-format", False, root_crl__next_update=None),
    attack("PCK CRL that is a delta", "crl-format", False, pck_crl__more=(DELTA_CRL,)),
    attack("PCK CRL for some certificates only", "crl-format", False, pck_crl__more=(ISSUING_POINT,)),
    attack("root CRL that is none", "crl-format", False, root_crl__edit=lambda der: bytes(64)),
    attack("PCK CRL with a byte after it", "crl-format", False, pck_crl__edit=lambda der: der + b"\0"),
    attack("PCK CRL of 1965", "crl-format", False, pck_crl__this_update=NOW.replace(year=1965)),
    attack("PCK CRL without a number", "crl-format", True, pck_crl__number=None),
    attack("PCK CRL with a number of 21 bytes", "crl-format", False, pck_crl__number=1 << 160),
    attack("root CRL with a negative number", "crl-format", False, root_crl__number=-1),
    attack(
        "PCK CRL with a critical extension of an entry",
        "crl-format",
        False,
        pck_crl__revoked=(1,),
        pck_crl__entry=(extension("1.3.6.1.4.1.99999.1", b"\5\0", critical=True),),
    ),
    attack(
        "PCK CRL of another PCK CA of the same name, with its chain",
        "crl-issuer",
        False,
        pck_crl__signer="sister",
        pck_crl_chain=(SISTER_CA, "root"),
    ),
    attack(
        "PCK CRL of the processor CA, with its chain",
        "crl-issuer",
        False,
        pck_crl=Crl(PROCESSOR_CA.subject, "processor ca"),
        pck_crl_chain=(PROCESSOR_CA, "root"),
    ),
    attack("root revoked by its own CRL", "root-untrusted", False, root_crl__revoked=(1, BASE.root.serial)),
    attack(
        "root revoked, by the certificate of the quote",
        "root-untrusted",
        True,
        pck_chain=("pck", "pck_ca", RENEWED_ROOT),
        root_crl__revoked=(RENEWED_ROOT.serial,),
    ),
    attack(
        "root revoked, by the certificate of the collateral",
        "root-untrusted",
        True,
        tcb_info_chain=("tcb_signer", RENEWED_ROOT),
        root_crl__revoked=(RENEWED_ROOT.serial,),
    ),
    attack("PCK revoked", "pck-revoked", False, pck_crl__revoked=(1, BASE.pck.serial, 9)),
    attack("PCK CA revoked", "pck-ca-revoked", False, root_crl__revoked=(1, BASE.pck_ca.serial, 9)),
    attack("TCB signer revoked", "tcb-signer-revoked", False, root_crl__revoked=(1, BASE.tcb_signer.serial, 9)),
    attack(
        "signer of the TCB info revoked",
        "tcb-signer-revoked",
        False,
        tcb_signer__serial=0x4005,
        root_crl__revoked=(0x4005,),
    ),
    attack(
        "PCK CA revoked, by the certificate of the quote",
        "pck-ca-revoked",
        False,
        pck_crl_chain=(RENEWED_CA, "root"),
        root_crl__revoked=(BASE.pck_ca.serial,),
    ),
    attack(
        "PCK CA revoked, by the certificate of the collateral",
        "pck-ca-revoked",
        True,
        pck_crl_chain=(RENEWED_CA, "root"),
        root_crl__revoked=(RENEWED_CA.serial,),
    ),
    attack(
        "PCK CA of the collateral expired",
        "certificate-expired",
        True,
        pck_crl_chain=(replace(RENEWED_CA, not_after=NOW - SECOND), "root"),
    ),
    attack(
        "PCK CRL of the PCK CA's key under another name",
        "crl-issuer",
        False,
        pck_crl__issuer=RENAMED_CA.subject,
        pck_crl_chain=(RENAMED_CA, "root"),
    ),
    attack(
        "signer of the QE identity revoked",
        "tcb-signer-revoked",
        False,
        qe_identity_signer__serial=0x4005,
        root_crl__revoked=(0x4005,),
    ),
]


# --- The SGX extension


Entries = list[tuple[str, bytes]]


def dropped(suffix: str) -> Callable[[Entries], Entries]:
    return lambda entries: [entry for entry in entries if entry[0] != suffix]


def doubled(suffix: str, second: bytes | None = None) -> Callable[[Entries], Entries]:
    """An entry twice: the right one first, then with another value."""
    return lambda entries: entries + [(key, second or value) for key, value in entries if key == suffix]


def replaced(suffix: str, new: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: [(key, new if key == suffix else value) for key, value in entries]


def long_length(der: bytes) -> bytes:
    """The outer length in one byte more than it needs: BER, not DER."""
    assert der[1] == 0x82
    return der[:1] + b"\x83\0" + der[2:]


def indefinite(der: bytes) -> bytes:
    return der[:1] + b"\x80" + der[4:] + b"\0\0"


FMSPC, TCB = octets(bytes.fromhex("00a067110000")), "2"

PCK_EXTENSION = [
    attack("PCK without the extension", "pck-extension", False, pck__sgx=None),
    attack("extension twice", "chain-invalid", False, pck__more=(extension(SGX_EXTENSION, SgxExtension().der()),)),
    *(
        attack(f"extension without entry {suffix}", "pck-extension", False, pck__sgx__edit=dropped(suffix))
        for suffix in ("1", "2", "3", "4", "5")
    ),
    attack("TCB without component 7", "pck-extension", True, pck__sgx__edit_tcb=dropped("2.7")),
    attack("TCB without PCESVN", "pck-extension", False, pck__sgx__edit_tcb=dropped("2.17")),
    attack("TCB without CPUSVN", "pck-extension", False, pck__sgx__edit_tcb=dropped("2.18")),
    attack("FMSPC twice", "pck-extension", True, pck__sgx__edit=doubled("4", octets(bytes(6)))),
    attack("PPID twice", "pck-extension", True, pck__sgx__edit=doubled("1", octets(bytes(16)))),
    attack("PCE id twice, the same", "pck-extension", True, pck__sgx__edit=doubled("3")),
    attack("TCB twice", "pck-extension", True, pck__sgx__edit=doubled("2")),
    attack("component 1 twice", "pck-extension", True, pck__sgx__edit_tcb=doubled("2.1", integer(255))),
    attack("PCESVN twice", "pck-extension", True, pck__sgx__edit_tcb=doubled("2.17", integer(9))),
    attack("component 1 of 256", "pck-extension", True, pck__sgx__edit_tcb=replaced("2.1", integer(256))),
    attack("component 1 negative", "pck-extension", True, pck__sgx__edit_tcb=replaced("2.1", integer(-1))),
    attack(
        "component 1 with a zero before it",
        "pck-extension",
        True,
        pck__sgx__edit_tcb=replaced("2.1", tlv(2, b"\0\x0b")),
    ),
    attack("component 1 as octets", "pck-extension", True, pck__sgx__edit_tcb=replaced("2.1", octets(b"\x0b"))),
    attack("PCESVN of 65,536", "pck-extension", False, pck__sgx__edit_tcb=replaced("2.17", integer(1 << 16))),
    attack(
        "PCESVN with a zero before it", "pck-extension", True, pck__sgx__edit_tcb=replaced("2.17", tlv(2, b"\0\x0d"))
    ),
    attack("CPUSVN of 15 bytes", "pck-extension", False, pck__sgx__edit_tcb=replaced("2.18", octets(bytes(15)))),
    attack("FMSPC of 5 bytes", "pck-extension", False, pck__sgx__fmspc=bytes(5)),
    attack("PCE id of 3 bytes", "pck-extension", True, pck__sgx__pceid=bytes(3)),
    attack("PPID of 15 bytes", "pck-extension", True, pck__sgx__ppid=bytes(15)),
    attack("FMSPC as an integer", "pck-extension", True, pck__sgx__edit=replaced("4", tlv(2, FMSPC[2:]))),
    attack("SGX type as an integer", "pck-extension", True, pck__sgx__edit=replaced("5", integer(0))),
    attack(
        "an unknown entry in the extension",
        "pck-extension",
        True,
        pck__sgx__edit=lambda entries: [*entries, ("8", octets(b""))],
    ),
    attack(
        "an unknown entry in the TCB",
        "pck-extension",
        True,
        pck__sgx__edit_tcb=lambda entries: [*entries, ("2.19", integer(1))],
    ),
    attack(
        "configuration flag that is neither true nor false",
        "pck-extension",
        True,
        pck__sgx__edit=replaced("7", sequence(sequence(oid(f"{SGX_EXTENSION}.7.1"), tlv(1, b"\1")))),
    ),
    attack("outer length not minimal", "pck-extension", False, pck__sgx__edit_der=long_length),
    attack("outer length indefinite", "pck-extension", False, pck__sgx__edit_der=indefinite),
    attack("a byte after the extension", "pck-extension", True, pck__sgx__edit_der=lambda der: der + b"\0"),
    attack("an entry of three parts", "pck-extension", True, pck__sgx__edit=replaced("4", FMSPC + FMSPC)),
    attack("an entry of one part", "pck-extension", False, pck__sgx__edit=replaced("6", b"")),
    attack(
        "length of an entry not minimal", "pck-extension", False, pck__sgx__edit=replaced("4", b"\x04\x81" + FMSPC[1:])
    ),
    attack("extension of nothing", "pck-extension", False, pck__sgx__edit_der=lambda der: b""),
]


# --- Signatures


ZERO_SIGNATURE = bytes(64)
QE_DIGEST = hashlib.sha256(BASE.attestation_key + BASE.qe_auth).digest()
CLAIMS_DIGEST = hashlib.sha256(BASE.claims.to_bytes()).digest()
OFF_CURVE = flip(63)(BASE.attestation_key)

SIGNATURES = [
    attack("QE report signed by the attacker", "qe-report-signature", False, qe_report_signer="attacker"),
    attack("QE report signed by the PCK CA", "qe-report-signature", False, qe_report_signer="pck ca"),
    attack("QE report changed: SVN", "qe-report-signature", False, edit_quote=flip(564 + 258)),
    attack("QE report changed: report data", "qe-report-signature", False, edit_quote=flip(564 + 320)),
    attack("signature of the QE report zero", "qe-report-signature", False, edit_quote=splice(948, ZERO_SIGNATURE)),
    attack(
        "QE report for another key",
        "qe-report-data",
        False,
        attestation_key=point("attacker")[1:],
        qe_report__data=bytes(64),
        quote_signer="attacker",
    ),
    attack(
        "attestation key exchanged for the attacker's",
        "qe-report-data",
        False,
        quote_signer="attacker",
        edit_signature_data=splice(64, point("attacker")[1:]),
    ),
    attack("QE authentication data changed", "qe-report-data", False, edit_quote=flip(QE_AUTH + 2)),
    attack(
        "second half of the QE's report data", "qe-report-data", True, qe_report__data=QE_DIGEST + b"\0" * 31 + b"\1"
    ),
    attack("attestation key off the curve", "attestation-key", False, attestation_key=OFF_CURVE),
    attack("attestation key zero", "attestation-key", False, attestation_key=bytes(64)),
    attack("attestation key beyond the field", "attestation-key", False, attestation_key=b"\xff" * 64),
    attack("quote signed by the attacker", "quote-signature", False, quote_signer="attacker"),
    attack("quote signed by the PCK", "quote-signature", False, quote_signer="pck"),
    attack("MRENCLAVE changed", "quote-signature", False, edit_quote=flip(48 + 64)),
    attack("report data changed", "quote-signature", False, edit_quote=flip(48 + 320)),
    attack("DEBUG cleared", "quote-signature", False, report__flags=INIT | MODE64 | DEBUG, edit_quote=flip(48 + 48, 1)),
    attack("user data of the header changed", "quote-signature", False, edit_quote=flip(28)),
    attack("signature of the quote zero", "quote-signature", False, edit_quote=splice(436, ZERO_SIGNATURE)),
    attack(
        "signature of the quote with r and s exchanged",
        "quote-signature",
        False,
        edit_quote=lambda q: q[:436] + q[468:500] + q[436:468] + q[500:],
    ),
]


# --- TCB info and QE identity


def before(part: str, *edits: Callable[[str], str]) -> dict[str, object]:
    """Intel itself signs other text."""
    return {f"{part}__text": Applied(then(*edits))}


def text_of(part: str, old: str, new: str) -> dict[str, object]:
    """As `before`, for what no JSON writer makes: some text in the place of other text, once."""
    text: str = getattr(BASE, part).text
    assert old in text
    return {f"{part}__text": text.replace(old, new, 1)}


LEVELS = json.loads(BASE.tcb_info.text)["tcbLevels"]
NEWEST = BASE.pck.sgx.components if BASE.pck.sgx else ()
PCK_SIGNER_CHAIN = ("pck", "pck_ca", "root")
SIGNER_OF_PCK_CA = replace(BASE.tcb_signer, issuer=PCK_CA_NAME, signer="pck ca", key="leaked")

SIGNERS = [
    attack("TCB info signed by the PCK", "tcb-signer", True, tcb_info__signer="pck", tcb_info_chain=PCK_SIGNER_CHAIN),
    attack(
        "QE identity signed by the PCK",
        "tcb-signer",
        True,
        qe_identity__signer="pck",
        qe_identity_chain=PCK_SIGNER_CHAIN,
    ),
    attack(
        "TCB info signed by the PCK CA",
        "tcb-signer",
        False,
        tcb_info__signer="pck ca",
        tcb_info_chain=("pck_ca", "root"),
    ),
    attack(
        "QE identity signed by the PCK CA",
        "tcb-signer",
        False,
        qe_identity__signer="pck ca",
        qe_identity_chain=("pck_ca", "root"),
    ),
    attack("TCB info signed by the root", "tcb-signer", False, tcb_info__signer="root", tcb_info_chain=("root",)),
    attack(
        "TCB info signed by a child of the PCK CA with the right name",
        "tcb-signer",
        True,
        tcb_info__signer="leaked",
        tcb_info_chain=(SIGNER_OF_PCK_CA, "pck_ca", "root"),
    ),
    attack(
        "QE identity signed by a child of the PCK CA with the right name",
        "tcb-signer",
        True,
        qe_identity__signer="leaked",
        qe_identity_chain=(SIGNER_OF_PCK_CA, "pck_ca", "root"),
    ),
    attack(
        "TCB info signed by a child of the PCK CA that says it is the root's",
        "tcb-signer",
        False,
        tcb_info__signer="leaked",
        tcb_info_chain=(replace(SIGNER_OF_PCK_CA, issuer=ROOT_NAME), "root"),
    ),
    attack("TCB signer signed by the attacker", "tcb-signer", False, tcb_signer__signer="attacker"),
    attack("TCB info with the chain of nothing", "tcb-signer", False, tcb_info_chain=()),
    attack("TCB info signed by the attacker", "tcb-info-signature", False, tcb_info__signer="attacker"),
    attack("TCB info signed by the PCK, with the right chain", "tcb-info-signature", False, tcb_info__signer="pck"),
    attack("QE identity signed by the attacker", "qe-identity-signature", False, qe_identity__signer="attacker"),
    attack(
        "signature of the QE identity over the TCB info",
        "tcb-info-signature",
        False,
        tcb_info__signature=BASE.qe_identity.signature_bytes(),
    ),
    attack("signature of the TCB info zero", "tcb-info-signature", False, tcb_info__signature=ZERO_SIGNATURE),
    attack(
        "TCB info edited: status",
        "tcb-info-signature",
        False,
        tcb_info__edit_after=lambda text: text.replace("OutOfDate", "UpToDate"),
    ),
    attack("TCB info edited: a space", "tcb-info-signature", False, tcb_info__edit_after=lambda text: text + " "),
    attack(
        "TCB info edited: spaces between",
        "tcb-info-signature",
        False,
        tcb_info__edit_after=lambda text: json.dumps(json.loads(text)),
    ),
    attack(
        "QE identity edited: MRSIGNER",
        "qe-identity-signature",
        False,
        qe_identity__edit_after=set_json("mrsigner", to="00" * 32),
    ),
    attack(
        "QE identity edited: a line end",
        "qe-identity-signature",
        False,
        qe_identity__edit_after=lambda text: text + "\n",
    ),
]

FORMAT = [
    attack(
        "TCB info: a key twice",
        "tcb-info-format",
        False,
        **text_of("tcb_info", '"pceId"', '"fmspc":"00A067110000","pceId"'),
    ),
    attack(
        "TCB info: a key twice, inside",
        "tcb-info-format",
        False,
        **text_of("tcb_info", '"pcesvn":13', '"pcesvn":13,"pcesvn":13'),
    ),
    attack(
        "TCB info: a component with svn twice",
        "tcb-info-format",
        False,
        **text_of("tcb_info", '{"svn":11}', '{"svn":11,"svn":0}'),
    ),
    attack(
        "TCB info: an unknown key twice", "tcb-info-format", True, **text_of("tcb_info", '"id"', '"x":1,"x":1,"id"')
    ),
    attack(
        "TCB info: a key twice by escapes",
        "tcb-info-format",
        False,
        **text_of("tcb_info", '"id":"SGX"', '"id":"SGX","\\u0069d":"SGX"'),
    ),
    attack(
        "QE identity: a key twice",
        "qe-identity-format",
        False,
        **text_of("qe_identity", '"isvprodid":1', '"isvprodid":1,"isvprodid":1'),
    ),
    attack(
        "QE identity: a key twice, inside",
        "qe-identity-format",
        False,
        **text_of("qe_identity", '"isvsvn":8', '"isvsvn":8,"isvsvn":0'),
    ),
    attack("TCB info for TDX", "tcb-info-format", False, **before("tcb_info", set_json("id", to="TDX"))),
    attack("TCB info of version 2", "tcb-info-format", True, **before("tcb_info", set_json("version", to=2))),
    attack("TCB info of version 4", "tcb-info-format", True, **before("tcb_info", set_json("version", to=4))),
    attack("TCB info: version as text", "tcb-info-format", False, **before("tcb_info", set_json("version", to="3"))),
    attack(
        "TCB info: version as a decimal",
        "tcb-info-format",
        False,
        **text_of("tcb_info", '"version":3', '"version":3.0'),
    ),
    attack("QE identity for TDX", "qe-identity-format", False, **before("qe_identity", set_json("id", to="TD_QE"))),
    attack("QE identity of the QVE", "qe-identity-format", False, **before("qe_identity", set_json("id", to="QVE"))),
    attack("QE identity of version 1", "qe-identity-format", False, **before("qe_identity", set_json("version", to=1))),
    *(
        attack(
            f"TCB info without {name}",
            "tcb-info-format",
            False,
            **before("tcb_info", delete_json(name)),
        )
        for name in json.loads(BASE.tcb_info.text)
    ),
    *(
        attack(f"QE identity without {name}", "qe-identity-format", False, **before("qe_identity", delete_json(name)))
        for name in json.loads(BASE.qe_identity.text)
    ),
    attack("TCB info: no levels", "tcb-info-format", False, **before("tcb_info", set_json("tcbLevels", to=[]))),
    attack(
        "TCB info: a level twice",
        "tcb-info-format",
        True,
        **before("tcb_info", set_json("tcbLevels", to=lambda levels: [levels[0], *levels])),
    ),
    attack(
        "TCB info: an unknown key 20 deep",
        "tcb-info-format",
        True,
        **text_of("tcb_info", '"id"', '"x":' + "[" * 20 + "]" * 20 + ',"id"'),
    ),
    attack(
        "TCB info: 15 components",
        "tcb-info-format",
        False,
        **before("tcb_info", delete_json("tcbLevels", 0, "tcb", "sgxtcbcomponents", 15)),
    ),
    attack(
        "TCB info: component of 256",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 4, "tcb", "sgxtcbcomponents", 0, "svn", to=256)),
    ),
    attack(
        "TCB info: component negative",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 0, "tcb", "sgxtcbcomponents", 0, "svn", to=-1)),
    ),
    attack(
        "TCB info: component true",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 0, "tcb", "sgxtcbcomponents", 9, "svn", to=False)),
    ),
    attack(
        "TCB info: PCESVN of 65,536",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 4, "tcb", "pcesvn", to=1 << 16)),
    ),
    attack(
        "TCB info: status unknown",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 4, "tcbStatus", to="Fine")),
    ),
    attack(
        "TCB info: advisories as text",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbLevels", 2, "advisoryIDs", to="INTEL-SA-00289")),
    ),
    attack(
        "TCB info: FMSPC of 5 bytes", "tcb-info-format", False, **before("tcb_info", set_json("fmspc", to="00A0671100"))
    ),
    attack(
        "TCB info: nextUpdate that is no date",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("nextUpdate", to="tomorrow")),
    ),
    attack(
        "TCB info: 31 June",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("nextUpdate", to="2026-06-31T00:00:00Z")),
    ),
    attack(
        "TCB info: evaluation number negative",
        "tcb-info-format",
        False,
        **before("tcb_info", set_json("tcbEvaluationDataNumber", to=-1)),
    ),
    attack(
        "TCB info: a fraction in an unknown key", "tcb-info-format", True, **text_of("tcb_info", '"id"', '"x":0.5,"id"')
    ),
    attack("TCB info: tcbType 1", "tcb-info-format", True, **before("tcb_info", set_json("tcbType", to=1))),
    attack("TCB info: NaN", "tcb-info-format", False, **text_of("tcb_info", '"id"', '"x":NaN,"id"')),
    attack("TCB info: a list", "tcb-info-format", False, tcb_info__text="[]"),
    attack("TCB info: nothing", "tcb-info-format", False, tcb_info__text=""),
    attack("TCB info: text after it", "tcb-info-format", False, **before("tcb_info", lambda text: text + "{}")),
    attack("TCB info: nested 5,000 deep", "tcb-info-format", False, tcb_info__text='{"a":' + "[" * 5000),
    attack(
        "TCB info: an integer of 10,000 digits",
        "tcb-info-format",
        True,
        **before("tcb_info", lambda text: text[:-1] + ',"x":' + "9" * 10_000 + "}"),
    ),
    attack(
        "QE identity: MRSIGNER of 31 bytes",
        "qe-identity-format",
        False,
        **before("qe_identity", set_json("mrsigner", to="8C" * 31)),
    ),
    attack(
        "QE identity: MISCSELECT not hexadecimal",
        "qe-identity-format",
        False,
        **before("qe_identity", set_json("miscselect", to="0000000x")),
    ),
    attack(
        "QE identity: no levels", "qe-identity-format", False, **before("qe_identity", set_json("tcbLevels", to=[]))
    ),
    attack(
        "QE identity: status unknown",
        "qe-identity-format",
        False,
        **before("qe_identity", set_json("tcbLevels", 2, "tcbStatus", to="Fine")),
    ),
    attack("TCB info in the place of the QE identity", "qe-identity-format", False, qe_identity=BASE.tcb_info),
    attack("QE identity in the place of the TCB info", "tcb-info-format", False, tcb_info=BASE.qe_identity),
    attack(
        "TCB info expired a second ago",
        "tcb-info-expired",
        False,
        **before("tcb_info", set_json("nextUpdate", to=iso(NOW - SECOND))),
    ),
    attack(
        "TCB info of the future",
        "tcb-info-not-yet-valid",
        False,
        **before("tcb_info", set_json("issueDate", to=iso(NOW + SECOND))),
    ),
    attack(
        "QE identity expired a second ago",
        "qe-identity-expired",
        False,
        **before("qe_identity", set_json("nextUpdate", to=iso(NOW - SECOND))),
    ),
    attack(
        "QE identity of the future",
        "qe-identity-not-yet-valid",
        False,
        **before("qe_identity", set_json("issueDate", to=iso(NOW + SECOND))),
    ),
    attack(
        "collateral of six weeks ago",
        "tcb-info-expired",
        False,
        now=NOW + 29 * DAY + SECOND,
        qe_identity__text=BASE.qe_identity.text.replace(iso(NOW + 29 * DAY), iso(NOW + 90 * DAY)),
    ),
]

PLATFORM = [
    attack(
        "TCB info of another family of machines",
        "tcb-info-fmspc",
        False,
        **before("tcb_info", set_json("fmspc", to="00A067110001")),
    ),
    attack("machine of another family", "tcb-info-fmspc", False, pck__sgx__fmspc=bytes.fromhex("00606a000000")),
    attack("TCB info of another PCE", "tcb-info-pceid", True, **before("tcb_info", set_json("pceId", to="0001"))),
    attack("machine with another PCE", "tcb-info-pceid", True, pck__sgx__pceid=b"\1\0"),
    attack("QE: MISCSELECT", "qe-miscselect", False, qe_report__miscselect=1),
    attack("QE: the highest bit of MISCSELECT", "qe-miscselect", False, qe_report__miscselect=1 << 31),
    attack("QE: not initialised", "qe-attributes", False, qe_report__flags=PROVISION_KEY | MODE64),
    attack("QE: without the provisioning key", "qe-attributes", False, qe_report__flags=INIT | MODE64),
    attack("QE: reserved attribute", "qe-attributes", False, qe_report__flags=INIT | PROVISION_KEY | MODE64 | 1 << 63),
    attack("QE: DEBUG", "qe-debug", False, qe_report__flags=INIT | PROVISION_KEY | MODE64 | DEBUG),
    attack(
        "QE: DEBUG that the identity does not mask",
        "qe-debug",
        False,
        qe_report__flags=INIT | PROVISION_KEY | MODE64 | DEBUG,
        **before("qe_identity", set_json("attributesMask", to="F9FFFFFFFFFFFFFF0000000000000000")),
    ),
    attack(
        "QE: DEBUG that the identity wants",
        "qe-debug",
        False,
        qe_report__flags=INIT | PROVISION_KEY | MODE64 | DEBUG,
        **before("qe_identity", set_json("attributes", to="13000000000000000000000000000000")),
    ),
    attack("QE of another signer", "qe-mrsigner", False, qe_report__mrsigner=b"\x8c" * 31 + b"\x8d"),
    attack("QE of another product", "qe-prodid", False, qe_report__prod_id=2),
    attack("QE of another product, beyond a byte", "qe-prodid", False, qe_report__prod_id=0x101),
    attack("QE on no level", "tcb-level-unknown", False, qe_report__svn=2),
    attack("QE on a revoked level", "tcb-revoked", False, qe_report__svn=3),
    attack("machine on no level: a component", "tcb-level-unknown", False, pck__sgx__components=(1, 1, *NEWEST[2:])),
    attack("machine on no level: the PCE", "tcb-level-unknown", False, pck__sgx__pcesvn=4),
    attack("machine on a revoked level", "tcb-revoked", False, pck__sgx__components=(4, 4, *NEWEST[2:])),
    Attack(
        "machine on a revoked level, whatever is accepted",
        "tcb-revoked",
        False,
        {"pck__sgx__components": (4, 4, *NEWEST[2:])},
        policy={"accepted_tcb": ["UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded", "ConfigurationNeeded"]},
    ),
    attack(
        "machine revoked as a whole",
        "tcb-revoked",
        False,
        **before("tcb_info", set_json("tcbLevels", 0, "tcbStatus", to="Revoked")),
    ),
    attack("not initialised", "enclave-attributes", True, report__flags=MODE64),
    attack("not 64-bit", "enclave-attributes", True, report__flags=INIT),
    attack("with the provisioning key", "enclave-attributes", True, report__flags=INIT | MODE64 | PROVISION_KEY),
    attack("claims of another enclave", "claims-mismatch", True, edit_claims=lambda c: Claims(epoch=2).to_bytes()),
    attack("claims with another epoch key", "claims-mismatch", True, edit_claims=flip(80)),
    attack("claims with another nonce", "claims-mismatch", True, edit_claims=flip(152)),
    attack("report data zero", "claims-mismatch", True, report__data=bytes(64)),
    attack("second half of the report data", "claims-mismatch", True, report__data=CLAIMS_DIGEST + b"\0" * 31 + b"\1"),
    attack("digest of the claims in the second half", "claims-mismatch", True, report__data=bytes(32) + CLAIMS_DIGEST),
]


# --- Policy


OLDER_MACHINE = {"pck__sgx__components": (9, 9, *NEWEST[2:])}
STATUSES = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"]

POLICIES = [
    attack("debug enclave", "debug-enclave", False, report__flags=INIT | MODE64 | DEBUG),
    attack("another MRENCLAVE", "mrenclave", True, report__mrenclave=b"\xe1" * 31 + b"\xe0"),
    unwanted("MRENCLAVE not listed", "mrenclave", mrenclave=["00" * 32, "e1" * 31 + "e0"]),
    attack("another MRSIGNER", "mrsigner", True, report__mrsigner=b"\x51" * 31 + b"\x50"),
    unwanted("MRSIGNER not listed", "mrsigner", mrenclave=ANY, mrsigner=["00" * 32]),
    attack("another product", "isv-prod-id", True, report__prod_id=2),
    unwanted("another product is wanted", "isv-prod-id", mrenclave=None, isv_prod_id=0x101),
    attack("an older security version", "isv-svn", True, report__svn=4),
    unwanted("a newer security version is wanted", "isv-svn", mrenclave=None, min_isv_svn=6),
    attack("machine out of date", "tcb-status", True, **OLDER_MACHINE),
    attack("machine with an old PCE", "tcb-status", True, pck__sgx__pcesvn=12),
    attack("machine misconfigured", "tcb-status", True, pck__sgx__components=(*NEWEST[:6], 11, *NEWEST[7:])),
    attack(
        "last component too low",
        "tcb-status",
        True,
        **before("tcb_info", set_json("tcbLevels", 0, "tcb", "sgxtcbcomponents", 15, "svn", to=1)),
    ),
    attack(
        "components of an old machine, CPUSVN of a new one",
        "tcb-status",
        True,
        **OLDER_MACHINE,
        pck__sgx__cpusvn=bytes(NEWEST),
    ),
    attack("QE out of date", "tcb-status", True, qe_report__svn=7),
    Attack(
        "advisory not accepted",
        "tcb-advisory",
        True,
        OLDER_MACHINE,
        {"accepted_tcb": STATUSES, "accepted_advisories": ["INTEL-SA-00289"]},
    ),
    Attack("advisory of the QE not accepted", "tcb-advisory", True, {"qe_report__svn": 6}, {"accepted_tcb": STATUSES}),
    attack(
        "TCB info of an older evaluation",
        "tcb-evaluation-number",
        True,
        **before("tcb_info", set_json("tcbEvaluationDataNumber", to=16)),
    ),
    attack(
        "QE identity of an older evaluation",
        "tcb-evaluation-number",
        True,
        **before("qe_identity", set_json("tcbEvaluationDataNumber", to=16)),
    ),
    attack("another machine", "ppid", True, pck__sgx__ppid=bytes(16)),
    unwanted("machine not listed", "ppid", ppids=["00" * 16, "ff" * 16]),
    Attack("nonce of an earlier request", "nonce", True, {"claims__nonce": b"an earlier nonce"}),
    Attack("no nonce", "nonce", True, {"claims__nonce": b""}),
    Attack("nonce that begins alike", "nonce", True, {"claims__nonce": NONCE + b"\0"}),
    Attack("nonce cut", "nonce", True, {"claims__nonce": NONCE[:-1]}),
    Attack("verified over an hour ago", "too-old", True, {}, after=datetime.timedelta(hours=1) + SECOND),
    Attack("appraised before it was verified", "too-old", True, {}, after=-datetime.timedelta(days=2)),
    Attack("appraised before it was verified, of any age", "too-old", True, {}, {"max_age": None}, after=-SECOND),
    Attack("collateral expired since", "too-old", True, {}, {"max_age": None}, after=40 * DAY),
    attack("another model", "model", True, claims__models=(Model(digest=bytes(32)),)),
    attack("no model", "model", True, claims__models=()),
    unwanted("model not listed", "model", model_digest=["00" * 32]),
    attack("another owner", "model-owner", True, claims__models=(Model(owner=b"\xff" * 32),)),
    attack("no owner", "model-owner", True, claims__models=(Model(owner=bytes(32)),)),
    attack("an older version", "model-version", True, claims__models=(Model(version=6),)),
    attack(
        "digest of one model, owner of another",
        "model-owner",
        True,
        claims__models=(Model(owner=bytes(32)), Model(digest=bytes(32), model_id=b"other")),
    ),
    attack(
        "version of a model of another owner",
        "model-version",
        True,
        claims__models=(Model(version=6), Model(owner=bytes(32), version=9, model_id=b"other")),
    ),
    attack("another configuration", "config", True, claims__config=bytes(32)),
    unwanted("configuration not listed", "config", config_digest=["00" * 32]),
]

ATTACKS = [
    *FORM,
    *COLLATERAL,
    *CHAIN,
    *KEYS,
    *CONSTRAINTS,
    *ROLES,
    *DATES,
    *CRLS,
    *PCK_EXTENSION,
    *SIGNATURES,
    *SIGNERS,
    *FORMAT,
    *PLATFORM,
    *POLICIES,
]
