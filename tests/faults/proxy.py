"""A TCP proxy that spoils what passes through it: in front of a database, a cache or a processor.

It knows no protocol. What it does to a connection is one `Toxic`, changed at any moment; without
one it is a wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Toxic:
    """What befalls the bytes of every connection.

    Args:
        latency_s: before each piece is handed on, either way.
        reset_after: bytes towards the server; then both sides are reset (RST).
        slice_bytes: pieces so long, each handed on alone, either way.
        is_duplicated: answers are handed on twice.
        is_corrupted: one bit of every answer is another.
        is_half_closed: the first piece of an answer is followed by an end of file.
        is_black_hole: what is sent is taken, and never arrives.
        is_closed: connections are accepted and reset at once.
    """

    latency_s: float = 0.0
    reset_after: int | None = None
    slice_bytes: int = CHUNK
    is_duplicated: bool = False
    is_corrupted: bool = False
    is_half_closed: bool = False
    is_black_hole: bool = False
    is_closed: bool = False


WIRE = Toxic()


@dataclass(slots=True)
class Proxy:
    """One listening port, and the connections through it.

    Attributes:
        met: pieces that a toxic has done something to.
    """

    host: str
    port: int
    listening_port: int = 0
    toxic: Toxic = WIRE
    met: int = 0
    is_closing: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def reset_all(self) -> int:
        """Reset every connection there is now; returns how many."""
        count = len(self._writers)
        for writer in list(self._writers):
            _reset(writer)
        return count

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until either side has ended."""
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.toxic.is_closed:
            self.met += 1
            _reset(writer)
            return
        try:
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            _reset(writer)
            return
        pair = {writer, back}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._carry(reader, back, is_answer=False),
                self._carry(there, writer, is_answer=True),
            )
        except (OSError, _Reset):
            pass
        except asyncio.CancelledError:
            # The proxy is closing: the stream's own callback would report it as a failure.
            if not self.is_closing:
                raise
        finally:
            self._writers -= pair
            for one in pair:
                _reset(one)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while piece := await reader.read(CHUNK):
            toxic = self.toxic
            self.met += toxic is not WIRE
            if toxic.latency_s:
                await asyncio.sleep(toxic.latency_s)
            if is_answer:
                await self._answer(toxic, piece, writer)
            elif not toxic.is_black_hole:
                if toxic.reset_after is not None:
                    await _hand_on(writer, piece[: toxic.reset_after], toxic.slice_bytes)
                    raise _Reset
                await _hand_on(writer, piece, toxic.slice_bytes)
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _answer(self, toxic: Toxic, piece: bytes, writer: asyncio.StreamWriter) -> None:
        if toxic.is_corrupted:
            middle = len(piece) // 2
            piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
        await _hand_on(writer, piece, toxic.slice_bytes)
        if toxic.is_duplicated:
            await _hand_on(writer, piece, toxic.slice_bytes)
        if toxic.is_half_closed:
            writer.write_eof()
            raise _Reset

    async def close(self) -> None:
        """End every connection."""
        self.is_closing = True
        self.reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Reset(Exception):
    """Both sides are to be reset."""


async def _hand_on(writer: asyncio.StreamWriter, piece: bytes, size: int) -> None:
    for start in range(0, len(piece), size):
        writer.write(piece[start : start + size])
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():
        return
    plug: socket.socket = writer.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxy_before(host: str, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy before an address, and end it with its connections."""
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy.on_connection, "127.0.0.1", 0)
    proxy.listening_port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
