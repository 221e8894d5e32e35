"""The facts' lane: outcomes with postings, events and headroom given back, a batch a commit.

The same rules as the intents' lane: written by the versions that were read, locked when those
moved, bisected when a row is bad, looked up when a commit's outcome is not known.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import asyncpg
import structlog

from gateway.core import Core, Staged
from gateway.kernel import failpoints
from gateway.kernel.db.batch import Entry
from gateway.kernel.db.pool import ABORTED, CONNECTION_LOST, UNDONE, Lane, read_durable
from gateway.kernel.errors import Unavailable
from gateway.limits.states import Locks, read_states
from gateway.payments import rows
from gateway.payments.entries import ALL, Fact, VersionMoved
from gateway.payments.statements import FIND_VERSIONS, RECORD_FACTS, RECORD_OUTCOMES

log = structlog.get_logger("journal")

FactEntry = Entry[Fact, None]

_NOT_YET = "the outcome could not be written yet"


class FactLane:
    """Writes facts.

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

    async def close(self) -> None:
        """Give back the connection."""
        await self._lane.close()

    async def flush(self, batch: list[FactEntry]) -> list[FactEntry]:
        """Facts about one payment go one after another: the second waits for the next batch."""
        first: list[FactEntry] = []
        twins: list[FactEntry] = []
        seen: set[str] = set()
        for entry in batch:
            payment_id = entry.item.payment.id
            (twins if payment_id in seen else first).append(entry)
            seen.add(payment_id)
        again = await self._write(first, is_locked=False)
        return again + twins

    async def _write(self, entries: list[FactEntry], *, is_locked: bool) -> list[FactEntry]:
        returning = [entry for entry in entries if entry.item.give_back is not None]
        staged: Staged | None = None
        ready: list[FactEntry] = entries
        deferred: list[FactEntry] = []
        try:
            async with (
                self._lane.connection() as connection,
                _maybe(connection, is_locked),
            ):
                if returning:
                    staged, ready, deferred = await self._stage_returns(
                        connection, entries, returning, is_locked=is_locked
                    )
                if not ready:
                    return deferred
                await failpoints.hit("before_fact_commit")
                await connection.execute(*self._statement(ready, staged))
            await failpoints.hit("after_fact_commit")
        except CONNECTION_LOST as error:
            if staged is not None:
                self._core.roll_back(staged)
            await self._look_up(ready, error)
            return deferred
        except asyncpg.PostgresError as error:
            if staged is not None:
                self._core.roll_back(staged)
            return await self._failed(ready, error, is_locked=is_locked) + deferred
        except Exception as error:
            # A fault of ours must not leave its subjects in flight for ever.
            if staged is not None:
                self._core.roll_back(staged)
            for entry in ready:
                entry.fail(error)
            return deferred
        if staged is not None:
            self._core.commit(staged)
        for entry in ready:
            entry.resolve(None)
        return deferred

    def _statement(self, entries: list[FactEntry], staged: Staged | None) -> list[Any]:
        """Return the statement that a batch is written by, and its arguments."""
        batch = [entry.item for entry in entries]
        if staged is None and all(fact.is_outcome_alone for fact in batch):
            return [RECORD_OUTCOMES, *rows.outcomes(batch)]
        return [RECORD_FACTS, *rows.facts(batch, staged, self._worker)]

    async def _stage_returns(
        self,
        connection: Any,
        entries: list[FactEntry],
        returning: list[FactEntry],
        *,
        is_locked: bool,
    ) -> tuple[Staged, list[FactEntry], list[FactEntry]]:
        """Stage the headroom a batch gives back; what another lane holds waits."""
        parts = [
            (
                entry.item.payment.record,
                None if entry.item.give_back == ALL else entry.item.give_back,
            )
            for entry in returning
        ]
        staged = self._core.stage_give_back(parts)
        if staged.missing:
            self._core.unstage(staged)
            await read_states(connection, self._core, staged.missing)
            staged = self._core.stage_give_back(parts)
        if is_locked:
            self._core.unstage(staged)
            await self._locks.lock(connection, staged)
            staged = self._core.stage_give_back(parts)
        waiting = {id(returning[index]) for index in staged.deferred}
        ready = [entry for entry in entries if id(entry) not in waiting]
        return staged, ready, [entry for entry in entries if id(entry) in waiting]

    async def _failed(
        self, entries: list[FactEntry], error: asyncpg.PostgresError, *, is_locked: bool
    ) -> list[FactEntry]:
        if error.sqlstate == ABORTED and str(error) == "stale":
            return await self._write(entries, is_locked=True)
        if isinstance(error, UNDONE):
            again = [entry for entry in entries if entry.may_retry()]
            for entry in entries:
                if entry not in again:
                    entry.fail(Unavailable(_NOT_YET))
            self._wake()
            return again
        if error.sqlstate == ABORTED:
            self._wake()
            return await self._unmoved(entries)
        if len(entries) == 1:
            log.error("a fact was refused by the database", sqlstate=error.sqlstate)
            entries[0].fail(error)
            return []
        again = []
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            again += await self._write(half, is_locked=is_locked)
        return again

    async def _look_up(self, entries: list[FactEntry], error: BaseException) -> None:
        """A fact is written when its payment's version is the next one, or a later."""
        log.warning("a commit's outcome was looked up", facts=len(entries), error=str(error))
        for entry in await self._unmoved(entries):
            entry.fail(Unavailable(_NOT_YET))

    async def _unmoved(self, entries: list[FactEntry]) -> list[FactEntry]:
        """Return those whose payments are as they were read; fail the others."""
        ids = [entry.item.payment.id for entry in entries]
        try:
            async with self._pool.acquire() as connection:
                rows = await read_durable(connection, FIND_VERSIONS, ids)
        except (*CONNECTION_LOST, asyncpg.PostgresError):
            for entry in entries:
                entry.fail(Unavailable(_NOT_YET))
            return []
        versions = {row["id"]: row["version"] for row in rows}
        unmoved = []
        for entry in entries:
            payment = entry.item.payment
            if versions.get(payment.id) == payment.version:
                unmoved.append(entry)
            else:
                entry.fail(VersionMoved(payment.id))
        return unmoved


def _maybe(connection: Any, is_locked: bool) -> Any:
    return connection.transaction() if is_locked else nullcontext()
