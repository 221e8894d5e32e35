"""Connections to processors over HTTP/1.1: kept, lent to one message at a time, never believed.

Owns sockets and what is read from them; `http` decides who may send. httptools' parser cuts
answers out of the stream. A connection is used again only when its answer ended where it said it
would, with nothing after it, and neither side wants it closed; whatever comes unasked ends it.
"""

import asyncio
import select
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpResponseParser

from connectors.transport.faults import NotSent, OutcomeUnknown

_HEAD_BYTES_MAX = 65_536
_WITHOUT_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer, whole. `repr` shows no body: it may hold a token."""

    status: int
    body: bytes = field(repr=False)


class Origin(NamedTuple):
    """Whom a connection leads to."""

    host: str
    port: int
    is_tls: bool


class _Wire(asyncio.Protocol):
    """One connection. The parser calls the `on_...` methods while it is fed."""

    def __init__(self, reply_size_max: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reply_size_max = reply_size_max
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpReply] | None = None
        self._poll = select.poll()
        self._begin()
        self.is_reusable = True
        self.idle_since = 0.0

    def _begin(self) -> None:
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._is_counted = False

    async def exchange(self, message: bytes, deadline: float) -> HttpReply:
        """Send a message and return its answer.

        Args:
            deadline: on the running loop's clock.

        Raises:
            OutcomeUnknown: there is no answer, or none that can be used.
        """
        assert self._transport is not None, "it is connected"
        self._begin()
        answer: asyncio.Future[HttpReply] = self._loop.create_future()
        self._answer = answer
        # Until it ends well, it does not end at a message's end.
        self.is_reusable = False
        timer = self._loop.call_at(deadline, self._fail, "timeout")
        self._transport.write(message)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answer = None
            if not self.is_reusable:
                self.abort()

    @property
    def is_open(self) -> bool:
        """Whether a message would leave."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_silent(self) -> bool:
        """Whether the other side has said nothing that was not read yet, its end included.

        What the loop has not read of an idle connection would be taken for the next answer, and a
        message over one that has just been closed would be in doubt.
        """
        return not self._poll.poll(0)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, code: str) -> None:
        self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(OutcomeUnknown(code))
        self.abort()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's without being of its class.
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # Nobody asked.
            self._fail("connection-lost")
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._fail("connection-lost")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._has_head and not self._is_counted:
            # Its end is the connection's (RFC 9112, 6.3).
            self._finish()
        self._fail("connection-lost")
        self._transport = None

    # Called by the parser.

    _has_head = False

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            # A second answer to one message.
            self._fail("connection-lost")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > _HEAD_BYTES_MAX:
            self._fail("connection-lost")
        written = name.lower()
        if written == b"content-length":
            self._is_counted = True
            # Told ahead, it need not be waited for. The parser has seen that it is a number.
            if int(value) > self._reply_size_max:
                self._fail("reply-too-large")
        elif written == b"transfer-encoding":
            self._is_counted = True
        elif written == b"content-encoding" and value.lower() != b"identity":
            self._fail("reply-encoded")

    def on_headers_complete(self) -> None:
        self._has_head = True
        if self._parser.get_status_code() in _WITHOUT_BODY:
            self._is_counted = True

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._reply_size_max:
            self._fail("reply-too-large")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            # The answer is still to come (RFC 9110, 15.2).
            self._has_head = False
            self._begin()
            return
        self.is_reusable = self._parser.should_keep_alive()
        self._finish()

    def _finish(self) -> None:
        self._has_head = False
        if self._answer is not None and not self._answer.done():
            status = self._parser.get_status_code()
            self._answer.set_result(HttpReply(status, b"".join(self._body)))


class HttpPool:
    """Connections by where they lead; how many there are is for the caller to bound.

    Args:
        tls: verified client context; by default the system's authorities are believed.
        keepalive_s: how long an idle connection is kept.
        reply_size_max: bytes of an answer's body.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None, keepalive_s: float, reply_size_max: int
    ) -> None:
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._reply_size_max = reply_size_max
        # The one used last is at the end, and lent first: the others may grow old.
        self._idle: dict[Origin, list[_Wire]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def exchange(
        self, origin: Origin, message: bytes, *, connect_by: float, deadline: float
    ) -> HttpReply:
        """Send a whole request over a connection of its own for as long; return the answer.

        Args:
            connect_by, deadline: on the running loop's clock.

        Raises:
            NotSent: no connection could be made.
            OutcomeUnknown: anything later.
        """
        wire = self._take(origin)
        if wire is None:
            wire = await self._connect(origin, connect_by)
        reply = await wire.exchange(message, deadline)
        if wire.is_reusable and not self._is_closed:
            self._keep(origin, wire)
        else:
            wire.abort()
        return reply

    def _take(self, origin: Origin) -> _Wire | None:
        wires = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - self._keepalive_s
        while wires:
            wire = wires.pop()
            if wire.is_open and wire.is_silent and wire.idle_since > oldest:
                return wire
            wire.abort()
        return None

    def _keep(self, origin: Origin, wire: _Wire) -> None:
        loop = asyncio.get_running_loop()
        wire.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(wire)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._keepalive_s, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._keepalive_s
        for origin, wires in list(self._idle.items()):
            kept = [wire for wire in wires if wire.is_open and wire.idle_since > oldest]
            for wire in wires:
                if wire not in kept:
                    wire.abort()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        self._sweeper = loop.call_later(self._keepalive_s, self._sweep) if self._idle else None

    async def _connect(self, origin: Origin, connect_by: float) -> _Wire:
        loop = asyncio.get_running_loop()
        tls: ssl.SSLContext | None = None
        if origin.is_tls:
            tls = self._tls = self._tls or ssl.create_default_context()
        try:
            async with asyncio.timeout_at(connect_by):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self._reply_size_max),
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls is not None else None,
                )
        except (OSError, TimeoutError, ValueError):
            # Of TLS too: a certificate that is not believed is an error of either kind.
            raise NotSent("connect-failed") from None
        return wire

    def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for wires in self._idle.values():
            for wire in wires:
                wire.abort()
        self._idle.clear()
