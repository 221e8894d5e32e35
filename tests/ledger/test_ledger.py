"""Every account is in the chart, every entry sums to zero, a balance is the same however summed."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from gateway.kernel.db import pool as pools
from gateway.ledger.balances import Balances
from gateway.ledger.chart import Chart, read_chart
from tests.house import House, Reply
from tests.services import MIGRATED, Services, fresh_database

ACCOUNTS = Path(__file__).resolve().parents[2] / "config" / "accounts.toml"


@pytest.fixture
async def pool(services: Services) -> AsyncIterator[asyncpg.Pool]:
    """A migrated database, empty."""
    async with fresh_database(services, template=MIGRATED) as url:
        pool = await pools.create(url, size_max=2, command_timeout_s=60.0)
        yield pool
        await pool.close()


def chart() -> Chart:
    """The product's own."""
    return read_chart(msgspec.json.encode(tomllib.loads(ACCOUNTS.read_text())))


async def post(pool: asyncpg.Pool, count: int, *, every: timedelta, until: datetime) -> None:
    """Post entries of three lines, back from a moment."""
    await pool.execute(
        """
        INSERT INTO postings (entry_id, line, account, amount_minor, currency, posted_at)
        SELECT 'pay_' || n, line, account, amount, 'UZS', $2::timestamptz - n * $3::interval
        FROM generate_series(1, $1) AS n, LATERAL (VALUES
            (1, 'processor:visa', 100 + n), (2, 'merchant:mer_' || n % 50, -(90 + n)),
            (3, 'commission:income', -10)) AS lines (line, account, amount)
        """,
        count,
        until,
        every,
    )


async def by_hand(pool: asyncpg.Pool, at: datetime) -> dict[str, int]:
    """Every balance, added up posting by posting."""
    rows = await pool.fetch(
        "SELECT account, sum(amount_minor)::bigint AS sum FROM postings WHERE posted_at <= $1"
        " GROUP BY 1",
        at,
    )
    return {row["account"]: row["sum"] for row in rows}


async def test_a_balance_is_the_same_before_and_after_hours_are_rolled_up(
    pool: asyncpg.Pool,
) -> None:
    """At any moment: before everything, in the middle of an hour, on the hour, and now."""
    balances = Balances(pool, chart())
    now = datetime.now(UTC).replace(microsecond=0)
    await post(pool, 3_000, every=timedelta(seconds=37), until=now - timedelta(minutes=1))
    hour = (now - timedelta(hours=9)).replace(minute=0, second=0)
    moments = [
        now - timedelta(days=9),
        hour,
        hour - timedelta(milliseconds=1),
        hour + timedelta(minutes=17),
        now,
    ]
    expected = {at: await by_hand(pool, at) for at in moments}
    rolled = 0
    for _ in range(4):
        for at in moments:
            shown = await balances.trial_balance(round(at.timestamp() * 1000))
            got = {one.account: one.balance for one in shown.accounts}
            assert got == expected[at], (at, rolled)
            assert all(total.debit == total.credit for total in shown.totals)
        rolled += await balances.roll_up()
    # Thirty-one hours, less the one that has not ended and those that may still get postings.
    assert 28 <= rolled <= 32
    assert await balances.roll_up() == 0, "an hour is rolled up once"


async def test_an_hour_that_may_still_get_postings_is_left_alone(pool: asyncpg.Pool) -> None:
    """A transaction that began in it may be open."""
    now = datetime.now(UTC)
    await post(pool, 10, every=timedelta(seconds=1), until=now)
    assert await Balances(pool, chart()).roll_up() == 0


async def operator(house: House, path: str) -> Reply:
    """Ask as an operator."""
    token = house.description["operators"][0]["access_token"]
    return await house.call("GET", f"/admin/v1/ledger{path}", token=token)


async def test_a_payment_moves_accounts_of_the_chart_and_nothing_else(house: House) -> None:
    """The trial balance is even, every account has a kind, and the entry is there by its id."""
    payment: Any = (await house.pay(40, house.purchase(40, "visa", 777_700))).body
    entry = (await operator(house, f"/entries/{payment['id']}")).body
    assert sum(one["amount"] for one in entry["postings"]) == 0
    assert {one["account"].split(":")[0] for one in entry["postings"]} >= {"processor", "merchant"}
    shown = (await operator(house, "/trial-balance")).body
    assert all(one["kind"] for one in shown["accounts"]), shown
    assert all(total["debit"] == total["credit"] > 0 for total in shown["totals"])
    before = (await operator(house, "/trial-balance?at=2020-01-01T00:00:00%2B05:00")).body
    assert before["accounts"] == []


async def test_what_is_asked_wrongly_is_told(house: House) -> None:
    """A moment without an offset, an entry that is not there, a customer."""
    for path in ("/trial-balance?at=yesterday", "/trial-balance?at=2026-01-01T00:00:00"):
        reply = await operator(house, path)
        assert (reply.status, reply.code) == (400, "invalid-query")
    missing = await operator(house, "/entries/pay_unknown")
    assert (missing.status, missing.code) == (404, "not-found")
    token = house.user(40)["access_token"]
    reply = await house.call("GET", "/admin/v1/ledger/trial-balance", token=token)
    assert (reply.status, reply.code) == (403, "insufficient-scope")
