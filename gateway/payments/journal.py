"""The journal: what makes payments durable, many at a time.

Two lanes, each a group commit over a connection of its own: intents before anything is sent, facts
before anything is told. Whatever queued while a lane's last flush was in flight is its next batch.
"""

import asyncpg

from gateway.core import Core
from gateway.kernel.db.batch import Entry, GroupCommit
from gateway.limits.states import Locks
from gateway.payments.entries import Answer, Fact, Intent, OpenAnswer
from gateway.payments.facts import FactEntry, FactLane
from gateway.payments.intents import IntentEntry, IntentLane
from gateway.payments.statements import FIND_ANSWERS


class Journal:
    """Makes intents and facts durable.

    Args:
        worker: this process's number in `workers`.
        hot_subject_s: how long a subject found stale is locked up front.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        core: Core,
        *,
        worker: int,
        batch_size_max: int,
        queue_size_max: int,
        hot_subject_s: float,
    ) -> None:
        self._pool = pool
        locks = Locks(core, hot_s=hot_subject_s)
        self.intents: GroupCommit[Intent, OpenAnswer] = GroupCommit(
            self._flush_intents, batch_size_max, queue_size_max
        )
        self.facts: GroupCommit[Fact, None] = GroupCommit(
            self._flush_facts, batch_size_max, queue_size_max
        )
        self._replays: GroupCommit[bytes, Answer | None] = GroupCommit(
            self._find_answers, batch_size_max, queue_size_max
        )
        self._intent_lane = IntentLane(
            pool, core, locks, worker=worker, wake=self.intents.notify_moved
        )
        self._fact_lane = FactLane(pool, core, locks, worker=worker, wake=self.facts.notify_moved)

    async def open(self, intent: Intent) -> OpenAnswer:
        """Make an intent durable, or say why not; nothing may be sent before it answers Opened.

        Raises:
            QueueFull: nothing was queued.
            Unavailable: the database is away.
        """
        return await self.intents.submit(intent)

    async def record(self, fact: Fact) -> None:
        """Make a fact durable.

        Raises:
            VersionMoved: the payment is not as it was read.
            Unavailable: nobody can say whether it was written; recovery will.
        """
        await self.facts.submit(fact)

    async def find_answer(self, scope: bytes) -> Answer | None:
        """Return what is stored under a key, or None when it was never used."""
        return await self._replays.submit(scope)

    async def close(self) -> None:
        """Wait until everything submitted is durable or refused, and give back the connections."""
        await self.intents.drain()
        await self.facts.drain()
        await self._intent_lane.close()
        await self._fact_lane.close()

    # A lane whose flush ended may have held subjects that the other waits for.

    async def _flush_intents(self, batch: list[IntentEntry]) -> list[IntentEntry]:
        again = await self._intent_lane.flush(batch)
        self.facts.notify_moved()
        return again

    async def _flush_facts(self, batch: list[FactEntry]) -> list[FactEntry]:
        again = await self._fact_lane.flush(batch)
        self.intents.notify_moved()
        return again

    async def _find_answers(
        self, batch: list[Entry[bytes, Answer | None]]
    ) -> list[Entry[bytes, Answer | None]]:
        async with self._pool.acquire() as connection:
            found = await connection.fetch(FIND_ANSWERS, [entry.item for entry in batch])
        answers = {
            row["scope"]: Answer(
                row["fingerprint"],
                row["object_id"],
                row["response_status"],
                None if row["response_body"] is None else row["response_body"].encode(),
            )
            for row in found
        }
        for entry in batch:
            entry.resolve(answers.get(entry.item))
        return []
