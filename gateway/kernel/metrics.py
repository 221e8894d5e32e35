"""Counters and latencies of one worker, cheap to count and made into Prometheus text on demand.

A plain dictionary is counted on the path; `Metrics` is a collector that turns it into families
when it is scraped.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class _Family:
    """A family of values under one label, read when scraped."""

    name: str
    help_text: str
    label: str
    read: Callable[[], Mapping[str, float]]
    is_counter: bool

    def metric(self) -> Metric:
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        metric = kind(f"oqim_{self.name}", self.help_text, labels=[self.label])
        for of, value in self.read().items():
            metric.add_metric([of], value)
        return metric


class Metrics(Collector):
    """Counts what happens. Names are `oqim_<noun>_<unit>_<total|seconds>`."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latencies: dict[str, list[float]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._families: list[_Family] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the template, never the path."""
        key = (method, route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        row = self._latencies.get(route)
        if row is None:
            # One slot a bucket, one above them all, then the sum.
            row = self._latencies[route] = [0.0] * (len(_BUCKETS_S) + 2)
        row[bisect_left(_BUCKETS_S, seconds)] += 1
        row[-1] += seconds

    def count(self, name: str, label: str, amount: int = 1) -> None:
        """Count `oqim_<name>_total{kind=label}`."""
        key = (name, label)
        self._counts[key] = self._counts.get(key, 0) + amount

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Register `oqim_<name>`, read when scraped."""
        self._gauges[name] = (help_text, read)

    def family(
        self,
        name: str,
        help_text: str,
        label: str,
        read: Callable[[], Mapping[str, float]],
        *,
        is_counter: bool = False,
    ) -> None:
        """Register `oqim_<name>{label=...}`, read when scraped: a value for each of the label's."""
        self._families.append(_Family(name, help_text, label, read, is_counter))

    def text(self) -> bytes:
        """Return the Prometheus exposition text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "oqim_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), number in self._requests.items():
            requests.add_metric([method, route, str(status)], number)
        yield requests
        latency = HistogramMetricFamily(
            "oqim_http_request_seconds", "Time to answer.", labels=["route"]
        )
        for route, row in self._latencies.items():
            buckets, running = [], 0.0
            for bound, slot in zip((*map(str, _BUCKETS_S), "+Inf"), row[:-1], strict=True):
                running += slot
                buckets.append((bound, running))
            latency.add_metric([route], buckets, row[-1])
        yield latency
        families: dict[str, CounterMetricFamily] = {}
        for (name, label), number in self._counts.items():
            family = families.setdefault(
                name, CounterMetricFamily(f"oqim_{name}", name.replace("_", " "), labels=["kind"])
            )
            family.add_metric([label], number)
        yield from families.values()
        yield from (one.metric() for one in self._families)
        for name, (help_text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"oqim_{name}", help_text, value=read())
