"""A sandbox to break: workers beside its own that may be told to fail, and clients who remember.

A worker beside the sandbox's has its database and its processors, and whatever environment a test
gives it: failpoints, or addresses with a fault in front of them. When it is dead, the sandbox's own
worker takes up what it left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from gateway.sandbox.datadir import free_port
from tests.house import House, Reply, new_key, until

ANSWERED_WITHIN_S = 30.0
READY_WITHIN_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
MISTAKEN = ("-m", "tests.faults.mistakes")
# What a client is told when nothing was sent, or nobody can say yet: it asks again, same key.
AGAIN = frozenset(
    {
        "idempotency-in-progress",
        "processor-unavailable",
        "unavailable",
        "revocation-feed-stale",
        "overloaded",
    }
)
# Doubt is made cheaply, and ends soon.
CONFIG: dict[str, Mapping[str, str]] = {
    "connectors": {
        "timeout_ms = 10000": "timeout_ms = 700\nbreaker_failures_max = 1000",
        'terminal_id = "OQIM0001"': (
            'terminal_id = "OQIM0001"\ntimeout_ms = 700\nbreaker_failures_max = 1000'
        ),
    },
    "settings": {
        "not_found_final_s = 15.0": "not_found_final_s = 3.0",
        "retry_first_s = 1.0": "retry_first_s = 0.2",
        "retry_last_s = 10.0": "retry_last_s = 1.0",
        "worker_lease_s = 5.0": "worker_lease_s = 3.0",
    },
}

# A worker that looks for what is in doubt when it starts, and not again.
LOOKS_ONCE = CONFIG | {
    "settings": {**CONFIG["settings"], "poll_s = 0.5": "poll_s = 3600.0"},
}


@dataclass(slots=True)
class Asked:
    """One payment or refund a client asks for, and every answer it was given."""

    user: int
    path: str
    body: dict[str, Any]
    key: str = field(default_factory=new_key)
    answers: list[Reply] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """The objects that were named to the client under the key."""
        return {one.body["id"] for one in self.answers if one.status in (200, 201, 202)}


@dataclass(slots=True)
class Clients:
    """Everybody who asked, so that nothing that was told can be forgotten."""

    asked: list[Asked] = field(default_factory=list)

    def want(self, user: int, body: dict[str, Any], path: str = "/v1/payments") -> Asked:
        """Return something to be asked for, under a key of its own."""
        one = Asked(user, path, body)
        self.asked.append(one)
        return one


async def ask(house: House, one: Asked) -> Reply | None:
    """Ask once; None when no answer came."""
    token = house.user(one.user)["access_token"]
    try:
        reply = await house.call("POST", one.path, one.body, token=token, key=one.key)
    except (aiohttp.ClientError, TimeoutError):
        return None
    one.answers.append(reply)
    return reply


async def ask_through(house: House, one: Asked) -> Reply:
    """Repeat a request under its key until it is answered with what it asked for."""

    async def answered() -> Reply | None:
        reply = await ask(house, one)
        if reply is None or reply.code in AGAIN:
            return None
        return reply

    reply: Reply = await until(answered, within_s=ANSWERED_WITHIN_S)
    return reply


@dataclass(slots=True)
class Beside:
    """A worker beside the sandbox's own, and the door to it alone."""

    process: subprocess.Popen[bytes]
    door: House

    @property
    def is_dead(self) -> bool:
        return self.process.poll() is not None

    async def died(self, *, within_s: float = 10.0) -> None:
        """Wait until it has ended by SIGKILL; anything else is a failure of the test."""
        await until(lambda: self.is_dead, within_s=within_s)
        assert self.process.returncode == -signal.SIGKILL, self.process.returncode


async def _started(beside: Beside, *, may_die: bool) -> bool:
    if beside.is_dead:
        assert may_die, "the worker beside has ended before it was ready"
        return True
    return await beside.door.is_ready()


def worker_environment(house: House) -> dict[str, str]:
    """Return what the sandbox's own worker was started with."""
    (pid, *_) = house.worker_pids()
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)


@asynccontextmanager
async def worker_beside(
    house: House,
    *,
    failpoints: Mapping[str, Any] | None = None,
    connectors: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    mistake: str | None = None,
    may_die: bool = False,
) -> AsyncIterator[Beside]:
    """Run a worker beside the sandbox's, and end it.

    Args:
        failpoints: what OQIM_FAILPOINTS arms in it.
        connectors: settings of connectors that are other than the sandbox's.
        environment: anything else.
        mistake: one of `tests.faults.mistakes`, which it makes.
        may_die: it may meet its failpoint before it is ready.
    """
    command = ["-m", "gateway", "serve"] if mistake is None else [*MISTAKEN, mistake]
    port = free_port()
    variables = worker_environment(house) | {"OQIM_PORT": str(port), "OQIM_WORKER": "beside"}
    if failpoints:
        variables["OQIM_FAILPOINTS"] = json.dumps(failpoints)
    settings = json.loads(variables["OQIM_CONNECTORS"])
    for name, changed in (connectors or {}).items():
        settings[name] = settings[name] | changed
    variables |= {"OQIM_CONNECTORS": json.dumps(settings)} | dict(environment or {})
    with (house.data_dir / "beside.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            [sys.executable, *command],
            cwd=ROOT,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    description = house.description | {"base_url": f"http://127.0.0.1:{port}"}
    beside = Beside(process, replace(house, process=None, description=description))
    try:
        await until(lambda: _started(beside, may_die=may_die), within_s=READY_WITHIN_S)
        yield beside
    finally:
        process.kill()
        await asyncio.to_thread(process.wait, 10)


@asynccontextmanager
async def paused_workers(house: House) -> AsyncIterator[None]:
    """Have the sandbox's own workers stand still (SIGSTOP), so that the one beside is alone.

    Afterwards they are waited for: until each has its lease again, it refuses payments.
    """
    pids = house.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        resumed_at = await _now(house)
        await until(lambda: _renewed(house, resumed_at, len(pids)), within_s=READY_WITHIN_S)


async def _now(house: House) -> Any:
    return (await house.rows("SELECT clock_timestamp()"))[0][0]


async def _renewed(house: House, since: Any, number: int) -> bool:
    found = await house.rows("SELECT count(*) FROM workers WHERE seen_at > $1", since)
    return int(found[0][0]) >= number
