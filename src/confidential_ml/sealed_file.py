"""Sealed model files as the untrusted side sees them: the header, and how a file is read and replaced."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from confidential_ml import card
from confidential_ml.errors import DamagedSealedModelError, SealError, UnsupportedVersionError
from confidential_ml.regular_file import TooLargeError, checked_path, open_regular, read_limited, replaceable
from confidential_ml.replacement import replacing

_MAGIC = b"CMLSEAL\0"
_VERSION = 2
_PRELUDE = struct.Struct("<8sII32s")
_FIELDS = struct.Struct("<HHHH32s32s32s32s32s32s64sQQHH")
_DIGESTED_PRELUDE_SIZE = 16
_MAX_HEADER_SIZE = 4096
_MAX_SEALED_SIZE = (128 << 20) + _MAX_HEADER_SIZE + 16
_TAG_SIZE = 16
_MAX_KEY_INFO_SIZE = 1024
_MODEL_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

SealingPolicy: TypeAlias = Literal["mrenclave", "mrsigner"]
"""Who may open a sealed model: this very image, or any later version of the product by its signer."""

POLICIES: dict[SealingPolicy, int] = {"mrenclave": 1, "mrsigner": 2}
PLATFORMS = {1: "simulation", 2: "openenclave-simulation", 3: "openenclave"}
_POLICY_NAMES = {number: name for name, number in POLICIES.items()}


@dataclass(frozen=True)
class SealedInfo:
    """The header of a sealed model, read without an enclave and therefore **not authenticated**.

    Attributes
    ----------
    model_id, model_digest
        Name and SHA-256 (hexadecimal) of the model inside.
    policy
        ``"mrenclave"`` or ``"mrsigner"``: who may open it.
    platform
        ``"simulation"``, ``"openenclave-simulation"`` or ``"openenclave"``.
    mrenclave, mrsigner, isv_prod_id, isv_svn
        The enclave that sealed it.
    owner, model_version
        Ed25519 public key (hexadecimal) of the owner who signed the model, None if nobody did; the version it is of.
    version, size, model_size
        Format version; bytes of the file and of the flat model.
    """

    model_id: str
    model_digest: str
    policy: SealingPolicy
    platform: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    owner: str | None
    model_version: int
    version: int
    size: int
    model_size: int

    def _repr_html_(self) -> str:
        by_sgx = self.platform == "openenclave"  # a header does not say whether that was a debug enclave
        banner = (
            card.unverified_banner("Sealed by an SGX enclave, it says")
            if by_sgx
            else card.banner(self.platform, debug=False)
        )
        rows = [
            ("model digest", self.model_digest),
            ("sealing policy", self.policy),
            ("sealed by MRENCLAVE", self.mrenclave),
            ("MRSIGNER", self.mrsigner),
            ("product id, SVN", f"{self.isv_prod_id}, {self.isv_svn}"),
            ("owner, version", f"{card.short(self.owner) if self.owner else 'nobody'}, {self.model_version}"),
            ("size of file, of model", f"{card.byte_size(self.size)}, {card.byte_size(self.model_size)}"),
        ]
        return card.render(self.model_id, banner, rows, note="header of a sealed model, not authenticated")


def inspect_sealed(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> SealedInfo:
    """Read the header of a sealed model; no enclave is needed.

    Nothing here is authenticated: only opening the file in its enclave proves what it says.

    Raises
    ------
    InvalidInputError
        If `path` cannot be a path.
    DamagedSealedModelError
        If it is not a sealed model, or is damaged.
    UnsupportedVersionError
        If its format version is not 2.
    SealError
        If the file cannot be read.

    Notes
    -----
    The format is docs/formats.md, section 2.
    """
    where = checked_path(path, "path")
    return parse_header(read_sealed(where), where)


def parse_header(sealed: bytes, where: str) -> SealedInfo:
    """As :func:`inspect_sealed`, on bytes; `where` names them in errors."""
    header_size = _check_prelude(sealed, where)
    if header_size < _PRELUDE.size + _FIELDS.size:
        raise _damaged(where)
    fields = _FIELDS.unpack_from(sealed, _PRELUDE.size)
    policy, platform, prod_id, svn, mrenclave, mrsigner, digest, _salt, _key_check = fields[:9]
    owner, _signature, model_version, model_size, id_size, key_size = fields[9:]
    id_start = _PRELUDE.size + _FIELDS.size
    sizes_agree = header_size == id_start + id_size + key_size and len(sealed) == header_size + model_size + _TAG_SIZE
    in_range = policy in _POLICY_NAMES and platform in PLATFORMS and 1 <= key_size <= _MAX_KEY_INFO_SIZE
    model_id = sealed[id_start : id_start + id_size]
    if not sizes_agree or not in_range or not _MODEL_ID.fullmatch(model_id):
        raise _damaged(where)
    return SealedInfo(
        model_id=model_id.decode("ascii"),
        model_digest=digest.hex(),
        policy=_POLICY_NAMES[policy],
        platform=PLATFORMS[platform],
        mrenclave=mrenclave.hex(),
        mrsigner=mrsigner.hex(),
        isv_prod_id=prod_id,
        isv_svn=svn,
        owner=owner.hex() if any(owner) else None,
        model_version=model_version,
        version=_VERSION,
        size=len(sealed),
        model_size=model_size,
    )


def _check_prelude(sealed: bytes, where: str) -> int:
    if not sealed.startswith(_MAGIC):
        raise DamagedSealedModelError(f"{where} is not a sealed model; make one with confidential_ml.seal")
    if len(sealed) < _PRELUDE.size:
        raise _damaged(where)
    _magic, version, header_size, digest = _PRELUDE.unpack_from(sealed)
    if not _PRELUDE.size <= header_size <= min(_MAX_HEADER_SIZE, len(sealed)):
        raise _damaged(where)
    digested = sealed[:_DIGESTED_PRELUDE_SIZE] + sealed[_PRELUDE.size : header_size]
    if hashlib.sha256(digested, usedforsecurity=False).digest() != digest:
        raise _damaged(where)
    if version != _VERSION:
        raise UnsupportedVersionError(
            f"{where} is a sealed model of format version {version}, this release reads version {_VERSION}; "
            "open it with the release that sealed it"
        )
    return int(header_size)


def _damaged(where: str) -> DamagedSealedModelError:
    return DamagedSealedModelError(
        f"{where} is damaged: bytes were changed, lost or added; restore the file or seal the model again"
    )


def read_sealed(path: str) -> bytes:
    """Read a sealed model file, refusing anything over the size limit of docs/formats.md before reading it."""
    try:
        with open_regular(path) as file:
            return read_limited(file, _MAX_SEALED_SIZE)
    except OSError as error:
        raise SealError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    except TooLargeError:
        raise DamagedSealedModelError(f"{path} is larger than any sealed model ({_MAX_SEALED_SIZE} bytes)") from None


def write_sealed(path: str, sealed: bytes) -> None:
    """Replace `path` atomically: after a crash it holds the old bytes or the new ones, never a mixture."""
    if os.path.basename(path) in ("", ".", ".."):
        raise SealError(f"{path} cannot be written: it names a directory; give the path of a file")
    target = Path(replaceable(path))
    if os.path.lexists(target) and not os.path.isfile(target):
        raise SealError(f"{target} cannot be written: it is no regular file; give the path of one")
    try:
        with _opened_directory(target.parent) as directory:
            with replacing(target, mode=0o600) as file:
                file.write(sealed)
            if directory is not None:
                _sync_directory(directory, target)
    except OSError as error:
        raise SealError(
            f"{target} cannot be written: {error.strerror or error}; check the directory and its space"
        ) from error


@contextlib.contextmanager
def _opened_directory(directory: Path) -> Iterator[int | None]:
    descriptor = None
    # A directory that may be written but not listed (mode 0300) cannot be opened, nor can any on Windows, which has no
    # such flag either: its change is then not synced.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sync_directory(directory: int, target: Path) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file system without this
            return
        raise SealError(
            f"{target} was replaced, but may be lost in a power failure: {error.strerror or error}; "
            "check the disk and seal the model again"
        ) from error
