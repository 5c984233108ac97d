"""The exceptions of confidential_ml: one small tree, every message says what was wrong and what to do."""

from __future__ import annotations

__all__ = [
    "ConfidentialMLError",
    "DamagedSealedModelError",
    "EnclaveError",
    "InvalidInputError",
    "ModelFormatError",
    "SealError",
    "UnsupportedVersionError",
    "WrongEnclaveError",
]


class ConfidentialMLError(Exception):
    """Base of every error this package raises on purpose."""


class ModelFormatError(ConfidentialMLError):
    """A model is not one this package can read: wrong file kind, unknown name, broken structure, over a limit."""


class SealError(ConfidentialMLError):
    """A model could not be sealed or a sealed model could not be opened; the subclasses say why."""


class WrongEnclaveError(SealError):
    """The sealed model belongs to another enclave, another machine, or a newer version of this enclave."""


class DamagedSealedModelError(SealError):
    """The file is no sealed model, or some of its bytes were changed or lost."""


class UnsupportedVersionError(SealError):
    """The sealed model is intact but of a format version this package does not read."""


class EnclaveError(ConfidentialMLError):
    """The enclave could not be made or could not do what was asked: closed, forked, out of memory, CPU unsuitable."""


class InvalidInputError(ConfidentialMLError, ValueError):
    """An argument cannot be used: shape, dtype, range or name."""
