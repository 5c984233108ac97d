"""Reading and replacing the small text files of a relying party: collateral and policies."""

from __future__ import annotations

import os
from pathlib import Path

from confidential_ml.errors import InvalidInputError
from confidential_ml.regular_file import TooLargeError, checked_path, open_regular, read_limited, replaceable
from confidential_ml.replacement import replacing

__all__ = ["StrPath", "read_small", "replace_small"]

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def read_small(path: StrPath, limit: int) -> tuple[str, bytes]:
    """Path, as errors call it, and content of a file.

    Raises
    ------
    InvalidInputError
        If it cannot be read, or has more than `limit` bytes.
    """
    where = checked_path(path, "path")
    try:
        with open_regular(where) as file:
            return where, read_limited(file, limit)
    except OSError as error:
        raise InvalidInputError(f"{where} cannot be read: {error.strerror or error}; check the path") from error
    except TooLargeError:
        raise InvalidInputError(f"{where} has more than {limit} bytes; it is another kind of file") from None


def replace_small(path: StrPath, content: bytes) -> None:
    """Replace a file at one stroke, so that who reads it meanwhile finds the old content or the new.

    Raises
    ------
    InvalidInputError
        If it cannot be written.
    """
    target = Path(replaceable(checked_path(path, "path")))
    if os.path.lexists(target) and not os.path.isfile(target):
        raise InvalidInputError(f"{target} cannot be written: it is no regular file; give the path of one")
    try:
        with replacing(target, mode=0o666) as file:
            file.write(content)
    except OSError as error:
        raise InvalidInputError(f"{target} cannot be written: {error.strerror or error}; check the path") from error
