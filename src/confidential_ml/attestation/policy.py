"""What a relying party wants: an appraisal policy, in Python or as a TOML file."""

from __future__ import annotations

import datetime
import enum
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from confidential_ml.attestation.claims import ROLLBACKS
from confidential_ml.attestation.files import StrPath, read_small, replace_small
from confidential_ml.attestation.tcb import ADVISORY, TcbStatus
from confidential_ml.errors import InvalidInputError
from confidential_ml.owner_key import check_owner_key

__all__ = ["ANY", "AnyValue", "AttestationPolicy"]


class AnyValue(enum.Enum):
    """The type of :data:`ANY`."""

    ANY = "ANY"

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = AnyValue.ANY
"""Says in a policy that any value will do. There is no other way to leave out who the enclave or the model is."""

_AnyType = Literal[AnyValue.ANY]
_DIGEST_SIZE, _PPID_SIZE = 32, 16
_UINT16, _UINT31, _UINT64 = (1 << 16) - 1, (1 << 31) - 1, (1 << 64) - 1
_MAX_FILE_SIZE = 256 << 10
_MAX_AGE = datetime.timedelta(days=36500)
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]*+")


@dataclass(frozen=True, init=False)
class AttestationPolicy:
    """Which enclaves, on which machines, with which models, are accepted. Every requirement given must be met.

    Parameters
    ----------
    mrenclave, mrsigner
        Accepted measurements of the image, and of its signer: one hexadecimal text, several, or `ANY`. One of the two
        is required. Who gives only `mrsigner` must give `isv_prod_id` and `min_isv_svn` too: one signer signs many
        enclaves.
    isv_prod_id, min_isv_svn
        The product id (or `ANY`) and the least security version.
    accepted_tcb
        Accepted TCB statuses, `TcbStatus` or their texts; only ``"UpToDate"`` by default.
    accepted_advisories
        Intel's advisories (``"INTEL-SA-00289"``) that the caller lives with, or `ANY`; by default none.
    min_tcb_evaluation_number
        The least tcbEvaluationDataNumber of TCB info and QE identity.
    allow_debug
        Accept enclaves whose memory can be read: every simulation. Only `True` does.
    model_digest
        Accepted models (SHA-256, hexadecimal): one, several, or `ANY`. Required, unless `model_owner` is given.
    model_owner, min_model_version
        Accepted owners of the model (Ed25519 public key, hexadecimal), one or several; and the least version, which
        orders the models of one owner and therefore needs `model_owner`.
    max_age
        How long ago the evidence may have been verified when it is appraised; a timedelta or seconds.
    ppids
        Accepted machines (PPID, hexadecimal), one or several; by default all.
    config_digest
        Accepted configurations of the enclave (docs/protocol.md 2.1), one or several; by default all.
    rollback
        Accepted protection against older sealed models, one or several of ``"unprotected"``; by default all.

    Raises
    ------
    InvalidInputError
        If a field has a wrong type or form, naming the field, or if neither enclave nor model is pinned.
    """

    mrenclave: frozenset[str] | _AnyType | None
    mrsigner: frozenset[str] | _AnyType | None
    isv_prod_id: int | _AnyType | None
    min_isv_svn: int | None
    accepted_tcb: frozenset[TcbStatus]
    accepted_advisories: frozenset[str] | _AnyType
    min_tcb_evaluation_number: int | None
    allow_debug: bool
    model_digest: frozenset[str] | _AnyType | None
    model_owner: frozenset[str] | None
    min_model_version: int | None
    max_age: datetime.timedelta | None
    ppids: frozenset[str] | None
    config_digest: frozenset[str] | None
    rollback: frozenset[str] | None

    def __init__(
        self,
        *,
        mrenclave: str | Collection[str] | _AnyType | None = None,
        mrsigner: str | Collection[str] | _AnyType | None = None,
        isv_prod_id: int | _AnyType | None = None,
        min_isv_svn: int | None = None,
        accepted_tcb: str | Collection[str] = (TcbStatus.UP_TO_DATE,),
        accepted_advisories: str | Collection[str] | _AnyType = (),
        min_tcb_evaluation_number: int | None = None,
        allow_debug: bool = False,
        model_digest: str | Collection[str] | _AnyType | None = None,
        model_owner: str | Collection[str] | None = None,
        min_model_version: int | None = None,
        max_age: datetime.timedelta | float | None = None,
        ppids: str | Collection[str] | None = None,
        config_digest: str | Collection[str] | None = None,
        rollback: str | Collection[str] | None = None,
    ) -> None:
        values: dict[str, object] = {
            "mrenclave": _digests_or_any("mrenclave", mrenclave),
            "mrsigner": _digests_or_any("mrsigner", mrsigner),
            "isv_prod_id": isv_prod_id if isv_prod_id is ANY else _integer("isv_prod_id", isv_prod_id, _UINT16),
            "min_isv_svn": _integer("min_isv_svn", min_isv_svn, _UINT16),
            "accepted_tcb": _statuses(accepted_tcb),
            "accepted_advisories": _advisories(accepted_advisories),
            "min_tcb_evaluation_number": _integer("min_tcb_evaluation_number", min_tcb_evaluation_number, _UINT31),
            "allow_debug": _boolean("allow_debug", allow_debug),
            "model_digest": _digests_or_any("model_digest", model_digest),
            "model_owner": _owners(model_owner),
            "min_model_version": _integer("min_model_version", min_model_version, _UINT64),
            "max_age": _age(max_age),
            "ppids": _hexadecimals("ppids", ppids, _PPID_SIZE),
            "config_digest": _hexadecimals("config_digest", config_digest, _DIGEST_SIZE),
            "rollback": _rollbacks(rollback),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_pins()

    def accepts_model(self, digest: str, owner: str | None, version: int) -> bool:
        """Whether a model is one that is accepted: its digest and owner in hexadecimal, and its version."""
        if isinstance(self.model_digest, frozenset) and digest not in self.model_digest:
            return False
        if self.model_owner is None:
            return True
        return owner in self.model_owner and version >= (self.min_model_version or 0)

    def _check_pins(self) -> None:
        if self.mrenclave is None and self.mrsigner is None:
            raise InvalidInputError(
                "the policy says nothing about which enclave: give mrenclave= or mrsigner=, or ANY if any will do"
            )
        is_known_by_signer = self.mrenclave in (None, ANY) and isinstance(self.mrsigner, frozenset)
        if is_known_by_signer and (self.isv_prod_id is None or self.min_isv_svn is None):
            raise InvalidInputError(
                "a policy that knows the enclave by mrsigner= needs isv_prod_id= (or ANY) and min_isv_svn= (0 for "
                "every version): one signer signs many enclaves"
            )
        if self.model_digest is None and self.model_owner is None:
            raise InvalidInputError(
                "the policy says nothing about which model: give model_digest= or model_owner=, or model_digest=ANY "
                "if any will do"
            )
        if self.min_model_version is not None and self.model_owner is None:
            raise InvalidInputError("min_model_version= needs model_owner=: versions order the models of one owner")

    @classmethod
    def from_toml(cls, document: str) -> AttestationPolicy:
        """Read a policy from TOML: the fields by name, ``"ANY"`` for `ANY`, `max_age` in seconds.

        Raises
        ------
        InvalidInputError
            If it is no TOML, a field is unknown, or as for the class.
        """
        try:
            values = tomllib.loads(document)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInputError(f"the policy is not TOML: {error}") from None
        unknown = sorted(values.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise InvalidInputError(
                f"the policy has a field {unknown[0]!a}, which there is not; there are "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        # Their types are checked where all policies are made.
        fields: dict[str, Any] = {name: ANY if value == ANY.value else value for name, value in values.items()}
        return cls(**fields)

    def to_toml(self) -> str:
        """The policy as TOML, fields that say nothing left out; :meth:`from_toml` reads it back as an equal policy."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)

    @classmethod
    def load(cls, path: StrPath) -> AttestationPolicy:
        """Read a policy from a TOML file.

        Raises
        ------
        InvalidInputError
            If the file cannot be read, or as for :meth:`from_toml`.
        """
        where, content = read_small(path, _MAX_FILE_SIZE)
        try:
            return cls.from_toml(content.decode("utf-8"))
        except UnicodeDecodeError:
            raise InvalidInputError(f"{where}: the policy is not UTF-8") from None
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}") from None

    def save(self, path: StrPath) -> None:
        """Write the policy to a TOML file, replacing it at one stroke.

        Raises
        ------
        InvalidInputError
            If it cannot be written.
        """
        replace_small(path, self.to_toml().encode("ascii"))


def _toml(value: object) -> str:
    """A value of a policy; none of its texts holds a character that TOML would escape."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, AnyValue):
        return f'"{value.value}"'
    if isinstance(value, frozenset):
        return f"[{', '.join(sorted(chr(34) + text + chr(34) for text in value))}]"
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        return str(int(seconds) if seconds.is_integer() else seconds)
    return str(value)


def _several(name: str, value: object, expected: str) -> list[str]:
    """One text or several, as a list."""
    found = [value] if isinstance(value, str) else value
    # A generator would be empty the second time, a dict or bytes is a mistake.
    if not isinstance(found, (list, tuple, set, frozenset)) or not all(isinstance(one, str) for one in found):
        raise InvalidInputError(f"{name} must be {expected}, one or several, not {type(value).__name__}")
    return list(found)


def _hexadecimals(name: str, value: object, size: int) -> frozenset[str] | None:
    if value is None:
        return None
    expected = f"{2 * size} hexadecimal digits"
    found = _several(name, value, expected)
    if not found:
        raise InvalidInputError(f"{name} is empty and would refuse everything; leave it out or name what is accepted")
    for one in found:
        if len(one) != 2 * size or not _HEXADECIMAL.fullmatch(one):
            raise InvalidInputError(
                f"{name} must be {expected}, one or several; one has {len(one)} characters: {one[:70]!a}"
            )
    return frozenset(one.lower() for one in found)


def _owners(value: object) -> frozenset[str] | None:
    owners = _hexadecimals("model_owner", value, _DIGEST_SIZE)
    for one in owners or ():
        check_owner_key(bytes.fromhex(one), "model_owner")
    return owners


def _digests_or_any(name: str, value: object) -> frozenset[str] | _AnyType | None:
    if isinstance(value, str) and value == ANY.value:
        raise InvalidInputError(f'{name} is the text "ANY", which stands for anything in TOML alone; pass ANY itself')
    return ANY if value is ANY else _hexadecimals(name, value, _DIGEST_SIZE)


def _integer(name: str, value: object, limit: int) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value <= limit):
        raise InvalidInputError(f"{name} must be a whole number from 0 to {limit}")
    return value


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def _statuses(value: object) -> frozenset[TcbStatus]:
    acceptable = [status for status in TcbStatus if status is not TcbStatus.REVOKED]
    found = _several("accepted_tcb", value, "a TCB status")
    for one in found:
        if one not in acceptable:
            raise InvalidInputError(f"accepted_tcb must be of {', '.join(acceptable)}, not {one[:70]!a}")
    if not found:
        raise InvalidInputError("accepted_tcb is empty and would refuse everything; leave it out for UpToDate only")
    return frozenset(TcbStatus(one) for one in found)


def _advisories(value: object) -> frozenset[str] | _AnyType:
    if value is ANY:
        return ANY
    found = _several("accepted_advisories", value, "an advisory like INTEL-SA-00289")
    for one in found:
        if not ADVISORY.fullmatch(one):
            raise InvalidInputError(f"accepted_advisories must be advisories like INTEL-SA-00289, not {one[:70]!a}")
    return frozenset(found)


def _rollbacks(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    found = _several("rollback", value, "a protection")
    known = list(ROLLBACKS.values())
    if not found or not set(found) <= set(known):
        raise InvalidInputError(f"rollback must be of {', '.join(known)}")
    return frozenset(found)


def _age(value: object) -> datetime.timedelta | None:
    if value is None:
        return None
    expected = f"max_age must be a timedelta or seconds, from 0 to {_MAX_AGE.days} days"
    if isinstance(value, bool) or not isinstance(value, (int, float, datetime.timedelta)):
        raise InvalidInputError(f"{expected}, not {type(value).__name__}")
    try:
        age = value if isinstance(value, datetime.timedelta) else datetime.timedelta(seconds=value)
    except (ValueError, OverflowError):  # NaN, infinity
        raise InvalidInputError(expected) from None
    if not datetime.timedelta(0) <= age <= _MAX_AGE:
        raise InvalidInputError(expected)
    return age
