"""The sandbox's own Valkey: its configuration and its leftovers.

It listens on the loopback address with a password and keeps nothing on disk: what lives in it may
be lost by design, and the sandbox shows that rather than hide it.
"""

from __future__ import annotations

import signal
from pathlib import Path

import redis.asyncio

from gateway.sandbox.datadir import LOOPBACK, DataDirectory, make_directory, write_private
from gateway.sandbox.installs import bare_environment, find_valkey
from gateway.sandbox.processes import StopPlan, processes_working_in, stop_strangers
from gateway.sandbox.supervisor import ChildSpec

STOP: StopPlan = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
READY_WITHIN_S = 20.0


def url(port: int, password: str) -> str:
    """Return the URL of database 0, with the password."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def spec(directory: DataDirectory, port: int, password: str) -> ChildSpec:
    """Return how the server is run on a port; its configuration is written before each start.

    Raises:
        ServiceUnavailable: the wheel that brings it is not installed.
    """
    home = directory.path / "valkey"
    configuration = home / "valkey.conf"

    async def prepare() -> None:
        make_directory(home, mode=0o700)
        await stop_strangers(processes_working_in(home.resolve(), "valkey-server"), STOP)
        write_private(configuration, _configuration(home, port, password))

    async def is_ready() -> bool:
        client = redis.asyncio.Redis.from_url(url(port, password), socket_timeout=2.0)
        try:
            return bool(await client.ping())
        finally:
            await client.aclose()

    return ChildSpec(
        name="valkey",
        argv=[find_valkey(), configuration],
        env=bare_environment(),
        prepare=prepare,
        ready=is_ready,
        ready_within_s=READY_WITHIN_S,
        stop=STOP,
    )


def _configuration(home: Path, port: int, password: str) -> str:
    return "\n".join(
        [
            f"bind {LOOPBACK}",
            f"port {port}",
            "protected-mode yes",
            f"requirepass {password}",  # in a file, and not among the arguments that all can read
            f"dir {_quoted(home)}",
            'save ""',
            "appendonly no",
            "daemonize no",
            'logfile ""',
            "maxmemory-policy noeviction",
            "",
        ]
    )


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
