"""Two doors, one answer: bytes are answered alike with and without aiohttp's parser.

Each case is sent to two fronts that differ in this alone, and what comes back is compared, byte by
byte but for dates and ids, until the connection is silent or closed.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core import HEADERS_MAX, Plain, RawAnswers, Told, read_plain
from gateway.kernel.http import server
from tests.kernel.front import BODY_BYTES_MAX, Front, read_answer, running_front

OK = b'{"text":"a"}'
FIRST = b"POST /v1/echo HTTP/1.1"
_CHANGING = re.compile(rb"(?i)(?:\r\nDate: [^\r]*|req_[0-9A-Z]+)")
# Longer than most answers take, and than any; shorter than an end is waited for.
SILENT_AFTER_S = (0.2, 0.7)
EXAMPLES = int(os.environ.get("OQIM_EXAMPLES", "60"))


def request(
    *headers: bytes, body: bytes = OK, first: bytes = FIRST, length: bytes | None = None
) -> bytes:
    """Return a request with a Content-Length, `length` in place of the true one."""
    counted = str(len(body)).encode() if length is None else length
    lines = [first, b"Host: oqim", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*lines, b"Content-Length: " + counted]) + b"\r\n\r\n" + body


PLAIN = request()


@dataclass(slots=True)
class Doors:
    """The same front, twice."""

    parsed: Front
    plain: Front

    async def answers(self, pieces: Sequence[bytes]) -> tuple[bytes, bytes]:
        """Send the pieces to both, one after another; return what each says.

        One that is late is not another answer: where they differ they are listened to for longer.
        """
        for silent_after_s in SILENT_AFTER_S:
            parsed, plain = await asyncio.gather(
                _said(self.parsed, pieces, silent_after_s),
                _said(self.plain, pieces, silent_after_s),
            )
            if parsed == plain:
                break
        return parsed, plain


async def _said(front: Front, pieces: Sequence[bytes], silent_after_s: float) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    said = b""
    try:
        for index, piece in enumerate(pieces):
            if index:
                # Later pieces are read apart from the ones before.
                await asyncio.sleep(0.01)
            writer.write(piece)
            await writer.drain()
        while True:
            async with asyncio.timeout(silent_after_s):
                more = await reader.read(65_536)
            if not more:
                said += b"<closed>"
                break
            said += more
    except TimeoutError:
        said += b"<open>"
    except ConnectionError:
        said += b"<closed>"
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return b"\n".join(sorted_heads(_CHANGING.sub(b"", said)))


def sorted_heads(said: bytes) -> list[bytes]:
    """Return lines; headers may come in any order (RFC 9110, 5.3)."""
    lines: list[bytes] = []
    for block in said.split(b"\r\n\r\n"):
        first, *rest = block.split(b"\r\n")
        lines += [first, *sorted(rest)]
    return lines


@pytest.fixture(scope="module")
async def doors() -> AsyncIterator[Doors]:
    """Both doors."""
    async with running_front() as parsed, running_front(is_plain=True) as plain:
        yield Doors(parsed, plain)


CASES: dict[str, list[bytes]] = {
    "plain": [PLAIN],
    "plain, twice": [PLAIN, PLAIN],
    "plain, pipelined": [PLAIN + PLAIN + PLAIN],
    "plain, pipelined across pieces": [PLAIN + PLAIN[:40], PLAIN[40:] + PLAIN],
    "head and body apart": [PLAIN[: -len(OK)], OK],
    "in two at the first line": [PLAIN[:10], PLAIN[10:]],
    "in two in a header": [PLAIN[:40], PLAIN[40:]],
    "byte by byte": [PLAIN[i : i + 1] for i in range(len(PLAIN))],
    "an id of its own": [request(b"X-Request-Id: mine-1")],
    "an id that is unfit": [request(b"X-Request-Id: m\xc3\xafne")],
    "an id twice": [request(b"X-Request-Id: a", b"X-Request-Id: b")],
    "a query": [request(first=b"POST /v1/echo?a=1 HTTP/1.1")],
    "an empty query": [request(first=b"POST /v1/echo? HTTP/1.1")],
    "a fragment": [request(first=b"POST /v1/echo#a HTTP/1.1")],
    "a path in escapes": [request(first=b"POST /v1/%65cho HTTP/1.1")],
    "a path with dots": [request(first=b"POST /v1/../v1/echo HTTP/1.1")],
    "an absolute target": [request(first=b"POST http://oqim/v1/echo HTTP/1.1")],
    "HTTP/1.0": [request(first=b"POST /v1/echo HTTP/1.0")],
    "HTTP/2.0": [request(first=b"POST /v1/echo HTTP/2.0")],
    "two spaces": [request(first=b"POST  /v1/echo HTTP/1.1")],
    "a tab": [request(first=b"POST\t/v1/echo HTTP/1.1")],
    "another method": [request(first=b"PUT /v1/echo HTTP/1.1")],
    "lower case": [request(first=b"post /v1/echo HTTP/1.1")],
    "a line before": [b"\r\n" + PLAIN],
    "a bare LF before": [b"\n" + PLAIN],
    "bare LFs": [PLAIN.replace(b"\r\n", b"\n")],
    "one bare LF": [PLAIN.replace(b"oqim\r\n", b"oqim\n")],
    "a bare CR": [request(b"X-A: a\rb")],
    "a NUL": [request(b"X-A: a\x00b")],
    "a folded header": [request(b"X-A: a\r\n b")],
    "a header without a colon": [request(b"X-A")],
    "a header without a name": [request(b": a")],
    "a space before the colon": [request(b"X-A : a")],
    "a space in the name": [request(b"X A: a")],
    "an empty value": [request(b"X-A:")],
    "spaces around": [request(b"X-A: \t a b \t")],
    "Latin letters": [request(b"X-A: caf\xe9")],
    "DEL": [request(b"X-A: a\x7fb")],
    "no host": [PLAIN.replace(b"Host: oqim\r\n", b"")],
    "two hosts": [request(b"Host: other")],
    "two hosts, alike": [request(b"HOST: oqim")],
    "two lengths": [request(b"Content-Length: 12")],
    "two lengths that differ": [request(b"content-length: 3")],
    "a list of lengths": [request(length=b"12, 12")],
    "a signed length": [request(length=b"+12")],
    "a negative length": [request(length=b"-12")],
    "a length in hex": [request(length=b"0xc")],
    "zeros before a length": [request(length=b"0012")],
    "an underscore in a length": [request(length=b"1_2")],
    "an empty length": [request(length=b"")],
    "a length of blanks": [request(length=b" 12 ")],
    "a length of Arabic digits": [request(length="١٢".encode())],
    "a huge length": [request(length=b"9" * 30)],
    "a length too short": [request(length=b"5")],
    "a length too long": [request(length=b"500")],
    "a body over the bound": [request(body=b"a" * (BODY_BYTES_MAX + 1))],
    "a body at the bound": [request(body=b" " * (BODY_BYTES_MAX - len(OK)) + OK)],
    "no body": [request(body=b"")],
    "no length": [FIRST + b"\r\nHost: oqim\r\n\r\n"],
    "chunked": [
        FIRST + b"\r\nHost: oqim\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
        b"\r\n\r\nc\r\n" + OK + b"\r\n0\r\n\r\n"
    ],
    "chunked and counted": [request(b"Transfer-Encoding: chunked")],
    "chunked, in disguise": [request(b"Transfer-Encoding: xchunked")],
    "chunked, spaced": [request(b"Transfer-Encoding : chunked")],
    "chunked, after a tab": [request(b"Transfer-Encoding:\tchunked")],
    "identity": [request(b"Transfer-Encoding: identity")],
    "smuggled behind a length": [request(length=b"0", body=b"GET /livez HTTP/1.1\r\nA: b\r\n\r\n")],
    "smuggled into a body": [request(body=PLAIN)],
    "smuggled behind a head that goes on": [b"GET /v1/any-token HTTP/1.1\r\nX: ", PLAIN],
    "smuggled behind a head": [b"GET /v1/any-token HTTP/1.1\r\nHost: oqim\r\nX: y\r\n", PLAIN],
    "smuggled behind a body": [request(length=b"200"), PLAIN],
    "gzip": [request(b"Content-Encoding: gzip")],
    "an encoding, empty": [request(b"Content-Encoding:")],
    "expect": [request(b"Expect: 100-continue")],
    "expect something else": [request(b"Expect: 200-ok")],
    "upgrade": [request(b"Upgrade: websocket", b"Connection: upgrade")],
    "h2c": [request(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings")],
    "keep-alive": [request(b"Connection: keep-alive"), PLAIN],
    "close": [request(b"Connection: close"), PLAIN],
    "close, in capitals": [request(b"Connection: CLOSE")],
    "close among others": [request(b"Connection: keep-alive, close")],
    "a trailer": [request(b"Trailer: Expires")],
    "te": [request(b"TE: trailers")],
    "accept json": [request(b"Accept: application/json")],
    "accept anything": [request(b"Accept: */*")],
    "accept html": [request(b"Accept: text/html")],
    "accept html and anything": [request(b"Accept: text/html, */*;q=0.1")],
    "accept nothing": [request(b"Accept:")],
    "a deadline": [request(b"Deadline-Ms: 5000")],
    "a deadline past": [request(b"Deadline-Ms: 0")],
    "a deadline that is none": [request(b"Deadline-Ms: soon")],
    "a wrong content type": [
        FIRST + b"\r\nHost: oqim\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
    ],
    "no content type": [FIRST + b"\r\nHost: oqim\r\nContent-Length: 2\r\n\r\n{}"],
    "no JSON": [request(body=b"nothing")],
    "an unknown member": [request(body=b'{"text":"a","more":1}')],
    "a long header": [request(b"X-A: " + b"a" * 7_000)],
    "a header over the bound": [request(b"X-A: " + b"a" * 8_200)],
    "many headers": [request(*(b"X-%d: a" % one for one in range(HEADERS_MAX)))],
    "too many headers": [request(*(b"X-%d: a" % one for one in range(140)))],
    "a head that does not end": [FIRST + b"\r\nHost: oqim\r\n" + b"X-A: a\r\n" * 3_000],
    "a fault of ours": [request(first=b"POST /v1/crash HTTP/1.1")],
    "something is away": [request(first=b"POST /v1/away HTTP/1.1")],
    "without a token": [b"GET /v1/any-token HTTP/1.1\r\nHost: oqim\r\n\r\n"],
    "two tokens": [
        b"GET /v1/any-token HTTP/1.1\r\nHost: oqim\r\nAuthorization: Bearer a\r\n"
        b"Authorization: Bearer b\r\n\r\n"
    ],
    "mixed with the parser's": [
        PLAIN,
        b"GET /v1/things/1 HTTP/1.1\r\nHost: oqim\r\n\r\n",
        PLAIN,
        b"GET /nowhere HTTP/1.1\r\nHost: oqim\r\n\r\n",
        PLAIN,
    ],
    "nothing of HTTP after": [PLAIN, b"\x16\x03\x01\x02\x00"],
}


@pytest.mark.parametrize("name", CASES)
async def test_both_doors_answer_alike(doors: Doors, name: str) -> None:
    """Every status, header, body, and whether the connection is kept."""
    parsed, plain = await doors.answers(CASES[name])
    assert parsed == plain


_CHARACTERS = st.sampled_from([*b" \t\r\n:,;\x00\x7f\xe9aZ0-_*/", 0x0D0A])
_LINES = st.lists(
    st.sampled_from(
        [
            b"Host: oqim",
            b"Content-Length: 12",
            b"Content-Length: 0",
            b"content-length: 13",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Connection: keep-alive",
            b"Accept: */*",
            b"X-Request-Id: r1",
            b"Content-Type: application/json",
            b"X-A: b",
            b" folded",
            b"Expect: 100-continue",
        ]
    ),
    max_size=6,
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lines=_LINES, place=st.integers(0, 60), what=_CHARACTERS, cut=st.integers(0, 200))
async def test_what_is_made_up_is_answered_alike(
    doors: Doors, lines: list[bytes], place: int, what: int, cut: int
) -> None:
    """Requests of random headers, one byte put in somewhere, cut in two somewhere."""
    raw = b"\r\n".join([FIRST, *lines]) + b"\r\n\r\n" + OK
    put_in = what.to_bytes(2 if what > 255 else 1, "big")
    raw = raw[:place] + put_in + raw[place:]
    parsed, plain = await doors.answers([piece for piece in (raw[:cut], raw[cut:]) if piece])
    assert parsed == plain


async def test_an_answer_under_way_is_given_before_the_server_stops() -> None:
    """A plain request that is being answered when the server closes is answered, then closed."""
    async with running_front(is_plain=True) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET /v1/wait HTTP/1.1\r\nHost: oqim\r\n\r\n")
        await front.handlers.entered.wait()
        asyncio.get_running_loop().call_later(0.2, front.handlers.release.set)
    answer = await read_answer(reader)
    assert answer.status == 200
    assert await reader.read() == b""
    writer.close()


async def test_a_client_that_leaves_breaks_nothing() -> None:
    """What was begun goes on; its answer goes nowhere."""
    async with running_front(is_plain=True) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET /v1/wait HTTP/1.1\r\nHost: oqim\r\n\r\n")
        await front.handlers.entered.wait()
        writer.transport.abort()
        front.handlers.release.set()
        assert (await front.call("GET", "/livez")).status == 200


async def test_a_client_that_sends_on_is_held_back_and_answered_in_order() -> None:
    """More than is held stays in the socket until the first answer is given."""
    async with running_front(is_plain=True) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET /v1/wait HTTP/1.1\r\nHost: oqim\r\n\r\n")
        await front.handlers.entered.wait()
        number = 3_000
        for index in range(number):
            writer.write(request(b"X-Request-Id: r%d" % index))
        front.handlers.release.set()
        assert (await read_answer(reader)).status == 200
        for index in range(number):
            answer = await read_answer(reader)
            assert f"r{index}" == answer.headers["x-request-id"]
        writer.close()


async def test_a_request_whose_end_does_not_come_is_the_parsers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while it is answered as any slow body is, with 408."""
    monkeypatch.setattr(server, "PIECES_WAIT_S", 0.05)
    async with running_front(is_plain=True, body_timeout_s=0.1) as front:
        answer = await front.send(PLAIN[:-2])
        assert answer.status == 408
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("size", range(len(PLAIN)))
def test_a_beginning_is_never_taken_for_a_request(size: int) -> None:
    """Cut anywhere after its first line, it is unfinished."""
    if size >= len(FIRST) + 2:
        assert read_plain(PLAIN[:size], len(FIRST), 65_536) == Told.UNFINISHED
    whole = read_plain(PLAIN, len(FIRST), 65_536)
    assert isinstance(whole, Plain)
    assert whole.body == OK


def test_a_header_cannot_end_a_line() -> None:
    """An answer whose header holds a line end is not written, nor promised for every answer."""
    bad = [("X-A", "a\r\nX-B: b")]
    with pytest.raises(ValueError, match="X-A is not one line"):
        RawAnswers([]).write(200, "OK", "text/plain", "req_1", bad, b"", 0)
    with pytest.raises(ValueError, match="X-A is not one line"):
        RawAnswers(bad)
