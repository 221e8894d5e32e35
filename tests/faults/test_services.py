"""The database and the cache killed under clients who pay; `make faults` runs it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all
from tests.faults.services import pid_of
from tests.faults.world import CONFIG, Clients, ask, ask_through
from tests.house import House, changed_config, running_house, until
from tests.payments.books import SCHEMES, fresh_amount

pytestmark = pytest.mark.skipif(SEEDS < 2, reason="`make faults` runs it: it takes half a minute")
PAYMENTS = 60


@pytest.fixture(scope="module")
async def grounded() -> AsyncIterator[House]:
    """Two workers of a sandbox of its own."""
    with changed_config(**CONFIG) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@pytest.mark.fault(rows=[36, 42], what="killed under payments")
@pytest.mark.parametrize(
    ("service", "number"),
    [
        # `pg_ctl stop -m immediate` is SIGQUIT to the one that started the others.
        pytest.param("postgres", signal.SIGQUIT, id="row 36, PostgreSQL -m immediate"),
        pytest.param("postgres", signal.SIGKILL, id="row 36, PostgreSQL kill -9"),
        pytest.param("valkey", signal.SIGKILL, id="row 42, Valkey kill -9"),
    ],
)
async def test_a_service_killed(
    grounded: House, service: str, number: signal.Signals, seed: int
) -> None:
    """What was answered stands, what was not is asked again, and nothing is charged twice."""
    clients = Clients()
    slots = asyncio.Semaphore(12)
    third = asyncio.Event()
    for scheme in SCHEMES:
        slow = {"kind": "delay", "rate": 1.0, "seconds": 0.05}
        await grounded.simulator("POST", scheme, "/_sim/faults", slow)

    async def pay(count: int) -> None:
        user, scheme = (seed * PAYMENTS + count) % 50, SCHEMES[count % 3]
        one = clients.want(user, grounded.purchase(user, scheme, fresh_amount()))
        async with slots:
            await ask(grounded, one)
        if count == PAYMENTS // 3:
            third.set()

    paying = asyncio.gather(*(pay(count) for count in range(PAYMENTS)))
    await third.wait()
    os.kill(pid_of(grounded, service), number)
    await paying
    await until(grounded.is_ready, within_s=30)
    for one in clients.asked:
        reply = await ask_through(grounded, one)
        assert reply.status in (201, 202), f"seed {seed}: {reply.raw!r}"
    for scheme in SCHEMES:
        await grounded.simulator("DELETE", scheme, "/_sim/faults")
    await hold_all(grounded, clients)
