"""A model in somebody else's enclave: verify who it is, send it rows or a model that nobody else can read."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any, Literal, overload

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confidential_ml import card
from confidential_ml.attestation import INTEL_ROOT, AttestationPolicy, AttestationResult, Collateral, TrustRoot
from confidential_ml.errors import InvalidInputError, RemoteError
from confidential_ml.per_process import PerProcess
from confidential_ml.receipt import Receipt
from confidential_ml.remote_session import (
    REQUEST_SIZE,
    Alone,
    PredictionReceipt,
    RemoteSession,
    Send,
    Step,
    Steps,
    T,
    run,
)
from confidential_ml.rows import FloatArray
from confidential_ml.sealed_file import SealingPolicy

__all__ = ["PredictionReceipt", "RemoteModel", "Transport"]

Transport = Callable[[bytes], bytes]
"""Takes a message to the host and returns its reply; may raise whatever it likes."""

_NAN = float("nan")


class RemoteModel:
    """A model in an enclave at the other end of a transport. Safe to use from any number of threads.

    Before anything is sent, the enclave's evidence is verified and appraised, with a nonce of its own; rows and models
    are encrypted to the key that the evidence names and can be read by nobody else. That is done again by itself when
    the evidence expires, when the policy's `max_age` has passed and when the enclave has a new key, and logged
    (``logging.getLogger("confidential_ml")``, INFO).

    Parameters
    ----------
    transport
        Takes a message (bytes) to the host's :class:`confidential_ml.ConfidentialEndpoint` and returns its reply.
    policy
        Which enclaves, machines and models are accepted. To provision into an enclave that has no model yet, give it
        ``model_digest=ANY``.
    root
        Whom to believe. Intel by default; simulated evidence needs its simulated platform's root.
    collateral
        What to verify with; by default what the host sends along, which need not be trusted.
    model_digest
        The model to predict with (SHA-256, hexadecimal), if the policy accepts several that are loaded.
    request_size
        Bytes: larger calls of predict are cut into requests of about this size.
    unlinkable
        A new key pair for each request. Else all requests until the next attestation can be seen to be one client's
        (docs/protocol.md 3.5), which saves two X25519 operations a request.
    clock
        The time, with its time zone; by default the system's.

    Raises
    ------
    InvalidInputError
        If an argument has another type or form.
    """

    def __init__(
        self,
        transport: Transport,
        policy: AttestationPolicy,
        *,
        root: TrustRoot = INTEL_ROOT,
        collateral: Collateral | None = None,
        model_digest: str | None = None,
        request_size: int = REQUEST_SIZE,
        unlinkable: bool = False,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> None:
        if not callable(transport):
            raise InvalidInputError(f"transport must be a function, not {type(transport).__name__}")
        self._transport = transport
        self._session = RemoteSession(
            policy,
            root=root,
            collateral=collateral,
            model_digest=model_digest,
            request_size=request_size,
            unlinkable=unlinkable,
            clock=clock,
        )
        self._lock = PerProcess(threading.Lock)

    # ---- whom one talks to ------------------------------------------------------------------------------------------

    def attest(self) -> AttestationResult:
        """Ask for new evidence, verify and appraise it.

        Returns
        -------
        AttestationResult

        Raises
        ------
        AttestationError
            If it is not genuine or not what the policy asks for.
        RemoteError
            If the host gave none.
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

    # ---- predictions ------------------------------------------------------------------------------------------------

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
        missing: float = _NAN,
        strict_shape: bool = False,
        receipt: bool = False,
    ) -> FloatArray | tuple[FloatArray, tuple[PredictionReceipt, ...]]:
        """Predict; the same values and shapes as :meth:`confidential_ml.ConfidentialModel.predict`.

        Parameters
        ----------
        X, output_margin, iteration_range, base_margin, missing, strict_shape
            As there.
        receipt
            Return receipts too, which the enclave signs.

        Returns
        -------
        numpy.ndarray, or numpy.ndarray and tuple of PredictionReceipt
            float32, shape (n,) for one output per row, else (n, outputs). No rows give shape (0, 0).

        Raises
        ------
        AttestationError
            If the enclave is not genuine or not what the policy asks for. Nothing was sent to it.
        InvalidInputError
            If an argument has the wrong shape, dtype or range.
        EnclaveError
            If the enclave no longer has the model, or failed.
        RequestUnreadableError
            If the enclave cannot read what is sent, and has no new key: somebody changes it on the way.
        RemoteError
            If the transport failed, the host refused (`RemoteBusyError`: try later), or the reply is not the
            enclave's.
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

    # ---- models -----------------------------------------------------------------------------------------------------

    def provision(
        self,
        model: Any,
        *,
        model_id: str,
        policy: SealingPolicy = "mrenclave",
        version: int = 0,
        owner_key: Ed25519PrivateKey | None = None,
    ) -> Receipt:
        """Send a model that nobody but the enclave can read; the enclave seals it and leaves it with the host.

        Parameters
        ----------
        model, model_id, policy
            As for :func:`confidential_ml.seal`.
        version
            From 0; orders the models of one owner.
        owner_key
            The owner's Ed25519 key, which signs model, version and id; None for a model of nobody's.

        Returns
        -------
        Receipt
            Verified. To show later that this enclave sealed this model takes the evidence that
            :meth:`provision_with_evidence` gives along; :attr:`evidence` may be of another epoch by then.

        Raises
        ------
        AttestationError, RequestUnreadableError, RemoteError
            As for :meth:`predict`. A host that takes no models refuses with `RemoteError`.
        ModelFormatError
            If the model is not one XGBoost writes, or is over a limit.
        InvalidInputError
            If an argument has the wrong form.
        SealError, EnclaveError
            If the enclave could not seal it.
        """
        return self.provision_with_evidence(
            model, model_id=model_id, policy=policy, version=version, owner_key=owner_key
        )[0]

    def provision_with_evidence(
        self,
        model: Any,
        *,
        model_id: str,
        policy: SealingPolicy = "mrenclave",
        version: int = 0,
        owner_key: Ed25519PrivateKey | None = None,
    ) -> tuple[Receipt, bytes, Collateral]:
        """As :meth:`provision`, with the evidence that names the receipt's key, and what that was verified with.

        Raises
        ------
        AttestationError, RequestUnreadableError, RemoteError, ModelFormatError, InvalidInputError
            As for :meth:`provision`.
        SealError, EnclaveError
            As for :meth:`provision`.
        """
        steps = self._session.provision(model, model_id=model_id, policy=policy, version=version, owner_key=owner_key)
        receipt, attested = self._run(steps)
        return receipt, attested.evidence, attested.collateral

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._perform)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            try:
                return self._transport(step.message)
            except Exception as error:
                raise RemoteError(f"the transport failed: {type(error).__name__}") from error
        assert isinstance(step, Alone)  # there are no pauses where nothing is sent again
        with self._lock.get():
            return self._run(step.steps)

    def __repr__(self) -> str:
        return f"<confidential_ml.RemoteModel{',' if self._session.attested is None else ''} {self._session.state()}>"

    def _repr_html_(self) -> str:
        attested = self._session.attested  # as it is: a card asks nobody
        if attested is None:
            return card.render("RemoteModel", card.unverified_banner("Not attested yet: nothing was sent"), [])
        return attested.result._repr_html_()
