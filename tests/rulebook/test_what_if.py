"""What a draft would have changed: the same decisions, made again; and nothing moved by asking."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway import settings as settings_module
from gateway.kernel.clock import system_clock
from gateway.kernel.db import pool as pools
from gateway.rules import history, simulations
from gateway.rules.drafts import Wish
from gateway.rules.history import Event
from gateway.rules.seeds import ensure_first
from gateway.rules.simulations import OPEN_MAX, Simulations
from gateway.rules.times import parsed
from tests.house import new_key, until
from tests.identity.fixtures import Place
from tests.rulebook.office import (
    PLANS,
    POLICIES,
    SIMULATIONS,
    Office,
    moment,
    plan,
    policy,
    span_since,
)

SEEDS = settings_module.load({}).rules
NOTHING = {"count": 0, "sum": {}, "merchants": []}
AMOUNTS = (100_000, 200_000, 300_000, 400_000)
DAY_MS = 86_400_000


def shop(office: Office) -> dict[str, list[str]]:
    return {"merchant": [office.house.merchant["id"]]}


async def paid(
    office: Office, user: int, amounts: tuple[int, ...] = AMOUNTS, *, passing: int = 10**15
) -> str:
    """Pay some amounts, of which those over `passing` are refused; return the moment before."""
    before = moment()
    for amount in amounts:
        reply = await office.house.pay(user, office.house.purchase(user, "uzcard", amount))
        assert reply.status == (201 if amount <= passing else 422), reply.raw
    return before


async def test_an_empty_draft_changes_nothing(office: Office) -> None:
    """Whatever was decided here so far, by whatever rules, is decided the same again."""
    await paid(office, 6)
    done = await office.simulated()
    assert done["status"] == "done", done
    report = done["report"]
    assert report["decisions"] == done["progress"]["done"] == done["progress"]["total"]
    assert report["decisions"] >= len(AMOUNTS)
    assert report["differing"] == 0
    assert report["newly_refused"] == report["newly_allowed"] == NOTHING
    assert report["commission"] == []
    assert done["notes"] == []


async def test_a_lower_limit_would_have_refused(office: Office) -> None:
    """By its counts too: what it refuses does not count for what comes after."""
    before = await paid(office, 7)
    draft = policy(
        "what-if",
        subject="user",
        match=shop(office),
        window={"kind": "calendar", "unit": "year"},
        max_amount=500_000,
    )
    span = await span_since(before)
    done = await office.simulated(**span, limit_policies=[draft])
    assert done["report"]["decisions"] == len(AMOUNTS)
    # 100 and 200 pass; 300 is over the 500 and does not count; neither does 400.
    merchant = {"merchant": office.house.merchant["id"], "count": 2, "sum": {"UZS": 700_000}}
    assert done["report"]["newly_refused"] == {
        "count": 2, "sum": {"UZS": 700_000}, "merchants": [merchant],
    }  # fmt: skip
    assert done["report"]["newly_allowed"] == NOTHING
    # The draft's own dates do not matter.
    dated = draft | {"effective_from": moment(days=3), "effective_to": moment(days=4)}
    again = await office.simulated(**span, limit_policies=[dated])
    assert again["report"] == done["report"]
    assert (await office.call("GET", f"{POLICIES}/what-if")).status == 404


async def test_without_a_limit_more_would_have_passed(office: Office) -> None:
    limit = policy("what-if-not", match=shop(office), max_amount=250_000)
    async with office.in_force(POLICIES, limit):
        before = await paid(office, 8, passing=250_000)
        span = await span_since(before)
        done = await office.simulated(**span, delete={"limit_policies": ["what-if-not"]})
        assert done["report"]["newly_allowed"]["sum"] == {"UZS": 700_000}, done
        assert done["report"]["newly_allowed"]["count"] == 2
        assert done["report"]["newly_refused"] == NOTHING
        raised = await office.simulated(**span, limit_policies=[limit | {"max_amount": 300_000}])
        assert raised["report"]["newly_allowed"]["sum"] == {"UZS": 300_000}


async def test_another_plan_would_have_charged_otherwise(office: Office) -> None:
    before = await paid(office, 9)
    draft = plan("what-if", match=shop(office))
    done = await office.simulated(**await span_since(before), commission_plans=[draft])
    total = sum(AMOUNTS)
    changes = {(one["plan"], one["kind"]): one for one in done["report"]["commission"]}
    assert changes["what-if", "commission"]["after"] == total * 2 // 100
    assert changes["what-if", "commission"]["before"] == 0
    assert changes["purchase", "commission"]["before"] == total // 100
    assert changes["purchase", "commission"]["after"] == 0
    assert done["report"]["newly_refused"] == NOTHING


async def test_a_proposal_says_what_it_would_have_changed(office: Office) -> None:
    before = await paid(office, 10, (123_456,))
    body = policy("what-if-proposed", match=shop(office), min_amount=123_456, max_amount=123_456)
    proposal = await office.propose(POLICIES, body)
    assert proposal["what_if"]["status"] in ("running", "done")
    found = await office.what_if(proposal)
    assert (found["status"], found["error"]) == ("done", None)
    assert found["from"] < before < found["to"] == proposal["proposed_at"]
    # Everything else that was paid at the shop lately is of another amount.
    refused = found["report"]["newly_refused"]
    assert refused["count"] > 0
    assert found["report"]["decisions"] >= refused["count"] + 1
    deletion = (await office.call("DELETE", f"{PLANS}/payout")).body
    found = await office.what_if(deletion)
    assert found["report"]["newly_refused"]["count"] == 0, "nobody was paid out"


async def test_a_draft_takes_the_place_of_what_it_would_meet(office: Office) -> None:
    """A plan of then, gone by now, with which no payment could match both; and that is said."""
    old = plan("what-if-old", priority=950, match=shop(office))
    async with office.in_force(PLANS, old):
        before = await paid(office, 11, (100_000,))
    draft = plan("what-if-new", priority=950, match=shop(office))
    span = await span_since(before)
    done = await office.simulated(**span, commission_plans=[draft])
    assert done["status"] == "done", done
    assert done["notes"] == ["The draft stands in place of what-if-old version 1."]
    changes = {one["plan"]: one for one in done["report"]["commission"]}
    assert (changes["what-if-old"]["before"], changes["what-if-old"]["after"]) == (2_000, 0)
    assert (changes["what-if-new"]["before"], changes["what-if-new"]["after"]) == (0, 2_000)
    later = await paid(office, 11, (100_000,))
    span = await span_since(later)
    done = await office.simulated(**span, commission_plans=[draft])
    assert done["notes"] == [], "what had ended by then is not missed"


async def test_what_ended_differently_is_replayed_as_it_ended(office: Office) -> None:
    """A limit that a cancelled hold, a capture and a refund gave back to is given back to again."""
    house = office.house
    before = moment()
    token = house.user(12)["access_token"]

    async def do(path: str, body: dict[str, Any] | None = None) -> Any:
        reply = await house.call("POST", path, body, token=token, key=new_key())
        assert reply.status in (200, 201), reply.raw
        return reply.body

    ids = []
    for amount, changes in ((1_000_000, {"capture": "manual"}),) * 2 + ((1_000_000, {}),):
        reply = await house.pay(12, house.purchase(12, "uzcard", amount, **changes))
        assert reply.status == 201, reply.raw
        ids.append(reply.body["id"])
    canceled, captured, bought = ids
    await do(f"/v1/payments/{canceled}/cancel")
    await do(f"/v1/payments/{captured}/capture", {"amount": 400_000})
    await do(f"/v1/payments/{bought}/refunds", {"amount": 300_000})
    await do(f"/v1/payments/{bought}/refunds", {"amount": 200_000})
    last = await house.pay(12, house.purchase(12, "uzcard", 1_000_000))
    span = await span_since(before)
    found = await _events(office, span["from"], span["to"])
    mine = {*ids, last.body["id"]}
    assert [
        (kind, id, *rest) for kind, id, _, *rest in found if id in mine and kind != "decision"
    ] == [
        ("end", canceled, 1_000_000, 0, ""),
        ("end", captured, 1_000_000, 400_000, ""),
        ("refund", bought, 0, 300_000, "1000000"),
        ("refund", bought, 300_000, 500_000, "1000000"),
    ]
    kinds = [(event[0], event[1]) for event in found]
    assert kinds.index(("end", canceled)) < kinds.index(("decision", last.body["id"]))
    limit = policy(
        "what-if-given-back",
        subject="card",
        match=shop(office),
        window={"kind": "calendar", "unit": "year"},
        restore_on_refund=True,
    )
    for cap, refused in ((3_000_000, 0), (2_999_999, 1)):
        done = await office.simulated(**span, limit_policies=[limit | {"max_amount": cap}])
        # Three are held at once; of them 900,000 are left when the last comes.
        assert done["report"]["newly_refused"]["count"] == refused, cap


async def _events(office: Office, since: str, until: str) -> list[Event]:
    pool = await pools.create(
        office.house.description["database_url"], size_max=2, command_timeout_s=10.0
    )
    try:
        span = (_millis(since), _millis(until))
        return [one async for batch in history.batches(pool, *span) for one in batch.events]
    finally:
        await pool.close()


def _millis(text: str) -> int:
    at_ms = parsed(text)
    assert at_ms is not None
    return at_ms


async def test_pages_make_no_difference(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is read at a time, it is every decision once, in the order of time."""
    await paid(office, 13)
    span = tuple((await span_since(moment(days=-1))).values())
    whole = await _events(office, *span)
    monkeypatch.setattr(history, "PAGE_SIZE", 7)
    paged = await _events(office, *span)
    assert paged == whole
    decisions = [event[1][4:] for event in whole if event[0] == "decision"]
    assert decisions == sorted(decisions)
    assert len(set(decisions)) == len(decisions)
    kinds = Counter(event[1][:4] for event in whole)
    assert set(kinds) == {"pay_", "dec_"}, "what was paid, and what was refused"
    pool = await pools.create(
        office.house.description["database_url"], size_max=2, command_timeout_s=10.0
    )
    from_ms, to_ms = (_millis(one) for one in span)
    assert await history.count(pool, from_ms, to_ms) == len(decisions)
    for number in (1, 5, len(decisions) - 1, len(decisions), len(decisions) + 1):
        start = await history.start_of_newest(pool, from_ms, to_ms, number)
        kept = await history.count(pool, start, to_ms)
        assert 0 < kept <= number
        assert (start == from_ms) == (number >= len(decisions))
    await pool.close()


# Running, cancelling, taking up -------------------------------------------------------------------


async def test_what_has_ended_cannot_be_cancelled(office: Office) -> None:
    done = await office.simulated()
    reply = await office.call("DELETE", f"{SIMULATIONS}/{done['id']}")
    assert (reply.status, reply.code) == (409, "invalid-state"), reply.raw
    for method in ("GET", "DELETE"):
        reply = await office.call(method, f"{SIMULATIONS}/sim_nobody")
        assert (reply.status, reply.code) == (404, "not-found")


@pytest.fixture
async def pool(place: Place) -> AsyncIterator[asyncpg.Pool]:
    """A database with the first rules in it, and nobody at work."""
    pool = await pools.create(place.database_url, size_max=6, command_timeout_s=10.0)
    await ensure_first(pool, SEEDS, system_clock)
    yield pool
    await pool.close()


async def begin(pool: asyncpg.Pool) -> str:
    """Add a simulation of the last day."""
    at_ms = system_clock()
    async with pool.acquire() as connection, connection.transaction():
        return await Simulations(pool=pool, clock=system_clock).add(
            connection,
            wish=Wish([], []),
            from_ms=at_ms - DAY_MS,
            to_ms=at_ms,
            actor="test",
            at_ms=at_ms,
        )


async def ended(pool: asyncpg.Pool, simulation: str) -> dict[str, Any]:
    one = Simulations(pool=pool, clock=system_clock)

    async def view() -> dict[str, Any] | None:
        found = await one.view(simulation)
        assert found is not None, "it was added"
        return found if found["status"] != "running" else None

    found: dict[str, Any] = await until(view, within_s=10)
    return found


async def claimed(pool: asyncpg.Pool, worker: int, lease_s: float) -> str | None:
    """Take what is open as a worker does, and return its id."""
    found: str | None = await pool.fetchval(simulations.CLAIM, worker, lease_s)
    return found


async def cancel(pool: asyncpg.Pool, simulation: str) -> bool:
    async with pool.acquire() as connection:
        one = Simulations(pool=pool, clock=system_clock)
        return await one.cancel(connection, simulation)


@pytest.fixture
async def worker(pool: asyncpg.Pool) -> AsyncIterator[Simulations]:
    one = Simulations(pool=pool, clock=system_clock)
    yield one
    await one.close()


async def test_one_that_waits_is_cancelled_and_never_begun(
    pool: asyncpg.Pool, worker: Simulations
) -> None:
    first, second = await begin(pool), await begin(pool)
    assert await cancel(pool, first)
    assert not await cancel(pool, first)
    worker.start(1)
    assert (await ended(pool, second))["status"] == "done"
    view = await ended(pool, first)
    assert (view["status"], view["report"]) == ("canceled", None)
    assert await pool.fetchval("SELECT tries FROM simulations WHERE id = $1", first) == 0


async def test_one_that_runs_is_cancelled(
    pool: asyncpg.Pool, worker: Simulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops at its next page, and reports nothing."""
    counting, counted = asyncio.Event(), asyncio.Event()
    real = history.count

    async def slow(*arguments: Any) -> int:
        counting.set()
        await counted.wait()
        return await real(*arguments)

    monkeypatch.setattr(history, "count", slow)
    simulation = await begin(pool)
    worker.start(1)
    await asyncio.wait_for(counting.wait(), 5)
    assert await cancel(pool, simulation)
    counted.set()
    following = await begin(pool)
    worker.wake()
    assert (await ended(pool, following))["status"] == "done"
    view = await ended(pool, simulation)
    assert (view["status"], view["report"]) == ("canceled", None)


async def test_what_a_dead_worker_left_is_taken_up(pool: asyncpg.Pool, worker: Simulations) -> None:
    simulation = await begin(pool)
    assert await claimed(pool, 7, 0.5) == simulation, "a worker takes it, and is heard of no more"
    worker.start(8)
    view = await ended(pool, simulation)
    assert view["status"] == "done"
    rows = await pool.fetch("SELECT worker, tries FROM simulations WHERE id = $1", simulation)
    assert [tuple(row) for row in rows] == [(8, 2)]


async def test_a_worker_that_stops_leaves_it_at_once(pool: asyncpg.Pool) -> None:
    simulation = await begin(pool)
    assert await claimed(pool, 7, 60) == simulation
    stopping = Simulations(pool=pool, clock=system_clock)
    stopping.start(7)
    await stopping.close()
    assert await claimed(pool, 8, 60) == simulation


async def test_what_ends_every_worker_is_not_begun_for_ever(
    pool: asyncpg.Pool, worker: Simulations
) -> None:
    simulation = await begin(pool)
    for dead in range(simulations.TRIES_MAX):
        assert await claimed(pool, 100 + dead, -1) == simulation
    worker.start(8)
    view = await ended(pool, simulation)
    assert (view["status"], view["report"]) == ("failed", None)
    assert view["error"]


async def test_a_record_that_cannot_be_read_fails_it(
    pool: asyncpg.Pool, worker: Simulations
) -> None:
    await pool.execute(
        "INSERT INTO refusals (id, created_at, owner, code, record)"
        " VALUES ($1, now(), 'usr_1', 'limit-exceeded', 'not a record')",
        history.first_id("dec_", system_clock() - 1_000)[:-1] + "1",
    )
    simulation = await begin(pool)
    worker.start(1)
    view = await ended(pool, simulation)
    assert view["status"] == "failed"
    assert "cannot be read" in view["error"]
    assert view["finished_at"] is not None
    following = await begin(pool)
    worker.wake()
    assert (await ended(pool, following))["status"] == "failed", "the worker goes on"


async def test_operators_do_not_wait_for_proposals(pool: asyncpg.Pool) -> None:
    await pool.execute(
        "INSERT INTO proposals (id, kind, subject, base_version, diff, note, status, proposed_by,"
        " proposed_at, expires_at) VALUES ('prp_1', 'policy', 'card-day', '1',"
        """ '{"action": "delete", "body": null, "warnings": []}', '', 'proposed', 'opr_1', now(),"""
        " now() + interval '1 day')"
    )
    first, second = await begin(pool), await begin(pool)
    await pool.execute("UPDATE simulations SET proposal_id = 'prp_1' WHERE id = $1", first)
    assert [await claimed(pool, 1, 60) for _ in range(2)] == [second, first]


async def test_no_more_may_wait_than_can_be_waited_for(office: Office) -> None:
    """With every worker busy elsewhere, the next is refused and may be asked for again."""
    at = await _hold_open(office, OPEN_MAX)
    try:
        reply = await office.call("POST", SIMULATIONS, {"from": moment(days=-1), "to": moment()})
        assert (reply.status, reply.code) == (409, "simulation-running"), reply.raw
        assert "retry-after" in reply.headers
    finally:
        for simulation in at:
            await office.call("DELETE", f"{SIMULATIONS}/{simulation}")
    assert (await office.simulated())["status"] == "done"


async def _hold_open(office: Office, count: int) -> list[str]:
    """Have simulations open that nobody works on, as dead workers leave them for a while."""
    connection = await asyncpg.connect(office.house.description["database_url"])
    ids = [f"sim_held{number:02}" for number in range(count)]
    try:
        await connection.execute(
            "INSERT INTO simulations (id, draft, from_at, to_at, status, started_by, created_at,"
            " worker, lease_until)"
            " SELECT id, '{\"puts\": [], \"deletes\": []}', now(), now(), 'running', 'test', now(),"
            " 0, now() + interval '60 seconds' FROM unnest($1::text[]) AS t (id)",
            ids,
        )
    finally:
        await connection.close()
    return ids
