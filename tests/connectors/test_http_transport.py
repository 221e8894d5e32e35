"""The HTTP transport against servers that misbehave in one way each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from connectors.transport.breaker import BreakerPolicy
from connectors.transport.faults import NotSent, OutcomeUnknown, TransportFault
from connectors.transport.http import HttpPolicy, HttpTransport
from tests.connectors.cards import closed_port

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handle) -> AsyncIterator[URL]:
    """Serve each connection with `handle`; the URL to reach it."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield URL(f"http://127.0.0.1:{port}/")
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


def answering(answer: bytes, seen: list[bytes] | None = None) -> Handle:
    """Answer each request on a connection with these bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            message = await request(reader)
            if seen is not None:
                seen.append(message)
            writer.write(answer)
            await writer.drain()

    return handle


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def transport(**policy: object) -> AsyncIterator[HttpTransport]:
    values = {"timeout_ms": 400, "connect_timeout_ms": 200, **policy}
    made = HttpTransport(HttpPolicy(**values), {"X-Test": "1"})  # type: ignore[arg-type]  # by name
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def fault(made: HttpTransport, url: URL) -> TransportFault:
    with pytest.raises(TransportFault) as raised:
        await made.post(url, b"{}", deadline=made.deadline())
    return raised.value


async def test_a_connection_is_kept_and_headers_are_ours() -> None:
    """Two posts travel on one connection, without agent, cookies or offers to compress."""
    seen: list[bytes] = []
    connections = 0
    inner = answering(reply(b"fine", "200 OK", "Set-Cookie: a=b"), seen)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await inner(reader, writer)

    async with server(handle) as url, transport() as made:
        for _ in range(2):
            answer = await made.post(url, b"{}", deadline=made.deadline())
            assert (answer.status, answer.body) == (200, b"fine")
            assert "fine" not in repr(answer)
    assert connections == 1
    assert b"cookie" not in seen[1].lower()
    assert b"user-agent" not in seen[1].lower()
    assert b"accept-encoding: identity" in seen[1].lower()


async def test_a_refused_connection_is_not_sent() -> None:
    """Nobody listens: no byte left."""
    async with transport() as made:
        raised = await fault(made, URL(f"http://127.0.0.1:{closed_port()}/"))
    assert isinstance(raised, NotSent)


async def test_silence_is_unknown() -> None:
    """A server that reads and says nothing: a byte left, and the deadline passed."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.Event().wait()

    async with server(handle) as url, transport() as made:
        raised = await fault(made, url)
    assert isinstance(raised, OutcomeUnknown)
    assert raised.code == "timeout"


@pytest.mark.fault(rows=[26, 27], what="answers that cannot be used")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "connection-lost"),
        (b"\x00\xff not http at all\r\n\r\n", "connection-lost"),
        (reply(b"x" * 2_000), "reply-too-large"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"400\r\n" + b"x" * 1_024 + b"\r\n") * 4
            + b"0\r\n\r\n",
            "reply-too-large",
        ),
        (reply(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"), "reply-encoded"),
    ],
)
async def test_an_unusable_answer_is_unknown(answer: bytes, code: str) -> None:
    """Cut short, no HTTP, too large or compressed: sent, and nothing known."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)
        await writer.drain()

    async with server(handle) as url, transport(reply_size_max=1_024) as made:
        raised = await fault(made, url)
    assert isinstance(raised, OutcomeUnknown)
    assert raised.code == code


async def test_a_redirect_is_not_followed() -> None:
    """A payment goes where it was sent, or nowhere."""
    seen: list[bytes] = []
    answer = reply(b"", "307 Temporary Redirect", "Location: /elsewhere")
    async with server(answering(answer, seen)) as url, transport() as made:
        assert (await made.post(url, b"{}", deadline=made.deadline())).status == 307
    assert len(seen) == 1


async def test_a_dropped_keep_alive_connection_is_not_retried() -> None:
    """A post on a connection that dies may have been read: it is not sent a second time."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(reply(b"fine"))
        await writer.drain()
        seen.append(await request(reader))

    async with server(handle) as url, transport() as made:
        await made.post(url, b"{}", deadline=made.deadline())
        raised = await fault(made, url)
    assert isinstance(raised, OutcomeUnknown)
    assert len(seen) == 2


async def test_the_breaker_opens_and_says_not_sent() -> None:
    """After its failures nothing is sent, and the transport is not ready."""
    async with transport(breaker=BreakerPolicy(failures_max=2, open_ms=60_000)) as made:
        url = URL(f"http://127.0.0.1:{closed_port()}/")
        assert made.is_ready()
        codes = [(await fault(made, url)).code for _ in range(3)]
        assert codes == ["connect-failed", "connect-failed", "breaker-open"]
        assert not made.is_ready()


async def test_too_many_at_once_are_not_sent() -> None:
    """One in flight, none waiting: the second is told at once."""
    arrived, answer_now = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        arrived.set()
        await answer_now.wait()
        writer.write(reply(b"fine"))
        await writer.drain()

    async with server(handle) as url, transport(in_flight_max=1, queue_size_max=0) as made:
        first = asyncio.create_task(made.post(url, b"{}", deadline=made.deadline()))
        await arrived.wait()
        raised = await fault(made, url)
        assert isinstance(raised, NotSent)
        assert raised.code == "queue-full"
        answer_now.set()
        assert (await first).body == b"fine"


async def test_closing_waits_for_what_is_in_flight() -> None:
    """An answer that is on its way is still taken; afterwards nothing is sent."""
    arrived = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        arrived.set()
        await asyncio.sleep(0.05)
        writer.write(reply(b"fine"))
        await writer.drain()

    async with server(handle) as url, transport() as made:
        first = asyncio.create_task(made.post(url, b"{}", deadline=made.deadline()))
        await arrived.wait()
        await made.close()
        assert (await first).body == b"fine"
        assert isinstance(await fault(made, url), NotSent)


async def test_a_passed_deadline_is_not_sent() -> None:
    """An operation out of time sends nothing more."""
    seen: list[bytes] = []
    async with server(answering(reply(b"fine"), seen)) as url, transport() as made:
        with pytest.raises(NotSent, match="deadline"):
            await made.post(url, b"{}", deadline=asyncio.get_running_loop().time() - 1)
    assert not seen


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"fine"), (200, b"fine")),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(b"fine"), (200, b"fine")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nfi\r\n2\r\nne\r\n0\r\n"
            b"Trailer: x\r\n\r\n",
            (200, b"fine"),
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (reply(b"moved", "302 Found", "Location: /x"), (302, b"moved")),
        (reply(b""), (200, b"")),
    ],
    ids=["continue", "hints", "chunked", "no content", "redirect", "empty"],
)
async def test_each_form_of_answer_is_read(answer: bytes, expected: tuple[int, bytes]) -> None:
    """Twice over one connection: nothing of the first is left before the second."""
    seen: list[bytes] = []
    async with server(answering(answer, seen)) as url, transport() as made:
        for _ in range(2):
            got = await made.post(url, b"{}", deadline=made.deadline())
            assert (got.status, got.body) == expected
    assert len(seen) == 2


async def test_an_answer_may_end_with_its_connection() -> None:
    """Without a length the end of the connection is the end of the body; it is not used again."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfi")
        await writer.drain()
        writer.write(b"ne")

    async with server(handle) as url, transport() as made:
        for _ in range(2):
            got = await made.post(url, b"{}", deadline=made.deadline())
            assert (got.status, got.body) == (200, b"fine")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nfine\r\n0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["a huge head", "two ends", "two lengths", "an upgrade", "a wrong chunk", "no status"],
)
async def test_what_is_not_an_answer_is_unknown(answer: bytes) -> None:
    """A byte has left, and nobody can say what became of it."""
    async with server(answering(answer)) as url, transport(reply_size_max=1 << 20) as made:
        raised = await fault(made, url)
    assert isinstance(raised, OutcomeUnknown)


async def test_a_second_answer_is_not_kept_for_the_next_message() -> None:
    """What was not asked for ends its connection: the next message goes over another."""
    answers = iter([reply(b"one") + reply(b"stray"), reply(b"two")])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(next(answers))
            await writer.drain()

    async with server(handle) as url, transport() as made:
        first = await made.post(url, b"{}", deadline=made.deadline())
        second = await made.post(url, b"{}", deadline=made.deadline())
    assert (first.body, second.body) == (b"one", b"two")


async def test_what_comes_while_nothing_is_asked_is_not_an_answer() -> None:
    """A late stray answer on an idle connection is never taken for the next one."""
    strayed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(reply(b"one"))
        await writer.drain()
        if not strayed.is_set():
            await asyncio.sleep(0.05)
            writer.write(reply(b"stray"))
            await writer.drain()
            strayed.set()

    async with server(handle) as url, transport() as made:
        assert (await made.post(url, b"{}", deadline=made.deadline())).body == b"one"
        await strayed.wait()
        assert (await made.post(url, b"{}", deadline=made.deadline())).body == b"one"


async def test_a_connection_that_was_idle_for_too_long_is_not_used() -> None:
    """It may be closing at the other side: a message over it would be in doubt."""
    connections = 0
    inner = answering(reply(b"fine"))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await inner(reader, writer)

    async with server(handle) as url, transport(keepalive_timeout_ms=20) as made:
        await made.post(url, b"{}", deadline=made.deadline())
        await asyncio.sleep(0.05)
        await made.post(url, b"{}", deadline=made.deadline())
    assert connections == 2


async def test_answers_go_to_who_asked() -> None:
    """Many at once, answered in any order: each over a connection of its own for as long."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            message = await request(reader)
            body = message.partition(b"\r\n\r\n")[2]
            await asyncio.sleep(int(body) % 7 / 1_000)
            writer.write(reply(body))
            await writer.drain()

    async with server(handle) as url, transport(timeout_ms=5_000, connect_timeout_ms=4_000) as made:

        async def asked(number: int) -> bytes:
            body = str(number).encode()
            return (await made.post(url, body, deadline=made.deadline())).body

        answers = await asyncio.gather(*(asked(number) for number in range(500)))
    assert [str(number).encode() for number in range(500)] == answers


async def test_whoever_is_cancelled_leaves_no_answer_to_the_next() -> None:
    """Its connection is closed with it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            message = await request(reader)
            if message.endswith(b"slow"):
                await asyncio.sleep(0.1)
            writer.write(reply(message[-4:]))
            await writer.drain()

    async with server(handle) as url, transport() as made:
        slow = asyncio.create_task(made.post(url, b"slow", deadline=made.deadline()))
        await asyncio.sleep(0.02)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert (await made.post(url, b"fast", deadline=made.deadline())).body == b"fast"


async def test_a_header_cannot_become_two() -> None:
    """A value with a line end is refused before anything is sent."""
    async with server(answering(reply(b"fine"))) as url, transport() as made:
        with pytest.raises(ValueError, match="line end"):
            await made.post(url, b"", deadline=made.deadline(), headers={"X-A": "a\r\nX-B: b"})
