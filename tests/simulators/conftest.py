"""One simulators' process for the session; every test starts from an empty ledger."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.simulators.sim_clients import (
    Control,
    HumoClient,
    UzcardClient,
    VisaClient,
    network,
    until,
)

START_TIMEOUT_S = 30.0


@dataclass
class Simulators:
    """A running process and where it listens."""

    process: asyncio.subprocess.Process
    ready: dict[str, dict[str, Any]]

    async def end(self, number: int) -> int:
        """Send a signal and wait for the end. Returns: the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(START_TIMEOUT_S):
            return await self.process.wait()


Start = Callable[..., Awaitable[Simulators]]


async def start_simulators(data_dir: Path, *arguments: str) -> Simulators:
    """Start a process and wait for its ready file."""
    ready_file = data_dir / "ready.json"
    ready_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "connectors.simulators",
        "--data-dir",
        str(data_dir),
        "--ready-file",
        str(ready_file),
        "--exit-with-parent",
        *arguments,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

    async def is_ready() -> bool:
        assert process.returncode is None, "the simulators ended before they were ready"
        return ready_file.exists()

    await until(is_ready, START_TIMEOUT_S)
    return Simulators(process, json.loads(ready_file.read_bytes()))


@pytest.fixture(scope="session")
async def simulators(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Simulators]:
    """The session's process."""
    running = await start_simulators(tmp_path_factory.mktemp("simulators"))
    yield running
    assert await running.end(signal.SIGTERM) == 0


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start processes of a test's own, on its own folder; what still runs is ended."""
    started: list[Simulators] = []

    async def begin(*arguments: str) -> Simulators:
        running = await start_simulators(tmp_path, *arguments)
        started.append(running)
        return running

    yield begin
    for running in started:
        if running.process.returncode is None:
            await running.end(signal.SIGKILL)


@pytest.fixture(scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The HTTP client."""
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
async def uzcard(simulators: Simulators, session: aiohttp.ClientSession) -> UzcardClient:
    """UZCARD, freshly reset."""
    client = UzcardClient(session, simulators.ready["uzcard"]["url"])
    await client.control.ok("POST", "reset")
    return client


@pytest.fixture
async def humo(simulators: Simulators, session: aiohttp.ClientSession) -> HumoClient:
    """HUMO, freshly reset."""
    client = HumoClient(session, simulators.ready["humo"]["url"])
    await client.control.ok("POST", "reset")
    return client


@pytest.fixture
async def visa_control(simulators: Simulators, session: aiohttp.ClientSession) -> Control:
    """VISA's control routes, freshly reset."""
    control = Control(session, simulators.ready["visa"]["control_url"])
    await control.ok("POST", "reset")
    return control


@pytest.fixture
async def visa(simulators: Simulators, visa_control: Control) -> AsyncIterator[VisaClient]:
    """A connection to VISA, freshly reset and signed on."""
    at = simulators.ready["visa"]
    async with VisaClient(at["host"], at["port"]) as client:
        reply = await client.ask(network("001"))
        assert reply["39"] == "00"
        yield client
