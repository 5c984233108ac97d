"""The client's half of docs/protocol.md 7 without any input or output: it says what to send, and is told the reply.

Each call is a generator (`Steps`) that yields what is to be done next and receives the outcome. Who drives it, with
threads or with an event loop, decides how messages travel, how one waits and what a lock is.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
    AttestationError,
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
from confidential_ml.hpke import Encapsulation
from confidential_ml.owner import checked_owner_key, owner_id, sign_model
from confidential_ml.protocol import ANSWER_OVERHEAD, SUITE, VERSION, Kind, Operation, Result
from confidential_ml.receipt import Receipt, verify_receipt
from confidential_ml.request import OwnerSignature, Request, encapsulation_to, predict_request, provision_request
from confidential_ml.rows import FloatArray, as_base_margin, as_rows
from confidential_ml.sealed_file import SealingPolicy
from confidential_ml.statuses import error_of
from confidential_ml.xgboost_format import to_flat_model

__all__ = [
    "REQUEST_SIZE",
    "Again",
    "Alone",
    "Attested",
    "Ended",
    "Pause",
    "PredictionReceipt",
    "RemoteSession",
    "Send",
    "Step",
    "Steps",
    "advance",
    "once",
    "run",
]

T = TypeVar("T")

REQUEST_SIZE = 4 << 20
_NONCE_SIZE = 32
_EVIDENCE, _REQUEST = (
    VERSION.to_bytes(2, "little") + one.to_bytes(2, "little") for one in (Operation.EVIDENCE, Operation.REQUEST)
)
_REPLY_HEADER_SIZE = 4
_RESULTS = {VERSION.to_bytes(2, "little") + one.to_bytes(2, "little"): one for one in Result}
# Evidence has at most 256 KiB; collateral, CRLs in hexadecimal and documents as JSON text within JSON, below 3 MiB.
_MAX_EVIDENCE_REPLY = 4 << 20
_FLOAT32_SIZE = 4
_LITTLE_ENDIAN = np.dtype("<f4")
_MILLISECOND = datetime.timedelta(milliseconds=1)
_EPOCH_1970 = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_logger = logging.getLogger("confidential_ml")


# ---- what a driver is asked to do -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Send:
    """Take a message to the host; the outcome is its reply.

    Attributes
    ----------
    message
        The bytes.
    max_reply_size
        Bytes that the reply can have at most; what is longer is none.
    kind
        Of the request in it; None for a question for evidence.
    """

    message: bytes = field(repr=False)
    max_reply_size: int
    kind: Kind | None


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Alone:
    """Take these steps while no other call on the same session is in such; the outcome is their result."""

    steps: Generator[Any, Any, Any]


Step = Send | Pause | Alone
Steps = Generator[Step, Any, T]


class Ended:
    """What `advance` returns in the place of a step when there is none left."""

    def __init__(self, value: Any) -> None:
        self.value = value


def advance(steps: Steps[Any], outcome: Any, error: BaseException | None) -> Step | Ended:
    """Tell steps the outcome of the last one, or with which error it failed; the next step, or their result.

    The first outcome is None. Returned, not raised: a StopIteration gets lost between threads and tasks.
    """
    try:
        return steps.send(outcome) if error is None else steps.throw(error)
    except StopIteration as end:
        return Ended(end.value)


def run(steps: Steps[T], perform: Callable[[Step], Any]) -> T:
    """Take all steps, one after the other, in this thread.

    Parameters
    ----------
    perform
        Does what a step asks for and returns the outcome; what it raises, the steps are told.
    """
    outcome: Any = None
    error: BaseException | None = None
    try:
        while True:
            step = steps.send(outcome) if error is None else steps.throw(error)
            outcome, error = None, None
            try:
                outcome = perform(step)
            except BaseException as failure:
                error = failure
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        # Else the error and the frames in its traceback would keep each other alive.
        del error
        steps.close()


Again = Callable[[Callable[[], Steps[Any]], Kind | None], Steps[Any]]
"""Takes an attempt at a message and the kind of request; attempts it as often as that is safe and helps."""


def once(attempt: Callable[[], Steps[Any]], _: Kind | None) -> Steps[Any]:
    """One attempt, whatever comes of it."""
    return attempt()


# ---- what is known --------------------------------------------------------------------------------------------------


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
class Attested:
    """An enclave that was verified and accepted, with what, and until when that holds."""

    evidence: bytes
    collateral: Collateral
    result: AttestationResult
    expiry: datetime.datetime

    @property
    def claims(self) -> Claims:
        """What the enclave says about itself."""
        return self.result.claims

    @functools.cached_property
    def models(self) -> dict[str, ModelClaim]:
        """The models that the policy accepts, by digest."""
        return {one.model_digest: one for one in self.result.models}

    @functools.cached_property
    def encapsulation(self) -> Encapsulation:
        """What linkable requests share that this attestation is good for."""
        return encapsulation_to(self.claims)

    def holds_at(self, moment: datetime.datetime) -> bool:
        """Whether it need not be verified again."""
        # A clock that was set back says nothing about how old this is.
        return self.result.verified_at <= moment < self.expiry

    def has_key_of(self, other: Attested) -> bool:
        """Whether it is the same enclave in the same epoch."""
        return self.claims.epoch_digest == other.claims.epoch_digest


@dataclass(slots=True)
class _Batch:
    """A call of predict, its arguments converted."""

    model: ModelClaim
    rows: FloatArray
    base_margin: FloatArray | None
    columns: int
    output_margin: bool
    round_range: tuple[int, int]
    wants_receipt: bool
    unlinkable: bool

    def parts(self, size: int) -> Iterator[slice]:
        """Rows that go into one request each, of about `size` bytes to or from the enclave; no rows are one part."""
        n_rows, features = self.rows.shape
        groups = 0 if self.base_margin is None else self.model.n_groups
        step = max(1, size // (_FLOAT32_SIZE * max(features + groups, self.columns)))
        for start in range(0, max(n_rows, 1), step):
            yield slice(start, min(start + step, n_rows))

    def request(self, attested: Attested, part: slice, time: int) -> Request:
        groups, margins = self.model.n_groups, self.base_margin
        return predict_request(
            attested.result.claims,
            self.model.model_digest,
            self.rows[part],
            columns=self.columns,
            output_margin=self.output_margin,
            round_range=self.round_range,
            base_margin=None if margins is None else margins[part.start * groups : part.stop * groups],
            wants_receipt=self.wants_receipt,
            time=time,
            encapsulation=None if self.unlinkable else attested.encapsulation,
        )


class RemoteSession:
    """An enclave at the other end of some transport: whom one talks to, and what is said.

    Parameters
    ----------
    policy, root, collateral, model_digest, request_size, unlinkable, clock
        As for :class:`confidential_ml.RemoteModel`.
    again
        How attempts that fail are made again; by default never.

    Raises
    ------
    InvalidInputError
        If an argument has another type or form.
    """

    def __init__(
        self,
        policy: AttestationPolicy,
        *,
        root: TrustRoot,
        collateral: Collateral | None,
        model_digest: str | None,
        request_size: int,
        unlinkable: bool,
        clock: Callable[[], datetime.datetime] | None,
        again: Again = once,
    ) -> None:
        if not isinstance(policy, AttestationPolicy):
            raise InvalidInputError(f"policy must be an AttestationPolicy, not {type(policy).__name__}")
        if not isinstance(root, TrustRoot):
            raise InvalidInputError(f"root must be a TrustRoot, not {type(root).__name__}")
        if collateral is not None and not isinstance(collateral, Collateral):
            raise InvalidInputError(f"collateral must be a Collateral, not {type(collateral).__name__}")
        if type(request_size) is not int or request_size < 1:
            raise InvalidInputError("request_size must be a whole number of bytes, at least 1")
        if type(unlinkable) is not bool:
            raise InvalidInputError(f"unlinkable must be True or False, not a {type(unlinkable).__name__}")
        self._policy = policy
        self._root = root
        self._collateral = collateral
        self._model_digest = None if model_digest is None else checked_digest(model_digest, "model_digest")
        self._request_size = request_size
        self._unlinkable = unlinkable
        self._clock = clock
        self._again = again
        self.attested: Attested | None = None
        self.attestation_count = 0

    # ---- whom one talks to ------------------------------------------------------------------------------------------

    def attest(self) -> Steps[Attested]:
        """Ask for new evidence, verify and appraise it."""
        attested: Attested = yield Alone(self._attest("asked for"))
        return attested

    def fresh(self) -> Steps[Attested]:
        """The enclave in use, as it was last verified; asks for evidence if that has not been done or has expired."""
        attested = self._held()
        if attested is None:
            reason = "the former attestation has expired"
            if self.attested is None:
                reason = "the first time" if self.attestation_count == 0 else "the last attestation was refused"
            attested = yield Alone(self._attest_unless_held(reason))
        return attested

    def _held(self) -> Attested | None:
        attested = self.attested
        return attested if attested is not None and attested.holds_at(self._now()) else None

    def _attest_unless_held(self, reason: str) -> Steps[Attested]:
        # Another call may have done it meanwhile.
        return self._held() or (yield from self._attest(reason))

    def _attest_unless_rekeyed(self, former: Attested) -> Steps[Attested]:
        """With another key than `former`, if the enclave has one."""
        attested = self._held()
        # With the same key, though newer, it may still be from before the key was changed.
        if attested is not None and not attested.has_key_of(former):
            return attested
        return (yield from self._attest("it could not read a request"))

    def _attest(self, reason: str) -> Steps[Attested]:
        nonce = secrets.token_bytes(_NONCE_SIZE)
        body = yield from self._again(lambda: self._evidence(nonce), None)
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
        try:
            result = attest(evidence, collateral, self._policy, nonce=nonce, root=self._root, now=now)
        except AttestationError:
            # What was accepted before is no longer: the next call asks again.
            self.attested = None
            raise
        if not result.claims.suites >> (SUITE - 1) & 1:
            raise RemoteError("the enclave offers no cipher suite that this release has; use a newer release")
        expiry = result.earliest_expiry
        if self._policy.max_age is not None:
            expiry = min(expiry, result.verified_at + self._policy.max_age)
        self.attested = Attested(evidence, collateral, result, expiry)
        self.attestation_count += 1
        _logger.info(
            "attested the remote enclave (%s): MRENCLAVE %s, epoch %d", reason, result.mrenclave, result.claims.epoch
        )
        return self.attested

    def _evidence(self, nonce: bytes) -> Steps[bytes]:
        result, body = _read_reply((yield Send(_EVIDENCE + nonce, _MAX_EVIDENCE_REPLY, None)))
        if result is not Result.OK:
            raise _refusal(result, None)
        return body

    # ---- predictions ------------------------------------------------------------------------------------------------

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool,
        iteration_range: tuple[int, int] | None,
        base_margin: Any,
        missing: float,
        strict_shape: bool,
        receipt: bool,
    ) -> Steps[tuple[FloatArray, tuple[PredictionReceipt, ...]]]:
        """Predictions, and receipts if wanted; arguments as of :meth:`confidential_ml.RemoteModel.predict`."""
        wants_receipt, strict_shape = checked_flag(receipt, "receipt"), checked_flag(strict_shape, "strict_shape")
        output_margin = checked_flag(output_margin, "output_margin")
        round_range = checked_round_range(iteration_range)
        attested = self._held()
        if attested is None:
            attested = yield from self.fresh()
        elif self._lacks_model(attested):
            # It may have been loaded since, or provisioned by this very client.
            attested = yield Alone(self._attest("it had not the model"))
        model = self._model_of(attested)
        rows = as_rows(X, model.n_features, missing)
        margins = as_base_margin(base_margin, rows.shape[0], model.n_groups)
        columns = model.n_groups if output_margin else model.n_values
        batch = _Batch(
            model=model,
            rows=rows,
            base_margin=None if margins is None else margins.reshape(-1),
            columns=columns,
            output_margin=output_margin,
            round_range=round_range,
            wants_receipt=wants_receipt,
            unlinkable=self._unlinkable,
        )
        predictions = np.empty((rows.shape[0], columns), dtype=np.float32)
        receipts = []
        for part in batch.parts(self._request_size):
            one = yield from self._predict_part(batch, part, predictions[part])
            if one is not None:
                receipts.append(one)
        return shaped_like_xgboost(predictions, strict_shape=strict_shape), tuple(receipts)

    def _predict_part(self, batch: _Batch, part: slice, predictions: FloatArray) -> Steps[PredictionReceipt | None]:
        """Fill in the predictions of some rows."""
        time = self._time() if batch.wants_receipt else 0

        def build(attested: Attested) -> Request:
            return batch.request(attested, part, time)

        attested, request, answer = yield from self._exchange(build, Kind.PREDICT, batch.model)
        if len(answer.content) != predictions.nbytes or bool(answer.receipt) != batch.wants_receipt:
            raise RemoteError("the enclave's answer is not of the size that was asked for; they do not match")
        predictions[:] = np.frombuffer(answer.content, dtype=_LITTLE_ENDIAN).reshape(predictions.shape)
        if not batch.wants_receipt:
            return None
        receipt = _checked_receipt(attested, request, answer)
        # Of several that are loaded with this digest any may have answered: what they predict is the same. The one
        # that the policy asks for is among them.
        owned = {(one.owner, one.version) for one in attested.claims.models if one.model_digest == receipt.model_digest}
        if (
            (receipt.kind, receipt.time) != (Kind.PREDICT, time)
            or receipt.model_digest != batch.model.model_digest
            or (receipt.owner, receipt.model_version) not in owned
        ):
            raise ReceiptError("the receipt is not of what was asked for: model, owner, version or time differ")
        return PredictionReceipt(receipt, part, answer.blind, attested.evidence, attested.collateral)

    def _lacks_model(self, attested: Attested) -> bool:
        return not attested.models if self._model_digest is None else self._model_digest not in attested.models

    def _model_of(self, attested: Attested) -> ModelClaim:
        """The model to predict with, of those that the policy accepts."""
        models = attested.models
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
        policy: SealingPolicy,
        version: int,
        owner_key: Ed25519PrivateKey | None,
        again: Again | None = None,
    ) -> Steps[tuple[Receipt, Attested]]:
        """The receipt, and whose it is; the arguments are those of :meth:`confidential_ml.RemoteModel.provision`."""
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

        def build(attested: Attested) -> Request:
            return provision_request(
                attested.claims,
                flat,
                model_digest=digest,
                model_id=model_id,
                policy=policy,
                version=version,
                owner=owner,
                time=time,
            )

        yield from self.fresh()  # outside of what is attempted again, which this does by itself
        attested, request, answer = yield from self._exchange(build, Kind.PROVISION, None, again)
        if answer.content or not answer.receipt:
            raise RemoteError("the enclave's answer is not one to a provisioned model; client and enclave do not match")
        receipt = _checked_receipt(attested, request, answer)
        expected = (Kind.PROVISION, policy, time, digest, version, None if owner is None else owner.owner)
        found = (receipt.kind, receipt.policy, receipt.time, receipt.model_digest, receipt.model_version, receipt.owner)
        if found != expected:
            raise ReceiptError("the receipt is not of what was sent: model, owner, version, policy or time differ")
        return receipt, attested

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def _exchange(
        self, build: Callable[[Attested], Request], kind: Kind, model: ModelClaim | None, again: Again | None = None
    ) -> Steps[tuple[Attested, Request, Answer]]:
        """Send a request, again if the enclave's key has changed meanwhile; who answered, and a success."""
        again = again or self._again
        attempt = functools.partial(self._ask, build, model)
        attested, request, answer = yield from again(attempt, kind)
        if answer is None:
            former = attested
            attested = yield Alone(self._attest_unless_rekeyed(former))
            _check_is_there(model, attested)
            if attested.has_key_of(former):
                raise RequestUnreadableError(
                    "the enclave cannot read the request and has no new key: the request is changed or sent twice on "
                    "its way; check what lies between here and the host"
                )
            attested, request, answer = yield from again(attempt, kind)
        if answer is None:
            raise RequestUnreadableError(
                "the enclave cannot read the request, encrypted anew to its new key, either; check what lies between "
                "here and the host"
            )
        if answer.status:
            raise error_of(answer.status)
        return attested, request, answer

    def _ask(
        self, build: Callable[[Attested], Request], model: ModelClaim | None
    ) -> Steps[tuple[Attested, Request, Answer | None]]:
        """Whom was asked, what, encrypted anew each time, and the answer; None if the enclave could not read it."""
        # At each attempt: since the last one, or since the call began, the attestation may have expired.
        attested = self._held() or (yield from self.fresh())
        _check_is_there(model, attested)
        request = build(attested)
        message = b"".join((_REQUEST, request.head, request.sealed))
        reply = yield Send(message, _REPLY_HEADER_SIZE + ANSWER_OVERHEAD + request.answer_size, request.kind)
        result, body = _read_reply(reply)
        if result is Result.OK:
            return attested, request, open_answer(request, body)
        if result is Result.UNREADABLE:
            return attested, request, None
        raise _refusal(result, request.kind)

    def state(self) -> str:
        """Whom one talks to, in a few words."""
        if self.attested is None:
            return "not attested yet"
        claims = self.attested.claims
        return f"{claims.platform}, MRENCLAVE {card.short(self.attested.result.mrenclave)}, epoch {claims.epoch}"

    def _time(self) -> int:
        return max(0, (self._now() - _EPOCH_1970) // _MILLISECOND)

    def _now(self) -> datetime.datetime:
        if self._clock is None:
            return datetime.datetime.now(datetime.UTC)
        told = self._clock()
        if told is None:
            raise InvalidInputError("clock must return a datetime with a time zone; it returned None")
        return checked_now(told)


def _read_reply(reply: object) -> tuple[Result, bytes]:
    if not isinstance(reply, bytes):
        raise RemoteError(f"the transport returned {type(reply).__name__}, not bytes")
    result = _RESULTS.get(reply[:_REPLY_HEADER_SIZE])
    if result is None:
        raise RemoteError("the reply is not one of the protocol; check that the transport reaches an endpoint")
    if result is not Result.OK and len(reply) > _REPLY_HEADER_SIZE:
        raise RemoteError("the reply reports a failure and holds more; it was changed or is no host's reply")
    return result, reply[_REPLY_HEADER_SIZE:]


def _check_is_there(model: ModelClaim | None, attested: Attested) -> None:
    """The evidence may be newer than that by which the model was chosen."""
    if model is not None and model not in attested.result.models:
        raise EnclaveError("the enclave no longer has the model, or now has it from another owner; predict again")


def _refusal(result: Result, kind: Kind | None) -> RemoteError:
    if result is Result.TRY_LATER:
        return RemoteBusyError("the host has no room for this now or is replacing its enclave; try again later")
    if kind is not Kind.PROVISION:
        return RemoteError("the host refused the message: it is too long for it, or of a kind it does not take")
    return RemoteError(
        "the host does not take the model: it takes none at all (ConfidentialEndpoint without store=), or none so "
        "large, the id is another owner's, this version of it exists (give a higher one), or there is no room"
    )


def _checked_receipt(attested: Attested, request: Request, answer: Answer) -> Receipt:
    is_prediction = request.kind is Kind.PREDICT
    return verify_receipt(
        answer.receipt,
        attested.claims,
        attested.result.mrenclave,
        request=request.message,
        answer=answer.content if is_prediction else None,
        blind=answer.blind if is_prediction else None,
    )
