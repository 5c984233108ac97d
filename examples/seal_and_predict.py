"""Seal a model, load the sealed file in the enclave and predict one flower.

Usage: python seal_and_predict.py [iris_model.json]      (train_iris.py makes one)
"""

from __future__ import annotations

import sys

import numpy as np

import confidential_ml as cml

model_path = sys.argv[1] if len(sys.argv) > 1 else "iris_model.json"

# The model owner's step: from here on the model is on disk only encrypted.
sealed = cml.seal(model_path, "iris.sealed", model_id="iris-classifier")
print(f"sealed {sealed.model_id} ({sealed.model_size} bytes) for MRENCLAVE {sealed.mrenclave}")

# The service's step, usually in another process: only the same enclave on the same machine can open the file.
flower = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
with cml.ConfidentialModel.load_sealed("iris.sealed") as model:
    print(model)
    print(model.predict(flower))
