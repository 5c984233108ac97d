"""Exit statuses, stable, and which error means which (docs/command-line.md 2)."""

from __future__ import annotations

import enum

from confidential_ml.errors import (
    AttestationError,
    ConfidentialMLError,
    DamagedSealedModelError,
    InvalidInputError,
    ModelFormatError,
    ReceiptError,
    UnsupportedVersionError,
    WrongEnclaveError,
)

__all__ = ["Exit", "NotAcceptedError", "UsageError", "status_of"]


class Exit(enum.IntEnum):
    """How a command ends."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND_OUT = 3
    INTERRUPTED = 130


class UsageError(ConfidentialMLError):
    """The command line does not say what to do, or something that cannot be."""


class NotAcceptedError(ConfidentialMLError):
    """Something was looked at and is not what it must be; all there is to say has been printed."""


_REFUSALS = (
    AttestationError,
    ReceiptError,
    ModelFormatError,
    DamagedSealedModelError,
    WrongEnclaveError,
    UnsupportedVersionError,
    NotAcceptedError,
)


def status_of(error: BaseException) -> Exit:
    """The exit status for an error that ends a command."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, (InvalidInputError, UsageError)):
        return Exit.USAGE
    # By name: reading the settings' module here would import what only `serve` needs.
    if type(error).__name__ == "SettingsError":
        return Exit.USAGE
    return Exit.REFUSED if isinstance(error, _REFUSALS) else Exit.NOT_FOUND_OUT
