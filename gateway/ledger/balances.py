"""Balances: a trial balance at any moment, from sums of whole hours and what came since.

Reads postings and never writes one. An hour is summed once, after it can get no more.
"""

import asyncio
import contextlib
from datetime import UTC, datetime

import asyncpg
import msgspec
import structlog

from gateway.core import rfc3339
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.http.problems import Problem
from gateway.ledger import store
from gateway.ledger.chart import Chart, Kind

log = structlog.get_logger("ledger")

# Longer than any transaction of ours may take, and than clocks differ.
SETTLED_AFTER_S = 300.0
HOURS_AT_ONCE_MAX = 24
PERIOD_S = 60.0


class AccountBalance(msgspec.Struct):
    """One account in one currency. `balance` is debit less credit; minor units."""

    account: str
    kind: Kind | None
    currency: str
    debit: int
    credit: int
    balance: int


class Total(msgspec.Struct):
    """All accounts in one currency; the two are equal."""

    currency: str
    debit: int
    credit: int


class TrialBalance(msgspec.Struct):
    """Every account at one moment."""

    at: str
    accounts: list[AccountBalance]
    totals: list[Total]


class PostingView(msgspec.Struct):
    """One line of a journal entry. Debit positive, credit negative."""

    line: int
    account: str
    amount: int
    currency: str


class EntryView(msgspec.Struct):
    """One journal entry; its lines sum to zero."""

    id: str
    posted_at: str
    postings: list[PostingView]


class Balances:
    """Rolls hours up, and answers for balances."""

    def __init__(self, pool: asyncpg.Pool, chart: Chart) -> None:
        self._pool = pool
        self._chart = chart
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to roll hours up in the background."""
        self._task = asyncio.create_task(self._run(), name="ledger-roll-up")

    async def close(self) -> None:
        """Stop rolling."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self.roll_up()
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("hours could not be rolled up", error=type(error).__name__)
            await asyncio.sleep(PERIOD_S)

    async def roll_up(self, *, settled_after_s: float = SETTLED_AFTER_S) -> int:
        """Sum the hours that have ended; returns how many. One worker at a time does."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(store.LOCK):
                return 0
            rows = await connection.fetch(store.ROLLABLE, settled_after_s, HOURS_AT_ONCE_MAX)
            for row in rows:
                await connection.execute(store.ROLL, row["hour"])
        return len(rows)

    async def trial_balance(self, at_ms: int) -> TrialBalance:
        """Return every account at a moment, Unix milliseconds."""
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        accounts = []
        totals: dict[str, Total] = {}
        for row in await self._pool.fetch(store.TRIAL_BALANCE, at):
            debit, credit = int(row["debit"]), int(row["credit"])
            known = self._chart.of(row["account"])
            accounts.append(
                AccountBalance(
                    account=row["account"],
                    kind=known.kind if known is not None else None,
                    currency=row["currency"],
                    debit=debit,
                    credit=credit,
                    balance=debit - credit,
                )
            )
            total = totals.setdefault(row["currency"], Total(row["currency"], 0, 0))
            total.debit += debit
            total.credit += credit
        return TrialBalance(rfc3339(at_ms), accounts, list(totals.values()))

    async def entry(self, entry_id: str) -> EntryView:
        """Return a journal entry. Raises Problem `not-found`."""
        rows = await self._pool.fetch(store.GET_ENTRY, entry_id)
        if not rows:
            raise Problem("not-found", "There is no such journal entry.")
        return EntryView(
            id=entry_id,
            posted_at=rfc3339(round(rows[0]["posted_at"].timestamp() * 1000)),
            postings=[
                PostingView(row["line"], row["account"], row["amount_minor"], row["currency"])
                for row in rows
            ],
        )
