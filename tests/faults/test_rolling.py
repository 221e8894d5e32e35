"""Workers replaced under load: nobody who pays sees an error, and no payment is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest

from gateway.sandbox.datadir import free_port
from tests.faults.invariants import broken, drained
from tests.faults.world import READY_WITHIN_S, ROOT, Clients, ask, worker_environment
from tests.house import House, until

WORKERS = 2
# Each of the clients asks as soon as it was answered, and a while later.
CLIENTS = 12
PAUSE_S = 0.1


@dataclass(slots=True)
class Crew:
    """`oqim serve` with several workers over a sandbox's services, and the door to it."""

    process: subprocess.Popen[bytes]
    door: House

    def workers(self) -> set[int]:
        """Return the workers that run now, those that stop included."""
        pid = self.process.pid
        return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@asynccontextmanager
async def crew(house: House, log_name: str) -> AsyncIterator[Crew]:
    """Run a crew beside the sandbox's own worker."""
    port = free_port()
    variables = worker_environment(house) | {
        "OQIM_PORT": str(port),
        "OQIM_WORKERS": str(WORKERS),
    }
    with (house.data_dir / log_name).open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            [sys.executable, "-m", "gateway", "serve"],
            cwd=ROOT,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    description = house.description | {"base_url": f"http://127.0.0.1:{port}"}
    running = Crew(process, replace(house, process=None, description=description))
    try:
        await until(running.door.is_ready, within_s=READY_WITHIN_S)
        told = house.data_dir / log_name
        await until(lambda: "every worker serves" in told.read_text(), within_s=READY_WITHIN_S)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 60)


@dataclass(slots=True)
class Load:
    """Clients that pay one payment after another, each on a connection that it keeps."""

    door: House
    clients: Clients
    answered: int = 0
    faults: list[str] = field(default_factory=list)
    is_over: bool = False

    async def run(self, user: int) -> None:
        async with aiohttp.ClientSession() as session:
            door = replace(self.door, http=session)
            while not self.is_over:
                one = self.clients.want(user, door.purchase(user, "visa", 100_000 + user))
                reply = await ask(door, one)
                if reply is None or reply.status != 201:
                    self.faults.append("no answer" if reply is None else str(reply))
                self.answered += 1
                await asyncio.sleep(PAUSE_S)


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
