"""Whom a verifier believes in the end: a root, pinned by its public key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from confidential_ml.errors import InvalidInputError

__all__ = ["INTEL_ROOT", "TrustRoot", "public_key_der"]

_MAX_CERTIFICATE_SIZE = 16 << 10


@dataclass(frozen=True)
class TrustRoot:
    """A root of trust.

    Attributes
    ----------
    name
        What results call it.
    public_key
        Its P-256 key, DER of a SubjectPublicKeyInfo (RFC 5480).

    Raises
    ------
    InvalidInputError
        If the name is empty or not printable, or the key is not a P-256 key in that form.
    """

    name: str
    public_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name or not self.name.isprintable():
            raise InvalidInputError("the name of a TrustRoot must be text that says whose it is")
        if type(self.public_key) is not bytes:
            raise InvalidInputError("the public_key of a TrustRoot must be bytes, DER of a SubjectPublicKeyInfo")
        try:
            key = load_der_public_key(self.public_key)
        except Exception:
            key = None
        if public_key_der(key) != self.public_key:
            raise InvalidInputError(
                "the public_key of a TrustRoot must be a P-256 key, DER of a SubjectPublicKeyInfo with an uncompressed "
                "point; for a certificate use TrustRoot.from_certificate"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key as it stands here, hexadecimal; by it people compare roots."""
        return hashlib.sha256(self.public_key).hexdigest()

    @classmethod
    def from_certificate(cls, certificate: bytes | str, *, name: str) -> TrustRoot:
        """Pin the key of a certificate; nothing else of the certificate counts.

        Parameters
        ----------
        certificate
            PEM or DER.
        name
            What results shall call it.

        Raises
        ------
        InvalidInputError
            If it is no certificate, or its key is not P-256.
        """
        data = certificate.encode("utf-8", "replace") if isinstance(certificate, str) else certificate
        if not isinstance(data, bytes) or len(data) > _MAX_CERTIFICATE_SIZE:
            raise InvalidInputError("the certificate of a TrustRoot must be PEM or DER, at most 16 KiB")
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        try:
            key = public_key_der(load(data).public_key())
        except Exception:
            key = None
        if key is None:
            raise InvalidInputError("the certificate of a TrustRoot cannot be read as PEM or DER with a P-256 key")
        return cls(name, key)


def public_key_der(key: object) -> bytes | None:
    """A P-256 public key as DER of a SubjectPublicKeyInfo, None for any other key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Of the certificate that Intel publishes at certificates.trustedservices.intel.com/IntelSGXRootCA.der, SHA-256
# 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
INTEL_ROOT = TrustRoot(
    "Intel SGX Root CA",
    bytes.fromhex(
        "3059301306072a8648ce3d020106082a8648ce3d030107034200040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e"
        "705525f567918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
    ),
)
