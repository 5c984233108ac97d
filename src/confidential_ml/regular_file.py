"""Files that a caller names: what may be a path, reading that neither waits nor exceeds a limit, replacing."""

from __future__ import annotations

import errno
import io
import os
import stat

from confidential_ml.errors import InvalidInputError

__all__ = ["NotRegularFileError", "TooLargeError", "checked_path", "open_regular", "read_limited", "replaceable"]

_SMALLEST_READ = 1 << 16
# What Linux allows a path and a name in it.
_LONGEST_PATH, _LONGEST_NAME = 4095, 255


class NotRegularFileError(OSError):
    """The path names a pipe, a socket or a device."""


class TooLargeError(Exception):
    """The file is larger than the limit."""


def checked_path(path: object, argument: str) -> str:
    """Return a path as text that can be handed to the operating system.

    Parameters
    ----------
    path
        Text, bytes, or an object with ``__fspath__``.
    argument
        What errors call it.

    Raises
    ------
    InvalidInputError
        For another type, and for a path no file can have: empty, with a null character or a lone surrogate, or too
        long. So the text of a model that is taken for a path is never shown in an error about that path.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InvalidInputError(f"{argument} must be a path (str, bytes or os.PathLike), not {type(path).__name__}")
    try:
        text = os.fsdecode(path)
        os.fsencode(text)
    except (TypeError, UnicodeError):
        raise InvalidInputError(f"{argument} cannot be the path of a file: it is not text in its encoding") from None
    if not text:
        raise InvalidInputError(f"{argument} is empty; give the path of a file")
    if "\0" in text:
        raise InvalidInputError(f"{argument} cannot be the path of a file: it holds a null character")
    encoded = os.fsencode(text)
    too_long = len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_NAME
    if too_long or (text.lstrip()[:1] == "{" and '"' in text):
        raise InvalidInputError(
            f"{argument} cannot be the path of a file: it has {len(text)} characters"
            + ("" if too_long else " and looks like JSON")
            + "; pass a model itself as bytes"
        )
    return text


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a regular file for reading.

    Raises
    ------
    NotRegularFileError
        If it is none.
    OSError
        If it cannot be opened.
    """
    file = io.FileIO(path, "rb", opener=_open_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegularFileError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a pipe waits for its writer, and a terminal could become that of the process. Not every system has these.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def read_limited(file: io.FileIO, limit: int) -> bytes:
    """Read to the end of a file.

    Raises
    ------
    TooLargeError
        If there are more than `limit` bytes; found out before reading, where the file tells its size.
    OSError
        If it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise TooLargeError
    parts, total = [], 0
    # On past the size told: the file may grow, and those of /proc tell none.
    while part := file.read(min(max(size - total, _SMALLEST_READ), limit + 1 - total)):
        parts.append(part)
        total += len(part)
        if total > limit:
            raise TooLargeError
    return parts[0] if len(parts) == 1 else b"".join(parts)


def replaceable(path: str) -> str:
    """The path to replace a file at: of a symbolic link, where it leads, so that it stays one."""
    return os.path.realpath(path) if os.path.islink(path) else path
