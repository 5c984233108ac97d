"""What a PCS or PCCS responds, read into the fields of a `Collateral`. Nothing here is verified.

Only what a wrong address, a proxy's login page or a broken cache would send is told apart from collateral, so that it
is neither kept nor found out later.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confidential_ml.attestation.http_get import Response, without_query
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.signed_json import Fields, cut_out, parse_object
from confidential_ml.errors import AttestationError, CollateralError

__all__ = ["SignedDocument", "crl", "issuer_chain", "signed_document", "unusable"]

_SIGNATURE_SIZE = 64
_DER_SEQUENCE = b"\x30"
_PEM = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True)
class SignedDocument:
    """The exact text of TCB info or QE identity, its signature, and the PEM chain of its signer."""

    text: str
    signature: bytes
    chain: str
    _fields: Fields

    def says(self, name: str, value: str) -> bool:
        """Whether a field is this text; upper and lower case are the same in hexadecimal."""
        try:
            return self._fields.text(name).upper() == value.upper()
        except AttestationError:
            return False


def signed_document(response: Response, name: str, headers: tuple[str, ...], what: str) -> SignedDocument:
    """Read ``{"name":{...},"signature":"..."}``, and the chain that comes in a header.

    Raises
    ------
    CollateralError
        If the response is no such thing.
    """
    try:
        body = response.body.decode("ascii")
        fields = parse_object(body, what, Reason.COLLATERAL_FORMAT)
        text = cut_out(body, name, what, Reason.COLLATERAL_FORMAT)
        signature = fields.hexadecimal("signature", _SIGNATURE_SIZE)
    except UnicodeDecodeError:
        raise unusable(response, what, "it is not ASCII") from None
    except AttestationError as error:
        raise unusable(response, what, error.sentence) from None
    return SignedDocument(text, signature, issuer_chain(response, headers, what), fields.inner(name))


def issuer_chain(response: Response, headers: tuple[str, ...], what: str) -> str:
    """The PEM chain in the first of these headers that is there; it is percent-encoded (RFC 3986, 2.1).

    Raises
    ------
    CollateralError
        If there is none, or something else in it.
    """
    found = [value for name in headers if (value := response.headers.get(name)) is not None]
    if not found:
        raise unusable(response, what, f"there is no header {headers[0]}")
    # Not unquote_plus: a plus sign is base64.
    chain = urllib.parse.unquote(str(found[0]), errors="replace")
    try:
        x509.load_pem_x509_certificates(chain.encode("ascii"))
    except ValueError:
        raise unusable(response, what, f"header {headers[0]} holds no certificates") from None
    return chain


def crl(response: Response, issuer: str, what: str) -> bytes:
    """DER of a CRL, which PCS sends as it is and PCCS, depending on version and request, in hexadecimal.

    Raises
    ------
    CollateralError
        If it is no CRL, or one of another issuer than the one whose name ends so.
    """
    try:
        data = _crl_der(response.body)
        names = x509.load_der_x509_crl(data).issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        raise unusable(response, what, "it is no CRL") from None
    if len(names) != 1 or not str(names[0].value).endswith(issuer):
        raise unusable(response, what, f"it is not a CRL of the {issuer}")
    return data


def _crl_der(body: bytes) -> bytes:
    if body.startswith(_DER_SEQUENCE):
        return body
    if body.startswith(_PEM):
        return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
    return bytes.fromhex(body.decode("ascii"))


def unusable(response: Response, what: str, problem: str) -> CollateralError:
    """The error for a response that is not what was asked for."""
    return CollateralError(
        f"{what} from {without_query(response.url)} cannot be used: {problem}; "
        "check that the address is that of a PCS or PCCS, or ask another"
    )
