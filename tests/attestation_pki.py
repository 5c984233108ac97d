"""A PKI that plays Intel's for tests: certificates, CRLs, TCB info, QE identity, quotes, claims, each part changeable.

Written from Intel's documents and docs/attestation.md, apart from the simulated platform and from the verifier. DER is
written by hand, because an attack needs certificates that no well-behaved library makes. Keys come from their names
and signatures are deterministic: the same scenario has the same bytes in every run, and parts that stay are made once.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)
VENDOR = "SIMULATION - NOT INTEL"
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_EXTENSION = "1.2.840.113741.1.13.1"

INIT, DEBUG, MODE64, PROVISION_KEY = 0x01, 0x02, 0x04, 0x10
DIGITAL_SIGNATURE, NON_REPUDIATION, KEY_CERT_SIGN, CRL_SIGN = 0, 1, 5, 6  # bit numbers of RFC 5280, 4.2.1.3


# --- Keys


_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA-1": hashes.SHA1(),
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
}


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The key of this name; `name@P-384` is on that curve. Worthless outside tests: anybody can make it."""
    curve = name.partition("@")[2] or "P-256"
    scalar = int.from_bytes(hashlib.sha256(b"confidential_ml test key " + name.encode()).digest(), "big")
    return ec.derive_private_key(scalar, _CURVES[curve])


@functools.cache
def point(name: str) -> bytes:
    """The public key, 0x04 and both coordinates."""
    return key(name).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@functools.cache
def sign(name: str, message: bytes, algorithm: str = "SHA-256") -> bytes:
    """A DER signature, the same every time (RFC 6979)."""
    return key(name).sign(message, ec.ECDSA(_HASHES[algorithm], deterministic_signing=True))


def sign_raw(name: str, message: bytes) -> bytes:
    """A signature as quotes and collateral have it: r and s, 32 bytes each."""
    r, s = decode_dss_signature(sign(name, message))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


# --- DER


def tlv(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*contents: bytes) -> bytes:
    return tlv(0x30, *contents)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def boolean(value: bool) -> bytes:
    return tlv(0x01, b"\xff" if value else b"\0")


def octets(content: bytes) -> bytes:
    return tlv(0x04, content)


def bits(content: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes([unused]), content)


@functools.cache
def oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = b""
    for part in [first * 40 + second, *rest]:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(part & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(0x06, content)


def utc_time(value: datetime) -> bytes:
    if value.year < 2050:
        return tlv(0x17, value.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, value.strftime("%Y%m%d%H%M%SZ").encode())


def name(common_name: str) -> bytes:
    attributes = [("2.5.4.3", common_name), ("2.5.4.10", "confidential_ml tests"), ("2.5.4.6", "US")]
    return sequence(*(tlv(0x31, sequence(oid(kind), tlv(0x0C, text.encode()))) for kind, text in attributes))


def extension(kind: str, content: bytes, *, critical: bool = False) -> bytes:
    return sequence(oid(kind), boolean(True) if critical else b"", octets(content))


_SIGNATURE_OIDS = {
    "SHA-1": "1.2.840.10045.4.1",
    "SHA-256": "1.2.840.10045.4.3.2",
    "SHA-384": "1.2.840.10045.4.3.3",
}
_CURVE_OIDS = {"P-256": "1.2.840.10045.3.1.7", "P-384": "1.3.132.0.34"}


def _signature_algorithm(algorithm: str) -> bytes:
    return sequence(oid(_SIGNATURE_OIDS[algorithm]))


def _signed(body: bytes, key_name: str, algorithm: str, outer: str | None = None) -> bytes:
    signature = sign(key_name, body, algorithm)
    return sequence(body, _signature_algorithm(outer or algorithm), bits(signature))


@functools.cache
def _public_key(name: str) -> bytes:
    curve = name.partition("@")[2] or "P-256"
    return sequence(sequence(oid("1.2.840.10045.2.1"), oid(_CURVE_OIDS[curve])), bits(point(name)))


@functools.cache
def _key_identifier(name: str) -> bytes:
    return hashlib.sha1(point(name), usedforsecurity=False).digest()  # RFC 5280, 4.2.1.2


# --- The SGX extension of a PCK certificate


@dataclass(frozen=True)
class SgxExtension:
    """What the PCK certificate says about the platform; `None` leaves an entry out.

    `edit` changes the list of entries (OID suffix, DER value), `edit_tcb` that of the TCB, `edit_der` the finished DER.
    """

    ppid: bytes | None = bytes(range(16))
    components: tuple[int, ...] = (11, 11, 2, 2, 255, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    pcesvn: int | None = 13
    cpusvn: bytes | None = None
    pceid: bytes | None = bytes(2)
    fmspc: bytes | None = bytes.fromhex("00a067110000")
    sgx_type: int | None = 0
    platform_instance: bytes | None = bytes(range(100, 116))
    configuration: tuple[bool, ...] | None = (True, True, False)
    edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]] | None = None
    edit_tcb: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]] | None = None
    edit_der: Callable[[bytes], bytes] | None = None

    def der(self) -> bytes:
        tcb = [(f"2.{number}", integer(svn)) for number, svn in enumerate(self.components, 1)]
        tcb += [] if self.pcesvn is None else [("2.17", integer(self.pcesvn))]
        tcb += [("2.18", octets(bytes(self.components) if self.cpusvn is None else self.cpusvn))]
        tcb = self.edit_tcb(tcb) if self.edit_tcb else tcb
        flags = [(f"7.{number}", boolean(flag)) for number, flag in enumerate(self.configuration or (), 1)]
        entries: list[tuple[str, bytes | None]] = [
            ("1", self.ppid and octets(self.ppid)),
            ("2", _entries(tcb)),
            ("3", self.pceid and octets(self.pceid)),
            ("4", self.fmspc and octets(self.fmspc)),
            ("5", None if self.sgx_type is None else tlv(0x0A, bytes([self.sgx_type]))),
            ("6", self.platform_instance and octets(self.platform_instance)),
            ("7", _entries(flags) if flags else None),
        ]
        present = [(suffix, value) for suffix, value in entries if value is not None]
        der = _entries(self.edit(present) if self.edit else present)
        return self.edit_der(der) if self.edit_der else der


def _entries(entries: list[tuple[str, bytes]]) -> bytes:
    return sequence(*(sequence(oid(f"{SGX_EXTENSION}.{suffix}"), value) for suffix, value in entries))


# --- Certificates and CRLs


@dataclass(frozen=True)
class Certificate:
    """One certificate.

    `key` and `signer` name keys. `usage` are bit numbers; `ca` None leaves basicConstraints out, `usage` None
    keyUsage. `edit` changes the DER of the body before it is signed, `edit_signed` the finished certificate.
    """

    subject: str
    issuer: str
    key: str
    signer: str
    serial: int
    ca: bool | None
    path_length: int | None
    usage: tuple[int, ...] | None
    not_before: datetime = NOW - YEAR
    not_after: datetime = NOW + 9 * YEAR
    algorithm: str = "SHA-256"
    outer_algorithm: str | None = None
    version: int = 3
    sgx: SgxExtension | None = None
    more: tuple[bytes, ...] = ()
    constraints_critical: bool = True
    edit: Callable[[bytes], bytes] | None = None
    edit_signed: Callable[[bytes], bytes] | None = None

    def der(self) -> bytes:
        return _certificate(self)

    def pem(self) -> str:
        return _pem(self.der())


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


@functools.lru_cache(4096)
def _certificate(one: Certificate) -> bytes:
    body = sequence(
        tlv(0xA0, integer(one.version - 1)),
        integer(one.serial),
        _signature_algorithm(one.algorithm),
        name(one.issuer),
        sequence(utc_time(one.not_before), utc_time(one.not_after)),
        name(one.subject),
        _public_key(one.key),
        tlv(0xA3, sequence(*_extensions(one))),
    )
    body = one.edit(body) if one.edit else body
    der = _signed(body, one.signer, one.algorithm, one.outer_algorithm)
    return one.edit_signed(der) if one.edit_signed else der


def _extensions(one: Certificate) -> list[bytes]:
    made = [extension("2.5.29.35", sequence(tlv(0x80, _key_identifier(one.signer))))]
    made += [extension("2.5.29.14", octets(_key_identifier(one.key)))]
    if one.usage is not None:
        made.append(extension("2.5.29.15", _usage_bits(one.usage), critical=True))
    if one.ca is not None:
        length = b"" if one.path_length is None else integer(one.path_length)
        content = sequence(boolean(True) if one.ca else b"", length)
        made.append(extension("2.5.29.19", content, critical=one.constraints_critical))
    if one.sgx is not None:
        made.append(extension(SGX_EXTENSION, one.sgx.der()))
    return made + list(one.more)


def _usage_bits(usage: tuple[int, ...]) -> bytes:
    value = sum(0x80 >> bit for bit in usage)
    return bits(bytes([value]), unused=(value & -value).bit_length() - 1 if value else 0)


@dataclass(frozen=True)
class Crl:
    """One certificate revocation list; `next_update` None leaves that out, `entry` are the extensions of each entry.

    `edit_body` changes what is signed, `edit` the finished list.
    """

    issuer: str
    signer: str
    revoked: tuple[int, ...] = ()
    this_update: datetime = NOW - DAY
    next_update: datetime | None = NOW + 30 * DAY
    algorithm: str = "SHA-256"
    number: int | None = 1
    more: tuple[bytes, ...] = ()
    entry: tuple[bytes, ...] = ()
    edit_body: Callable[[bytes], bytes] | None = None
    edit: Callable[[bytes], bytes] | None = None

    def der(self) -> bytes:
        return _crl(self)


@functools.lru_cache(4096)
def _crl(one: Crl) -> bytes:
    of_entry = sequence(*one.entry) if one.entry else b""
    revoked = [sequence(integer(serial), utc_time(one.this_update), of_entry) for serial in one.revoked]
    extensions = [extension("2.5.29.20", integer(one.number))] if one.number is not None else []
    extensions += [extension("2.5.29.35", sequence(tlv(0x80, _key_identifier(one.signer)))), *one.more]
    body = sequence(
        integer(1),
        _signature_algorithm(one.algorithm),
        name(one.issuer),
        utc_time(one.this_update),
        utc_time(one.next_update) if one.next_update else b"",
        sequence(*revoked) if revoked else b"",
        tlv(0xA0, sequence(*extensions)),
    )
    body = one.edit_body(body) if one.edit_body else body
    der = _signed(body, one.signer, one.algorithm)
    return one.edit(der) if one.edit else der


# --- TCB info and QE identity


@dataclass(frozen=True)
class SignedText:
    """JSON text, the key that signs it, an edit of the text after that, and a signature in place of the right one."""

    text: str
    signer: str = "tcb signer"
    edit_after: Callable[[str], str] | None = None
    signature: bytes | None = None

    def sent(self) -> str:
        return self.edit_after(self.text) if self.edit_after else self.text

    def signature_bytes(self) -> bytes:
        return self.signature if self.signature is not None else sign_raw(self.signer, self.text.encode())


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def compact(document: object) -> str:
    """JSON as Intel writes it: no spaces, and the order it was made in."""
    return json.dumps(document, separators=(",", ":"))


def set_json(*path: str | int, to: object) -> Callable[[str], str]:
    """An edit of JSON text: what lies at this path becomes `to`; a function is applied to what was there."""

    def edit(text: str) -> str:
        document = json.loads(text)
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        last: Any = path[-1]
        parent[last] = to(parent[last]) if callable(to) else to
        return compact(document)

    return edit


def delete_json(*path: str | int) -> Callable[[str], str]:
    """An edit of JSON text that removes what lies at this path."""

    def edit(text: str) -> str:
        document = json.loads(text)
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        last: Any = path[-1]
        del parent[last]
        return compact(document)

    return edit


def tcb_level(components: tuple[int, ...], pcesvn: int, status: str, *advisories: str) -> dict[str, object]:
    level: dict[str, object] = {
        "tcb": {"sgxtcbcomponents": [{"svn": svn} for svn in components], "pcesvn": pcesvn},
        "tcbDate": "2025-08-13T00:00:00Z",
        "tcbStatus": status,
    }
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def qe_level(isvsvn: int, status: str, *advisories: str) -> dict[str, object]:
    level: dict[str, object] = {"tcb": {"isvsvn": isvsvn}, "tcbDate": "2025-08-13T00:00:00Z", "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def _tcb_info_text() -> str:
    """Levels from the newest down; the platform of `SgxExtension()` is on the first."""
    newest = SgxExtension().components
    older = (9, 9, *newest[2:])
    oldest = (5, 5, *newest[2:])
    return compact(
        {
            "id": "SGX",
            "version": 3,
            "issueDate": iso(NOW - DAY),
            "nextUpdate": iso(NOW + 29 * DAY),
            "fmspc": "00A067110000",
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tcbLevels": [
                tcb_level(newest, 13, "UpToDate"),
                tcb_level((*newest[:6], 0, *newest[7:]), 13, "ConfigurationNeeded", "INTEL-SA-00289"),
                tcb_level(older, 13, "OutOfDate", "INTEL-SA-00828", "INTEL-SA-00289"),
                tcb_level(oldest, 11, "OutOfDateConfigurationNeeded", "INTEL-SA-00477"),
                tcb_level((2, 2, *newest[2:6], *[0] * 10), 5, "Revoked"),
            ],
        }
    )


def _qe_identity_text() -> str:
    return compact(
        {
            "id": "QE",
            "version": 2,
            "issueDate": iso(NOW - DAY),
            "nextUpdate": iso(NOW + 29 * DAY),
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": (b"\x8c" * 32).hex().upper(),
            "isvprodid": 1,
            "tcbLevels": [
                qe_level(8, "UpToDate"),
                qe_level(6, "OutOfDate", "INTEL-SA-00615"),
                qe_level(3, "Revoked"),
            ],
        }
    )


# --- Reports, quotes, claims


@dataclass(frozen=True)
class Report:
    """A report body, 384 bytes; `data` None is filled in with what it should be."""

    cpusvn: bytes = bytes(16)
    miscselect: int = 0
    reserved1: bytes = bytes(28)
    flags: int = INIT | MODE64
    xfrm: int = 0x07
    mrenclave: bytes = b"\xe1" * 32
    reserved2: bytes = bytes(32)
    mrsigner: bytes = b"\x51" * 32
    reserved3: bytes = bytes(32)
    config_id: bytes = bytes(64)
    prod_id: int = 1
    svn: int = 5
    config_svn: int = 0
    reserved4: bytes = bytes(42)
    family_id: bytes = bytes(16)
    data: bytes | None = None

    def to_bytes(self, data: bytes) -> bytes:
        body = struct.pack(
            "<16sI28sQQ32s32s32s32s64sHHH42s16s64s",
            self.cpusvn,
            self.miscselect,
            self.reserved1,
            self.flags,
            self.xfrm,
            self.mrenclave,
            self.reserved2,
            self.mrsigner,
            self.reserved3,
            self.config_id,
            self.prod_id,
            self.svn,
            self.config_svn,
            self.reserved4,
            self.family_id,
            data if self.data is None else self.data,
        )
        assert len(body) == 384
        return body


@dataclass(frozen=True)
class Header:
    """The header of a quote, 48 bytes."""

    version: int = 3
    key_type: int = 2
    tee_type: int = 0
    qe_svn: int = 8
    pce_svn: int = 13
    vendor: bytes = QE_VENDOR
    user_data: bytes = bytes(range(20))

    def to_bytes(self) -> bytes:
        return struct.pack(
            "<HHIHH16s20s",
            self.version,
            self.key_type,
            self.tee_type,
            self.qe_svn,
            self.pce_svn,
            self.vendor,
            self.user_data,
        )


@dataclass(frozen=True)
class Model:
    """A model entry of the claims."""

    digest: bytes = b"\xd1" * 32
    owner: bytes = b"\x0e" * 32
    version: int = 7
    shape: tuple[int, int, int] = (6, 1, 1)
    model_id: bytes = b"credit"
    id_size: int | None = None

    def to_bytes(self) -> bytes:
        size = len(self.model_id) if self.id_size is None else self.id_size
        return struct.pack("<32s32sQIIIH", self.digest, self.owner, self.version, *self.shape, size) + self.model_id


@dataclass(frozen=True)
class Claims:
    """Claims (docs/protocol.md 2); the counts are those of the lists unless given."""

    magic: bytes = b"CMLCLAIM"
    version: int = 1
    platform: int = 3
    suites: int = 1
    obliviousness: int = 1
    rollback: int = 0
    zero1: int = 0
    epoch: int = 1
    instance: bytes = b"\x1a" * 16
    config: bytes = b"\xc0" * 32
    epoch_key: bytes = bytes(range(32, 64))
    receipt_key: bytes = bytes(range(64, 96))
    nonce_size: int | None = None
    model_count: int | None = None
    zero2: int = 0
    nonce: bytes = b"nonce of the base scenario"
    models: tuple[Model, ...] = (Model(),)
    tail: bytes = b""

    def to_bytes(self) -> bytes:
        fixed = struct.pack(
            "<8sIHHHHIQ16s32s32s32sHHI",
            self.magic,
            self.version,
            self.platform,
            self.suites,
            self.obliviousness,
            self.rollback,
            self.zero1,
            self.epoch,
            self.instance,
            self.config,
            self.epoch_key,
            self.receipt_key,
            len(self.nonce) if self.nonce_size is None else self.nonce_size,
            len(self.models) if self.model_count is None else self.model_count,
            self.zero2,
        )
        assert len(fixed) == 152
        return fixed + self.nonce + b"".join(one.to_bytes() for one in self.models) + self.tail


# --- The scenario


def _root() -> Certificate:
    subject = f"{VENDOR} SGX Root CA"
    return Certificate(subject, subject, "root", "root", 0x1001, True, 1, (KEY_CERT_SIGN, CRL_SIGN))


def _pck_ca() -> Certificate:
    issuer, subject = f"{VENDOR} SGX Root CA", f"{VENDOR} SGX PCK Platform CA"
    return Certificate(subject, issuer, "pck ca", "root", 0x2002, True, 0, (KEY_CERT_SIGN, CRL_SIGN))


def _pck() -> Certificate:
    issuer, subject = f"{VENDOR} SGX PCK Platform CA", f"{VENDOR} SGX PCK Certificate"
    usage = (DIGITAL_SIGNATURE, NON_REPUDIATION)
    return Certificate(subject, issuer, "pck", "pck ca", 0x3003, False, None, usage, sgx=SgxExtension())


def _tcb_signer() -> Certificate:
    issuer, subject = f"{VENDOR} SGX Root CA", f"{VENDOR} SGX TCB Signing"
    usage = (DIGITAL_SIGNATURE, NON_REPUDIATION)
    return Certificate(subject, issuer, "tcb signer", "root", 0x4004, False, None, usage)


def _qe_report() -> Report:
    return Report(flags=INIT | PROVISION_KEY | MODE64, mrsigner=b"\x8c" * 32, mrenclave=b"\x9e" * 32, svn=8)


ChainLink = str | Certificate


class Built(NamedTuple):
    """What a relying party gets of a scenario, and the root it trusts."""

    quote: bytes
    claims: bytes
    collateral: dict[str, str]
    root_der: bytes
    now: datetime

    @property
    def evidence(self) -> bytes:
        return self.quote + self.claims

    @property
    def collateral_json(self) -> str:
        return json.dumps(self.collateral)

    @property
    def now_seconds(self) -> int:
        return int(self.now.timestamp())


@dataclass(frozen=True)
class Scenario:
    """A platform, its collateral and an enclave's evidence, as an attacker could arrange them.

    Chains are tuples of names of the certificates here, or certificates. `trusted_root` is the root that the relying
    party pinned, `root` the one that the chains show. Edits named `edit_...` work on finished bytes.
    """

    now: datetime = NOW
    root: Certificate = field(default_factory=_root)
    trusted_root: Certificate = field(default_factory=_root)
    pck_ca: Certificate = field(default_factory=_pck_ca)
    pck: Certificate = field(default_factory=_pck)
    tcb_signer: Certificate = field(default_factory=_tcb_signer)
    qe_identity_signer: Certificate = field(default_factory=_tcb_signer)
    root_crl: Crl = Crl(f"{VENDOR} SGX Root CA", "root")
    pck_crl: Crl = Crl(f"{VENDOR} SGX PCK Platform CA", "pck ca")
    tcb_info: SignedText = field(default_factory=lambda: SignedText(_tcb_info_text()))
    qe_identity: SignedText = field(default_factory=lambda: SignedText(_qe_identity_text()))
    pck_chain: tuple[ChainLink, ...] = ("pck", "pck_ca", "root")
    pck_crl_chain: tuple[ChainLink, ...] = ("pck_ca", "root")
    tcb_info_chain: tuple[ChainLink, ...] = ("tcb_signer", "root")
    qe_identity_chain: tuple[ChainLink, ...] = ("qe_identity_signer", "root")
    edit_collateral: Callable[[dict[str, str]], dict[str, str]] | None = None

    header: Header = Header()
    report: Report = Report()
    quote_signer: str = "attestation"
    attestation_key: bytes = field(default_factory=lambda: point("attestation")[1:])
    qe_report: Report = field(default_factory=_qe_report)
    qe_report_signer: str = "pck"
    qe_auth: bytes = bytes(range(32))
    certification_type: int = 5
    certification_data: bytes | None = None
    certification_tail: bytes = b"\0"
    claims: Claims = Claims()
    edit_signature_data: Callable[[bytes], bytes] | None = None
    edit_quote: Callable[[bytes], bytes] | None = None
    edit_claims: Callable[[bytes], bytes] | None = None

    def build(self) -> Built:
        claims = self.claims.to_bytes()
        quote = self._quote(hashlib.sha256(claims).digest())
        return Built(
            quote=self.edit_quote(quote) if self.edit_quote else quote,
            claims=self.edit_claims(claims) if self.edit_claims else claims,
            collateral=self._collateral(),
            root_der=self.trusted_root.der(),
            now=self.now,
        )

    def _quote(self, claims_digest: bytes) -> bytes:
        signed = self.header.to_bytes() + self.report.to_bytes(claims_digest + bytes(32))
        qe_digest = hashlib.sha256(self.attestation_key + self.qe_auth).digest()
        qe_report = self.qe_report.to_bytes(qe_digest + bytes(32))
        data = b"".join(
            [
                sign_raw(self.quote_signer, signed),
                self.attestation_key,
                qe_report,
                sign_raw(self.qe_report_signer, qe_report),
                struct.pack("<H", len(self.qe_auth)),
                self.qe_auth,
                self._certification(),
            ]
        )
        data = self.edit_signature_data(data) if self.edit_signature_data else data
        return signed + struct.pack("<I", len(data)) + data

    def _certification(self) -> bytes:
        content = self.certification_data
        if content is None:
            content = self.pem(self.pck_chain).encode() + self.certification_tail
        return struct.pack("<HI", self.certification_type, len(content)) + content

    def _collateral(self) -> dict[str, str]:
        made = {
            "pck_crl_issuer_chain": self.pem(self.pck_crl_chain),
            "root_ca_crl": self.root_crl.der().hex(),
            "pck_crl": self.pck_crl.der().hex(),
            "tcb_info_issuer_chain": self.pem(self.tcb_info_chain),
            "tcb_info": self.tcb_info.sent(),
            "tcb_info_signature": self.tcb_info.signature_bytes().hex(),
            "qe_identity_issuer_chain": self.pem(self.qe_identity_chain),
            "qe_identity": self.qe_identity.sent(),
            "qe_identity_signature": self.qe_identity.signature_bytes().hex(),
        }
        return self.edit_collateral(made) if self.edit_collateral else made

    def pem(self, chain: tuple[ChainLink, ...]) -> str:
        """The PEM text of a chain."""
        return "".join((getattr(self, link) if isinstance(link, str) else link).pem() for link in chain)


class Applied(NamedTuple):
    """A new value that is made from the old one."""

    function: Callable[[Any], Any]


def changed(scenario: Scenario, **changes: object) -> Scenario:
    """The scenario with other values, named as in `pck__sgx__fmspc=...`; `Applied` makes a value from the old one."""
    result: Any = scenario
    for path, value in changes.items():
        result = _replaced(result, path.split("__"), value)
    assert isinstance(result, Scenario)
    return result


def _replaced(thing: Any, path: list[str], value: object) -> Any:
    old = getattr(thing, path[0])
    if len(path) > 1:
        new = _replaced(old, path[1:], value)
    else:
        new = value.function(old) if isinstance(value, Applied) else value
    return dataclasses.replace(thing, **{path[0]: new})
