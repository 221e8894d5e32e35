"""The import of a report: streamed into the database, matched there, kept whole or not at all.

One transaction an import, one import of a connector at a time. The same report again changes
nothing; a corrected one takes the place of the one before, and what it explains is resolved. Never
changes a payment: what a report knows of one is told by `settling`.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date, timedelta
from operator import attrgetter
from typing import Any

import asyncpg
import msgspec

from connectors.spi.reports import Movement, ReportLine, ReportReader, Reports
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.ids import new_id
from gateway.reconciliation import matching, store
from gateway.reconciliation.days import begins_ms, business_day, first_id, utc
from gateway.reconciliation.model import SumView
from gateway.reconciliation.postings import Line, is_even, settlement

# Read between two turns of the loop: a few milliseconds, for payments go on beside it.
_PART_BYTES = 16 * 1024
_STATEMENT_TIMEOUT_S = 600.0
# How late a processor may report what was done.
LATE_DAYS_MAX = 40
_NAMES_AT_ONCE = 10_000
# Lines that are nobody's, of which it is looked further back for who they are.
_OLDER_MAX = 10_000

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report came from, and who imported it."""

    source: str
    actor: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        id: of the import that stands; an earlier one's when nothing was new.
        is_new: whether the report changed anything.
    """

    id: str
    is_new: bool


class _Unchanged(Exception):
    """The report that stands is this one; its transaction is undone."""

    def __init__(self, import_id: str) -> None:
        super().__init__(import_id)
        self.import_id = import_id


class Imports:
    """Imports reports, and matches again those that are here."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def take(
        self,
        connector: str,
        reports: Reports,
        day: date,
        parts: AsyncIterator[bytes],
        origin: Origin,
        on_progress: OnProgress = lambda lines: None,
    ) -> Imported:
        """Import the report of a business day.

        Args:
            parts: the report's bytes.
            on_progress: told how many lines were read so far.

        Raises:
            ReportError: it cannot be used; nothing is changed.
            ReportUnavailable: from `parts`; nothing is changed.
        """
        started_ms = self._clock()
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                run = _Run(connection, connector, reports, day, started_ms)
                await run.begin()
                digest = await run.read(parts, on_progress)
                return await self._replace(run, digest, origin)
        except _Unchanged as unchanged:
            return Imported(unchanged.import_id, is_new=False)

    async def _replace(self, run: "_Run", digest: bytes, origin: Origin) -> Imported:
        connection = run.connection
        current = await connection.fetchrow(store.CURRENT, run.connector, run.day)
        if current is not None and current["content_hash"] == digest:
            raise _Unchanged(current["id"])
        if current is not None:
            await run.execute(matching.MARK_EXPLAINED, run.connector, run.day, current["id"])
        await run.execute(store.REPLACE, run.connector, run.day)
        lines = await run.match()
        import_id = new_id("rci_", run.started_ms)
        matched = await run.fetchval(matching.MATCHED_COUNT)
        sums = [SumView(**dict(row)) for row in await run.fetch(matching.SUMS)]
        await connection.execute(
            store.INSERT_IMPORT,
            import_id,
            run.connector,
            run.day,
            1 if current is None else current["revision"] + 1,
            digest,
            origin.source,
            origin.actor,
            utc(run.started_ms),
            lines,
            matched,
            msgspec.json.encode(sums).decode(),
        )
        await run.execute(matching.KEEP_LINES, import_id, run.connector, run.day)
        await run.conclude()
        for statement in (matching.MARK_LATER_COPIES, matching.MARK_OTHER_HALVES):
            await run.execute(statement, run.connector, run.day)
        await audit.record(
            connection,
            at_ms=run.started_ms,
            actor=origin.actor,
            action="reconciliation.import",
            object=import_id,
            detail={
                "connector": run.connector,
                "business_day": run.day.isoformat(),
                "source": origin.source,
                "lines": lines,
                "matched": matched,
            },
        )
        return Imported(import_id, is_new=True)

    async def match_again(self, connector: str, reports: Reports, day: date) -> None:
        """Match the report that stands with what is known now; without one nothing is done."""
        async with self._pool.acquire() as connection, connection.transaction():
            run = _Run(connection, connector, reports, day, self._clock())
            await run.begin()
            current = await connection.fetchrow(store.CURRENT, connector, day)
            if current is None:
                return
            await run.execute(matching.STORED_LINES, current["id"])
            await run.match()
            await run.execute(matching.KEEP_SUBJECTS, current["id"])
            matched = await run.fetchval(matching.MATCHED_COUNT)
            await connection.execute(
                store.UPDATE_IMPORT, current["id"], matched, utc(run.started_ms)
            )
            await run.conclude()


class _Run:
    """One transaction of matching."""

    def __init__(
        self, connection: Any, connector: str, reports: Reports, day: date, started_ms: int
    ) -> None:
        self.connection = connection
        self.connector = connector
        self.day = day
        self.started_ms = started_ms
        self._reports = reports

    async def execute(self, statement: str, *arguments: Any) -> None:
        await self.connection.execute(statement, *arguments, timeout=_STATEMENT_TIMEOUT_S)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        rows: list[Any] = await self.connection.fetch(
            statement, *arguments, timeout=_STATEMENT_TIMEOUT_S
        )
        return rows

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(statement, *arguments, timeout=_STATEMENT_TIMEOUT_S)

    async def begin(self) -> None:
        await self.execute(matching.SETTINGS)
        await self.fetchval(matching.LOCK, self.connector)
        await self.execute(matching.TABLES)

    async def read(self, parts: AsyncIterator[bytes], on_progress: OnProgress) -> bytes:
        """Stream a report in; returns its SHA-256."""
        digest = hashlib.sha256()
        reader = self._reports.reader(self.day)
        await self.connection.copy_to_table(
            "report_lines",
            source=_rows(parts, reader, digest, on_progress),
            columns=list(matching.LINE_COLUMNS),
            timeout=_STATEMENT_TIMEOUT_S,
        )
        return digest.digest()

    async def match(self) -> int:
        """Lay the lines beside ours and find the breaks; returns how many lines there are."""
        span = (await self.fetch(matching.SPAN))[0]
        oldest = self.day - timedelta(days=LATE_DAYS_MAX)
        first = max(min(span["first"] or self.day, self.day), oldest) - timedelta(days=1)
        from_ms, before_ms = begins_ms(first), begins_ms(self.day + timedelta(days=2))
        spans = [
            first_id(prefix, at_ms)
            for prefix in ("att_", "cap_", "rfd_")
            for at_ms in (from_ms, before_ms)
        ]
        await self.execute(matching.OURS, self.connector, *spans)
        await self._name()
        await self.execute(matching.ANALYZE)
        await self.execute(matching.MATCH)
        await self._match_older(oldest, from_ms)
        for statement in matching.CROSS:
            await self.execute(statement)
        await self.execute(matching.INDEX)
        await self.execute(matching.COPIES)
        for statement in matching.COPIES_OF_EARLIER:
            await self.execute(statement, self.connector, self.day)
        await self.execute(matching.LINE_BREAKS, self.connector, self.day, oldest)
        # Of a day that goes on, what came while the report was made is not missing from it.
        is_over = business_day(self.started_ms) > self.day
        known_by = before_ms + LATE_DAYS_MAX * 86_400_000 if is_over else self.started_ms
        await self.execute(matching.MISSING_THERE, self.connector, self.day, utc(known_by))
        await self.execute(matching.ANALYZE_FOUND)
        return int(span["lines"])

    async def _match_older(self, oldest: date, before_ms: int) -> None:
        """Look further back for what nobody is known to have done."""
        rows = await self.fetch(matching.UNMATCHED, _OLDER_MAX)
        if not rows:
            return
        ids = [row["reference"] for row in rows if row["reference"].startswith("att_")]
        names = [row["processor_reference"] for row in rows if row["side"] == "refund"]
        # By the processor's names all that is older must be gone through: where it has its own.
        from_ms = begins_ms(oldest) if names and self._has_names() else before_ms
        last = await self.fetchval(matching.LAST_OF_OURS)
        span = [first_id("att_", at_ms) for at_ms in (from_ms, before_ms)]
        await self.execute(matching.OLDER, self.connector, ids, *span, names)
        for statement in matching.MATCH_OLDER:
            await self.execute(statement, last)

    def _has_names(self) -> bool:
        """Whether the connector's messages are known by names that follow from what made them."""
        return self._reports.name_of(sequence=0, created_at_ms=self.started_ms) is not None

    async def _name(self) -> None:
        """Name what only the connector can: its messages follow from what made them."""
        if not self._has_names():
            return
        rows = await self.fetch(matching.UNNAMED)
        for start in range(0, len(rows), _NAMES_AT_ONCE):
            part = [
                (
                    row["ord"],
                    self._reports.name_of(
                        sequence=row["sequence"], created_at_ms=row["created_at_ms"]
                    ),
                )
                for row in rows[start : start + _NAMES_AT_ONCE]
            ]
            await self.execute(matching.NAME, *zip(*part, strict=True))
            await asyncio.sleep(0)  # a turn for payments

    async def conclude(self) -> None:
        """Bring the breaks to what was found, and post the settlement's difference."""
        for statement in (
            store.RESOLVE_GONE,
            store.REFRESH,
            store.OPEN_NEW,
            store.RESOLVE_ELSEWHERE,
        ):
            await self.execute(statement, self.connector, self.day)
        posted = {
            row["currency"]: row for row in await self.fetch(store.POSTED, self.connector, self.day)
        }
        settled = {row["currency"]: row for row in await self.fetch(matching.SETTLED)}
        for currency in sorted(posted.keys() | settled.keys()):
            before, now = posted.get(currency), settled.get(currency)
            net = (now["net"] if now else 0) - (before["net"] if before else 0)
            fee = (now["fee"] if now else 0) - (before["fee"] if before else 0)
            if (net, fee) != (0, 0):
                number = before["entries"] if before else 0
                await self._settle(currency, net, fee, number)

    async def _settle(self, currency: str, net_minor: int, fee_minor: int, number: int) -> None:
        """Post one entry; the first of a day and currency, or the difference to those before."""
        entry_id = f"stl_{self.connector}_{self.day:%Y%m%d}_{currency}_{number + 1}"
        await self.connection.execute(
            store.INSERT_SETTLEMENT,
            entry_id,
            self.connector,
            self.day,
            currency,
            net_minor,
            fee_minor,
        )
        lines = settlement(self.connector, currency, net_minor, fee_minor)
        await post(self.connection, entry_id, lines)


async def post(connection: Any, entry_id: str, lines: list[Line]) -> None:
    """Write a journal entry in the connection's open transaction."""
    assert is_even(lines), f"{entry_id}: the postings do not sum to zero"
    # A currency's lines lie together.
    lines = sorted(lines, key=attrgetter("currency"))
    await connection.execute(
        store.POST,
        entry_id,
        list(range(1, len(lines) + 1)),
        [one.account for one in lines],
        [one.amount_minor for one in lines],
        [one.currency for one in lines],
    )


async def _rows(
    parts: AsyncIterator[bytes], reader: ReportReader, digest: Any, on_progress: OnProgress
) -> AsyncIterator[bytes]:
    """Turn a report into rows of COPY, a small part at a time."""
    lines = 0
    async for whole in parts:
        digest.update(whole)
        for start in range(0, len(whole), _PART_BYTES):
            rows = [_row(line) for line in reader.feed(whole[start : start + _PART_BYTES])]
            if rows:
                lines += len(rows)
                yield "".join(rows).encode()
                on_progress(lines)
            await asyncio.sleep(0)  # a turn for payments
    reader.finish()


def _row(line: ReportLine) -> str:
    """One row of COPY's text: its texts were read so that none needs escaping."""
    side = "refund" if line.movement is Movement.REFUND else "payment"
    commission = r"\N" if line.commission_minor is None else line.commission_minor
    return (
        f"{line.number}\t{line.movement}\t{side}\t{line.is_approved}\t{line.reference}\t"
        f"{line.processor_reference}\t{line.amount_minor}\t{commission}\t{line.fee_minor}\t"
        f"{line.net_minor}\t{line.currency}\t{line.day}\n"
    )
