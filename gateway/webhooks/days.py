"""Days of events: the tables, one a day (UTC), that the outbox is divided into.

Owns which there are: those to come are made ahead, those that are old are dropped whole. What lies
in them is the business of whoever writes or reads the outbox, which names no day. Any worker may
do it, one at a time. It never waits long for a lock: payments and readers would wait behind it.

A day that was not made in time costs nothing but work: its events lie in `outbox_default`, and are
deleted from there one by one. `oqim_event_days_ahead` tells before that.
"""

import re
from typing import Any

import asyncpg
import structlog

from gateway.kernel.metrics import Metrics

log = structlog.get_logger("events")

_PRUNE_SIZE_MAX = 1_000
_DAY = re.compile(r"outbox_\d{8}", re.ASCII)

# To drop a day is to change the table that payments write to: they wait as long as we do.
_WAIT_LITTLE = "SET LOCAL lock_timeout = '50ms'"
# Payments and readers pass it; nobody else makes or drops a day meanwhile.
_LOCK = "LOCK TABLE ONLY outbox IN SHARE UPDATE EXCLUSIVE MODE"
# How many days there are after today; -1 where today's is not there.
_AHEAD = """
SELECT coalesce(max(to_date(right(c.relname, 8), 'YYYYMMDD')) - (now() AT TIME ZONE 'UTC')::date,
    -1)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'outbox'::regclass AND c.relname ~ '^outbox_[0-9]{8}$'
"""
_MAKE = "SELECT make_event_days($1)"
# $1 days they are kept. A day is old when its last moment is.
_OLDEST = """
SELECT min(c.relname::text) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'outbox'::regclass AND c.relname ~ '^outbox_[0-9]{8}$'
  AND to_date(right(c.relname, 8), 'YYYYMMDD')
    < ((now() - $1 * interval '1 day') AT TIME ZONE 'UTC')::date
"""
# Whether deliveries were made of all of a day, and if so `pruned` moves to the last of it.
_LET_GO = """
WITH last AS (SELECT xid, id FROM {day} ORDER BY xid DESC, id DESC LIMIT 1), noted AS (
    UPDATE event_positions p SET xid = last.xid, id = last.id
    FROM last, event_positions f
    WHERE p.name = 'pruned' AND f.name = 'fanned_out'
      AND (f.xid, f.id) >= (last.xid, last.id) AND (p.xid, p.id) < (last.xid, last.id)
)
SELECT NOT EXISTS (
    SELECT FROM last, event_positions f
    WHERE f.name = 'fanned_out' AND (f.xid, f.id) < (last.xid, last.id))
"""

# Events that lie in no day. $1 days they are kept, $2 how many at once.
_PRUNE = """
WITH oldest AS (
    SELECT o.xid, o.id, o.created_at FROM outbox_default o, event_positions p
    WHERE p.name = 'fanned_out' AND (o.xid, o.id) <= (p.xid, p.id)
    ORDER BY o.xid, o.id LIMIT $2
), gone AS (
    DELETE FROM outbox_default o USING oldest
    WHERE o.xid = oldest.xid AND o.id = oldest.id
      AND oldest.created_at < now() - $1 * interval '1 day'
    RETURNING o.xid, o.id
), noted AS (
    UPDATE event_positions p SET xid = last.xid, id = last.id
    FROM (SELECT xid, id FROM gone ORDER BY xid DESC, id DESC LIMIT 1) AS last
    WHERE p.name = 'pruned' AND (p.xid, p.id) < (last.xid, last.id)
)
SELECT count(*) FROM gone
"""


class EventDays:
    """Makes and drops days.

    Args:
        ahead: how many days after today there are to be.
        kept: for how many days events are kept at least; until the day they lie in is over.
    """

    def __init__(self, pool: asyncpg.Pool, metrics: Metrics, *, ahead: int, kept: int) -> None:
        self._pool = pool
        self._wanted = ahead
        self._kept = kept
        self._ahead = ahead
        metrics.gauge(
            "event_days_ahead",
            "Days after today that have a table for their events.",
            lambda: float(self._ahead),
        )

    async def keep(self) -> None:
        """Make what is missing and drop what is old.

        Raises:
            asyncpg.LockNotAvailableError: somebody holds a table for long; call it again later.
        """
        await self.make()
        await self.drop()

    async def make(self) -> int:
        """Make the days that are missing; return how many."""
        self._ahead = await self._pool.fetchval(_AHEAD)
        if self._ahead >= self._wanted:
            return 0
        if self._ahead < self._wanted // 2:
            log.warning("few days have a table for their events", ahead=self._ahead)
        made: int = await self._pool.fetchval(_MAKE, self._wanted)
        self._ahead = await self._pool.fetchval(_AHEAD)
        return made

    async def drop(self) -> int:
        """Drop the days that are old and of which all deliveries were made; return how many."""
        gone = _PRUNE_SIZE_MAX
        while gone == _PRUNE_SIZE_MAX:
            gone = await self._pool.fetchval(_PRUNE, self._kept, _PRUNE_SIZE_MAX)
        dropped = 0
        while await self._pool.fetchval(_OLDEST, self._kept) is not None:
            async with self._pool.acquire() as connection, connection.transaction():
                if not await self._drop_oldest(connection):
                    break
            dropped += 1
        return dropped

    async def _drop_oldest(self, connection: Any) -> bool:
        await connection.execute(_WAIT_LITTLE)
        await connection.execute(_LOCK)
        day = await connection.fetchval(_OLDEST, self._kept)
        if day is None:
            return False
        assert _DAY.fullmatch(day), day
        if not await connection.fetchval(_LET_GO.format(day=day)):
            return False
        await connection.execute(f"DROP TABLE {day}")
        log.info("a day of events was removed", day=day)
        return True
