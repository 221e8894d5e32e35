"""What a scrape tells is what was counted, under the names and labels that dashboards know."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core import Answers, Counter, Histogram
from gateway.kernel.crew import merged
from gateway.kernel.metrics import SECONDS, Metrics


def told(metrics: Metrics) -> dict[str, float]:
    """Return every sample of a scrape, as `name{label=value,...}`."""
    return _samples(metrics.text())


def _samples(text: bytes) -> dict[str, float]:
    samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            # A bucket's bound comes last.
            labels = sorted(one.labels.items(), key=lambda pair: (pair[0] == "le", pair))
            told_as = ",".join(f"{name}={value}" for name, value in labels)
            samples[f"{one.name}{{{told_as}}}"] = one.value
    return samples


def test_requests_are_told_by_method_route_and_status() -> None:
    metrics = Metrics()
    for method, status in (("GET", 200), ("GET", 200), ("GET", 404), ("DELETE", 204)):
        metrics.observe_request(method, "/v1/cards/{id}", status, 0.003)
    samples = told(metrics)
    name = "oqim_http_requests_total"
    assert samples[f"{name}{{method=GET,route=/v1/cards/{{id}},status=200}}"] == 2
    assert samples[f"{name}{{method=GET,route=/v1/cards/{{id}},status=404}}"] == 1
    assert samples[f"{name}{{method=DELETE,route=/v1/cards/{{id}},status=204}}"] == 1


def test_a_routes_latency_is_of_all_its_methods() -> None:
    metrics = Metrics()
    for method, seconds in (("GET", 0.001), ("POST", 0.004), ("POST", 40.0)):
        metrics.observe_request(method, "/v1/cards", 200, seconds)
    samples, name = told(metrics), "oqim_http_request_seconds"
    assert samples[f"{name}_bucket{{route=/v1/cards,le=0.001}}"] == 1
    assert samples[f"{name}_bucket{{route=/v1/cards,le=0.005}}"] == 2
    assert samples[f"{name}_bucket{{route=/v1/cards,le=30.0}}"] == 2
    assert samples[f"{name}_bucket{{route=/v1/cards,le=+Inf}}"] == 3
    assert samples[f"{name}_count{{route=/v1/cards}}"] == 3
    assert samples[f"{name}_sum{{route=/v1/cards}}"] == pytest.approx(40.005)


def test_histograms_have_the_labels_and_buckets_that_were_asked_for() -> None:
    metrics = Metrics()
    calls = metrics.histograms("call_seconds", "Calls.", ("connector", "outcome"))
    sizes = metrics.histograms("batch_entries", "Entries.", ("lane",), (1, 8, 64))
    calls.of("visa", "approved").observe(0.02)
    calls.of("visa", "approved").observe(0.2)
    calls.of("humo", "declined").observe(0.2)
    lane = sizes.of("intents")
    for size in (1, 2, 64, 65):
        lane.observe(size)
    samples = told(metrics)
    labels = "connector=visa,outcome=approved"
    assert samples[f"oqim_call_seconds_bucket{{{labels},le=0.025}}"] == 1
    assert samples[f"oqim_call_seconds_count{{{labels}}}"] == 2
    assert samples["oqim_call_seconds_count{connector=humo,outcome=declined}"] == 1
    assert calls.counts() == {("visa", "approved"): 2, ("humo", "declined"): 1}
    assert [
        samples[f"oqim_batch_entries_bucket{{lane=intents,le={bound}}}"]
        for bound in ("1.0", "8.0", "64.0", "+Inf")
    ] == [1, 2, 3, 4]
    assert samples["oqim_batch_entries_sum{lane=intents}"] == 132


def test_a_label_has_one_histogram() -> None:
    """Whoever keeps it counts into what is told."""
    family = Metrics().histograms("call_seconds", "Calls.", ("connector",))
    assert family.of("visa") is family.of("visa")
    assert family.of("visa") is not family.of("humo")


def test_counts_are_told_by_kind() -> None:
    metrics = Metrics()
    metrics.count("callbacks", "applied")
    metrics.count("callbacks", "applied", 4)
    metrics.count("callbacks", "known")
    samples = told(metrics)
    assert samples["oqim_callbacks_total{kind=applied}"] == 5
    assert samples["oqim_callbacks_total{kind=known}"] == 1


def test_a_crews_scrape_has_each_workers_histograms() -> None:
    texts = {}
    for worker, seconds in (("1", 0.02), ("2", 0.2)):
        metrics = Metrics()
        metrics.histograms("call_seconds", "Calls.", ("connector",)).of("visa").observe(seconds)
        texts[worker] = metrics.text().decode()
    text = merged(texts)
    samples, name = _samples(text), "oqim_call_seconds_bucket"
    assert text.count(b"# TYPE oqim_call_seconds histogram") == 1
    assert samples[f"{name}{{connector=visa,worker=1,le=0.1}}"] == 1
    assert samples[f"{name}{{connector=visa,worker=2,le=0.1}}"] == 0


@pytest.mark.parametrize(
    "bounds",
    [[], [0.0], [-1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [float("nan")], [float("inf")], [1.0] * 33],
)
def test_bounds_that_are_none_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bounds are 1 to 32 numbers"):
        Histogram(bounds)


@pytest.mark.parametrize("status", [0, 99, 600, 65_535])
def test_a_status_that_is_none_is_refused(status: int) -> None:
    answers = Answers(SECONDS)
    with pytest.raises(ValueError, match="a status is 100 to 599"):
        answers.observe(status, 0.1)
    assert answers.statuses() == []
    assert sum(answers.seconds()[0]) == 0


def test_threads_lose_no_count() -> None:
    """A worker hashes secrets and reads files in threads, which count as well."""
    counter, histogram = Counter(), Histogram([0.5])

    def count() -> None:
        for _ in range(10_000):
            counter.add()
            histogram.observe(0.25)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert counter.value == 40_000
    assert histogram.read() == ([40_000, 0], 10_000.0)
