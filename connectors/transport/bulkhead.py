"""Bulkhead: at most so many calls at once, at most so many waiting, each no longer than so long.

What settles has places of its own: doubt can end while payments fill all of theirs.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from connectors.transport.faults import NotSent

_IS_SETTLING: ContextVar[bool] = ContextVar("oqim_is_settling", default=False)


@contextmanager
def settling() -> Iterator[None]:
    """Mark what the current task sends from here on: it ends something, and begins nothing."""
    token = _IS_SETTLING.set(True)
    try:
        yield
    finally:
        _IS_SETTLING.reset(token)


def is_settling() -> bool:
    """Whether the current task sends what settles."""
    return _IS_SETTLING.get()


class Bulkhead:
    """Two semaphores with bounded queues and a bounded wait.

    Args:
        in_flight_max: calls at once that begin something.
        settling_max: calls at once that settle, beside those.
        queue_size_max: callers of either kind that may wait for a place.
        queue_timeout_ms: how long one waits, in milliseconds.
    """

    def __init__(
        self,
        *,
        in_flight_max: int,
        settling_max: int,
        queue_size_max: int,
        queue_timeout_ms: int,
    ) -> None:
        self._places = {
            False: asyncio.Semaphore(in_flight_max),
            True: asyncio.Semaphore(settling_max),
        }
        self._queue_size_max = queue_size_max
        self._queue_timeout_s = queue_timeout_ms / 1000
        self._waiting = {False: 0, True: 0}

    @property
    def waiting(self) -> int:
        """Callers that wait for a place."""
        return sum(self._waiting.values())

    async def acquire(self, deadline: float, *, is_settling: bool = False) -> None:
        """Take a place; give it back with `release`.

        Args:
            deadline: on the running loop's clock.

        Raises:
            NotSent: `queue-full`, or `queue-timeout` when none came free in time.
        """
        semaphore = self._places[is_settling]
        if not semaphore.locked():
            await semaphore.acquire()  # a free place is taken without yielding
            return
        if self._waiting[is_settling] >= self._queue_size_max:
            raise NotSent("queue-full")
        self._waiting[is_settling] += 1
        until = min(deadline, asyncio.get_running_loop().time() + self._queue_timeout_s)
        try:
            async with asyncio.timeout_at(until):
                await semaphore.acquire()
        except TimeoutError:
            raise NotSent("queue-timeout") from None
        finally:
            self._waiting[is_settling] -= 1

    def release(self, *, is_settling: bool = False) -> None:
        self._places[is_settling].release()
