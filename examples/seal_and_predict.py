"""Seal a model, load the sealed file in the enclave and predict one flower."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import confidential_ml as cml

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "model", nargs="?", default=Path(__file__).parent / "data" / "iris_model.json", help="of train_iris.py"
)
model_path = parser.parse_args().model

# The model owner's step: from here on the model is on disk only encrypted.
sealed = cml.seal(model_path, "iris.sealed", model_id="iris-classifier")
print(f"sealed {sealed.model_id} ({sealed.model_size} bytes) for MRENCLAVE {sealed.mrenclave}")

# The service's step, usually in another process: only the same enclave on the same machine can open the file.
flower = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
with cml.ConfidentialModel.load_sealed("iris.sealed") as model:
    print(model)
    print(model.predict(flower))
