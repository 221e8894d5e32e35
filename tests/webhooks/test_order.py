"""Fan-out and the feed on a real database: what commits late, dies halfway, or comes from afar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from gateway import settings as settings_module
from gateway.kernel.db import migrate
from gateway.kernel.db import pool as pools
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.kernel.metrics import Metrics
from gateway.kernel.vault import Vault
from gateway.webhooks import feed, store
from gateway.webhooks.addresses import Policy
from gateway.webhooks.days import EventDays
from gateway.webhooks.fanout import FanOut, settle_order
from gateway.webhooks.feed import Feed, Listener
from gateway.webhooks.model import WebhookEndpointBody, WebhookEndpointChange
from gateway.webhooks.service import Endpoints
from tests.identity.worker import VAULT_KEY, Hand
from tests.services import MIGRATED, Services, fresh_database

MERCHANT, OTHER, CUSTOMER = "mer_1", "mer_2", "usr_1"
KEPT_DAYS = 30


@dataclass(slots=True)
class Desk:
    """A database of its own, and what works on it."""

    url: str
    pool: asyncpg.Pool
    clock: Hand
    fan_out: FanOut
    days: EventDays
    endpoints: Endpoints
    feed: Feed

    async def payment(self, *, merchant: str | None = MERCHANT, owner: str = CUSTOMER) -> str:
        """Add a payment, with no events."""
        payment_id = new_id("pay_", self.clock())
        await self.pool.execute(
            """
            INSERT INTO payments (id, created_at, owner, client_id, operation, scheme,
                amount_minor, currency, merchant_id, is_manual_capture, commission_payer,
                commission_plan, commission_version, legs, record, details, commission_lines,
                version, status, total_debit, total_credit, commission_total, commission_vat)
            VALUES ($1, now(), $2, 'mobile', 'purchase', 'humo', 1000, 'UZS', $3, false, 'bank',
                'free', 1, '[]', '', '{}', '[]', 1, 'processing', 1000, 1000, 0, 0)
            """,
            payment_id,
            owner,
            merchant,
        )
        return payment_id

    async def event(self, payment_id: str, sequence: int = 2, by: Any = None) -> None:
        """Write an event, in a transaction of its own unless another's connection is given."""
        await (by or self.pool).execute(
            "INSERT INTO outbox (payment_id, sequence, type, data) VALUES ($1, $2, $3, $4)",
            payment_id,
            sequence,
            "payment.succeeded",
            '{"id": "' + payment_id + '"}',
        )

    async def made(self) -> list[tuple[str, int]]:
        """Return the payment and the sequence of every delivery, in the order of their making."""
        rows = await self.pool.fetch(
            "SELECT payment_id, sequence FROM webhook_deliveries ORDER BY created_at, ctid"
        )
        return [(row["payment_id"], row["sequence"]) for row in rows]

    async def claim(self, limit: int = 100, each: int = 4) -> list[asyncpg.Record]:
        """Claim deliveries as a worker with nothing to do would."""
        rows: list[asyncpg.Record] = await self.pool.fetch(
            store.CLAIM_DELIVERIES, [], [], each, limit, 5.0
        )
        return rows


@pytest.fixture
async def desk(services: Services) -> AsyncIterator[Desk]:
    async with fresh_database(services, template=MIGRATED) as url:
        pool = await pools.create(url, size_max=8, command_timeout_s=10.0)
        settings = settings_module.load({})
        clock, vault = Hand(), Vault({1: VAULT_KEY})
        yield Desk(
            url=url,
            pool=pool,
            clock=clock,
            fan_out=FanOut(pool, clock, kept_s=KEPT_DAYS * 86_400.0),
            days=EventDays(pool, Metrics(), ahead=7, kept=KEPT_DAYS),
            endpoints=Endpoints(
                pool=pool,
                vault=vault,
                clock=clock,
                policy=Policy(ports=frozenset({443})),
                settings=settings.webhooks,
            ),
            feed=Feed(pool, Metrics(), settings.events),
        )
        await pool.close()


async def endpoint(desk: Desk, owner: str = MERCHANT) -> str:
    """Add an endpoint."""
    return (await desk.endpoints.add(owner, WebhookEndpointBody(url="https://shop.example.uz/"))).id


async def grow_old(desk: Desk, days: int, *, has_tables: bool = True) -> None:
    """Let every event have happened so many days earlier, in the tables that those days had."""
    dates = await desk.pool.fetch(
        "SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date - $1::integer AS date FROM outbox",
        days,
    )
    for date in [row["date"] for row in dates if has_tables]:
        await desk.pool.execute(
            f"CREATE TABLE IF NOT EXISTS outbox_{date:%Y%m%d} PARTITION OF outbox"
            f" FOR VALUES FROM ('{date}') TO ('{date + timedelta(days=1)}')"
        )
    await desk.pool.execute(
        "UPDATE outbox SET created_at = created_at - $1 * interval '1 day'", days
    )


async def drained(desk: Desk, listener: Listener) -> list[str]:
    """Return the payments that a listener is told of until there is a sign of life."""
    told = desk.feed.told(listener)
    found = []
    await anext(told)
    try:
        async with asyncio.timeout(1.0):
            async for one in told:
                if one.event is not None:
                    found.append(one.event.payment_id)
    except TimeoutError:
        pass
    return found


# What commits late --------------------------------------------------------------------------------


async def test_an_event_that_commits_late_is_not_passed_by(desk: Desk) -> None:
    """A transaction took its number first and ends last: nothing overtakes it for ever."""
    await endpoint(desk)
    late, early = await desk.payment(), await desk.payment()
    slow = await asyncpg.connect(desk.url)
    try:
        transaction = slow.transaction()
        await transaction.start()
        await desk.event(late, by=slow)
        await desk.event(early)
        ids = await desk.pool.fetch("SELECT id FROM outbox")
        assert len(ids) == 1, "the late one is not to be seen yet"
        await desk.fan_out.run()
        assert await desk.made() == [], "what may still come before it holds it back"
        await transaction.commit()
    finally:
        await slow.close()
    await desk.fan_out.run()
    assert await desk.made() == [(late, 2), (early, 2)]
    await desk.fan_out.run()
    assert len(await desk.made()) == 2, "each once"


async def test_an_event_that_is_rolled_back_holds_nothing_up(desk: Desk) -> None:
    await endpoint(desk)
    never, kept = await desk.payment(), await desk.payment()
    slow = await asyncpg.connect(desk.url)
    try:
        transaction = slow.transaction()
        await transaction.start()
        await desk.event(never, by=slow)
        await desk.event(kept)
        await transaction.rollback()
    finally:
        await slow.close()
    await desk.fan_out.run()
    assert await desk.made() == [(kept, 2)]


async def test_no_order_of_commits_loses_an_event(desk: Desk) -> None:
    """Transactions that begin and end in every order, while fan-out runs all the time."""
    await endpoint(desk)
    payments = [await desk.payment() for _ in range(60)]
    stop = asyncio.Event()

    async def fan_out() -> None:
        while not stop.is_set():
            await desk.fan_out.run()

    async def write(number: int) -> None:
        connection = await asyncpg.connect(desk.url)
        try:
            async with connection.transaction():
                await desk.event(payments[number], by=connection)
                await asyncio.sleep((number * 7 % 10) / 100)
        finally:
            await connection.close()

    running = [asyncio.create_task(fan_out()) for _ in range(2)]
    for start in range(0, 60, 20):
        await asyncio.gather(*(write(number) for number in range(start, start + 20)))
    stop.set()
    await asyncio.gather(*running)
    await desk.fan_out.run()
    made = await desk.made()
    assert sorted(made) == sorted((payment_id, 2) for payment_id in payments)


async def test_a_listener_hears_what_commits_late(desk: Desk) -> None:
    """It was told of nothing beyond, and goes on from before."""
    late, early = await desk.payment(), await desk.payment()
    listener = await desk.feed.join(CUSTOMER, None)
    slow = await asyncpg.connect(desk.url)
    desk.feed.start()
    try:
        transaction = slow.transaction()
        await transaction.start()
        await desk.event(late, by=slow)
        await desk.event(early)
        assert await drained(desk, listener) == []
        await transaction.commit()
    finally:
        await slow.close()
    assert await drained(desk, listener) == [late, early]
    await desk.feed.close()


async def test_an_endpoint_is_told_of_what_happens_after_it_was_added(desk: Desk) -> None:
    """Not of what came before, read or not; and of everything since, late commits among it."""
    before, unread, late, after = [await desk.payment() for _ in range(4)]
    await desk.event(before)
    await desk.fan_out.run()
    slow = await asyncpg.connect(desk.url)
    try:
        transaction = slow.transaction()
        await transaction.start()
        await desk.event(late, by=slow)
        await desk.event(unread)
        await desk.fan_out.run()
        await endpoint(desk)
        await desk.event(after)
        await transaction.commit()
    finally:
        await slow.close()
    await desk.fan_out.run()
    assert [payment_id for payment_id, _ in await desk.made()] == [late, unread, after]


async def test_a_listener_from_a_worker_that_is_ahead_hears_nothing_twice(desk: Desk) -> None:
    """What one worker told is not told again by one that reads it later."""
    behind = desk.feed
    # Somebody listens there already, and it has not read since.
    await behind.join(CUSTOMER, None)
    first, second = await desk.payment(), await desk.payment()
    await desk.event(first)
    rows = await desk.pool.fetch(store.READ_EVENTS, "0", 0, 10)
    told = store.event_of(rows[-1]).position
    listener = await behind.join(CUSTOMER, told)
    await desk.event(second)
    behind.start()
    assert await drained(desk, listener) == [second]
    await behind.close()


async def test_a_listener_that_falls_behind_is_cut_off(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream ends, others go on, and coming again it is told of all it missed."""
    monkeypatch.setattr(feed, "_BEHIND_MAX", 3)
    slow = await desk.feed.join(CUSTOMER, None)
    other = await desk.feed.join(OTHER, None)
    payments = [await desk.payment() for _ in range(6)]
    mine = await desk.payment(merchant=OTHER, owner="usr_2")
    for payment_id in (*payments, mine):
        await desk.event(payment_id)
    desk.feed.start()
    assert await drained(desk, other) == [mine]
    told = [one async for one in desk.feed.told(slow)]
    assert [one.event for one in told] == [None]
    desk.feed.leave(slow)
    again = await desk.feed.join(CUSTOMER, told[-1].position)
    assert await drained(desk, again) == payments
    await desk.feed.close()


# What dies halfway --------------------------------------------------------------------------------


async def test_a_fan_out_that_dies_leaves_all_or_nothing(desk: Desk) -> None:
    """Killed before its commit, the batch is made by the next."""
    await endpoint(desk)
    payments = [await desk.payment() for _ in range(3)]
    for payment_id in payments:
        await desk.event(payment_id)
    dying = await asyncpg.connect(desk.url)
    transaction = dying.transaction()
    await transaction.start()
    at = await dying.fetchrow(store.LOCK_POSITION)
    assert at is not None
    await dying.execute(store.SET_POSITION, "fanned_out", str(2**60), 0)
    assert await desk.fan_out.run() == 0, "one at a time"
    dying.terminate()

    async def made() -> None:
        while not await desk.made():
            await desk.fan_out.run()

    await asyncio.wait_for(made(), 5)
    assert await desk.made() == [(payment_id, 2) for payment_id in payments]


async def test_what_was_claimed_is_claimed_again_when_its_time_is_over(desk: Desk) -> None:
    """A claim holds others off until its time is over; then a second telling counts alone."""
    await endpoint(desk)
    await desk.event(await desk.payment())
    await desk.fan_out.run()
    (first,) = await desk.claim()
    assert await desk.claim() == []
    await desk.pool.execute("UPDATE webhook_deliveries SET next_try_at = now()")
    (second,) = await desk.claim()
    assert (second["id"], second["tries"]) == (first["id"], 2)
    assert await desk.pool.fetchval(store.FAIL, first["id"], first["tries"], 500, "") is None
    await desk.pool.execute(store.SUCCEED, [first["id"]], [first["tries"]], [200])
    assert await desk.pool.fetchval("SELECT status FROM webhook_deliveries") == "pending"
    await desk.pool.execute(store.SUCCEED, [second["id"]], [second["tries"]], [200])
    assert await desk.pool.fetchval("SELECT status FROM webhook_deliveries") == "succeeded"
    assert await desk.pool.fetchval(store.FAIL, second["id"], second["tries"], 500, "") is None


async def test_a_later_event_waits_for_the_first_try_of_an_earlier_one(desk: Desk) -> None:
    """Never sent together; once the earlier one was refused, the later may overtake it."""
    await endpoint(desk)
    payment_id = await desk.payment()
    for sequence in (2, 3, 5):
        await desk.event(payment_id, sequence)
    await desk.fan_out.run()
    (first,) = await desk.claim()
    assert await desk.claim() == []
    told = (first["id"], first["tries"], 500, "refused", 60.0)
    assert await desk.pool.fetchval(store.TRY_AGAIN, *told) is not None
    (second,) = await desk.claim()
    rows = await desk.pool.fetch("SELECT id, sequence FROM webhook_deliveries")
    sequences = {row["id"]: row["sequence"] for row in rows}
    assert [sequences[first["id"]], sequences[second["id"]]] == [2, 3]


async def test_an_endpoint_that_fails_has_one_at_a_time(desk: Desk) -> None:
    """And the others keep their places."""
    failing, well = await endpoint(desk), await endpoint(desk, OTHER)
    for number in range(12):
        await desk.event(await desk.payment(merchant=(MERCHANT, OTHER)[number % 2]))
    await desk.fan_out.run()
    await desk.pool.execute(store.IS_FAILING, failing, None)
    claimed = [row["endpoint_id"] for row in await desk.claim(each=4)]
    assert (claimed.count(failing), claimed.count(well)) == (1, 4)


# Whose it is --------------------------------------------------------------------------------------


async def test_each_endpoint_is_told_of_its_own_merchants_payments(desk: Desk) -> None:
    """Events of two merchants, of a payout and of neither, all in one batch."""
    first, second = await endpoint(desk), await endpoint(desk, OTHER)
    ours, theirs = await desk.payment(), await desk.payment(merchant=OTHER)
    payout = await desk.payment(merchant=None, owner=MERCHANT)
    for payment_id in (ours, theirs, payout, await desk.payment(merchant=None)):
        await desk.event(payment_id)
    await desk.fan_out.run()
    rows = await desk.pool.fetch("SELECT endpoint_id, payment_id FROM webhook_deliveries")
    told = {(row["endpoint_id"], row["payment_id"]) for row in rows}
    assert told == {(first, ours), (second, theirs), (first, payout)}


async def test_another_merchants_endpoint_is_not_found(desk: Desk) -> None:
    """Every call, by a merchant that knows the id."""
    endpoint_id = await endpoint(desk)
    await desk.event(await desk.payment())
    await desk.fan_out.run()
    (delivery,) = await desk.claim()
    service = desk.endpoints
    calls = [
        service.get(OTHER, endpoint_id),
        service.change(OTHER, endpoint_id, WebhookEndpointChange(is_enabled=False)),
        service.delete(OTHER, endpoint_id),
        service.rotate(OTHER, endpoint_id),
        service.deliveries(OTHER, endpoint_id, before="~", status=None, limit=10),
        service.redeliver(OTHER, endpoint_id, delivery["id"]),
    ]
    for call in calls:
        with pytest.raises(Problem, match="not-found"):
            await call
    assert await service.page(OTHER, before="~", limit=10) == []
    assert (await service.get(MERCHANT, endpoint_id)).is_enabled


async def test_a_delivery_of_another_endpoint_is_not_found(desk: Desk) -> None:
    first, second = await endpoint(desk), await endpoint(desk)
    await desk.event(await desk.payment())
    await desk.fan_out.run()
    claimed = {row["endpoint_id"]: row["id"] for row in await desk.claim()}
    with pytest.raises(Problem, match="not-found"):
        await desk.endpoints.redeliver(MERCHANT, first, claimed[second])


# What is old, and what comes from elsewhere -------------------------------------------------------


async def test_what_is_old_is_removed(desk: Desk) -> None:
    """Events and deliveries that ended, after thirty days; what waits, and what is young, stays."""
    await desk.days.make()
    await endpoint(desk)
    old, waiting = await desk.payment(), await desk.payment()
    await desk.event(old)
    await desk.event(waiting)
    await desk.fan_out.run()
    for row in await desk.claim():
        if row["body"].find(old) >= 0:
            await desk.pool.execute(store.SUCCEED, [row["id"]], [row["tries"]], [200])
    assert (await desk.fan_out.prune(), await desk.days.drop()) == (0, 0), "nothing is old yet"
    listener = await desk.feed.join(CUSTOMER, None)
    place = listener.joined_at
    await grow_old(desk, 31)
    desk.clock.advance(31 * 86_400)
    unread, young = await desk.payment(), await desk.payment()
    await desk.event(unread)
    await grow_old(desk, 1)
    await desk.event(young)
    assert await desk.fan_out.prune() == 1
    assert await desk.made() == [(waiting, 2)]
    assert await desk.days.drop() > 0
    rows = await desk.pool.fetch("SELECT payment_id FROM outbox ORDER BY xid, id")
    assert [row["payment_id"] for row in rows] == [unread, young]
    with pytest.raises(Problem, match="invalid-cursor"):
        await desk.feed.join(CUSTOMER, ("1", 1))
    desk.feed.leave(listener)
    desk.feed.leave(await desk.feed.join(CUSTOMER, place))


async def test_a_database_from_another_server_goes_on(desk: Desk) -> None:
    """Its transactions have numbers of the future: nothing is delivered twice, nothing is lost."""
    await endpoint(desk)
    done, waiting = await desk.payment(), await desk.payment()
    await desk.event(done)
    await desk.fan_out.run()
    await desk.event(waiting)
    far = 2**40
    await desk.pool.execute(f"UPDATE outbox SET xid = (xid::text::bigint + {far})::text::xid8")
    await desk.pool.execute(
        f"UPDATE event_positions SET xid = (xid::text::bigint + {far})::text::xid8"
    )
    await desk.fan_out.run()
    assert await desk.made() == [(done, 2)], "blind until the order is settled"
    await asyncio.gather(settle_order(desk.pool), settle_order(desk.pool))
    new = await desk.payment()
    await desk.event(new)
    await desk.fan_out.run()
    assert await desk.made() == [(done, 2), (waiting, 2), (new, 2)]
    before = await desk.pool.fetch("SELECT xid::text, id FROM outbox ORDER BY xid, id")
    await settle_order(desk.pool)
    assert before == await desk.pool.fetch("SELECT xid::text, id FROM outbox ORDER BY xid, id")


async def test_the_migration_goes_back_and_forth(services: Services) -> None:
    """Down and up again, with events in the outbox."""
    async with fresh_database(services, template=MIGRATED) as url:
        while True:
            connection = await asyncpg.connect(url)
            has_it = await connection.fetchval("SELECT to_regclass('webhook_endpoints')")
            await connection.close()
            if has_it is None:
                break
            assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO outbox (payment_id, sequence, type, data) VALUES ('pay_1', 2, 'x', '{}')"
        )
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        assert await connection.fetchval("SELECT xid::text::bigint FROM outbox") > 0
        await connection.close()
