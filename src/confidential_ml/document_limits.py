"""How much an XGBoost document may hold: what takes few bytes in a file takes many in memory."""

from __future__ import annotations

from confidential_ml.errors import ModelFormatError
from confidential_ml.flat_model import MAX_FEATURES, MAX_TREES

__all__ = ["MAX_CATEGORIES", "MAX_CONTAINERS", "MAX_STRINGS", "check_counts"]

MAX_CONTAINERS = 24 * MAX_TREES
"""Objects and arrays; XGBoost writes 17 for a tree."""

MAX_STRINGS = 32 * MAX_TREES + 4 * MAX_FEATURES
"""Keys included; XGBoost writes 26 for a tree, and two for each feature that has a name."""


MAX_CATEGORIES = 1 << 27
"""Members of all sets of categories together: a byte each in a file, some fifty while they become bits."""


def check_counts(kind: str, containers: int, strings: int) -> None:
    """Refuse a document with more than the limits."""
    if containers > MAX_CONTAINERS:
        raise ModelFormatError(f"{kind}: more objects and arrays than the limit of {MAX_CONTAINERS}; this is no model")
    if strings > MAX_STRINGS:
        raise ModelFormatError(f"{kind}: more strings than the limit of {MAX_STRINGS}; this is no model")
