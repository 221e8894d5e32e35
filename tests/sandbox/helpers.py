"""What the sandbox's tests share: waiting for a condition, a sandbox in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.sandbox.processes import ProcessIdentity, identify
from gateway.sandbox.supervisor import ChildSpec, RestartPolicy

# Starts PostgreSQL and Valkey, says where they are, and lives until it is killed.
HOLDER = """
import asyncio, json, sys
from pathlib import Path
from gateway.sandbox.embedded import EmbeddedServices
from gateway.sandbox.progress import SilentProgress
from gateway.sandbox.supervisor import Supervisor

async def main():
    path, tied = Path(sys.argv[1]), sys.argv[2] == "tied"
    async with Supervisor(path, SilentProgress(), handle_signals=True, tied=tied) as supervisor:
        async with EmbeddedServices(path, SilentProgress(), supervisor=supervisor) as services:
            pids = [supervisor.pid("postgres"), supervisor.pid("valkey")]
            print(json.dumps({"database_url": services.database_url, "pids": pids}), flush=True)
            await supervisor.wait()

asyncio.run(main())
"""


class Holder:
    """A sandbox's services held by another process, which can be killed."""

    def __init__(self, data_dir: Path, *, tied: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), "tied" if tied else "untied"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        self.database_url: str = answer["database_url"]
        self.servers: list[ProcessIdentity] = [running(pid) for pid in answer["pids"]]

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end, return the exit status."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=60)


def running(pid: int) -> ProcessIdentity:
    """Return the identity of a process that must be running."""
    identity = identify(pid)
    assert identity is not None
    return identity


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until a condition holds, at most `within_s`."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  another process sets no event of ours
            await asyncio.sleep(0.01)


def python_child(
    name: str, source: str, *arguments: str | Path, restart: RestartPolicy | None = None
) -> ChildSpec:
    """Return a child that runs a piece of Python."""
    return ChildSpec(
        name=name,
        argv=[sys.executable, "-I", "-S", "-c", source, *map(str, arguments)],
        env={"PATH": os.defpath},
        restart=restart or RestartPolicy(),
        advice="Mend the test.",
    )
