"""The promise: when a call that revokes has returned, no worker anywhere accepts the token."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.identity.hammer import Field, rounds_of, running_field, told

ROUNDS = 20


@pytest.fixture(scope="module")
async def field() -> AsyncIterator[Field]:
    """Four workers of one sandbox."""
    async with running_field() as field:
        yield field


@pytest.mark.fault(rows=[46], what="a worker stopped, or cut off from Redis or the database")
async def test_a_revoked_token_is_accepted_by_nobody(field: Field) -> None:
    """Whatever one worker suffers, and whichever call revokes, on whichever worker."""
    print(told(await rounds_of(field, 1, ROUNDS)))
