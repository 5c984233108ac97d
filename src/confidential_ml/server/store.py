"""The model store: a directory of sealed models with ids and versions that outlives crashes (docs/http.md 2.3).

A model is acknowledged only when its file has its final name and file and directory are on the disk. Until then it has
a temporary name, which the next start removes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from confidential_ml.errors import ConfidentialMLError, InvalidInputError, ModelRefusedError, SealError
from confidential_ml.sealed_file import SealedInfo, inspect_sealed

__all__ = ["MAX_MODELS", "ModelStore", "RefusalCode", "StagedModel", "StoreRefusalError", "StoredModel"]

MAX_MODELS = 256
"""What an enclave holds (common/limits.h, kMaxLoadedModels)."""

_MAX_VERSION = (1 << 64) - 1
_SUFFIX = ".sealed"
_PROVISIONED_SUFFIX = ".provisioned.sealed"
_LOCK_NAME = ".lock"
_STAGED_PREFIX = ".staged-"
# Ours, and those of sealed_file.write_sealed, which writes to a staged name.
_LEFTOVER = re.compile(r"\.(?:staged-[0-9a-f]{16}\.sealed|confidential_ml-[0-9a-f]{16}\.tmp)")
_OWN_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})@(0|[1-9][0-9]{0,19})(?:\.provisioned)?\.sealed")
_logger = logging.getLogger("confidential_ml")

RefusalCode = Literal["version_exists", "other_owner", "store_full"]


class StoreRefusalError(ModelRefusedError):
    """A model that the store does not take.

    Attributes
    ----------
    code
        Which rule of docs/http.md 2.3 forbids it, as in docs/http.md 6.
    """

    def __init__(self, code: RefusalCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class StoredModel:
    """A sealed model in the store.

    Attributes
    ----------
    path
        Its file.
    info
        Its header, which proves nothing until an enclave has opened it.
    is_provisioned
        Whether a client provisioned it; those are limited apart.
    """

    path: Path
    info: SealedInfo
    is_provisioned: bool

    @property
    def key(self) -> tuple[str, int]:
        """Id and version."""
        return self.info.model_id, self.info.model_version


@dataclass(frozen=True)
class StagedModel:
    """A place for a sealed model that is not in the store yet: write it to `path`, then commit or discard it."""

    path: Path
    is_provisioned: bool


class ModelStore:
    """A directory of sealed models. Safe to use from any number of threads; one process at a time has it.

    Every file whose name ends with ``.sealed`` is read at start, whatever else it is called. Damaged ones, second ones
    of the same id and version, and those of an id that belongs to another owner are reported and left alone.

    Parameters
    ----------
    directory
        Made, readable by this user alone, if it is not there.
    max_models
        The most models it takes.
    max_provisioned
        The most of these that clients may have provisioned.

    Raises
    ------
    SealError
        If the directory cannot be made, read or written, or another process has it.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, max_models: int = MAX_MODELS, max_provisioned: int
    ) -> None:
        self._directory = Path(directory)
        self._max_models = max_models
        self._max_provisioned = max_provisioned
        self._mutex = threading.RLock()
        self._models: dict[tuple[str, int], StoredModel] = {}
        # Ids and versions whose file names are taken by files that are no models: these are never replaced.
        self._blocked: set[tuple[str, int]] = set()
        try:
            self._lock: int | None = None
            if not self._directory.is_dir():
                self._directory.mkdir(mode=0o700)
                _sync(self._directory.absolute().parent)
            self._lock = _locked(self._directory / _LOCK_NAME)
        except OSError as error:
            raise _unusable(self._directory, error) from error
        try:
            self._remove_leftovers()
            self._read()
        except OSError as error:
            self.close()
            raise _unusable(self._directory, error) from error

    # ---- what is there ----------------------------------------------------------------------------------------------

    def models(self) -> list[StoredModel]:
        """Every model, by id, then version."""
        with self._mutex:
            return [self._models[key] for key in sorted(self._models)]

    def next_version(self, model_id: str) -> int:
        """The version after the highest of that id; 1 for the first.

        Raises
        ------
        StoreRefusalError
            If there is none after it.
        """
        with self._mutex:
            highest = max((version for name, version in [*self._models, *self._blocked] if name == model_id), default=0)
        if highest == _MAX_VERSION:
            raise StoreRefusalError(
                "version_exists", f"{model_id} has the highest version there is; name one that is free"
            )
        return highest + 1

    # ---- changes ----------------------------------------------------------------------------------------------------

    def stage(self, *, is_provisioned: bool = False) -> StagedModel:
        """A new name in the directory for a sealed model that is about to be written."""
        return StagedModel(self._directory / f"{_STAGED_PREFIX}{secrets.token_hex(8)}{_SUFFIX}", is_provisioned)

    def check(self, model_id: str, version: int, owner: str | None, *, is_provisioned: bool = False) -> None:
        """Raise `StoreRefusalError` if :meth:`commit` would for such a model."""
        with self._mutex:
            if (model_id, version) in self._models or (model_id, version) in self._blocked:
                raise StoreRefusalError(
                    "version_exists", f"{model_id} has a version {version} already; name one that is free"
                )
            owners = {model.info.owner for (name, _), model in self._models.items() if name == model_id}
            if owners - {owner}:
                raise StoreRefusalError(
                    "other_owner", f"{model_id} belongs to another owner, or to nobody; use an id of your own"
                )
            self.check_room(is_provisioned=is_provisioned)

    def check_room(self, *, is_provisioned: bool = False) -> None:
        """Raise `StoreRefusalError` if there is no room for another model, whatever it is."""
        with self._mutex:
            provisioned = sum(model.is_provisioned for model in self._models.values())
            if len(self._models) >= self._max_models or (is_provisioned and provisioned >= self._max_provisioned):
                raise StoreRefusalError("store_full", "the store has no room for another model; delete one before")

    def commit(self, staged: StagedModel) -> StoredModel:
        """Take a model that was written to ``staged.path`` and synced; it is there for good when this returns.

        Raises
        ------
        StoreRefusalError
            If its version exists, its id is another owner's or the store is full. The staged file is gone then.
        SealError
            If it is no sealed model, or the disk fails.
        """
        try:
            info = inspect_sealed(staged.path)
            with self._mutex:
                self._check_directory()
                self.check(info.model_id, info.model_version, info.owner, is_provisioned=staged.is_provisioned)
                suffix = _PROVISIONED_SUFFIX if staged.is_provisioned else _SUFFIX
                path = self._directory / f"{info.model_id}@{info.model_version}{suffix}"
                if os.path.lexists(path):
                    raise StoreRefusalError("version_exists", f"a file of another's has the place of {path.name}")
                model = StoredModel(path, info, staged.is_provisioned)
                os.rename(staged.path, path)
                try:
                    _sync(self._directory)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                    raise
                self._models[model.key] = model
                return model
        except OSError as error:
            raise _unusable(self._directory, error) from error
        finally:
            self.discard(staged)

    def discard(self, staged: StagedModel) -> None:
        """Remove what was written to ``staged.path``, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(staged.path)

    def remove(self, models: Iterable[StoredModel]) -> None:
        """Delete models; they are gone for good when this returns.

        Raises
        ------
        SealError
            If the disk fails.
        """
        with self._mutex:
            try:
                self._check_directory()
                for model in models:
                    if self._models.get(model.key) is model:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(model.path)
                        del self._models[model.key]
                _sync(self._directory)
            except OSError as error:
                raise _unusable(self._directory, error) from error

    def leave_out(self, model: StoredModel, reason: str) -> None:
        """Report a model that the enclave does not open, and forget it; its file and its name stay as they are."""
        with self._mutex:
            del self._models[model.key]
            self._skip(model.path, reason)

    def close(self) -> None:
        """Let others have the directory. Does nothing the second time."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- the directory ----------------------------------------------------------------------------------------------

    def _check_directory(self) -> None:
        """Raise `SealError` if the path leads elsewhere by now: what is kept or deleted there would not stay so."""
        if self._lock is not None and not os.path.samestat(os.fstat(self._lock), os.stat(self._directory / _LOCK_NAME)):
            raise SealError(
                f"the model store {self._directory} is no longer the directory that this server started with; "
                "put that back, or restart the server"
            )

    def _remove_leftovers(self) -> None:
        for path in list(self._directory.iterdir()):
            if _LEFTOVER.fullmatch(path.name):
                path.unlink()
                _logger.info("removed %s, left over when the server was last ended", path.name)

    def _read(self) -> None:
        found = []
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            if path.name.startswith("."):
                continue
            try:
                info = inspect_sealed(path)
            except ConfidentialMLError as error:
                self._skip(path, str(error))
            else:
                found.append(StoredModel(path, info, path.name.endswith(_PROVISIONED_SUFFIX)))
        # Files that this store named come first: of two that claim the same, its own is the one it acknowledged.
        found.sort(key=lambda model: (_key_of_name(model.path) != model.key, *model.key, model.path.name))
        for model in found:
            self._take(model)

    def _take(self, model: StoredModel) -> None:
        owners = {other.info.owner for other in self._models.values() if other.info.model_id == model.info.model_id}
        if model.key in self._models:
            self._skip(model.path, f"{self._models[model.key].path.name} is the same version of {model.info.model_id}")
        elif owners - {model.info.owner}:
            self._skip(model.path, f"{model.info.model_id} belongs to another owner")
        elif len(self._models) >= self._max_models:
            self._skip(model.path, f"there are more than {self._max_models} models")
        else:
            self._models[model.key] = model

    def _skip(self, path: Path, reason: str) -> None:
        key = _key_of_name(path)
        if key is not None:
            self._blocked.add(key)
        sentence = f"{path} is not served and left as it is: {reason}"
        # Whoever names a file must not write lines of the log.
        _logger.warning("%s", "".join(one if one.isprintable() else "?" for one in sentence))


def _key_of_name(path: Path) -> tuple[str, int] | None:
    """Id and version that a name given by the store stands for."""
    match = _OWN_NAME.fullmatch(path.name)
    return None if match is None else (match[1], int(match[2]))


def _sync(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without this
            raise
    finally:
        os.close(directory)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock; the system lets go of it when the process ends, however it does."""
    if sys.platform == "win32":
        raise InvalidInputError("the model store needs a POSIX system, as the enclave does")
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SealError(
            f"another server has the model store {path.parent}; stop it, or give this one a directory of its own"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unusable(directory: Path, error: OSError) -> SealError:
    return SealError(
        f"the model store {directory} cannot be used: {error.strerror or error}; check the directory and its space"
    )
