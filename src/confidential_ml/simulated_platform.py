"""A simulated SGX platform: signs quotes of genuine form under a root of its own, and protects nothing.

What Intel's quoting enclave, PCK certificates and Provisioning Certification Service are to SGX, this is to the
simulation. Nobody believes it but who hands its root to the verifier. It gives no warning: making a simulated
`Enclave` does.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from confidential_ml import simulation
from confidential_ml.attestation import Collateral, ReportBody, TcbStatus, TrustRoot
from confidential_ml.attestation.pck_extension import SGX_EXTENSION_OID
from confidential_ml.attestation.quote import INTEL_QE_VENDOR
from confidential_ml.attestation.verify import checked_now
from confidential_ml.errors import InvalidInputError
from confidential_ml.regular_file import checked_path

__all__ = ["SimulatedPlatform", "of_this_installation"]

VENDOR = "SIMULATION - NOT INTEL"
KEY_FILE = "simulation-platform-key"
VALID_DAYS = 7

_FMSPC = b"SIM\0\0\0"
_PCE_ID = bytes(2)
_SVN = 1  # of every component, the PCE and the quoting enclave
_QE_PROD_ID = 1
_QE_MRSIGNER = hashlib.sha256(f"{VENDOR}: quoting enclave".encode()).digest()
_QE_AUTH = bytes(range(32))
_QE_ATTRIBUTES = (0x5).to_bytes(8, "little") + (0x3).to_bytes(8, "little")  # INIT, MODE64; XFRM x87 and SSE
_REPORT_BODY_SIZE = 384
_CERTIFICATES_START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_CERTIFICATES_END = datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SimulatedPlatform:
    """A simulated machine with a quoting enclave, its certificates, and the service that publishes collateral.

    Parameters
    ----------
    directory
        Where its key is kept, in a file of mode 0600 made at first use. Everything else follows from that key.

    Raises
    ------
    EnclaveError
        If the key cannot be made or read.
    InvalidInputError
        If `directory` cannot be a path.
    """

    def __init__(self, directory: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        path = Path(checked_path(directory, "directory")) / KEY_FILE
        self._keys = _Keys(simulation.kept_key(path, "platform key"))
        self._certificates = _certificates(self._keys)
        self._root = TrustRoot.from_certificate(
            self._certificates.root.public_bytes(Encoding.DER), name=f"{VENDOR} SGX Root CA"
        )

    @property
    def root(self) -> TrustRoot:
        """The root to hand to a verifier that shall accept this platform, in tests and demonstrations."""
        return self._root

    @property
    def root_certificate(self) -> bytes:
        """The certificate of :attr:`root`, PEM, to be handed to a verifier elsewhere."""
        return self._certificates.root.public_bytes(Encoding.PEM)

    def quote(self, report_body: bytes) -> bytes:
        """Sign a report body as a quoting enclave does.

        Parameters
        ----------
        report_body
            384 bytes, as the simulated enclave gives out; the DEBUG attribute must be set.

        Returns
        -------
        bytes
            A quote, version 3.

        Raises
        ------
        InvalidInputError
            If it has another size, or does not say DEBUG: what is simulated must say so.
        """
        if not isinstance(report_body, bytes) or len(report_body) != _REPORT_BODY_SIZE:
            raise InvalidInputError(f"report_body must be {_REPORT_BODY_SIZE} bytes")
        if not ReportBody.parse(report_body).is_debug:
            raise InvalidInputError(
                "report_body must have the DEBUG attribute: a simulated enclave says that it is one"
            )
        header = b"".join((_u16(3), _u16(2), bytes(4), _u16(_SVN), _u16(_SVN), INTEL_QE_VENDOR, bytes(20)))
        signed = header + report_body
        point = self._keys.attestation.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        qe_report = _qe_report(hashlib.sha256(point + _QE_AUTH).digest())
        signature_data = b"".join(
            (
                *(_raw_signature(self._keys.attestation, signed), point),
                *(qe_report, _raw_signature(self._keys.pck, qe_report)),
                *(_u16(len(_QE_AUTH)), _QE_AUTH),
                *(_u16(5), _u32(len(self._certificates.pck_chain)), self._certificates.pck_chain),
            )
        )
        return signed + _u32(len(signature_data)) + signature_data

    def collateral(self, now: datetime.datetime | None = None) -> Collateral:
        """Collateral for this platform, written anew.

        Parameters
        ----------
        now
            It is valid from a day before this until seven days after; by default the clock's time.

        Raises
        ------
        InvalidInputError
            If `now` has no time zone.
        """
        moment = checked_now(now).replace(microsecond=0)
        start, end = moment - datetime.timedelta(days=1), moment + datetime.timedelta(days=VALID_DAYS)
        keys, certificates = self._keys, self._certificates
        tcb_info, qe_identity = _tcb_info(start, end), _qe_identity(start, end)
        signer_chain = _pem(certificates.tcb_signer, certificates.root)
        return Collateral(
            pck_crl_issuer_chain=_pem(certificates.pck_ca, certificates.root),
            root_ca_crl=_crl(certificates.root, keys.root, start, end),
            pck_crl=_crl(certificates.pck_ca, keys.pck_ca, start, end),
            tcb_info_issuer_chain=signer_chain,
            tcb_info=tcb_info,
            tcb_info_signature=_raw_signature(keys.tcb_signer, tcb_info.encode()),
            qe_identity_issuer_chain=signer_chain,
            qe_identity=qe_identity,
            qe_identity_signature=_raw_signature(keys.tcb_signer, qe_identity.encode()),
        )


def of_this_installation() -> SimulatedPlatform:
    """The simulated platform of this user on this machine; its key lies beside the fuse key (`simulation`).

    Raises
    ------
    EnclaveError
        If its key cannot be made or read.
    """
    return SimulatedPlatform(simulation.state_directory())


class _Keys:
    """The platform's private keys and its PPID, all derived from the one that is kept."""

    def __init__(self, kept: bytes) -> None:
        self.root = _private_key(kept, "root CA")
        self.pck_ca = _private_key(kept, "PCK CA")
        self.pck = _private_key(kept, "PCK")
        self.tcb_signer = _private_key(kept, "TCB signing")
        self.attestation = _private_key(kept, "attestation key")
        self.ppid = _derive(kept, "PPID", 16)


def _private_key(kept: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    # 16 bytes more than the order has: the remainder is then as good as uniform.
    number = int.from_bytes(_derive(kept, label, 48), "big")
    return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _derive(kept: bytes, label: str, size: int) -> bytes:
    info = f"confidential_ml simulated platform v1: {label}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=size, salt=None, info=info).derive(kept)


# ---- certificates and CRLs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Certificates:
    root: x509.Certificate
    pck_ca: x509.Certificate
    pck: x509.Certificate
    tcb_signer: x509.Certificate

    @functools.cached_property
    def pck_chain(self) -> bytes:
        return _pem(self.pck, self.pck_ca, self.root).encode()


def _certificates(keys: _Keys) -> _Certificates:
    root_name, pck_ca_name = _name("SGX Root CA"), _name("SGX PCK Platform CA")
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION_OID), _sgx_extension(keys.ppid))
    root = _certificate(1, root_name, keys.root, root_name, keys.root, path_length=1)
    pck_ca = _certificate(2, pck_ca_name, keys.pck_ca, root_name, keys.root, path_length=0)
    pck = _certificate(3, _name("SGX PCK Certificate"), keys.pck, pck_ca_name, keys.pck_ca, extension=extension)
    signer = _certificate(4, _name("SGX TCB Signing"), keys.tcb_signer, root_name, keys.root)
    return _Certificates(root, pck_ca, pck, signer)


def _certificate(
    serial: int,
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None = None,
    extension: x509.ExtensionType | None = None,
) -> x509.Certificate:
    is_ca = path_length is not None
    builder = (
        x509.CertificateBuilder(issuer, name, key.public_key(), serial, _CERTIFICATES_START, _CERTIFICATES_END)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(is_ca), critical=True)
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"{VENDOR} {role}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, VENDOR),
        ]
    )


def _crl(
    issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, start: datetime.datetime, end: datetime.datetime
) -> bytes:
    crl = (
        x509.CertificateRevocationListBuilder(issuer.subject, start, end)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return crl.public_bytes(Encoding.DER)


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def _sgx_extension(ppid: bytes) -> bytes:
    """The value of a PCK's SGX extension, as a platform CA writes it (see `attestation.pck_extension`)."""
    cpu_svn = bytes([_SVN] * 16)
    tcb = [(n, _der(0x02, bytes([_SVN]))) for n in range(1, 18)] + [(18, _der(0x04, cpu_svn))]
    configuration = [(n, _der(0x01, b"\x00")) for n in (1, 2, 3)]
    return _pairs(
        (),
        [
            (1, _der(0x04, ppid)),
            (2, _pairs((2,), tcb)),
            (3, _der(0x04, _PCE_ID)),
            (4, _der(0x04, _FMSPC)),
            (5, _der(0x0A, b"\x01")),
            (6, _der(0x04, ppid)),
            (7, _pairs((7,), configuration)),
        ],
    )


def _pairs(under: Sequence[int], fields: Sequence[tuple[int, bytes]]) -> bytes:
    prefix = bytes.fromhex("2a864886f84d010d01") + bytes(under)
    return _der(0x30, b"".join(_der(0x30, _der(0x06, prefix + bytes([n])) + value) for n, value in fields))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


# ---- documents and reports ------------------------------------------------------------------------------------------


def _tcb_info(start: datetime.datetime, end: datetime.datetime) -> str:
    tcb = {"sgxtcbcomponents": [{"svn": _SVN}] * 16, "pcesvn": _SVN}
    return _json(
        {
            "id": "SGX",
            "version": 3,
            "issueDate": _time(start),
            "nextUpdate": _time(end),
            "fmspc": _FMSPC.hex().upper(),
            "pceId": _PCE_ID.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 1,
            "tcbLevels": [{"tcb": tcb, "tcbDate": _time(_CERTIFICATES_START), "tcbStatus": TcbStatus.UP_TO_DATE}],
        }
    )


def _qe_identity(start: datetime.datetime, end: datetime.datetime) -> str:
    level = {"tcb": {"isvsvn": _SVN}, "tcbDate": _time(_CERTIFICATES_START), "tcbStatus": TcbStatus.UP_TO_DATE}
    return _json(
        {
            "id": "QE",
            "version": 2,
            "issueDate": _time(start),
            "nextUpdate": _time(end),
            "tcbEvaluationDataNumber": 1,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": _QE_ATTRIBUTES.hex().upper(),
            "attributesMask": "FF" * 16,
            "mrsigner": _QE_MRSIGNER.hex().upper(),
            "isvprodid": _QE_PROD_ID,
            "tcbLevels": [level],
        }
    )


def _qe_report(bound: bytes) -> bytes:
    """Report body of the simulated quoting enclave; the layout is docs/attestation.md, section 1."""
    measurement = hashlib.sha256(f"{VENDOR}: image of the quoting enclave".encode()).digest()
    return b"".join(
        (
            *(bytes([_SVN] * 16), bytes(4), bytes(28), _QE_ATTRIBUTES),
            *(measurement, bytes(32), _QE_MRSIGNER, bytes(32), bytes(64)),
            *(_u16(_QE_PROD_ID), _u16(_SVN), bytes(2), bytes(42), bytes(16)),
            *(bound, bytes(32)),
        )
    )


def _raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _json(document: dict[str, object]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
