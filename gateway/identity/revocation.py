"""Revocations: a gapless log in PostgreSQL, and each worker's reading of it into the core.

A revocation is in the transaction of whatever caused it. A worker says a beat and reads the log;
from before the beat it may accept tokens for `age_s_max` seconds by a clock that does not jump,
and no longer. What wakes it sooner is the stream (`stream.py`); what waits for it are the others
(`followers.py`). Never let anything but a reading of PostgreSQL make it fresh.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import asyncpg
import structlog

from gateway.core import Core
from gateway.identity.keys import ACCESS_TOKEN_TTL_S_MAX
from gateway.kernel.clock import Clock, steady_s
from gateway.kernel.db.pool import Lane
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.problems import Problem

log = structlog.get_logger("identity")

Kind = Literal["jti", "sid", "sub", "client"]
Result = TypeVar("Result")

# Held until the transaction ends, so that numbers become visible in the order they were given out.
LOCK_LOG = "SELECT pg_advisory_xact_lock(7276545802)"
ADD = """
INSERT INTO revocations (seq, kind, value, not_before, expires_at, created_at)
SELECT coalesce(max(seq), 0) + 1, $1, $2, $3, $4, clock_timestamp() FROM revocations RETURNING seq
"""
# The last row counts even when it has expired: it says how far the log goes.
READ = """
SELECT seq, kind, value, not_before, expires_at FROM revocations
WHERE seq > $1 AND (expires_at > $2 OR seq = (SELECT max(seq) FROM revocations))
ORDER BY seq LIMIT $3
"""
PRUNE = """
WITH gone AS (
    DELETE FROM revocations
    WHERE expires_at < $1 AND seq < (SELECT max(seq) FROM revocations) RETURNING seq
)
DELETE FROM revocation_acks WHERE seq IN (SELECT seq FROM gone)
"""
FOLLOW = "INSERT INTO revocation_followers (name, applied_seq) VALUES ($1, $2) RETURNING id"
BEAT = """
UPDATE revocation_followers SET beat = beat + 1, heard_at = now() WHERE id = $1
RETURNING (SELECT coalesce(max(seq), 0) FROM revocations)
"""
ACKNOWLEDGE = """
WITH told AS (
    UPDATE revocation_followers SET applied_seq = $2 WHERE id = $1 RETURNING id, name
)
INSERT INTO revocation_acks (seq, follower, name, applied_at)
SELECT r.seq, told.id, told.name, clock_timestamp() FROM told, revocations r
WHERE r.seq > $3 AND r.seq <= $2
ON CONFLICT DO NOTHING
"""
LEAVE = "DELETE FROM revocation_followers WHERE id = $1"

AGE_S_MAX = 5.0
POLL_S = 0.5
READ_TIMEOUT_S = 2.0
# A request that finds the worker closed after a pause waits so long for its next reading.
OPEN_WITHIN_S = 0.5
# The whole log, when a worker starts.
FIRST_READ_TIMEOUT_S = 60.0
_PAGE_SIZE = 20_000
# Clocks of hosts differ; an entry outlives the last token it refuses by this.
_SKEW_S = 60
# A clock that is far ahead must not delete what a worker that starts now still needs.
_PRUNED_AFTER_S = 3_600

_AWAY = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One revocation. Times are Unix seconds."""

    seq: int
    kind: str
    value: str
    not_before_s: int
    expires_at_s: int


class RevocationLog:
    """Writes revocations."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    async def revoke(
        self,
        connection: Any,
        *,
        kind: Kind,
        value: str,
        expires_at_s: int | None = None,
    ) -> Entry:
        """Add one revocation to the connection's open transaction; it counts once that commits.

        Args:
            connection: of asyncpg, in a transaction; its row locks come before the log's.
            kind: a token, a session, or everything of a subject or client issued until now.
            expires_at_s: Unix seconds after which no token it refuses can be alive; by default
                the longest life of a token from now.

        Returns:
            What was added; its number is one more than the one before it.
        """
        assert connection.is_in_transaction(), "a revocation belongs to a transaction"
        await connection.execute(LOCK_LOG)
        now_s = self._clock() // 1_000
        longest_s = now_s + ACCESS_TOKEN_TTL_S_MAX
        ends_s = (longest_s if expires_at_s is None else expires_at_s) + _SKEW_S
        # Tokens count whole seconds: one of this very second is refused too.
        not_before_s = now_s + 1
        seq: int = await connection.fetchval(
            ADD, kind, value, _moment(not_before_s), _moment(ends_s)
        )
        return Entry(seq, kind, value, not_before_s, ends_s)

    async def prune(self, pool: asyncpg.Pool) -> None:
        """Delete what no token needs any more, but never the last number."""
        await pool.execute(PRUNE, _moment(self._clock() // 1_000 - _PRUNED_AFTER_S))


class RevocationFeed:
    """Keeps one worker's core up to date with the log, and says how far it is.

    Args:
        also_read: what else must have been read for the core to be fresh, each on the reading's
            own connection; one that raises Unavailable has not been read.
        watch: looks at the other workers, on the connection of each regular reading.
        age_s_max: no token is accepted when the log was last read longer ago.
        poll_s: seconds between two readings.
        read_timeout_s: a reading that takes longer has failed.
        steady: seconds that never jump, and go on while the process is stopped.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        also_read: Sequence[Callable[[Any], Awaitable[None]]] = (),
        watch: Callable[[Any], Awaitable[None]] | None = None,
        age_s_max: float = AGE_S_MAX,
        poll_s: float = POLL_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        steady: Callable[[], float] = steady_s,
    ) -> None:
        # A connection of its own: payments that queue for one must not make revocations wait.
        self._lane = Lane(pool)
        self._core = core
        self._clock = clock
        self._also_read = also_read
        self._watch = watch
        self._age_s_max = age_s_max
        self._poll_s = poll_s
        self._read_timeout_s = read_timeout_s
        self._steady = steady
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._follower: int | None = None
        self._read_seq = 0
        self._acknowledged_seq = 0
        self._accepts_until_s = float("-inf")
        self._reading = asyncio.Lock()
        self._queued: asyncio.Task[bool] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._is_away = False

    @property
    def read_seq(self) -> int:
        """The last revocation read from the log; everything before it is applied."""
        return self._read_seq

    @property
    def age_s(self) -> float:
        """Seconds since before the last reading, by the clock that decides; infinite if none."""
        return self._steady() - (self._accepts_until_s - self._age_s_max)

    async def start(self) -> None:
        """Read the whole log, then go on reading in the background. Raises when it cannot."""
        # Whoever revokes waits for those who follow: a worker follows once it has caught up.
        async with self._reading, asyncio.timeout(FIRST_READ_TIMEOUT_S):
            await self._read()
        await self.poll()
        self._task = self._spawn(self._run(), "revocation-feed")

    async def close(self) -> None:
        """Accept nothing any more, stop reading, and be waited for by nobody."""
        self._accepts_until_s = float("-inf")
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._task = self._queued = None
        # Also for a reading that was in flight: what it found fresh is not.
        self._accepts_until_s = float("-inf")
        if self._follower is not None:
            with contextlib.suppress(*_AWAY):
                async with asyncio.timeout(self._read_timeout_s):
                    async with self._lane.connection() as connection:
                        await connection.execute(LEAVE, self._follower)
        await self._lane.close()

    # Whether tokens may be accepted.

    def is_open(self) -> bool:
        """Whether the log was read so lately that a token may be accepted."""
        return self._steady() < self._accepts_until_s

    async def open(self) -> None:
        """Read once more when there is hope, as after a pause of the process, and say if closed.

        Raises:
            Problem: `revocation-feed-stale`.
        """
        if not self.is_open() and not self._is_away and self._task is not None:
            if self._opening is None or self._opening.done():
                self._opening = self._spawn(self._poll_noting(), "revocation-opening")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPEN_WITHIN_S):
                    await asyncio.shield(self._opening)
        if not self.is_open():
            raise Problem(
                "revocation-feed-stale",
                "Revocations have not been read lately; try again with the same key.",
            )

    # Reading.

    async def poll(self) -> int:
        """Apply everything committed before the call, and return the last number applied.

        From before the call, tokens may be accepted for `age_s_max`.
        """
        async with self._reading, asyncio.timeout(self._read_timeout_s):
            # What is known is as of before the reading, not after it; and it is said before, so
            # that whoever revokes after the reading finds this worker awake.
            asked_s, now_ms = self._steady(), self._clock()
            await self._beat()
            await self._read()
            self._core.mark_fresh(now_ms)
            self._accepts_until_s = max(self._accepts_until_s, asked_s + self._age_s_max)
            if self._watch is not None:
                async with self._lane.connection() as connection:
                    await self._watch(connection)
        return self._read_seq

    async def catch_up(self) -> None:
        """Apply at once what was just committed; when that fails, the next reading will."""
        await self.caught_up()

    async def caught_up(self) -> bool:
        """Apply at once what is committed; when that fails, the next reading will.

        Calls at one moment share a reading that begins after all of them.

        Returns:
            False when the log could not be read.
        """
        if self._queued is None:
            self._queued = self._spawn(self._catch_up(), "revocation-catching-up")
        return await asyncio.shield(self._queued)

    async def _catch_up(self) -> bool:
        async with self._reading:
            # Whoever comes from here on needs another.
            self._queued = None
            try:
                async with asyncio.timeout(self._read_timeout_s):
                    await self._read()
            except _AWAY as error:
                self._note_away(error)
                return False
        return True

    def apply_early(self, entries: Sequence[Entry]) -> None:
        """Refuse what is known to be revoked before the log was read as far.

        It counts for nothing: they are read from the log all the same.
        """
        for one in entries:
            self._core.revoke(0, one.kind, one.value, one.not_before_s, one.expires_at_s)

    def _spawn(self, coroutine: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _beat(self) -> None:
        async with self._lane.connection() as connection:
            newest: int | None = None
            if self._follower is not None:
                newest = await connection.fetchval(BEAT, self._follower)
            if newest is None:
                # The first, or this worker was silent for so long that it was forgotten.
                self._follower = await connection.fetchval(FOLLOW, self._name, self._read_seq)
                self._acknowledged_seq = self._read_seq
            elif newest < self._read_seq:
                log.error("the log is shorter than it was", read=self._read_seq, newest=newest)
                raise Unavailable("the database holds fewer revocations than this worker read")

    async def _read(self) -> None:
        async with self._lane.connection() as connection:
            while await self._read_page(connection) == _PAGE_SIZE:
                pass
            if self._follower is not None and self._acknowledged_seq < self._read_seq:
                told = self._read_seq
                await connection.execute(ACKNOWLEDGE, self._follower, told, self._acknowledged_seq)
                self._acknowledged_seq = told
            for read in self._also_read:
                await read(connection)

    async def _read_page(self, connection: Any) -> int:
        now = _moment(self._clock() // 1_000)
        rows = await connection.fetch(READ, self._read_seq, now, _PAGE_SIZE)
        for row in rows:
            self._core.revoke(
                row["seq"],
                row["kind"],
                row["value"],
                int(row["not_before"].timestamp()),
                int(row["expires_at"].timestamp()),
            )
            self._read_seq = row["seq"]
        return len(rows)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._poll_noting()
            except Exception:
                # Without readings nothing is accepted; that is right, and must be told.
                log.exception("the feed of revocations has ended")
                raise

    async def _poll_noting(self) -> None:
        try:
            await self.poll()
        except _AWAY as error:
            self._note_away(error)
        else:
            if self._is_away:
                log.info("revocations are read again", read_seq=self._read_seq)
            self._is_away = False

    def _note_away(self, error: BaseException) -> None:
        if not self._is_away:
            log.warning("revocations cannot be read", error=type(error).__name__)
        self._is_away = True


def _moment(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
