"""Train the iris classifier that the other examples use."""

from __future__ import annotations

import argparse

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default="iris_model.json", help="where the model goes (.json or .ubj)")
    path = parser.parse_args().path
    train().save_model(path)
    print(f"wrote {path}")
