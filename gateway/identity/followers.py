"""Waiting until no worker anywhere accepts what was revoked.

Every worker has a row here: the last revocation it refuses by, and a beat that it changes before
each reading of the log. Two things are certain, whatever befalls a worker or Redis:

* A worker accepts tokens only while its last reading is younger than `feed_age_s_max` by its own
  steady clock, counted from before the beat. What was committed `silent_after_s` ago is therefore
  either applied by it, or it accepts nothing: the wait has an end that needs nobody's answer.
* A worker whose beat has stood still for `silent_after_s`, as this process saw it, accepts nothing
  now, and will read what is committed before it accepts anything again.

No clock of one host is compared with another's: only seconds are counted, and by clocks that do
not jump.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from gateway.kernel.clock import steady_s
from gateway.kernel.db.pool import CONNECTION_LOST

log = structlog.get_logger("identity")

LOOK = "SELECT id, name, beat, applied_seq FROM revocation_followers"
FORGET = "DELETE FROM revocation_followers WHERE id = $1 AND beat = $2"

# Clocks that count the same seconds, on two hosts, differ by far less over a few of them.
MARGIN_S = 0.5
_LOOK_AGAIN_FIRST_S = 0.003
_LOOK_AGAIN_LAST_S = 0.05
# A row that was silent for so many times the bound is of a process that is gone.
_FORGOTTEN_AFTER = 12


@dataclass(frozen=True, slots=True)
class Follower:
    """A worker as last seen."""

    id: int
    name: str
    beat: int
    applied_seq: int


@dataclass(slots=True, eq=False)
class _Waiter:
    seq: int
    done: asyncio.Future[None]


class Followers:
    """What one process knows of all workers.

    Args:
        silent_after_s: seconds after which a worker that has not read accepts nothing.

    Attributes:
        alive_count: workers that may accept tokens, as of the last look.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        feed_age_s_max: float,
        steady: Callable[[], float] = steady_s,
    ) -> None:
        self._pool = pool
        self.silent_after_s = feed_age_s_max + MARGIN_S
        self._steady = steady
        # By id: the beat, and when it was first seen.
        self._beats: dict[int, tuple[int, float]] = {}
        self._waiters: list[_Waiter] = []
        self.alive_count = 1
        self._looking: asyncio.Task[None] | None = None

    async def wait_for(self, seq: int, *, patience_s: float | None = None) -> bool:
        """Wait until no worker accepts what revocations up to `seq` refuse.

        Call it once they are committed. It needs nobody's answer when it may wait long enough,
        which is `silent_after_s`.

        Args:
            patience_s: after which it gives up, if that is sooner.

        Returns:
            False when it gave up.
        """
        waiter = _Waiter(seq, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="revocation-followers")
        is_patient = patience_s is None or patience_s >= self.silent_after_s
        try:
            async with asyncio.timeout(self.silent_after_s if is_patient else patience_s):
                await waiter.done
        except TimeoutError:
            return is_patient
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        return True

    async def look(self, connection: Any) -> list[Follower]:
        """Return every worker that may accept tokens, and forget those long gone.

        Args:
            connection: of asyncpg, or a pool.
        """
        asked_s = self._steady()
        rows = await connection.fetch(LOOK)
        answered_s = self._steady()
        beats: dict[int, tuple[int, float]] = {}
        alive = []
        for row in rows:
            # A beat is at least as old as when its first sight was answered, and was still the
            # same when this look was asked for.
            beat, since_s = self._beats.get(row["id"], (-1, 0.0))
            if beat != row["beat"]:
                since_s = answered_s
            beats[row["id"]] = (row["beat"], since_s)
            silent_s = asked_s - since_s
            if silent_s <= self.silent_after_s:
                alive.append(Follower(row["id"], row["name"], row["beat"], row["applied_seq"]))
            elif silent_s > self.silent_after_s * _FORGOTTEN_AFTER:
                await connection.execute(FORGET, row["id"], row["beat"])
        self._beats = beats
        self.alive_count = max(1, len(alive))
        return alive

    async def watch(self, connection: Any) -> None:
        """Look, so that a worker's silence is known before somebody has to wait for it."""
        await self.look(connection)

    async def close(self) -> None:
        """Stop looking; whoever still waits gives up."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for waiter in self._waiters:
            waiter.done.cancel()

    async def _look_on(self) -> None:
        """One look at a time serves everybody who was waiting when it began."""
        pause_s = _LOOK_AGAIN_FIRST_S
        while self._waiters:
            waiting = list(self._waiters)
            least = await self._look_least()
            served = [one for one in waiting if one.seq <= least and not one.done.done()]
            for waiter in served:
                waiter.done.set_result(None)
            self._waiters = [one for one in self._waiters if not one.done.done()]
            pause_s = _LOOK_AGAIN_FIRST_S if served else min(pause_s * 1.5, _LOOK_AGAIN_LAST_S)
            if self._waiters:
                await asyncio.sleep(pause_s)

    async def _look_least(self) -> int:
        """Return the last revocation that every live worker has applied; -1: nobody knows."""
        try:
            async with asyncio.timeout(self.silent_after_s):
                alive = await self.look(self._pool)
        except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
            log.warning("workers cannot be looked at", error=type(error).__name__)
            return -1
        return min((one.applied_seq for one in alive), default=2**63 - 1)
