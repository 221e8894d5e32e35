"""What a payment is counted by: one scrape tells it, of every worker, as it happened."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.house import House, until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SAMPLE = re.compile(r"^(oqim_\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
Samples = defaultdict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(house: House) -> Samples:
    """Return every sample, added up over the workers."""
    reply = await house.call("GET", "/metrics")
    assert reply.status == 200
    samples: Samples = defaultdict(float)
    for name, labels, value in SAMPLE.findall(reply.raw.decode()):
        told = frozenset(pair for pair in LABEL.findall(labels) if pair[0] != "worker")
        samples[name, told] += float(value)
    return samples


def of(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample; 0 when there is none."""
    return samples[name, frozenset(labels.items())]


async def test_a_payment_is_counted_by_what_became_of_it_and_how_long_it_took(house: House) -> None:
    """By scheme and outcome, by connector and call, by route and status, and by its batches."""
    before = await scraped(house)
    for scheme in ("visa", "humo", "uzcard"):
        reply = await house.pay(1, house.purchase(1, scheme, 15_000))
        assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
    refused = await house.pay(1, house.purchase(1, "visa", 0))
    assert refused.status == 422
    assert refused.code is not None
    after = await scraped(house)

    def grew(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    for scheme in ("visa", "humo", "uzcard"):
        labels = {"scheme": scheme, "outcome": "succeeded"}
        assert grew("oqim_payment_seconds_count", **labels) == 1
        assert 0 < grew("oqim_payment_seconds_sum", **labels) < 10
        assert grew("oqim_payment_seconds_bucket", **labels, le="+Inf") == 1
        call = {"connector": scheme, "call": "authorize"}
        assert grew("oqim_connector_call_seconds_count", **call) == 1
        assert 0 < grew("oqim_connector_call_seconds_sum", **call) < 10
        assert grew("oqim_attempts_total", kind=f"{scheme}_approved") == 1
    assert grew("oqim_payments_total", kind="succeeded") == 3
    assert grew("oqim_payments_refused_total", kind=refused.code) == 1
    route = {"method": "POST", "route": "/v1/payments"}
    assert grew("oqim_http_requests_total", **route, status="201") == 3
    assert grew("oqim_http_requests_total", **route, status="422") == 1
    assert grew("oqim_http_request_seconds_count", route="/v1/payments") == 4
    # One after another: each has a batch of its own in each lane.
    for lane in ("intents", "facts"):
        assert grew("oqim_journal_batch_entries_count", lane=lane) >= 3
        assert grew("oqim_journal_batch_entries_sum", lane=lane) >= 3


async def test_what_slows_a_worker_down_is_told(house: House) -> None:
    """The loop's lag, queues, calls under way, breakers, and how often caches have it."""
    samples = await scraped(house)
    names = {name for name, _ in samples}
    assert names >= {
        "oqim_event_loop_lag_seconds",
        "oqim_event_loop_late_seconds",
        "oqim_journal_queue_size",
        "oqim_replies_kept",
        "oqim_door_in_flight",
    }
    for scheme in ("visa", "humo", "uzcard"):
        of_it = frozenset({("connector", scheme)})
        assert ("oqim_connector_in_flight", of_it) in samples
        assert ("oqim_connector_breaker_state", of_it) in samples
    caches = {
        dict(labels)["cache"] for name, labels in samples if name == "oqim_core_cache_hits_total"
    }
    assert caches >= {"tokens", "states"}


async def test_a_token_verified_once_is_a_hit_from_then_on(house: House) -> None:
    before = await scraped(house)

    async def hits() -> float:
        await house.call("GET", "/v1/cards", token=house.user(2)["access_token"])
        name = "oqim_core_cache_hits_total"
        return of(await scraped(house), name, cache="tokens") - of(before, name, cache="tokens")

    assert await until(hits, within_s=10)


async def test_every_name_is_on_the_page_of_metrics(house: House) -> None:
    """And what is called a histogram there is one."""
    page = PAGE.read_text()
    reply = await house.call("GET", "/metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", reply.raw.decode(), re.MULTILINE))
    kinds = re.compile("oqim_reconciliation_breaks_[a-z_]+")
    assert [
        name
        for name in types
        if f"`{kinds.sub('oqim_reconciliation_breaks_<kind>', name)}`" not in page
    ] == []
    told = {
        name
        for line in page.splitlines()
        if "histogram" in line
        for name in re.findall(r"`(oqim_\w+)`", line)
    }
    assert {name for name, kind in types.items() if kind == "histogram"} == told
