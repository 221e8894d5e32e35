"""The wires to the processors and to the database, spoilt under a worker while clients pay."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from random import Random

import pytest

from tests.faults.invariants import hold_all
from tests.faults.proxy import WIRE, Toxic
from tests.faults.wires import proxied
from tests.faults.world import AGAIN, Clients, ask, ask_through
from tests.house import House, until
from tests.payments.books import SCHEMES, fresh_amount

ROUNDS = 6
TOXICS = [
    Toxic(latency_s=0.1),
    Toxic(reset_after=0),
    Toxic(reset_after=1),
    Toxic(reset_after=60),
    Toxic(reset_after=100_000),
    Toxic(slice_bytes=7),
    Toxic(is_duplicated=True),
    Toxic(is_corrupted=True),
    Toxic(is_half_closed=True),
    Toxic(is_black_hole=True),
    Toxic(is_closed=True),
]


@pytest.mark.fault(rows=[13, 15, 16, 22, 26, 37], what="wires to processors and PostgreSQL spoilt")
async def test_spoilt_wires(sandbox: House, clients: Clients, seed: int) -> None:
    """Rows 13, 15, 16, 22, 26, 37: whatever a wire does, one payment a key, and one charge."""
    random = Random(seed)
    async with AsyncExitStack() as stack:
        wires = await stack.enter_async_context(proxied(sandbox))
        beside = await stack.enter_async_context(wires.worker_beside())
        door = beside.door
        told = []
        # Each scheme's wire meets toxics of its own; once a run, all wires to the database break.
        plan = {scheme: random.sample(TOXICS, ROUNDS) for scheme in SCHEMES}
        breaks_at = random.randrange(ROUNDS)
        for number in range(ROUNDS):
            for scheme in SCHEMES:
                wires.proxies[scheme].toxic = plan[scheme][number]
            users = [random.randrange(50) for _ in SCHEMES]
            ones = [
                clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
                for user, scheme in zip(users, SCHEMES, strict=True)
            ]
            told += ones
            asking = asyncio.gather(*(ask(door, one) for one in ones))
            if number == breaks_at:
                await asyncio.sleep(random.uniform(0, 0.02))
                assert wires.proxies["database"].reset_all() > 0, "nothing was connected"
            for reply in await asking:
                context = f"seed {seed}, round {number}"
                assert reply is not None, f"{context}: the worker lives"
                assert reply.status in (201, 202) or reply.code in AGAIN, (
                    f"{context}: {reply.raw!r}"
                )
        assert all(wires.proxies[scheme].met for scheme in SCHEMES), f"seed {seed}: nothing was met"
        for proxy in wires.proxies.values():
            proxy.toxic = WIRE
        for one in told:
            reply = await ask_through(sandbox, one)
            assert reply.status in (201, 202), f"seed {seed}: {reply.raw!r}"
        await until(door.is_ready, within_s=30)
        await hold_all(sandbox, clients, [door])
