"""What only a simulation needs: the warning that it protects nothing and the keys of the simulated machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import warnings
from pathlib import Path

from confidential_ml.errors import EnclaveError
from confidential_ml.regular_file import TooLargeError, open_regular, read_limited

FUSE_KEY_VARIABLE = "CONFIDENTIAL_ML_SIMULATION_FUSE_KEY"
_KEY_SIZE = 32
_MAX_FILE_SIZE = 1024
_OF_OTHERS = 0o077

WARNING_TEXT = (
    "SIMULATION: this enclave protects nothing. Model, rows and keys can be read by anyone who can read this "
    "process or this user's files. Use it to develop and test; build for SGX (docs/building.md) to protect."
)


class SimulationWarning(UserWarning):
    """An enclave is simulated: it behaves like a real one and protects nothing."""


def warn() -> None:
    """Say once per place in the caller's code that the enclave about to be made protects nothing."""
    package = os.path.dirname(__file__) + os.sep
    level = 1
    frame = sys._getframe()
    # skip_file_prefixes of warnings.warn does this from Python 3.12 on.
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
        level += 1
    warnings.warn(WARNING_TEXT, SimulationWarning, stacklevel=level)


def state_directory() -> Path:
    """Where the simulated machine lives: ``$XDG_STATE_HOME/confidential_ml`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "confidential_ml"
    try:
        return Path.home() / ".local" / "state" / "confidential_ml"
    except RuntimeError:
        raise EnclaveError(
            "the keys of the simulated machine have no place: this user has no home directory; set XDG_STATE_HOME to a "
            "directory"
        ) from None


def fuse_key() -> bytes:
    """The 32-byte fuse key of the simulated machine, made at first use and kept in a file of mode 0600.

    ``CONFIDENTIAL_ML_SIMULATION_FUSE_KEY`` (64 hexadecimal digits) takes its place, so that "another machine" can be
    tested.

    Raises
    ------
    EnclaveError
        If the variable or the file does not hold a key, or the file cannot be made or read.
    """
    given = os.environ.get(FUSE_KEY_VARIABLE)
    if given is not None:
        return _parse(given, f"the environment variable {FUSE_KEY_VARIABLE}", "fuse key")
    return kept_key(state_directory() / "simulation-fuse-key", "fuse key", f", or set {FUSE_KEY_VARIABLE}")


def kept_key(path: Path, what: str, remedy: str = "") -> bytes:
    """A 32-byte key of the simulated machine, made at first use and kept in a file of mode 0600.

    Parameters
    ----------
    path
        The file; its directory is made if need be.
    what
        What errors call the key.
    remedy
        What else errors suggest.

    Raises
    ------
    EnclaveError
        If the file does not hold a key, or cannot be made or read.
    """
    try:
        if not path.exists():
            _make(path)
        return _parse(_read(path, what, remedy), str(path), what)
    except OSError as error:
        raise EnclaveError(
            f"the {what} of the simulated machine cannot be read or made at {path}: {error.strerror or error}; "
            f"make the directory writable{remedy}"
        ) from error


def _read(path: Path, what: str, remedy: str) -> str:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_mode & _OF_OTHERS:
            raise EnclaveError(
                f"the {what} of the simulated machine at {path} may be used by others: chmod 600 it{remedy}"
            )
        try:
            return read_limited(file, _MAX_FILE_SIZE).decode("ascii", "replace")
        except TooLargeError:
            return ""  # no key either


def _parse(text: str, where: str, what: str) -> bytes:
    text = text.strip()
    if len(text) != 2 * _KEY_SIZE or any(c not in "0123456789abcdefABCDEF" for c in text):
        raise EnclaveError(f"{where} does not hold a {what}: expected {2 * _KEY_SIZE} hexadecimal digits")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    key = secrets.token_hex(_KEY_SIZE) + "\n"
    try:
        _write_new(temporary, key)
        _put_in_place(temporary, path, key)
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path, key: str) -> None:
    # Not by renaming: of two processes that start together the first one's key stays.
    with contextlib.suppress(FileExistsError):
        try:
            os.link(temporary, path)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            # No hard links on this file system. A process that starts at this very moment may meet half a key.
            _write_new(path, key)


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
