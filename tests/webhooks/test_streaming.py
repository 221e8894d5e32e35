"""The server's side of a stream: it ends with its token, its client, and its process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from gateway.core import Core
from gateway.kernel.clock import system_clock
from gateway.kernel.http import front as fronts
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.front import HttpFront
from gateway.kernel.http.messages import Request, Stream
from gateway.kernel.http.routes import Route, RouteTable
from gateway.kernel.http.server import make_server
from gateway.kernel.metrics import Metrics
from gateway.webhooks.feed import Feed, Listener, Told
from gateway.webhooks.routes import routes


@dataclass
class Source:
    """A stream of a test's own, and what became of it."""

    fault: Exception | None = None
    size: int = 10
    is_open: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: Request) -> Stream:
        return Stream(self._chunks(), "text/event-stream", self.ended.set)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        self.is_open = True
        try:
            while True:
                yield b"x" * self.size
                if self.fault is not None:
                    raise self.fault
                await asyncio.sleep(0.01)
        finally:
            self.is_open = False


@dataclass
class Served:
    """A front with one route."""

    front: HttpFront
    url: str
    runner: web.ServerRunner


@asynccontextmanager
async def serving(source: Source) -> AsyncIterator[Served]:
    route = Route(
        method="GET",
        path="/stream",
        handler=source.answer,
        summary="",
        tag="",
        scope=None,
        answers={200: None},
        media_type="text/event-stream",
    )
    front = HttpFront(
        RouteTable([route]),
        cast(Core, None),
        system_clock,
        Metrics(),
        body_bytes_max=1,
        in_flight_max=1,
    )
    runner = web.ServerRunner(make_server(front), shutdown_timeout=30.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Served(front, f"http://127.0.0.1:{runner.addresses[0][1]}/stream", runner)
    finally:
        await runner.cleanup()


async def test_a_process_that_stops_ends_its_streams() -> None:
    """At once and properly: the client reads to the end, the process need not wait for it."""
    source = Source()
    async with serving(source) as served, aiohttp.ClientSession() as http:
        async with http.get(served.url) as reply:
            assert await reply.content.readexactly(10) == b"x" * 10
            began = time.monotonic()
            served.front.end_streams()
            await reply.content.read()
        await served.runner.cleanup()
        assert time.monotonic() - began < 5, "it waited for its streams"
        assert source.ended.is_set()
        assert not source.is_open


async def test_a_client_that_goes_away_ends_its_stream() -> None:
    source = Source()
    async with serving(source) as served, aiohttp.ClientSession() as http:
        async with http.get(served.url) as reply:
            await reply.content.readexactly(10)
            reply.close()
        await asyncio.wait_for(source.ended.wait(), 5)
        assert not source.is_open


async def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not take is not kept for it for ever."""
    monkeypatch.setattr(fronts, "STREAM_WRITE_TIMEOUT_S", 0.3)
    source = Source(size=1_000_000)
    async with serving(source) as served:
        port = int(served.url.split(":")[2].split("/")[0])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: oqim\r\n\r\n")
        await asyncio.wait_for(source.ended.wait(), 10)
        assert not source.is_open
        writer.transport.abort()


async def test_a_fault_breaks_the_answer_off() -> None:
    """It was begun as a success: the client must not take it for whole."""
    source = Source(fault=ValueError("a fault"))
    async with serving(source) as served, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            async with http.get(served.url) as reply:
                await reply.content.read()
        assert source.ended.is_set()


async def test_open_streams_take_no_place_of_requests() -> None:
    """One request in flight is permitted, and two streams are open."""
    source = Source()
    async with (
        serving(source) as served,
        aiohttp.ClientSession() as http,
        http.get(served.url) as first,
        http.get(served.url) as second,
    ):
        assert (first.status, second.status) == (200, 200)
        served.front.end_streams()


# The token --------------------------------------------------------------------------------------


class Quiet:
    """A feed in which nothing happens but signs of life."""

    def __init__(self) -> None:
        self.left: list[Listener] = []

    async def join(self, subject: str, after: object) -> Listener:
        return Listener(subject, ("1", 1), ("1", 1))

    def leave(self, listener: Listener) -> None:
        self.left.append(listener)

    async def told(self, listener: Listener) -> AsyncGenerator[Told, None]:
        while True:
            yield Told(("1", 1))
            await asyncio.sleep(0.05)


async def test_a_stream_ends_when_its_token_does() -> None:
    """Not a heartbeat later."""
    now_ms = 1_795_000_000_000
    feed = Quiet()
    table = RouteTable(
        routes(
            endpoints=cast(Any, None),
            feed=cast(Feed, feed),
            core=cast(Core, SimpleNamespace(authorize=lambda *_: None)),
            clock=lambda: now_ms,
            cursors=Cursors(b"k" * 32),
        )
    )
    found = table.find("GET", "/v1/events")
    assert found is not None
    assert not isinstance(found, list)
    request = Request("GET", "/v1/events", (), "", b"", "req_1", now_ms)
    request.claims = cast(Any, SimpleNamespace(sub="usr_1", exp=now_ms // 1_000 + 1))
    began = time.monotonic()
    stream = await found.route.handler(request)
    assert isinstance(stream, Stream)
    blocks = [chunk async for chunk in stream.chunks]
    took_s = time.monotonic() - began
    stream.on_end()
    assert 0.9 < took_s < 2.0
    assert len(blocks) > 5
    assert len(feed.left) == 1
