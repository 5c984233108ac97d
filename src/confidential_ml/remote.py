"""A model in somebody else's enclave: verify who it is, send it rows or a model that nobody else can read."""

from __future__ import annotations

import datetime
import hashlib
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confidential_ml import card
from confidential_ml.answer import Answer, open_answer
from confidential_ml.arguments import (
    checked_digest,
    checked_flag,
    checked_model_id,
    checked_policy,
    checked_round_range,
    checked_version,
    shaped_like_xgboost,
)
from confidential_ml.attestation import (
    INTEL_ROOT,
    AttestationPolicy,
    AttestationResult,
    Claims,
    Collateral,
    ModelClaim,
    TrustRoot,
    attest,
)
from confidential_ml.attestation.verify import checked_now
from confidential_ml.errors import (
    EnclaveError,
    InvalidInputError,
    ReceiptError,
    RemoteBusyError,
    RemoteError,
    RequestUnreadableError,
)
from confidential_ml.owner import checked_owner_key, owner_id, sign_model
from confidential_ml.protocol import SUITE, VERSION, Kind, Operation, Result
from confidential_ml.receipt import Receipt, verify_receipt
from confidential_ml.request import OwnerSignature, Request, predict_request, provision_request
from confidential_ml.rows import FloatArray, as_base_margin, as_rows
from confidential_ml.statuses import error_of
from confidential_ml.xgboost_format import to_flat_model

__all__ = ["PredictionReceipt", "RemoteModel", "Transport"]

Transport = Callable[[bytes], bytes]
"""Takes a message to the host and returns its reply; may raise whatever it likes."""

_NONCE_SIZE = 32
_FLOAT32_SIZE = 4
_REQUEST_SIZE = 4 << 20
_NAN = float("nan")
_MILLISECOND = datetime.timedelta(milliseconds=1)
_EPOCH_1970 = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_logger = logging.getLogger("confidential_ml")


@dataclass(frozen=True)
class PredictionReceipt:
    """A receipt of predictions, already verified, with what it takes to verify it again without any connection.

    Attributes
    ----------
    receipt
        What the enclave signed.
    rows
        Which rows of the call it is of; a large call is answered in several parts.
    blind
        32 bytes that open the receipt's hash of the predictions. Whoever has them can try predictions on the receipt.
    evidence, collateral
        Of the enclave that signed it, and what it was verified with.
    """

    receipt: Receipt
    rows: slice
    blind: bytes = field(repr=False)
    evidence: bytes = field(repr=False)
    collateral: Collateral = field(repr=False)


@dataclass(frozen=True)
class _Session:
    """An enclave that was verified and accepted, and until when that holds."""

    evidence: bytes
    collateral: Collateral
    result: AttestationResult
    expiry: datetime.datetime

    @property
    def claims(self) -> Claims:
        return self.result.claims

    def holds_at(self, moment: datetime.datetime) -> bool:
        # A clock that was set back says nothing about how old this is.
        return self.result.verified_at <= moment < self.expiry

    def has_key_of(self, other: _Session) -> bool:
        return self.claims.epoch_digest == other.claims.epoch_digest


@dataclass(frozen=True)
class _Batch:
    """A call of predict, its arguments converted."""

    model: ModelClaim
    rows: FloatArray
    base_margin: FloatArray | None
    output_margin: bool
    round_range: tuple[int, int]
    wants_receipt: bool

    @property
    def columns(self) -> int:
        return self.model.n_groups if self.output_margin else self.model.n_values

    def parts(self, size: int) -> list[slice]:
        """Rows that go into one request each, of about `size` bytes to or from the enclave; no rows are one part."""
        groups = 0 if self.base_margin is None else self.model.n_groups
        bytes_per_row = _FLOAT32_SIZE * max(self.rows.shape[1] + groups, self.columns)
        n_rows, step = self.rows.shape[0], max(1, size // bytes_per_row)
        return [slice(start, min(start + step, n_rows)) for start in range(0, max(n_rows, 1), step)]

    def request(self, claims: Claims, part: slice, time: int) -> Request:
        groups = self.model.n_groups
        margins = self.base_margin
        return predict_request(
            claims,
            self.model.model_digest,
            self.rows[part],
            columns=self.columns,
            output_margin=self.output_margin,
            round_range=self.round_range,
            base_margin=None if margins is None else margins[part.start * groups : part.stop * groups],
            wants_receipt=self.wants_receipt,
            time=time,
        )


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
        request_size: int = _REQUEST_SIZE,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> None:
        if not callable(transport):
            raise InvalidInputError(f"transport must be a function, not {type(transport).__name__}")
        if not isinstance(policy, AttestationPolicy):
            raise InvalidInputError(f"policy must be an AttestationPolicy, not {type(policy).__name__}")
        if not isinstance(root, TrustRoot):
            raise InvalidInputError(f"root must be a TrustRoot, not {type(root).__name__}")
        if collateral is not None and not isinstance(collateral, Collateral):
            raise InvalidInputError(f"collateral must be a Collateral, not {type(collateral).__name__}")
        if type(request_size) is not int or request_size < 1:
            raise InvalidInputError("request_size must be a whole number of bytes, at least 1")
        self._transport = transport
        self._policy = policy
        self._root = root
        self._collateral = collateral
        self._model_digest = None if model_digest is None else checked_digest(model_digest, "model_digest")
        self._request_size = request_size
        self._clock = clock
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._attestation_count = 0

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
        with self._lock:
            return self._attested("asked for").result

    @property
    def attestation(self) -> AttestationResult:
        """The enclave in use, as it was last verified; asks for evidence if that has not been done or has expired."""
        return self._fresh_session().result

    @property
    def evidence(self) -> bytes:
        """The evidence that :attr:`attestation` is of; with it receipts can be verified later."""
        return self._fresh_session().evidence

    @property
    def collateral(self) -> Collateral:
        """What :attr:`evidence` was verified with."""
        return self._fresh_session().collateral

    @property
    def attestation_count(self) -> int:
        """How often an enclave has been verified and accepted so far."""
        return self._attestation_count

    def _fresh_session(self) -> _Session:
        session = self._session
        if session is not None and session.holds_at(self._now()):
            return session
        with self._lock:
            # Another thread may have done it meanwhile.
            if self._session is not None and self._session.holds_at(self._now()):
                return self._session
            return self._attested("the first time" if session is None else "the former attestation has expired")

    def _rekeyed_session(self, former: _Session) -> _Session:
        """A session with another key than `former`, if the enclave has one."""
        with self._lock:
            session = self._session
            # With the same key, though newer, it may still be from before the key was changed.
            if session is not None and session.holds_at(self._now()) and not session.has_key_of(former):
                return session
            return self._attested("it could not read a request")

    def _attested(self, reason: str) -> _Session:
        nonce = secrets.token_bytes(_NONCE_SIZE)
        result, body = self._call(Operation.EVIDENCE, nonce)
        _check_result(result)
        size = int.from_bytes(body[:4], "little")
        evidence, document = body[4 : 4 + size], body[4 + size :]
        if len(body) < 4 or len(evidence) != size:
            raise RemoteError("the reply with the evidence is malformed: it was cut short or is no host's reply")
        collateral = self._collateral
        if collateral is None:
            if not document:
                raise RemoteError("the host sends no collateral along; give RemoteModel its own with collateral=")
            collateral = Collateral.from_json(document)
        now = self._now()
        attested = attest(evidence, collateral, self._policy, nonce=nonce, root=self._root, now=now)
        if not attested.claims.suites >> (SUITE - 1) & 1:
            raise RemoteError("the enclave offers no cipher suite that this release has; use a newer release")
        expiry = attested.earliest_expiry
        if self._policy.max_age is not None:
            expiry = min(expiry, attested.verified_at + self._policy.max_age)
        self._session = _Session(evidence, collateral, attested, expiry)
        self._attestation_count += 1
        _logger.info(
            "attested the remote enclave (%s): MRENCLAVE %s, epoch %d",
            reason,
            attested.mrenclave,
            attested.claims.epoch,
        )
        return self._session

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
        wants_receipt, strict_shape = checked_flag(receipt, "receipt"), checked_flag(strict_shape, "strict_shape")
        output_margin = checked_flag(output_margin, "output_margin")
        round_range = checked_round_range(iteration_range)
        model = self._model_of(self._fresh_session())
        rows = as_rows(X, model.n_features, missing)
        margins = as_base_margin(base_margin, rows.shape[0], model.n_groups)
        batch = _Batch(
            model=model,
            rows=rows,
            base_margin=None if margins is None else margins.reshape(-1),
            output_margin=output_margin,
            round_range=round_range,
            wants_receipt=wants_receipt,
        )
        predictions = np.empty((rows.shape[0], batch.columns), dtype=np.float32)
        parts = batch.parts(self._request_size)
        receipts = tuple(self._predict_part(batch, part, predictions[part]) for part in parts)
        shaped = shaped_like_xgboost(predictions, strict_shape=strict_shape)
        return (shaped, tuple(one for one in receipts if one is not None)) if wants_receipt else shaped

    def _predict_part(self, batch: _Batch, part: slice, predictions: FloatArray) -> PredictionReceipt | None:
        """Fill in the predictions of some rows."""
        time = self._time() if batch.wants_receipt else 0
        session, request, answer = self._exchange(lambda claims: batch.request(claims, part, time), batch.model)
        if len(answer.content) != predictions.nbytes or bool(answer.receipt) != batch.wants_receipt:
            raise RemoteError("the enclave's answer is not of the size that was asked for; they do not match")
        predictions[:] = np.frombuffer(answer.content, dtype="<f4").reshape(predictions.shape)
        if not batch.wants_receipt:
            return None
        receipt = _checked_receipt(session, request, answer)
        owned = {(one.owner, one.version) for one in session.result.models if one.model_digest == receipt.model_digest}
        if (
            (receipt.kind, receipt.time) != (Kind.PREDICT, time)
            or receipt.model_digest != batch.model.model_digest
            or (receipt.owner, receipt.model_version) not in owned
        ):
            raise ReceiptError("the receipt is not of what was asked for: model, owner, version or time differ")
        return PredictionReceipt(receipt, part, answer.blind, session.evidence, session.collateral)

    def _model_of(self, session: _Session) -> ModelClaim:
        """The model to predict with, of those that the policy accepts."""
        models = {one.model_digest: one for one in session.result.models}
        if self._model_digest is not None:
            if self._model_digest not in models:
                raise EnclaveError(
                    f"the enclave has not loaded the model {self._model_digest}, or the policy forbids it"
                )
            return models[self._model_digest]
        if not models:
            raise EnclaveError("the enclave has not loaded any model; ask the operator to load it")
        if len(models) > 1:
            raise InvalidInputError(
                f"the enclave has {len(models)} models that the policy accepts; say which with model_digest="
            )
        return next(iter(models.values()))

    # ---- models -----------------------------------------------------------------------------------------------------

    def provision(
        self,
        model: Any,
        *,
        model_id: str,
        policy: str = "mrenclave",
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
            Verified. With :attr:`evidence` it shows later that this enclave sealed this model.

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
        # Before the model is read, which may take a while.
        checked_model_id(model_id), checked_policy(policy), checked_version(version)
        if owner_key is not None:
            checked_owner_key(owner_key)
        flat = to_flat_model(model)
        digest = hashlib.sha256(flat).hexdigest()
        owner = None
        if owner_key is not None:
            signature = sign_model(owner_key, model_digest=digest, version=version, model_id=model_id)
            owner = OwnerSignature(owner_id(owner_key), signature)
        time = self._time()

        def build(claims: Claims) -> Request:
            return provision_request(
                claims,
                flat,
                model_digest=digest,
                model_id=model_id,
                policy=policy,
                version=version,
                owner=owner,
                time=time,
            )

        session, request, answer = self._exchange(build, None)
        if answer.content or not answer.receipt:
            raise RemoteError("the enclave's answer is not one to a provisioned model; client and enclave do not match")
        receipt = _checked_receipt(session, request, answer)
        expected = (Kind.PROVISION, policy, time, digest, version, None if owner is None else owner.owner)
        found = (receipt.kind, receipt.policy, receipt.time, receipt.model_digest, receipt.model_version, receipt.owner)
        if found != expected:
            raise ReceiptError("the receipt is not of what was sent: model, owner, version, policy or time differ")
        return receipt

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def _exchange(
        self, build: Callable[[Claims], Request], model: ModelClaim | None
    ) -> tuple[_Session, Request, Answer]:
        """Send a request, again if the enclave's key has changed meanwhile; its answer, if that is a success."""
        session = self._fresh_session()
        reply = self._ask(session, build, model)
        if reply is None:
            former, session = session, self._rekeyed_session(session)
            if session.has_key_of(former):
                raise RequestUnreadableError(
                    "the enclave cannot read the request and has no new key: the request is changed or sent twice on "
                    "its way; check what lies between here and the host"
                )
            reply = self._ask(session, build, model)
        if reply is None:
            raise RequestUnreadableError(
                "the enclave cannot read the request, encrypted anew to its new key, either; check what lies between "
                "here and the host"
            )
        request, answer = reply
        if answer.status:
            raise error_of(answer.status)
        return session, request, answer

    def _ask(
        self, session: _Session, build: Callable[[Claims], Request], model: ModelClaim | None
    ) -> tuple[Request, Answer] | None:
        """Request and answer; None if the enclave could not read the request."""
        # The evidence may be newer than that by which the model was chosen.
        if model is not None and model not in session.result.models:
            raise EnclaveError("the enclave no longer has the model, or now has it from another owner; predict again")
        request = build(session.claims)
        result, body = self._call(Operation.REQUEST, request.message)
        if result is Result.UNREADABLE:
            return None
        _check_result(result)
        return request, open_answer(request, body)

    def _call(self, operation: Operation, body: bytes) -> tuple[Result, bytes]:
        message = VERSION.to_bytes(2, "little") + operation.to_bytes(2, "little") + body
        try:
            reply = self._transport(message)
        except Exception as error:
            raise RemoteError(f"the transport failed: {type(error).__name__}") from error
        if not isinstance(reply, bytes):
            raise RemoteError(f"the transport returned {type(reply).__name__}, not bytes")
        number = int.from_bytes(reply[2:4], "little")
        if len(reply) < 4 or reply[:2] != message[:2] or number not in set(Result):
            raise RemoteError("the reply is not one of the protocol; check that the transport reaches an endpoint")
        result = Result(number)
        if result is not Result.OK and len(reply) > 4:
            raise RemoteError("the reply reports a failure and holds more; it was changed or is no host's reply")
        return result, reply[4:]

    def _time(self) -> int:
        return (self._now() - _EPOCH_1970) // _MILLISECOND

    def _now(self) -> datetime.datetime:
        return checked_now(None if self._clock is None else self._clock())

    def __repr__(self) -> str:
        session = self._session
        if session is None:
            return "<confidential_ml.RemoteModel, not attested yet>"
        return (
            f"<confidential_ml.RemoteModel {session.claims.platform}, "
            f"MRENCLAVE {card.short(session.result.mrenclave)}, epoch {session.claims.epoch}>"
        )


def _check_result(result: Result) -> None:
    if result is Result.TRY_LATER:
        raise RemoteBusyError("the host has no room for this now or is replacing its enclave; try again later")
    if result is not Result.OK:
        raise RemoteError(
            "the host refused the message: too long, or of a kind it does not take; or it does not keep the "
            "provisioned model: its id is another owner's, this version of it exists, or there is no room"
        )


def _checked_receipt(session: _Session, request: Request, answer: Answer) -> Receipt:
    is_prediction = request.kind is Kind.PREDICT
    return verify_receipt(
        answer.receipt,
        session.claims,
        session.result.mrenclave,
        request=request.message,
        answer=answer.content if is_prediction else None,
        blind=answer.blind if is_prediction else None,
    )
