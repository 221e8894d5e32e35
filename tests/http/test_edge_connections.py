"""Connections: slow ones, too many of them, and TLS."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.kernel.http.server import ConnectionLimits
from gateway.kernel.http.tls import TlsError, TlsFiles, open_context, reload
from tests.faults.test_tls import Authority
from tests.house import until
from tests.kernel.front import Answer, Front, assert_problem, read_answer, running_front

HEAD_S = 0.3
GET = b"GET /v1/echo HTTP/1.1\r\nHost: oqim\r\n\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(front: Front, tls: ssl.SSLContext | None = None) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def asked(front: Front, tls: ssl.SSLContext | None = None) -> Answer:
    """Ask once on a connection of its own."""
    async with connected(front, tls) as (reader, writer), asyncio.timeout(5.0):
        writer.write(GET)
        return await read_answer(reader)


# Slow ones ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def hasty() -> AsyncIterator[Front]:
    """A front that waits for a head no longer than `HEAD_S`, and for anything 1 s."""
    limits = ConnectionLimits(head_timeout_s=HEAD_S, idle_timeout_s=1.0)
    async with running_front(limits=limits, body_timeout_s=HEAD_S) as front:
        yield front


async def trickle(pair: Pair, data: bytes, *, pause_s: float = 0.02) -> Answer:
    """Send a byte at a time until there is an answer, after which the connection is closed."""
    reader, writer = pair

    async def send() -> None:
        for one in data:
            writer.write(bytes([one]))
            await asyncio.sleep(pause_s)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(5.0):
            answer = await read_answer(reader)
            # A byte that comes after the end is answered by the kernel, with a reset.
            with suppress(ConnectionResetError):
                assert await reader.read() == b"", "closed, with nothing after the answer"
            return answer
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("answered_before", [0, 1])
async def test_a_head_that_comes_byte_by_byte_is_refused(
    hasty: Front, answered_before: int
) -> None:
    """Each byte in time and the whole never: the time runs from the first (slowloris)."""
    async with connected(hasty) as pair:
        for _ in range(answered_before):
            pair[1].write(GET)
            assert (await read_answer(pair[0])).status == 200
        started = time.monotonic()
        answer = await trickle(pair, GET[:-4] + b"\r\nX-A: " + b"a" * 500)
        assert_problem(answer, "request-timeout")
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert HEAD_S * 0.9 <= time.monotonic() - started < HEAD_S + 2.0


async def test_a_body_that_comes_byte_by_byte_is_refused(hasty: Front) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: oqim\r\nContent-Type: application/json\r\n"
    async with connected(hasty) as pair:
        pair[1].write(head + b"Content-Length: 500\r\n\r\n")
        answer = await trickle(pair, b'{"text":"' + b"a" * 490)
        assert_problem(answer, "request-timeout")


async def test_a_connection_that_says_nothing_is_closed(hasty: Front) -> None:
    async with connected(hasty) as (reader, _), asyncio.timeout(5.0):
        assert await reader.read() == b""


async def test_a_head_that_ends_in_time_is_answered_and_the_next_has_its_own_time(
    hasty: Front,
) -> None:
    """What one request took is not taken from the next."""
    async with connected(hasty) as (reader, writer), asyncio.timeout(5.0):
        for _ in range(4):
            writer.write(GET[:10])
            await asyncio.sleep(HEAD_S / 2)
            writer.write(GET[10:])
            assert (await read_answer(reader)).status == 200


async def test_an_answer_that_takes_long_is_not_taken_for_a_slow_head() -> None:
    limits = ConnectionLimits(head_timeout_s=0.1, idle_timeout_s=5.0)
    async with running_front(limits=limits) as front, connected(front) as (reader, writer):
        async with asyncio.timeout(5.0):
            writer.write(GET[:10])
            await asyncio.sleep(0.01)
            writer.write(GET[10:].replace(b"echo", b"wait"))
            writer.write(b"")
            await asyncio.sleep(0.3)
            front.handlers.release.set()
            assert (await read_answer(reader)).status == 200


# Too many ----------------------------------------------------------------------------------------


async def test_a_connection_too_many_is_closed_and_takes_no_place() -> None:
    limits = ConnectionLimits(connections_max=2)
    async with running_front(limits=limits) as front, connected(front), connected(front) as last:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asked(front)
        last[1].close()

        async def is_answered() -> bool:
            try:
                return (await asked(front)).status == 200
            except (asyncio.IncompleteReadError, ConnectionError):
                return False

        await until(is_answered, within_s=5.0)


# TLS ---------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(authority: Authority, **more: Path) -> TlsFiles:
    """Return the files of a server that shows a good certificate."""
    chain = authority.chain("good")
    chain.chmod(0o600)
    return TlsFiles(chain, chain, more.get("client_ca"))


def believing(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca_file)


async def test_tls_is_spoken_and_plain_text_is_not(authority: Authority) -> None:
    context = open_context(shown(authority))
    async with running_front(tls=context) as front:
        async with connected(front, believing(authority)) as (reader, writer):
            writer.write(GET)
            assert (await read_answer(reader)).status == 200
            spoken = writer.get_extra_info("ssl_object")
            assert spoken.version() == "TLSv1.3"
        async with connected(front) as (reader, writer), asyncio.timeout(5.0):
            writer.write(GET)
            assert b"HTTP/1.1" not in await reader.read()


async def test_only_ciphers_with_forward_secrecy_are_spoken(authority: Authority) -> None:
    """TLS 1.2 at least, and of 1.2 nothing that is weak."""
    context = open_context(shown(authority))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        name = cipher["name"]
        assert name.startswith(("ECDHE-", "TLS_")), name
        assert "GCM" in name or "CHACHA20" in name, name
    async with running_front(tls=context) as front:
        older = believing(authority)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await asked(front, older)).status == 200
        older.set_ciphers("AES128-SHA")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asked(front, older)


async def test_a_client_that_must_show_a_certificate_does(authority: Authority) -> None:
    context = open_context(shown(authority, client_ca=authority.ca_file))
    async with running_front(tls=context) as front:
        known = believing(authority)
        known.load_cert_chain(authority.chain("client"))
        assert (await asked(front, known)).status == 200
        stranger = believing(authority)
        stranger.load_cert_chain(authority.chain("unknown"))
        for who in (believing(authority), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await asked(front, who)


async def serial_of(front: Front, authority: Authority) -> str:
    async with connected(front, believing(authority)) as (_, writer):
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        return str(certificate["serialNumber"])


async def test_a_renewed_certificate_is_taken_and_open_connections_stay(
    authority: Authority,
) -> None:
    files = shown(authority)
    context = open_context(files)
    async with running_front(tls=context) as front:
        before = await serial_of(front, authority)
        async with connected(front, believing(authority)) as (reader, writer):
            renewed = shown(authority)
            reload(context, renewed)
            assert await serial_of(front, authority) != before
            writer.write(GET)
            assert (await read_answer(reader)).status == 200


@pytest.mark.parametrize("spoil", ["not PEM", "another's key", "readable", "missing"])
async def test_a_bad_certificate_is_refused_and_the_good_one_stays(
    authority: Authority, tmp_path: Path, spoil: str
) -> None:
    files = shown(authority)
    context = open_context(files)
    kept = files.certificate.read_bytes()
    bad = TlsFiles(tmp_path / "bad.pem", tmp_path / "bad.pem", None)
    if spoil == "not PEM":
        bad.certificate.write_bytes(b"certificate")
    elif spoil == "another's key":
        other = shown(authority).certificate.read_bytes()
        ends = kept.index(b"-----BEGIN CERTIFICATE")
        bad.certificate.write_bytes(other[: other.index(b"-----BEGIN CERTIFICATE")] + kept[ends:])
    elif spoil == "readable":
        bad.certificate.write_bytes(kept)
    if bad.certificate.exists():
        bad.certificate.chmod(0o644 if spoil == "readable" else 0o600)
    async with running_front(tls=context) as front:
        before = await serial_of(front, authority)
        with pytest.raises(TlsError, match=r"bad\.pem"):
            reload(context, bad)
        assert await serial_of(front, authority) == before
