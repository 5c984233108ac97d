"""Read an XGBoost model, in any form XGBoost keeps it as JSON or UBJSON, and write it as a flat model.

Runs at the model owner's, outside the enclave, and needs numpy only: XGBoost is not imported. Errors name fields, trees
and nodes, never a threshold, leaf value or weight.
"""

from __future__ import annotations

import os
import re
import warnings
from array import array
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from confidential_ml import flat_model, strict_json, ubjson
from confidential_ml.errors import InvalidInputError, ModelFormatError
from confidential_ml.flat_model import Forest

__all__ = ["MAX_DOCUMENT_SIZE", "to_flat_model"]

MAX_DOCUMENT_SIZE = 1 << 30
"""Bytes of a JSON or UBJSON document; 2^24 nodes take about this much JSON."""

_NEWEST_TESTED = (3, 4)
_OLDEST_WITHOUT_WARNING = (1, 6)
# Pruned nodes stay in the file. Twice the enclave's limit leaves room for them and bounds the memory this takes.
_MAX_NODES_IN_FILE = 2 * flat_model.MAX_NODES

_LOGISTIC = ("reg:logistic", "binary:logistic")
_LOG_LINK = ("count:poisson", "reg:tweedie", "survival:cox", "survival:aft")
_MULTICLASS = ("multi:softprob", "multi:softmax")

_STATISTICS = ("base_weights", "loss_changes", "sum_hessian", "parents")
_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

_CONVERT_OLD_BINARY = (
    "convert it with any XGBoost from 1.6 to 3.0: booster.load_model(path), then booster.save_model('model.json')"
)
_SAVE_IT = "save the model with booster.save_model('model.ubj') and use that file"

_Integers = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


class _DoubleRoundingError(Exception):
    """A decimal may have come out wrong as float32: the document must be read again, exactly."""


def to_flat_model(source: object) -> bytes:
    """Write an XGBoost model as a flat model.

    Parameters
    ----------
    source
        The path of a model file; or the bytes of one; or an `xgboost.Booster`; or an estimator of `xgboost.sklearn`.
        JSON and UBJSON are told apart by content.

    Returns
    -------
    bytes
        The flat model, see docs/formats.md. Equal models give equal bytes, whichever form they came in.

    Raises
    ------
    ModelFormatError
        This is no model of a kind that can be read, it is damaged, or it is over a limit.
    InvalidInputError
        `source` is none of the above.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        The model was written by an XGBoost older than 1.6, or newer than this package was tested with.
    """
    data = _read(source)
    try:
        return _convert(data)
    except MemoryError:
        problem = "the model does not fit into memory"
    raise ModelFormatError(problem)


def _convert(data: bytes) -> bytes:
    if _is_ubjson(data):
        return _flatten(_Document(ubjson.parse(data), has_decimals=False))
    try:
        return _flatten(_Document(strict_json.parse(data), has_decimals=True))
    except _DoubleRoundingError:
        return _flatten(_Document(strict_json.parse(data, exact_float32=True), has_decimals=False))


# ---- where the bytes come from --------------------------------------------------------------------------------------


def _read(source: object) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            # Not fstat: the size of a pipe is not known. One byte more than allowed tells an oversized file.
            return _check_size(file.read(MAX_DOCUMENT_SIZE + 1))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _check_size(bytes(source))
    return _check_size(_read_booster(source))


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_DOCUMENT_SIZE:
        raise ModelFormatError(f"the model file is larger than the limit of {MAX_DOCUMENT_SIZE} bytes")
    return data


def _read_booster(source: Any) -> bytes:
    """Ask a Booster, or the Booster of an estimator, for UBJSON. Recognised by what it can do: nothing is imported."""
    try:
        booster = source.get_booster() if callable(getattr(source, "get_booster", None)) else source
    except Exception as error:
        if type(error).__name__ != "NotFittedError":
            raise
        raise ModelFormatError("the estimator has not been fitted yet; call fit first") from None
    if not callable(getattr(booster, "save_raw", None)):
        raise InvalidInputError(
            "expected a path, bytes, an xgboost.Booster or an estimator of xgboost.sklearn, "
            f"not {type(source).__module__}.{type(source).__qualname__}"
        )
    try:
        return bytes(booster.save_raw("ubj"))
    except Exception as error:
        if type(error).__name__ != "XGBoostError":
            raise
        # What XGBoost says here is a stack trace; the usual reason is a Booster that has seen no data.
        raise ModelFormatError("XGBoost cannot save this Booster; has it been trained?") from error


def _is_ubjson(data: bytes) -> bool:
    """Tell UBJSON from JSON, and refuse by name what is neither."""
    if data.startswith(b"{L"):
        return True
    if data.lstrip(b" \t\r\n").startswith(b"{"):
        return False
    if not data:
        raise ModelFormatError("the model file is empty")
    if data.startswith(b"\x80"):
        raise ModelFormatError(f"this is a Python pickle, which is never opened here; unpickle it yourself, then {_SAVE_IT}")
    if data.startswith(b"CONFIG-offset:"):
        _refuse_snapshot()
    if data.startswith((b"binf", b"bs64")):
        raise ModelFormatError(f"this is XGBoost's old binary format; {_CONVERT_OLD_BINARY}")
    if data.startswith(b"booster[") or data.lstrip().startswith(b"["):
        raise ModelFormatError(f"this looks like a dump (dump_model), which is no model; {_SAVE_IT}")
    if data.startswith((flat_model.MAGIC, b"CMLSEAL\0")):
        raise ModelFormatError("this is a flat or sealed model of confidential_ml already, not an XGBoost model")
    raise ModelFormatError(
        f"this is neither JSON nor UBJSON. If it is a model in XGBoost's old binary format, {_CONVERT_OLD_BINARY}"
    )


def _refuse_snapshot() -> NoReturn:
    raise ModelFormatError(
        "this is the snapshot inside a pickled Booster (a Model with its training Config), not a model file; "
        f"{_SAVE_IT}, or take the object under its key Model"
    )


# ---- the document: typed access, errors that say where --------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    root: Any
    has_decimals: bool
    """Numbers are float64 that were rounded from decimals (JSON)."""

    def float32(self, values: npt.NDArray[Any]) -> _Floats:
        if self.has_decimals and strict_json.contains_float32_midpoint(values):
            raise _DoubleRoundingError
        with np.errstate(over="ignore"):  # becomes infinity, which is refused where it matters
            return values.astype(np.float32)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", np.ndarray: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _object(parent: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = _member(parent, name, where)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}.{name}: expected an object, found {_kind(value)}")
    return value


def _member(parent: dict[str, Any], name: str, where: str) -> Any:
    if name not in parent:
        raise ModelFormatError(f"{where}: {name} is missing; the file is damaged or no XGBoost model")
    return parent[name]


def _string(parent: dict[str, Any], name: str, where: str) -> str:
    value = _member(parent, name, where)
    if not isinstance(value, str):
        raise ModelFormatError(f"{where}.{name}: expected a string, found {_kind(value)}")
    return value


def _count(parent: dict[str, Any], name: str, where: str, default: int | None = None) -> int:
    """Read a whole number, which XGBoost keeps as a string."""
    if default is not None and name not in parent:
        return default
    text = _string(parent, name, where)
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ModelFormatError(f"{where}.{name}: not a whole number of at most 18 digits")
    return int(text)


def _integers(value: object) -> _Integers:
    # array.array checks every element at C speed: it refuses floats, strings, nested lists and too large integers.
    if isinstance(value, list):
        return np.asarray(array("q", value), np.int64)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int64)
    raise TypeError


def _numbers(value: object) -> npt.NDArray[Any]:
    if isinstance(value, list):
        return np.asarray(array("d", value), np.float64)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value
    raise TypeError


def _integer_array(parent: dict[str, Any], name: str, where: str) -> _Integers:
    value = _member(parent, name, where)
    try:
        return _integers(value)
    except (TypeError, OverflowError):
        raise ModelFormatError(f"{where}.{name}: not an array of integers") from None


def _number_array(parent: dict[str, Any], name: str, where: str, document: _Document) -> _Floats:
    value = _member(parent, name, where)
    try:
        numbers = _numbers(value)
    except (TypeError, OverflowError):
        raise ModelFormatError(f"{where}.{name}: not an array of numbers") from None
    result = document.float32(numbers)
    not_finite = np.flatnonzero(~np.isfinite(result))
    if len(not_finite):
        raise ModelFormatError(f"{where}.{name}[{not_finite[0]}]: not a finite float32")
    return result


# ---- the learner ----------------------------------------------------------------------------------------------------


def _flatten(document: _Document) -> bytes:
    root = document.root
    if not isinstance(root, dict):
        raise ModelFormatError(f"an XGBoost model is an object, this is {_kind(root)}")
    if "learner" not in root and "Model" in root and "Config" in root:
        _refuse_snapshot()
    _check_version(root)
    learner = _object(root, "learner", "model")
    parameters = _object(learner, "learner_model_param", "learner")
    n_features = _count(parameters, "num_feature", "learner_model_param")
    if n_features == 0:
        raise ModelFormatError("the model has no features: it has not been fitted yet. Train it, then save it again")
    flat_model.check_limit("features", n_features, flat_model.MAX_FEATURES)
    objective = _objective(learner)
    n_groups = _group_count(parameters, objective)
    base_score = _base_score(parameters, objective, n_groups)
    code = flat_model.OBJECTIVES[objective]

    gradient_booster = _object(learner, "gradient_booster", "learner")
    booster = _string(gradient_booster, "name", "gradient_booster")
    if booster == "gblinear":
        n_rounds, weights = _linear(document, gradient_booster, n_features, n_groups)
        return flat_model.pack_linear(code, base_score, n_features, n_rounds, weights)
    if booster not in ("gbtree", "dart"):
        raise ModelFormatError(f"unknown booster {booster[:60]!a}; known are gbtree, dart and gblinear")
    forest = _forest(document, gradient_booster, is_dart=booster == "dart", n_groups=n_groups)
    return flat_model.pack_forest(code, base_score, n_features, forest)


def _check_version(root: dict[str, Any]) -> None:
    value = root.get("version")
    try:
        version = tuple(int(number) for number in _integers(value))
    except (TypeError, OverflowError):
        version = ()
    if len(version) != 3 or min(version) < 0:
        raise ModelFormatError(f"model.version is missing or not three numbers; {_SAVE_IT}")
    text = ".".join(map(str, version))
    if version[0] < 1:
        raise ModelFormatError(f"written by XGBoost {text}; models from before 1.0 cannot be read. Train it again")
    if version[0] > _NEWEST_TESTED[0]:
        raise ModelFormatError(
            f"written by XGBoost {text}; known are 1.0 to 3.x. Save it with XGBoost 3.4, or use a newer confidential_ml"
        )
    if version[:2] > _NEWEST_TESTED:
        _warn(f"this model was written by XGBoost {text}, newer than the 3.4 that confidential_ml was tested with")
    if version[:2] < _OLDEST_WITHOUT_WARNING:
        _warn(
            f"this model was written by XGBoost {text}. Before 1.6 not every digit was written and some rules differed: "
            "load it with a current XGBoost, compare its predictions, and save it again"
        )


def _warn(message: str) -> None:
    # Frames above this one: _check_version, _flatten, _convert, to_flat_model, and then the caller's.
    warnings.warn(message, UserWarning, stacklevel=6)


def _objective(learner: dict[str, Any]) -> str:
    name = _string(_object(learner, "objective", "learner"), "name", "objective")
    if name not in flat_model.OBJECTIVES:
        raise ModelFormatError(f"unknown objective {name[:60]!a}; known are {', '.join(flat_model.OBJECTIVES)}")
    return name


def _group_count(parameters: dict[str, Any], objective: str) -> int:
    n_classes = _count(parameters, "num_class", "learner_model_param", default=0)
    n_targets = _count(parameters, "num_target", "learner_model_param", default=1)
    if n_classes > 1 and n_targets > 1:
        raise ModelFormatError("learner_model_param: num_class and num_target are both above 1, which XGBoost refuses")
    if n_targets < 1:
        raise ModelFormatError("learner_model_param.num_target: must be at least 1")
    if objective in _MULTICLASS and n_classes < 1:
        raise ModelFormatError(f"learner_model_param.num_class: must be at least 1 for {objective}")
    n_groups = max(n_classes, n_targets)
    flat_model.check_limit("groups (num_class or num_target)", n_groups, flat_model.MAX_GROUPS)
    return n_groups


def _base_score(parameters: dict[str, Any], objective: str, n_groups: int) -> _Floats:
    """Read "5E-1" (up to 3.0), "[5E-1,...]" or "(5E-1,...)"; one value stands for all groups."""
    where = "learner_model_param.base_score"
    text = "".join(_string(parameters, "base_score", "learner_model_param").split())
    if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
        text = text[1:-1]
    decimals = text.split(",")
    if len(decimals) not in (1, n_groups):
        raise ModelFormatError(f"{where}: {len(decimals)} values for {n_groups} groups")
    for position, decimal in enumerate(decimals):
        if not _DECIMAL.fullmatch(decimal):
            raise ModelFormatError(f"{where}[{position}]: not a finite number")
    values = np.array([strict_json.float32_from_decimal(decimal) for decimal in decimals], np.float32)
    _check_base_score(values, objective, where)
    return np.broadcast_to(values, n_groups)


def _check_base_score(values: _Floats, objective: str, where: str) -> None:
    domain, inside = "finite", np.isfinite(values)
    if objective in _LOGISTIC:
        domain, inside = "within 0 to 1", (values >= 0) & (values <= 1)
    elif objective in _LOG_LINK:
        domain, inside = "at least 0 and finite", inside & (values >= 0)
    elif objective == "reg:gamma":
        domain, inside = "above 0 and finite", inside & (values > 0)
    if not inside.all():
        raise ModelFormatError(f"{where}[{int(np.argmin(inside))}]: must be {domain} for {objective}")


# ---- boosters -------------------------------------------------------------------------------------------------------


def _linear(
    document: _Document, gradient_booster: dict[str, Any], n_features: int, n_groups: int
) -> tuple[int, _Floats]:
    model = _object(gradient_booster, "model", "gradient_booster")
    weights = _number_array(model, "weights", "model", document)
    expected = (n_features + 1) * n_groups
    if len(weights) != expected:
        raise ModelFormatError(f"model.weights: {len(weights)} values, must be {expected} for features and bias")
    n_rounds = model.get("boosted_rounds", 0)
    if type(n_rounds) is not int or n_rounds < 0:
        raise ModelFormatError("model.boosted_rounds: not a whole number")
    flat_model.check_limit("boosting rounds", n_rounds, flat_model.MAX_ROUNDS)
    return n_rounds, weights


def _forest(document: _Document, gradient_booster: dict[str, Any], *, is_dart: bool, n_groups: int) -> Forest:
    # Up to 3.3 DART wrapped the tree booster and kept its weights outside; now the weights are in the model.
    outer = _object(gradient_booster, "gbtree", "gradient_booster") if is_dart else gradient_booster
    model = _object(outer, "model", "gradient_booster")
    trees = _trees(model)
    group = _integer_array(model, "tree_info", "model")
    _check_length("model.tree_info", len(group), len(trees))
    if ((group < 0) | (group >= n_groups)).any():
        tree = int(np.argmax((group < 0) | (group >= n_groups)))
        raise ModelFormatError(f"model.tree_info[{tree}]: must be below the number of groups, {n_groups}")
    return _Trees(document, trees, n_groups).forest(
        group=group,
        weight=_tree_weights(document, gradient_booster, model, len(trees)),
        round_begin=_rounds(model, group),
    )


def _trees(model: dict[str, Any]) -> list[dict[str, Any]]:
    trees = _member(model, "trees", "model")
    # An empty array may come as a typed one.
    if isinstance(trees, np.ndarray) and trees.size == 0:
        trees = []
    if not isinstance(trees, list):
        raise ModelFormatError(f"model.trees: expected an array, found {_kind(trees)}")
    flat_model.check_limit("trees", len(trees), flat_model.MAX_TREES)
    parameters = _object(model, "gbtree_model_param", "model")
    _check_length("model.trees", len(trees), _count(parameters, "num_trees", "gbtree_model_param"))
    for number, tree in enumerate(trees):
        if not isinstance(tree, dict):
            raise ModelFormatError(f"tree {number}: expected an object, found {_kind(tree)}")
        if type(tree.get("id")) is not int or tree["id"] != number:
            raise ModelFormatError(f"tree {number}: id is not {number}; trees are missing or out of order")
    return trees


def _check_length(what: str, length: int, expected: int) -> None:
    if length != expected:
        raise ModelFormatError(f"{what}: {length} elements, must be {expected}; the file was cut short or changed")


def _tree_weights(
    document: _Document, gradient_booster: dict[str, Any], model: dict[str, Any], n_trees: int
) -> _Floats | None:
    holders = [holder for holder in (gradient_booster, model) if "weight_drop" in holder]
    if not holders:
        return None
    if len(holders) > 1:
        raise ModelFormatError("gradient_booster: weight_drop appears twice, beside and in the model")
    weights = _number_array(holders[0], "weight_drop", "gradient_booster", document)
    _check_length("gradient_booster.weight_drop", len(weights), n_trees)
    return weights if n_trees else None


def _rounds(model: dict[str, Any], group: _Integers) -> _Integers:
    n_trees = len(group)
    if "iteration_indptr" in model:
        begin = _integer_array(model, "iteration_indptr", "model")
        if len(begin) == 0 or begin[0] != 0 or begin[-1] != n_trees or (begin[1:] < begin[:-1]).any():
            raise ModelFormatError(f"model.iteration_indptr: must begin with 0, never fall and end with {n_trees}")
    else:
        begin = _rounds_before_2_0(model, group)
    flat_model.check_limit("boosting rounds", len(begin) - 1, flat_model.MAX_ROUNDS)
    return begin


def _rounds_before_2_0(model: dict[str, Any], group: _Integers) -> _Integers:
    """Cut the trees into rounds as XGBoost does with files that do not tell."""
    n_trees = len(group)
    if n_trees == 0:
        return np.zeros(1, np.int64)
    parameters = _object(model, "gbtree_model_param", "model")
    trees_of_round = _count(parameters, "num_parallel_tree", "gbtree_model_param", default=1) * (int(group.max()) + 1)
    if trees_of_round == 0 or n_trees % trees_of_round:
        raise ModelFormatError(f"model: {n_trees} trees are no whole number of rounds of {trees_of_round}")
    return np.arange(0, n_trees + 1, trees_of_round, dtype=np.int64)


# ---- trees ----------------------------------------------------------------------------------------------------------


class _Trees:
    """The trees of a document, their fields put end to end."""

    def __init__(self, document: _Document, trees: list[dict[str, Any]], n_groups: int) -> None:
        self._document = document
        self._trees = trees
        self._parameters = [_object(tree, "tree_param", f"tree {number}") for number, tree in enumerate(trees)]
        self._sizes = self._counts("num_nodes")
        if (self._sizes < 1).any():
            raise ModelFormatError(f"tree {int(np.argmin(self._sizes))}: num_nodes is 0")
        flat_model.check_limit("nodes, deleted ones included", sum(self._sizes.tolist()), _MAX_NODES_IN_FILE)
        self._leaf_size = self._uniform_leaf_size(n_groups)

    def forest(self, *, group: _Integers, weight: _Floats | None, round_begin: _Integers) -> Forest:
        for name in _STATISTICS:
            self._check_statistics(name)
        has_split_type = any("split_type" in tree for tree in self._trees)  # since 1.3
        split_type = self._nodes("split_type") if has_split_type else np.zeros(int(self._sizes.sum()), np.int64)
        set_sizes, categories = self._category_sets(split_type)
        leaf_vectors = None
        if self._leaf_size > 1:
            leaf_vectors = self._leaf_vectors()
            if (group != 0).any():
                raise ModelFormatError(f"model.tree_info[{int(np.argmax(group != 0))}]: must be 0 for vector leaves")
        return Forest(
            sizes=self._sizes,
            deleted=self._deleted(),
            left=self._nodes("left_children"),
            right=self._nodes("right_children"),
            feature=self._nodes("split_indices"),
            value=self._document.float32(self._concatenate("split_conditions", _numbers, self._sizes)),
            default_left=self._nodes("default_left"),
            categorical=split_type == 1,
            set_sizes=set_sizes,
            categories=categories,
            leaf_vectors=leaf_vectors,
            group=group,
            weight=weight,
            round_begin=round_begin,
        )

    def _counts(self, name: str, default: int | None = None) -> _Integers:
        counts = (
            _count(parameters, name, f"tree {tree}: tree_param", default)
            for tree, parameters in enumerate(self._parameters)
        )
        return np.fromiter(counts, np.int64, len(self._parameters))

    def _uniform_leaf_size(self, n_groups: int) -> int:
        sizes = np.maximum(self._counts("size_leaf_vector", default=1), 1)  # before 2.0, "0" stood for scalar leaves
        if (sizes == 1).all():
            return 1
        if (sizes != n_groups).any():
            raise ModelFormatError(
                f"tree {int(np.argmax(sizes != n_groups))}: size_leaf_vector must be the number of targets, {n_groups}, "
                "in every tree that has vector leaves, and all trees must have them or none"
            )
        return n_groups

    def _deleted(self) -> _Integers:
        # Before 1.6 the count was not always written; vector-leaf trees are never pruned.
        deleted = self._counts("num_deleted", default=0) if self._leaf_size > 1 else self._deleted_or_unknown()
        if self._leaf_size > 1 and (deleted != 0).any():
            raise ModelFormatError(f"tree {int(np.argmax(deleted != 0))}: deleted nodes in a tree with vector leaves")
        return deleted

    def _deleted_or_unknown(self) -> _Integers:
        told = np.array(["num_deleted" in parameters for parameters in self._parameters], np.bool_)
        return np.where(told, self._counts("num_deleted", default=0), -1)

    def _nodes(self, name: str) -> _Integers:
        return self._concatenate(name, _integers, self._sizes)

    def _concatenate(self, name: str, convert: Any, lengths: _Integers | None = None) -> npt.NDArray[Any]:
        parts = []
        for number, tree in enumerate(self._trees):
            try:
                part = convert(tree[name])
            except KeyError:
                raise ModelFormatError(f"tree {number}: {name} is missing; the file is damaged") from None
            except (TypeError, OverflowError):
                kind = "integers" if convert is _integers else "numbers"
                raise ModelFormatError(f"tree {number}: {name} is not an array of {kind}") from None
            if lengths is not None:
                _check_length(f"tree {number}: {name}", len(part), int(lengths[number]))
            parts.append(part)
        empty = np.zeros(0, np.int64 if convert is _integers else np.float64)
        return np.concatenate(parts) if parts else empty

    def _check_statistics(self, name: str) -> None:
        """Check the length only: what these say does not enter a prediction, and old files hold NaN in them."""
        width = self._leaf_size if name == "base_weights" else 1
        for number, tree in enumerate(self._trees):
            value = tree.get(name, ())
            if not isinstance(value, (list, np.ndarray)):
                raise ModelFormatError(f"tree {number}: {name} is missing or no array; the file is damaged")
            _check_length(f"tree {number}: {name}", len(value), int(self._sizes[number]) * width)

    def _leaf_vectors(self) -> _Floats:
        if not all("leaf_weights" in tree for tree in self._trees):
            raise ModelFormatError(
                "vector leaves (multi_output_tree) from before XGBoost 3.2, without leaf_weights, cannot be read, "
                "by current XGBoost neither; train the model again with XGBoost 3.2 or later"
            )
        lengths = (self._sizes + 1) // 2 * self._leaf_size
        values = self._document.float32(self._concatenate("leaf_weights", _numbers, lengths))
        if not np.isfinite(values).all():
            first = int(np.argmin(np.isfinite(values)))
            tree = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
            raise ModelFormatError(f"tree {tree}: leaf_weights has an element that is not a finite float32")
        return values.reshape(-1, self._leaf_size)

    def _category_sets(self, split_type: _Integers) -> tuple[_Integers, _Integers]:
        """Return sizes and categories of all sets; check that they belong to just the nodes marked categorical."""
        if ((split_type < 0) | (split_type > 1)).any():
            node = int(np.argmax((split_type < 0) | (split_type > 1)))
            tree = int(np.searchsorted(np.cumsum(self._sizes), node, side="right"))
            raise ModelFormatError(f"tree {tree}: split_type is neither 0 (numerical) nor 1 (categorical)")
        ends = np.cumsum(self._sizes)
        marked = np.add.reduceat(split_type, ends - self._sizes) if len(ends) else ends
        # Before 1.3 there were no categories, and these fields were not written.
        if not any("categories_nodes" in tree for tree in self._trees) and not marked.any():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        nodes = self._concatenate("categories_nodes", _integers, marked)
        if (nodes + np.repeat(ends - self._sizes, marked) != np.flatnonzero(split_type)).any():
            raise ModelFormatError("categories_nodes does not list the nodes whose split_type is 1")
        sizes = self._concatenate("categories_sizes", _integers, marked)
        segments = self._concatenate("categories_segments", _integers, marked)
        categories = self._concatenate("categories", _integers)
        self._check_segments(marked, sizes, segments)
        return sizes, categories

    def _check_segments(self, marked: _Integers, sizes: _Integers, segments: _Integers) -> None:
        """Each set begins where the one before ended, and the last ends with the categories."""
        lengths = np.array([len(tree["categories"]) for tree in self._trees], np.int64)
        tree_of_set = np.repeat(np.arange(len(marked)), marked)
        # A size beyond the categories of its tree is refused first, so that no sum can leave 64 bits.
        bad = (sizes < 1) | (sizes > lengths[tree_of_set])
        if not bad.any():
            before = np.concatenate([[0], np.cumsum(sizes)])
            first_set = np.cumsum(marked) - marked
            bad = segments != before[:-1] - before[first_set[tree_of_set]]
            totals = before[np.cumsum(marked)] - before[first_set]
            if not bad.any() and (totals != lengths).any():
                tree = int(np.argmax(totals != lengths))
                raise ModelFormatError(f"tree {tree}: categories_sizes do not add up to the number of categories")
        if bad.any():
            tree = int(tree_of_set[np.argmax(bad)])
            raise ModelFormatError(f"tree {tree}: categories_segments and categories_sizes do not describe its categories")
