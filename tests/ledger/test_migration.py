"""Journal entries of one row a line become entries of one row a currency, and are given back."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from gateway.kernel.db import migrate
from tests.services import Services, fresh_database

BEFORE = """
INSERT INTO postings (entry_id, line, account, amount_minor, currency, posted_at) VALUES
    ('pay_1', 1, 'processor:visa', 105, 'UZS', '2026-11-01T10:00:00Z'),
    ('pay_1', 2, 'merchant:m', -100, 'UZS', '2026-11-01T10:00:00Z'),
    ('pay_1', 3, 'commission:income', -5, 'UZS', '2026-11-01T10:00:00Z'),
    ('adj_1', 1, 'a:a', 1, 'UZS', '2026-11-01T11:00:00Z'),
    ('adj_1', 2, 'a:a', 2, 'USD', '2026-11-01T11:00:00Z'),
    ('adj_1', 3, 'b:b', -2, 'USD', '2026-11-01T11:00:00Z'),
    ('adj_1', 4, 'b:b', -1, 'UZS', '2026-11-01T11:00:00Z')
"""
OF_THE_VERSION_BEFORE = """
WITH posted AS (
    INSERT INTO postings (entry_id, line, account, amount_minor, currency)
    SELECT t.entry_id, t.line, t.account, t.amount_minor, t.currency
    FROM json_to_recordset($1::json) AS t (
        entry_id text, line smallint, account text, amount_minor bigint, currency text)
)
SELECT 1
"""
LINES = "SELECT * FROM postings WHERE entry_id <> 'pay_2' ORDER BY entry_id, line"


async def _lines(connection: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(LINES)]


async def _roll_back_to_before(url: str, connection: Any) -> None:
    while await connection.fetchval("SELECT to_regclass('entries') IS NOT NULL"):
        assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1


async def test_entries_are_as_they_were(services: Services) -> None:
    """Forward, back, and written by a worker of the version before in between."""
    async with fresh_database(services) as url:
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        connection = await asyncpg.connect(url)
        try:
            await _roll_back_to_before(url, connection)
            await connection.execute(BEFORE)
            before = await _lines(connection)
            await asyncio.to_thread(migrate.apply, url, lambda _: None)
            assert await _lines(connection) == before
            assert await connection.fetchval("SELECT count(*) FROM entries") == 4
            await connection.execute(
                OF_THE_VERSION_BEFORE,
                '[{"entry_id": "pay_2", "line": 1, "account": "x:y", "amount_minor": 7,'
                ' "currency": "UZS"}, {"entry_id": "pay_2", "line": 2, "account": "x:z",'
                ' "amount_minor": -7, "currency": "UZS"}]',
            )
            written = "SELECT line, account, amount_minor FROM postings WHERE entry_id = 'pay_2'"
            rows = [tuple(row) for row in await connection.fetch(written + " ORDER BY line")]
            assert rows == [(1, "x:y", 7), (2, "x:z", -7)]
            await _roll_back_to_before(url, connection)
            assert await _lines(connection) == before
            assert len(await connection.fetch(written)) == 2
        finally:
            await connection.close()
