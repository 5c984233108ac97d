"""Arguments that calls on a local and on a remote enclave share, and the shape both give their predictions."""

from __future__ import annotations

import operator
import re
from typing import Any

import numpy as np

from confidential_ml.errors import InvalidInputError
from confidential_ml.rows import FloatArray
from confidential_ml.sealed_file import POLICIES

__all__ = [
    "checked_digest",
    "checked_flag",
    "checked_model_id",
    "checked_policy",
    "checked_round_range",
    "checked_version",
    "shaped_like_xgboost",
]

_MAX_ROUND = (1 << 32) - 1
_MAX_VERSION = (1 << 64) - 1
_DIGEST = re.compile("[0-9a-fA-F]{64}")
_MODEL_ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_flag(value: object, name: str) -> bool:
    """Return True or False, or raise :class:`InvalidInputError`."""
    if isinstance(value, bool):
        return value
    # 0 and 1 too, which callers of XGBoost pass; an array would be true or false by chance.
    if isinstance(value, np.bool_) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise InvalidInputError(f"{name} must be True or False, not {type(value).__name__}")


def checked_digest(digest: object, name: str) -> str:
    """Return 64 hexadecimal digits in lower case, or raise :class:`InvalidInputError`."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidInputError(f"{name} must be 32 bytes in hexadecimal: 64 digits")
    return digest.lower()


def checked_policy(policy: object) -> int:
    """Return the number of a sealing policy, or raise :class:`InvalidInputError`."""
    if isinstance(policy, str) and policy in POLICIES:
        return POLICIES[policy]
    is_showable = isinstance(policy, str) and policy.isalnum() and len(policy) <= 32
    shown = repr(policy) if is_showable else type(policy).__name__
    raise InvalidInputError(f"policy must be 'mrenclave' or 'mrsigner', not {shown}")


def checked_model_id(model_id: object) -> bytes:
    """Return a model id as ASCII, or raise :class:`InvalidInputError`."""
    if not isinstance(model_id, str):
        raise InvalidInputError(f"model_id must be text, not {type(model_id).__name__}")
    if not _MODEL_ID.fullmatch(model_id):
        raise InvalidInputError(
            "a model id has 1 to 64 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit"
        )
    return model_id.encode("ascii")


def checked_version(version: object, name: str = "version") -> int:
    """Return a model version, 0 to 2^64 - 1, or raise :class:`InvalidInputError`."""
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)):
        raise InvalidInputError(f"{name} must be an integer, not {type(version).__name__}")
    if not 0 <= version <= _MAX_VERSION:
        raise InvalidInputError(f"{name} must be a whole number from 0 to {_MAX_VERSION}")
    return int(version)


def checked_round_range(iteration_range: object) -> tuple[int, int]:
    """Return boosting rounds (begin, end), each within 32 bits; None means all, (0, 0).

    Raises
    ------
    InvalidInputError
        If it is no pair of such integers. Whether the model has these rounds is for others to say.
    """
    if iteration_range is None:
        return 0, 0
    bounds: Any = iteration_range
    try:
        first, last = bounds
        begin, end = operator.index(first), operator.index(last)
    except (TypeError, ValueError):
        raise InvalidInputError("iteration_range must be a pair of integers (begin, end)") from None
    if begin < 0 or end < 0 or begin > _MAX_ROUND or end > _MAX_ROUND:
        raise InvalidInputError(
            f"iteration_range is ({shown(begin)}, {shown(end)}); both must be from 0 to {_MAX_ROUND}"
        )
    return begin, end


def shown(number: int) -> str:
    """A number for an error; Python does not write those of thousands of digits."""
    return str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"


def shaped_like_xgboost(predictions: FloatArray, *, strict_shape: bool) -> FloatArray:
    """Give predictions of shape (rows, columns) the shape that ``Booster.predict`` returns."""
    n_rows, columns = predictions.shape
    if n_rows == 0:
        return np.empty((0, 0), dtype=np.float32)
    return predictions if strict_shape or columns > 1 else predictions.reshape(-1)
