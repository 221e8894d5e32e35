"""What a processor has answered and could not be written: written as soon as it can be.

Kept in this process alone, and only while nobody else may ask the processor again: a worker that
dies with it loses nothing but time, since recovery asks.
"""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable

log = structlog.get_logger("kept")

# Less than the time for which an attempt is its worker's alone (`outcomes.SEND_LEASE_S`).
KEPT_S = 20.0
_FIRST_WAIT_S, _LAST_WAIT_S = 0.1, 1.0

Write = Callable[[], Awaitable[object]]
"""Writes what is kept, unless somebody else has; may be called again after it failed."""


class Kept:
    """Answers of one worker that wait for the database."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        """Answers that wait."""
        return len(self._tasks)

    def keep(self, what: str, write: Write) -> None:
        """Go on trying to write; returns at once.

        Args:
            what: the attempt's or the action's id, for the log.
        """
        task = asyncio.create_task(self._try(what, write))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, what: str, write: Write) -> None:
        loop = asyncio.get_running_loop()
        ends_at, wait_s = loop.time() + KEPT_S, _FIRST_WAIT_S
        while loop.time() < ends_at:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)
            try:
                await write()
            except (Unavailable, *CONNECTION_LOST, asyncpg.PostgresError):
                continue
            except Exception:
                log.exception("a kept answer cannot be written", of=what)
                return
            log.info("a kept answer was written", of=what)
            return
        log.warning("a kept answer is left to recovery", of=what)

    async def close(self) -> None:
        """Give up what waits: recovery asks the processor."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
