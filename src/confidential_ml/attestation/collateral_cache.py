"""Collateral on disk, until the first of its parts expires."""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
import warnings
from pathlib import Path

from cryptography import x509

from confidential_ml.attestation.collateral import Collateral
from confidential_ml.attestation.files import read_small, replace_small
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.signed_json import parse_object
from confidential_ml.errors import AttestationError, InvalidInputError

__all__ = ["CollateralCache", "default_directory", "earliest_expiry"]

_MAX_FILE_SIZE = 8 << 20
_PRIVATE = 0o700


class CollateralCache:
    """A directory with one file for each collateral.

    Files are replaced at one stroke, so any number of processes may share it. A file is its SHA-256, the time it was
    fetched, and the collateral: damage is noticed here. Tampering is not, that is what signatures are for.

    Parameters
    ----------
    directory
        Where the files are; made, for its user alone, when the first is written.
    max_age
        What is older is not given out, however long it is valid.
    """

    def __init__(self, directory: Path, max_age: datetime.timedelta) -> None:
        self._directory, self._max_age = directory, max_age

    def read(self, key: str, now: datetime.datetime) -> Collateral | None:
        """What was written under `key`, unless it is too old, expired, damaged, or from the future."""
        try:
            _, content = read_small(self._path(key), _MAX_FILE_SIZE)
            fetched_at, collateral = _unpack(content)
            age = now - fetched_at
            is_valid = now <= earliest_expiry(collateral)
        # Whatever is wrong with a file, it is as good as none.
        except (AttestationError, InvalidInputError, ValueError, OverflowError):
            return None
        return collateral if is_valid and datetime.timedelta(0) <= age < self._max_age else None

    def write(self, key: str, collateral: Collateral, now: datetime.datetime) -> None:
        """Keep collateral fetched at `now`. If it cannot be kept that is a warning: it will be fetched every time."""
        try:
            os.makedirs(self._directory, mode=_PRIVATE, exist_ok=True)
            replace_small(self._path(key), _pack(now, collateral))
        except (OSError, InvalidInputError) as error:
            problem = getattr(error, "strerror", None) or error
            warnings.warn(
                f"collateral cannot be kept in {self._directory}, so it will be fetched anew each time: {problem}; "
                "give another cache_directory",
                RuntimeWarning,
                stacklevel=3,
            )

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.collateral"


def default_directory() -> Path | None:
    """The place of this user's caches for this package, None if there is no such place.

    ``$XDG_CACHE_HOME`` (XDG Base Directory Specification) or ``~/.cache``, on macOS ``~/Library/Caches``, on Windows
    ``%LOCALAPPDATA%``.
    """
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    base = os.environ.get(variable, "")
    if os.path.isabs(base):
        return Path(base) / "confidential_ml" / "collateral"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    caches = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    return home / caches / "confidential_ml" / "collateral"


def earliest_expiry(collateral: Collateral) -> datetime.datetime:
    """When the first of the certificates, CRLs and documents expires, UTC; their signatures are not looked at.

    Raises
    ------
    AttestationError
        If TCB info or QE identity cannot be read.
    ValueError
        If a certificate or CRL cannot be read.
    """
    chains = collateral.pck_crl_issuer_chain, collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain
    ends = [one.not_valid_after_utc for chain in chains for one in x509.load_pem_x509_certificates(chain.encode())]
    for crl in (collateral.root_ca_crl, collateral.pck_crl):
        next_update = x509.load_der_x509_crl(crl).next_update_utc
        if next_update is None:
            raise ValueError("a CRL without next update")
        ends.append(next_update)
    ends.append(parse_object(collateral.tcb_info, "the TCB info", Reason.TCB_INFO_FORMAT).time("nextUpdate"))
    ends.append(parse_object(collateral.qe_identity, "the QE identity", Reason.QE_IDENTITY_FORMAT).time("nextUpdate"))
    return min(ends)


def _pack(fetched_at: datetime.datetime, collateral: Collateral) -> bytes:
    content = f"{fetched_at.isoformat()}\n{collateral.to_json()}\n".encode("ascii")
    # No fsync: a file that a power failure has cut short is noticed by this.
    return hashlib.sha256(content).hexdigest().encode("ascii") + b"\n" + content


def _unpack(data: bytes) -> tuple[datetime.datetime, Collateral]:
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode("ascii") != digest:
        raise ValueError("damaged")
    fetched_at, _, document = content.decode("ascii").partition("\n")
    moment = datetime.datetime.fromisoformat(fetched_at)
    if moment.tzinfo is None:
        raise ValueError("damaged")
    return moment, Collateral.from_json(document)
