"""Numbers of attempts: unique, and a block is read once for all who wait for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.payments.store import Sequences


class _Pool:
    """Gives out blocks, slowly."""

    def __init__(self) -> None:
        self.blocks = 0

    async def fetchval(self, _statement: str) -> Any:
        self.blocks += 1
        block = self.blocks
        await asyncio.sleep(0)
        return block


async def test_a_block_is_read_once_for_all_who_wait() -> None:
    pool = _Pool()
    sequences = Sequences(pool)
    asked = 2 * Sequences.BLOCK + 1
    numbers = await asyncio.gather(*(sequences.next() for _ in range(asked)))
    assert len(set(numbers)) == asked
    assert pool.blocks == 3


class _AwayPool(_Pool):
    """Its database is away."""

    async def fetchval(self, statement: str) -> Any:
        await super().fetchval(statement)
        raise ConnectionError


async def test_all_who_wait_hear_at_once_that_the_database_is_away() -> None:
    """Each after the other would have the last one wait for all time-outs; later ones ask again."""
    pool = _AwayPool()
    sequences = Sequences(pool)
    answers = await asyncio.gather(*(sequences.next() for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in answers} == {ConnectionError}
    assert pool.blocks == 1
    with pytest.raises(ConnectionError):
        await sequences.next()
    assert pool.blocks == 2
