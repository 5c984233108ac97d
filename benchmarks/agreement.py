"""Whether two libraries predict the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def same_bits(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    """True for equal shape, type and bytes."""
    return values.shape == expected.shape and values.dtype == expected.dtype and values.tobytes() == expected.tobytes()


def largest_difference(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference, relative where the expected value is over 1; infinite for another shape."""
    if values.shape != expected.shape:
        return float("inf")
    difference = np.abs(values.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))
