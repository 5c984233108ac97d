"""Which members the objects of an XGBoost document may have: one that nobody knows could change what a model predicts.

Collected from all that XGBoost 1.0 to 3.4 write (the functions SaveModel and SaveConfig of its sources). Attributes,
names of features, parameters of objectives and the category index are not among them: no prediction here uses those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from confidential_ml.errors import ModelFormatError
from confidential_ml.xgboost_document import kind_of

__all__ = ["check_members"]

_ROOT = frozenset({"learner", "version"})
_LEARNER = frozenset(
    {"attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective"}
)
_LEARNER_PARAM = frozenset({"base_score", "boost_from_average", "num_class", "num_feature", "num_target"})
_OBJECTIVE = frozenset(
    {"aft_loss_param", "expectile_loss_param", "lambda_rank_param", "lambdarank_param", "max_delta_step", "name"}
    | {"poisson_regression_param", "pseduo_huber_param", "pseudo_huber_param", "quantile_loss_param", "reg_loss_param"}
    | {"softmax_multiclass_param", "ti+", "tj-", "tweedie_regression_param"}
)
_BOOSTER = frozenset({"gbtree", "model", "name", "weight_drop"})
_INNER_BOOSTER = frozenset({"model", "name"})
_TREES = frozenset({"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees", "weight_drop"})
_LINEAR = frozenset({"boosted_rounds", "weights"})
_TREES_PARAM = frozenset({"num_parallel_tree", "num_trees", "size_leaf_vector"})
_TREE = frozenset(
    {"base_weights", "categories", "categories_nodes", "categories_segments", "categories_sizes", "default_left", "id"}
    | {"leaf_child_counts", "leaf_weights", "left_children", "loss_changes", "parents", "right_children"}
    | {"split_conditions", "split_indices", "split_type", "sum_hessian", "tree_param"}
)
_TREE_PARAM = frozenset({"num_deleted", "num_feature", "num_nodes", "size_leaf_vector"})
_FEATURE_TYPES = frozenset({"int", "float", "i", "q", "c"})


def check_members(root: dict[str, Any]) -> None:
    """Refuse what no XGBoost that is known writes; what is missing is for others to say.

    Raises
    ------
    ModelFormatError
        An object has a member of an unknown name, or a feature an unknown type.
    """
    _check(root, _ROOT, "model")
    learner = _object(root, "learner")
    _check(learner, _LEARNER, "learner")
    _check_feature_types(learner.get("feature_types"))
    _check(_object(learner, "learner_model_param"), _LEARNER_PARAM, "learner_model_param")
    _check(_object(learner, "objective"), _OBJECTIVE, "objective")
    booster = _object(learner, "gradient_booster")
    _check(booster, _BOOSTER, "gradient_booster")
    inner = _object(booster, "gbtree")  # within that of DART, up to 3.3
    _check(inner, _INNER_BOOSTER, "gradient_booster.gbtree")
    is_linear = booster.get("name") == "gblinear"
    for holder in (booster, inner):
        model = _object(holder, "model")
        _check(model, _LINEAR if is_linear else _TREES, "gradient_booster.model")
        _check(_object(model, "gbtree_model_param"), _TREES_PARAM, "gbtree_model_param")
        trees = model.get("trees")
        for number, tree in enumerate(trees if isinstance(trees, list) else ()):
            if isinstance(tree, dict):
                _check(tree, _TREE, f"tree {number}")
                _check(_object(tree, "tree_param"), _TREE_PARAM, f"tree {number}: tree_param")


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def _check(found: dict[str, Any], known: frozenset[str], where: str) -> None:
    if not found.keys() <= known:
        unknown = min(found.keys() - known)
        raise ModelFormatError(
            f"{where}: unknown member {unknown[:60]!a}, which XGBoost up to 3.4 does not write, and which could change "
            "the predictions. Save the model with XGBoost 3.4, or use a newer confidential_ml"
        )


def _check_feature_types(types: Any) -> None:
    if types is None or (isinstance(types, np.ndarray) and types.size == 0):  # an empty array may come as a typed one
        return
    if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
        raise ModelFormatError(f"learner.feature_types: expected an array of strings, found {kind_of(types)}")
    for position, one in enumerate(types):
        if one not in _FEATURE_TYPES:
            raise ModelFormatError(
                f"learner.feature_types[{position}]: {one[:60]!a} is none of {', '.join(sorted(_FEATURE_TYPES))}"
            )
