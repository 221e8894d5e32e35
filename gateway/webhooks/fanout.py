"""Fan-out: makes deliveries of events, in order, each once; and removes those that are old.

One worker does it at a time, whichever comes first: the position up to which deliveries were made
is a row that it locks and moves in the transaction that adds them. A worker that is killed leaves
either all of a batch or nothing.

Events are read in the order of their transactions and no further than the oldest that still runs,
so that one that commits late is not passed by: `store.READ_EVENTS`.
"""

import asyncpg
import structlog

from gateway.kernel.clock import Clock
from gateway.kernel.ids import new_id
from gateway.webhooks import store
from gateway.webhooks.model import Event

log = structlog.get_logger("webhooks")

_BATCH_SIZE_MAX = 500
_PRUNE_SIZE_MAX = 1_000


async def settle_order(pool: asyncpg.Pool) -> None:
    """Make the order of events hold in a database that was restored into another server.

    Call it before anything is written: what is in the outbox is then all from before.
    """
    if not await pool.fetchval(store.IS_FROM_ELSEWHERE):
        return
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(store.LOCK_EVENTS)
        # Another worker may have been first.
        if await connection.fetchval(store.IS_FROM_ELSEWHERE):
            await connection.execute(store.REBASE_EVENTS)
            await connection.execute(store.REBASE_POSITIONS)
            log.warning("the database comes from another server; events were numbered anew")


class FanOut:
    """Makes deliveries.

    Args:
        kept_s: how long deliveries that ended are kept.
    """

    def __init__(self, pool: asyncpg.Pool, clock: Clock, *, kept_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._kept_s = kept_s

    async def run(self) -> int:
        """Make deliveries of what has happened since; return of how many events."""
        total = 0
        if not await self._pool.fetchval(store.IS_BEHIND):
            return total
        while True:
            read = await self._batch()
            total += read
            if read < _BATCH_SIZE_MAX:
                return total

    async def _batch(self) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            at = await connection.fetchrow(store.LOCK_POSITION)
            if at is None or await connection.fetchval(store.PASS_BY) is not None:
                return 0
            rows = await connection.fetch(store.READ_EVENTS, at["xid"], at["id"], _BATCH_SIZE_MAX)
            if not rows:
                return 0
            events = [store.event_of(row) for row in rows]
            subjects = {one for event in events for one in (event.owner, event.merchant_id) if one}
            endpoints = await connection.fetch(store.SHARE_ENDPOINTS, sorted(subjects))
            deliveries = [
                (endpoint["id"], event)
                for event in events
                for endpoint in endpoints
                if event.is_for(endpoint["owner"])
                and event.type in (endpoint["events"] or [event.type])
            ]
            if deliveries:
                await connection.execute(store.ADD_DELIVERIES, *self._columns(deliveries))
            await connection.execute(store.SET_POSITION, "fanned_out", *events[-1].position)
        return len(events)

    def _columns(self, deliveries: list[tuple[str, Event]]) -> list[list[object]]:
        now_ms = self._clock()
        bodies = {event.position: event.body().decode() for _, event in deliveries}
        rows = [
            (
                new_id("whd_", now_ms),
                endpoint_id,
                event.id,
                event.payment_id,
                event.sequence,
                event.type,
                bodies[event.position],
            )
            for endpoint_id, event in deliveries
        ]
        return [list(column) for column in zip(*rows, strict=True)]

    async def prune(self) -> int:
        """Remove ended deliveries that are older than they are kept; return how many."""
        before = new_id("whd_", self._clock() - round(self._kept_s * 1_000))
        total, gone = 0, _PRUNE_SIZE_MAX
        while gone == _PRUNE_SIZE_MAX:
            gone = await self._pool.fetchval(store.PRUNE_DELIVERIES, before, _PRUNE_SIZE_MAX)
            total += gone
        return total
