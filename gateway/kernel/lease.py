"""A worker's lease: that it lives, as the other workers know it and as it knows itself.

Others take a worker for dead when its row in `workers` was not renewed for a while, and take up
what it left. One that was only held up (stopped, swapped out, cut off from the database) must know
so before it does anything they may have undone: by its own steady clock its lease ends first. The
renewal also shows how far this host's clock is from the database's.
"""

from collections.abc import Callable

import asyncpg
import structlog

from gateway.kernel.clock import Clock, steady_s
from gateway.kernel.errors import Unavailable
from gateway.kernel.metrics import Metrics

log = structlog.get_logger("lease")

# Of the lease: clocks that count seconds differ by far less than the rest.
_OWN_SHARE = 0.9
SKEW_ALARM_S = 2.0
"""A clock that is further from the database's is an alarm."""
SKEW_MAX_S = 30.0
"""And one that is further than this must not date what others will believe."""
_REGISTER = "INSERT INTO workers DEFAULT VALUES RETURNING id"
_RENEW = """
UPDATE workers SET seen_at = now() WHERE id = $1
RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint
"""
_RETIRE = "UPDATE workers SET seen_at = 'epoch' WHERE id = $1"


class Lease:
    """One worker's; made by `register`.

    Args:
        worker: its number in `workers`.
        lease_s: after which the others take it for dead.
        steady: seconds that never jump, and go on while the process is stopped.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        clock: Clock,
        *,
        worker: int,
        lease_s: float,
        since_s: float,
        steady: Callable[[], float] = steady_s,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._steady = steady
        self._own_s = lease_s * _OWN_SHARE
        self._held_until_s = since_s + self._own_s
        self._skew_s = 0.0
        self._lapses = 0
        self.worker = worker
        self.period_s = lease_s / 5

    @classmethod
    async def register(
        cls, pool: asyncpg.Pool, clock: Clock, metrics: Metrics, *, lease_s: float
    ) -> "Lease":
        """Make this process a worker, known to all."""
        since_s = steady_s()
        worker: int = await pool.fetchval(_REGISTER)
        lease = cls(pool, clock, worker=worker, lease_s=lease_s, since_s=since_s)
        await lease.renew()
        metrics.gauge(
            "clock_skew_seconds", "This host's clock less the database's.", lambda: lease.skew_s
        )
        metrics.gauge("lease_held", "1 while this worker may act.", lambda: float(lease.is_held()))
        return lease

    @property
    def skew_s(self) -> float:
        """Seconds by which this host's clock is ahead of the database's, as last measured."""
        return self._skew_s

    def is_held(self) -> bool:
        """Whether nobody can have taken this worker for dead."""
        return self._steady() < self._held_until_s

    def mark(self) -> int:
        """Return what tells a later `check` that the lease has not ended meanwhile."""
        return self._lapses

    def check(self, since: int | None = None) -> None:
        """Refuse to go on with what others may have taken up.

        Args:
            since: a `mark`, taken before the others could know of it: a lease that ended and was
                renewed since is of no use to what was begun under the one before.

        Raises:
            Unavailable: the lease has ended.
        """
        if not self.is_held() or since not in (None, self._lapses):
            raise Unavailable("this worker has lost touch with the database")

    async def renew(self) -> None:
        """Say that this worker lives; the lease runs from before it was said."""
        if not self.is_held():
            self._lapses += 1
        asked_s, asked_ms = self._steady(), self._clock()
        theirs_ms = await self._pool.fetchval(_RENEW, self.worker)
        self._held_until_s = asked_s + self._own_s
        # The answer was made at some moment between the question and now.
        self._skew_s = ((asked_ms + self._clock()) / 2 - theirs_ms) / 1000
        if abs(self._skew_s) > SKEW_ALARM_S:
            log.error("this host's clock is wrong", ahead_of_database_s=round(self._skew_s, 3))

    async def retire(self) -> None:
        """Say that this worker does nothing any more: what it left may be taken up at once."""
        self._held_until_s = 0.0
        await self._pool.execute(_RETIRE, self.worker)
