"""The SGX extension of a PCK certificate: which machine it is and what TCB the certificate is for.

Source: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from confidential_ml.attestation import der

__all__ = ["SGX_EXTENSION_OID", "PckExtension", "parse_pck_extension"]

SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"
_OID = bytes.fromhex("2a864886f84d010d01")  # the content octets of the above
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = (bytes([n]) for n in range(1, 8))
_OF_PROCESSOR_CA = {_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE}
_OF_PLATFORM_CA = _OF_PROCESSOR_CA | {_INSTANCE, _CONFIGURATION}
_COMPONENTS, _PCE_SVN, _CPU_SVN = 16, 17, 18
_MAX_SGX_TYPE = 2  # 0 standard, 1 scalable, 2 scalable with integrity
_CONFIGURATION_FLAGS = 3  # dynamic platform, cached keys, SMT


@dataclass(frozen=True)
class PckExtension:
    """What the PCK certificate says of the machine.

    Attributes
    ----------
    ppid, pce_id, fmspc
        Which machine, which PCE, which family of machines; hexadecimal.
    components, pce_svn
        The 16 SVNs of the TCB's components, and the PCE's.
    cpu_svn
        16 bytes, opaque.
    sgx_type
        0 standard, 1 scalable, 2 scalable with integrity.
    """

    ppid: str
    pce_id: str
    fmspc: str
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    sgx_type: int


def parse_pck_extension(data: bytes) -> PckExtension:
    """Read the extension's value.

    Raises
    ------
    der.DerError
        If it is not strict DER, or a field is missing, unknown, of another type or size, or there twice.
    """
    fields = _fields(der.single(data, der.SEQUENCE), _OID)
    if fields.keys() not in (_OF_PROCESSOR_CA, _OF_PLATFORM_CA):
        raise der.DerError("fields are missing or unknown")
    components, pce_svn, cpu_svn = _tcb(_typed(fields[_TCB], der.SEQUENCE))
    if _INSTANCE in fields:
        _octets(fields[_INSTANCE], 16)
        _check_configuration(_typed(fields[_CONFIGURATION], der.SEQUENCE))
    return PckExtension(
        ppid=_octets(fields[_PPID], 16).hex(),
        pce_id=_octets(fields[_PCE_ID], 2).hex(),
        fmspc=_octets(fields[_FMSPC], 6).hex(),
        components=components,
        pce_svn=pce_svn,
        cpu_svn=cpu_svn,
        sgx_type=der.integer(_typed(fields[_SGX_TYPE], der.ENUMERATED), _MAX_SGX_TYPE),
    )


def _fields(content: bytes, prefix: bytes) -> dict[bytes, tuple[int, bytes]]:
    """The (OID, value) pairs of a sequence, by what follows `prefix` in their OIDs."""
    fields: dict[bytes, tuple[int, bytes]] = {}
    for tag, pair in der.elements(content):
        parts = der.elements(pair)
        if tag != der.SEQUENCE or len(parts) != 2 or parts[0][0] != der.OBJECT_IDENTIFIER:
            raise der.DerError("a field is not an OID with a value")
        oid = parts[0][1]
        name = oid.removeprefix(prefix)
        if not oid.startswith(prefix) or len(name) != 1:
            raise der.DerError("an OID does not belong here")
        if name in fields:
            raise der.DerError("a field is there twice")
        fields[name] = parts[1]
    return fields


def _tcb(content: bytes) -> tuple[tuple[int, ...], int, bytes]:
    fields = _fields(content, _OID + _TCB)
    if fields.keys() != {bytes([n]) for n in range(1, _CPU_SVN + 1)}:
        raise der.DerError("TCB fields are missing or unknown")
    numbers = {name[0]: value for name, value in fields.items()}
    components = tuple(der.integer(_typed(numbers[n], der.INTEGER), 255) for n in range(1, _COMPONENTS + 1))
    return components, der.integer(_typed(numbers[_PCE_SVN], der.INTEGER), 65535), _octets(numbers[_CPU_SVN], 16)


def _check_configuration(content: bytes) -> None:
    fields = _fields(content, _OID + _CONFIGURATION)
    if not fields.keys() <= {bytes([n]) for n in range(1, _CONFIGURATION_FLAGS + 1)}:
        raise der.DerError("a configuration field is unknown")
    for value in fields.values():
        der.boolean(_typed(value, der.BOOLEAN))


def _typed(element: tuple[int, bytes], tag: int) -> bytes:
    if element[0] != tag:
        raise der.DerError(f"a field has tag {element[0]:#04x}, expected {tag:#04x}")
    return element[1]


def _octets(element: tuple[int, bytes], size: int) -> bytes:
    content = _typed(element, der.OCTET_STRING)
    if len(content) != size:
        raise der.DerError(f"a field has {len(content)} bytes, expected {size}")
    return content
