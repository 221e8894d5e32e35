"""A TCP proxy that spoils what passes through it: in front of a database, a cache or a processor.

It knows no protocol. What it does to a connection is one `Toxic`, changed at any moment; without
one it is a wire.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gateway.measuring.relay import CHUNK, Ended, HandOn, Relay, hand_on, listening


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


class Proxy(Relay):
    """One listening port, and the connections through it.

    Attributes:
        met: pieces and connections that a toxic has done something to.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.toxic = WIRE
        self.met = 0

    def reset_all(self) -> int:
        """Reset every connection there is now; returns how many."""
        count = len(self.writers)
        for writer in list(self.writers):
            self.end(writer)
        return count

    def is_taken(self) -> bool:
        self.met += self.toxic.is_closed
        return not self.toxic.is_closed

    def way(self, writer: asyncio.StreamWriter, *, is_answer: bool) -> HandOn:
        """Do to each piece what the toxic of that moment says."""

        async def spoil(piece: bytes) -> None:
            toxic = self.toxic
            self.met += toxic is not WIRE
            if toxic.latency_s:
                await asyncio.sleep(toxic.latency_s)
            await (_answer if is_answer else _ask)(toxic, piece, writer)

        return spoil

    def end(self, writer: asyncio.StreamWriter) -> None:
        """Reset one side of a connection (RST)."""
        if writer.transport.is_closing():
            return
        plug: socket.socket = writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _ask(toxic: Toxic, piece: bytes, writer: asyncio.StreamWriter) -> None:
    if toxic.is_black_hole:
        return
    if toxic.reset_after is not None:
        await _hand_on(writer, piece[: toxic.reset_after], toxic.slice_bytes)
        raise Ended
    await _hand_on(writer, piece, toxic.slice_bytes)


async def _answer(toxic: Toxic, piece: bytes, writer: asyncio.StreamWriter) -> None:
    if toxic.is_corrupted:
        middle = len(piece) // 2
        piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
    await _hand_on(writer, piece, toxic.slice_bytes)
    if toxic.is_duplicated:
        await _hand_on(writer, piece, toxic.slice_bytes)
    if toxic.is_half_closed:
        writer.write_eof()
        raise Ended


async def _hand_on(writer: asyncio.StreamWriter, piece: bytes, size: int) -> None:
    for start in range(0, len(piece), size):
        await hand_on(writer, piece[start : start + size])


def proxy_before(host: str, port: int) -> AbstractAsyncContextManager[Proxy]:
    """Run a proxy before an address, and end it with its connections."""
    return listening(Proxy(host, port))
