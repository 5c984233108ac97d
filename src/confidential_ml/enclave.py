"""Enclaves: one for the whole process by default, others on request."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from confidential_ml import card, simulation
from confidential_ml.errors import EnclaveError, InvalidInputError
from confidential_ml.identity import EnclaveIdentity
from confidential_ml.regular_file import checked_path
from confidential_ml.sealed_file import PLATFORMS

if TYPE_CHECKING:
    from confidential_ml import _core

_MAX_NONCE_SIZE = 64
_REPORT_BODY_SIZE = 384


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

    def evidence(self, nonce: bytes = b"") -> bytes:
        """What proves to somebody far away which enclave this is: a quote and the claims it signs.

        Parameters
        ----------
        nonce
            0 to 64 bytes chosen by who wants to know; they come back in the claims.

        Returns
        -------
        bytes
            Open Enclave's ``OE_FORMAT_UUID_SGX_ECDSA`` (docs/attestation.md section 1). In simulation the quote is
            signed by this installation's simulated platform and names a debug enclave.

        Raises
        ------
        InvalidInputError
            If `nonce` is not up to 64 bytes.
        EnclaveError
            If the platform gives no evidence, or the enclave is closed.
        """
        if not isinstance(nonce, bytes) or len(nonce) > _MAX_NONCE_SIZE:
            found = f"has {len(nonce)}" if isinstance(nonce, bytes) else f"is a {type(nonce).__name__}"
            raise InvalidInputError(f"nonce must be at most {_MAX_NONCE_SIZE} bytes; it {found}")
        evidence = self._core.evidence(nonce)
        if self._identity.platform == "openenclave":
            return evidence
        from confidential_ml import simulated_platform

        platform = simulated_platform.of_this_installation()
        return platform.quote(evidence[:_REPORT_BODY_SIZE]) + evidence[_REPORT_BODY_SIZE:]

    def check_request(self, header: bytes, size: int) -> None:
        """Refuse a confidential request by its header and size, before the rest of it is even looked at.

        Parameters
        ----------
        header
            The first 56 bytes of the request.
        size
            Bytes of the whole request.

        Raises
        ------
        RequestUnreadableError
            If :meth:`answer_request` and :meth:`import_model` could not open it whatever the rest is. What passes may
            still be unreadable.
        EnclaveError
            If the enclave is closed.
        """
        if type(size) is not int or not 0 <= size < 1 << 64:
            raise InvalidInputError("size must be the number of bytes of a request")
        self._core.check_request(_checked_bytes(header), size)

    def answer_request(self, request: bytes | memoryview) -> bytes:
        """Open a confidential request in the enclave, predict, and give the answer only its sender can read.

        Parameters
        ----------
        request
            As docs/protocol.md section 3. A view of bytes, too, so that a host need not copy what it has received.

        Raises
        ------
        RequestUnreadableError
            If the enclave could not open it; it does not say why.
        EnclaveError
            If the enclave is closed or has no room.
        """
        is_view = isinstance(request, memoryview) and request.c_contiguous
        return self._core.answer_request(request if is_view else _checked_bytes(request))

    def import_model(self, request: bytes) -> tuple[bytes, bytes]:
        """Seal a model that its owner has encrypted to this enclave.

        Parameters
        ----------
        request
            As docs/protocol.md section 3, of kind 2.

        Returns
        -------
        tuple of bytes
            The sealed model, to be stored here, and the answer, for the owner. The sealed model is empty if the enclave
            refused the model; only the answer says why.

        Raises
        ------
        RequestUnreadableError
            If the enclave could not open it; it does not say why.
        EnclaveError
            If the enclave is closed or has no room.
        """
        return self._core.import_model(_checked_bytes(request))

    def new_epoch(self) -> None:
        """Make a new key for requests; the former one opens requests until :meth:`end_former_epoch`.

        Raises
        ------
        EnclaveError
            If the enclave is closed.
        """
        self._core.new_epoch()

    def end_former_epoch(self) -> None:
        """Wipe the key of the former epoch.

        Raises
        ------
        EnclaveError
            If the enclave is closed.
        """
        self._core.end_former_epoch()

    def close(self) -> None:
        """End the enclave after the calls under way; its models are gone. Does nothing the second time."""
        self._finalizer()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Enclave cannot be copied or pickled; make one where it is needed")

    def __enter__(self) -> Enclave:
        if not self._finalizer.alive:
            raise EnclaveError("the enclave is closed; make a new Enclave")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.is_open else ", closed"
        identity = self._identity
        label, measurement = (
            card.platform_label(identity.platform, debug=identity.debug),
            card.short(identity.mrenclave),
        )
        return f"<confidential_ml.Enclave {label}, MRENCLAVE {measurement}{state}>"

    def _repr_html_(self) -> str:
        return card.of_enclave("Enclave", self._identity, [], note="" if self.is_open else "closed")


def _checked_bytes(request: object) -> bytes:
    if not isinstance(request, bytes):
        raise InvalidInputError(f"a request must be bytes, not {type(request).__name__}")
    return request


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


def _silent_about_the_end(report: Callable[[threading.ExceptHookArgs], object]) -> Callable[..., object]:
    """Not reported: that a daemon thread, which may end anywhere now, ended by an enclave that the exit has closed."""

    def report_others(arguments: threading.ExceptHookArgs, /) -> None:
        is_daemon = arguments.thread is not None and arguments.thread.daemon
        if not (is_daemon and issubclass(arguments.exc_type, EnclaveError)):
            report(arguments)

    return report_others


_open_enclaves = _OpenEnclaves()


def _at_exit() -> None:
    threading.excepthook = _silent_about_the_end(threading.excepthook)
    _open_enclaves.close()


atexit.register(_at_exit)


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
