"""`Metrics`: what a service tells Prometheus of requests, rows and p-values."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_P_VALUES = np.array([0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0])


class Metrics:
    """Counts for Prometheus, with labels that are few whatever is asked: routes, statuses, models served."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lookalike_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "lookalike_request_seconds",
            "From the arrival of a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Counter("lookalike_rows", "Rows scored.", ["model"], registry=self._registry)
        self._odd = Counter(
            "lookalike_anomalies", "Rows that were anomalies.", ["model"], registry=self._registry
        )
        self._p_values = _PValues()
        self._registry.register(self._p_values)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def rows(self, model: str, p_values: NDArray[np.float64], odd: NDArray[np.bool_]) -> None:
        """Count rows scored."""
        self._rows.labels(model).inc(len(odd))
        self._odd.labels(model).inc(int(np.count_nonzero(odd)))
        self._p_values.observe(model, p_values)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _PValues(Collector):
    """A histogram that counts many values at once; prometheus_client's own takes one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, values: NDArray[np.float64]) -> None:
        counts = np.bincount(np.searchsorted(_P_VALUES, values), minlength=len(_P_VALUES))
        with self._lock:
            self._counts[model] = self._counts.get(model, 0) + counts
            self._sums[model] = self._sums.get(model, 0.0) + float(values.sum())

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "lookalike_p_value",
            "p-values of rows: of rows like those of the fit they are spread evenly from 0 to 1.",
            labels=["model"],
        )
        with self._lock:
            for model, counts in self._counts.items():
                ends = [*map(str, _P_VALUES), "+Inf"]
                sums = np.cumsum(counts).tolist()
                family.add_metric([model], list(zip(ends, [*sums, sums[-1]], strict=True)), self._sums[model])
        yield family
