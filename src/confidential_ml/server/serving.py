"""What the routes stand on: the enclave, its models and their store, predictions, evidence and epochs."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from confidential_ml.arguments import checked_model_id
from confidential_ml.attestation import Collateral
from confidential_ml.attestation.claims import parse_claims
from confidential_ml.attestation.collateral_cache import earliest_expiry
from confidential_ml.attestation.quote import parse_evidence
from confidential_ml.enclave import Enclave
from confidential_ml.endpoint import ConfidentialEndpoint
from confidential_ml.errors import (
    ConfidentialMLError,
    EnclaveError,
    InvalidInputError,
    ModelFormatError,
    SealError,
)
from confidential_ml.model import ConfidentialModel, seal_flat
from confidential_ml.protocol import Kind, Operation
from confidential_ml.rows import FloatArray
from confidential_ml.sealed_file import parse_header, write_sealed
from confidential_ml.server.admission import Admission
from confidential_ml.server.collateral_source import collateral_source
from confidential_ml.server.errors import HttpError
from confidential_ml.server.live_models import Lease, LiveModel, LiveModels, ModelEntry
from confidential_ml.server.metrics import Metrics
from confidential_ml.server.settings import ServerSettings, check_enclave
from confidential_ml.server.store import ModelStore, StagedModel, StoreRefusalError
from confidential_ml.xgboost_format import read_model

__all__ = ["LiveModel", "ModelEntry", "Serving"]

T = TypeVar("T")

# Rows times nodes that take a fraction of a millisecond: less than handing them to a thread and back is worth.
_INLINE_WORK = 1 << 19
_ATTESTATION_THREADS = 2
_LONGEST_SLEEP, _SLEEP_AFTER_FAILURE = 60.0, 10.0
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_MESSAGE_HEADER_SIZE = 4
_OPERATION, _KIND = slice(2, 4), slice(_MESSAGE_HEADER_SIZE + 4, _MESSAGE_HEADER_SIZE + 6)
_EVIDENCE, _REQUEST = Operation.EVIDENCE.to_bytes(2, "little"), Operation.REQUEST.to_bytes(2, "little")
_PROVISION = Kind.PROVISION.to_bytes(2, "little")
_logger = logging.getLogger("confidential_ml")


def is_evidence(message: bytes) -> bool:
    """Whether the first bytes of a message are those of one that asks for evidence (docs/protocol.md 7)."""
    return message[_OPERATION] == _EVIDENCE


def is_provision(message: bytes) -> bool:
    """Whether the first bytes of a message are those of one that brings a model (docs/protocol.md 3, 7)."""
    return message[_OPERATION] == _REQUEST and message[_KIND] == _PROVISION


class Serving:
    """An enclave that serves the models of a store.

    Its coroutines belong to one event loop. Changes of the models are made in one thread, one after the other.

    Parameters
    ----------
    settings
        How.
    enclave
        The enclave; one of its own, made of ``settings.image``, if not given.

    Raises
    ------
    SettingsError
        If the enclave protects less than the settings say.
    SealError
        If the store cannot be used.
    EnclaveError
        If there is no enclave.
    """

    def __init__(self, settings: ServerSettings, enclave: Enclave | None = None) -> None:
        self.settings = settings
        self._owns_enclave = enclave is None
        self.enclave = Enclave(settings.image) if enclave is None else enclave
        try:
            check_enclave(settings, self.enclave.identity)
            limits = settings.limits
            self._store = ModelStore(settings.model_store, max_provisioned=limits.provisioned_models)
        except BaseException:
            self._close_enclave()
            raise
        self._live = LiveModels()
        self.admission = Admission(limits.requests, max(limits.requests * limits.body_bytes, 2 * limits.model_bytes))
        self.metrics = Metrics(
            models=lambda: len(self._live),
            requests=lambda: self.admission.requests,
            unsafe=settings.unsafe.in_force(),
        )
        self.is_ending = False
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="confidential_ml-work")
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="confidential_ml-changes")
        self._attestations = ThreadPoolExecutor(_ATTESTATION_THREADS, thread_name_prefix="confidential_ml-attestation")
        self._load_all()
        source = collateral_source(settings, self.enclave)
        self._collateral = None if source is None else _observed(source, self.metrics)
        self.endpoint = ConfidentialEndpoint(
            self.enclave,
            collateral=self._collateral,
            store=self._keep_provisioned if limits.provisioned_models else None,
            check_room=lambda: self._store.check_room(is_provisioned=True),
            epoch_seconds=settings.epoch.seconds,
            grace_seconds=settings.epoch.grace_seconds,
            max_requests=limits.requests,
        )

    # ---- models -----------------------------------------------------------------------------------------------------

    def models(self) -> list[ModelEntry]:
        """Every loaded model and version, by id, then version."""
        return self._live.entries()

    def lease(self, model_id: str | None, version: int | None) -> Lease:
        """The model that a request means; in ``with`` it stays usable though it is deleted or replaced meanwhile.

        Raises
        ------
        HttpError
            404 ``model_unknown``; 400 ``model_id_missing`` if there are several and none is named.
        """
        return self._live.lease(model_id, version)

    async def upload(self, data: bytes, *, model_id: str | None = None, version: int | None = None) -> ModelEntry:
        """Seal a model that came in clear, store it and serve it.

        Parameters
        ----------
        data
            XGBoost's JSON or UBJSON.
        model_id
            None for the one that the model's attribute names.
        version
            None for the highest of that id plus one.

        Raises
        ------
        HttpError
            400 ``model_invalid``, ``model_id_missing``, ``parameter_invalid``; 409 ``version_exists``, ``other_owner``;
            507 ``store_full``.
        """
        return await self._in_thread(self._changes, lambda: self._upload(data, model_id, version))

    async def delete(self, model_id: str, version: int | None = None) -> None:
        """Delete a version of a model, or all; requests that have it finish.

        Raises
        ------
        HttpError
            404 ``model_unknown``.
        """
        await self._in_thread(self._changes, lambda: self._delete(model_id, version))

    # ---- predictions ------------------------------------------------------------------------------------------------

    async def predict(
        self,
        rows: FloatArray,
        *,
        model_id: str | None = None,
        version: int | None = None,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
        strict_shape: bool = False,
    ) -> tuple[FloatArray, ModelEntry]:
        """Predict rows that came in clear.

        Parameters
        ----------
        rows
            float32, C-contiguous, shape (n, features), n at least 1.
        model_id, version
            Which model; None for the only one, and for its current version.
        output_margin, iteration_range, strict_shape
            As of :meth:`confidential_ml.ConfidentialModel.predict`.

        Returns
        -------
        tuple of numpy.ndarray and ModelEntry
            The predictions, and the model they are of.

        Raises
        ------
        HttpError
            404 ``model_unknown``; 400 ``model_id_missing``, ``input_invalid``, ``parameter_invalid``; 413
            ``too_many_rows``.
        """
        with self._live.lease(model_id, version) as live:
            values = await self.predict_with(
                live,
                rows,
                output_margin=output_margin,
                iteration_range=iteration_range,
                strict_shape=strict_shape,
            )
            return values, live.entry

    async def predict_with(
        self,
        live: LiveModel,
        rows: FloatArray,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
        strict_shape: bool = False,
    ) -> FloatArray:
        """As :meth:`predict`, with a model that the caller has leased: the one that its rows were read for.

        Raises
        ------
        HttpError
            As for :meth:`predict`.
        """
        count, columns = rows.shape
        if count > self.settings.limits.rows:
            raise HttpError(
                413, "too_many_rows", f"{count} rows are too many; send at most {self.settings.limits.rows}"
            )
        if columns != live.entry.n_features:
            raise HttpError(
                400,
                "input_invalid",
                f"the rows have {columns} columns, the model has {live.entry.n_features} features",
            )

        def work() -> FloatArray:
            return live.model.predict(
                rows, output_margin=output_margin, iteration_range=iteration_range, strict_shape=strict_shape
            )

        try:
            if count * live.model.info.n_nodes <= _INLINE_WORK:
                values = work()
            else:
                values = await self._in_thread(self._threads, work)
        except InvalidInputError as error:
            raise HttpError(400, "parameter_invalid", str(error)) from None
        self.metrics.rows.inc(count)
        return values

    def predict_row(self, live: LiveModel, row: FloatArray) -> FloatArray | None:
        """As :meth:`predict_with`, one row, at once.

        Returns
        -------
        numpy.ndarray
            The values; None if that would take too long for the event loop, or the row does not fit the model.
        """
        if row.shape != (1, live.entry.n_features) or live.model.info.n_nodes > _INLINE_WORK:
            return None
        values = live.model.predict(row)
        self.metrics.rows.inc()
        return values

    # ---- confidential requests and evidence -------------------------------------------------------------------------

    async def answer(self, message: bytes) -> bytes:
        """The reply to a message of docs/protocol.md 7."""
        reply = self.answer_at_once(message)
        if reply is not None:
            return reply
        if is_evidence(message):
            self.metrics.attestations.inc()
            return await self._in_thread(self._attestations, lambda: self.endpoint.handle(message))
        if is_provision(message):
            return await self._in_thread(self._changes, lambda: self.endpoint.handle(message))
        return await self._in_thread(self._threads, lambda: self.endpoint.handle(message))

    def answer_at_once(self, message: bytes) -> bytes | None:
        """The reply to a message that brings rows; None if that would take too long for the event loop."""
        # Which model they are for nobody but the enclave knows: at most the one with the most work for a byte.
        work = len(message) * self._live.most_nodes_per_byte
        if work > _INLINE_WORK or is_evidence(message) or is_provision(message):
            return None
        return self.endpoint.handle(message)

    async def evidence(self, nonce: bytes) -> bytes:
        """Quote and claims, with the nonce in the claims."""
        self.metrics.attestations.inc()
        return await self._in_thread(self._attestations, lambda: self.endpoint.evidence(nonce))

    async def collateral(self) -> Collateral | None:
        """The present collateral, None if the server was given none."""
        if self._collateral is None:
            return None
        return await self._in_thread(self._attestations, self._collateral)

    async def epoch(self) -> int:
        """The number of the enclave's present epoch."""
        evidence = await self._in_thread(self._attestations, self.endpoint.evidence)
        return parse_claims(parse_evidence(evidence).claims).epoch

    async def keep_epochs(self) -> None:
        """Begin and end epochs in time, also while nobody asks; until cancelled."""
        while True:
            try:
                seconds = self.endpoint.rotate_if_due()
            except ConfidentialMLError as error:
                _logger.error("the enclave could not begin a new epoch: %s", error)
                seconds = _SLEEP_AFTER_FAILURE
            await asyncio.sleep(min(max(seconds, 0.01), _LONGEST_SLEEP))

    def close(self) -> None:
        """Finish what is under way and let go of models, store and enclave. Does nothing the second time."""
        self.is_ending = True
        for threads in (self._changes, self._threads, self._attestations):
            threads.shutdown(wait=True, cancel_futures=True)
        self._live.close()
        self._store.close()
        self._close_enclave()

    # ---- in the thread of changes -----------------------------------------------------------------------------------

    def _upload(self, data: bytes, model_id: str | None, version: int | None) -> ModelEntry:
        try:
            flat, own_id = read_model(data)
        except ModelFormatError as error:
            raise HttpError(400, "model_invalid", str(error)) from None
        name = own_id if model_id is None else model_id
        if name is None:
            raise HttpError(
                400,
                "model_id_missing",
                "say which id the model has: ?model_id=..., or booster.set_attr(model_id=...) before it is saved",
            )
        try:
            checked_model_id(name)
        except InvalidInputError as error:
            raise HttpError(400, "parameter_invalid", str(error)) from None
        try:
            number = self._store.next_version(name) if version is None else version
            self._store.check(name, number, None)
            staged = self._store.stage()
            with _full_disk_refused():
                seal_flat(
                    flat,
                    os.fspath(staged.path),
                    model_id=name,
                    policy=self.settings.policy,
                    version=number,
                    enclave=self.enclave,
                )
                return self._serve(staged)
        except ModelFormatError as error:
            raise HttpError(400, "model_invalid", str(error)) from None
        except StoreRefusalError as refusal:
            raise HttpError(507 if refusal.code == "store_full" else 409, refusal.code, str(refusal)) from None

    def _keep_provisioned(self, sealed: bytes, model_id: str) -> None:
        """What the endpoint does with a model that the enclave has sealed for a client."""
        info = parse_header(sealed, "the provisioned model")
        self._store.check(model_id, info.model_version, info.owner, is_provisioned=True)
        staged = self._store.stage(is_provisioned=True)
        with _full_disk_refused():
            write_sealed(os.fspath(staged.path), sealed)
            self._serve(staged)

    def _serve(self, staged: StagedModel) -> ModelEntry:
        """Load a staged model, and store it only if that succeeds: what is in the store can be loaded."""
        try:
            model = ConfidentialModel.load_sealed(staged.path, enclave=self.enclave)
        except EnclaveError as error:
            self._store.discard(staged)
            raise StoreRefusalError("store_full", "the enclave has no room for another model; delete one") from error
        except BaseException:
            self._store.discard(staged)
            raise
        try:
            stored = self._store.commit(staged)
        except BaseException:
            model.close()
            raise
        entry = self._live.add(LiveModel(model, stored))
        self.endpoint.forget_evidence()
        _logger.info("model %s version %d is served", entry.model_id, entry.version)
        return entry

    def _delete(self, model_id: str, version: int | None) -> None:
        models = self._live.find(model_id, version)
        if not models:
            raise HttpError(404, "model_unknown", "there is no such model or version; GET /models lists them")
        self._store.remove([live.stored for live in models])
        self._live.retire(models)
        self.endpoint.forget_evidence()
        for live in models:
            _logger.info("model %s version %d was deleted", live.entry.model_id, live.entry.version)

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def _load_all(self) -> None:
        for stored in self._store.models():
            try:
                model = ConfidentialModel.load_sealed(stored.path, enclave=self.enclave)
            except ConfidentialMLError as error:
                self._store.leave_out(stored, str(error))
                continue
            if (model.info.model_id, model.info.model_version, model.info.owner) != (*stored.key, stored.info.owner):
                model.close()
                self._store.leave_out(stored, "it was changed while it was read")
                continue
            self._live.add(LiveModel(model, stored))

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except RuntimeError as error:
            if self.is_ending:
                raise HttpError(503, "shutting_down", "the server is shutting down; send it to another") from error
            raise

    def _close_enclave(self) -> None:
        if self._owns_enclave:
            with suppress(EnclaveError):
                self.enclave.close()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _observed(source: Callable[[], Collateral], metrics: Metrics) -> Callable[[], Collateral]:
    """The same source; it tells the metrics when other collateral is handed out."""
    last: Collateral | None = None

    def collateral() -> Collateral:
        nonlocal last
        found = source()
        if found is not last:
            last = found
            try:
                metrics.collateral_expiry.set(earliest_expiry(found).timestamp())
            except (ConfidentialMLError, ValueError) as error:
                metrics.collateral_expiry.set(0)
                _logger.warning("the collateral cannot be read, clients will refuse it: %s", error)
        return found

    return collateral


@contextmanager
def _full_disk_refused() -> Iterator[None]:
    """Tell a full disk as a full store: to send the model again does not help."""
    try:
        yield
    except SealError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL_DISK:
            raise StoreRefusalError("store_full", "the disk of the model store is full") from error
        raise
