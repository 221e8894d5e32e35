"""Following the generations: first rules from files, one worker's feed, and when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import structlog.testing

from gateway import settings as settings_module
from gateway.core import Core
from gateway.identity.revocation import RevocationFeed
from gateway.kernel.db import pool as pools
from gateway.kernel.errors import Unavailable
from gateway.rules import feed as feeds
from gateway.rules import store
from gateway.rules.feed import Everywhere, RulesFeed, load_newest
from gateway.rules.seeds import ensure_first
from gateway.settings import SettingsError
from tests.identity.fixtures import Place
from tests.rulebook.office import plan, policy

SETTINGS = settings_module.load({})
NOW_MS = 1_795_000_000_000
# What makes a generation that nobody can use: a policy whose body is none.
BREAK = """
WITH made AS (
    INSERT INTO rule_generations (seq, created_at, actor) VALUES ($1, now(), 'test') RETURNING seq
), version AS (
    INSERT INTO limit_policies (id, version, body, generation_from, created_at)
    SELECT 'broken', 1, '{"id": "broken", "version": 1}', seq, now() FROM made
)
INSERT INTO rule_ranges (kind, id, version, generation_from)
SELECT 'policy', 'broken', 1, seq FROM made
"""
MEND = """
INSERT INTO rule_generations (seq, created_at, actor) VALUES ($1, to_timestamp($2), 'test')
"""
MEND_RANGE = "UPDATE rule_ranges SET generation_to = $1 WHERE id = 'broken'"


def clock() -> int:
    return NOW_MS


def make_core(first: feeds.Loaded) -> Core:
    return Core(
        rules=first.rules,
        generation=first.seq,
        routing=SETTINGS.routing,
        issuer="https://oqim.test",
        audience="oqim",
        lookup_key=b"l" * 32,
        quote_key=b"q" * 32,
        quote_ttl_ms=300_000,
        feed_age_ms_max=5_000,
        token_cache_size_max=100,
        card_cache_size_max=100,
        subject_cache_size_max=100,
    )


def files(**changes: Any) -> bytes:
    """Return the files of the repository as the settings give them, changed."""
    return msgspec.json.encode(msgspec.json.decode(SETTINGS.rules) | changes)


@pytest.fixture
async def pool(place: Place) -> AsyncIterator[asyncpg.Pool]:
    pool = await pools.create(place.database_url, size_max=6, command_timeout_s=10.0)
    yield pool
    await pool.close()


@pytest.fixture
async def feed(pool: asyncpg.Pool) -> AsyncIterator[tuple[RulesFeed, Core]]:
    """A worker at generation 1."""
    await ensure_first(pool, SETTINGS.rules, clock)
    first = await load_newest(pool)
    core = make_core(first)
    feed = RulesFeed(pool=pool, core=core, clock=clock, first=first)
    yield feed, core
    await feed.close()


# The first generation -----------------------------------------------------------------------------


async def test_whoever_is_first_makes_the_first_generation(pool: asyncpg.Pool) -> None:
    await asyncio.gather(*(ensure_first(pool, SETTINGS.rules, clock) for _ in range(5)))
    assert await store.newest(pool) == 1
    first = await load_newest(pool)
    assert first.seq == 1
    async with pool.acquire() as connection:
        generation = await store.read_generation(connection, 1)
    given = msgspec.json.decode(SETTINGS.rules)
    assert len(generation.entries) == len(given["commission_plans"]) + len(given["limit_policies"])
    assert {entry.version for entry in generation.entries} == {1}
    for entry in generation.entries:
        assert (entry.from_ms, entry.to_ms) == (None, None)
    assert await pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'rules.seed'") == 1


async def test_later_files_are_told_of_and_not_used(pool: asyncpg.Pool) -> None:
    await ensure_first(pool, SETTINGS.rules, clock)
    with structlog.testing.capture_logs() as logs:
        await ensure_first(pool, SETTINGS.rules, clock)
    assert logs == []
    with structlog.testing.capture_logs() as logs:
        await ensure_first(pool, files(commission_plans=[plan("another")]), clock)
    (told,) = logs
    assert told["log_level"] == "warning"
    assert "plan another" in told["changed"]
    assert "plan purchase" in told["changed"]
    assert not any(name.startswith("policy") for name in told["changed"])
    assert await store.newest(pool) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"limit_policies": [policy("p", max_amount=-1)]}, "/limit_policies/0/max_amount"),
        ({"commission_plans": [plan("p", version=2)]}, "version 1"),
        ({"commission_plans": [plan("p", effective_from="soon")]}, "/effective_from"),
        (
            {"commission_plans": [plan("a"), plan("b", match=plan("a")["match"])]},
            "/commission_plans/1",
        ),
        ({"rates": [{"currency": "usd", "date": "2026-11-20", "rate": "1"}]}, "currency"),
        ({"surprise": []}, "surprise"),
    ],
)
async def test_bad_files_make_nothing(
    pool: asyncpg.Pool, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        await ensure_first(pool, files(**changes), clock)
    assert await store.newest(pool) == 0


# Following ----------------------------------------------------------------------------------------


async def test_a_reading_says_what_is_applied(
    pool: asyncpg.Pool, feed: tuple[RulesFeed, Core]
) -> None:
    rules, core = feed
    worker = await pool.fetchval("INSERT INTO workers DEFAULT VALUES RETURNING id")
    await rules.work_as(worker)

    async def applied() -> int:
        number: int = await pool.fetchval(
            "SELECT applied_generation FROM workers WHERE id = $1", worker
        )
        return number

    assert (core.generation, await applied()) == (1, 1)
    await pool.execute(MEND, 2, NOW_MS / 1000)
    async with pool.acquire() as connection:
        await rules.read(connection)
    assert (core.generation, await applied()) == (2, 2)
    # Made by a clock that is ahead: what begins with it has not begun here yet.
    await pool.execute(MEND, 3, NOW_MS / 1000 + 60)
    async with pool.acquire() as connection:
        await rules.read(connection)
    assert (core.generation, await applied()) == (3, 2)


async def test_rules_that_cannot_be_used_close_the_worker(
    pool: asyncpg.Pool, feed: tuple[RulesFeed, Core]
) -> None:
    """It goes on by what it has for as long as that is fresh, and opens once it can read again."""
    rules, core = feed
    now_ms = NOW_MS
    revocations = RevocationFeed(
        pool=pool, core=core, clock=lambda: now_ms, also_read=(rules.read,)
    )
    try:
        await revocations.poll()
        assert core.check_feed(now_ms) is None
        await pool.execute(BREAK, 2)
        now_ms += 4_000
        with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable):
            await revocations.poll()
        assert [line["log_level"] for line in logs] == ["error"]
        assert core.generation == 1
        assert core.check_feed(now_ms) is None
        now_ms += 1_500
        await revocations.catch_up()
        refusal = core.check_feed(now_ms)
        assert refusal is not None, "what was read last is too old"
        assert refusal.slug == "revocation-feed-stale"
        await pool.execute(MEND, 3, NOW_MS / 1000)
        await pool.execute(MEND_RANGE, 3)
        await revocations.poll()
        assert core.generation == 3
        assert core.check_feed(now_ms) is None
    finally:
        await revocations.close()


async def test_a_database_of_before_closes_the_worker(
    pool: asyncpg.Pool, feed: tuple[RulesFeed, Core]
) -> None:
    """One that was restored from a backup knows nothing of what this worker decides by."""
    rules, core = feed
    await pool.execute(MEND, 2, NOW_MS / 1000)
    async with pool.acquire() as connection:
        await rules.read(connection)
        await connection.execute("DELETE FROM rule_generations WHERE seq = 2")
        with pytest.raises(Unavailable):
            await rules.read(connection)
    assert core.generation == 2


async def test_whoever_gives_up_waiting_finds_the_rebuilding_further_on(
    pool: asyncpg.Pool, feed: tuple[RulesFeed, Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, core = feed
    may_end, begun = asyncio.Event(), []

    async def slow(pool: asyncpg.Pool, seq: int) -> feeds.Loaded:
        begun.append(seq)
        await may_end.wait()
        return await load_newest(pool)

    monkeypatch.setattr(feeds, "load", slow)
    await pool.execute(MEND, 2, NOW_MS / 1000)
    async with pool.acquire() as connection:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await rules.read(connection)
        assert core.generation == 1
        monkeypatch.undo()
        may_end.set()
        await rules.read(connection)
    assert (begun, core.generation) == ([2], 2)


# Waiting for all ----------------------------------------------------------------------------------


async def _worker(pool: asyncpg.Pool, applied: int, seen_s_ago: float) -> int:
    worker: int = await pool.fetchval(
        "INSERT INTO workers (applied_generation, seen_at)"
        " VALUES ($1, now() - $2 * interval '1 second') RETURNING id",
        applied,
        seen_s_ago,
    )
    return worker


async def test_an_approval_waits_for_who_may_decide(pool: asyncpg.Pool) -> None:
    await ensure_first(pool, SETTINGS.rules, clock)
    everywhere = Everywhere(pool=pool, lease_s=5.0, feed_age_s_max=5.0)
    await _worker(pool, 7, 0)
    # Long dead, retired, and ahead.
    await _worker(pool, 1, 60)
    await _worker(pool, 1, 10**9)
    await _worker(pool, 9, 0)
    await asyncio.wait_for(everywhere.wait_for(7), 1)
    for seen_s_ago in (0, 9):
        behind = await _worker(pool, 6, seen_s_ago)
        waiting = asyncio.create_task(everywhere.wait_for(7))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done, "it may decide by generation 6"
        await pool.execute("UPDATE workers SET applied_generation = 7 WHERE id = $1", behind)
        await asyncio.wait_for(waiting, 1)


async def test_an_approval_waits_no_longer_than_the_silent_may_decide(pool: asyncpg.Pool) -> None:
    await ensure_first(pool, SETTINGS.rules, clock)
    await _worker(pool, 1, 0)
    everywhere = Everywhere(pool=pool, lease_s=5.0, feed_age_s_max=0.3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait_for(everywhere.wait_for(2), 3)
    assert loop.time() - began >= 0.3
    assert [line["log_level"] for line in logs] == ["warning"]
