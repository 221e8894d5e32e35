"""One connection of an ISO 8583 link: cuts the stream into frames and hands them on."""

import asyncio
from typing import Protocol, cast

from connectors.transport.framing import Frame, FrameReader, FramingError


class Link(Protocol):
    """What a connection tells its link."""

    def on_frame(self, frame: Frame) -> None: ...

    def on_malformed(self) -> None: ...

    def on_lost(self, wire: "Wire") -> None: ...

    def flush(self) -> None: ...


class Wire(asyncio.Protocol):
    """One connection's callbacks, handed to the link."""

    def __init__(self, link: "Link", size_max: int) -> None:
        self._link = link
        self._reader = FrameReader(size_max)
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.closed: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.is_paused = False
        self.received_at = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's without being of its class.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received_at = self._now()
        try:
            frames = self._reader.feed(data)
        except FramingError:
            self._link.on_malformed()
            self.abort()
            return
        for frame in frames:
            self._link.on_frame(frame)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._link.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.on_lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
