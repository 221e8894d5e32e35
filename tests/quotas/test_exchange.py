"""What workers tell one another of their buckets, over a real Valkey."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis, open_redis
from gateway.quotas.bucket import Bucket, Verdict
from gateway.quotas.exchange import Exchange, now_us
from gateway.quotas.gcra import SECOND_US, pace_of
from tests.faults.proxy import WIRE, Toxic, proxy_before
from tests.house import until
from tests.services import Services

_names = itertools.count(1)
# Longer than any test: what is exchanged is exchanged by hand.
NEVER_S = 60.0


class Worker:
    """One worker's exchange, and its bucket of the test's client."""

    def __init__(self, redis: BoundedRedis, bucket: Bucket, *, interval_s: float) -> None:
        self.metrics = Metrics()
        self.exchange = Exchange(redis=redis, metrics=self.metrics, interval_s=interval_s)
        self.bucket = bucket
        self.exchange.hold(bucket)

    def spend(self, count: int) -> int:
        """Ask as often; returns how many passed without a word to anybody."""
        verdicts = [self._admit() for _ in range(count)]
        self.exchange.note(self.bucket)
        return verdicts.count(Verdict.PASS)

    def _admit(self) -> Verdict:
        cost = self.bucket.cost_us(1)
        return self.bucket.admit(now_us(), cost, unseen_us_max=self.exchange.unseen_us_max)

    async def passes(self) -> bool:
        """Ask once, and wait for an exchange when one must be waited for."""
        verdict = self._admit()
        self.exchange.note(self.bucket)
        if verdict is not Verdict.WAIT:
            return verdict is Verdict.PASS
        return bool(await self.exchange.ask(self.bucket, self.bucket.cost_us(1)))

    async def tell(self) -> int:
        """Tell and learn; returns how many would still pass at once."""
        self.exchange.note(self.bucket)
        await self.exchange.exchange()
        debt_us = max(0, self.bucket.tat_us - now_us())
        return (self.bucket.pace.tolerance_us - debt_us) // self.bucket.pace.emission_us

    def has_room(self) -> bool:
        """Whether one more request may run, of two workers, by what was learned a moment ago."""
        verdict = self.bucket.has_room(
            now_us(), workers=2, is_alone=False, fresh_us=self.exchange.fresh_us
        )
        return verdict is Verdict.PASS


def workers_of(
    redis: BoundedRedis,
    count: int,
    *,
    rate: int,
    burst: int,
    concurrency_max: int = 0,
    interval_s: float = NEVER_S,
) -> list[Worker]:
    """Return workers that serve one client."""
    tag = f"client-{next(_names)}"
    return [
        Worker(
            redis,
            Bucket(tag, f"quota:{{{tag}}}", pace_of(rate, burst), concurrency_max),
            interval_s=interval_s,
        )
        for _ in range(count)
    ]


@asynccontextmanager
async def started(workers: list[Worker]) -> AsyncIterator[None]:
    for one in workers:
        one.exchange.start()
    try:
        yield
    finally:
        for one in workers:
            await one.exchange.close()


async def test_what_passes_here_is_known_there(redis: BoundedRedis) -> None:
    """A slow rate, so that nothing comes back while the test runs."""
    first, second = workers_of(redis, 2, rate=1, burst=10)
    assert first.spend(7) == 7
    await first.tell()
    assert await second.tell() == 3
    assert second.spend(10) == 3
    await second.tell()
    await first.tell()
    assert first.spend(1) == 0


@pytest.mark.parametrize(("rate", "burst"), [(400, 40), (20, 1), (3, 10)])
async def test_workers_that_are_hammered_together_hold_one_rate(
    redis: BoundedRedis, rate: int, burst: int
) -> None:
    """Four workers, 16 clients of each that ask again at once: the bound that is told in docs."""
    workers = workers_of(redis, 4, rate=rate, burst=burst, interval_s=0.05)
    passed = 0
    ends_us = now_us() + 1_500_000

    async def hammer(worker: Worker) -> None:
        nonlocal passed
        while now_us() < ends_us:
            if await worker.passes():
                passed += 1
            await asyncio.sleep(0.001)

    async with started(workers):
        started_us = now_us()
        await asyncio.gather(*(hammer(one) for one in workers for _ in range(16)))
        due = burst + rate * (now_us() - started_us) / SECOND_US
    assert passed <= due + 3 * max(rate * 0.05, 1)
    assert passed >= due * 0.8 - 1, "nobody is held to less, either"


async def test_who_waits_is_decided_in_one_command(redis: BoundedRedis) -> None:
    """50 that wait together cost what one costs, and exactly what is left passes."""
    first, second = workers_of(redis, 2, rate=1, burst=20, interval_s=0.05)
    before = await commands(redis)
    async with started([first, second]):
        asked = [
            one.exchange.ask(one.bucket, one.bucket.cost_us(1))
            for one in (first, second)
            for _ in range(50)
        ]
        told = await asyncio.gather(*asked)
    assert told.count(True) == 20
    assert told.count(False) == 80
    assert await commands(redis) - before <= 12


async def commands(redis: BoundedRedis) -> int:
    """Return how many scripts were run."""
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


async def test_requests_at_once_are_counted_over_workers(redis: BoundedRedis) -> None:
    first, second = workers_of(redis, 2, rate=100, burst=100, concurrency_max=3)
    first.bucket.in_flight = 2
    await first.tell()
    await second.tell()
    assert second.bucket.others == 2
    second.bucket.in_flight = 1
    assert not second.has_room()
    await second.tell()
    first.bucket.in_flight = 0
    await first.tell()
    await second.tell()
    assert second.bucket.others == 0


async def test_a_worker_that_is_gone_holds_no_places_for_long(redis: BoundedRedis) -> None:
    first, second = workers_of(redis, 2, rate=100, burst=100, concurrency_max=3)
    first.bucket.in_flight = 3
    await first.tell()
    await second.tell()
    assert not second.has_room()

    async def is_forgotten() -> bool:
        await second.tell()
        return second.has_room()

    await until(is_forgotten, within_s=6)


async def test_a_request_that_takes_long_goes_on_being_counted(redis: BoundedRedis) -> None:
    first, second = workers_of(redis, 2, rate=100, burst=100, concurrency_max=1, interval_s=0.05)
    async with started([first]):
        first.bucket.in_flight = 1
        first.exchange.note(first.bucket)
        deadline = now_us() + 5 * SECOND_US
        await asyncio.sleep(0.2)
        while now_us() < deadline:
            await second.tell()
            assert not second.has_room()
            await asyncio.sleep(0.2)


async def test_a_redis_that_was_emptied_is_told_anew(redis: BoundedRedis) -> None:
    """Its scripts are gone too; nothing fails."""
    (worker,) = workers_of(redis, 1, rate=1, burst=10)
    worker.spend(4)
    await worker.tell()
    await redis.flushall()
    await redis.script_flush()
    worker.spend(1)
    assert await worker.tell() == 9


async def test_nothing_is_kept_of_who_asks_no_more(redis: BoundedRedis) -> None:
    """Neither here nor in Redis."""
    (worker,) = workers_of(redis, 1, rate=1_000, burst=1, interval_s=0.02)
    async with started([worker]):
        worker.spend(1)
        await until(lambda: worker.exchange.size == 0, within_s=5)
    assert 0 < await redis.pttl(worker.bucket.key) <= 11_000


async def test_while_redis_is_away_who_waits_is_told_so_and_it_is_found_again(
    services: Services,
) -> None:
    """Nobody waits longer than one call may take; a Redis that answers again is noticed."""
    url = urlsplit(services.redis_url)
    async with proxy_before(str(url.hostname), int(url.port or 0)) as proxy:
        secret = url.netloc.rpartition("@")[0]
        moved = url._replace(netloc=f"{secret}@127.0.0.1:{proxy.listening_port}")
        client = open_redis(urlunsplit(moved), timeout_s=0.2)
        (worker,) = workers_of(client, 1, rate=1, burst=10, interval_s=0.02)

        async def is_back() -> bool:
            worker.exchange.note(worker.bucket)
            return not worker.exchange.is_away

        try:
            async with started([worker]):
                assert await worker.exchange.ask(worker.bucket, 1) is True
                proxy.toxic = Toxic(is_black_hole=True)
                async with asyncio.timeout(2.0):
                    assert await worker.exchange.ask(worker.bucket, 1) is None
                assert worker.exchange.is_away
                assert b'oqim_quotas_exchange_total{kind="failed"}' in worker.metrics.text()
                proxy.toxic = WIRE
                await until(is_back, within_s=5)
                assert await worker.exchange.ask(worker.bucket, 1) is True
        finally:
            await client.aclose()


@pytest.mark.parametrize("count", [1, 250])
async def test_many_buckets_are_told_of_a_hundred_at_a_time(
    redis: BoundedRedis, count: int
) -> None:
    """One client's customers share a slot, and so a command."""
    (worker,) = workers_of(redis, 1, rate=1, burst=10)
    tag = worker.bucket.tag
    buckets = [Bucket(tag, f"quota:{{{tag}}}:{one}", pace_of(1, 10), 0) for one in range(count)]
    before = await commands(redis)
    for bucket in buckets:
        bucket.admit(now_us(), bucket.cost_us(1), unseen_us_max=1)
        worker.exchange.hold(bucket)
        worker.exchange.note(bucket)
    await worker.exchange.exchange()
    assert await commands(redis) - before == -(-count // 100)
    assert all(bucket.tat_us > now_us() for bucket in buckets)
