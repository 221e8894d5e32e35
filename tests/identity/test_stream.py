"""The stream of revocations: what it brings sooner, and that nothing rests on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.identity.stream import KEY
from gateway.kernel.errors import Unavailable
from gateway.kernel.redis import FAILURES_MAX, OPEN_S, Breaker
from tests.house import until
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Worker, running_worker

PHONE = "+998901234567"
# Later than any test waits, and sooner than a worker closes.
SELDOM_S = 1.5


async def _is_out(worker: Worker, tokens: dict[str, Any]) -> bool:
    reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    return reply.verdict == (401, "invalid-token")


def _count(worker: Worker, label: str) -> float:
    name, labels = "oqim_revocation_stream_total", {"kind": label}
    return worker.metrics.registry.get_sample_value(name, labels) or 0.0


async def _end(worker: Worker, tokens: dict[str, Any]) -> None:
    path = f"/v1/sessions/{tokens['session_id']}"
    assert (await worker.call("DELETE", path, token=tokens["access_token"])).status == 204


@pytest.mark.fault(rows=[45], what="an entry that never came")
async def test_a_gap_is_seen_and_read_from_the_log(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """The entry after the one that was dropped shows it, and both are refused at once."""
    first, dropped, last = [await worker.log_in(PHONE, device=f"d{one}") for one in range(3)]
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, poll_s=SELDOM_S) as other:
        await _end(worker, first)
        async with worker.pool.acquire() as connection, connection.transaction():
            await worker.revocations.revoke(connection, kind="sid", value=dropped["session_id"])
        assert _count(other, "gap") == 0
        async with asyncio.timeout(SELDOM_S / 2):
            await _end(worker, last)
        assert await _is_out(other, dropped)
        assert await _is_out(other, last)
        await until(lambda: _count(other, "gap") == 1, within_s=1)


@pytest.mark.fault(rows=[45], what="a stream that brings nothing")
async def test_a_silent_stream_is_made_up_for_by_the_log(worker: Worker) -> None:
    """What was never published is refused after the next reading."""
    tokens = await worker.log_in(PHONE)
    async with worker.pool.acquire() as connection, connection.transaction():
        await worker.revocations.revoke(connection, kind="sid", value=tokens["session_id"])
    await until(lambda: _is_out(worker, tokens), within_s=2)


async def test_what_is_in_the_stream_counts_for_nothing(worker: Worker) -> None:
    """An entry of a log that never was refuses its own, and the log is read as if it were not."""
    one, two = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    entry: dict[Any, Any] = {"seq": 999, "kind": "sid", "value": "ses_of_another_log"}
    entry |= {"not_before_s": 1, "expires_at_s": 2_000_000_000}
    for fields in (entry, {"seq": "x"}, {"nonsense": "1"}):
        await worker.redis.xadd(KEY, fields)
    await _end(worker, one)
    assert worker.feed.read_seq == 1
    assert worker.core.applied_seq == 1
    assert not await _is_out(worker, two)


async def test_a_stream_that_is_no_stream_is_lived_without(worker: Worker) -> None:
    """Calls that revoke return, by the log, until somebody mends it; then it is heard again."""
    one, two = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await worker.redis.set(KEY, "not a stream")
    await _end(worker, one)
    assert await _is_out(worker, one)
    assert _count(worker, "unpublished") == 1
    await worker.redis.delete(KEY)
    await _end(worker, two)
    assert await worker.redis.xlen(KEY) == 1


async def test_a_breaker_spares_the_wait(clock: Hand) -> None:
    """After some failures nobody is made to wait; one tries, and its success opens it for all."""
    now_s, calls = 0.0, 0
    breaker = Breaker(timeout_s=0.05, steady=lambda: now_s)

    async def answer() -> str:
        nonlocal calls
        calls += 1
        return "pong"

    async def hang() -> str:
        nonlocal calls
        calls += 1
        await asyncio.Event().wait()
        return "never"

    for number in range(1, FAILURES_MAX + 1):
        with pytest.raises(Unavailable):
            await breaker.run(hang)
        assert calls == number
    with pytest.raises(Unavailable):
        await breaker.run(answer)
    assert calls == FAILURES_MAX
    now_s += OPEN_S
    probe = asyncio.create_task(breaker.run(hang))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await breaker.run(answer)
    with pytest.raises(Unavailable):
        await probe
    assert calls == FAILURES_MAX + 1
    now_s += OPEN_S
    assert await breaker.run(answer) == "pong"
    assert await breaker.run(answer) == "pong"
