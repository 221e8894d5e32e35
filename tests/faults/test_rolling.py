"""Workers replaced under load: nobody who pays sees an error, and no payment is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.faults.crews import CLIENTS, WORKERS, Load, crew
from tests.faults.invariants import broken, drained
from tests.faults.world import Clients
from tests.house import House, until


@pytest.mark.fault(rows=[61], what="workers replaced in turn; one killed; the whole crew stopped")
async def test_workers_are_replaced_without_an_error(sandbox: House, clients: Clients) -> None:
    """SIGUSR2 twice under load: other workers, and every payment answered 201."""
    async with crew(sandbox, "crew.log") as running:
        load = Load(running.door, clients)
        asking = [asyncio.create_task(load.run(user)) for user in range(CLIENTS)]
        try:
            await until(lambda: load.answered > CLIENTS, within_s=20)
            for _ in range(2):
                before = running.workers()
                running.process.send_signal(signal.SIGUSR2)
                await until(
                    lambda before=before: (
                        len(running.workers()) == WORKERS and not before & running.workers()
                    ),
                    within_s=90,
                )
            reached = load.answered
            await until(lambda: load.answered > reached + CLIENTS, within_s=20)
        finally:
            load.is_over = True
            await asyncio.gather(*asking)
        assert not load.faults, load.faults
    assert running.process.returncode == 0
    await drained(sandbox)
    assert not await broken(sandbox, clients)


async def test_a_worker_that_dies_is_started_again(sandbox: House) -> None:
    """Killed, it has a successor; the other one goes on meanwhile."""
    async with crew(sandbox, "crew-killed.log") as running:
        (victim, *_) = sorted(running.workers())
        os.kill(victim, signal.SIGKILL)
        await until(
            lambda: victim not in running.workers() and len(running.workers()) == WORKERS,
            within_s=30,
        )
        await until(running.door.is_ready, within_s=10)


async def test_one_scrape_tells_of_every_worker(sandbox: House) -> None:
    """Each value has its worker, each family stands once, and the counts are of all."""
    async with crew(sandbox, "crew-metrics.log") as running:

        async def told() -> bool:
            text = (await running.door.call("GET", "/metrics")).raw.decode()
            assert (
                text.count("# TYPE oqim_http_requests counter")
                + text.count("# TYPE oqim_http_requests_total counter")
                == 1
            )
            return all(f'oqim_lease_held{{worker="{one}"}} 1.0' in text for one in "12")

        await until(told, within_s=10)


async def test_workers_stop_when_their_crew_is_gone(sandbox: House) -> None:
    """Without anybody who would start them again, they finish what they have begun and end."""
    async with crew(sandbox, "crew-gone.log") as running:
        workers = running.workers()
        running.process.kill()

        def ended() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in workers)

        await until(ended, within_s=40)
