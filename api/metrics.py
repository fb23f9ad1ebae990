"""Prometheus figures of the HTTP side, in a registry of their own for each application."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.health import Sample

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HttpMetrics:
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


def render_samples(samples: Sequence[Sample]) -> str:
    """Text of figures that the database keeps, each family under its type.

    Names ending in `_total` only ever grow; `_bucket`, `_sum` and `_count` belong to a histogram.
    """
    lines: list[str] = []
    family = ""
    for sample in sorted(samples, key=lambda sample: _family_of(sample.name)):
        name, kind = _family_of(sample.name)
        if name != family:
            family = name
            lines.append(f"# TYPE {name} {kind}")
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        shown = f"{sample.name}{{{labels}}}" if labels else sample.name
        lines.append(f"{shown} {sample.value}")
    return "".join(f"{line}\n" for line in lines)


def _family_of(name: str) -> tuple[str, str]:
    """The family's name and its Prometheus type."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(f"_seconds{suffix}"):
            return name.removesuffix(suffix), "histogram"
    return name, "counter" if name.endswith("_total") else "gauge"


def _escape(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
