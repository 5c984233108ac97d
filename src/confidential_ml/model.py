"""Sealing models and predicting with them."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from confidential_ml import card
from confidential_ml.arguments import (
    checked_digest,
    checked_flag,
    checked_model_id,
    checked_policy,
    checked_round_range,
    checked_version,
    shaped_like_xgboost,
    shown,
)
from confidential_ml.enclave import Enclave, default_enclave
from confidential_ml.errors import EnclaveError, InvalidInputError, SealError, WrongEnclaveError
from confidential_ml.flat_model import BOOSTER_NAMES, OBJECTIVE_NAMES
from confidential_ml.identity import EnclaveIdentity
from confidential_ml.owner_key import check_owner_key
from confidential_ml.regular_file import checked_path
from confidential_ml.rows import FloatArray, as_base_margin, as_rows
from confidential_ml.sealed_file import POLICIES, SealedInfo, SealingPolicy, parse_header, read_sealed, write_sealed
from confidential_ml.xgboost_format import to_flat_model

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_THREADS = 1 << 16
_NAN = float("nan")  # by its identity predict() knows that `missing` was not given


def seal(
    model: Any,
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    model_id: str = "model",
    policy: SealingPolicy = "mrenclave",
    version: SupportsIndex = 0,
    owner_key: Ed25519PrivateKey | None = None,
    enclave: Enclave | None = None,
) -> SealedInfo:
    """Encrypt an XGBoost model so that only this enclave on this CPU can read it, and write it to `path`.

    An existing file is replaced atomically; of a symbolic link, the file it leads to.

    Parameters
    ----------
    model
        An ``xgboost.Booster`` or scikit-learn style ``XGBModel``, the path of a model saved as JSON or UBJSON, or the
        bytes of one.
    path
        Where the sealed model goes.
    model_id
        1 to 64 characters of ``A-Z a-z 0-9 . _ -``, the first a letter or digit. Stored in clear.
    policy
        ``"mrenclave"``: only this very image opens it. ``"mrsigner"``: so does any later version (SVN not lower) of
        the same product by the same signer.
    version
        Version of the model as its owner counts, 0 to 2**64 - 1; :meth:`ConfidentialModel.load_sealed` can ask for a
        least one.
    owner_key
        Signs digest, version and id of the model (docs/protocol.md section 5); the public half goes into the file.
    enclave
        The enclave to seal in; the one of the process if not given.

    Returns
    -------
    SealedInfo
        The header of the file written.

    Raises
    ------
    ModelFormatError
        If the model is not one XGBoost writes, or is over a limit of docs/formats.md.
    InvalidInputError
        For a wrong `path`, `model_id`, `policy`, `version` or `owner_key`, a `model` that is none of the above, and one
        that names a file which is not there or cannot be read.
    SealError
        If there is no sealing key or the file cannot be written.
    EnclaveError
        If there is no enclave, or it has no room.
    """
    where = checked_path(path, "path")
    _check_apart(model, where)
    policy_number, name = checked_policy(policy), checked_model_id(model_id)
    number = checked_version(version, "version")
    _check_owner_key(owner_key)
    flat = to_flat_model(model)
    owner = b"" if owner_key is None else _signed(owner_key, flat, number, model_id)
    used = _enclave_or_default(enclave)
    sealed = used._core.seal_model(flat, name, policy_number, number, owner)
    write_sealed(where, sealed)
    return parse_header(sealed, where)


def seal_flat(flat: bytes, path: str, *, model_id: str, policy: SealingPolicy, version: int, enclave: Enclave) -> None:
    """As :func:`seal`, a flat model of nobody's."""
    sealed = enclave._core.seal_model(
        flat, checked_model_id(model_id), checked_policy(policy), checked_version(version), b""
    )
    write_sealed(path, sealed)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a loaded model.

    Attributes
    ----------
    model_id, model_digest
        Name and SHA-256 (hexadecimal) of the flat model.
    booster, objective
        As XGBoost names them.
    n_features
        Columns of the rows that :meth:`ConfidentialModel.predict` takes.
    n_groups
        Margins per row: classes, targets, quantiles or 1.
    n_values
        Values per row that :meth:`ConfidentialModel.predict` gives without ``output_margin``.
    n_trees, n_rounds, n_nodes, depth
        Size of the model; a ``gblinear`` model has no trees.
    plan_size
        Bytes of enclave memory that the model takes.
    policy
        The sealing policy it was opened under.
    owner, model_version
        Ed25519 public key (hexadecimal) of the owner who signed it, None if nobody did; the version it is of.
    enclave
        Identity of the enclave that holds it.
    """

    model_id: str
    model_digest: str
    booster: str
    objective: str
    n_features: int
    n_groups: int
    n_values: int
    n_trees: int
    n_rounds: int
    n_nodes: int
    depth: int
    plan_size: int
    policy: SealingPolicy
    owner: str | None
    model_version: int
    enclave: EnclaveIdentity

    @property
    def mrenclave(self) -> str:
        """MRENCLAVE of the enclave that holds the model, hexadecimal."""
        return self.enclave.mrenclave

    @property
    def platform(self) -> str:
        """Platform of the enclave that holds the model."""
        return self.enclave.platform

    def _repr_html_(self) -> str:
        return self._card("what is known of it")

    def _card(self, note: str) -> str:
        rows = [
            ("model digest", self.model_digest),
            ("objective", f"{self.objective} ({self.booster})"),
            ("features, groups", f"{self.n_features}, {self.n_groups}"),
            ("trees, rounds, depth", f"{self.n_trees}, {self.n_rounds}, {self.depth}"),
            ("memory in the enclave", card.byte_size(self.plan_size)),
            ("sealing policy", self.policy),
            ("owner, version", f"{card.short(self.owner) if self.owner else 'nobody'}, {self.model_version}"),
        ]
        return card.of_enclave(self.model_id, self.enclave, rows, note=note)


class ConfidentialModel:
    """A model inside an enclave. Made by :meth:`load_sealed`; safe to use from any number of threads."""

    def __init__(self, enclave: Enclave, loaded: _Loaded) -> None:
        self._enclave = enclave
        self._core = enclave._core
        self._loaded = loaded
        self._finalizer = loaded.finalizer
        (handle,) = loaded.handles
        self._handle = handle
        fields = self._core.describe_model(handle)
        self._n_features = fields["n_features"]
        self._n_groups = fields["n_groups"]
        self._n_columns = fields["n_columns"]
        self._predict_rows = self._core.row_function(
            handle, self._n_features, self._n_groups, self._n_columns, fields["n_nodes"]
        )
        self._info = ModelInfo(
            model_id=fields["model_id"],
            model_digest=fields["digest"].hex(),
            booster=BOOSTER_NAMES[fields["booster"]],
            objective=OBJECTIVE_NAMES[fields["objective"]],
            n_features=fields["n_features"],
            n_groups=fields["n_groups"],
            n_values=fields["n_columns"],
            n_trees=fields["n_trees"],
            n_rounds=fields["n_rounds"],
            n_nodes=fields["n_nodes"],
            depth=fields["depth"],
            plan_size=fields["plan_size"],
            policy={number: name for name, number in POLICIES.items()}[fields["policy"]],
            owner=fields["owner"].hex() if any(fields["owner"]) else None,
            model_version=fields["model_version"],
            enclave=enclave.identity,
        )

    @classmethod
    def load_sealed(
        cls,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        enclave: Enclave | None = None,
        expected_digest: str | None = None,
        owner: str | None = None,
        min_version: SupportsIndex | None = None,
    ) -> ConfidentialModel:
        """Open a sealed model in an enclave.

        Parameters
        ----------
        path
            A file written by :func:`confidential_ml.seal`.
        enclave
            The enclave to load it into; the one of the process if not given.
        expected_digest
            ``info.model_digest`` of the model that it must be. Who can call the enclave can seal another model under
            the same id; this tells them apart.
        owner
            Ed25519 public key, hexadecimal, of the owner who must have signed it.
        min_version
            The least ``info.model_version`` to accept. Only with `owner` does a version say anything.

        Raises
        ------
        WrongEnclaveError
            If it was sealed by another enclave, by a newer version of this one, on another machine or platform.
        DamagedSealedModelError
            If it is no sealed model, or some of its bytes were changed, lost or added.
        UnsupportedVersionError
            If it is of another format version.
        SealError
            If the file cannot be read, or holds another model than `expected_digest`, `owner` and `min_version` say.
        InvalidInputError
            If `path` cannot be a path, `expected_digest` is no digest, `owner` no public key, or `min_version` comes
            without `owner`.
        EnclaveError
            If there is no enclave, or it has no room.
        """
        expected = _Expected(
            None if expected_digest is None else checked_digest(expected_digest, "expected_digest"),
            None if owner is None else _checked_owner(owner),
            None if min_version is None else checked_version(min_version, "min_version"),
        )
        where = checked_path(path, "path")
        sealed = read_sealed(where)
        used = _enclave_or_default(enclave)
        loaded = _Loaded(used)
        try:
            used._core.load_model(sealed, loaded.handles)
        except SealError as error:
            raise _explain(error, sealed, where, used.identity) from None
        model = cls(used, loaded)
        wrong = expected.wrong(model.info)
        if wrong:
            model.close()
            raise SealError(f"{where} holds another model: {wrong}; get the file again from the model's owner")
        return model

    @property
    def info(self) -> ModelInfo:
        """Name, digest, shape and size of the model, and the enclave that holds it."""
        return self._info

    @property
    def enclave(self) -> Enclave:
        """The enclave that holds the model."""
        return self._enclave

    @property
    def is_open(self) -> bool:
        """False once closed, or once its enclave is."""
        return self._finalizer.alive and self._core.is_open

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
        base_margin: Any = None,
        missing: float = _NAN,
        strict_shape: bool = False,
        n_threads: SupportsIndex | None = None,
    ) -> FloatArray:
        """Predict; the same bits and the same shape as ``xgboost.Booster.predict`` of XGBoost 3.4.

        Also for a model that was sealed from an estimator: probabilities instead of labels, and all rounds. An
        estimator that stopped early uses ``iteration_range=(0, best_iteration + 1)``.

        Parameters
        ----------
        X
            Rows, shape (n, ``info.n_features``), real numbers. A C-contiguous float32 array is passed on without a
            copy. NaN is a missing value; infinities are ordinary values, as in ``Booster.inplace_predict``.
        output_margin
            Return margins instead of values.
        iteration_range
            Boosting rounds ``[begin, end)``; ``end`` 0 means all. Without effect on ``gblinear``, except that
            ``begin`` must be 0.
        base_margin
            Margins to start from instead of the model's base score, shape (n, groups) or (n * groups,).
        missing
            A number that means "missing" besides NaN.
        strict_shape
            Always return two dimensions.
        n_threads
            Threads to use at most, from 1; all processors this process may run on if not given. A batch is split only
            where that pays, and never into more calls at a time than the enclave has thread slots (TCS).

        Returns
        -------
        numpy.ndarray
            float32, shape (n,) for one output per row, else (n, outputs). No rows give shape (0, 0), as in XGBoost.

        Raises
        ------
        InvalidInputError
            If an argument has the wrong shape, dtype or range.
        EnclaveError
            If the model or its enclave was closed, or the process forked since.
        """
        if (
            base_margin is None
            and missing is _NAN
            and iteration_range is None
            and n_threads is None
            and output_margin is False
            and strict_shape is False
        ):
            values = self._predict_rows(X)
            if values is not NotImplemented:
                return values
        self._check_open()
        output_margin = checked_flag(output_margin, "output_margin")
        strict_shape = checked_flag(strict_shape, "strict_shape")
        rows = as_rows(X, self._n_features, missing)
        begin, end = self._rounds(iteration_range)
        margins = as_base_margin(base_margin, rows.shape[0], self._n_groups)
        columns = self._n_groups if output_margin else self._n_columns
        predictions = self._core.predict(
            self._handle,
            rows,
            self._n_groups,
            columns,
            self._info.n_nodes,
            output_margin,
            begin,
            end,
            margins,
            _thread_count(n_threads),
        )
        return shaped_like_xgboost(predictions, strict_shape=strict_shape)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise EnclaveError("the model is closed; load the sealed file again")

    def _rounds(self, iteration_range: tuple[int, int] | None) -> tuple[int, int]:
        begin, end = checked_round_range(iteration_range)
        if self._info.booster == "gblinear":
            if begin != 0:
                raise InvalidInputError("iteration_range must begin at 0: a gblinear model has no trees to leave out")
            return 0, 0
        last = end or self._info.n_rounds
        if begin > last or last > self._info.n_rounds:
            raise InvalidInputError(
                f"iteration_range is ({begin}, {end}); it must be (begin, end) with begin <= end <= "
                f"{self._info.n_rounds}, the model's rounds"
            )
        return begin, end

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ConfidentialModel cannot be copied or pickled; load the sealed file where it is needed")

    def close(self) -> None:
        """Forget the model; predictions under way in other threads finish. Does nothing the second time."""
        self._predict_rows = _closed
        self._finalizer()

    def __enter__(self) -> ConfidentialModel:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self._info
        state = "" if self.is_open else ", closed"
        label = card.platform_label(info.platform, debug=info.enclave.debug)
        return (
            f"<confidential_ml.ConfidentialModel {info.model_id!r} {info.objective}, {info.n_features} features, "
            f"{label}, MRENCLAVE {card.short(info.mrenclave)}{state}>"
        )

    def _repr_html_(self) -> str:
        return self._info._card("" if self.is_open else "closed")


class _Loaded:
    """The handle of a model, or none yet. The model is unloaded when this goes, whoever got to know the handle."""

    def __init__(self, enclave: Enclave) -> None:
        self.handles: list[int] = []
        self.finalizer = weakref.finalize(self, _unload, enclave._core, self.handles)
        # What is still loaded at exit goes with its enclave; a finalizer of its own would only race with that.
        self.finalizer.atexit = False


def _closed(_: Any) -> Any:
    """In the place of a model's short way: what is wrong is said on the long one."""
    return NotImplemented


@dataclass(frozen=True)
class _Expected:
    """What the caller of load_sealed asks for besides that the file opens."""

    digest: str | None
    owner: str | None
    min_version: int | None

    def __post_init__(self) -> None:
        if self.min_version is not None and self.owner is None:
            raise InvalidInputError("min_version needs owner: a version says nothing unless its owner signed it")

    def wrong(self, info: ModelInfo) -> str:
        if self.digest not in (None, info.model_digest):
            return f"its digest is {info.model_digest}, expected {self.digest}"
        if self.owner not in (None, info.owner):
            return f"its owner is {info.owner or 'nobody'}, expected {self.owner}"
        if self.min_version is not None and info.model_version < self.min_version:
            return f"its version is {info.model_version}, expected at least {self.min_version}"
        return ""


def _check_apart(model: object, where: str) -> None:
    """Refuse to put the sealed model in the place of the model itself."""
    is_same = False
    if isinstance(model, (str, os.PathLike)):
        with contextlib.suppress(OSError, ValueError):  # one of them is not there, or no path
            is_same = os.path.samefile(model, where)
    if is_same:
        raise InvalidInputError(f"{where} is the model that is to be sealed; give the sealed one another path")


def _checked_owner(owner: str) -> str:
    checked = checked_digest(owner, "owner")
    check_owner_key(bytes.fromhex(checked), "owner")
    return checked


def _check_owner_key(owner_key: object) -> None:
    if owner_key is not None:
        from confidential_ml.owner import checked_owner_key

        checked_owner_key(owner_key)


def _signed(owner_key: Ed25519PrivateKey, flat: bytes, version: int, model_id: str) -> bytes:
    """Public key and signature, as enclave_seal_model takes them."""
    from confidential_ml.owner import sign_model

    digest = hashlib.sha256(flat).hexdigest()
    signature = sign_model(owner_key, model_digest=digest, version=version, model_id=model_id)
    return owner_key.public_key().public_bytes_raw() + signature


def _thread_count(n_threads: SupportsIndex | None) -> int:
    if n_threads is None:
        return 0
    try:
        count = operator.index(n_threads)
    except TypeError:
        raise InvalidInputError(f"n_threads must be an integer, not {type(n_threads).__name__}") from None
    if count < 1:
        raise InvalidInputError(f"n_threads is {shown(count)}; at least 1 thread is needed, None means all processors")
    return min(count, _MAX_THREADS)


def _enclave_or_default(enclave: Enclave | None) -> Enclave:
    if enclave is None:
        return default_enclave()
    if not isinstance(enclave, Enclave):
        raise InvalidInputError(f"enclave must be a confidential_ml.Enclave, not {type(enclave).__name__}")
    return enclave


def _unload(core: Any, handles: list[int]) -> None:
    for handle in handles:
        if core.is_open:
            # Closed by another thread between the two lines: the model went with it.
            with contextlib.suppress(EnclaveError):
                core.unload_model(handle)


def _explain(error: SealError, sealed: bytes, where: str, own: EnclaveIdentity) -> SealError:
    """The enclave's answer with the file's name, and for a wrong enclave both identities side by side."""
    text = f"{where}: {error}"
    if isinstance(error, WrongEnclaveError):
        info = parse_header(sealed, where)
        theirs, ours = (info.mrenclave, own.mrenclave) if info.policy == "mrenclave" else (info.mrsigner, own.mrsigner)
        text += (
            f" (sealed for {info.policy.upper()} {theirs}, SVN {info.isv_svn}, {info.platform}; "
            f"this enclave: {ours}, SVN {own.isv_svn}, {own.platform})"
        )
        if (theirs, info.platform) == (ours, own.platform) and info.isv_svn <= own.isv_svn:
            key = "" if own.platform == "openenclave" else ", which in a simulation is another fuse key"
            text += f"; the measurements agree, so it was sealed on another machine{key}"
    return type(error)(text)
