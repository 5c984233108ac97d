"""Files that take the place of others at one stroke, and what writers that were killed have left over."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = ["replacing"]

_TEMPORARY = re.compile(r"\.confidential_ml-[0-9a-f]{16}\.tmp")


@contextlib.contextmanager
def replacing(target: Path, *, mode: int) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `target` at the end of ``with``; if that raises, all stays as it was.

    It is written beside the target, on the disk before it is renamed, and locked all the while: a file with such a
    name that nobody holds was left over by a writer that was killed, and is removed first. Where there are no such
    locks (Windows, some network file systems) nothing is removed.

    Parameters
    ----------
    target
        A file, which need not exist.
    mode
        Permissions of the new file, less those of the umask.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    _remove_dead(target.parent)
    # Short, as the target's own name may be as long as names can be; and known before there is a file to remove.
    temporary = target.parent / f".confidential_ml-{secrets.token_hex(8)}.tmp"
    try:
        with _opened(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":
                os.replace(temporary, target)  # while it is locked, or it could be taken for dead
        if sys.platform == "win32":
            os.replace(temporary, target)  # which cannot rename what is open
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (temporary, os.fspath(temporary)):
            error.filename = os.fspath(target)  # the name that somebody has given
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _opened(path: Path, mode: int) -> Iterator[IO[bytes]]:
    while True:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if _is_held(file, path):
                yield file
                return


def _is_held(file: IO[bytes], path: Path) -> bool:
    """Lock a new file; False if somebody has removed it before that, taking it for dead."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # without locks nobody removes anything either
            fcntl.flock(file, fcntl.LOCK_EX)
    return os.path.exists(path)


def _remove_dead(directory: Path) -> None:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for name in [entry.name for entry in entries]:
            if _TEMPORARY.fullmatch(name):
                _remove_if_dead(os.path.join(directory, name))


def _remove_if_dead(path: str) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(file)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError if its writer lives
                # Another may have removed it before the lock, and its writer made a new one of this name.
                same = os.path.samestat(found, os.stat(path, follow_symlinks=False))
                if same and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    os.unlink(path)
            finally:
                os.close(file)
