"""XGBoost's predictions in plain numpy float32, from a parsed flat model: the oracle of the tests.

One operation of XGBoost is one operation here, in the same order; exp and log are libm's float functions, which
XGBoost calls too. So the numbers are equal bit for bit on the machine where XGBoost would have run.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from flat_reader import GBLINEAR, FlatModel, Tree

Floats = npt.NDArray[Any]  # float32, all of them

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
F = np.float32
EPSILON = F(1e-6)


def _elementwise(name: str) -> Callable[[Floats], Floats]:
    function = getattr(_libm, name)
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float

    def apply(x: Floats) -> Floats:
        x = np.asarray(x, F)
        return np.array([function(float(v)) for v in x.ravel()], F).reshape(x.shape)

    return apply


expf, logf, log1pf, expm1f = map(_elementwise, ("expf", "logf", "log1pf", "expm1f"))

LOGISTIC = ("reg:logistic", "binary:logistic")
LOG_LINK = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")


def link(objective: str, base_score: Floats) -> Floats:
    """base_score as margin (XGBoost: ProbToMargin)."""
    margin = np.array(base_score, F)
    if objective in LOGISTIC:
        p = np.minimum(np.maximum(margin, EPSILON), F(1) - EPSILON)
        return -logf(F(1) / p - F(1))
    if objective in LOG_LINK:
        return logf(margin)
    if objective == "reg:expectileerror":
        for j in range(len(margin) - 1, 0, -1):
            x = max(margin[j] - margin[j - 1] - EPSILON, EPSILON)
            margin[j] = x + logf(-expm1f(-x))
    return margin


def transform(objective: str, margin: Floats) -> Floats:
    """Margins as values (XGBoost: PredTransform); one column for softmax."""
    if objective in LOGISTIC:
        return F(1) / (expf(np.minimum(-margin, F(88.7))) + F(1) + F(1e-16))
    if objective == "survival:aft":  # in double, unlike the others with this link
        with np.errstate(over="ignore"):
            return np.exp(margin.astype(np.float64)).astype(F)
    if objective in LOG_LINK:
        return expf(margin)
    if objective == "binary:hinge":
        return (margin > 0).astype(F)
    if objective == "multi:softmax":
        best: Floats = np.asarray(np.argmax(margin, axis=1), F)
        return best[:, None]
    if objective == "multi:softprob":
        e = expf(margin - margin.max(axis=1, keepdims=True))
        total = np.zeros(len(e))
        for column in e.T:  # in double, from left to right
            total += column.astype(np.float64)
        return e / total.astype(F)[:, None]
    if objective == "reg:quantileerror":
        return np.sort(margin, axis=1)
    if objective == "reg:expectileerror":
        value = margin.copy()
        for j in range(1, margin.shape[1]):
            value[:, j] = value[:, j - 1] + (EPSILON + _softplus(margin[:, j]))
        return value
    return margin


def _softplus(x: Floats) -> Floats:
    return np.where(x > 0, x + log1pf(expf(-x)), log1pf(expf(x)))


def leaves(tree: Tree, rows: Floats) -> npt.NDArray[np.int64]:
    """The leaf that each row ends in."""
    node = np.zeros(len(rows), np.int64)
    while True:
        active = np.flatnonzero(tree.left[node] >= 0)
        if len(active) == 0:
            return node
        at = node[active]
        x = rows[active, tree.feature[at]]
        goes_left = x < tree.value[at]
        for split, members in tree.category_sets.items():
            here = at == split
            goes_left[here] = [_category_goes_left(v, members) for v in x[here]]
        goes_left = np.where(np.isnan(x), tree.default_left[at], goes_left)
        node[active] = tree.left[at] + ~goes_left


def _category_goes_left(x: np.float32, members: npt.NDArray[np.bool_]) -> bool:
    if np.isnan(x) or x < 0 or x >= 2**24:
        return True
    category = int(x)
    return category >= len(members) or not members[category]


def margins(
    model: FlatModel,
    rows: Floats,
    base_margin: Floats | None = None,
    iteration_range: tuple[int, int] = (0, 0),
) -> Floats:
    """Margins of the rows, one column for each group."""
    rows = np.asarray(rows, F)
    base = link(model.objective, model.base_score)
    if model.booster == GBLINEAR:
        return _linear_margins(model, rows, base, base_margin)
    result = np.tile(base, (len(rows), 1)) if base_margin is None else np.array(base_margin, F)
    result = result.reshape(len(rows), model.n_groups)
    begin, end = iteration_range
    end = end or len(model.round_begin) - 1
    for tree in model.trees[model.round_begin[begin] : model.round_begin[end]]:
        leaf = leaves(tree, rows)
        if model.leaf_size > 1:
            result += np.array([tree.leaf_vectors[n] for n in leaf], F).reshape(result.shape) * tree.weight
        else:
            result[:, tree.group] += tree.value[leaf] * tree.weight
    return result


def _linear_margins(model: FlatModel, rows: Floats, base: Floats, base_margin: Floats | None) -> Floats:
    result = np.empty((len(rows), model.n_groups), F)
    for group in range(model.n_groups):
        # base[0] for every group: XGBoost's gblinear reads base_score(0) there.
        start = base[0] if base_margin is None else np.asarray(base_margin, F).reshape(result.shape)[:, group]
        result[:, group] = model.weights[-1, group] + start
        for feature, x in enumerate(rows.T):
            present = ~np.isnan(x)
            result[present, group] += x[present] * model.weights[feature, group]
    return result
