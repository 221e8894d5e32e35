"""The promise: when a call that revokes has returned, no worker anywhere accepts the token."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.identity.hammer import AGE_S_MAX, FAULTS, Field, one_round, running_field, told

# `make faults` sets it.
SEEDS = int(os.environ.get("OQIM_SEEDS", "1"))
ROUNDS = 20


@pytest.fixture(scope="module")
async def field() -> AsyncIterator[Field]:
    """Four workers of one sandbox."""
    async with running_field() as field:
        yield field


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
async def test_a_revoked_token_is_accepted_by_nobody(field: Field, seed: int) -> None:
    """Whatever one worker suffers, and whichever call revokes, on whichever worker."""
    random = Random(seed)
    # Each fault at least once; most rounds are healthy, as life is.
    faults = list(FAULTS[1:])
    plan = faults + random.choices(FAULTS, weights=[7, 1, 2, 2, 1, 1], k=ROUNDS - len(faults))
    rounds = []
    for number, fault in enumerate(plan):
        one = await one_round(field, fault, random)
        assert not one.accepted, f"seed {seed}, round {number}: {one}"
        # The bound after which a silent worker has closed, and what a busy machine adds.
        assert one.elapsed_s < AGE_S_MAX + 2.5, f"seed {seed}, round {number}: {one.elapsed_s}"
        rounds.append(one)
    print(told(rounds))
