"""TCB info and QE identity: which security versions Intel calls up to date.

Source: Intel, "SGX and TDX Provisioning Certification Service API", version 4, "Get SGX TCB Info" and "Get SGX QE
Identity".
"""

from __future__ import annotations

import datetime
import enum
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from confidential_ml.attestation.pck_extension import PckExtension
from confidential_ml.attestation.quote import ReportBody
from confidential_ml.attestation.reason import Reason
from confidential_ml.attestation.signed_json import Fields, parse_object
from confidential_ml.errors import AttestationError

__all__ = ["ADVISORY", "QeIdentity", "TcbInfo", "TcbLevel", "TcbStatus", "merged_status"]

ADVISORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_COMPONENTS = 16
_MAX_LEVELS = 1000
_UINT16, _UINT31 = (1 << 16) - 1, (1 << 31) - 1


class TcbStatus(enum.StrEnum):
    """What Intel says of a platform's security version."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


_QE_STATUSES = (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED)
# What a platform's status becomes with a quoting enclave that is out of date.
_WITH_OLD_QE = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}


@dataclass(frozen=True)
class TcbLevel:
    """A level: what must be reached for it, and what Intel says of who reaches it.

    `components` and `svn` are the 16 SVNs and PCE SVN of a platform; of a quoting enclave, none and its ISV SVN.
    """

    components: tuple[int, ...]
    svn: int
    date: datetime.datetime
    status: TcbStatus
    advisories: tuple[str, ...]

    def is_reached(self, components: tuple[int, ...], svn: int) -> bool:
        """Whether every one is at least this level's."""
        return svn >= self.svn and all(a >= b for a, b in zip(components, self.components, strict=True))


@dataclass(frozen=True)
class TcbInfo:
    """TCB info, version 3, of one family of SGX machines."""

    issue_date: datetime.datetime
    next_update: datetime.datetime
    fmspc: str
    pce_id: str
    evaluation_number: int
    levels: tuple[TcbLevel, ...]

    @classmethod
    def parse(cls, text: str) -> TcbInfo:
        """Read TCB info; every refusal is `tcb-info-format`."""
        reason = Reason.TCB_INFO_FORMAT
        fields = parse_object(text, "the TCB info", reason)
        # The version first: version 2 has no id.
        if fields.integer("version", _UINT16) != 3 or fields.text("id") != "SGX":
            raise AttestationError(reason, 'the TCB info must have id "SGX" and version 3 (PCS API version 4)')
        if fields.integer("tcbType", _UINT16) != 0:
            raise AttestationError(reason, "the TCB info must have tcbType 0")
        return cls(
            issue_date=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            fmspc=fields.hexadecimal("fmspc", 6).hex(),
            pce_id=fields.hexadecimal("pceId", 2).hex(),
            evaluation_number=fields.integer("tcbEvaluationDataNumber", _UINT31),
            levels=_levels(fields, reason, _platform_level),
        )

    def level_of(self, pck: PckExtension) -> TcbLevel | None:
        """The first level that the platform reaches; they descend."""
        return next((level for level in self.levels if level.is_reached(pck.components, pck.pce_svn)), None)


@dataclass(frozen=True)
class QeIdentity:
    """QE identity, version 2: what Intel's quoting enclave for ECDSA looks like."""

    issue_date: datetime.datetime
    next_update: datetime.datetime
    evaluation_number: int
    miscselect: int
    miscselect_mask: int
    attributes: int
    attributes_mask: int
    mrsigner: str
    isv_prod_id: int
    levels: tuple[TcbLevel, ...]

    @classmethod
    def parse(cls, text: str) -> QeIdentity:
        """Read QE identity; every refusal is `qe-identity-format`."""
        reason = Reason.QE_IDENTITY_FORMAT
        fields = parse_object(text, "the QE identity", reason)
        if fields.text("id") != "QE" or fields.integer("version", _UINT16) != 2:
            raise AttestationError(reason, 'the QE identity must have id "QE" and version 2')

        def number(name: str, size: int) -> int:
            return int.from_bytes(fields.hexadecimal(name, size), "little")

        return cls(
            issue_date=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            evaluation_number=fields.integer("tcbEvaluationDataNumber", _UINT31),
            miscselect=number("miscselect", 4),
            miscselect_mask=number("miscselectMask", 4),
            attributes=number("attributes", 16),
            attributes_mask=number("attributesMask", 16),
            mrsigner=fields.hexadecimal("mrsigner", 32).hex(),
            isv_prod_id=fields.integer("isvprodid", _UINT16),
            levels=_levels(fields, reason, _qe_level),
        )

    def check(self, report: ReportBody) -> None:
        """Refuse a report that is not of this quoting enclave."""
        attributes = report.flags | report.xfrm << 64
        # DEBUG first: a mask may leave it out, and otherwise it would only be called a wrong attribute.
        for right, reason, what in (
            (not report.is_debug, Reason.QE_DEBUG, "is a debug enclave"),
            (
                not (report.miscselect ^ self.miscselect) & self.miscselect_mask,
                Reason.QE_MISCSELECT,
                "has a wrong MISCSELECT",
            ),
            (not (attributes ^ self.attributes) & self.attributes_mask, Reason.QE_ATTRIBUTES, "has wrong ATTRIBUTES"),
            (report.mrsigner == self.mrsigner, Reason.QE_MRSIGNER, "has a wrong MRSIGNER"),
            (report.isv_prod_id == self.isv_prod_id, Reason.QE_PRODID, "has a wrong product id"),
        ):
            if not right:
                raise AttestationError(reason, f"the quoting enclave {what}: it is not the one of the QE identity")

    def level_of(self, report: ReportBody) -> TcbLevel | None:
        """The first level that the quoting enclave reaches; they descend."""
        return next((level for level in self.levels if level.is_reached((), report.isv_svn)), None)


def merged_status(platform: TcbStatus, quoting_enclave: TcbStatus) -> TcbStatus:
    """The status of a platform together with its quoting enclave, as Intel's verification library converges them."""
    if TcbStatus.REVOKED in (platform, quoting_enclave):
        return TcbStatus.REVOKED
    if quoting_enclave is TcbStatus.OUT_OF_DATE:
        return _WITH_OLD_QE.get(platform, platform)
    return platform


def _platform_level(level: Fields, reason: Reason) -> TcbLevel:
    tcb = level.inner("tcb")
    components = tuple(one.integer("svn", 255) for one in tcb.objects("sgxtcbcomponents"))
    if len(components) != _COMPONENTS:
        raise AttestationError(reason, f"a level of the TCB info has {len(components)} components, not {_COMPONENTS}")
    return _level(level, components, tcb.integer("pcesvn", _UINT16), tuple(TcbStatus), reason)


def _qe_level(level: Fields, reason: Reason) -> TcbLevel:
    return _level(level, (), level.inner("tcb").integer("isvsvn", _UINT16), _QE_STATUSES, reason)


def _level(
    level: Fields, components: tuple[int, ...], svn: int, statuses: tuple[TcbStatus, ...], reason: Reason
) -> TcbLevel:
    status = level.text("tcbStatus")
    if status not in statuses:
        raise AttestationError(reason, f"a TCB level has a status that is not one of {', '.join(statuses)}")
    return TcbLevel(components, svn, level.time("tcbDate"), TcbStatus(status), level.texts("advisoryIDs", ADVISORY))


def _levels(fields: Fields, reason: Reason, parse: Callable[[Fields, Reason], TcbLevel]) -> tuple[TcbLevel, ...]:
    found = fields.objects("tcbLevels")
    if not 1 <= len(found) <= _MAX_LEVELS:
        raise AttestationError(reason, f"there are {len(found)} TCB levels; there must be 1 to {_MAX_LEVELS}")
    levels = tuple(parse(level, reason) for level in found)
    # Intel's are sorted. Of others some verifiers take the first that is reached and some the highest.
    if any(_height(above) <= _height(below) for above, below in itertools.pairwise(levels)):
        raise AttestationError(reason, "the TCB levels do not descend")
    return levels


def _height(level: TcbLevel) -> tuple[tuple[int, ...], int]:
    return level.components, level.svn
