"""Turning away over a socket: cheap, complete, and never at the cost of another request's bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from gateway.kernel.clock import system_clock
from gateway.kernel.http.admission import Door, DoorPolicy, Priority
from gateway.kernel.http.front import HttpFront
from gateway.kernel.http.glance import Glance, glance
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.routes import Route, RouteTable
from gateway.kernel.http.server import make_server
from gateway.kernel.http.shed import RETRY_AFTER_S
from gateway.kernel.metrics import Metrics
from tests.house import until
from tests.kernel.front import Answer, assert_problem, make_core, read_answer

BODY = b'{"amount": 1}'
PAY = b"POST /v1/pay HTTP/1.1\r\nHost: oqim\r\nContent-Length: 13\r\n\r\n" + BODY


# A glance -----------------------------------------------------------------------------------


def request(*lines: bytes, first: bytes = b"POST /v1/pay HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([first, b"Host: oqim", *lines]) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PAY, Glance("POST", "/v1/pay", b"")),
        (request(b"host: a", first=b"GET /v1/a?b=c HTTP/1.1"), Glance("GET", "/v1/a", b"")),
        (request(b"X-Request-Id: Abc-1._"), Glance("POST", "/v1/pay", b"Abc-1._")),
        (request(b"x-request-id:  b "), Glance("POST", "/v1/pay", b"b")),
        (request(b"X-Request-Id: <script>"), Glance("POST", "/v1/pay", b"")),
        (request(b"Connection: keep-alive"), Glance("POST", "/v1/pay", b"")),
        (request(b"CONTENT-LENGTH:2", body=b"{}"), Glance("POST", "/v1/pay", b"")),
        (request(b"Cookie: a", b"User-Agent: b", b"TE: trailers"), Glance("POST", "/v1/pay", b"")),
    ],
)
def test_a_plain_whole_request_is_recognised(data: bytes, expected: Glance) -> None:
    assert expected == glance(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PAY[:-1],
        PAY + b"G",
        PAY + PAY,
        PAY[:30],
        request(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"{}"),
        request(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
        request(b"Content-Length: 2", b"content-length: 0", body=b"{}"),
        request(b"Content-Length: +2", body=b"{}"),
        request(b"Content-Length: 0x2", body=b"{}"),
        request(b"Content-Length: 2, 2", body=b"{}"),
        request("Content-Length: \u0662".encode(), body=b"{}"),
        request(b"Content-Length : 2", body=b"{}"),
        request(b"Content-Length:\t2", b" 0", body=b"{}"),
        request(b"Content-Length: 99999999", body=b"{}"),
        request(b"X: a\nContent-Length: 2", body=b"{}"),
        request(b"X: a\nTransfer-Encoding: chunked"),
        request(b" folded: 1"),
        request(b"Expect: 100-continue", b"Content-Length: 2", body=b"{}"),
        request(b"Connection: close"),
        request(b"Connection: keep-alive, upgrade", b"Upgrade: h2c"),
        request(b"Upgrade: websocket"),
        request(first=b"POST /v1/pay HTTP/1.0"),
        request(first=b"POST  /v1/pay HTTP/1.1"),
        request(first=b"POST http://oqim/v1/pay HTTP/1.1"),
        request(first=b"POST /v1/p%61y HTTP/1.1"),
        request(first=b"POST /v1/\xff HTTP/1.1"),
        request(first=b"post /v1/pay HTTP/1.1"),
        b"\r\n" + PAY,
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    """An end that two readers could see at two places is not seen here at all."""
    assert glance(data) is None


# Over a socket ------------------------------------------------------------------------------


@dataclass(slots=True)
class Place:
    """A front with a door of its own, and what its handlers saw."""

    port: int
    door: Door
    front: HttpFront
    seen: list[Request]
    release: asyncio.Event

    def fill(self) -> None:
        """Have everything inside that may be, and one more of it turned away."""
        self.inside(self.door.limit)
        assert not self.door.admits(Priority.SETTLING)

    def inside(self, count: int) -> None:
        """Have so many inside that settle."""
        self.door.inside[Priority.SETTLING] = count

    def empty(self) -> None:
        self.inside(0)


def _routes(seen: list[Request], release: asyncio.Event) -> list[Route]:
    async def answer(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"{}")

    async def wait(request: Request) -> Response:
        seen.append(request)
        await release.wait()
        return Response(200, b"{}")

    async def chunks() -> AsyncGenerator[bytes, None]:
        while not release.is_set():
            yield b"x"
            await asyncio.sleep(0.01)

    async def stream(request: Request) -> Stream:
        seen.append(request)
        return Stream(chunks(), "text/event-stream", lambda: None)

    handlers = (
        ("GET", "/livez", answer, Priority.SYSTEM),
        ("POST", "/v1/callbacks/{connector}", answer, Priority.SETTLING),
        ("POST", "/v1/pay", answer, Priority.PAYMENT),
        ("GET", "/v1/wait", wait, Priority.READ),
        ("GET", "/v1/events", stream, Priority.READ),
        ("GET", "/v1/report", answer, Priority.REPORT),
    )
    return [
        Route(
            method=method,
            path=path,
            handler=handler,
            summary=path,
            tag="t",
            scope=None,
            answers={200: None},
            priority=priority,
        )
        for method, path, handler, priority in handlers
    ]


@asynccontextmanager
async def opened() -> AsyncIterator[Place]:
    seen: list[Request] = []
    release = asyncio.Event()
    door = Door(DoorPolicy(inside_first=10, inside_min=10))
    front = HttpFront(
        RouteTable(_routes(seen, release)),
        make_core(),
        system_clock,
        Metrics(),
        body_bytes_max=1_000,
        door=door,
    )
    runner = web.ServerRunner(make_server(front), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Place(runner.addresses[0][1], door, front, seen, release)
    finally:
        release.set()
        front.end_streams()
        await runner.cleanup()


class Caller:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *pieces: bytes) -> Answer:
        """Send pieces, each when the server has had time for the one before; read one answer."""
        async with asyncio.timeout(5):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(0.02)
                self.writer.write(piece)
                await self.writer.drain()
            return await read_answer(self.reader)


@asynccontextmanager
async def calling(place: Place) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


async def test_the_quick_answer_is_the_one_of_the_long_way() -> None:
    """Turned away before or after HTTP was parsed: the same answer, but for the wait it names."""
    async with opened() as place, calling(place) as caller:
        place.fill()
        quick = await caller.ask(request(b"X-Request-Id: mine"))
        long = await caller.ask(request(b"X-Request-Id: mine", b"Expect: nothing"))
        for answer in (quick, long):
            assert_problem(answer, "overloaded")
            assert answer.body["request_id"] == "mine"
            assert int(answer.headers.pop("retry-after")) in RETRY_AFTER_S
            answer.headers.pop("date", None)
        assert quick == long
        assert place.seen == []


async def test_the_connection_is_kept_and_serves_again() -> None:
    """Nothing of what was turned away is left in it."""
    async with opened() as place, calling(place) as caller:
        assert (await caller.ask(PAY)).status == 200
        place.fill()
        for _ in range(3):
            assert_problem(await caller.ask(PAY), "overloaded")
        place.empty()
        for _ in range(3):
            assert (await caller.ask(PAY)).status == 200
        assert [one.body for one in place.seen] == [BODY] * 4
        assert (sum(place.door.inside), place.door.in_flight) == (0, 0)


@pytest.mark.parametrize(
    "pieces",
    [
        [PAY[:9], PAY[9:]],
        [PAY[:-5], PAY[-5:]],
        [PAY[:40], PAY[40:]],
        [request(b"Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n\r\n"],
        # Its body is a request, as plain as any.
        [request(b"Content-Length: %d" % len(PAY)), PAY],
        # A header that began before is what looks like a request.
        [b"POST /v1/pay HTTP/1.1\r\nX: ", PAY],
    ],
)
async def test_what_comes_in_pieces_is_one_request(pieces: list[bytes]) -> None:
    """Pieces that look like requests of their own are not answered as such, let in or not."""
    async with opened() as place, calling(place) as caller:
        place.fill()
        assert_problem(await caller.ask(*pieces), "overloaded")
        place.empty()
        assert (await caller.ask(PAY)).status == 200, "one answer came, and the next is the next's"
        assert len(place.seen) == 1
        answer = await caller.ask(*pieces)
        assert answer.status == 200
        assert (await caller.ask(PAY)).status == 200
        assert len(place.seen) == 3


async def test_answers_keep_their_order() -> None:
    """What comes while an answer is awaited waits for its turn, though it could be refused now."""
    async with opened() as place, calling(place) as caller:
        place.fill()
        place.empty()
        assert place.door.is_pressed
        caller.writer.write(request(first=b"GET /v1/wait HTTP/1.1"))
        await until(lambda: place.seen, within_s=5)
        place.fill()
        caller.writer.write(PAY)
        await asyncio.sleep(0.05)
        place.release.set()
        async with asyncio.timeout(5):
            assert (await read_answer(caller.reader)).status == 200
            assert_problem(await read_answer(caller.reader), "overloaded")


async def test_health_is_never_turned_away() -> None:
    async with opened() as place, calling(place) as caller:
        place.fill()
        for _ in range(2):
            assert (await caller.ask(request(first=b"GET /livez HTTP/1.1"))).status == 200


async def test_each_kind_by_its_share() -> None:
    """Six of ten inside: no report; callbacks by a template's path come in up to the last place."""
    async with opened() as place, calling(place) as caller:
        place.fill()
        place.inside(6)
        asked = [
            (b"GET /v1/report HTTP/1.1", 503),
            (b"GET /v1/wait HTTP/1.1", 503),
            (b"POST /v1/pay HTTP/1.1", 200),
            (b"POST /v1/callbacks/visa HTTP/1.1", 200),
        ]
        for first, status in asked:
            assert status == (await caller.ask(request(first=first))).status, first
        place.inside(9)
        for first, status in [(asked[2][0], 503), (asked[3][0], 200)]:
            assert status == (await caller.ask(request(first=first))).status, first
        assert sum(place.door.inside) == 9


async def test_unknown_paths_are_answered_as_ever() -> None:
    async with opened() as place, calling(place) as caller:
        place.fill()
        place.empty()
        for _ in range(2):
            answer = await caller.ask(request(first=b"GET /v1/nothing HTTP/1.1"))
            assert_problem(answer, "not-found")


async def test_a_stream_takes_no_place() -> None:
    """It is in flight until it begins, not for as long as it lasts."""
    async with opened() as place, calling(place) as caller:
        caller.writer.write(request(first=b"GET /v1/events HTTP/1.1"))
        async with asyncio.timeout(5):
            await caller.reader.readuntil(b"x")
        assert (sum(place.door.inside), place.door.in_flight) == (0, 0)


async def test_a_client_that_leaves_leaves_nothing() -> None:
    """Let in by its first bytes, and gone before it was looked at: no place stays taken."""
    async with opened() as place:
        place.fill()
        place.empty()
        for _ in range(50):
            async with calling(place) as caller:
                caller.writer.write(PAY)
        async with calling(place) as caller:
            assert (await caller.ask(PAY)).status == 200
        assert (sum(place.door.inside), place.door.in_flight) == (0, 0)
