"""Metrics for Prometheus, in a registry of their own; every label has few values (docs/operations.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE"})
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counts what the server does. Safe to use from any number of threads."""

    def __init__(
        self, *, models: Callable[[], float], requests: Callable[[], float], unsafe: Iterable[str] = ()
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "confidential_ml_requests",
            "Requests that were answered, by route, method and status",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "confidential_ml_request_seconds",
            "From the head of a request to the end of its answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.rows = Counter(
            "confidential_ml_rows",
            "Rows predicted in clear; those of /confidential nobody can count",
            registry=self._registry,
        )
        self.attestations = Counter(
            "confidential_ml_attestations", "Evidence that was given out", registry=self._registry
        )
        self.busy = Counter(
            "confidential_ml_busy", "Requests that were told to come again later", registry=self._registry
        )
        self.epoch = Gauge("confidential_ml_epoch", "Epoch of the enclave's key for requests", registry=self._registry)
        Gauge("confidential_ml_models", "Models that are loaded", registry=self._registry).set_function(models)
        Gauge(
            "confidential_ml_requests_in_progress", "Requests that are being handled", registry=self._registry
        ).set_function(requests)
        self.collateral_expiry = Gauge(
            "confidential_ml_collateral_expiry_timestamp_seconds",
            "When the first part of the collateral that was last handed out expires, Unix time; 0 if none was",
            registry=self._registry,
        )
        in_force = Gauge(
            "confidential_ml_unsafe",
            "1 for every unsafe setting in force",
            ["setting"],
            registry=self._registry,
        )
        for setting in unsafe:
            in_force.labels(setting).set(1)
        # Finding the child of a metric costs more than counting with it.
        self._children = functools.lru_cache(maxsize=1024)(self._make_children)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        route
            The path's pattern, never the path.
        method, status
            As in HTTP; methods that no route has are one.
        seconds
            How long it took.
        """
        counter, histogram = self._children(route, method if method in _METHODS else "other", status)
        counter.inc()
        histogram.observe(seconds)
        if status == 503:
            self.busy.inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def _make_children(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(route, method, str(status)), self._seconds.labels(route)
