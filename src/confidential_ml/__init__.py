"""Run XGBoost models inside an SGX enclave: sealed on disk, unread in memory, bit for bit XGBoost's results.

>>> import confidential_ml as cml
>>> cml.seal(booster, "credit.sealed", model_id="credit")
>>> with cml.ConfidentialModel.load_sealed("credit.sealed") as model:
...     model.predict(rows)

The default build is a *simulation*: it behaves the same and protects nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from confidential_ml.errors import (
    AttestationError,
    CollateralError,
    ConfidentialMLError,
    DamagedSealedModelError,
    EnclaveError,
    InvalidInputError,
    ModelFormatError,
    ModelRefusedError,
    ReceiptError,
    RemoteBusyError,
    RemoteError,
    RequestUnreadableError,
    SealError,
    UnsupportedVersionError,
    WrongEnclaveError,
)
from confidential_ml.simulation import SimulationWarning

if TYPE_CHECKING:
    from confidential_ml.enclave import Enclave
    from confidential_ml.endpoint import ConfidentialEndpoint
    from confidential_ml.identity import EnclaveIdentity
    from confidential_ml.model import ConfidentialModel, ModelInfo, seal
    from confidential_ml.owner import owner_id, sign_model
    from confidential_ml.receipt import Receipt, parse_receipt, verify_receipt
    from confidential_ml.remote import PredictionReceipt, RemoteModel
    from confidential_ml.sealed_file import SealedInfo, SealingPolicy, inspect_sealed

    __version__: str

# Imported at first use (PEP 562): a local model needs no `cryptography`, the help of the command line no numpy.
_MODULE_OF = {
    "ConfidentialEndpoint": "endpoint",
    "ConfidentialModel": "model",
    "Enclave": "enclave",
    "EnclaveIdentity": "identity",
    "ModelInfo": "model",
    "PredictionReceipt": "remote",
    "Receipt": "receipt",
    "RemoteModel": "remote",
    "SealedInfo": "sealed_file",
    "SealingPolicy": "sealed_file",
    "inspect_sealed": "sealed_file",
    "owner_id": "owner",
    "parse_receipt": "receipt",
    "seal": "model",
    "sign_model": "owner",
    "verify_receipt": "receipt",
}

__all__ = [
    "AttestationError",
    "CollateralError",
    "ConfidentialEndpoint",
    "ConfidentialMLError",
    "ConfidentialModel",
    "DamagedSealedModelError",
    "Enclave",
    "EnclaveError",
    "EnclaveIdentity",
    "InvalidInputError",
    "ModelFormatError",
    "ModelInfo",
    "ModelRefusedError",
    "PredictionReceipt",
    "Receipt",
    "ReceiptError",
    "RemoteBusyError",
    "RemoteError",
    "RemoteModel",
    "RequestUnreadableError",
    "SealError",
    "SealedInfo",
    "SealingPolicy",
    "SimulationWarning",
    "UnsupportedVersionError",
    "WrongEnclaveError",
    "inspect_sealed",
    "owner_id",
    "parse_receipt",
    "seal",
    "sign_model",
    "verify_receipt",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        found: object = version("confidential_ml")
    elif name in _MODULE_OF:
        found = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # found directly from now on
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
