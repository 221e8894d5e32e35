"""A second gateway beside a benchmark's sandbox: another worker, or another host.

It has the first one's environment but for its port and what is changed on purpose; it shares
PostgreSQL and Redis with it, and nothing else. It ends when its block does.
"""

import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.bench.namespaces import Host, wired
from gateway.measuring.helpers import Server
from gateway.measuring.meters import memory_of, worker_pids
from gateway.measuring.stage import Stage
from gateway.sandbox.datadir import free_port
from gateway.sandbox.errors import SandboxError

NAME = "beside"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A gateway that runs beside the sandbox's own."""

    port: int
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def gauge(self, http: aiohttp.ClientSession, name: str) -> float:
        """Return a gauge of its metrics, the labels of a family's member included in the name."""
        async with http.get(f"{self.base_url}/metrics") as answer:
            text = await answer.text()
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
        if found is None:
            raise SandboxError(f"the gateway has no gauge {name}")
        return float(found[1])

    def pss_kb(self) -> int:
        """Return its memory in kB, pages that it shares divided among those who do."""
        return memory_of(self.pid).pss_kb


@asynccontextmanager
async def beside(
    stage: Stage, environment: Mapping[str, str] | None = None, host: Host | None = None
) -> AsyncIterator[Neighbour]:
    """Run a second gateway, ready; its CPU is read under the name `beside`.

    Args:
        environment: what is other than the first one's.
        host: where it runs, if not beside the first one; its configuration listens there.
    """
    port = free_port()
    variables = _environment_of(worker_pids(stage.sandbox_file.parent)[0]) | {
        "OQIM_PORT": str(port),
        "OQIM_WORKER": NAME,
    }
    variables |= dict(environment or {})
    command = (sys.executable, "-m", "gateway", "serve")
    if host is None:
        async with _running(stage, port, command, variables) as neighbour:
            yield neighbour
    else:
        seen_there = variables | host.environment(variables)
        async with (
            wired(host, variables, port),
            _running(stage, port, host.command(*command), seen_there) as neighbour,
        ):
            yield neighbour


@asynccontextmanager
async def _running(
    stage: Stage, port: int, command: Sequence[str], variables: Mapping[str, str]
) -> AsyncIterator[Neighbour]:
    log = stage.sandbox_file.parent / f"{NAME}.log"
    server = await Server.start(command, variables, log, name="a second gateway")
    neighbour = Neighbour(port, server.process.pid)

    async def is_ready() -> bool:
        try:
            async with stage.http.get(f"{neighbour.base_url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await server.until_ready(is_ready)
        stage.meters.watch(NAME, neighbour.pid)
        yield neighbour
    finally:
        stage.meters.watch(NAME)
        await server.stop()


def _environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)
