"""The exceptions of confidential_ml: one small tree, every message says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confidential_ml.attestation.reason import Reason

__all__ = [
    "AttestationError",
    "CollateralError",
    "ConfidentialMLError",
    "DamagedSealedModelError",
    "EnclaveError",
    "InvalidInputError",
    "ModelFormatError",
    "ModelRefusedError",
    "ReceiptError",
    "RemoteBusyError",
    "RemoteError",
    "RequestUnreadableError",
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


class ModelRefusedError(SealError):
    """A store does not take a model and will not take it later: its id is another owner's, the version exists, no room.

    What a store raises to have a :class:`confidential_ml.ConfidentialEndpoint` refuse a provisioned model for good.
    """


class WrongEnclaveError(SealError):
    """The sealed model belongs to another enclave, another machine, or a newer version of this enclave."""


class DamagedSealedModelError(SealError):
    """The file is no sealed model, or some of its bytes were changed or lost."""


class UnsupportedVersionError(SealError):
    """The sealed model is intact but of a format version this package does not read."""


class EnclaveError(ConfidentialMLError):
    """The enclave could not be made or could not do what was asked: closed, forked, out of memory, CPU unsuitable."""


class RequestUnreadableError(EnclaveError):
    """The enclave cannot read a request: changed on the way, sent twice, or to a key it does not have (any more)."""


class InvalidInputError(ConfidentialMLError, ValueError):
    """An argument cannot be used: shape, dtype, range or name."""


class AttestationError(ConfidentialMLError):
    """Evidence was refused: malformed, not genuine, expired, or not what the policy asks for.

    Attributes
    ----------
    reason
        Which check refused it (docs/attestation.md 4); its text is stable, for programs.
    sentence
        What was found and what to do, for people.
    steps
        The checks that passed before, one line each.
    """

    def __init__(self, reason: Reason, sentence: str, steps: Sequence[str] = ()) -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence
        self.steps = tuple(steps)

    def __str__(self) -> str:
        return f"{self.sentence} ({self.reason.value})"

    def explain(self) -> str:
        """Every check up to the one that refused, a line each; the last begins with REFUSED."""
        return "\n".join([*self.steps, f"REFUSED {self}"])


class CollateralError(ConfidentialMLError):
    """Collateral could not be fetched: no connection, an unknown certificate, a refusal, or not what was asked for."""


class RemoteError(ConfidentialMLError):
    """A remote enclave could not be asked, or what came back is not its answer: cut short, changed, of another form."""


class RemoteBusyError(RemoteError):
    """The host has no room for the request now; it was not answered and can be sent again."""


class ReceiptError(RemoteError):
    """A receipt is malformed, not signed by the enclave, or not of what it was compared with."""
