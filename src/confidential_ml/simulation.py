"""What only a simulation needs: the warning that it protects nothing and the fuse key of the simulated machine."""

from __future__ import annotations

import os
import secrets
import sys
import warnings
from pathlib import Path

from confidential_ml.errors import EnclaveError

FUSE_KEY_VARIABLE = "CONFIDENTIAL_ML_SIMULATION_FUSE_KEY"
_FUSE_KEY_SIZE = 32

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
    root = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return root / "confidential_ml"


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
        return _parse(given, f"the environment variable {FUSE_KEY_VARIABLE}")
    path = state_directory() / "simulation-fuse-key"
    try:
        if not path.exists():
            _make(path)
        return _parse(path.read_text(encoding="ascii"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise EnclaveError(
            f"the fuse key of the simulated machine cannot be read or made at {path}: {error}; "
            f"make the directory writable or set {FUSE_KEY_VARIABLE}"
        ) from error


def _parse(text: str, where: str) -> bytes:
    text = text.strip()
    if len(text) != 2 * _FUSE_KEY_SIZE or any(c not in "0123456789abcdefABCDEF" for c in text):
        raise EnclaveError(f"{where} does not hold a fuse key: expected {2 * _FUSE_KEY_SIZE} hexadecimal digits")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_FUSE_KEY_SIZE) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # link, not rename: of two processes that start together the first one's key stays.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
