"""Days of events: made ahead, made late, dropped when old; and what payments and readers notice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gateway.kernel.db import migrate
from gateway.kernel.metrics import Metrics
from gateway.webhooks import store
from gateway.webhooks.days import EventDays
from tests.house import House, new_key
from tests.payments.books import fresh_amount
from tests.services import MIGRATED, Services, fresh_database
from tests.webhooks.streams import Follower, following
from tests.webhooks.test_order import KEPT_DAYS, Desk, desk, endpoint, grow_old

__all__ = ["desk"]

follow = asynccontextmanager(following)

DAYS = """
SELECT c.relname::text AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'outbox'::regclass ORDER BY c.relname
"""
WHERE_THEY_LIE = """
SELECT payment_id, tableoid::regclass::text AS day FROM outbox ORDER BY xid, id
"""
EVENTS = """
SELECT xid::text, id, payment_id, sequence, type, data::text, created_at FROM outbox
ORDER BY xid, id
"""


async def day(desk: Desk, ago: int) -> str:
    """Return the table of a day before today, or after it where `ago` is negative."""
    name: str = await desk.pool.fetchval(
        "SELECT 'outbox_' || to_char((now() AT TIME ZONE 'UTC')::date - $1::integer, 'YYYYMMDD')",
        ago,
    )
    return name


async def lying(desk: Desk) -> list[tuple[str, str]]:
    """Return the payment and the table of every event, in order."""
    return [(row["payment_id"], row["day"]) for row in await desk.pool.fetch(WHERE_THEY_LIE)]


# Made ---------------------------------------------------------------------------------------------


async def test_a_new_database_has_days(desk: Desk) -> None:
    """The day of the migration and seven more, by it alone; an event lies in today's."""
    *days, last = [row["day"] for row in await desk.pool.fetch(DAYS)]
    assert (len(days), last) == (8, "outbox_default")
    assert await day(desk, 0) in days
    payment = await desk.payment()
    await desk.event(payment)
    assert await lying(desk) == [(payment, await day(desk, 0))]


async def test_days_are_made_as_time_goes_on(desk: Desk) -> None:
    """The ones that are missing ahead, by whichever worker is first, and a gauge tells how many."""
    await desk.days.make()
    metrics = Metrics()
    both = [EventDays(desk.pool, metrics, ahead=9, kept=KEPT_DAYS) for _ in range(2)]
    assert sum(await asyncio.gather(*(one.make() for one in both))) == 2
    assert b"oqim_event_days_ahead 9.0" in metrics.text()
    assert [await one.make() for one in both] == [0, 0]


async def test_payments_go_on_without_days(desk: Desk) -> None:
    """No worker ran for weeks: events are kept, read and deleted as ever, until days are made."""
    for row in (await desk.pool.fetch(DAYS))[:-1]:
        await desk.pool.execute(f"DROP TABLE {row['day']}")
    await endpoint(desk)
    payments = [await desk.payment() for _ in range(3)]
    await desk.event(payments[0])
    await grow_old(desk, KEPT_DAYS + 1, has_tables=False)
    await desk.event(payments[1])
    assert [where for _, where in await lying(desk)] == ["outbox_default"] * 2
    await desk.fan_out.run()
    assert await desk.made() == [(payments[0], 2), (payments[1], 2)]

    await desk.days.keep()
    assert len(await desk.pool.fetch(DAYS)) == 9, "today, seven more, and the one of the rest"
    await desk.event(payments[2])
    assert await lying(desk) == [
        (payments[1], "outbox_default"),
        (payments[2], await day(desk, 0)),
    ]
    await desk.fan_out.run()
    assert await desk.made() == [(one, 2) for one in payments], "each once"


async def test_a_clock_that_was_ahead_is_survived(desk: Desk) -> None:
    """Events of a day to come have no table; the days around it do, and what happens goes there."""
    future = await desk.payment()
    await desk.event(future)
    await grow_old(desk, -9, has_tables=False)
    assert await EventDays(desk.pool, Metrics(), ahead=10, kept=KEPT_DAYS).make() == 2
    names = [row["day"] for row in await desk.pool.fetch(DAYS)]
    assert await day(desk, -8) in names
    assert await day(desk, -9) not in names
    assert await day(desk, -10) in names
    now = await desk.payment()
    await desk.event(now)
    assert await lying(desk) == [(future, "outbox_default"), (now, await day(desk, 0))]


async def test_the_migration_command_makes_days(services: Services) -> None:
    """On a database that is up to date but was left alone."""
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        try:
            await asyncio.to_thread(migrate.apply, url, lambda _: None)
            names = [row["day"] for row in await connection.fetch(DAYS)]
            await connection.execute(f"DROP TABLE {names[-2]}")
            assert await asyncio.to_thread(migrate.apply, url, lambda _: None) == 0
            assert [row["day"] for row in await connection.fetch(DAYS)] == names
        finally:
            await connection.close()


# Dropped ------------------------------------------------------------------------------------------


async def test_a_day_is_dropped_when_all_of_it_is_old(desk: Desk) -> None:
    """Thirty days after its last moment; a place before its end cannot be gone on from."""
    payment = await desk.payment()
    await desk.event(payment)
    await desk.fan_out.run()
    await grow_old(desk, KEPT_DAYS)
    await desk.days.keep()
    assert await lying(desk) == [(payment, await day(desk, KEPT_DAYS))]
    await grow_old(desk, 1)
    await desk.days.keep()
    assert await lying(desk) == []
    assert await day(desk, KEPT_DAYS + 1) not in [row["day"] for row in await desk.pool.fetch(DAYS)]
    bounds = await desk.pool.fetchrow(store.GET_BOUNDS)
    assert bounds is not None
    assert int(bounds["xid"]) > 0, "what was dropped is known to be gone"


async def test_a_day_is_kept_until_deliveries_were_made(desk: Desk) -> None:
    """However old: an event of which nobody was told is not lost. Younger days wait for it."""
    await endpoint(desk)
    told, untold = await desk.payment(), await desk.payment()
    await desk.event(told)
    await desk.fan_out.run()
    await desk.event(untold)
    await grow_old(desk, 40)
    await desk.days.keep()
    assert [payment for payment, _ in await lying(desk)] == [told, untold]
    await desk.fan_out.run()
    assert await desk.made() == [(told, 2), (untold, 2)]
    await desk.days.keep()
    assert await lying(desk) == []


async def test_who_reads_for_long_holds_nobody_up(desk: Desk) -> None:
    """A dump of hours: the day is dropped later, and payments are written meanwhile."""
    await desk.event(await desk.payment())
    await desk.fan_out.run()
    await grow_old(desk, 40)
    dump: Any = await asyncpg.connect(desk.url)
    try:
        async with dump.transaction(isolation="repeatable_read"):
            await dump.fetch("SELECT FROM outbox")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await desk.days.drop()
            young = await desk.payment()
            async with asyncio.timeout(5):
                await desk.event(young)
            with pytest.raises(asyncpg.LockNotAvailableError):
                await EventDays(desk.pool, Metrics(), ahead=8, kept=KEPT_DAYS).make()
            async with asyncio.timeout(5):
                await desk.event(young, 3)
    finally:
        await dump.close()
    assert await desk.days.drop() == 1
    assert [payment for payment, _ in await lying(desk)] == [young, young]


# Through the doors --------------------------------------------------------------------------------


async def test_a_payment_over_midnight(house: House) -> None:
    """Held on one day, captured and refunded on another: told in order, replayed as it was."""
    token, key = house.user(21)["access_token"], new_key()
    body = house.purchase(21, "visa", fresh_amount(), capture="manual")
    follower = Follower(house, token)
    async with follow(follower):
        pass
    held = await house.pay(21, body, key=key)
    assert held.status == 201, held.raw
    path = f"/v1/payments/{held.body['id']}"
    yesterday, today = await house.rows(
        "SELECT (created_at AT TIME ZONE 'UTC')::date - n AS date FROM outbox,"
        " unnest(ARRAY[1, 0]) AS n WHERE payment_id = $1",
        held.body["id"],
    )
    await house.rows(
        f"CREATE TABLE IF NOT EXISTS outbox_{yesterday['date']:%Y%m%d} PARTITION OF outbox"
        f" FOR VALUES FROM ('{yesterday['date']}') TO ('{today['date']}')"
    )
    await house.rows(
        "UPDATE outbox SET created_at = created_at - interval '1 day' WHERE payment_id = $1",
        held.body["id"],
    )
    for step, part in (("capture", {}), ("refunds", {})):
        done = await house.call("POST", f"{path}/{step}", part, token=token, key=new_key())
        assert done.status in (200, 201), done.raw
    again = await house.pay(21, body, key=key)
    assert (again.status, again.raw) == (held.status, held.raw)
    days = await house.rows(
        "SELECT DISTINCT tableoid::regclass::text AS day FROM outbox WHERE payment_id = $1",
        held.body["id"],
    )
    assert len(days) == 2
    assert "outbox_default" not in [row["day"] for row in days]
    async with follow(follower):
        await follower.has(lambda: len(follower.messages) >= 3)
    assert [one.what[0] for one in follower.messages] == [held.body["id"]] * 3
    sequences = [one.what[1] for one in follower.messages]
    assert sequences == sorted(sequences)
    assert [one.type for one in follower.messages][-1] == "refund.succeeded"


# An old database ----------------------------------------------------------------------------------


async def test_what_was_there_becomes_a_part(services: Services) -> None:
    """Forward, none of it copied, and back; written to in between."""
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        try:
            while await connection.fetchval("SELECT to_regclass('outbox_default') IS NOT NULL"):
                assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1
            await connection.execute(
                "INSERT INTO outbox (payment_id, sequence, type, data, created_at)"
                " SELECT 'pay_' || n, 2, 'x', '{}', now() - n * interval '6 hours'"
                " FROM generate_series(1, 200) AS n"
            )
            before = await connection.fetch(EVENTS)
            file = await connection.fetchval("SELECT pg_relation_filenode('outbox')")
            await asyncio.to_thread(migrate.apply, url, lambda _: None)
            assert await connection.fetch(EVENTS) == before
            names = [row["day"] for row in await connection.fetch(DAYS)]
            assert len(names) == 9
            assert file == await connection.fetchval(
                "SELECT pg_relation_filenode($1::text::regclass)", names[0]
            )
            await connection.execute(
                "INSERT INTO outbox (payment_id, sequence, type, data)"
                " VALUES ('pay_new', 2, 'x', '{}')"
            )
            after = await connection.fetch(EVENTS)
            assert len(after) == len(before) + 1
            assert after[-1]["id"] > before[-1]["id"]
            while await connection.fetchval("SELECT to_regclass('outbox_default') IS NOT NULL"):
                assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1
            assert await connection.fetch(EVENTS) == after
        finally:
            await connection.close()
