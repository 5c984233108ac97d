"""Evidence and quotes as bytes: what is there, nothing about whether it is true (docs/attestation.md 1)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from confidential_ml.attestation.reason import Reason
from confidential_ml.errors import AttestationError, InvalidInputError

__all__ = ["INTEL_QE_VENDOR", "Evidence", "Quote", "ReportBody", "checked_bytes", "parse_evidence", "parse_quote"]

MIN_EVIDENCE_SIZE, MAX_EVIDENCE_SIZE = 1 << 10, 256 << 10
QE_AUTH_SIZE = 32  # of every quoting enclave of Intel's; the format would allow others
MAX_CERTIFICATION_SIZE = 16 << 10
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER = struct.Struct("<HHIHH16s20s")
_REPORT_BODY = struct.Struct("<16sI12x16sQQ32s32x32s32x64sHHH42x16s64s")
_SIGNED_SIZE = _HEADER.size + _REPORT_BODY.size
_SIGNATURE_DATA = _SIGNED_SIZE + 4
_FIXED_PARTS = struct.Struct("<64s64s384s64sH")
_CERTIFICATION = struct.Struct("<HI")
_VERSION, _ECDSA_P256, _SGX, _PEM_CHAIN = 3, 2, 0, 5

_FLAG_INIT, _FLAG_DEBUG, _FLAG_MODE64, _FLAG_PROVISION_KEY = 0x1, 0x2, 0x4, 0x10


@dataclass(frozen=True)
class ReportBody:
    """What the CPU says of an enclave (Intel SDM vol. 3D, REPORT; 384 bytes).

    Attributes
    ----------
    cpu_svn
        Security version of the CPU, 16 bytes, opaque.
    miscselect, flags, xfrm
        MISCSELECT and the two halves of ATTRIBUTES.
    mrenclave, mrsigner
        Measurement of the image and of its signer, SHA-256 in hexadecimal.
    isv_prod_id, isv_svn, config_svn
        Product id, security version, version of the configuration.
    isv_ext_prod_id, isv_family_id, config_id
        Of enclaves with key separation and sharing; zeros otherwise.
    report_data
        64 bytes of the enclave's own choice.
    """

    cpu_svn: bytes
    miscselect: int
    isv_ext_prod_id: bytes
    flags: int
    xfrm: int
    mrenclave: str
    mrsigner: str
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> ReportBody:
        """Read 384 bytes.

        Raises
        ------
        AttestationError
            If there are more or fewer (`quote-length`).
        """
        if len(data) != _REPORT_BODY.size:
            raise AttestationError(Reason.QUOTE_LENGTH, f"a report body has {_REPORT_BODY.size} bytes, not {len(data)}")
        cpu_svn, misc, ext, flags, xfrm, enclave, signer, *rest = _REPORT_BODY.unpack(data)
        return cls(cpu_svn, misc, ext, flags, xfrm, enclave.hex(), signer.hex(), *rest)

    @property
    def is_initialised(self) -> bool:
        """INIT: the enclave was started from a signed image."""
        return bool(self.flags & _FLAG_INIT)

    @property
    def is_debug(self) -> bool:
        """DEBUG: a debugger may read the enclave's memory."""
        return bool(self.flags & _FLAG_DEBUG)

    @property
    def is_64_bit(self) -> bool:
        """MODE64."""
        return bool(self.flags & _FLAG_MODE64)

    @property
    def has_provision_key(self) -> bool:
        """PROVISION_KEY: the enclave may ask for keys that identify the machine."""
        return bool(self.flags & _FLAG_PROVISION_KEY)


@dataclass(frozen=True)
class Quote:
    """A DCAP quote, version 3, ECDSA P-256. Nothing here has been verified.

    Attributes
    ----------
    qe_svn, pce_svn, user_data
        Of the header. These SVNs are not those that the TCB is judged by.
    report
        The enclave's report body.
    signed
        The bytes that `signature` is over: header and report body, 432.
    signature, attestation_key
        r and s; x and y; big-endian, 32 bytes each.
    qe_report, qe_report_bytes, qe_report_signature
        Report body of the quoting enclave, its 384 bytes, and the PCK's signature over them.
    qe_auth
        Authentication data of the quoting enclave.
    certificates
        The certification data: PEM chain PCK leaf, PCK CA, root.
    size
        Bytes of the quote.
    """

    qe_svn: int
    pce_svn: int
    user_data: bytes
    report: ReportBody
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    attestation_key: bytes = field(repr=False)
    qe_report: ReportBody
    qe_report_bytes: bytes = field(repr=False)
    qe_report_signature: bytes = field(repr=False)
    qe_auth: bytes = field(repr=False)
    certificates: bytes = field(repr=False)
    size: int


@dataclass(frozen=True)
class Evidence:
    """A quote and the claims behind it. Nothing here has been verified.

    Attributes
    ----------
    quote
        The quote.
    claims
        The bytes after it; :func:`parse_claims` reads them.
    """

    quote: Quote
    claims: bytes = field(repr=False)

    @property
    def claims_digest(self) -> bytes:
        """SHA-256 of the claims, which the quote's report data must begin with."""
        return hashlib.sha256(self.claims).digest()


def checked_bytes(data: object, argument: str) -> bytes:
    """Return bytes, bytearray or memoryview as bytes; anything else is an :class:`InvalidInputError`."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidInputError(f"{argument} must be bytes, not {type(data).__name__}")
    return bytes(data)


def parse_evidence(evidence: bytes) -> Evidence:
    """Take evidence apart: a quote, then claims up to the end.

    Parameters
    ----------
    evidence
        As `Enclave.evidence` returns it: Open Enclave's ``OE_FORMAT_UUID_SGX_ECDSA`` without the attestation header.

    Returns
    -------
    Evidence

    Raises
    ------
    AttestationError
        If it is malformed; the reasons are the ``evidence-`` and ``quote-`` ones.
    InvalidInputError
        If it is not bytes.
    """
    data = checked_bytes(evidence, "evidence")
    _check_size(data)
    _check_header(data)
    end = _SIGNATURE_DATA + int.from_bytes(data[_SIGNED_SIZE:_SIGNATURE_DATA], "little")
    if end > len(data):
        raise AttestationError(
            Reason.QUOTE_LENGTH, f"the quote says it has {end} bytes, only {len(data)} are there; it was cut short"
        )
    return Evidence(_parse(data[:end]), data[end:])


def parse_quote(quote: bytes) -> Quote:
    """Take a bare quote apart: nothing may follow it.

    Parameters
    ----------
    quote
        The quote.

    Returns
    -------
    Quote

    Raises
    ------
    AttestationError
        If it is malformed, or bytes follow it (`quote-length`).
    InvalidInputError
        If it is not bytes.
    """
    evidence = parse_evidence(quote)
    if evidence.claims:
        raise AttestationError(
            Reason.QUOTE_LENGTH,
            f"{len(evidence.claims)} bytes follow the quote; if they are claims this is evidence: use verify",
        )
    return evidence.quote


def _check_size(data: bytes) -> None:
    if not MIN_EVIDENCE_SIZE <= len(data) <= MAX_EVIDENCE_SIZE:
        raise AttestationError(
            Reason.EVIDENCE_SIZE,
            f"evidence has {MIN_EVIDENCE_SIZE} to {MAX_EVIDENCE_SIZE} bytes, this has {len(data)}",
        )


def _check_header(data: bytes) -> None:
    version, key_type, tee_type, _, _, vendor, _ = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise AttestationError(Reason.QUOTE_VERSION, f"the quote has version {version}; only version 3 is read")
    if key_type != _ECDSA_P256:
        raise AttestationError(
            Reason.QUOTE_KEY_TYPE, f"the quote has attestation key type {key_type}; only 2 (ECDSA P-256) is read"
        )
    if tee_type != _SGX:
        raise AttestationError(Reason.QUOTE_TEE_TYPE, f"the quote has TEE type {tee_type:#x}; only 0 (SGX) is read")
    if vendor != INTEL_QE_VENDOR:
        raise AttestationError(
            Reason.QUOTE_VENDOR, f"the quoting enclave is of vendor {vendor.hex()}, not Intel's {INTEL_QE_VENDOR.hex()}"
        )


def _parse(data: bytes) -> Quote:
    _, _, _, qe_svn, pce_svn, _, user_data = _HEADER.unpack_from(data)
    auth_start = _SIGNATURE_DATA + _FIXED_PARTS.size
    if len(data) < auth_start:
        raise AttestationError(Reason.QUOTE_LENGTH, "the quote's signature data is shorter than its fixed parts")
    signature, key, qe_report, qe_signature, auth_size = _FIXED_PARTS.unpack_from(data, _SIGNATURE_DATA)
    if auth_size != QE_AUTH_SIZE:
        raise AttestationError(
            Reason.QUOTE_QE_AUTH,
            f"the QE authentication data says it has {auth_size} bytes; that of Intel's has {QE_AUTH_SIZE}",
        )
    auth_end = auth_start + auth_size
    return Quote(
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        user_data=user_data,
        report=ReportBody.parse(data[_HEADER.size : _SIGNED_SIZE]),
        signed=data[:_SIGNED_SIZE],
        signature=signature,
        attestation_key=key,
        qe_report=ReportBody.parse(qe_report),
        qe_report_bytes=qe_report,
        qe_report_signature=qe_signature,
        qe_auth=data[auth_start:auth_end],
        certificates=_certification_data(data, auth_end),
        size=len(data),
    )


def _certification_data(data: bytes, start: int) -> bytes:
    if len(data) < start + _CERTIFICATION.size:
        raise AttestationError(Reason.QUOTE_LENGTH, "the quote's signature data ends before its certification data")
    kind, size = _CERTIFICATION.unpack_from(data, start)
    certificates = data[start + _CERTIFICATION.size :]
    if kind != _PEM_CHAIN:
        raise AttestationError(
            Reason.QUOTE_CERTIFICATION_DATA,
            f"the quote has certification data of type {kind}; only 5 (PCK certificate chain) is read",
        )
    if size > MAX_CERTIFICATION_SIZE:
        raise AttestationError(
            Reason.QUOTE_CERTIFICATION_DATA,
            f"the certification data says it has {size} bytes; at most {MAX_CERTIFICATION_SIZE} are read",
        )
    if size != len(certificates):
        raise AttestationError(
            Reason.QUOTE_LENGTH,
            f"the quote's signature data has {len(certificates)} bytes for {size} bytes of certification data",
        )
    return certificates
