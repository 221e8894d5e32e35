"""Each worker's following of the generations of rules, and waiting until every worker follows.

A worker that cannot read the newest generation, or cannot use it, is not fresh: its core lets no
money move (`identity/revocation.py` asks this feed within its own reading).
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from gateway.core import Core, RuleSet
from gateway.kernel.clock import Clock
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable
from gateway.rules import store
from gateway.rules.drafts import compiled

log = structlog.get_logger("rules")

REPORT = "UPDATE workers SET applied_generation = $2, applied_at = now() WHERE id = $1"
# Whoever was heard of so lately that it may still decide by what it had read.
COUNT_BEHIND = """
SELECT count(*) FROM workers
WHERE applied_generation < $1 AND seen_at > now() - $2 * interval '1 second'
"""
_LOOK_AGAIN_S = 0.05
# Two clocks that measure the same seconds differ by less.
_MARGIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Loaded:
    """A generation, ready to decide by."""

    seq: int
    created_ms: int
    rules: RuleSet


async def load(pool: asyncpg.Pool, seq: int) -> Loaded:
    """Read and compile a generation. Raises Unavailable when it cannot be used."""
    async with pool.acquire() as connection:
        generation = await store.read_generation(connection, seq)
    read = await compiled(generation.entries, generation.rates)
    if isinstance(read, RuleSet):
        return Loaded(seq, generation.created_ms, read)
    log.error("a generation of rules cannot be used", generation=seq, faults=read[:10])
    raise Unavailable(f"generation {seq} of the rules cannot be used")


async def load_newest(pool: asyncpg.Pool) -> Loaded:
    """Read and compile the newest generation. Raises Unavailable when it cannot be used."""
    return await load(pool, await store.newest(pool))


class RulesFeed:
    """Keeps one worker's core at the newest generation."""

    def __init__(self, *, pool: asyncpg.Pool, core: Core, clock: Clock, first: Loaded) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._created_ms = first.created_ms
        self._worker: int | None = None
        self._reported = 0
        self._rebuilding: asyncio.Task[Loaded] | None = None

    async def work_as(self, worker: int) -> None:
        """Say from now on what this worker decides by; it must not decide before this returns.

        Whoever makes a generation after this worker was registered waits for it; one that was made
        before is read here.
        """
        self._worker = worker
        async with self._pool.acquire() as connection:
            await self.read(connection)

    async def read(self, connection: Any) -> None:
        """Bring the core to the newest generation, in one small statement when it is there.

        Raises:
            Unavailable: the newest generation cannot be used, or is not there any more.
        """
        known = self._core.generation
        seq = await store.newest(connection)
        if seq < known:
            log.error("the database is older than this worker", generation=known, newest=seq)
            raise Unavailable("the database holds older rules than this worker has applied")
        while self._core.generation < seq:
            loaded = await self._rebuilt(seq)
            # Another reader may have gone further meanwhile.
            if loaded.seq > self._core.generation:
                self._core.use_rules(loaded.rules, loaded.seq)
                self._created_ms = loaded.created_ms
                log.info("rules changed", generation=loaded.seq)
        await self._report(connection)

    async def _rebuilt(self, seq: int) -> Loaded:
        """Return a generation; whoever gives up waiting finds it further on the next time."""
        if self._rebuilding is None:
            self._rebuilding = asyncio.create_task(load(self._pool, seq), name="rules-rebuilding")
        task = self._rebuilding
        try:
            return await asyncio.shield(task)
        finally:
            if task.done():
                self._rebuilding = None

    async def _report(self, connection: Any) -> None:
        generation = self._core.generation
        # By a clock that is behind, what begins with this generation has not begun yet.
        if self._worker is None or self._reported == generation:
            return
        if self._clock() >= self._created_ms:
            await connection.execute(REPORT, self._worker, generation)
            self._reported = generation

    async def close(self) -> None:
        """Stop what runs in the background."""
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.gather(self._rebuilding, return_exceptions=True)


class Everywhere:
    """Waits until no worker decides by an older generation.

    Args:
        lease_s: how long after its last heartbeat a worker is taken to be alive.
        feed_age_s_max: a worker that has not read for so long lets no money move.
    """

    def __init__(self, *, pool: asyncpg.Pool, lease_s: float, feed_age_s_max: float) -> None:
        self._pool = pool
        self._heard_within_s = lease_s + feed_age_s_max
        self._patience_s = feed_age_s_max + _MARGIN_S

    async def wait_for(self, generation: int) -> None:
        """Wait until every worker that may decide has said that it applied the generation.

        Call it once the generation is committed. A worker that says nothing has, by then or within
        `feed_age_s_max`, stopped deciding by its own clock: what it read last was read before.
        """
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            if await self._are_behind(generation) == 0:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        log.warning("not every worker said that it changed rules", generation=generation)

    async def _are_behind(self, generation: int) -> int:
        try:
            behind: int = await self._pool.fetchval(COUNT_BEHIND, generation, self._heard_within_s)
        except (*CONNECTION_LOST, asyncpg.PostgresError):
            # It is committed; what is left is to wait.
            return 1
        return behind
