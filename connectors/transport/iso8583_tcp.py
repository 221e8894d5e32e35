"""One lasting ISO 8583 socket: reconnects, signs on, keeps itself alive, carries many at once.

    down --connect, sign-on--> ready --lost or silent--> down (backs off, tries again)
                               ready --peer signs off--> signed-off --sign-on--> ready

Owns the socket and the correlation of answers. Must never decide what an answer means, and must
never send a message twice. Requests made within one turn of the loop leave in one write.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from connectors.spi.types import Condition, Iso8583Codec
from connectors.transport.breaker import Breaker
from connectors.transport.bulkhead import is_settling
from connectors.transport.correlation import (
    RESPONSE_MTI,
    Answer,
    Fields,
    Pending,
    Pendings,
    Stray,
    key_of,
)
from connectors.transport.faults import NotSent, OutcomeUnknown, TransportFault
from connectors.transport.framing import KEEP_ALIVE, Frame, FrameKind, Framer
from connectors.transport.link_policy import LinkPolicy
from connectors.transport.wire import Wire

_log = logging.getLogger(__name__)

SIGN_ON = "001"
SIGN_OFF = "002"
ECHO = "301"

# A full link must still be able to tell whether the other side lives.
_NETWORK_EXTRA = 1 << 20
_ADVICES = frozenset({"0120", "0121", "0420", "0421"})
# What an acknowledgement repeats of the message it acknowledges.
_ACKNOWLEDGED = (2, 3, 4, 7, 11, 19, 25, 32, 37, 38, 41, 42, 49)

OnAdvice = Callable[[str, Fields], Awaitable[bool]]
OnStray = Callable[[Stray, str, Fields], None]


class LinkState(Enum):
    DOWN = "down"
    READY = "ready"
    SIGNED_OFF = "signed-off"


@dataclass(slots=True)
class LinkStats:
    """What the link has counted since it was made."""

    connects: int = 0
    requests: int = 0
    answers: int = 0
    timeouts: int = 0
    late: int = 0
    duplicates: int = 0
    unmatched: int = 0
    rejects: int = 0
    malformed: int = 0
    advices: int = 0
    advices_refused: int = 0


class Iso8583Link:
    """A socket to one endpoint.

    Args:
        codec: the dialect.
        policy: where and how long.
        on_advice: given an unasked 0120 or 0420; the link acknowledges it when True comes back,
            and leaves it to be repeated when False does.
        on_stray: told of each late, second or unmatched answer.
    """

    def __init__(
        self,
        codec: Iso8583Codec,
        policy: LinkPolicy,
        *,
        on_advice: OnAdvice | None = None,
        on_stray: OnStray | None = None,
    ) -> None:
        self.stats = LinkStats()
        self._codec = codec
        self._policy = policy
        self._on_advice = on_advice
        self._on_stray = on_stray
        self._framer = Framer(
            source_station=policy.source_station, destination_station=policy.destination_station
        )
        self._breaker = Breaker(policy.breaker)
        self._pendings = Pendings()
        self._outbox: list[tuple[bytes, Pending | None]] = []
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        self._state = LinkState.DOWN
        self._runner: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._idle = asyncio.Event()
        self._advices: set[asyncio.Task[None]] = set()
        self._network_trace = 0

    @property
    def state(self) -> LinkState:
        return self._state

    def is_ready(self) -> bool:
        """Whether a request would leave now."""
        return (
            self._state is LinkState.READY
            and not self._closing.is_set()
            and self._breaker.would_admit()
        )

    def condition(self) -> Condition:
        """How the link to the processor is now."""
        return Condition(
            breaker=self._breaker.state.value, in_flight=len(self._pendings), waiting=0
        )

    def start(self) -> None:
        """Begin to connect, in the background."""
        if self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Take no more requests, wait for those in flight, sign off and disconnect."""
        self._closing.set()
        if len(self._pendings) and self._state is LinkState.READY:
            self._idle.clear()
            try:
                async with asyncio.timeout(self._policy.timeout_ms / 1000):
                    await self._idle.wait()
            except TimeoutError:
                pass
        runner, self._runner = self._runner, None
        if runner is not None:
            await self._sign_off()
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        for task in self._advices:
            task.cancel()
        await asyncio.gather(*self._advices, return_exceptions=True)

    async def request(self, mti: str, fields: Fields) -> Answer:
        """Send one message and return its answer.

        Args:
            mti: a type with an answer: 0100, 0120, 0121, 0400, 0420, 0421 or 0800.
            fields: with F7, F11 and whatever of F32, F37 the answer repeats.

        Returns:
            The answer's type and fields.

        Raises:
            NotSent: not connected or signed on, breaker open, too many in flight, or the bytes
                were never given to the socket.
            OutcomeUnknown: no answer in time, connection lost, or rejected as unreadable
                (`reject-NNNN`).
            Iso8583Error, ValueError: the message does not fit the dialect; nothing was sent.

        Notes:
            When the caller is cancelled a byte may have left; a later answer counts as late.
        """
        if self._closing.is_set():
            raise NotSent("closed")
        if self._state is not LinkState.READY:
            raise NotSent("not-connected")
        settles = is_settling()
        ticket = self._breaker.admit(is_settling=settles)
        if ticket == 0:
            raise NotSent("breaker-open")
        extra = self._policy.settling_max if settles else 0
        return await self._exchange(mti, fields, ticket, extra=extra)

    async def _exchange(
        self, mti: str, fields: Fields, ticket: int = 0, *, extra: int = 0
    ) -> Answer:
        """Send and await; `extra` is how many more may be in flight than of payments."""
        loop = asyncio.get_running_loop()
        key = key_of(RESPONSE_MTI[mti], fields)
        try:
            if len(self._pendings) >= self._policy.in_flight_max + extra:
                raise NotSent("queue-full")
            if key in self._pendings:
                # The same operation is already under way; what becomes of it is not known here.
                raise OutcomeUnknown("already-in-flight")
            frame = self._framer.frame(self._codec.pack(mti, fields))
        except BaseException:
            self._breaker.release(ticket)
            raise
        deadline = loop.time() + self._policy.timeout_ms / 1000
        pending = Pending(key, frame, loop.create_future(), deadline, ticket)
        self._pendings.add(pending)
        self.stats.requests += 1
        self._write(frame, pending)
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._breaker.release(pending.take_ticket())
            raise
        finally:
            self._pendings.abandon(pending)
            if not self._pendings:
                self._idle.set()

    # Called by the wire: `flush`, `on_frame`, `on_malformed`, `on_lost`.
    # Writing: everything asked for in one turn of the loop leaves together.

    def _write(self, frame: bytes, pending: Pending | None = None) -> None:
        self._outbox.append((frame, pending))
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._is_flush_due = False
        wire = self._wire
        if wire is None or wire.transport is None or wire.is_paused or not self._outbox:
            return
        if wire.transport.is_closing():
            return
        outbox, self._outbox = self._outbox, []
        frames = []
        for frame, pending in outbox:
            if pending is not None:
                if pending.future.done():
                    continue  # its caller gave up before a byte left
                pending.written = True
            frames.append(frame)
        wire.transport.write(b"".join(frames))

    # Reading.

    def on_frame(self, frame: Frame) -> None:
        if frame.kind is FrameKind.KEEP_ALIVE:
            self._write(KEEP_ALIVE)
            return
        if frame.kind is FrameKind.CONTROL:
            return
        if frame.kind is FrameKind.MALFORMED:
            self.stats.malformed += 1
            return
        try:
            mti, fields = self._codec.unpack(frame.message)
        except Exception as error:  # whatever the codec's error type is, the frame is unreadable
            if not isinstance(error, ValueError):
                _log.warning("codec raised %s", type(error).__name__)
            self.stats.malformed += 1
            self.stats.rejects += frame.kind is FrameKind.REJECT
            return
        if frame.kind is FrameKind.REJECT:
            self._on_reject(mti, fields, frame.reject_code)
            return
        pending = self._pendings.answered(key_of(mti, fields))
        if pending is None:
            self._on_unasked(mti, fields)
            return
        self.stats.answers += 1
        self._breaker.succeed(pending.take_ticket())
        if not pending.future.done():
            pending.future.set_result((mti, fields))

    def on_malformed(self) -> None:
        self.stats.malformed += 1

    def _on_reject(self, mti: str, fields: Fields, code: str) -> None:
        """Our own message came back unread. That is not a decline: it is not known what it is."""
        self.stats.rejects += 1
        response = RESPONSE_MTI.get(mti)
        pending = self._pendings.answered(key_of(response, fields)) if response else None
        if pending is None:
            return
        self._breaker.succeed(pending.take_ticket())
        if not pending.future.done():
            pending.future.set_exception(OutcomeUnknown(f"reject-{code}"))

    def _on_unasked(self, mti: str, fields: Fields) -> None:
        if mti in _ADVICES:
            self._start_advice(mti, fields)
        elif mti == "0800":
            self._on_network(fields)
        else:
            stray = self._pendings.stray(key_of(mti, fields))
            if stray is Stray.LATE:
                self.stats.late += 1
            elif stray is Stray.DUPLICATE:
                self.stats.duplicates += 1
            else:
                self.stats.unmatched += 1
            if self._on_stray is not None:
                self._on_stray(stray, mti, fields)

    def _on_network(self, fields: Fields) -> None:
        """Answer the peer's sign-on, sign-off or echo."""
        code = fields.get(70)
        if code == SIGN_OFF and self._state is LinkState.READY:
            self._state = LinkState.SIGNED_OFF
        elif code == SIGN_ON and self._state is LinkState.SIGNED_OFF:
            self._state = LinkState.READY
        answer: Fields = {n: fields[n] for n in (7, 11, 37, 70) if n in fields}
        answer[39] = "00"
        self._write(self._framer.frame(self._codec.pack("0810", answer)))

    def _start_advice(self, mti: str, fields: Fields) -> None:
        if self._on_advice is None or len(self._advices) >= self._policy.advices_max:
            self.stats.advices_refused += 1  # unacknowledged, it will be repeated
            return
        task = asyncio.get_running_loop().create_task(self._acknowledge(mti, fields))
        self._advices.add(task)
        task.add_done_callback(self._advices.discard)

    async def _acknowledge(self, mti: str, fields: Fields) -> None:
        assert self._on_advice is not None
        wire = self._wire
        try:
            is_stored = await self._on_advice(mti, fields)
        except Exception as error:  # a store that is away must not end the link
            _log.warning("advice not stored: %s", type(error).__name__)
            is_stored = False
        if not is_stored or wire is not self._wire:
            self.stats.advices_refused += 1
            return
        self.stats.advices += 1
        answer: Fields = {n: fields[n] for n in _ACKNOWLEDGED if n in fields}
        answer[39] = "00"
        self._write(self._framer.frame(self._codec.pack(RESPONSE_MTI[mti], answer)))

    # Time and the connection's life.

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for pending in self._pendings.expired(loop.time()):
            self.stats.timeouts += 1
            self._breaker.fail(pending.take_ticket())
            if not pending.future.done():
                fault = OutcomeUnknown if pending.written else NotSent
                pending.future.set_exception(fault("timeout"))
        deadline = self._pendings.next_deadline()
        if deadline is not None:
            self._timer = loop.call_at(deadline, self._expire)

    def on_lost(self, wire: Wire) -> None:
        if self._wire is not wire:
            return
        self._wire = None
        self._state = LinkState.DOWN
        self._outbox.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pending in self._pendings.drain():
            self._breaker.release(pending.take_ticket())
            if not pending.future.done():
                fault = OutcomeUnknown if pending.written else NotSent
                pending.future.set_exception(fault("connection-lost"))

    async def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            wire = await self._connect()
            if wire is not None:
                try:
                    if await self._network(SIGN_ON):
                        failures = 0
                        self._state = LinkState.READY
                        await self._keep(wire)
                finally:
                    wire.abort()
                    await asyncio.shield(wire.closed)
            failures += 1
            ceiling_ms = min(
                self._policy.reconnect_max_ms, self._policy.reconnect_min_ms << min(failures, 16)
            )
            delay_ms = random.uniform(self._policy.reconnect_min_ms, ceiling_ms)
            try:
                async with asyncio.timeout(delay_ms / 1000):
                    await self._closing.wait()
            except TimeoutError:
                continue

    async def _connect(self) -> Wire | None:
        loop = asyncio.get_running_loop()
        policy = self._policy
        try:
            async with asyncio.timeout(policy.connect_timeout_ms / 1000):
                _, wire = await loop.create_connection(
                    lambda: Wire(self, policy.message_size_max),
                    policy.host,
                    policy.port,
                    ssl=policy.tls,
                )
        except (OSError, TimeoutError):
            return None
        if wire.closed.done():
            return None
        self._wire = wire
        self.stats.connects += 1
        return wire

    async def _keep(self, wire: Wire) -> None:
        """Stay until the connection ends; ask for an echo whenever nothing was heard for long."""
        loop = asyncio.get_running_loop()
        interval_s = self._policy.echo_interval_ms / 1000
        while not wire.closed.done():
            quiet_s = loop.time() - wire.received_at
            await asyncio.wait((wire.closed,), timeout=max(interval_s - quiet_s, 0.001))
            if wire.closed.done():
                return
            if self._state is LinkState.SIGNED_OFF:
                # The peer asked for quiet: one attempt an interval, no more.
                if await self._network(SIGN_ON):
                    self._state = LinkState.READY
                else:
                    await asyncio.wait((wire.closed,), timeout=interval_s)
            elif loop.time() - wire.received_at >= interval_s and not await self._network(ECHO):
                return

    async def _network(self, code: str) -> bool:
        """Send a network message; whether it was accepted."""
        try:
            fields = self._network_fields(code)
            _, answer = await self._exchange("0800", fields, extra=_NETWORK_EXTRA)
        except TransportFault:
            return False
        return answer.get(39) == "00"

    def _network_fields(self, code: str) -> Fields:
        self._network_trace = self._network_trace % 999_999 + 1
        trace = f"{self._network_trace:06d}"
        now = time.gmtime()
        reference = f"{now.tm_year % 10}{now.tm_yday:03d}{now.tm_hour:02d}{trace}"
        return {7: time.strftime("%m%d%H%M%S", now), 11: trace, 37: reference, 70: code}

    async def _sign_off(self) -> None:
        if self._state is LinkState.READY:
            try:
                async with asyncio.timeout(self._policy.sign_off_timeout_ms / 1000):
                    await self._network(SIGN_OFF)
            except TimeoutError:
                pass
