"""Gives the core what a decision misses, in one read with whoever else waits."""

from collections.abc import Callable
from typing import TypeVar

import asyncpg
import msgspec

from gateway.cards.directory import Directory
from gateway.core import Core, Missing, Refusal
from gateway.kernel.db.batch import Entry, GroupCommit
from gateway.limits.states import read_states

_BATCH_SIZE_MAX = 256
_QUEUE_SIZE_MAX = 8192
# Cards and merchants, then limit states, then once more for what was evicted in between.
_ROUNDS_MAX = 6

# Refusals that may rest on what is remembered of a card.
_BY_CARDS = frozenset({"card-not-active", "not-found"})

Answer = TypeVar("Answer")


class _Parties(msgspec.Struct):
    """What a payment's body names, as far as cards are concerned."""

    source: dict[str, str] | None = None
    destination: dict[str, str] | None = None


def cards_of(body: bytes) -> set[str]:
    """Return the cards that a payment's body names; none when it is not of a payment's shape."""
    try:
        parties = msgspec.json.decode(body, type=_Parties)
    except msgspec.MsgspecError:
        return set()
    named = ((one or {}).get("card") for one in (parties.source, parties.destination))
    return {one for one in named if one is not None}


class Supply:
    """Reads cards, merchants and limit states by the batch."""

    def __init__(self, pool: asyncpg.Pool, core: Core, directory: Directory) -> None:
        self._pool = pool
        self._core = core
        self._directory = directory
        self._reads: GroupCommit[Missing, None] = GroupCommit(
            self._read, _BATCH_SIZE_MAX, _QUEUE_SIZE_MAX
        )

    async def decided(
        self, decide: Callable[[bool], Answer | Missing], cards: Callable[[], set[str]]
    ) -> Answer:
        """Return the first answer of `decide` that misses nothing.

        Args:
            cards: gives the ids that the request names; asked when they may be why it is refused.
            decide: told whether the limit states it touches were read for it. What this worker
                remembers is enough to admit, never to refuse or to show: another may have moved it.
        """
        is_fresh = has_read_cards = False
        for _ in range(_ROUNDS_MAX):
            answer = decide(is_fresh)
            if not isinstance(answer, Missing):
                is_by_cards = isinstance(answer, Refusal) and answer.slug in _BY_CARDS
                if has_read_cards or not is_by_cards:
                    return answer
                # Another worker may have verified a card, or removed it, since it was read here.
                has_read_cards, is_fresh = True, False
                async with self._pool.acquire() as connection:
                    await self._directory.read_cards(connection, cards())
                continue
            await self._reads.submit(answer)
            is_fresh = bool(answer.subjects)
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
