"""An independent, strict reader of the flat model (docs/formats.md, section 1) for the tests.

Shares no code with the package. Refuses with `ValueError` everything the enclave's parser refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

GBTREE, DART, GBLINEAR = 1, 2, 3

OBJECTIVES = [
    "reg:squarederror",
    "reg:squaredlogerror",
    "reg:pseudohubererror",
    "reg:absoluteerror",
    "reg:logistic",
    "binary:logistic",
    "binary:logitraw",
    "count:poisson",
    "reg:gamma",
    "reg:tweedie",
    "survival:cox",
    "survival:aft",
    "binary:hinge",
    "multi:softprob",
    "multi:softmax",
    "reg:quantileerror",
    "reg:expectileerror",
    "rank:pairwise",
    "rank:ndcg",
    "rank:map",
]

_HEADER = struct.Struct("<8sIIIIIIIIIIIIQ")


@dataclass
class Tree:
    """Nodes in breadth-first order; left is -1 at leaves, the right child follows the left one."""

    group: int
    weight: np.float32
    left: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    default_left: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float32]
    category_sets: dict[int, npt.NDArray[np.bool_]]
    leaf_vectors: dict[int, npt.NDArray[np.float32]]


@dataclass
class FlatModel:
    booster: int
    objective: str
    leaf_size: int
    n_features: int
    n_groups: int
    base_score: npt.NDArray[np.float32]
    round_begin: list[int]
    trees: list[Tree]
    weights: npt.NDArray[np.float32]


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)


class _Sections:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, _HEADER.size

    def take(self, dtype: str, count: int) -> npt.NDArray[Any]:
        end = self.position + 4 * count
        _require(end <= len(self.data), "sections beyond the end")
        array = np.frombuffer(self.data, dtype, count, self.position)
        self.position = end
        if dtype == "<f4":
            _require(np.isfinite(array).all(), "a float is not finite")
        return array


def read(data: bytes) -> FlatModel:
    """Read a flat model, or refuse it."""
    _require(type(data) is bytes and len(data) >= 64, "no header")
    magic, version, *counts, total_size = _HEADER.unpack_from(data)
    booster, objective, leaf_size, n_features, n_groups, n_rounds, n_trees, n_nodes = counts[:8]
    n_leaf_values, n_categorical, n_words = counts[8:]
    _require(magic == bytes.fromhex("434d4c464c415400") and version == 1, "magic, version")
    _require(booster in (GBTREE, DART, GBLINEAR), "booster")
    _require(1 <= objective <= len(OBJECTIVES), "objective")
    _require(1 <= n_features <= 2**22 and 1 <= n_groups <= 2**16, "features, groups")
    _require(n_rounds <= 2**20 and n_trees <= 2**20 and n_trees <= n_nodes <= 2**24, "rounds, trees, nodes")
    _require(total_size == len(data) <= 128 * 2**20, "total_size")
    sections = _Sections(data)
    base_score = sections.take("<f4", n_groups)
    _check_base_score(OBJECTIVES[objective - 1], base_score)
    trees: list[Tree] = []
    round_begin: list[int] = []
    weights: npt.NDArray[np.float32] = np.zeros((0, n_groups), np.float32)
    if booster == GBLINEAR:
        _require(leaf_size == n_trees == n_nodes == n_leaf_values == n_categorical == n_words == 0, "linear counts")
        weights = sections.take("<f4", (n_features + 1) * n_groups).reshape(-1, n_groups)
    else:
        _require(leaf_size == 1 or (leaf_size == n_groups > 1), "leaf_size")
        round_begin = sections.take("<u4", n_rounds + 1).tolist()
        _require(round_begin[0] == 0 and round_begin[-1] == n_trees and round_begin == sorted(round_begin), "rounds")
        trees = _read_trees(sections, booster, leaf_size, n_features, n_groups, *counts[6:])
    _require(sections.position == len(data), "bytes left over")
    return FlatModel(
        booster, OBJECTIVES[objective - 1], leaf_size, n_features, n_groups, base_score, round_begin, trees, weights
    )


def _check_base_score(objective: str, base_score: npt.NDArray[Any]) -> None:
    if objective in ("reg:logistic", "binary:logistic"):
        _require(((base_score >= 0) & (base_score <= 1)).all(), "base_score of logistic")
    if objective in ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"):
        _require((base_score >= 0).all(), "base_score of a log link")


def _read_trees(
    sections: _Sections,
    booster: int,
    leaf_size: int,
    n_features: int,
    n_groups: int,
    n_trees: int,
    n_nodes: int,
    n_leaf_values: int,
    n_categorical: int,
    n_words: int,
) -> list[Tree]:
    sizes = sections.take("<u4", n_trees).tolist()
    groups = sections.take("<u4", n_trees).tolist()
    tree_weights = sections.take("<f4", n_trees)
    words = sections.take("<u4", n_nodes)
    values = sections.take("<f4", n_nodes)
    leaf_values = sections.take("<f4", n_leaf_values)
    set_sizes = sections.take("<u4", n_categorical).tolist()
    category_words = sections.take("<u4", n_words)
    _require(sum(sizes) == n_nodes, "sum of tree sizes")
    _require(booster == DART or (tree_weights == 1).all(), "gbtree with weights")
    vectors = iter(leaf_values.reshape(-1, leaf_size) if leaf_size > 1 else leaf_values)
    sets = _read_sets(set_sizes, category_words)
    trees, begin = [], 0
    for size, group, weight in zip(sizes, groups, tree_weights, strict=True):
        _require(group < (n_groups if leaf_size == 1 else 1), "group")
        end = begin + size
        tree = _read_tree(words[begin:end].tolist(), values[begin:end], n_features, leaf_size, vectors, sets)
        tree.group, tree.weight = group, weight
        trees.append(tree)
        begin = end
    _require(next(vectors, None) is None and next(sets, None) is None, "leaf vectors or category sets left over")
    return trees


def _next(iterator: Iterator[npt.NDArray[Any]], what: str) -> npt.NDArray[Any]:
    array = next(iterator, None)
    if array is None:
        raise ValueError(what)
    return array


def _read_sets(set_sizes: list[int], category_words: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.bool_]]:
    begin = 0
    for size in set_sizes:
        _require(1 <= size <= 2**19 and begin + size <= len(category_words), "words of a set")
        words = category_words[begin : begin + size]
        _require(words[-1] != 0, "last word of a set is 0")
        yield np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)
        begin += size
    _require(begin == len(category_words), "sum of the words of sets")


def _read_tree(
    words: list[int],
    values: npt.NDArray[Any],
    n_features: int,
    leaf_size: int,
    vectors: Iterator[npt.NDArray[Any]],
    sets: Iterator[npt.NDArray[np.bool_]],
) -> Tree:
    size = len(words)
    _require(size % 2 == 1, "even number of nodes")
    left = np.full(size, -1)
    depth = np.zeros(size, np.int64)
    category_sets: dict[int, npt.NDArray[np.bool_]] = {}
    leaf_vectors: dict[int, npt.NDArray[np.float32]] = {}
    internal = 0
    for node, word in enumerate(words):
        is_zero = values[node].tobytes() == bytes(4)
        if word >> 31:
            _require(word == 1 << 31, "other bits set in a leaf")
            if leaf_size > 1:
                _require(is_zero, "value of a vector leaf")
                leaf_vectors[node] = _next(vectors, "a leaf has no vector")
            continue
        child = 2 * internal + 1
        _require(node < child and child + 1 < size, "not a breadth-first tree")
        left[node] = child
        depth[child : child + 2] = depth[node] + 1
        internal += 1
        _require(word & (2**29 - 1) < n_features, "feature")
        if word >> 30 & 1:
            _require(is_zero, "value of a categorical split")
            category_sets[node] = _next(sets, "a categorical split has no set")
    _require(size == 2 * internal + 1, "nodes left over")
    _require(depth.max() <= 4096, "depth")
    bits = np.array(words, np.int64)
    default_left = (bits >> 29 & 1).astype(np.bool_)
    return Tree(0, np.float32(1), left, bits & (2**29 - 1), default_left, values, category_sets, leaf_vectors)
