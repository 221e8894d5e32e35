"""Revocations: a gapless log in PostgreSQL, and each worker's reading of it into the core.

A revocation is in the transaction of whatever caused it. A worker that cannot read the log says
nothing to its core, and once the last reading is too old the core lets no money move.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
import structlog

from gateway.core import Core
from gateway.identity.tokens import ACCESS_TOKEN_TTL_S_MAX
from gateway.kernel.clock import Clock
from gateway.kernel.errors import Unavailable

log = structlog.get_logger("identity")

Kind = Literal["jti", "sid", "sub", "client"]

# Held until the transaction ends, so that numbers become visible in the order they were given out.
LOCK_LOG = "SELECT pg_advisory_xact_lock(7276545802)"
ADD = """
INSERT INTO revocations (seq, kind, value, not_before, expires_at, created_at)
SELECT coalesce(max(seq), 0) + 1, $1, $2, $3, $4, $5 FROM revocations RETURNING seq
"""
# The last row counts even when it has expired: it says how far the log goes.
READ = """
SELECT seq, kind, value, not_before, expires_at FROM revocations
WHERE seq > $1 AND (expires_at > $2 OR seq = (SELECT max(seq) FROM revocations))
ORDER BY seq LIMIT $3
"""
PRUNE = """
DELETE FROM revocations
WHERE expires_at < $1 AND seq < (SELECT max(seq) FROM revocations)
"""

POLL_S = 0.5
READ_TIMEOUT_S = 2.0
# The whole log, when a worker starts.
FIRST_READ_TIMEOUT_S = 60.0
_PAGE_SIZE = 20_000
# Clocks of hosts differ; an entry outlives the last token it refuses by this.
_SKEW_S = 60

_AWAY = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError, Unavailable)


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
    ) -> int:
        """Add one revocation to the connection's open transaction; it counts once that commits.

        Args:
            connection: of asyncpg, in a transaction; its row locks come before the log's.
            kind: a token, a session, or everything of a subject or client issued until now.
            expires_at_s: Unix seconds after which no token it refuses can be alive; by default
                the longest life of a token from now.

        Returns:
            Its number, one more than the one before it.
        """
        assert connection.is_in_transaction(), "a revocation belongs to a transaction"
        now_s = self._clock() // 1_000
        longest_s = now_s + ACCESS_TOKEN_TTL_S_MAX
        ends_s = (longest_s if expires_at_s is None else expires_at_s) + _SKEW_S
        await connection.execute(LOCK_LOG)
        seq: int = await connection.fetchval(
            ADD,
            kind,
            value,
            # Tokens count whole seconds: one of this very second is refused too.
            _moment(now_s + 1),
            _moment(ends_s),
            _moment(now_s),
        )
        return seq

    async def prune(self, pool: asyncpg.Pool) -> None:
        """Delete what no token needs any more, but never the last number."""
        await pool.execute(PRUNE, _moment(self._clock() // 1_000 - _SKEW_S))


class RevocationFeed:
    """Keeps one worker's core up to date with the log.

    Args:
        also_read: what else must have been read for the core to be fresh, each on the reading's
            own connection; one that raises Unavailable has not been read.
        poll_s: seconds between two readings.
        read_timeout_s: a reading that takes longer has failed.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        also_read: Sequence[Callable[[Any], Awaitable[None]]] = (),
        poll_s: float = POLL_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._also_read = also_read
        self._poll_s = poll_s
        self._read_timeout_s = read_timeout_s
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_away = False

    async def start(self) -> None:
        """Read the whole log, then go on reading in the background. Raises when it cannot."""
        await self._poll(FIRST_READ_TIMEOUT_S)
        self._task = asyncio.create_task(self._run(), name="revocation-feed")

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def poll(self) -> int:
        """Apply everything committed before the call, and return the last number applied."""
        return await self._poll(self._read_timeout_s)

    async def _poll(self, timeout_s: float) -> int:
        async with self._reading, asyncio.timeout(timeout_s):
            # What is known is as of before the reading, not after it.
            now_ms = self._clock()
            async with self._pool.acquire() as connection:
                while await self._apply_page(connection, now_ms) == _PAGE_SIZE:
                    pass
                for read in self._also_read:
                    await read(connection)
            self._core.mark_fresh(now_ms)
        return self._core.applied_seq

    async def _apply_page(self, connection: Any, now_ms: int) -> int:
        applied = self._core.applied_seq
        rows = await connection.fetch(READ, applied, _moment(now_ms // 1_000), _PAGE_SIZE)
        for row in rows:
            self._core.revoke(
                row["seq"],
                row["kind"],
                row["value"],
                int(row["not_before"].timestamp()),
                int(row["expires_at"].timestamp()),
            )
        return len(rows)

    async def catch_up(self) -> None:
        """Apply at once what was just committed; when that fails, the next reading will."""
        await self._try_poll()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._try_poll()
            except Exception:
                # Without readings money stands still; that is right, and must be told.
                log.exception("the feed of revocations has ended")
                raise

    async def _try_poll(self) -> None:
        try:
            await self.poll()
        except _AWAY as error:
            if not self._is_away:
                log.warning("revocations cannot be read", error=type(error).__name__)
            self._is_away = True
        else:
            if self._is_away:
                log.info("revocations are read again", applied_seq=self._core.applied_seq)
            self._is_away = False


def _moment(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
