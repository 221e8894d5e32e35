"""Group commit: no timer, no neighbour's failure, nothing lost and nothing done twice."""

import asyncio

import pytest

from gateway.kernel.db.batch import Entry, GroupCommit, QueueFull

Item = Entry[int, int]


class Table:
    """A flush that a test holds open, and what it was given.

    Attributes:
        batches: the items of each flush.
        defer: items to be returned for a later batch, once each.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.defer: set[int] = set()
        self.fail_on: set[int] = set()
        self.running = 0

    async def flush(self, batch: list[Item]) -> list[Item]:
        assert self.running == 0, "a lane never flushes twice at once"
        self.running += 1
        self.batches.append([entry.item for entry in batch])
        self.started.set()
        await self.gate.wait()
        self.running -= 1
        if self.fail_on.intersection(self.batches[-1]):
            raise OSError("the database went away")
        deferred = [entry for entry in batch if entry.item in self.defer]
        self.defer.difference_update(entry.item for entry in deferred)
        for entry in batch:
            if entry not in deferred:
                entry.resolve(entry.item * 10)
        return deferred


def lane(table: Table, *, batch: int = 100, queue: int = 100) -> GroupCommit[int, int]:
    return GroupCommit(flush=table.flush, batch_size_max=batch, queue_size_max=queue)


async def test_alone_waits_for_nobody() -> None:
    """A single item is flushed in the next turn of the loop: there is no timer to wait for."""
    table = Table()
    answer = lane(table).submit(1)
    await asyncio.sleep(0)
    assert table.batches == [[1]]
    assert await answer == 10


async def test_what_is_submitted_in_one_turn_is_one_batch() -> None:
    table = Table()
    group = lane(table)
    answers = [group.submit(number) for number in range(5)]
    assert await asyncio.gather(*answers) == [0, 10, 20, 30, 40]
    assert table.batches == [[0, 1, 2, 3, 4]]
    assert (group.batches, group.entries) == (1, 5)


async def test_what_queues_during_a_flush_is_the_next_batch() -> None:
    table = Table()
    table.gate.clear()
    group = lane(table)
    first = group.submit(1)
    await table.started.wait()
    rest = [group.submit(number) for number in (2, 3, 4)]
    assert group.queue_size == 3
    table.gate.set()
    assert await asyncio.gather(first, *rest) == [10, 20, 30, 40]
    assert table.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_bound() -> None:
    table, sizes = Table(), list[int]()
    group = lane(table, batch=2)
    group.on_batch = sizes.append
    await asyncio.gather(*(group.submit(number) for number in range(5)))
    assert table.batches == [[0, 1], [2, 3], [4]]
    assert sizes == [2, 2, 1]


async def test_a_full_queue_refuses_and_takes_again() -> None:
    """QueueFull queues nothing; room made by a flush is given out again."""
    table = Table()
    table.gate.clear()
    group = lane(table, queue=2)
    answers = [group.submit(1)]
    await table.started.wait()
    answers += [group.submit(2), group.submit(3)]
    with pytest.raises(QueueFull):
        group.submit(4)
    table.gate.set()
    await asyncio.gather(*answers)
    assert await group.submit(5) == 50
    assert table.batches == [[1], [2, 3], [5]]


async def test_a_deferred_entry_leads_the_next_batch() -> None:
    """What must wait goes before what came after it, in its old order."""
    table = Table()
    table.defer = {2, 3}
    table.gate.clear()
    group = lane(table)
    answers = [group.submit(number) for number in (1, 2, 3)]
    await table.started.wait()
    answers.append(group.submit(4))
    table.gate.set()
    assert await asyncio.gather(*answers) == [10, 20, 30, 40]
    assert table.batches == [[1, 2, 3], [2, 3, 4]]


async def test_a_batch_that_can_do_nothing_waits_until_something_moved() -> None:
    """It does not spin: without a word from another lane it flushes no more."""
    table = Table()
    table.defer = {1}
    group = lane(table)
    answer = group.submit(1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert table.batches == [[1]]
    assert not answer.done()
    group.notify_moved()
    assert await answer == 10
    assert table.batches == [[1], [1]]


async def test_a_move_during_the_flush_is_not_missed() -> None:
    """What moved while the flush looked is worth another look at once."""
    table = Table()
    table.defer = {1}
    table.gate.clear()
    group = lane(table)
    answer = group.submit(1)
    await table.started.wait()
    group.notify_moved()
    table.gate.set()
    async with asyncio.timeout(5):
        assert await answer == 10


async def test_a_failing_flush_fails_its_batch_alone() -> None:
    """Everyone who waited is told, and the lane goes on."""
    table = Table()
    table.fail_on = {2}
    group = lane(table, batch=2)
    answers = [group.submit(number) for number in (1, 2, 3)]
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, int]
    assert await group.submit(5) == 50


async def test_a_submitter_that_left_harms_nobody() -> None:
    """A cancelled wait leaves its item in the batch; the neighbours are answered."""
    table = Table()
    table.gate.clear()
    group = lane(table)
    answers = [group.submit(number) for number in (1, 2)]
    await table.started.wait()
    answers[0].cancel()
    table.gate.set()
    assert await answers[1] == 20
    assert table.batches == [[1, 2]]


async def test_drain_waits_for_all() -> None:
    table = Table()
    table.gate.clear()
    group = lane(table, batch=1)
    answers = [group.submit(number) for number in range(3)]
    draining = asyncio.create_task(group.drain())
    await table.started.wait()
    assert not draining.done()
    table.gate.set()
    await draining
    assert all(answer.done() for answer in answers)
    await group.drain()
