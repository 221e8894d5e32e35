"""Files imported into a database of their own, and what is kept of them afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import asyncpg

from connectors.humo.reports import HumoReports
from connectors.transport.places import Place
from connectors.uzcard.reports import DetailReader
from connectors.visa.reports import VisaReports
from gateway.reconciliation.imports import Imported, Imports, Origin
from tests.reconciliation.files import parts
from tests.reconciliation.ours import noon_ms

DAY = date(2026, 11, 10)
NEXT = DAY + timedelta(days=1)
NOW_MS = noon_ms(DAY + timedelta(days=3))
NOWHERE = Place(address="", timeout_ms=1_000, bytes_max=1)
ORIGIN = Origin("file", "cli:test")


class Svgate:
    """UZCARD's reports without an SVGate."""

    def reader(self, day: date) -> DetailReader:
        return DetailReader(day)

    def name_of(self, *, sequence: int, created_at_ms: int) -> None:
        return None


REPORTS: dict[str, Any] = {
    "visa": VisaReports("visa", NOWHERE),
    "humo": HumoReports("humo", NOWHERE),
    "uzcard": Svgate(),
}


async def take(
    pool: asyncpg.Pool, connector: str, file: bytes, day: date = DAY, *, now_ms: int = NOW_MS
) -> Imported:
    """Import a file."""

    async def arriving() -> AsyncIterator[bytes]:
        for part in parts(file, 100_000):
            yield part

    return await Imports(pool, lambda: now_ms).take(
        connector, REPORTS[connector], day, arriving(), ORIGIN
    )


async def match_stale(pool: asyncpg.Pool, connector: str) -> list[date]:
    """Match again the days that say they must be, as a worker does; returns them."""
    rows = await pool.fetch(
        "SELECT business_day FROM reconciliation_imports WHERE is_current AND is_stale"
    )
    days = [row["business_day"] for row in rows]
    for day in days:
        await Imports(pool, lambda: NOW_MS).match_again(connector, REPORTS[connector], day)
    return days


async def broken(pool: asyncpg.Pool, *, day: date | None = None) -> list[tuple[str, str]]:
    """Kinds and subjects (or the line's reference) of open breaks, in order."""
    rows = await pool.fetch(
        "SELECT kind, coalesce(subject, theirs ->> 'reference', theirs ->> 'processor_reference')"
        " AS about FROM reconciliation_breaks WHERE status IN ('open', 'proposed')"
        " AND ($1::date IS NULL OR business_day = $1) ORDER BY id",
        day,
    )
    return [(row["kind"], row["about"]) for row in rows]


async def posted(pool: asyncpg.Pool) -> dict[str, int]:
    """Balances by account; every entry must sum to zero."""
    uneven = await pool.fetch(
        "SELECT entry_id FROM postings GROUP BY 1, currency HAVING sum(amount_minor) <> 0"
    )
    assert uneven == []
    rows = await pool.fetch(
        "SELECT account, sum(amount_minor)::bigint AS sum FROM postings GROUP BY 1"
    )
    return {row["account"]: row["sum"] for row in rows if row["sum"]}
