"""Starts the processors' simulators once, as the separate process that they are."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway._core import Iso8583


@pytest.fixture(scope="session")
def codec() -> Iso8583:
    return Iso8583("visa-binary")


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The endpoints of a running simulator process."""
    folder = tmp_path_factory.mktemp("simulators")
    ready = folder / "ready.json"
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            (
                *(sys.executable, "-m", "connectors.simulators", "--exit-with-parent"),
                *("--data-dir", str(folder / "data"), "--ready-file", str(ready)),
                *("--uzcard-port", "0", "--humo-port", "0"),
                *("--visa-port", "0", "--visa-control-port", "0"),
                *("--login", "oqim", "--password", "sandbox", "--bearer", "sandbox"),
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _endpoints(process, ready, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _endpoints(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> dict[str, Any]:
    until = time.monotonic() + 20
    while not ready.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    endpoints: dict[str, Any] = json.loads(ready.read_text())
    return endpoints


class Simulator:
    """One scheme's control URL, as `connectors.spi.contract.Processor`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def arm(self, kind: str, *, count: int = 1, **options: Any) -> None:
        await self.post("faults", {"kind": kind, "count": count, **options})

    async def clear(self) -> None:
        async with self._session.delete(f"{self._url}/_sim/faults") as response:
            assert response.status == 200

    async def ledger(self, ref: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/_sim/ledger", params={"ref": ref}) as response:
            assert response.status == 200
            entries: list[dict[str, Any]] = await response.json()
        return entries

    async def post(self, what: str, body: Any) -> Any:
        async with self._session.post(f"{self._url}/_sim/{what}", json=body) as response:
            assert response.status in (200, 202), await response.text()
            return await response.json()

    async def get(self, what: str, **params: str) -> Any:
        async with self._session.get(f"{self._url}/_sim/{what}", params=params) as response:
            assert response.status == 200
            return await response.json()


@pytest.fixture
async def control() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
        await asyncio.sleep(0)


@pytest.fixture
def uzcard(control: aiohttp.ClientSession, simulators: dict[str, Any]) -> Simulator:
    return Simulator(control, simulators["uzcard"]["url"])


@pytest.fixture
def humo(control: aiohttp.ClientSession, simulators: dict[str, Any]) -> Simulator:
    return Simulator(control, simulators["humo"]["url"])


@pytest.fixture
def visa(control: aiohttp.ClientSession, simulators: dict[str, Any]) -> Simulator:
    return Simulator(control, simulators["visa"]["control_url"])
