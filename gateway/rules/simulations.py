"""What if: recorded decisions replayed against a draft, in the same engine, beside the payments.

Simulations are rows. One runs in a worker at a time; who works on it holds a lease, and what a
dead worker left another takes up from its beginning. Nothing that is replayed is changed.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from gateway.core import Simulation, rfc3339
from gateway.kernel.clock import Clock
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.ids import new_id
from gateway.rules import history, store
from gateway.rules.drafts import Wish, drafted, restored
from gateway.rules.times import millis, moment

log = structlog.get_logger("rules")

POLL_S = 1.0
LEASE_S = 15.0
TRIES_MAX = 3
# Of a proposal's own replay.
DECISIONS_MAX = 100_000
# Not begun or not ended, beside those of proposals.
OPEN_MAX = 20
# A decision may name a generation of before its span: its quote's, or one just replaced.
_GENERATIONS_BEFORE_MS = 3_600_000
# A generation may decide before the moment it says: clocks differ, and requests wait.
_CLOCKS_DIFFER_MS = 60_000

ADD = """
INSERT INTO simulations (id, proposal_id, draft, from_at, to_at, status, started_by, created_at)
VALUES ($1, $2, $3, $4, $5, 'running', $6, $7)
"""
COUNT_OPEN = "SELECT count(*) FROM simulations WHERE status = 'running' AND proposal_id IS NULL"
# Those that operators wait for come first.
CLAIM = """
UPDATE simulations SET worker = $1, lease_until = now() + $2 * interval '1 second',
    tries = tries + 1, done = 0
WHERE id = (
    SELECT id FROM simulations
    WHERE status = 'running' AND (lease_until IS NULL OR lease_until < now())
    ORDER BY proposal_id IS NOT NULL, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, proposal_id, draft, from_at, to_at, tries
"""
# Whoever gets no row back has lost it: it was cancelled, or another worker has it.
PROGRESS = """
UPDATE simulations SET done = $3, total = coalesce($4, total),
    lease_until = now() + $5 * interval '1 second'
WHERE id = $1 AND worker = $2 AND status = 'running' RETURNING id
"""
FINISH = """
UPDATE simulations SET status = $3, report = $4, error = $5, notes = $6, finished_at = $7,
    lease_until = NULL
WHERE id = $1 AND worker = $2 AND status = 'running'
"""
GIVE_UP = """
UPDATE simulations SET lease_until = now() WHERE worker = $1 AND status = 'running'
"""
CANCEL = """
UPDATE simulations SET status = 'canceled', finished_at = $2
WHERE id = $1 AND status = 'running' RETURNING id
"""
GET = "SELECT * FROM simulations WHERE id = $1"


class _Lost(Exception):
    """Another has it, or nobody wants it any more."""


class Simulations:
    """One worker's share of simulations, and what is known of all."""

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._worker = 0
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, worker: int) -> None:
        """Begin to look for what is to be replayed."""
        self._worker = worker
        self._task = asyncio.create_task(self._run(), name="simulations")

    async def close(self) -> None:
        """Stop; what is unfinished is left to the next, at once."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(*CONNECTION_LOST, asyncpg.PostgresError):
            await self._pool.execute(GIVE_UP, self._worker)

    def wake(self) -> None:
        """Say that there is something to replay."""
        self._woken.set()

    async def add(
        self,
        connection: Any,
        *,
        wish: Wish,
        from_ms: int,
        to_ms: int,
        actor: str,
        at_ms: int,
        proposal_id: str | None = None,
    ) -> str:
        """Add one to the connection's transaction, and return its id; wake us when it commits."""
        simulation_id = new_id("sim_", at_ms)
        span = (moment(from_ms), moment(to_ms))
        draft = wish.stored()
        await connection.execute(
            ADD, simulation_id, proposal_id, draft, *span, actor, moment(at_ms)
        )
        return simulation_id

    async def count_open(self, connection: Any) -> int:
        """Return how many are not finished, without those of proposals."""
        number: int = await connection.fetchval(COUNT_OPEN)
        return number

    async def cancel(self, connection: Any, simulation_id: str) -> bool:
        """End one that is not finished; returns whether there was such."""
        at = moment(self._clock())
        return await connection.fetchval(CANCEL, simulation_id, at) is not None

    async def view(self, simulation_id: str) -> dict[str, Any] | None:
        """Return one as it is shown, or None."""
        row = await self._pool.fetchrow(GET, simulation_id)
        if row is None:
            return None
        finished = row["finished_at"]
        return {
            "id": row["id"],
            "status": row["status"],
            "from": rfc3339(millis(row["from_at"])),
            "to": rfc3339(millis(row["to_at"])),
            "progress": {"done": row["done"], "total": row["total"]},
            "report": store.decoded(row["report"]),
            "error": row["error"],
            "notes": row["notes"],
            "started_by": row["started_by"],
            "created_at": rfc3339(millis(row["created_at"])),
            "finished_at": None if finished is None else rfc3339(millis(finished)),
        }

    # The work -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                while await self._one():
                    pass
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("simulations wait for the database", error=repr(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), POLL_S)

    async def _one(self) -> bool:
        """Replay one; returns whether there was one."""
        row = await self._pool.fetchrow(CLAIM, self._worker, LEASE_S)
        if row is None:
            return False
        if row["tries"] > TRIES_MAX:
            await self._finish(row["id"], "failed", error="It was begun again too often.")
            return True
        try:
            report, notes = await _Replay(self._pool, self._worker, row).run()
            await self._finish(row["id"], "done", report=report, notes=notes)
        except _Lost:
            log.info("a simulation was given up", id=row["id"])
        except ValueError as error:
            # What is stored cannot be replayed: trying again would not help.
            log.warning("a simulation failed", id=row["id"], error=str(error))
            await self._finish(row["id"], "failed", error=str(error))
        return True

    async def _finish(
        self,
        simulation_id: str,
        status: str,
        *,
        report: bytes | None = None,
        error: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        await self._pool.execute(
            FINISH,
            simulation_id,
            self._worker,
            status,
            None if report is None else report.decode(),
            error,
            list(notes),
            moment(self._clock()),
        )


@dataclass(frozen=True, slots=True)
class _Life:
    """A generation, and from when to when it was the newest; Unix milliseconds."""

    seq: int
    from_ms: int
    to_ms: int


class _Replay:
    """One simulation, from its beginning to its report."""

    def __init__(self, pool: asyncpg.Pool, worker: int, row: Any) -> None:
        self._pool = pool
        self._worker = worker
        self._id: str = row["id"]
        self._is_of_proposal = row["proposal_id"] is not None
        self._wish = restored(row["draft"])
        self._from_ms, self._to_ms = millis(row["from_at"]), millis(row["to_at"])
        self._engine = Simulation()
        self._notes: list[str] = []

    async def run(self) -> tuple[bytes, list[str]]:
        """Return the report, JSON, and what is to be known about it. Raises _Lost, ValueError."""
        from_ms, to_ms = self._from_ms, self._to_ms
        if self._is_of_proposal:
            start = await history.start_of_newest(self._pool, from_ms, to_ms, DECISIONS_MAX)
            if start > from_ms:
                from_ms = start
                self._notes.append(f"The newest {DECISIONS_MAX} decisions, from {rfc3339(start)}.")
        total = await history.count(self._pool, from_ms, to_ms)
        await self._say(0, total)
        done = 0
        coming = deque(await self._generations(from_ms))
        began = time.monotonic()
        async with contextlib.aclosing(history.batches(self._pool, from_ms, to_ms)) as batches:
            async for batch in batches:
                while coming and coming[0].from_ms <= batch.until_ms + _CLOCKS_DIFFER_MS:
                    await self._use(coming.popleft())
                await asyncio.to_thread(self._engine.feed, batch.events)
                done += batch.decisions
                await self._say(done, None)
                # Payments come first: as long as a batch took, the loop is theirs.
                await asyncio.sleep(time.monotonic() - began)
                began = time.monotonic()
        return self._engine.report(), self._notes

    async def _say(self, done: int, total: int | None) -> None:
        """Tell how far it is, and keep the lease. Raises _Lost."""
        kept = await self._pool.fetchval(PROGRESS, self._id, self._worker, done, total, LEASE_S)
        if kept is None:
            raise _Lost

    async def _generations(self, from_ms: int) -> list[_Life]:
        """Return the generations that decisions of the span may name."""
        since = moment(from_ms - _GENERATIONS_BEFORE_MS)
        until = moment(self._to_ms + _CLOCKS_DIFFER_MS)
        rows = await self._pool.fetch(store.GENERATIONS_OF_SPAN, since, until)
        if not rows:
            return []
        # Whatever was decided first was decided by the first of them.
        begins = [from_ms, *(millis(row["created_at"]) for row in rows[1:])]
        ends = [min(end, self._to_ms) for end in [*begins[1:], self._to_ms]]
        return [
            _Life(row["seq"], from_ms, to_ms)
            for row, from_ms, to_ms in zip(rows, begins, ends, strict=True)
        ]

    async def _use(self, life: _Life) -> None:
        """Give the engine the rules of a generation with the draft in them."""
        async with self._pool.acquire() as connection:
            generation = await store.read_generation(connection, life.seq)
        rules, gave_way = await drafted(self._wish, generation.entries, generation.rates)
        since = max(life.from_ms, self._from_ms)
        # Those that decided nothing of the span are not missed.
        for entry in gave_way if since < life.to_ms else ():
            told = f"The draft stands in place of {entry.id} version {entry.version}."
            if entry.is_in_force_within(since, life.to_ms) and told not in self._notes:
                self._notes.append(told)
        self._engine.use(life.seq, rules)
