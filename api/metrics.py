"""Prometheus figures: of this process's HTTP side, and those that the database keeps."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from core.health import Sample

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HISTOGRAM_SUFFIX = re.compile(r"_seconds_(?:bucket|sum|count)$")
_DOCUMENTATION = "Of all processes, from the database"


class HttpMetrics:
    """In a registry of its own for each application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "jewelshot_http_requests",
            "Requests by route template",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "jewelshot_http_request_seconds",
            "Time until the whole answer was sent",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "jewelshot_http_requests_in_flight", "Requests being served", registry=self.registry
        )
        # labels() takes a lock and hashes each time; the few combinations there are, are kept.
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def started(self) -> None:
        self._in_flight.inc()

    def finished(self, method: str, route: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        if method not in _METHODS:  # a caller must not be able to make series without end
            method = "OTHER"
        key = (method, route, status)
        children = self._children.get(key)
        if children is None:
            children = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)


class StoredFigures(Collector):
    """Figures that the database keeps, of all processes together.

    Names ending in `_total` only ever grow; `_bucket`, `_sum` and `_count` behind `_seconds`
    belong to a histogram; all others are gauges.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._families: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            self._families[_HISTOGRAM_SUFFIX.sub("_seconds", sample.name)].append(sample)

    def collect(self) -> Iterator[Metric]:
        for name, samples in sorted(self._families.items()):
            names = sorted({label for sample in samples for label in sample.labels} - {"le"})
            if samples[0].name != name:
                yield _histogram(name, names, samples)
                continue
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, _DOCUMENTATION, labels=names)
            for sample in samples:
                family.add_metric(_values(sample, names), sample.value)
            yield family


def _histogram(name: str, names: list[str], samples: list[Sample]) -> Metric:
    buckets: defaultdict[tuple[str, ...], list[tuple[str, float]]] = defaultdict(list)
    sums: dict[tuple[str, ...], float] = {}
    for sample in samples:
        values = tuple(_values(sample, names))
        if sample.name.endswith("_bucket"):
            buckets[values].append((str(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[values] = sample.value
    family = HistogramMetricFamily(name, _DOCUMENTATION, labels=names)
    for values, counted in buckets.items():
        counted.sort(key=lambda bucket: float(bucket[0]))
        family.add_metric(values, buckets=counted, sum_value=sums.get(values))
    return family


def _values(sample: Sample, names: list[str]) -> list[str]:
    return [str(sample.labels.get(name, "")) for name in names]
