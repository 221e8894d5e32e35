"""Counters and latencies of one worker: kept in the core, made into Prometheus text on demand.

What a payment is counted by costs it one call of the core, which adds to atomics: no lock, and no
object is made. `Metrics` is the one collector of a worker; it reads everything when it is scraped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.core import Answers, Counter, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


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


class Histograms:
    """A family of histograms under one or two labels, made by `Metrics.histograms`."""

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._help_text = help_text
        self._labels = labels
        self._bounds = bounds
        self._of: dict[str, dict[str, Histogram]] = {}

    def of(self, first: str, second: str = "") -> Histogram:
        """Return the histogram of these values of the labels; keep it where they are fixed."""
        try:
            return self._of[first][second]
        except KeyError:
            histogram = Histogram(self._bounds)
            self._of.setdefault(first, {})[second] = histogram
            return histogram

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many values each has."""
        return {of: sum(one.read()[0]) for of, one in self._each()}

    def metric(self) -> Metric:
        """Return what a scrape tells of the family."""
        metric = HistogramMetricFamily(f"oqim_{self._name}", self._help_text, labels=self._labels)
        for of, one in self._each():
            _add_histogram(metric, of[: len(self._labels)], self._bounds, *one.read())
        return metric

    def _each(self) -> Iterable[tuple[tuple[str, str], Histogram]]:
        for first, under in self._of.items():
            for second, one in under.items():
                yield (first, second), one


class Metrics(Collector):
    """Counts what happens. Names are `oqim_<noun>_<unit>_<total|seconds>`."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Answers]] = {}
        self._counts: dict[str, dict[str, Counter]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._families: list[_Family] = []
        self._histograms: list[Histograms] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the template, never the path."""
        try:
            answers = self._answers[route][method]
        except KeyError:
            answers = self._answers.setdefault(route, {})[method] = Answers(SECONDS)
        answers.observe(status, seconds)

    def count(self, name: str, label: str, amount: int = 1) -> None:
        """Count `oqim_<name>_total{kind=label}`."""
        try:
            counter = self._counts[name][label]
        except KeyError:
            counter = self._counts.setdefault(name, {})[label] = Counter()
        counter.add(amount)

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

    def histograms(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        bounds: Sequence[float] = SECONDS,
    ) -> Histograms:
        """Register `oqim_<name>` and return it.

        Args:
            labels: the names of one or two.
            bounds: the highest value of each bucket, in the unit that the name ends with.
        """
        family = Histograms(name, help_text, labels, bounds)
        self._histograms.append(family)
        return family

    def text(self) -> bytes:
        """Return the Prometheus exposition text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        yield from self._requests()
        for name, counters in self._counts.items():
            family = CounterMetricFamily(f"oqim_{name}", name.replace("_", " "), labels=["kind"])
            for label, counter in counters.items():
                family.add_metric([label], counter.value)
            yield family
        yield from (one.metric() for one in self._families)
        yield from (one.metric() for one in self._histograms)
        for name, (help_text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"oqim_{name}", help_text, value=read())

    def _requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "oqim_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        latency = HistogramMetricFamily(
            "oqim_http_request_seconds", "Time to answer.", labels=["route"]
        )
        for route, methods in self._answers.items():
            slots, total = [0] * (len(SECONDS) + 1), 0.0
            for method, answers in methods.items():
                for status, number in answers.statuses():
                    requests.add_metric([method, route, str(status)], number)
                own, own_total = answers.seconds()
                slots = [one + other for one, other in zip(slots, own, strict=True)]
                total += own_total
            _add_histogram(latency, [route], SECONDS, slots, total)
        yield requests
        yield latency


def _add_histogram(
    metric: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    slots: Sequence[int],
    total: float,
) -> None:
    """Add one histogram; Prometheus has in each bucket all that are below it too."""
    buckets, running = [], 0
    for bound, slot in zip((*(str(float(one)) for one in bounds), "+Inf"), slots, strict=True):
        running += slot
        buckets.append((bound, float(running)))
    metric.add_metric(labels, buckets, total)
