"""Where the collateral comes from that is sent along with evidence (docs/http.md 4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from confidential_ml.attestation import Collateral
from confidential_ml.enclave import Enclave
from confidential_ml.server.settings import ServerSettings

__all__ = ["collateral_source"]

_RENEW_SECONDS = 24 * 3600.0  # a simulated platform's collateral is valid for a week


def collateral_source(settings: ServerSettings, enclave: Enclave) -> Callable[[], Collateral] | None:
    """A function that gives the present collateral, and may take as long as a network does; None if there is none."""
    if settings.collateral.file is not None:
        return _File(settings.collateral.file).get
    if settings.collateral.service is not None:
        from confidential_ml.attestation.collateral_service import CollateralService

        service = CollateralService(settings.collateral.service)
        # What it needs of the quote, the platform it is of, does not change.
        evidence = enclave.evidence()
        return lambda: service.collateral(evidence)
    if enclave.identity.platform != "openenclave":
        return _Simulated().get
    return None


class _File:
    """A file that the operator may replace while the server runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int] | None = None
        self._collateral: Collateral | None = None

    def get(self) -> Collateral:
        with self._lock:
            status = self._path.stat()
            state = (status.st_mtime_ns, status.st_size)
            if self._collateral is None or state != self._state:
                self._collateral, self._state = Collateral.load(self._path), state
            return self._collateral


class _Simulated:
    """That of this installation's simulated platform, written anew every day."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end = 0.0
        self._collateral: Collateral | None = None

    def get(self) -> Collateral:
        from confidential_ml import simulated_platform

        with self._lock:
            if self._collateral is None or time.monotonic() >= self._end:
                self._collateral = simulated_platform.of_this_installation().collateral()
                self._end = time.monotonic() + _RENEW_SECONDS
            return self._collateral
