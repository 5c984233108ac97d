"""The client for event loops: asyncio or trio."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, overload

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confidential_ml.attestation import INTEL_ROOT, AttestationPolicy, AttestationResult, Collateral, TrustRoot
from confidential_ml.attestation.files import StrPath
from confidential_ml.client.calls import Calls, Options
from confidential_ml.client.exchange import AsyncExchange
from confidential_ml.errors import RemoteError
from confidential_ml.receipt import Receipt
from confidential_ml.remote_session import (
    REQUEST_SIZE,
    Alone,
    Attested,
    Ended,
    Pause,
    PredictionReceipt,
    Step,
    Steps,
    T,
    advance,
)
from confidential_ml.rows import FloatArray
from confidential_ml.sealed_file import SealingPolicy

__all__ = ["AsyncConfidentialClient"]


class _Driven:
    """Steps that worker threads advance. A task that asyncio cancels does not wait for its thread: that closes them."""

    def __init__(self, steps: Steps[Any]) -> None:
        self._steps = steps
        self._lock = threading.Lock()
        self._is_advancing = False
        self._is_given_up = False

    def advance(self, outcome: Any, error: BaseException | None) -> Step | Ended:
        with self._lock:
            if self._is_given_up:  # before the thread began
                return Ended(None)
            self._is_advancing = True
        try:
            return advance(self._steps, outcome, error)
        finally:
            with self._lock:
                self._is_advancing = False
                is_given_up = self._is_given_up
            if is_given_up:
                self._steps.close()

    def close(self) -> None:
        with self._lock:
            self._is_given_up = True
            if self._is_advancing:
                return
        self._steps.close()


class AsyncConfidentialClient:
    """:class:`ConfidentialClient` for asyncio and trio: the same arguments, results and errors.

    Nothing blocks the event loop: what computes (encrypting, verifying, converting a model) runs in worker threads.
    Any number of tasks of one event loop may share it.
    """

    def __init__(
        self,
        url: str,
        policy: AttestationPolicy,
        *,
        root: TrustRoot = INTEL_ROOT,
        collateral: Collateral | None = None,
        model_digest: str | None = None,
        token: str | None = None,
        ca_file: StrPath | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        timeout: float = 60.0,
        deadline: float = 120.0,
        retries: int = 4,
        request_size: int = REQUEST_SIZE,
        unlinkable: bool = False,
        allow_plain_http: bool = False,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> None:
        self._calls = Calls(
            url,
            policy,
            Options(
                root=root,
                collateral=collateral,
                model_digest=model_digest,
                token=token,
                ca_file=ca_file,
                ssl_context=ssl_context,
                proxy=proxy,
                timeout=timeout,
                deadline=deadline,
                retries=retries,
                request_size=request_size,
                unlinkable=unlinkable,
                allow_plain_http=allow_plain_http,
                clock=clock,
            ),
        )
        self._session = self._calls.session
        self._exchange = AsyncExchange(self._calls.context, proxy, self._calls.timeout)
        self._lock = anyio.Lock()

    async def attest(self) -> AttestationResult:
        """Ask for new evidence, verify and appraise it.

        Raises
        ------
        AttestationError
            If it is not genuine or not what the policy asks for.
        RemoteError
            If the server gave none: `UnreachableError`, `ReplyLostError`, `HttpStatusError`.
        """
        return (await self._run(self._session.attest())).result

    @property
    def attestation(self) -> AttestationResult:
        """The enclave in use, as it was last verified.

        Raises
        ------
        RemoteError
            If none has been verified yet; :meth:`attest` does.
        """
        return self._attested().result

    @property
    def evidence(self) -> bytes:
        """The evidence that :attr:`attestation` is of; with it receipts can be verified later.

        Raises
        ------
        RemoteError
            As for :attr:`attestation`.
        """
        return self._attested().evidence

    @property
    def collateral(self) -> Collateral:
        """What :attr:`evidence` was verified with.

        Raises
        ------
        RemoteError
            As for :attr:`attestation`.
        """
        return self._attested().collateral

    def _attested(self) -> Attested:
        if self._session.attested is None:
            raise RemoteError("no enclave has been verified yet; await attest() first")
        return self._session.attested

    @property
    def attestation_count(self) -> int:
        """How often an enclave has been verified and accepted so far."""
        return self._session.attestation_count

    @overload
    async def predict(
        self,
        X: Any,
        *,
        output_margin: bool = ...,
        iteration_range: tuple[int, int] | None = ...,
        base_margin: Any = ...,
        missing: float = ...,
        strict_shape: bool = ...,
        receipt: Literal[False] = ...,
    ) -> FloatArray: ...

    @overload
    async def predict(
        self,
        X: Any,
        *,
        output_margin: bool = ...,
        iteration_range: tuple[int, int] | None = ...,
        base_margin: Any = ...,
        missing: float = ...,
        strict_shape: bool = ...,
        receipt: Literal[True],
    ) -> tuple[FloatArray, tuple[PredictionReceipt, ...]]: ...

    async def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = (0, 0),
        base_margin: Any = None,
        missing: float = float("nan"),
        strict_shape: bool = False,
        receipt: bool = False,
    ) -> FloatArray | tuple[FloatArray, tuple[PredictionReceipt, ...]]:
        """Predict; arguments, values, shapes and errors are those of :meth:`confidential_ml.RemoteModel.predict`.

        Raises
        ------
        AttestationError
            If the enclave is not genuine or not what the policy asks for. Nothing was sent to it.
        InvalidInputError, EnclaveError, RequestUnreadableError
            As for :meth:`confidential_ml.RemoteModel.predict`.
        RemoteError
            After the last attempt: `UnreachableError`, `ReplyLostError`, `ServerBusyError`; at once for other
            statuses (`HttpStatusError`) and for what is not the enclave's answer.
        """
        predictions, receipts = await self._run(
            self._session.predict(
                X,
                output_margin=output_margin,
                iteration_range=iteration_range,
                base_margin=base_margin,
                missing=missing,
                strict_shape=strict_shape,
                receipt=receipt,
            )
        )
        return (predictions, receipts) if receipt else predictions

    async def provision(
        self,
        model: Any,
        *,
        model_id: str,
        policy: SealingPolicy = "mrenclave",
        version: int = 0,
        owner_key: Ed25519PrivateKey | None = None,
        repeat: bool = False,
    ) -> Receipt:
        """Send a model that nobody but the enclave can read; the enclave seals it and leaves it with the server.

        Parameters
        ----------
        model, model_id, policy, version, owner_key
            As for :meth:`confidential_ml.RemoteModel.provision`.
        repeat
            Send it again, too, when it may have been received but no reply came. The server may then have it already,
            and refuse the second or keep both. By default `ReplyLostError` leaves it to the caller to look
            (:meth:`models`).

        Raises
        ------
        AttestationError, ModelFormatError, InvalidInputError, SealError, EnclaveError, RemoteError
            As for :meth:`confidential_ml.RemoteModel.provision` and :meth:`predict`.
        """
        receipt, _, _ = await self.provision_with_evidence(
            model, model_id=model_id, policy=policy, version=version, owner_key=owner_key, repeat=repeat
        )
        return receipt

    async def provision_with_evidence(
        self,
        model: Any,
        *,
        model_id: str,
        policy: SealingPolicy = "mrenclave",
        version: int = 0,
        owner_key: Ed25519PrivateKey | None = None,
        repeat: bool = False,
    ) -> tuple[Receipt, bytes, Collateral]:
        """As :meth:`provision`, with the evidence that names the receipt's key, and what that was verified with.

        Raises
        ------
        AttestationError, ModelFormatError, InvalidInputError, SealError, EnclaveError, RemoteError
            As for :meth:`provision`.
        """
        receipt, attested = await self._run(
            self._calls.provision(
                model, model_id=model_id, policy=policy, version=version, owner_key=owner_key, repeat=repeat
            )
        )
        return receipt, attested.evidence, attested.collateral

    async def models(self) -> list[dict[str, Any]]:
        """The models and versions that the server says it has (docs/http.md 2.3); not verified.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        """
        return await self._run(self._calls.models())

    async def health(self) -> dict[str, Any]:
        """What the server says about itself (docs/http.md 2.1); not verified.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        """
        return await self._run(self._calls.health())

    async def report(self, nonce: bytes | None = None) -> tuple[bytes, bytes]:
        """Evidence, not verified, from the route that needs no token; and its nonce, by default a new one.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        InvalidInputError
            If the nonce is not up to 64 bytes.
        """
        return await self._run(self._calls.report(nonce))

    async def server_collateral(self) -> Collateral:
        """The collateral that the server has; whoever verifies with it need not trust the server.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        AttestationError
            If it is not of the form of collateral.
        """
        return await self._run(self._calls.server_collateral())

    async def _run(self, steps: Steps[T]) -> T:
        outcome: Any = None
        error: BaseException | None = None
        driven = _Driven(steps)
        try:
            while True:
                step = await anyio.to_thread.run_sync(driven.advance, outcome, error)
                if isinstance(step, Ended):
                    result: T = step.value
                    return result
                outcome, error = None, None
                try:
                    outcome = await self._perform(step)
                except Exception as failure:
                    error = failure
        finally:
            # Else the error and the frames in its traceback would keep each other alive.
            del error
            driven.close()

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Alone):
            async with self._lock:
                return await self._run(step.steps)
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            return None
        request = self._calls.request(step)
        return self._calls.outcome(request, await self._exchange.send(request))

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.close()

    async def __aenter__(self) -> AsyncConfidentialClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        if not hasattr(self, "_session"):
            return "<confidential_ml.client.AsyncConfidentialClient, not made>"
        return f"<confidential_ml.client.AsyncConfidentialClient {self._calls.address}, {self._session.state()}>"
