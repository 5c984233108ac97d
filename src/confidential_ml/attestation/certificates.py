"""Certificates and revocation lists of the SGX PKI, read strictly and checked up to a pinned root.

Source: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification"; RFC 5280.
"""

from __future__ import annotations

import base64
import datetime
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from confidential_ml.attestation import der
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.trust_root import TrustRoot, public_key_der
from confidential_ml.errors import AttestationError

__all__ = [
    "PCK_CHAIN",
    "PCK_CRL_ISSUER_CHAIN",
    "TCB_SIGNER_CHAIN",
    "Chain",
    "ChainProfile",
    "RevocationList",
    "Validity",
    "checked_chain",
    "checked_crl",
    "is_signed_by",
]

MAX_CHAIN_SIZE = 16 << 10
MAX_CRL_SIZE = 256 << 10

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]++)-----END CERTIFICATE-----[\r\n]*+")
_KNOWN_CRITICAL = {x509.BasicConstraints.oid, x509.KeyUsage.oid}
# They narrow what a certificate is good for, and Intel's have neither: not to be skipped even where not critical.
_NARROWING = {x509.ExtendedKeyUsage.oid, x509.NameConstraints.oid}
_CRL_EXTENSIONS = {x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid}
_MAX_SERIAL_BITS = 160  # RFC 5280, 4.1.2.2 has 159; some of Intel's have 160
_FIRST_YEAR = 1970  # what begins earlier is none of Intel's, and not read by those who count seconds from then
_MAX_CRL_NUMBER_BITS = 159  # RFC 5280, 5.2.3: 20 octets
_ROOT_ROLE = "SGX Root CA"
_PCK_CA_ROLES = ("SGX PCK Platform CA", "SGX PCK Processor CA")


@dataclass(frozen=True)
class ChainProfile:
    """What a chain must look like, from its first certificate up to the root, which is left out.

    Attributes
    ----------
    name
        What errors call the chain.
    roles
        For each certificate the roles that its name may say, after the word that the root's name begins with.
    broken, misnamed
        The reasons for one that does not hold together, and for a certificate with another role.
    """

    name: str
    roles: tuple[tuple[str, ...], ...]
    broken: Reason = Reason.CHAIN_INVALID
    misnamed: Reason = Reason.CERTIFICATE_ROLE


PCK_CHAIN = ChainProfile("PCK certificate chain", (("SGX PCK Certificate",), _PCK_CA_ROLES))
PCK_CRL_ISSUER_CHAIN = ChainProfile("PCK CRL issuer chain", (_PCK_CA_ROLES,))
TCB_SIGNER_CHAIN = ChainProfile("issuer chain", (("SGX TCB Signing",),), Reason.TCB_SIGNER, Reason.TCB_SIGNER)


@dataclass(frozen=True)
class Validity:
    """From when to when something holds, both ends included.

    Attributes
    ----------
    what
        What errors call it.
    start, end
        UTC.
    too_early, too_late
        The reasons outside.
    """

    what: str
    start: datetime.datetime
    end: datetime.datetime
    too_early: Reason
    too_late: Reason

    def check(self, now: datetime.datetime) -> None:
        """Refuse a time outside."""
        if now < self.start:
            raise AttestationError(
                self.too_early, f"{self.what} is valid from {self.start:%Y-%m-%dT%H:%M:%SZ}; check the clock"
            )
        if now > self.end:
            raise AttestationError(
                self.too_late, f"{self.what} was valid until {self.end:%Y-%m-%dT%H:%M:%SZ}; get it anew"
            )


@dataclass(frozen=True)
class Chain:
    """A chain whose every certificate is well formed, in its role and signed by the next, up to the pinned root."""

    certificates: tuple[x509.Certificate, ...]
    keys: tuple[ec.EllipticCurvePublicKey, ...]
    validities: tuple[Validity, ...]


@dataclass(frozen=True)
class RevocationList:
    """The serial numbers that a signed CRL names, and when it holds."""

    serials: frozenset[int]
    validity: Validity


def is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether a raw signature (r and s, 32 bytes each, big-endian) with SHA-256 is right."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def checked_chain(pem: bytes, profile: ChainProfile, root: TrustRoot, *, of: str) -> Chain:
    """Read a chain and check everything but dates and revocation.

    Parameters
    ----------
    pem
        The certificates, each followed by its issuer, the root last; its size is bounded by the caller.
    profile
        What it must look like.
    root
        The root to be reached. The one in `pem` is only compared.
    of
        Whose chain it is, for errors.

    Raises
    ------
    AttestationError
        `root-untrusted`, `certificate-key`, `certificate-constraints`, or the reasons of `profile`.
    """
    name = f"the {profile.name} of {of}"
    certificates = _load_chain(pem, len(profile.roles) + 1, name, profile.broken)
    keys = tuple(_checked_key(certificate, name) for certificate in certificates)
    if public_key_der(keys[-1]) != root.public_key:
        if certificates[-1].subject != certificates[-1].issuer:
            raise AttestationError(profile.broken, f"{name} does not end in a root")
        raise AttestationError(
            Reason.ROOT_UNTRUSTED,
            f"{name} ends in {_common_name(certificates[-1])!a} with a key that is not that of {root.name!a}; "
            "another root is believed only if the caller hands it over",
        )
    for certificate, issuer in itertools.pairwise((*certificates, certificates[-1])):
        _check_issuer(certificate, issuer, name, profile.broken)
    _check_roles(certificates, profile, name)
    _check_constraints(certificates, [*(roles[0].endswith(" CA") for roles in profile.roles), True], name)
    return Chain(certificates, keys, tuple(_validity(certificate) for certificate in certificates))


def checked_crl(data: bytes, what: str, issuer: x509.Certificate, key: ec.EllipticCurvePublicKey) -> RevocationList:
    """Read a CRL and check everything but its dates.

    Raises
    ------
    AttestationError
        `crl-format`, `crl-issuer`, `crl-signature`.
    """
    try:
        crl = x509.load_der_x509_crl(data)
        is_of_issuer, start, end = crl.issuer == issuer.subject, crl.last_update_utc, crl.next_update_utc
    except Exception:  # whatever a library raises on hostile bytes means the same
        raise AttestationError(Reason.CRL_FORMAT, f"{what} cannot be read: it is not DER of a CRL") from None
    if not is_of_issuer:
        raise AttestationError(Reason.CRL_ISSUER, f"{what} is of another issuer; get the one of the PCK's CA")
    is_p256 = crl.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    if not is_p256 or not crl.is_signature_valid(key):
        raise AttestationError(Reason.CRL_SIGNATURE, f"{what} has a wrong signature")
    serials = _revoked(crl)
    if serials is None or end is None or start.year < _FIRST_YEAR:
        raise AttestationError(
            Reason.CRL_FORMAT,
            f"{what} must have a number, its issuer's key identifier and a next update, and nothing that this release "
            "does not know",
        )
    return RevocationList(serials, Validity(what, start, end, Reason.CRL_NOT_YET_VALID, Reason.CRL_EXPIRED))


def _revoked(crl: x509.CertificateRevocationList) -> frozenset[int] | None:
    """The serial numbers, or None for a list that may be a part of one or hold entries of another issuer."""
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        known = {extension.oid for extension in crl.extensions} == _CRL_EXTENSIONS
        if not known or not 0 <= number < 1 << _MAX_CRL_NUMBER_BITS:
            return None
        entries = [(entry.serial_number, any(one.critical for one in entry.extensions)) for entry in crl]
    except Exception:
        return None
    return None if any(critical for _, critical in entries) else frozenset(serial for serial, _ in entries)


def _load_chain(pem: bytes, count: int, name: str, broken: Reason) -> tuple[x509.Certificate, ...]:
    # The PCK's chain may end in the NUL of a C string.
    text = pem.removesuffix(b"\0")
    blocks = list(_PEM.finditer(text))
    if sum(len(block[0]) for block in blocks) != len(text) or len(blocks) != count:
        raise AttestationError(broken, f"{name} must be {count} PEM certificates and nothing else")
    try:
        return tuple(_load(block[1]) for block in blocks)
    except Exception:
        raise AttestationError(broken, f"{name} holds a certificate that cannot be read") from None


def _load(text: bytes) -> x509.Certificate:
    encoded = text.replace(b"\r", b"").replace(b"\n", b"")
    data = base64.b64decode(encoded, validate=True)
    certificate = x509.load_der_x509_certificate(data)
    # What decoders skip, nobody has signed: spare bits of base64, and of the bit string that the signature is.
    (_, _, (tag, signature)) = der.elements(der.single(data, der.SEQUENCE))
    if base64.b64encode(data) != encoded or (tag, signature) != (der.BIT_STRING, b"\0" + certificate.signature):
        raise ValueError
    # Read here, as they are parsed only when asked for.
    _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
    is_v3, since = certificate.version == x509.Version.v3, certificate.not_valid_before_utc.year
    if not is_v3 or since < _FIRST_YEAR or not 0 < certificate.serial_number < 1 << _MAX_SERIAL_BITS:
        raise ValueError
    return certificate


def _checked_key(certificate: x509.Certificate, name: str) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    signed_as_it_should = certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    if not isinstance(key, ec.EllipticCurvePublicKey) or public_key_der(key) is None or not signed_as_it_should:
        raise AttestationError(
            Reason.CERTIFICATE_KEY, f"{name} has a certificate whose key or signature is not P-256 with SHA-256"
        )
    return key


def _check_issuer(certificate: x509.Certificate, issuer: x509.Certificate, name: str, broken: Reason) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        raise AttestationError(
            broken,
            f"{name} does not hold together: {_common_name(certificate)!a} is not issued by the next certificate",
        ) from None


def _check_constraints(certificates: Sequence[x509.Certificate], are_ca: Sequence[bool], name: str) -> None:
    for index, (certificate, is_ca) in enumerate(zip(certificates, are_ca, strict=True)):
        if not _constraints_are_right(certificate, is_ca, sum(are_ca[:index])):
            raise AttestationError(
                Reason.CERTIFICATE_CONSTRAINTS,
                f"{name}: basic constraints, key usage or a critical extension of {_common_name(certificate)!a} "
                f"do not fit {'a CA' if is_ca else 'a certificate that is no CA'} in its place",
            )


def _constraints_are_right(certificate: x509.Certificate, is_ca: bool, cas_below: int) -> bool:
    extensions = certificate.extensions
    if any(one.oid in _NARROWING or (one.critical and one.oid not in _KNOWN_CRITICAL) for one in extensions):
        return False
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    signs = usage.key_cert_sign, usage.crl_sign
    if not is_ca:
        return not basic.value.ca and usage.digital_signature and not any(signs)
    length = basic.value.path_length
    return basic.critical and basic.value.ca and all(signs) and (length is None or length >= cas_below)


def _check_roles(certificates: Sequence[x509.Certificate], profile: ChainProfile, name: str) -> None:
    root_name = _common_name(certificates[-1])
    # "Intel " or "SIMULATION - NOT INTEL ": the root's word, which all it has issued share.
    vendor = root_name.removesuffix(_ROOT_ROLE)
    if vendor == root_name:
        raise AttestationError(Reason.CERTIFICATE_ROLE, f"{name} ends in {root_name!a}, which is no {_ROOT_ROLE}")
    for certificate, roles in zip(certificates, profile.roles, strict=False):
        if _common_name(certificate) not in [vendor + role for role in roles]:
            raise AttestationError(
                profile.misnamed,
                f"{name}: {_common_name(certificate)!a} stands where {vendor + ' or '.join(roles)!a} belongs",
            )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(
        f"the certificate {_common_name(certificate)!a}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        Reason.CERTIFICATE_NOT_YET_VALID,
        Reason.CERTIFICATE_EXPIRED,
    )
