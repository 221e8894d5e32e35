"""The ISO 8583 link against a small peer of the test's own, and its framing alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.spi import Iso8583Codec
from connectors.spi.contract import until
from connectors.transport.correlation import Fields, Stray
from connectors.transport.faults import NotSent, OutcomeUnknown
from connectors.transport.framing import FrameKind, Framer, FrameReader, FramingError
from connectors.transport.iso8583_tcp import Iso8583Link, LinkState
from connectors.transport.link_policy import LinkPolicy

ANSWERS = {"0100": "0110", "0400": "0410", "0420": "0430", "0421": "0430", "0120": "0130"}


class Peer:
    """A processor that signs on, keeps what it gets and answers when told to."""

    def __init__(self, codec: Iso8583Codec) -> None:
        self.codec = codec
        self.framer = Framer(source_station="000000", destination_station="412345")
        self.got: asyncio.Queue[tuple[str, dict[int, Any]]] = asyncio.Queue()
        self.raw: asyncio.Queue[FrameKind] = asyncio.Queue()
        self.reads = 0
        self.echoes = 0
        self.accepts_sign_on = True
        self.answers_echo = True
        self.writer: asyncio.StreamWriter | None = None
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connections += 1
        frames = FrameReader(4_096)
        try:
            while data := await reader.read(1 << 16):
                self.reads += 1
                for frame in frames.feed(data):
                    self.take(frame)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def take(self, frame: Any) -> None:
        if frame.kind is not FrameKind.MESSAGE:
            self.raw.put_nowait(frame.kind)
            return
        mti, fields = self.codec.unpack(frame.message)
        if mti != "0800":
            self.got.put_nowait((mti, fields))
            return
        if fields[70] == "301":
            self.echoes += 1
            if not self.answers_echo:
                return
        code = "00" if self.accepts_sign_on else "05"
        self.send("0810", {**fields, 39: code})

    def send(self, mti: str, fields: Fields) -> None:
        self.write(self.framer.frame(self.codec.pack(mti, fields)))

    def answer(self, request: tuple[str, dict[int, Any]], code: str = "00") -> None:
        mti, fields = request
        self.send(ANSWERS[mti], {**fields, 39: code})

    def write(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def drop(self) -> None:
        assert self.writer is not None
        self.writer.transport.abort()


@asynccontextmanager
async def linked(
    codec: Iso8583Codec, *, ready: bool = True, **options: Any
) -> AsyncIterator[tuple[Iso8583Link, Peer]]:
    """A link and its peer, signed on."""
    peer = Peer(codec)
    for name in ("accepts_sign_on", "answers_echo"):
        if name in options:
            setattr(peer, name, options.pop(name))
    listener = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    hooks = {name: options.pop(name) for name in ("on_advice", "on_stray") if name in options}
    values = {"timeout_ms": 2_000, "reconnect_min_ms": 5, "reconnect_max_ms": 20, **options}
    policy = LinkPolicy(
        host="127.0.0.1",
        port=listener.sockets[0].getsockname()[1],
        source_station="412345",
        **values,
    )
    link = Iso8583Link(codec, policy, **hooks)
    link.start()
    try:
        if ready:
            await until(link.is_ready)
        yield link, peer
    finally:
        await link.close()
        listener.close()
        if peer.writer is not None:
            peer.writer.close()


def fields(trace: int) -> Fields:
    return {
        3: "000000",
        4: f"{trace:012d}",
        7: "1121143000",
        11: f"{trace:06d}",
        32: "412345",
        37: f"632514{trace:06d}",
        49: "860",
    }


@pytest.mark.fault(rows=[24], what="answers in any order on one socket")
async def test_answers_in_any_order_find_their_requests(codec: Iso8583Codec) -> None:
    """Requests asked together leave in one write, and each gets the answer with its own names."""
    async with linked(codec) as (link, peer):
        reads = peer.reads
        tasks = [asyncio.create_task(link.request("0100", fields(n))) for n in range(1, 51)]
        requests = [await peer.got.get() for _ in tasks]
        assert peer.reads - reads == 1
        for request in reversed(requests):
            peer.answer(request)
        answers = await asyncio.gather(*tasks)
        assert [answer[11] for _, answer in answers] == [f"{n:06d}" for n in range(1, 51)]
        assert {mti for mti, _ in answers} == {"0110"}


async def test_without_a_connection_nothing_is_sent(codec: Iso8583Codec) -> None:
    """A link that is not signed on says so, and recovers by itself."""
    async with linked(codec, ready=False, accepts_sign_on=False) as (link, peer):
        await until(lambda: peer.connections > 1)
        with pytest.raises(NotSent, match="not-connected"):
            await link.request("0100", fields(1))
        peer.accepts_sign_on = True
        await until(link.is_ready)


async def test_a_lost_connection_is_unknown_and_comes_back(codec: Iso8583Codec) -> None:
    """What was written is unknown; the link signs on again without being told."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        await peer.got.get()
        peer.drop()
        with pytest.raises(OutcomeUnknown, match="connection-lost"):
            await task
        await until(lambda: link.is_ready() and peer.connections == 2)
        again = asyncio.create_task(link.request("0100", fields(2)))
        peer.answer(await peer.got.get())
        assert (await again)[1][39] == "00"


async def test_what_was_not_written_yet_is_not_sent(codec: Iso8583Codec) -> None:
    """A connection that ends before the socket was given the bytes lost nothing."""
    async with linked(codec) as (link, peer):
        wire = link._wire
        assert wire is not None
        wire.pause_writing()
        task = asyncio.create_task(link.request("0100", fields(1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        peer.drop()
        with pytest.raises(NotSent, match="connection-lost"):
            await task


@pytest.mark.fault(rows=[18, 22, 23], what="late, second and unknown answers on one socket")
async def test_late_second_and_unknown_answers_are_told_apart(codec: Iso8583Codec) -> None:
    """They reach nobody but the hook, and are counted each as what it is."""
    strays: list[tuple[Stray, str]] = []
    hook = {"on_stray": lambda stray, mti, _: strays.append((stray, mti))}
    async with linked(codec, timeout_ms=100, **hook) as (link, peer):
        with pytest.raises(OutcomeUnknown, match="timeout"):
            await link.request("0100", fields(1))
        late = await peer.got.get()
        task = asyncio.create_task(link.request("0100", fields(2)))
        answered = await peer.got.get()
        peer.answer(answered)
        await task
        peer.answer(late)
        peer.answer(answered)
        peer.send("0110", {**fields(3), 39: "00"})
        await until(lambda: len(strays) == 3)
        assert strays == [
            (Stray.LATE, "0110"),
            (Stray.DUPLICATE, "0110"),
            (Stray.UNMATCHED, "0110"),
        ]
        stats = link.stats
        assert (stats.timeouts, stats.late, stats.duplicates, stats.unmatched) == (1, 1, 1, 1)


async def test_the_class_of_message_is_part_of_the_match(codec: Iso8583Codec) -> None:
    """An authorisation and its reversal share every name and do not share answers."""
    async with linked(codec) as (link, peer):
        first = asyncio.create_task(link.request("0100", fields(1)))
        second = asyncio.create_task(link.request("0420", fields(1)))
        requests = [await peer.got.get(), await peer.got.get()]
        peer.answer(requests[1], "25")
        peer.answer(requests[0], "51")
        assert (await first)[1][39] == "51"
        assert (await second)[1][39] == "25"


async def test_the_same_operation_is_not_sent_twice_at_once(codec: Iso8583Codec) -> None:
    """While one is under way, a second of the same names is unknown and does not leave."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        request = await peer.got.get()
        with pytest.raises(OutcomeUnknown, match="already-in-flight"):
            await link.request("0100", fields(1))
        peer.answer(request)
        await task
        assert peer.got.empty()


async def test_a_reject_is_unknown_and_never_a_decline(codec: Iso8583Codec) -> None:
    """The peer could not read our frame: its code is kept for the operator."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        mti, sent = await peer.got.get()
        message = codec.pack(mti, sent)
        header = bytearray(26)
        header[0:3] = (26, 0x01, 0x02)
        header[22] = 0x80
        header[24:26] = (0x05, 0x42)
        size = (len(header) + len(message)).to_bytes(2, "big")
        peer.write(size + b"\x00\x00" + bytes(header) + message)
        with pytest.raises(OutcomeUnknown, match="reject-0542"):
            await task
        assert link.stats.rejects == 1


async def test_garbage_frames_do_not_end_the_link(codec: Iso8583Codec) -> None:
    """A frame that cannot be read is counted; the next one is answered."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        request = await peer.got.get()
        peer.write(b"\x00\x03\x00\x00\x16\x01\x02")
        peer.write(peer.framer.frame(b"\xff\xffgarbage"))
        peer.answer(request)
        assert (await task)[1][39] == "00"
        assert link.stats.malformed == 2


async def test_an_impossible_length_ends_the_connection(codec: Iso8583Codec) -> None:
    """A stream that cannot be cut into frames any more is dropped and made anew."""
    async with linked(codec) as (link, peer):
        peer.write(b"\xff\xff\x00\x00")
        await until(lambda: peer.connections == 2 and link.is_ready())


async def test_a_keep_alive_poll_is_echoed(codec: Iso8583Codec) -> None:
    """A frame of no length comes back as it is."""
    async with linked(codec) as (_, peer):
        peer.write(b"\x00\x00\x00\x00")
        assert await peer.raw.get() is FrameKind.KEEP_ALIVE


async def test_silence_is_asked_for_an_echo_and_then_left(codec: Iso8583Codec) -> None:
    """Echoes keep a quiet link; one that is not answered ends it."""
    async with linked(codec, echo_interval_ms=20, timeout_ms=100) as (link, peer):
        await until(lambda: peer.echoes >= 2)
        assert peer.connections == 1
        peer.answers_echo = False
        await until(lambda: peer.connections >= 2)
        peer.answers_echo = True
        await until(link.is_ready)


async def test_the_peer_may_sign_us_off_and_on(codec: Iso8583Codec) -> None:
    """Signed off, nothing is sent; both messages are answered."""
    network: Fields = {7: "1121143000", 11: "000009", 37: "632514000009"}
    async with linked(codec) as (link, peer):
        peer.send("0800", {**network, 70: "002"})
        await until(lambda: link.state is LinkState.SIGNED_OFF)
        with pytest.raises(NotSent, match="not-connected"):
            await link.request("0100", fields(1))
        assert await peer.got.get() == ("0810", {**network, 39: "00", 70: "002"})
        peer.send("0800", {**network, 70: "001"})
        await until(link.is_ready)


async def test_an_advice_is_acknowledged_once_stored(codec: Iso8583Codec) -> None:
    """Stored first, acknowledged after; one that cannot be stored is left to be repeated."""
    stored: list[str] = []

    async def store(mti: str, advice: Fields) -> bool:
        if not stored:
            stored.append("refused")
            raise ConnectionError("the store is away")
        stored.append(str(advice[11]))
        return True

    async with linked(codec, on_advice=store) as (link, peer):
        peer.send("0420", fields(7))
        await until(lambda: link.stats.advices_refused == 1)
        assert peer.got.empty()
        peer.send("0421", fields(7))
        mti, acknowledgement = await peer.got.get()
        assert (mti, acknowledgement[11], acknowledgement[39]) == ("0430", "000007", "00")
        assert stored == ["refused", "000007"]


async def test_too_many_in_flight_are_not_sent(codec: Iso8583Codec) -> None:
    """The bound of what may be outstanding is kept, and said honestly."""
    async with linked(codec, in_flight_max=1) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        request = await peer.got.get()
        with pytest.raises(NotSent, match="queue-full"):
            await link.request("0100", fields(2))
        peer.answer(request)
        await task


async def test_closing_waits_for_answers_and_signs_off(codec: Iso8583Codec) -> None:
    """What is in flight is finished; nothing new is taken."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        request = await peer.got.get()
        closing = asyncio.create_task(link.close())
        await asyncio.sleep(0)
        with pytest.raises(NotSent, match="closed"):
            await link.request("0100", fields(2))
        peer.answer(request)
        assert (await task)[1][39] == "00"
        await closing
        assert link.state is LinkState.DOWN


async def test_a_caller_that_goes_away_leaves_nothing_behind(codec: Iso8583Codec) -> None:
    """Its answer counts as late."""
    async with linked(codec) as (link, peer):
        task = asyncio.create_task(link.request("0100", fields(1)))
        request = await peer.got.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        peer.answer(request)
        await until(lambda: link.stats.late == 1)


GOLDEN_HEADER = bytes.fromhex("0094000016010200940000004123450000000000000000000000")


def test_the_golden_header() -> None:
    """Prefix and header of the protocol's page, byte for byte."""
    framer = Framer(source_station="412345", destination_station="000000")
    assert framer.frame(bytes(126)) == GOLDEN_HEADER + bytes(126)


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 40))
def test_frames_survive_any_cut_of_the_stream(messages: list[bytes], step: int) -> None:
    """However the bytes arrive, the same messages come out."""
    framer = Framer(source_station="412345", destination_station="000000")
    stream = b"".join(map(framer.frame, messages))
    reader = FrameReader(2_048)
    found = []
    for start in range(0, len(stream), step):
        found += reader.feed(stream[start : start + step])
    assert [frame.message for frame in found] == messages
    assert all(frame.kind is FrameKind.MESSAGE for frame in found)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_frames_or_an_error(data: bytes) -> None:
    """No stream makes the reader raise anything but its own error."""
    reader = FrameReader(64)
    try:
        frames = reader.feed(data)
    except FramingError:
        return
    assert all(isinstance(frame.kind, FrameKind) for frame in frames)
