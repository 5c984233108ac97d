"""The host's end of a transport: messages in, replies out, epochs by the clock (docs/protocol.md 7)."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from confidential_ml.attestation import Collateral
from confidential_ml.errors import (
    ConfidentialMLError,
    InvalidInputError,
    ModelRefusedError,
    RequestUnreadableError,
)
from confidential_ml.per_process import PerProcess
from confidential_ml.protocol import (
    MAX_NONCE_SIZE,
    MAX_PROVISION_CONTENT,
    MAX_REQUEST_CONTENT,
    REQUEST_HEADER_SIZE,
    REQUEST_OVERHEAD,
    VERSION,
    Kind,
    Operation,
    Result,
)
from confidential_ml.regular_file import checked_path
from confidential_ml.sealed_file import parse_header, write_sealed

__all__ = ["ConfidentialEndpoint", "ServingEnclave"]

_MESSAGE_HEADER_SIZE = 4
_HEADER = slice(_MESSAGE_HEADER_SIZE, _MESSAGE_HEADER_SIZE + REQUEST_HEADER_SIZE)
_OPERATIONS = {VERSION.to_bytes(2, "little") + one.to_bytes(2, "little"): one for one in Operation}
_REPLY_HEADERS = {one: VERSION.to_bytes(2, "little") + one.to_bytes(2, "little") for one in Result}
_PROVISION = Kind.PROVISION.to_bytes(2, "little")
_KIND = slice(_MESSAGE_HEADER_SIZE + 4, _MESSAGE_HEADER_SIZE + 6)
_MAX_MESSAGE_SIZE = _MESSAGE_HEADER_SIZE + REQUEST_OVERHEAD + MAX_PROVISION_CONTENT
_MAX_PREDICT_SIZE = _MESSAGE_HEADER_SIZE + REQUEST_OVERHEAD + MAX_REQUEST_CONTENT
_MAX_STORED_MODELS = 256
_logger = logging.getLogger("confidential_ml")

Store = Callable[[bytes, str], object]


class ServingEnclave(Protocol):
    """What an endpoint needs of an enclave; :class:`confidential_ml.Enclave` has it."""

    def evidence(self, nonce: bytes = b"") -> bytes:
        """Quote and claims, with the nonce in the claims."""

    def answer_request(self, request: bytes | memoryview) -> bytes:
        """Answer a request of kind 1; `RequestUnreadableError` if it cannot be opened."""

    def check_request(self, header: bytes, size: int) -> object:
        """`RequestUnreadableError` if a request of `size` bytes with this header (56) cannot be opened; cheap."""

    def import_model(self, request: bytes) -> tuple[bytes, bytes]:
        """Seal the model of a request of kind 2: the sealed model, empty if that failed, and the answer."""

    def new_epoch(self) -> object:
        """Begin a new epoch; the key of the present one is kept for requests under way."""

    def end_former_epoch(self) -> object:
        """Wipe the key of the former epoch."""


class ConfidentialEndpoint:
    """Serves an enclave to remote clients over any transport that brings a message and returns the reply.

    Safe to use from any number of threads. In a forked child it answers no more than its enclave does, and never
    waits for what the parent's threads held. What a client may send is up to whoever calls :meth:`handle`: this class
    knows no addresses or accounts.

    Parameters
    ----------
    enclave
        The enclave, with its models loaded into it or yet to be.
    collateral
        Sent along with evidence: a `Collateral`, or a function that returns the present one. Clients need not trust
        it; those who bring their own need none.
    store
        Where models go that clients provision; None refuses them. A function that takes the sealed model (bytes) and
        its id (str), and raises `ModelRefusedError` for one that it will not take later either; or a directory, in
        which each becomes a file of its own, named after its id and the SHA-256 that the receipt names; never more
        than 256, and none is ever replaced.
    check_room
        Called before a model is opened; raises `ModelRefusedError` if `store` would take none at all. A directory
        needs none.
    epoch_seconds, grace_seconds
        How long an epoch lasts, and how long the former epoch's key is kept after it.
    evidence_seconds
        How long evidence without a nonce is given out again. So much later it tells of models loaded since.
    max_requests
        How many messages are handled at once; others are told to try later.
    max_message_size
        Bytes of the longest message; less than the default of 144 MiB also bounds the models that can be provisioned.
    clock
        Seconds that never go back.

    Raises
    ------
    InvalidInputError
        If an argument has another type or range.
    """

    def __init__(
        self,
        enclave: ServingEnclave,
        *,
        collateral: Collateral | Callable[[], Collateral] | None = None,
        store: Store | str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        check_room: Callable[[], object] | None = None,
        epoch_seconds: float = 3600,
        grace_seconds: float = 300,
        evidence_seconds: float = 10,
        max_requests: int = 32,
        max_message_size: int = _MAX_MESSAGE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not all(callable(getattr(enclave, name, None)) for name in ("answer_request", "import_model", "new_epoch")):
            raise InvalidInputError(f"enclave must be an Enclave, not {type(enclave).__name__}")
        if not 0 <= grace_seconds < epoch_seconds:
            raise InvalidInputError("grace_seconds must be from 0 to less than epoch_seconds")
        if not evidence_seconds >= 0:
            raise InvalidInputError("evidence_seconds must not be negative")
        for number, name in ((max_requests, "max_requests"), (max_message_size, "max_message_size")):
            if type(number) is not int or number < 1:
                raise InvalidInputError(f"{name} must be a whole number, at least 1")
        if check_room is not None and not callable(check_room):
            raise InvalidInputError(f"check_room must be a function, not {type(check_room).__name__}")
        if collateral is not None and not isinstance(collateral, Collateral) and not callable(collateral):
            raise InvalidInputError(
                f"collateral must be a Collateral or a function that returns one, not {type(collateral).__name__}"
            )
        self._enclave = enclave
        self._collateral = collateral
        self._store: Store | None = None if store is None else store if callable(store) else _Directory(store)
        self._max_message_size = min(max_message_size, _MAX_MESSAGE_SIZE)
        self._check_room = check_room
        if isinstance(self._store, _Directory) and check_room is None:
            self._check_room = self._store.check_room
        self._slots = PerProcess(lambda: _Slots(max_requests))
        self._provisioning = PerProcess(threading.Lock)
        self._epochs = _Epochs(enclave, epoch_seconds, grace_seconds, clock)
        self._evidence = _CachedEvidence(enclave, evidence_seconds, clock)

    def handle(self, message: bytes) -> bytes:
        """Answer a message.

        Parameters
        ----------
        message
            As a client sent it; it may be anything.

        Returns
        -------
        bytes
            The reply to send back, whatever happened.

        Raises
        ------
        InvalidInputError
            If `message` is not bytes, which no client can bring about.
        """
        if not isinstance(message, bytes):
            raise InvalidInputError(f"message must be bytes, not {type(message).__name__}")
        slots = self._slots.get()
        if not slots.take():
            return _reply(Result.TRY_LATER)
        try:
            return self._answer(message)
        except RequestUnreadableError:
            # Perhaps because the epoch was full and has ended: then the evidence is of a key that is gone.
            self._evidence.forget()
            return _reply(Result.UNREADABLE)
        except ModelRefusedError as refusal:
            _logger.warning("a provisioned model was refused: %s", refusal)
            return _reply(Result.REFUSED)
        except ConfidentialMLError as error:
            _logger.error("a message could not be answered: %s", error)
        except Exception:
            _logger.exception("a message could not be answered")
        finally:
            slots.give_back()
        return _reply(Result.TRY_LATER)

    def rotate_if_due(self) -> float:
        """Begin a new epoch, or wipe the former epoch's key, if it is time; every :meth:`handle` does so first.

        For a timer: without messages a key would otherwise outlive its time.

        Returns
        -------
        float
            Seconds until it is time again.

        Raises
        ------
        EnclaveError
            If the enclave was closed.
        """
        is_new, seconds = self._epochs.advance()
        if is_new:
            self._evidence.forget()
        return seconds

    def evidence(self, nonce: bytes = b"") -> bytes:
        """Evidence alone, for transports that have their own form for it.

        Parameters
        ----------
        nonce
            0 to 64 bytes. Without one the same evidence is given out again for a while.

        Raises
        ------
        InvalidInputError
            If `nonce` is not up to 64 bytes.
        EnclaveError
            If the platform gives no evidence, or the enclave is closed.
        """
        self.rotate_if_due()
        return self._enclave.evidence(nonce) if nonce else self._evidence.get()

    def forget_evidence(self) -> None:
        """Make evidence anew for the next who asks: the models of the enclave have changed."""
        self._evidence.forget()

    def __repr__(self) -> str:
        models = "refuses models" if self._store is None else "takes models"
        return f"<confidential_ml.ConfidentialEndpoint of {self._enclave!r}, {models}>"

    def _answer(self, message: bytes) -> bytes:
        operation = _OPERATIONS.get(message[:_MESSAGE_HEADER_SIZE])
        if operation is None or len(message) > self._max_message_size:
            return _reply(Result.REFUSED)
        if operation is Operation.EVIDENCE:
            if len(message) > _MESSAGE_HEADER_SIZE + MAX_NONCE_SIZE:
                return _reply(Result.REFUSED)
            return _reply(Result.OK, self._evidence_body(message[_MESSAGE_HEADER_SIZE:]))
        if self._epochs.are_due():
            self.rotate_if_due()
        if message[_KIND] == _PROVISION:
            return self._provision(message)
        if len(message) > _MAX_PREDICT_SIZE:
            return _reply(Result.REFUSED)
        return _reply(Result.OK, self._enclave.answer_request(memoryview(message)[_MESSAGE_HEADER_SIZE:]))

    def _evidence_body(self, nonce: bytes) -> bytes:
        evidence = self.evidence(nonce)
        collateral = self._collateral
        if collateral is not None and not isinstance(collateral, Collateral):
            collateral = collateral()
        document = b"" if collateral is None else collateral.to_json().encode("ascii")
        return len(evidence).to_bytes(4, "little") + evidence + document

    def _provision(self, message: bytes) -> bytes:
        if self._store is None:
            return _reply(Result.REFUSED)
        # What cannot be opened must not keep others out, nor be copied: it may be long.
        self._enclave.check_request(message[_HEADER], len(message) - _MESSAGE_HEADER_SIZE)
        # One at a time: each takes several times the model's size of memory, here and in the enclave.
        provisioning = self._provisioning.get()
        if not provisioning.acquire(blocking=False):
            return _reply(Result.TRY_LATER)
        try:
            if self._check_room is not None:
                self._check_room()
            sealed, answer = self._enclave.import_model(message[_MESSAGE_HEADER_SIZE:])
            if sealed:
                # Before the answer, whose receipt says that the model is here.
                self._store(sealed, parse_header(sealed, "the provisioned model").model_id)
        finally:
            provisioning.release()
        return _reply(Result.OK, answer)


def _reply(result: Result, body: bytes = b"") -> bytes:
    return _REPLY_HEADERS[result] + body


class _Slots:
    """How many messages may be handled at once: a semaphore that nobody waits for, and so no more than a number."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count

    def take(self) -> bool:
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._free += 1


class _Epochs:
    """When epochs begin and end."""

    def __init__(
        self, enclave: ServingEnclave, epoch_seconds: float, grace_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._enclave = enclave
        self._epoch_seconds = epoch_seconds
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._lock = PerProcess(threading.Lock)
        self._epoch_end = clock() + epoch_seconds
        self._grace_end: float | None = None
        self._next_time = self._epoch_end

    def are_due(self) -> bool:
        """Whether `advance` has anything to do. Without the lock: what another thread does meanwhile is done."""
        return self._clock() >= self._next_time

    def advance(self) -> tuple[bool, float]:
        """Do what is due; whether an epoch began, and seconds until the next thing is due."""
        with self._lock.get():
            now = self._clock()
            is_new = now >= self._epoch_end
            if is_new:
                self._enclave.new_epoch()
                self._epoch_end = now + self._epoch_seconds
                self._grace_end = now + self._grace_seconds
                _logger.info("the enclave began a new epoch")
            if self._grace_end is not None and now >= self._grace_end:
                self._enclave.end_former_epoch()
                self._grace_end = None
            self._next_time = self._epoch_end if self._grace_end is None else self._grace_end
            return is_new, self._next_time - now


class _Evidence:
    """What is kept of it, and the lock to that."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.evidence: bytes | None = None
        self.end = 0.0


class _CachedEvidence:
    """Evidence without a nonce, made once for many."""

    def __init__(self, enclave: ServingEnclave, seconds: float, clock: Callable[[], float]) -> None:
        self._enclave = enclave
        self._seconds = seconds
        self._clock = clock
        # Of each process: that of the parent tells of an enclave that does not answer in a forked child.
        self._kept = PerProcess(_Evidence)

    def get(self) -> bytes:
        kept = self._kept.get()
        # Under the lock, so that of many who ask at once one has it made.
        with kept.lock:
            now = self._clock()
            if kept.evidence is None or now >= kept.end:
                kept.evidence = self._enclave.evidence(b"")
                kept.end = now + self._seconds
            return kept.evidence

    def forget(self) -> None:
        kept = self._kept.get()
        with kept.lock:
            kept.evidence = None


class _Directory:
    """Keeps sealed models as files that nobody who provisions can make each other lose."""

    def __init__(self, directory: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        self._path = Path(checked_path(directory, "store"))
        if not self._path.is_dir():
            raise InvalidInputError(f"store must be a function or an existing directory, {self._path} is none")

    def check_room(self) -> None:
        count = sum(1 for _ in self._path.glob("*.sealed"))
        if count >= _MAX_STORED_MODELS:
            raise ModelRefusedError(
                f"{self._path} holds {count} sealed models, no more are taken; move away those that are not needed"
            )

    def __call__(self, sealed: bytes, model_id: str) -> None:
        digest = hashlib.sha256(sealed).hexdigest()
        write_sealed(os.fspath(self._path / f"{model_id}-{digest}.sealed"), sealed)
