"""Wires that count what a worker says over them: a relay that cuts a stream into messages.

It changes nothing of what passes; it knows as much of each protocol as counting needs.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

CHUNK = 65_536
SSL_REQUEST = 80_877_103
SYNC, QUERY = "S", "Q"

# Takes what has come of a stream; yields a name for each whole message and how long it was.
Cut = Callable[[bytearray, Counter[str]], Iterator[tuple[str, int]]]


def postgres(stream: bytearray, seen: Counter[str]) -> Iterator[tuple[str, int]]:
    """Cut what a client of PostgreSQL sends (protocol 3, chapter 54.2): the names are its types.

    A `Sync`, or a simple query, is a round trip.
    """
    at = 0
    # Requests that come before the session have no type.
    while not seen["startup"] and len(stream) >= at + 8:
        size, code = struct.unpack_from("!ii", stream, at)
        if len(stream) < at + size:
            return
        at += size
        yield ("ssl" if code == SSL_REQUEST else "startup"), size
    while seen["startup"] and len(stream) >= at + 5:
        size = 1 + struct.unpack_from("!i", stream, at + 1)[0]
        if len(stream) < at + size:
            return
        yield chr(stream[at]), size
        at += size


def redis(stream: bytearray, seen: Counter[str]) -> Iterator[tuple[str, int]]:
    """Cut what a client of Redis sends: commands, each an array of bulk strings (RESP)."""
    at = 0
    while (end := stream.find(b"\r\n", at)) >= 0:
        parts, place = int(stream[at + 1 : end]), end + 2
        for _ in range(parts):
            end = stream.find(b"\r\n", place)
            if end < 0:
                return
            place = end + 2 + int(stream[place + 1 : end]) + 2
        if place > len(stream):
            return
        yield "command", place - at
        at = place


def visa(stream: bytearray, seen: Counter[str]) -> Iterator[tuple[str, int]]:
    """Cut what is sent to VISA: length in two bytes, two more of prefix, header and message."""
    at = 0
    while len(stream) >= at + 4:
        size = 4 + int.from_bytes(stream[at : at + 2], "big")
        if len(stream) < at + size:
            return
        yield ("message" if size > 4 else "keep-alive"), size
        at += size


class Wire:
    """One listening port before an address; `seen` counts messages towards it, by name."""

    def __init__(self, host: str, port: int, cut: Cut) -> None:
        self._address = host, port
        self._cut = cut
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.seen: Counter[str] = Counter()

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until either side has ended."""
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await asyncio.open_connection(*self._address)
        try:
            ways = (self._count(reader, back), _carry(there, writer))
            done, left = await asyncio.wait(
                [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
            )
            for way in (*done, *left):
                way.cancel()
            await asyncio.gather(*done, *left, return_exceptions=True)
        finally:
            back.transport.abort()
            writer.transport.abort()

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, own = bytearray(), Counter[str]()
        while piece := await reader.read(CHUNK):
            stream += piece
            taken = 0
            for name, size in self._cut(stream, own):
                own[name] += 1
                self.seen[name] += 1
                taken += size
            del stream[:taken]
            writer.write(piece)
            await writer.drain()

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(CHUNK):
            writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def counted(host: str, port: int, cut: Cut) -> AsyncIterator[Wire]:
    """Run a wire before an address, and end it with its connections."""
    wire = Wire(host, port, cut)
    server = await asyncio.start_server(wire.on_connection, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        await wire.close()
        await server.wait_closed()
