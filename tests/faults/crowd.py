"""A crowd at the door: streams of requests at rates of their own, whether or not they are answered.

A process of its own, so that what it costs falls on nobody's clock. It reads one order a line on
standard input and answers each with one line: what came of every stream. A request is made ahead
as bytes; `KEY` in it is replaced by a key never used before. Latencies count from the moment a
request was due. It knows the few bytes of HTTP/1.1 that our own servers answer.

    python tests/faults/crowd.py streams.json
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

KEY = b"{a-key-never-used-before}"
GREETING = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TICK_S = 0.002
FINISH_WITHIN_S = 30.0
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]+)")


@dataclass(slots=True)
class Stream:
    """One kind of request under way, and what came of it.

    Attributes:
        per_second: how many are due; None: as many as there are connections, always.
        connections_max: open at once, all of them before the first request is due.
        is_once: each request is asked once; its answer counts however late it comes.
        hints: answers with 503 and Retry-After.
    """

    port: int
    requests: list[bytes]
    per_second: float | None
    connections_max: int
    is_once: bool = False
    connections: int = 0
    asked: int = 0
    due: int = 0
    is_over: bool = False
    statuses: dict[int, int] = field(default_factory=dict)
    hints: int = 0
    lost: int = 0
    answers: list[tuple[int, float]] = field(default_factory=list)
    idle: list[Client] = field(default_factory=list)
    late: deque[float] = field(default_factory=deque)
    prefix: bytes = field(default_factory=lambda: secrets.token_hex(8).encode())

    @property
    def in_flight(self) -> int:
        return self.connections - len(self.idle)

    def next_request(self) -> bytes:
        request = self.requests[self.asked % len(self.requests)]
        self.asked += 1
        # As long as the mark, so that no length has to be counted again.
        key = b"%b%09d" % (self.prefix, self.asked)
        return request.replace(KEY, key)

    async def connect(self) -> None:
        """Open every connection, and use it once: what the kernel alone has taken waits long for a
        busy server. `ask_due` opens those again that were lost."""
        clients = [await self._connected() for _ in range(self.connections_max)]
        await asyncio.gather(*(client.greet() for client in clients))
        self.idle.extend(clients)

    async def _connected(self) -> Client:
        self.connections += 1
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
        return client

    async def ask_due(self, elapsed_s: float) -> None:
        """Ask for everything that is due by now."""
        if self.per_second is None:
            wanted = self.connections_max - self.in_flight
        else:
            total = int(elapsed_s * self.per_second)
            wanted, self.due = total - self.due, total
        now = time.perf_counter()
        if self.is_once:
            wanted = min(wanted, len(self.requests) - self.asked)
        for _ in range(wanted):
            if self.idle:
                self.idle.pop().ask(now)
            elif self.connections < self.connections_max:
                (await self._connected()).ask(now)
            else:
                self.late.append(now)


class Client(asyncio.Protocol):
    """One connection that carries one request at a time."""

    __slots__ = ("due_at", "greeted", "is_asking", "received", "stream", "transport")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.transport: asyncio.Transport
        self.received = b""
        self.due_at = 0.0
        self.is_asking = False
        self.greeted: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, and are used like them.
        self.transport = cast(asyncio.Transport, transport)

    async def greet(self) -> None:
        """Ask whether the server lives, and wait until it answers."""
        self.greeted = asyncio.get_running_loop().create_future()
        self.transport.write(GREETING)
        await self.greeted
        self.greeted = None

    def ask(self, due_at: float) -> None:
        self.due_at = due_at
        self.is_asking = True
        self.transport.write(self.stream.next_request())

    def connection_lost(self, exc: Exception | None) -> None:
        stream = self.stream
        stream.connections -= 1
        if self.is_asking:
            stream.lost += 1
        elif self in stream.idle:
            stream.idle.remove(self)

    def data_received(self, data: bytes) -> None:
        data = self.received + data
        self.received = data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(data, 0, end)
        assert length is not None, "our servers say how long an answer is"
        if len(data) < end + 4 + int(length[1]):
            return
        self.received = b""
        if self.greeted is not None:
            self.greeted.set_result(None)
            return
        self.answered(int(data[9:12]), b"\r\nRetry-After:" in data[:end])

    def answered(self, status: int, has_hint: bool) -> None:
        stream = self.stream
        self.is_asking = False
        if not stream.is_over or stream.is_once:
            stream.statuses[status] = stream.statuses.get(status, 0) + 1
            stream.hints += has_hint and status == 503
            stream.answers.append((status, time.perf_counter() - self.due_at))
        if stream.is_over:
            self.transport.close()
        elif stream.per_second is None:
            self.ask(time.perf_counter())
        elif stream.late:
            self.ask(stream.late.popleft())
        else:
            stream.idle.append(self)


def _quantiles(latencies_s: list[float]) -> dict[str, float]:
    ordered = sorted(latencies_s)
    at = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    return {
        name: round(ordered[int(share * (len(ordered) - 1))] * 1000, 2) if ordered else 0.0
        for name, share in at.items()
    }


async def _run(order: dict[str, Any], requests: dict[str, list[bytes]]) -> dict[str, Any]:
    streams = {
        name: Stream(
            order["port"],
            requests[name],
            stream["per_second"],
            stream["connections"],
            stream.get("is_once", False),
        )
        for name, stream in order["streams"].items()
    }
    for stream in streams.values():
        await stream.connect()
    started = time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < order["seconds"]:
        for stream in streams.values():
            await stream.ask_due(elapsed_s)
        await asyncio.sleep(TICK_S)
    for stream in streams.values():
        stream.is_over = True
        stream.late.clear()
    for stream in streams.values():
        for client in stream.idle:
            client.transport.close()
    # What was asked is answered, so that nothing of one order falls into the next.
    deadline = time.perf_counter() + FINISH_WITHIN_S
    while any(stream.connections for stream in streams.values()):
        assert time.perf_counter() < deadline, "something was never answered"
        await asyncio.sleep(TICK_S)
    return {name: _told(stream, elapsed_s) for name, stream in streams.items()}


def _told(stream: Stream, seconds: float) -> dict[str, Any]:
    good = [spent_s for status, spent_s in stream.answers if status < 300]
    shed = [spent_s for status, spent_s in stream.answers if status == 503]
    return {
        "seconds": seconds,
        "asked": stream.asked,
        "statuses": stream.statuses,
        "hints": stream.hints,
        "lost": stream.lost,
        "good_per_second": len(good) / seconds,
        "good": _quantiles(good),
        "shed": _quantiles(shed),
    }


def main() -> None:
    """Carry out orders until standard input ends."""
    told = json.loads(Path(sys.argv[1]).read_text())
    requests = {name: [one.encode("latin-1") for one in many] for name, many in told.items()}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps({"streams": list(requests)}), flush=True)
        for line in sys.stdin:
            print(json.dumps(runner.run(_run(json.loads(line), requests))), flush=True)


if __name__ == "__main__":
    main()
