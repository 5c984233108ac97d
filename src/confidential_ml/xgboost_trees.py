"""The trees of an XGBoost document, their fields put end to end for numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from confidential_ml import flat_model
from confidential_ml.document_limits import MAX_CATEGORIES
from confidential_ml.errors import ModelFormatError
from confidential_ml.flat_model import Forest
from confidential_ml.strict_json import ArrayLength
from confidential_ml.xgboost_document import (
    Document,
    Floats,
    Integers,
    check_length,
    count_in,
    flags,
    integers,
    numbers,
    object_in,
)

__all__ = ["STATISTICS", "Trees"]

# Pruned nodes stay in the file. Twice the enclave's limit leaves room for them and bounds the memory this takes.
_MAX_NODES_IN_FILE = 2 * flat_model.MAX_NODES
# Arrays that no prediction uses: their lengths are checked, their values not looked at.
STATISTICS = ("base_weights", "loss_changes", "sum_hessian", "parents")


class Trees:
    """The trees of a document, their fields put end to end."""

    def __init__(self, document: Document, trees: list[dict[str, Any]], n_groups: int) -> None:
        self._document = document
        self._trees = trees
        self._parameters = [object_in(tree, "tree_param", f"tree {number}") for number, tree in enumerate(trees)]
        self._sizes = self._counts("num_nodes")
        if (self._sizes < 1).any():
            raise ModelFormatError(f"tree {int(np.argmin(self._sizes))}: num_nodes is 0")
        flat_model.check_limit("nodes, deleted ones included", sum(self._sizes.tolist()), _MAX_NODES_IN_FILE)
        self._leaf_size = self._uniform_leaf_size(n_groups)

    def forest(self, *, group: Integers, weight: Floats | None, round_begin: Integers) -> Forest:
        """Read the nodes of all trees; what they say is checked when they are packed."""
        for name in STATISTICS:
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
            value=self._document.float32(self._concatenate("split_conditions", numbers, self._sizes)),
            default_left=self._concatenate("default_left", flags, self._sizes),
            categorical=split_type == 1,
            set_sizes=set_sizes,
            categories=categories,
            leaf_vectors=leaf_vectors,
            group=group,
            weight=weight,
            round_begin=round_begin,
        )

    def _counts(self, name: str, default: int | None = None) -> Integers:
        counts = (
            count_in(parameters, name, f"tree {tree}: tree_param", default)
            for tree, parameters in enumerate(self._parameters)
        )
        return np.fromiter(counts, np.int64, len(self._parameters))

    def _uniform_leaf_size(self, n_groups: int) -> int:
        sizes = np.maximum(self._counts("size_leaf_vector", default=1), 1)  # before 2.0, "0" stood for scalar leaves
        if (sizes == 1).all():
            return 1
        if (sizes != n_groups).any():
            raise ModelFormatError(
                f"tree {int(np.argmax(sizes != n_groups))}: size_leaf_vector must be the number of targets, "
                f"{n_groups}, in every tree that has vector leaves, and all trees must have them or none"
            )
        return n_groups

    def _deleted(self) -> Integers:
        # Before 1.6 the count was not always written; vector-leaf trees are never pruned.
        deleted = self._counts("num_deleted", default=0) if self._leaf_size > 1 else self._deleted_or_unknown()
        if self._leaf_size > 1 and (deleted != 0).any():
            raise ModelFormatError(f"tree {int(np.argmax(deleted != 0))}: deleted nodes in a tree with vector leaves")
        return deleted

    def _deleted_or_unknown(self) -> Integers:
        told = np.array(["num_deleted" in parameters for parameters in self._parameters], np.bool_)
        return np.where(told, self._counts("num_deleted", default=0), -1)

    def _nodes(self, name: str) -> Integers:
        return self._concatenate(name, integers, self._sizes)

    def _concatenate(self, name: str, convert: Any, lengths: Integers | None = None) -> npt.NDArray[Any]:
        parts = []
        for number, tree in enumerate(self._trees):
            try:
                if lengths is not None and isinstance(tree[name], (list, np.ndarray)):
                    # Before it is converted: it may be any number of bytes that become eight each.
                    check_length(f"tree {number}: {name}", len(tree[name]), int(lengths[number]))
                part = convert(tree[name])
            except KeyError:
                raise ModelFormatError(f"tree {number}: {name} is missing; the file is damaged") from None
            except (TypeError, OverflowError):
                kind = "numbers" if convert is numbers else "integers"
                raise ModelFormatError(f"tree {number}: {name} is not an array of {kind}") from None
            if lengths is not None:
                check_length(f"tree {number}: {name}", len(part), int(lengths[number]))
            parts.append(part)
        empty = np.zeros(0, np.float64 if convert is numbers else np.int64)
        return np.concatenate(parts) if parts else empty

    def _check_statistics(self, name: str) -> None:
        """Check the length only: what these say does not enter a prediction, and old files hold NaN in them."""
        width = self._leaf_size if name == "base_weights" else 1
        for number, tree in enumerate(self._trees):
            value = tree.get(name, ())
            if not isinstance(value, (list, np.ndarray, ArrayLength)):
                raise ModelFormatError(f"tree {number}: {name} is missing or no array; the file is damaged")
            length = value if isinstance(value, ArrayLength) else len(value)
            check_length(f"tree {number}: {name}", length, int(self._sizes[number]) * width)

    def _leaf_vectors(self) -> Floats:
        if not all("leaf_weights" in tree for tree in self._trees):
            raise ModelFormatError(
                "vector leaves (multi_output_tree) from before XGBoost 3.2, without leaf_weights, cannot be read, "
                "by current XGBoost neither; train the model again with XGBoost 3.2 or later"
            )
        lengths = (self._sizes + 1) // 2 * self._leaf_size
        values = self._document.float32(self._concatenate("leaf_weights", numbers, lengths))
        if not np.isfinite(values).all():
            first = int(np.argmin(np.isfinite(values)))
            tree = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
            raise ModelFormatError(f"tree {tree}: leaf_weights has an element that is not a finite float32")
        return values.reshape(-1, self._leaf_size)

    def _category_sets(self, split_type: Integers) -> tuple[Integers, Integers]:
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
        nodes = self._concatenate("categories_nodes", integers, marked)
        if (nodes + np.repeat(ends - self._sizes, marked) != np.flatnonzero(split_type)).any():
            raise ModelFormatError("categories_nodes does not list the nodes whose split_type is 1")
        sizes = self._concatenate("categories_sizes", integers, marked)
        segments = self._concatenate("categories_segments", integers, marked)
        self._check_category_count()
        categories = self._concatenate("categories", integers)
        self._check_segments(marked, sizes, segments)
        return sizes, categories

    def _check_category_count(self) -> None:
        count = sum(len(found) for tree in self._trees if hasattr(found := tree.get("categories", ()), "__len__"))
        if count > MAX_CATEGORIES:
            raise ModelFormatError(f"categories: {count} in all sets together, more than the limit of {MAX_CATEGORIES}")

    def _check_segments(self, marked: Integers, sizes: Integers, segments: Integers) -> None:
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
            raise ModelFormatError(
                f"tree {tree}: categories_segments and categories_sizes do not describe its categories"
            )
