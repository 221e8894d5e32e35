"""Bulkhead: at most so many calls at once, at most so many waiting, each no longer than so long."""

import asyncio

from connectors.transport.faults import NotSent


class Bulkhead:
    """A semaphore with a bounded queue and a bounded wait.

    Args:
        in_flight_max: calls at once.
        queue_size_max: callers that may wait for a place.
        queue_timeout_ms: how long one waits, in milliseconds.
    """

    def __init__(self, *, in_flight_max: int, queue_size_max: int, queue_timeout_ms: int) -> None:
        self._semaphore = asyncio.Semaphore(in_flight_max)
        self._queue_size_max = queue_size_max
        self._queue_timeout_s = queue_timeout_ms / 1000
        self._waiting = 0

    async def acquire(self, deadline: float) -> None:
        """Take a place; give it back with `release`.

        Args:
            deadline: on the running loop's clock.

        Raises:
            NotSent: `queue-full`, or `queue-timeout` when none came free in time.
        """
        if not self._semaphore.locked():
            await self._semaphore.acquire()  # a free place is taken without yielding
            return
        if self._waiting >= self._queue_size_max:
            raise NotSent("queue-full")
        self._waiting += 1
        until = min(deadline, asyncio.get_running_loop().time() + self._queue_timeout_s)
        try:
            async with asyncio.timeout_at(until):
                await self._semaphore.acquire()
        except TimeoutError:
            raise NotSent("queue-timeout") from None
        finally:
            self._waiting -= 1

    def release(self) -> None:
        self._semaphore.release()
