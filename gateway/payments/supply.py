"""Gives the core what a decision misses, in one read with whoever else waits."""

from collections.abc import Callable
from typing import TypeVar

import asyncpg

from gateway.cards.directory import Directory
from gateway.core import Core, Missing
from gateway.kernel.db.batch import Entry, GroupCommit
from gateway.limits.states import read_states

_BATCH_SIZE_MAX = 256
_QUEUE_SIZE_MAX = 8192
# Cards and merchants, then limit states, then once more for what was evicted in between.
_ROUNDS_MAX = 6

Answer = TypeVar("Answer")


Fresh = tuple[bool, bool]
"""Whether cards and merchants, and whether limit states, were read for a decision."""


class Supply:
    """Reads cards, merchants and limit states by the batch."""

    def __init__(self, pool: asyncpg.Pool, core: Core, directory: Directory) -> None:
        self._pool = pool
        self._core = core
        self._directory = directory
        self._reads: GroupCommit[Missing, None] = GroupCommit(
            self._read, _BATCH_SIZE_MAX, _QUEUE_SIZE_MAX
        )

    async def decided(self, decide: Callable[[Fresh], Answer | Missing]) -> Answer:
        """Return the first answer of `decide` that misses nothing.

        Args:
            decide: told what was read for it. What this worker remembers is enough to admit, never
                to refuse or to show: the core then names what it wants read again.
        """
        parties = states = False
        for _ in range(_ROUNDS_MAX):
            answer = decide((parties, states))
            if not isinstance(answer, Missing):
                return answer
            await self._reads.submit(answer)
            parties = parties or bool(answer.cards or answer.merchants)
            states = bool(answer.subjects)
        raise RuntimeError("the core's caches are too small for one decision")

    async def _read(self, batch: list[Entry[Missing, None]]) -> list[Entry[Missing, None]]:
        cards = {one for entry in batch for one in entry.item.cards}
        merchants = {one for entry in batch for one in entry.item.merchants}
        subjects = {one for entry in batch for one in entry.item.subjects}
        async with self._pool.acquire() as connection:
            if cards:
                await self._directory.read_cards(connection, cards)
            if merchants:
                await self._directory.read_merchants(connection, merchants)
            if subjects:
                await read_states(connection, self._core, subjects)
        for entry in batch:
            entry.resolve(None)
        return []
