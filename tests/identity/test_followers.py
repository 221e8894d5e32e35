"""Waiting for every worker: who is waited for, how long, and what a worker does that was away."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.identity.followers import MARGIN_S, Followers
from gateway.kernel.errors import Unavailable
from tests.house import until
from tests.identity.fixtures import Place
from tests.identity.worker import AGE_S_MAX, Hand, Worker, running_worker

PHONE = "+998901234567"
STALE = (503, "revocation-feed-stale")


@dataclass
class Rows:
    """The table of workers, and a steady clock, as a test arranges them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    forgotten: list[tuple[int, int]] = field(default_factory=list)
    now_s: float = 0.0

    async def fetch(self, statement: str) -> list[dict[str, Any]]:
        return self.rows

    async def execute(self, statement: str, *arguments: int) -> None:
        self.forgotten.append((arguments[0], arguments[1]))

    def put(self, *, beat: int, applied_seq: int = 0) -> None:
        self.rows = [{"id": 1, "name": "host:1", "beat": beat, "applied_seq": applied_seq}]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def followers(rows: Rows) -> Followers:
    pool: Any = rows
    return Followers(pool=pool, feed_age_s_max=5.0, steady=lambda: rows.now_s)


async def test_a_worker_is_alive_until_its_beat_stood_still_for_the_bound(
    rows: Rows, followers: Followers
) -> None:
    """Silence is counted from when a beat was first seen here, and a new beat ends it."""
    rows.put(beat=7)
    for now_s, beat, is_alive in [
        (0.0, 7, True),
        (5.0 + MARGIN_S, 7, True),
        (5.01 + MARGIN_S, 7, False),
        (6.0 + MARGIN_S, 8, True),
        (11.0 + 2 * MARGIN_S, 8, True),
        (11.1 + 2 * MARGIN_S, 8, False),
    ]:
        rows.now_s = now_s
        rows.put(beat=beat)
        assert is_alive == bool(await followers.look(rows)), now_s


async def test_a_worker_that_is_gone_is_forgotten(rows: Rows, followers: Followers) -> None:
    """Its row goes, with the beat that was seen, so that one that has just woken stays."""
    rows.put(beat=7)
    await followers.look(rows)
    rows.now_s = 12 * (5.0 + MARGIN_S)
    await followers.look(rows)
    assert rows.forgotten == []
    rows.now_s += 0.1
    await followers.look(rows)
    assert rows.forgotten == [(1, 7)]


async def test_nobody_is_waited_for_who_has_applied_it(rows: Rows, followers: Followers) -> None:
    """And whoever has not is waited for, as long as there is patience."""
    rows.put(beat=1, applied_seq=4)
    assert await followers.wait_for(4)
    assert not await followers.wait_for(5, patience_s=0.05)
    waiting = asyncio.create_task(followers.wait_for(5, patience_s=5.0))
    await asyncio.sleep(0)
    rows.put(beat=1, applied_seq=5)
    assert await waiting
    await followers.close()


async def _add_silent(worker: Worker) -> None:
    """Add a worker that died a moment ago, or stands still."""
    await worker.pool.execute(
        "INSERT INTO revocation_followers (name, applied_seq) VALUES ('gone:1', 0)"
    )


async def test_a_silent_worker_holds_a_call_up_for_no_longer_than_the_bound(
    worker: Worker,
) -> None:
    """Once it must have closed the call returns; the next call need not wait for it."""
    one, two = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await _add_silent(worker)
    for tokens, low_s, high_s in [(one, AGE_S_MAX - 0.1, AGE_S_MAX + 2), (two, 0.0, 1.0)]:
        started_s = time.monotonic()
        path = f"/v1/sessions/{tokens['session_id']}"
        assert (await worker.call("DELETE", path, token=tokens["access_token"])).status == 204
        assert low_s < time.monotonic() - started_s < high_s


async def test_a_call_with_less_patience_is_told_to_try_again(worker: Worker) -> None:
    """503 with Retry-After (RFC 7009, 2.2.1); what is revoked stays so, and is tried to the end."""
    tokens = await worker.log_in(PHONE)
    await _add_silent(worker)
    form = {"token": tokens["access_token"]}
    started_s = time.monotonic()
    headers = {"Deadline-Ms": "1000"}
    early = await worker.call("POST", "/oauth/revoke", form=form, headers=headers)
    assert early.verdict == (503, "unavailable")
    assert early.headers["Retry-After"]
    listed = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    assert listed.verdict == (401, "invalid-token")
    # The token is unknown here already; elsewhere it may be accepted, and so it is waited for.
    assert (await worker.call("POST", "/oauth/revoke", form=form)).status == 200
    assert time.monotonic() - started_s > AGE_S_MAX - 0.1


async def test_a_worker_that_was_forgotten_follows_again(worker: Worker) -> None:
    """Its next beat finds no row, and it is another follower from then on."""
    (before,) = await worker.pool.fetch("DELETE FROM revocation_followers RETURNING id")

    async def follows() -> Any:
        return await worker.pool.fetchval("SELECT id FROM revocation_followers")

    assert before["id"] < await until(follows, within_s=5)
    assert worker.feed.is_open()


async def test_a_worker_that_ends_is_waited_for_by_nobody(place: Place, clock: Hand) -> None:
    """It says goodbye, once it accepts nothing any more."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock) as stays:
        async with running_worker(*urls, clock=clock) as goes:
            count = "SELECT count(*) FROM revocation_followers"
            assert await stays.pool.fetchval(count) == 2
        assert not goes.feed.is_open()
        assert await stays.pool.fetchval(count) == 1


async def test_a_worker_that_reads_nothing_accepts_nothing(worker: Worker) -> None:
    """Reads and what calls a token active are refused as well, and open by themselves."""
    tokens = await worker.log_in(PHONE)
    await worker.clients.put(
        client_id="shop", channel="api", subject="mer_1", secret="s3cret", scopes=["a"]
    )
    form = {"token": "x", "client_id": "shop", "client_secret": "s3cret"}
    await worker.feed.close()
    for reply in (
        await worker.call("GET", "/v1/sessions", token=tokens["access_token"]),
        await worker.call("POST", "/oauth/introspect", form=form),
    ):
        assert reply.verdict == STALE
        assert reply.headers["Retry-After"]
    await worker.feed.start()
    listed = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    assert listed.status == 200


async def test_the_age_of_a_reading_is_counted_from_before_it(worker: Worker) -> None:
    """By a clock that goes on while the process stands still, and for the bound alone."""
    await worker.feed.close()
    started_s = time.monotonic()
    await worker.feed.poll()
    await until(lambda: not worker.feed.is_open(), within_s=5)
    assert AGE_S_MAX - 0.1 < time.monotonic() - started_s < AGE_S_MAX + 1


async def test_a_log_that_became_shorter_is_not_believed(worker: Worker) -> None:
    """A database that went back in time knows less than this worker: it closes."""
    tokens = await worker.log_in(PHONE)
    path = f"/v1/sessions/{tokens['session_id']}"
    await worker.call("DELETE", path, token=tokens["access_token"])
    await worker.feed.close()
    await worker.feed.poll()
    await worker.pool.execute("DELETE FROM revocations")
    with pytest.raises(Unavailable):
        await worker.feed.poll()


async def test_a_worker_that_wakes_reads_before_it_believes(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """The first request after a pause finds what was revoked meanwhile, and the others go on."""
    lost, kept = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, poll_s=60.0) as sleeper:
        for tokens in (lost, kept):
            listed = await sleeper.call("GET", "/v1/sessions", token=tokens["access_token"])
            assert listed.status == 200
        async with worker.pool.acquire() as connection, connection.transaction():
            await worker.revocations.revoke(connection, kind="sid", value=lost["session_id"])
        await until(lambda: not sleeper.feed.is_open(), within_s=5)
        for tokens, verdict in [(lost, (401, "invalid-token")), (kept, (200, ""))]:
            listed = await sleeper.call("GET", "/v1/sessions", token=tokens["access_token"])
            assert listed.verdict == verdict
