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
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

CHUNK = 65_536
LOOPBACK = "127.0.0.1"
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
            await stack.enter_async_context(_handed_on((host.ours, service), (LOOPBACK, service)))
        await stack.enter_async_context(_handed_on((LOOPBACK, port), (host.address, port)))
        yield


@asynccontextmanager
async def _handed_on(listening: tuple[str, int], there: tuple[str, int]) -> AsyncIterator[None]:
    """Carry every connection to an address on to another."""
    open_ones: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        open_ones.add(task)
        task.add_done_callback(open_ones.discard)
        with suppress(OSError, asyncio.CancelledError):
            await _carry_both(reader, writer, there)
        writer.transport.abort()

    server = await asyncio.start_server(carry, *listening, backlog=4_096)
    try:
        yield
    finally:
        server.close()
        for task in list(open_ones):
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await server.wait_closed()


async def _carry_both(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: tuple[str, int]
) -> None:
    other_reader, other_writer = await asyncio.open_connection(*there)
    try:
        ways = [
            asyncio.ensure_future(_carry(one, other))
            for one, other in ((reader, other_writer), (other_reader, writer))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    finally:
        other_writer.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(CHUNK):
        writer.write(piece)
        await writer.drain()
