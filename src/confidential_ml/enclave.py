"""Enclaves: one for the whole process by default, others on request."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from confidential_ml import card, simulation
from confidential_ml.errors import EnclaveError
from confidential_ml.identity import EnclaveIdentity
from confidential_ml.regular_file import checked_path
from confidential_ml.sealed_file import PLATFORMS

if TYPE_CHECKING:
    from confidential_ml import _core


class Enclave:
    """An enclave of this process. Safe to use from any number of threads; surplus calls wait for a free TCS.

    Most programs need none of their own: :func:`confidential_ml.seal` and
    :meth:`confidential_ml.ConfidentialModel.load_sealed` share one that is made at first use.

    Parameters
    ----------
    image
        Path of a signed enclave image; the package's own if not given.

    Raises
    ------
    EnclaveError
        If this installation has no enclave, or the image or the machine does not allow one.
    InvalidInputError
        If `image` cannot be a path.

    Notes
    -----
    An enclave does not survive ``fork``: in the child every call raises :class:`EnclaveError`.
    """

    def __init__(self, image: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None) -> None:
        core = load_core()
        _open_enclaves.check()
        own_image = Path(__file__).parent / core.image_name
        path = os.fsencode(checked_path(own_image if image is None else image, "image"))
        if core.platform != "openenclave":
            simulation.warn()
        platform_input = simulation.fuse_key() if core.takes_fuse_key else b""
        self._core: _core.Enclave = core.Enclave(path, platform_input)
        _open_enclaves.add(self)
        self._finalizer = weakref.finalize(self, self._core.close)
        self._finalizer.atexit = False  # see _OpenEnclaves
        fields = self._core.identity()
        self._identity = EnclaveIdentity(
            platform=PLATFORMS[fields["platform"]],
            mrenclave=fields["mrenclave"].hex(),
            mrsigner=fields["mrsigner"].hex(),
            isv_prod_id=fields["isv_prod_id"],
            isv_svn=fields["isv_svn"],
            debug=fields["debug"],
        )

    @property
    def identity(self) -> EnclaveIdentity:
        """Platform, measurement and version of this enclave."""
        return self._identity

    @property
    def is_open(self) -> bool:
        """False once closed, and in a forked child."""
        return self._core.is_open

    def close(self) -> None:
        """End the enclave after the calls under way; its models are gone. Does nothing the second time."""
        self._finalizer()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Enclave cannot be copied or pickled; make one where it is needed")

    def __enter__(self) -> Enclave:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.is_open else ", closed"
        label, measurement = card.platform_label(self._identity), card.short(self._identity.mrenclave)
        return f"<confidential_ml.Enclave {label}, MRENCLAVE {measurement}{state}>"

    def _repr_html_(self) -> str:
        return card.render("Enclave", self._identity, [], is_open=self.is_open)


def load_core() -> ModuleType:
    """The extension module, or an :class:`EnclaveError` that says this installation has none."""
    try:
        from confidential_ml import _core
    except ImportError as error:
        raise EnclaveError(
            "this installation of confidential_ml has no enclave (only the parts that need none); "
            "install it on x86-64 Linux from source, see docs/building.md"
        ) from error
    return _core


class _OpenEnclaves:
    """Every enclave of the process, closed together before the interpreter is torn down.

    A daemon thread inside an enclave then finishes its call, and finds all enclaves closed when it comes back.
    """

    def __init__(self) -> None:
        # A WeakSet may not change while it is copied; a set is copied at one stroke.
        self._enclaves: set[weakref.ref[Enclave]] = set()
        self.ended = False

    def check(self) -> None:
        if self.ended:
            raise EnclaveError("the interpreter is ending; no enclave can be made any more")

    def add(self, enclave: Enclave) -> None:
        self._enclaves.add(weakref.ref(enclave, self._enclaves.discard))
        self.check()  # again, and last: if this passes, close() is yet to come and will find the enclave

    def close(self) -> None:
        self.ended = True
        for reference in self._enclaves.copy():
            enclave = reference()
            if enclave is not None:
                enclave._core.close()  # not through its finalizer: weakref switches those off at exit
        # Imported or absent, never loaded now.
        core = sys.modules.get("confidential_ml._core")
        if core is not None:
            core.wait_for_calls()


_open_enclaves = _OpenEnclaves()
atexit.register(_open_enclaves.close)


class _Default:
    """The enclave of the whole process, made at first use and again after a fork or a close."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._enclave: Enclave | None = None
        self._is_being_made = False

    def get(self) -> Enclave:
        with self._lock:
            if self._enclave is None or not self._enclave.is_open:
                self._enclave = self._make()
            return self._enclave

    def _make(self) -> Enclave:
        if self._is_being_made:
            raise EnclaveError(
                "the enclave of the process is just being made in this thread, which was interrupted for a signal "
                "handler or a hook for warnings; use no enclave in there, or one made before"
            )
        self._is_being_made = True
        try:
            return Enclave()
        finally:
            self._is_being_made = False

    def forget(self) -> None:
        # In a forked child: the lock may be held by a thread that does not exist here.
        self._lock = threading.RLock()
        self._enclave = None
        self._is_being_made = False


_default = _Default()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default.forget)


def default_enclave() -> Enclave:
    """The enclave that the whole process shares."""
    return _default.get()
