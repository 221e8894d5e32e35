"""The intents' lane: payments with their first attempt, key and limits, a batch a commit.

A batch is written by the versions the core believes in; when another worker moved them, it is
read again under locks taken in key order, evaluated again, and written. A batch that fails is
bisected, so that one bad row cannot fail its neighbours. A commit whose outcome is not known is
looked up before anybody is told.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from gateway.core import Core, Staged
from gateway.kernel import failpoints
from gateway.kernel.audit.chain import Link, Shard
from gateway.kernel.db.batch import Entry
from gateway.kernel.db.pool import ABORTED, CONNECTION_LOST, UNDONE, Lane, read_durable
from gateway.kernel.errors import Unavailable
from gateway.limits.states import Locks, read_states
from gateway.payments import rows
from gateway.payments.entries import CARD_CHANGED, OPENED, REPLAYED, Intent, OpenAnswer
from gateway.payments.statements import FIND_OPENED, OPEN_OR_CONFIRM, OPEN_PAYMENTS

log = structlog.get_logger("journal")

IntentEntry = Entry[Intent, OpenAnswer]


class IntentLane:
    """Writes intents.

    Args:
        wake: says that what was given back may be written at once.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        core: Core,
        locks: Locks,
        *,
        worker: int,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._core = core
        self._locks = locks
        self._worker = worker
        self._wake = wake
        self._lane = Lane(pool)
        self._chain = Shard(f"worker-{worker}.intents")

    async def close(self) -> None:
        """Give back the connection."""
        await self._lane.close()

    def _arguments(self, entries: list[IntentEntry], staged: Staged) -> tuple[Link, list[Any]]:
        batch = [entry.item for entry in entries]
        at_ms = max((one.admission.at_ms for one in batch), default=0)
        link = self._chain.link(at_ms=at_ms, decisions=rows.decisions(batch))
        return link, rows.intents(batch, staged, self._worker, link)

    async def flush(self, batch: list[IntentEntry]) -> list[IntentEntry]:
        """Write a batch; returns the entries that must wait for the next."""
        batch = self._without_twins(batch)
        staged = self._core.stage([entry.item.admission for entry in batch])
        for index, refusal in staged.refused:
            batch[index].resolve(refusal)
        deferred = [batch[index] for index in staged.deferred]
        admitted = _admitted(batch, staged)
        if admitted:
            again = await self._write(admitted, staged)
            if again:
                self._wake()
            deferred = again + deferred
        if staged.missing:
            async with self._pool.acquire() as connection:
                await read_states(connection, self._core, staged.missing)
            self._wake()
        return deferred

    def _without_twins(self, batch: list[IntentEntry]) -> list[IntentEntry]:
        """Keep the first of each key; the others are replays of one that is running."""
        seen: set[bytes] = set()
        kept = []
        for entry in batch:
            if entry.item.scope in seen:
                self._refuse(entry, REPLAYED)
            else:
                seen.add(entry.item.scope)
                kept.append(entry)
        return kept

    def _refuse(self, entry: IntentEntry, answer: OpenAnswer) -> None:
        self._core.release(entry.item.admission)
        entry.resolve(answer)

    async def _write(self, entries: list[IntentEntry], staged: Staged) -> list[IntentEntry]:
        """Write a staged batch; returns what must be staged again."""
        if self._locks.is_hot(staged.subjects):
            self._core.unstage(staged)
            return await self._write_locked(entries, staged)
        try:
            link, arguments = self._arguments(entries, staged)
            async with self._lane.connection() as connection:
                row = await connection.fetchrow(_statement_of(entries), *arguments)
            await failpoints.hit("after_intent_commit")
        except CONNECTION_LOST as error:
            self._core.roll_back(staged)
            await self._look_up(entries, error)
            return []
        except asyncpg.PostgresError as error:
            self._core.roll_back(staged)
            if error.sqlstate == ABORTED and str(error) == "stale":
                return await self._write_locked(entries, staged)
            if error.sqlstate == ABORTED:
                return entries
            return await self._failed(entries, error)
        except Exception as error:
            # A fault of ours must not leave its subjects in flight for ever.
            self._core.roll_back(staged)
            self._give_up(entries, error)
            return []
        return self._written(entries, staged, row, link)

    def _written(
        self,
        entries: list[IntentEntry],
        staged: Staged,
        row: asyncpg.Record | None,
        link: Link,
    ) -> list[IntentEntry]:
        assert row is not None, "the statement answers one row"
        if row["is_fit"]:
            self._chain.written(link)
            self._core.commit(staged)
            for entry in entries:
                entry.resolve(OPENED)
            return []
        self._core.unstage(staged)
        replayed, gone = set(row["replayed"] or ()), set(row["gone"] or ())
        again = []
        for entry in entries:
            if entry.item.scope in replayed:
                self._refuse(entry, REPLAYED)
            elif entry.item.payment.id in gone:
                self._refuse(entry, CARD_CHANGED)
            else:
                again.append(entry)
        return again

    async def _write_locked(self, entries: list[IntentEntry], before: Staged) -> list[IntentEntry]:
        """Write a batch whose states are locked first, so that they cannot be stale."""
        staged: Staged | None = None
        deferred: list[IntentEntry] = []
        try:
            async with (
                self._lane.connection() as connection,
                connection.transaction(),
            ):
                await self._locks.lock(connection, before)
                staged = self._core.stage([entry.item.admission for entry in entries])
                for index, refusal in staged.refused:
                    entries[index].resolve(refusal)
                deferred = [entries[index] for index in staged.deferred]
                entries = _admitted(entries, staged)
                link, arguments = self._arguments(entries, staged)
                row = await connection.fetchrow(_statement_of(entries), *arguments)
            await failpoints.hit("after_intent_commit")
        except CONNECTION_LOST as error:
            if staged is not None:
                self._core.roll_back(staged)
            await self._look_up(entries, error)
            return deferred
        except asyncpg.PostgresError as error:
            if staged is not None:
                self._core.roll_back(staged)
            if error.sqlstate == ABORTED:
                return entries + deferred
            return await self._failed(entries, error) + deferred
        except Exception as error:
            if staged is not None:
                self._core.roll_back(staged)
            self._give_up(entries, error)
            return deferred
        return self._written(entries, staged, row, link) + deferred

    def _give_up(self, entries: list[IntentEntry], error: Exception) -> None:
        for entry in entries:
            self._core.release(entry.item.admission)
            entry.fail(error)

    async def _failed(
        self, entries: list[IntentEntry], error: asyncpg.PostgresError
    ) -> list[IntentEntry]:
        """Bisect: whoever is alone with the error has caused it."""
        if isinstance(error, UNDONE):
            again = [entry for entry in entries if entry.may_retry()]
            tired = [entry for entry in entries if entry not in again]
            self._give_up(tired, Unavailable("the payment could not be written; nothing was sent"))
            return again
        if len(entries) == 1:
            log.error("an intent was refused by the database", sqlstate=error.sqlstate)
            self._give_up(entries, error)
            return []
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            pending = half
            while pending:
                pending = await self.flush(pending)
                await asyncio.sleep(0)
        return []

    async def _look_up(self, entries: list[IntentEntry], error: BaseException) -> None:
        """The connection was lost in the commit: ask, on a new one, what became of it."""
        self._chain.renew()
        log.warning("a commit's outcome was looked up", intents=len(entries), error=str(error))
        ids = [entry.item.payment.id for entry in entries]
        try:
            async with self._pool.acquire() as connection:
                rows = await read_durable(connection, FIND_OPENED, ids)
        except (*CONNECTION_LOST, asyncpg.PostgresError) as again:
            for entry in entries:
                self._core.release(entry.item.admission)
                entry.fail(Unavailable("the database cannot be reached"))
            log.error("the database cannot be reached", error=str(again))
            return
        written = {row["id"] for row in rows}
        for entry in entries:
            self._core.release(entry.item.admission)
            if entry.item.payment.id in written:
                entry.resolve(OPENED)
            else:
                entry.fail(Unavailable("the payment could not be written; nothing was sent"))


def _statement_of(entries: list[IntentEntry]) -> str:
    return OPEN_OR_CONFIRM if any(one.item.payment.has_waited for one in entries) else OPEN_PAYMENTS


def _admitted(entries: list[IntentEntry], staged: Staged) -> list[IntentEntry]:
    """Return the members that are to be written, each with its decision as it was staged."""
    admitted = [entries[index] for index in staged.admitted]
    for entry, record in zip(admitted, staged.records, strict=True):
        entry.item.payment.record = record
    return admitted
