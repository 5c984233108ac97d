"""Train the iris classifier that the other examples use.

Usage: python train_iris.py [iris_model.json]
"""

from __future__ import annotations

import sys

import xgboost as xgb
from sklearn.datasets import load_iris


def train() -> xgb.Booster:
    """Ten rounds of three trees of depth 3, with fixed seeds."""
    iris = load_iris()
    rows = xgb.DMatrix(iris.data.astype("float32"), label=iris.target)
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "eta": 0.3, "seed": 1, "nthread": 1}
    booster = xgb.train(parameters, rows, num_boost_round=10)
    booster.set_attr(model_id="iris-classifier")  # what the server calls it
    return booster


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "iris_model.json"
    train().save_model(path)
    print(f"wrote {path}")
