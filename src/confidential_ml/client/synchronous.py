"""The client for threads."""

from __future__ import annotations

import datetime
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, overload

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confidential_ml.attestation import INTEL_ROOT, AttestationPolicy, AttestationResult, Collateral, TrustRoot
from confidential_ml.attestation.files import StrPath
from confidential_ml.client.calls import Calls, Options
from confidential_ml.client.exchange import Exchange
from confidential_ml.per_process import PerProcess
from confidential_ml.receipt import Receipt
from confidential_ml.remote_session import REQUEST_SIZE, Alone, Pause, PredictionReceipt, Step, Steps, T, run
from confidential_ml.rows import FloatArray
from confidential_ml.sealed_file import SealingPolicy

__all__ = ["ConfidentialClient"]


class ConfidentialClient:
    """A model in an enclave behind an HTTP server. Safe to use from any number of threads.

    As :class:`confidential_ml.RemoteModel`: the enclave is verified and appraised before anything is sent to it, and
    again whenever that has expired or its key has changed; rows and models are encrypted to it alone. What the
    server itself says (:meth:`health`, :meth:`models`) is not verified.

    Failed connections, HTTP 502, 503 and 504 and "try later" are retried, waiting longer each time. Each attempt is
    encrypted anew. No redirect is followed, no cookie kept, and neither proxies nor certificates come from the
    environment.

    Parameters
    ----------
    url
        Where the server is, such as ``https://host:8080``.
    policy
        Which enclaves, machines and models are accepted.
    root
        Whom to believe. Intel by default; simulated evidence needs its simulated platform's root.
    collateral
        What to verify with; by default what the server sends along, which need not be trusted.
    model_digest
        The model to predict with (SHA-256, hexadecimal), if the policy accepts several that are loaded.
    token
        Bearer token for the server.
    ca_file, ssl_context
        PEM file of the only certificates by which the server is believed, or a context; by default the CAs of the
        system. Rows do not depend on it, the token does.
    proxy
        Such as ``http://host:3128``; by default none.
    timeout
        Seconds for one attempt at one message, from connecting to the last byte; looking up the name of the host does
        not count.
    deadline
        Seconds from the first attempt at a message after which no other begins.
    retries
        Attempts after the first.
    request_size
        Bytes: larger calls of predict are cut into requests of about this size.
    unlinkable
        As for :class:`confidential_ml.RemoteModel`.
    allow_plain_http
        Send the token over http:// to another machine, where everybody on the way can read it.
    clock
        The time, with its time zone; by default the system's.

    Raises
    ------
    InvalidInputError
        If an argument has another type or form.
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
        # A forked child has connections of its own: on those of its parent the replies would mix.
        self._exchange = PerProcess(lambda: Exchange(self._calls.context, proxy, self._calls.timeout))
        self._lock = PerProcess(threading.Lock)

    def attest(self) -> AttestationResult:
        """Ask for new evidence, verify and appraise it.

        Raises
        ------
        AttestationError
            If it is not genuine or not what the policy asks for.
        RemoteError
            If the server gave none: `UnreachableError`, `ReplyLostError`, `HttpStatusError`.
        """
        return self._run(self._session.attest()).result

    @property
    def attestation(self) -> AttestationResult:
        """The enclave in use, as it was last verified; asks for evidence if that has not been done or has expired."""
        return self._run(self._session.fresh()).result

    @property
    def evidence(self) -> bytes:
        """The evidence that :attr:`attestation` is of; with it receipts can be verified later."""
        return self._run(self._session.fresh()).evidence

    @property
    def collateral(self) -> Collateral:
        """What :attr:`evidence` was verified with."""
        return self._run(self._session.fresh()).collateral

    @property
    def attestation_count(self) -> int:
        """How often an enclave has been verified and accepted so far."""
        return self._session.attestation_count

    @overload
    def predict(
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
    def predict(
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

    def predict(
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
        predictions, receipts = self._run(
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

    def provision(
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
        return self.provision_with_evidence(
            model, model_id=model_id, policy=policy, version=version, owner_key=owner_key, repeat=repeat
        )[0]

    def provision_with_evidence(
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
        receipt, attested = self._run(
            self._calls.provision(
                model, model_id=model_id, policy=policy, version=version, owner_key=owner_key, repeat=repeat
            )
        )
        return receipt, attested.evidence, attested.collateral

    def models(self) -> list[dict[str, Any]]:
        """The models and versions that the server says it has (docs/http.md 2.3); not verified.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        """
        return self._run(self._calls.models())

    def health(self) -> dict[str, Any]:
        """What the server says about itself (docs/http.md 2.1); not verified.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        """
        return self._run(self._calls.health())

    def report(self, nonce: bytes | None = None) -> tuple[bytes, bytes]:
        """Evidence, not verified, from the route that needs no token; and its nonce, by default a new one.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        InvalidInputError
            If the nonce is not up to 64 bytes.
        """
        return self._run(self._calls.report(nonce))

    def server_collateral(self) -> Collateral:
        """The collateral that the server has; whoever verifies with it need not trust the server.

        Raises
        ------
        RemoteError
            As for :meth:`predict`.
        AttestationError
            If it is not of the form of collateral.
        """
        return self._run(self._calls.server_collateral())

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._perform)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Alone):
            with self._lock.get():
                return self._run(step.steps)
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        request = self._calls.request(step)
        return self._calls.outcome(request, self._exchange.get().send(request))

    def close(self) -> None:
        """Close the connections."""
        self._exchange.get().close()

    def __enter__(self) -> ConfidentialClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if not hasattr(self, "_session"):
            return "<confidential_ml.client.ConfidentialClient, not made>"
        return f"<confidential_ml.client.ConfidentialClient {self._calls.address}, {self._session.state()}>"
