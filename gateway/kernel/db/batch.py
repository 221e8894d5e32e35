"""Group commit without a timer.

Whatever queued while the last flush was in flight is the next batch. Alone, an item waits for
nobody: its flush begins in the same turn of the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


TRIES_MAX = 3
"""Times that an entry is written, when each is undone by a deadlock or the like."""


class QueueFull(Exception):
    """Nothing was queued; the caller sheds its load."""


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Answer]):
    """One item and the future its submitter waits on."""

    item: Item
    answer: asyncio.Future[Answer]
    tries: int = 0

    def may_retry(self) -> bool:
        """Count a try that the database undid for another's sake; whether one more is left."""
        self.tries += 1
        return self.tries < TRIES_MAX

    def resolve(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Flush = Callable[[list[Entry[Item, Answer]]], Awaitable[list[Entry[Item, Answer]]]]
"""Resolves or fails each entry; returns those that must wait for the next batch, in order."""


@dataclass
class GroupCommit(Generic[Item, Answer]):
    """One lane of flushes, never two at once.

    Args:
        flush: writes a batch durably.
        batch_size_max: entries of one flush.
        queue_size_max: entries waiting; more are refused with QueueFull.
        on_batch: told the number of entries of each batch that is flushed.
    """

    flush: Flush[Item, Answer]
    batch_size_max: int
    queue_size_max: int
    batches: int = 0
    entries: int = 0
    on_batch: Callable[[int], object] | None = None
    _queue: deque[Entry[Item, Answer]] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Queue an item; the future resolves when its batch is durable or it was refused."""
        if len(self._queue) >= self.queue_size_max:
            raise QueueFull
        loop = asyncio.get_running_loop()
        entry: Entry[Item, Answer] = Entry(item, loop.create_future())
        self._queue.append(entry)
        if self._task is None:
            self._task = loop.create_task(self._run())
        return entry.answer

    def notify_moved(self) -> None:
        """Say that something a deferred entry may wait for has changed."""
        self._moved.set()

    @property
    def queue_size(self) -> int:
        """Entries waiting for a flush."""
        return len(self._queue)

    async def _run(self) -> None:
        try:
            while self._queue:
                size = min(len(self._queue), self.batch_size_max)
                batch = [self._queue.popleft() for _ in range(size)]
                self.batches += 1
                self.entries += size
                if self.on_batch is not None:
                    self.on_batch(size)
                self._moved.clear()
                deferred = await self._flush_safely(batch)
                self._queue.extendleft(reversed(deferred))
                if len(deferred) == size:
                    await self._moved.wait()
        finally:
            self._task = None

    async def _flush_safely(self, batch: list[Entry[Item, Answer]]) -> list[Entry[Item, Answer]]:
        try:
            return await self.flush(batch)
        except Exception as error:
            # A flush resolves what it can by itself; what is left has met a fault of ours.
            for entry in batch:
                entry.fail(error)
            return []

    async def drain(self) -> None:
        """Wait until nothing is queued or in flight."""
        while self._task is not None:
            await asyncio.shield(self._task)
