"""Hosts: `oqim serve` with several workers over a sandbox, and clients who keep paying."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from gateway.sandbox.datadir import free_port
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

    def kill(self) -> None:
        """End the crew and its workers at once, as a host that loses its power."""
        for pid in (self.process.pid, *self.workers()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def crew(house: House, log_name: str) -> AsyncIterator[Crew]:
    """Run a crew beside the sandbox's own worker."""
    port = free_port()
    variables = worker_environment(house) | {
        "OQIM_PORT": str(port),
        "OQIM_WORKERS": str(WORKERS),
        # A crew that is killed leaves its folder behind: where it is removed with the sandbox.
        "TMPDIR": str(house.data_dir),
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
