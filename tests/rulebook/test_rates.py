"""Rates of the central bank become a generation; limits in other currencies count by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway import settings as settings_module
from gateway.kernel.clock import system_clock
from gateway.kernel.db import pool as pools
from gateway.rules import store
from gateway.rules.rates import RatesError, import_rates, read_published
from gateway.rules.seeds import ensure_first
from tests.identity.fixtures import Place
from tests.rulebook.office import POLICIES, Office, pay_everywhere, policy

SEEDS = settings_module.load({}).rules


def published(**changes: Any) -> dict[str, Any]:
    """Return one rate as the central bank publishes it."""
    return {
        "id": 69,
        "Code": "840",
        "Ccy": "USD",
        "CcyNm_EN": "US Dollar",
        "Nominal": "1",
        "Rate": "12100.55",
        "Diff": "-3.2",
        "Date": "21.11.2026",
    } | changes


def file_of(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows).encode()


@pytest.fixture
async def pool(place: Place) -> AsyncIterator[asyncpg.Pool]:
    """A database with the first rules in it."""
    pool = await pools.create(place.database_url, size_max=6, command_timeout_s=10.0)
    await ensure_first(pool, SEEDS, system_clock)
    yield pool
    await pool.close()


BAD_FILES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<rates/>",
    "no list": b"{}",
    "no rates": b"[]",
    "no UTF-8": b'[{"Ccy": "\xff"}]',
    "a row without a rate": file_of({"Ccy": "USD", "Nominal": "1", "Date": "21.11.2026"}),
    "a rate that is a number": file_of(published(Rate=12100.55)),
    "a rate of zero": file_of(published(Rate="0")),
    "a rate below zero": file_of(published(Rate="-1")),
    "a rate with a comma": file_of(published(Rate="12100,55")),
    "a nominal of zero": file_of(published(Nominal="0")),
    "a currency that is none": file_of(published(Ccy="usd")),
    "a date that is none": file_of(published(Date="31.02.2026")),
    "a date of another form": file_of(published(Date="2026-11-21")),
    "two rates of a day": file_of(published(), published(Rate="1")),
    "another rate than is stored": file_of(published(Date="20.11.2026", Rate="1")),
    "the soum itself": file_of(published(Ccy="UZS")),
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
async def test_a_bad_file_changes_nothing(pool: asyncpg.Pool, text: bytes) -> None:
    before = await pool.fetchval("SELECT count(*) FROM exchange_rates")
    with pytest.raises(RatesError):
        await import_rates(pool, text, clock=system_clock, actor="cli")
    assert await store.newest(pool) == 1
    assert await pool.fetchval("SELECT count(*) FROM exchange_rates") == before


async def test_rates_make_the_next_generation_once(pool: asyncpg.Pool) -> None:
    text = file_of(published(), published(Ccy="JPY", Nominal="10", Rate="775"))
    made = await import_rates(pool, text, clock=system_clock, actor="cli")
    assert (made.generation, made.added, made.known) == (2, 2, 0)
    again = await import_rates(pool, text, clock=system_clock, actor="cli")
    assert (again.generation, again.added, again.known) == (None, 0, 2)
    more = file_of(published(), published(Ccy="EUR", Rate="14000"))
    made = await import_rates(pool, more, clock=system_clock, actor="cli")
    assert (made.generation, made.added, made.known) == (3, 1, 1)
    rows = await pool.fetch("SELECT actor, object, detail FROM audit_log ORDER BY id OFFSET 1")
    assert [row["object"] for row in rows] == ["generation:2", "generation:3"]
    assert json.loads(rows[0]["detail"]) == {
        "added": 2, "currencies": ["JPY", "USD"], "dates": ["2026-11-21"],
    }  # fmt: skip


async def test_the_same_file_twice_at_once_is_one_generation(pool: asyncpg.Pool) -> None:
    text = file_of(published())
    made = await asyncio.gather(
        *(import_rates(pool, text, clock=system_clock, actor="cli") for _ in range(4))
    )
    assert sorted(one.added for one in made) == [0, 0, 0, 1]
    assert await store.newest(pool) == 2


async def test_a_generation_keeps_the_rates_it_had(pool: asyncpg.Pool) -> None:
    await import_rates(pool, file_of(published()), clock=system_clock, actor="cli")

    async def dates(seq: int) -> list[str]:
        async with pool.acquire() as connection:
            at_ms = round(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000)
            rates = await store.read_rates(connection, seq, at_ms)
        return [rate["date"] for rate in rates if rate["currency"] == "USD"]

    assert await dates(1) == ["2026-11-20"]
    assert await dates(2) == ["2026-11-20", "2026-11-21"]


async def test_rates_nobody_could_use_any_more_are_left_out(pool: asyncpg.Pool) -> None:
    """A document must not grow with every day there ever was."""
    old = [published(Date=f"{day:02}.01.2026") for day in range(1, 29)]
    made = await import_rates(pool, file_of(*old), clock=system_clock, actor="cli")
    assert made.added == 28
    async with pool.acquire() as connection:
        at_ms = round(datetime(2026, 2, 10, tzinfo=UTC).timestamp() * 1000)
        rates = await store.read_rates(connection, 2, at_ms)
    dates = {rate["date"] for rate in rates if rate["currency"] == "USD"}
    assert min(dates) == "2026-01-10"


def test_a_file_is_read_as_it_is_published() -> None:
    (rate,) = read_published(file_of(published(Ccy="VND", Nominal="10", Rate="4.6")))
    assert (rate.currency, rate.nominal, rate.rate) == ("VND", 10, "4.6")
    assert rate.date.isoformat() == "2026-11-21"


async def test_every_worker_counts_by_a_rate_that_was_imported(office: Office) -> None:
    """A cap in a currency without a rate refuses; with one, it counts what is paid in soums."""
    house = office.house
    match = {"merchant": [house.merchant["id"]]}
    cap = policy("in-crowns", currency="NOK", max_amount=100_00, match=match)
    amount = 50_000_00
    body = house.purchase(5, "humo", amount)
    async with office.in_force(POLICIES, cap):
        replies = await pay_everywhere(house, 5, body, count=8)
        assert {reply.code for reply in replies} == {"exchange-rate-missing"}
        await _import(office, "NOK", "600")

        async def counted(amount: int) -> set[str | None]:
            body = house.purchase(5, "humo", amount)
            replies = await pay_everywhere(house, 5, body, count=8)
            return {reply.code for reply in replies}

        await office.everywhere()
        # 100 crowns are 60,000 soums.
        assert await counted(60_000_00) == {None}
        assert await counted(60_000_01) == {"limit-exceeded"}


async def _import(office: Office, currency: str, rate: str) -> None:
    day = (datetime.now(UTC) + timedelta(hours=5)).strftime("%d.%m.%Y")
    url = office.house.description["database_url"]
    pool = await pools.create(url, size_max=2, command_timeout_s=10.0)
    row = {"Ccy": currency, "Nominal": "1", "Rate": rate, "Date": day}
    await import_rates(pool, file_of(row), clock=system_clock, actor="cli")
    await pool.close()
