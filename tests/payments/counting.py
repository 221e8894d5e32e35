"""Wires that count what a worker says over them: a relay that cuts a stream into messages.

It changes nothing of what passes; it knows as much of each protocol as counting needs.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

from gateway.measuring.relay import HandOn, Relay, listening

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


class Wire(Relay):
    """One listening port before an address; `seen` counts messages towards it, by name."""

    def __init__(self, host: str, port: int, cut: Cut) -> None:
        super().__init__(host, port)
        self._cut = cut
        self.seen: Counter[str] = Counter()

    def way(self, writer: asyncio.StreamWriter, *, is_answer: bool) -> HandOn:
        """Count what goes towards the address; answers pass unseen."""
        hand_on_whole = super().way(writer, is_answer=is_answer)
        if is_answer:
            return hand_on_whole
        stream, own = bytearray(), Counter[str]()

        async def count(piece: bytes) -> None:
            stream.extend(piece)
            taken = 0
            for name, size in self._cut(stream, own):
                own[name] += 1
                self.seen[name] += 1
                taken += size
            del stream[:taken]
            await hand_on_whole(piece)

        return count


def counted(host: str, port: int, cut: Cut) -> AbstractAsyncContextManager[Wire]:
    """Run a wire before an address, and end it with its connections."""
    return listening(Wire(host, port, cut))
