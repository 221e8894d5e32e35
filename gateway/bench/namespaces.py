"""Another host on this machine: a network namespace, reached over a pair of virtual wires.

A gateway in it has no way to PostgreSQL, Redis and the processors but over those wires, where they
are handed on at their own ports; and nobody has a way to it but over them. It takes root and `ip`;
where either is missing there is no other host, and whoever asked is told so.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.measuring.relay import LOOPBACK, Relay, listening

# Set apart for measuring (RFC 2544): nobody's network.
NETWORK = "198.18.{number}.{host}"
# What a worker is told of where things are.
ADDRESSES = ("OQIM_DATABASE_URL", "OQIM_REDIS_URL", "OQIM_CONNECTORS")
_PORT_IN_URL = re.compile(re.escape(LOOPBACK) + r":([0-9]+)")


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace: `ours` is this end of the wires, `address` the other."""

    name: str
    ours: str
    address: str

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return what runs a command there."""
        return ("ip", "netns", "exec", self.name, *arguments)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that name addresses, as they are seen from there."""
        return {name: variables[name].replace(LOOPBACK, self.ours) for name in ADDRESSES}


async def _ip(*arguments: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        "ip",
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


@asynccontextmanager
async def another_host() -> AsyncIterator[Host | None]:
    """Make a namespace and its wires, removed at the end; None where that is not permitted."""
    number = os.getpid() % 250
    name, wire = f"oqim-bench-{os.getpid()}", f"oqb{os.getpid() % 10**9}"
    host = Host(name, NETWORK.format(number=number, host=1), NETWORK.format(number=number, host=2))
    if shutil.which("ip") is None or not await _ip("netns", "add", name):
        yield None
        return
    try:
        steps = (
            ("link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name),
            ("addr", "add", f"{host.ours}/30", "dev", wire),
            ("link", "set", wire, "up"),
            ("-n", name, "addr", "add", f"{host.address}/30", "dev", "wire"),
            ("-n", name, "link", "set", "wire", "up"),
            ("-n", name, "link", "set", "lo", "up"),
        )
        is_wired = True
        for step in steps:
            is_wired = is_wired and await _ip(*step)
        yield host if is_wired else None
    finally:
        # Its end of the wires goes with it, and so does ours.
        await _ip("netns", "delete", name)


def ports(variables: Mapping[str, str]) -> set[int]:
    """Return the ports of this machine that a worker's variables name."""
    found = {int(port) for name in ADDRESSES for port in _PORT_IN_URL.findall(variables[name])}
    sections = json.loads(variables["OQIM_CONNECTORS"]).values()
    return found | {int(one["port"]) for one in sections if one.get("host") == LOOPBACK}


@asynccontextmanager
async def wired(host: Host, variables: Mapping[str, str], port: int) -> AsyncIterator[None]:
    """Hand on what a worker there asks for, and what is asked of it at a port of this machine."""
    async with AsyncExitStack() as stack:
        for service in ports(variables):
            there = Relay(LOOPBACK, service)
            await stack.enter_async_context(listening(there, host.ours, service))
        await stack.enter_async_context(listening(Relay(host.address, port), LOOPBACK, port))
        yield
