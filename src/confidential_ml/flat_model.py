"""The flat model: limits, codes, and the way from arrays of tree nodes to canonical bytes.

docs/formats.md, section 1, is the specification. Errors name trees and nodes by their numbers in the source file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from confidential_ml.errors import ModelFormatError

__all__ = [
    "BOOSTER_NAMES",
    "DELETED",
    "GBLINEAR",
    "HEADER_SIZE",
    "MAGIC",
    "MAX_CATEGORY",
    "MAX_DEPTH",
    "MAX_FEATURES",
    "MAX_GROUPS",
    "MAX_NODES",
    "MAX_ROUNDS",
    "MAX_SIZE",
    "MAX_TREES",
    "OBJECTIVES",
    "OBJECTIVE_NAMES",
    "VERSION",
    "Forest",
    "check_limit",
    "pack_forest",
    "pack_linear",
]

MAGIC = b"CMLFLAT\0"
VERSION = 1
HEADER_SIZE = 64

GBTREE, DART, GBLINEAR = 1, 2, 3
BOOSTER_NAMES = {GBTREE: "gbtree", DART: "dart", GBLINEAR: "gblinear"}
"""XGBoost's name of each booster code."""

OBJECTIVES = {
    "reg:squarederror": 1,
    "reg:linear": 1,
    "reg:squaredlogerror": 2,
    "reg:pseudohubererror": 3,
    "reg:absoluteerror": 4,
    "reg:logistic": 5,
    "binary:logistic": 6,
    "binary:logitraw": 7,
    "count:poisson": 8,
    "reg:gamma": 9,
    "reg:tweedie": 10,
    "survival:cox": 11,
    "survival:aft": 12,
    "binary:hinge": 13,
    "multi:softprob": 14,
    "multi:softmax": 15,
    "reg:quantileerror": 16,
    "reg:expectileerror": 17,
    "rank:pairwise": 18,
    "rank:ndcg": 19,
    "rank:map": 20,
}
"""Code of each objective by XGBoost's name."""

OBJECTIVE_NAMES = {code: name for name, code in OBJECTIVES.items() if name != "reg:linear"}
"""XGBoost's present name of each objective code."""

MAX_FEATURES = 1 << 22
MAX_GROUPS = 1 << 16
MAX_ROUNDS = 1 << 20
MAX_TREES = 1 << 20
MAX_NODES = 1 << 24
MAX_DEPTH = 4096
MAX_CATEGORY = (1 << 24) - 1
MAX_SIZE = 128 << 20

DELETED = 2147483647
"""Split index by which XGBoost marks a node that pruning took out of its tree."""

_LEAF_BIT = np.uint32(1 << 31)
_CATEGORICAL_BIT = np.uint32(1 << 30)
_DEFAULT_LEFT_SHIFT = np.uint32(29)
_WORD_BITS = 32

_Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint32]
_Floats = npt.NDArray[np.float32]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forest:
    """All trees of a model as a file describes them, the nodes of one tree after those of the other.

    Node numbers, here and in a file, count from 0 within their tree. Nothing about the nodes has been checked yet,
    except that the arrays fit together.

    Attributes
    ----------
    sizes
        Nodes of each tree, deleted ones included; at least 1.
    deleted
        Deleted nodes of each tree, or -1 if the file does not tell.
    left, right
        Children of each node; a node without a left child (-1) is a leaf. In a tree with vector leaves `right` of a
        leaf is the number of its vector.
    feature
        Feature each node splits on, or `DELETED`.
    value
        Threshold of a split, value of a leaf; meaningless for categorical splits and vector leaves.
    default_left
        0 or 1: whether a missing value goes left.
    categorical
        Whether the split asks for a category; meaningless for leaves.
    set_sizes, categories
        Count and numbers of the categories that go right, for each categorical node (leaves included) in order.
    leaf_vectors
        One row for each leaf, tree after tree, or None if leaves hold one value.
    group, weight
        Of each tree. `weight` is None if no tree has one.
    round_begin
        First tree of each boosting round, and the number of trees.
    """

    sizes: _Integers
    deleted: _Integers
    left: _Integers
    right: _Integers
    feature: _Integers
    value: _Floats
    default_left: _Integers
    categorical: _Flags
    set_sizes: _Integers
    categories: _Integers
    leaf_vectors: _Floats | None
    group: _Integers
    weight: _Floats | None
    round_begin: _Integers

    @property
    def starts(self) -> _Integers:
        """Where the nodes of each tree begin."""
        return np.cumsum(self.sizes) - self.sizes

    def refuse(self, nodes: _Flags, problem: str) -> None:
        """Raise, naming the first of `nodes`, if there is one."""
        if nodes.any():
            self.refuse_node(int(np.argmax(nodes)), problem)

    def refuse_node(self, node: int, problem: str) -> NoReturn:
        """Raise, naming the node."""
        tree = int(np.searchsorted(self.starts, node, side="right")) - 1
        raise ModelFormatError(f"tree {tree}, node {node - int(self.starts[tree])}: {problem}")


def check_limit(what: str, count: int, limit: int) -> None:
    """Refuse a model that has more of something than the enclave takes.

    Parameters
    ----------
    what
        What was counted, in the plural.
    count
        How many there are.
    limit
        How many there may be.

    Raises
    ------
    ModelFormatError
        There are too many.
    """
    if count > limit:
        raise ModelFormatError(f"the model has {count} {what}; the limit is {limit}. Train a smaller model.")


def pack_linear(objective: int, base_score: _Floats, n_features: int, n_rounds: int, weights: _Floats) -> bytes:
    """Write the flat form of a linear model.

    Parameters
    ----------
    objective
        A code of `OBJECTIVES`.
    base_score
        One value for each group.
    n_features, n_rounds
        As in the file.
    weights
        One for each feature and group, then the biases.

    Returns
    -------
    bytes

    Raises
    ------
    ModelFormatError
        The model is over a limit.
    """
    counts = [GBLINEAR, objective, 0, n_features, len(base_score), n_rounds, 0, 0, 0, 0, 0]
    return _assemble(counts, [base_score, weights])


def pack_forest(objective: int, base_score: _Floats, n_features: int, forest: Forest) -> bytes:
    """Check the trees and write their flat form.

    Parameters
    ----------
    objective
        A code of `OBJECTIVES`.
    base_score
        One value for each group.
    n_features
        As in the file.
    forest
        The trees.

    Returns
    -------
    bytes

    Raises
    ------
    ModelFormatError
        The nodes of a tree do not make a tree, a node cannot be evaluated, or the model is over a limit.
    """
    _check_children(forest)
    order, tree_sizes = _breadth_first(forest)
    _check_deleted(forest, order, tree_sizes)
    check_limit("nodes", len(order), MAX_NODES)
    _check_nodes(forest, order, n_features)

    leaf = forest.left[order] < 0
    categorical = forest.categorical[order] & ~leaf
    default_left = forest.default_left[order].astype(np.uint32)
    words = np.where(leaf, _LEAF_BIT, forest.feature[order].astype(np.uint32) | (default_left << _DEFAULT_LEFT_SHIFT))
    words |= np.where(categorical, _CATEGORICAL_BIT, np.uint32(0))

    without_value = categorical if forest.leaf_vectors is None else categorical | leaf
    values = np.where(without_value, np.float32(0), forest.value[order])
    vectors = _leaf_vectors(forest, order[leaf], tree_sizes)
    set_words, category_words = _category_sets(forest, order[categorical])

    n_trees = len(tree_sizes)
    weight = np.ones(n_trees, np.float32) if forest.weight is None else forest.weight
    counts = [
        GBTREE if forest.weight is None else DART,
        objective,
        1 if forest.leaf_vectors is None else forest.leaf_vectors.shape[1],
        n_features,
        len(base_score),
        len(forest.round_begin) - 1,
        n_trees,
        len(order),
        vectors.size,
        len(set_words),
        len(category_words),
    ]
    trees: list[npt.NDArray[Any]] = [forest.round_begin, tree_sizes, forest.group, weight]
    return _assemble(counts, [base_score, *trees, words, values, vectors, set_words, category_words])


def _assemble(counts: list[int], sections: list[npt.NDArray[Any]]) -> bytes:
    size = HEADER_SIZE + 4 * sum(section.size for section in sections)
    check_limit("bytes in its flat form", size, MAX_SIZE)
    header = struct.pack("<8s12IQ", MAGIC, VERSION, *counts, size)
    bodies = [section.astype("<f4" if section.dtype.kind == "f" else "<u4", copy=False) for section in sections]
    return b"".join([header, *(body.tobytes() for body in bodies)])


def _check_children(forest: Forest) -> None:
    """Every child is a node of its tree, has one parent, and is no root: what hangs together is then a tree."""
    size_of_tree = np.repeat(forest.sizes, forest.sizes)
    internal = forest.left != -1
    left, right = forest.left, forest.right
    forest.refuse((left < -1) | (left >= size_of_tree), "left child out of range")
    forest.refuse(internal & ((right < 0) | (right >= size_of_tree)), "right child out of range")
    # XGBoost's predictor goes to left + 1 whatever right_children says; a file where they differ has two meanings.
    forest.refuse(internal & (right != left + 1), "right child does not follow the left child as XGBoost writes it")
    if forest.leaf_vectors is None:
        forest.refuse(~internal & (right != -1), "has a right child but no left child")
    start_of_tree = np.repeat(forest.starts, forest.sizes)
    children = (left + start_of_tree)[internal]
    parents = np.bincount(np.concatenate([children, children + 1]), minlength=len(left))
    forest.refuse(parents > 1, "has more than one parent")
    is_root = np.zeros(len(left), np.bool_)
    is_root[forest.starts] = True
    forest.refuse(is_root & (parents > 0), "the root is the child of a node")


def _breadth_first(forest: Forest) -> tuple[_Integers, _Integers]:
    """Return the nodes that hang on the roots, tree after tree and each breadth-first, and their count per tree."""
    left = np.where(forest.left < 0, -1, forest.left + np.repeat(forest.starts, forest.sizes))
    level = forest.starts
    trees = np.arange(len(forest.sizes), dtype=np.int64)
    levels, trees_of_levels = [level], [trees]
    # One step for a level of all trees at once; within a level the trees stay in order.
    for _ in range(MAX_DEPTH + 1):
        children = left[level]
        internal = children >= 0
        if not internal.any():
            break
        level = np.repeat(children[internal], 2)
        level[1::2] += 1
        trees = np.repeat(trees[internal], 2)
        levels.append(level)
        trees_of_levels.append(trees)
    else:
        raise ModelFormatError(f"tree {int(trees[0])}: deeper than the limit of {MAX_DEPTH} levels. Set max_depth.")
    tree = np.concatenate(trees_of_levels)
    order = np.concatenate(levels)[np.argsort(tree, kind="stable")]
    return order, np.bincount(tree, minlength=len(forest.sizes)).astype(np.int64)


def _check_deleted(forest: Forest, order: _Integers, tree_sizes: _Integers) -> None:
    unused = np.ones(len(forest.left), np.bool_)
    unused[order] = False
    deleted = forest.feature == DELETED
    forest.refuse(unused & ~deleted, "cannot be reached from the root and is not deleted")
    forest.refuse(deleted & ~unused, "is deleted but still part of the tree")
    differing = (forest.deleted >= 0) & (forest.deleted != forest.sizes - tree_sizes)
    if differing.any():
        raise ModelFormatError(f"tree {int(np.argmax(differing))}: num_deleted is not the number of deleted nodes")


def _check_nodes(forest: Forest, order: _Integers, n_features: int) -> None:
    """Check what the nodes in use say; deleted nodes may hold anything."""
    used = np.zeros(len(forest.left), np.bool_)
    used[order] = True
    internal = used & (forest.left >= 0)
    numeric = internal & ~forest.categorical
    out_of_range = (forest.feature < 0) | (forest.feature >= n_features)
    forest.refuse(internal & out_of_range, f"splits on a feature that is not below num_feature ({n_features})")
    not_a_flag = (forest.default_left < 0) | (forest.default_left > 1)
    forest.refuse(internal & not_a_flag, "default_left is neither 0 nor 1")
    not_finite = ~np.isfinite(forest.value)
    forest.refuse(numeric & not_finite, "the threshold (split_conditions) is not a finite float32")
    if forest.leaf_vectors is None:
        leaf = used & (forest.left < 0)
        forest.refuse(leaf & not_finite, "the leaf value (split_conditions) is not a finite float32")


def _leaf_vectors(forest: Forest, leaves: _Integers, tree_sizes: _Integers) -> _Floats:
    """Bring the leaf vectors into the order of the leaves."""
    if forest.leaf_vectors is None:
        return np.zeros(0, np.float32)
    leaves_of_tree = (tree_sizes + 1) // 2
    number = forest.right[leaves]
    bad = np.flatnonzero((number < 0) | (number >= np.repeat(leaves_of_tree, leaves_of_tree)))
    if len(bad):
        forest.refuse_node(int(leaves[bad[0]]), "the number of its leaf vector (right_children) is out of range")
    number = number + np.repeat(np.cumsum(leaves_of_tree) - leaves_of_tree, leaves_of_tree)
    shared = np.flatnonzero(np.bincount(number, minlength=len(leaves))[number] > 1)
    if len(shared):
        forest.refuse_node(int(leaves[shared[0]]), "shares its leaf vector (right_children) with another leaf")
    return forest.leaf_vectors[number]


def _category_sets(forest: Forest, splits: _Integers) -> tuple[_Words, _Words]:
    """Return the words of each split's set, and all sets one after the other as bits."""
    if len(splits) == 0:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    set_of_node = np.cumsum(forest.categorical) - 1
    sets = set_of_node[splits]
    sizes = forest.set_sizes[sets]
    begins = (np.cumsum(forest.set_sizes) - forest.set_sizes)[sets]
    set_begins = np.cumsum(sizes) - sizes
    categories = forest.categories[np.repeat(begins - set_begins, sizes) + np.arange(int(sizes.sum()))]
    outside = np.flatnonzero((categories < 0) | (categories > MAX_CATEGORY))
    if len(outside):
        split = int(np.searchsorted(set_begins, outside[0], side="right")) - 1
        forest.refuse_node(int(splits[split]), f"a category is not within 0 to {MAX_CATEGORY}")
    set_words = np.maximum.reduceat(categories, set_begins) // _WORD_BITS + 1
    # A few bytes of category can ask for 2 MiB of bits, so the sum is checked before the bits are made.
    check_limit("words of category sets", int(set_words.sum()), MAX_SIZE // 4)
    words = np.zeros(int(set_words.sum()), np.uint32)
    position = np.repeat(np.cumsum(set_words) - set_words, sizes) + categories // _WORD_BITS
    np.bitwise_or.at(words, position, np.uint32(1) << (categories % _WORD_BITS).astype(np.uint32))
    return set_words.astype(np.uint32), words
