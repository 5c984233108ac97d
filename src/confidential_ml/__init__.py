"""Run XGBoost models inside an SGX enclave: sealed on disk, unread in memory, bit for bit XGBoost's results.

>>> import confidential_ml as cml
>>> cml.seal(booster, "credit.sealed", model_id="credit")
>>> with cml.ConfidentialModel.load_sealed("credit.sealed") as model:
...     model.predict(rows)

The default build is a *simulation*: it behaves the same and protects nothing.
"""

from __future__ import annotations

from importlib.metadata import version

from confidential_ml.enclave import Enclave
from confidential_ml.errors import (
    AttestationError,
    ConfidentialMLError,
    DamagedSealedModelError,
    EnclaveError,
    InvalidInputError,
    ModelFormatError,
    SealError,
    UnsupportedVersionError,
    WrongEnclaveError,
)
from confidential_ml.identity import EnclaveIdentity
from confidential_ml.model import ConfidentialModel, ModelInfo, seal
from confidential_ml.sealed_file import SealedInfo, inspect_sealed
from confidential_ml.simulation import SimulationWarning

__version__ = version("confidential_ml")

__all__ = [
    "AttestationError",
    "ConfidentialMLError",
    "ConfidentialModel",
    "DamagedSealedModelError",
    "Enclave",
    "EnclaveError",
    "EnclaveIdentity",
    "InvalidInputError",
    "ModelFormatError",
    "ModelInfo",
    "SealError",
    "SealedInfo",
    "SimulationWarning",
    "UnsupportedVersionError",
    "WrongEnclaveError",
    "inspect_sealed",
    "seal",
]
