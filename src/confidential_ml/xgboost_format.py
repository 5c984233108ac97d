"""Read an XGBoost model, in any form XGBoost keeps it as JSON or UBJSON, and write it as a flat model.

Runs at the model owner's, outside the enclave, and needs numpy only: XGBoost is not imported. Errors name fields, trees
and nodes, never a threshold, leaf value or weight.
"""

from __future__ import annotations

import os
import re
import warnings
from typing import Any, NoReturn

import numpy as np

from confidential_ml import flat_model, strict_json, ubjson
from confidential_ml.errors import InvalidInputError, ModelFormatError
from confidential_ml.flat_model import Forest
from confidential_ml.regular_file import (
    NotRegularFileError,
    TooLargeError,
    checked_path,
    open_regular,
    read_limited,
)
from confidential_ml.xgboost_document import (
    Document,
    DoubleRoundingError,
    Floats,
    Integers,
    check_length,
    count_in,
    integer_array_in,
    integers,
    kind_of,
    member_of,
    number_array_in,
    object_in,
    string_in,
)
from confidential_ml.xgboost_members import check_members
from confidential_ml.xgboost_trees import STATISTICS, Trees

__all__ = ["MAX_DOCUMENT_SIZE", "read_model", "to_flat_model"]

MAX_DOCUMENT_SIZE = 1 << 30
"""Bytes of a JSON or UBJSON document; 2^24 nodes take about this much JSON."""

_NEWEST_TESTED = (3, 4)
_OLDEST_WITHOUT_WARNING = (1, 6)

_LOGISTIC = ("reg:logistic", "binary:logistic")
_LOG_LINK = ("count:poisson", "reg:tweedie", "survival:cox", "survival:aft")
_MULTICLASS = ("multi:softprob", "multi:softmax")

_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)

_CONVERT_OLD_BINARY = (
    "convert it with any XGBoost from 1.6 to 3.0: booster.load_model(path), then booster.save_model('model.json')"
)
_PATH_NAME = "the path of the model"
_SAVE_IT = "save the model with booster.save_model('model.ubj') and use that file"


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
        `source` is none of the above, or names no regular file, or one that cannot be read.

    Warns
    -----
    UserWarning
        The model was written by an XGBoost older than 1.6, or newer than this package was tested with.
    """
    where = f"{checked_path(source, _PATH_NAME)}: " if isinstance(source, (str, os.PathLike)) else ""
    try:
        return _convert(_read(source))[0]
    except ModelFormatError as error:
        problem = str(error)
    except MemoryError:
        problem = "the model does not fit into memory"
    raise ModelFormatError(where + problem)


def read_model(data: bytes) -> tuple[bytes, str | None]:
    """Write the bytes of an XGBoost model as a flat model, and say what the model calls itself.

    Returns
    -------
    tuple of bytes and str
        The flat model, as of :func:`to_flat_model`; and the attribute ``model_id``, as ``Booster.set_attr`` sets it,
        None without one.

    Raises
    ------
    ModelFormatError
        As of :func:`to_flat_model`.
    """
    try:
        flat, root = _convert(_check_size(data))
    except MemoryError:
        raise ModelFormatError("the model does not fit into memory") from None
    attributes = root["learner"].get("attributes")
    model_id = attributes.get("model_id") if isinstance(attributes, dict) else None
    return flat, model_id if isinstance(model_id, str) else None


def _convert(data: bytes) -> tuple[bytes, Any]:
    """The flat model, and the document it was made of."""
    if _is_ubjson(data):
        return _converted(ubjson.parse(data), has_decimals=False)
    try:
        return _converted(strict_json.parse(data, unread=STATISTICS), has_decimals=True)
    except DoubleRoundingError:
        pass  # and out of here, since the error's traceback holds the document: two need not fit into memory
    return _converted(strict_json.parse(data, exact_float32=True, unread=STATISTICS), has_decimals=False)


def _converted(root: Any, *, has_decimals: bool) -> tuple[bytes, Any]:
    return _flatten(Document(root, has_decimals=has_decimals)), root


# ---- where the bytes come from --------------------------------------------------------------------------------------


def _read(source: object) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        return _read_file(checked_path(source, _PATH_NAME))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _check_size(bytes(source))
    return _check_size(_read_booster(source))


def _read_file(path: str) -> bytes:
    try:
        with open_regular(path) as file:
            return read_limited(file, MAX_DOCUMENT_SIZE)
    except NotRegularFileError:
        raise InvalidInputError(f"{path} is not a regular file; read it yourself and pass the bytes") from None
    except TooLargeError:
        raise _too_large() from None
    except FileNotFoundError:
        raise InvalidInputError(f"there is no model file {path}; check the path") from None
    except IsADirectoryError:
        raise InvalidInputError(f"{path} is a directory; give the path of a model file in it") from None
    except OSError as error:
        raise InvalidInputError(
            f"the model file {path} cannot be read: {error.strerror}; check the path and its permissions"
        ) from error


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_DOCUMENT_SIZE:
        raise _too_large()
    return data


def _too_large() -> ModelFormatError:
    return ModelFormatError(f"the model file is larger than the limit of {MAX_DOCUMENT_SIZE} bytes")


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
        raise ModelFormatError(f"the model is empty: it has 0 bytes; {_SAVE_IT}")
    if data.startswith(b"\x80"):
        raise ModelFormatError(
            f"this is a Python pickle, which is never opened here; unpickle it yourself, then {_SAVE_IT}"
        )
    if data.startswith(b"CONFIG-offset:"):
        _refuse_snapshot()
    if data.startswith((b"binf", b"bs64")):
        raise ModelFormatError(f"this is XGBoost's old binary format; {_CONVERT_OLD_BINARY}")
    if data.startswith(b"booster[") or re.match(rb"\s*\[\s*[\"{]", data):
        raise ModelFormatError(f"this looks like a dump (dump_model), which is no model; {_SAVE_IT}")
    if data.startswith((flat_model.MAGIC, b"CMLSEAL\0")):
        raise ModelFormatError("this is a flat or sealed model of confidential_ml already, not an XGBoost model")
    raise ModelFormatError(
        f"this is neither JSON nor UBJSON. If it is a model in XGBoost's old binary format, {_CONVERT_OLD_BINARY}; "
        "if it is the path of a file, the content of that file is needed here (in Python also the path, as str)"
    )


def _refuse_snapshot() -> NoReturn:
    raise ModelFormatError(
        "this is the snapshot inside a pickled Booster (a Model with its training Config), not a model file; "
        f"{_SAVE_IT}, or take the object under its key Model"
    )


# ---- the learner ----------------------------------------------------------------------------------------------------


def _flatten(document: Document) -> bytes:
    root = document.root
    if not isinstance(root, dict):
        raise ModelFormatError(f"an XGBoost model is an object, this is {kind_of(root)}")
    if "learner" not in root and "Model" in root and "Config" in root:
        _refuse_snapshot()
    _check_version(root)
    check_members(root)
    learner = object_in(root, "learner", "model")
    parameters = object_in(learner, "learner_model_param", "learner")
    n_features = count_in(parameters, "num_feature", "learner_model_param")
    if n_features == 0:
        raise ModelFormatError("the model has no features: it has not been fitted yet. Train it, then save it again")
    flat_model.check_limit("features", n_features, flat_model.MAX_FEATURES)
    objective = _objective(learner)
    n_groups = _group_count(parameters, objective)
    base_score = _base_score(parameters, objective, n_groups)
    code = flat_model.OBJECTIVES[objective]

    gradient_booster = object_in(learner, "gradient_booster", "learner")
    booster = string_in(gradient_booster, "name", "gradient_booster")
    if booster == "gblinear":
        n_rounds, weights = _linear(document, gradient_booster, n_features, n_groups)
        _check_trained(parameters, objective, n_rounds)
        return flat_model.pack_linear(code, base_score, n_features, n_rounds, weights)
    if booster not in ("gbtree", "dart"):
        raise ModelFormatError(f"unknown booster {booster[:60]!a}; known are gbtree, dart and gblinear")
    forest = _forest(document, gradient_booster, is_dart=booster == "dart", n_groups=n_groups)
    _check_trained(parameters, objective, len(forest.group))
    return flat_model.pack_forest(code, base_score, n_features, forest)


def _check_version(root: dict[str, Any]) -> None:
    value = root.get("version")
    try:
        version = tuple(int(number) for number in integers(value))
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
            f"this model was written by XGBoost {text}. Before 1.6 not every digit was written and some rules "
            "differed: load it with a current XGBoost, compare its predictions, and save it again"
        )


def _warn(message: str) -> None:
    # Frames above this one: _check_version, _flatten, _converted, _convert, to_flat_model, seal, then the caller's.
    warnings.warn(message, UserWarning, stacklevel=8)


def _objective(learner: dict[str, Any]) -> str:
    name = string_in(object_in(learner, "objective", "learner"), "name", "objective")
    if name not in flat_model.OBJECTIVES:
        raise ModelFormatError(f"unknown objective {name[:60]!a}; known are {', '.join(flat_model.OBJECTIVES)}")
    return name


def _group_count(parameters: dict[str, Any], objective: str) -> int:
    n_classes = count_in(parameters, "num_class", "learner_model_param", default=0)
    n_targets = count_in(parameters, "num_target", "learner_model_param", default=1)
    if n_classes > 1 and n_targets > 1:
        raise ModelFormatError("learner_model_param: num_class and num_target are both above 1, which XGBoost refuses")
    if n_targets < 1:
        raise ModelFormatError("learner_model_param.num_target: must be at least 1")
    if objective in _MULTICLASS and n_classes < 1:
        raise ModelFormatError(f"learner_model_param.num_class: must be at least 1 for {objective}")
    n_groups = max(n_classes, n_targets)
    flat_model.check_limit("groups (num_class or num_target)", n_groups, flat_model.MAX_GROUPS)
    return n_groups


def _base_score(parameters: dict[str, Any], objective: str, n_groups: int) -> Floats:
    """Read "5E-1" (up to 3.0), "[5E-1,...]" or "(5E-1,...)"; one value stands for all groups."""
    where = "learner_model_param.base_score"
    text = string_in(parameters, "base_score", "learner_model_param")
    if text[:1] + text[-1:] in ("[]", "()"):
        decimals = [decimal.strip(" ") for decimal in text[1:-1].split(",")]
    else:
        decimals = text.split(",")
    if len(decimals) not in (1, n_groups):
        raise ModelFormatError(f"{where}: {len(decimals)} values for {n_groups} groups")
    for position, decimal in enumerate(decimals):
        if not _DECIMAL.fullmatch(decimal):
            raise ModelFormatError(f"{where}[{position}]: not a finite number")
    values = np.array([strict_json.float32_from_decimal(decimal) for decimal in decimals], np.float32)
    _check_base_score(values, objective, where)
    return np.broadcast_to(values, n_groups)


def _check_trained(parameters: dict[str, Any], objective: str, n_boosted: int) -> None:
    """Refuse what XGBoost takes for a margin as yet (learner.cc: boost_from_average and not ModelFitted)."""
    has_link = objective in (*_LOGISTIC, *_LOG_LINK, "reg:gamma", "reg:expectileerror")
    if n_boosted == 0 and has_link and parameters.get("boost_from_average") == "1":
        raise ModelFormatError(
            "the model has no rounds, and its base_score is yet to be estimated from data: "
            "train it for a round at least, or set base_score, then save it again"
        )


def _check_base_score(values: Floats, objective: str, where: str) -> None:
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


def _linear(document: Document, gradient_booster: dict[str, Any], n_features: int, n_groups: int) -> tuple[int, Floats]:
    model = object_in(gradient_booster, "model", "gradient_booster")
    weights = number_array_in(model, "weights", "model", document)
    expected = (n_features + 1) * n_groups
    if len(weights) != expected:
        raise ModelFormatError(f"model.weights: {len(weights)} values, must be {expected} for features and bias")
    n_rounds = model.get("boosted_rounds", 0)
    if type(n_rounds) is not int or n_rounds < 0:
        raise ModelFormatError("model.boosted_rounds: not a whole number")
    flat_model.check_limit("boosting rounds", n_rounds, flat_model.MAX_ROUNDS)
    return n_rounds, weights


def _forest(document: Document, gradient_booster: dict[str, Any], *, is_dart: bool, n_groups: int) -> Forest:
    # Up to 3.3 DART wrapped the tree booster and kept its weights outside; now the weights are in the model.
    outer = object_in(gradient_booster, "gbtree", "gradient_booster") if is_dart else gradient_booster
    if not is_dart and "weight_drop" in gradient_booster:
        raise ModelFormatError("gradient_booster.weight_drop: belongs to dart, and XGBoost ignores it in gbtree")
    model = object_in(outer, "model", "gradient_booster")
    trees = _trees(model)
    group = integer_array_in(model, "tree_info", "model")
    check_length("model.tree_info", len(group), len(trees))
    if ((group < 0) | (group >= n_groups)).any():
        tree = int(np.argmax((group < 0) | (group >= n_groups)))
        raise ModelFormatError(f"model.tree_info[{tree}]: must be below the number of groups, {n_groups}")
    return Trees(document, trees, n_groups).forest(
        group=group,
        weight=_tree_weights(document, gradient_booster, model, len(trees)),
        round_begin=_rounds(model, group),
    )


def _trees(model: dict[str, Any]) -> list[dict[str, Any]]:
    trees = member_of(model, "trees", "model")
    # An empty array may come as a typed one.
    if isinstance(trees, np.ndarray) and trees.size == 0:
        trees = []
    if not isinstance(trees, list):
        raise ModelFormatError(f"model.trees: expected an array, found {kind_of(trees)}")
    flat_model.check_limit("trees", len(trees), flat_model.MAX_TREES)
    parameters = object_in(model, "gbtree_model_param", "model")
    check_length("model.trees", len(trees), count_in(parameters, "num_trees", "gbtree_model_param"))
    for number, tree in enumerate(trees):
        if not isinstance(tree, dict):
            raise ModelFormatError(f"tree {number}: expected an object, found {kind_of(tree)}")
        if type(tree.get("id")) is not int or tree["id"] != number:
            raise ModelFormatError(f"tree {number}: id is not {number}; trees are missing or out of order")
    return trees


def _tree_weights(
    document: Document, gradient_booster: dict[str, Any], model: dict[str, Any], n_trees: int
) -> Floats | None:
    holders = [holder for holder in (gradient_booster, model) if "weight_drop" in holder]
    if not holders:
        return None
    if len(holders) > 1:
        raise ModelFormatError("gradient_booster: weight_drop appears twice, beside and in the model")
    weights = number_array_in(holders[0], "weight_drop", "gradient_booster", document)
    check_length("gradient_booster.weight_drop", len(weights), n_trees)
    return weights if n_trees else None


def _rounds(model: dict[str, Any], group: Integers) -> Integers:
    n_trees = len(group)
    if "iteration_indptr" in model:
        begin = integer_array_in(model, "iteration_indptr", "model")
        if len(begin) == 0 or begin[0] != 0 or begin[-1] != n_trees or (begin[1:] < begin[:-1]).any():
            raise ModelFormatError(f"model.iteration_indptr: must begin with 0, never fall and end with {n_trees}")
    else:
        begin = _rounds_before_2_0(model, group)
    flat_model.check_limit("boosting rounds", len(begin) - 1, flat_model.MAX_ROUNDS)
    return begin


def _rounds_before_2_0(model: dict[str, Any], group: Integers) -> Integers:
    """Cut the trees into rounds as XGBoost does with files that do not tell."""
    n_trees = len(group)
    if n_trees == 0:
        return np.zeros(1, np.int64)
    parameters = object_in(model, "gbtree_model_param", "model")
    trees_of_round = count_in(parameters, "num_parallel_tree", "gbtree_model_param", default=1) * (int(group.max()) + 1)
    if trees_of_round == 0 or n_trees % trees_of_round:
        raise ModelFormatError(f"model: {n_trees} trees are no whole number of rounds of {trees_of_round}")
    return np.arange(0, n_trees + 1, trees_of_round, dtype=np.int64)
