"""A relay: carries connections on to another address, where whoever derives sees what passes.

It knows no protocol and changes nothing by itself: another host of the benchmark is reached through
it, and the tests count through one, and spoil through another, what programs say to one another.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

CHUNK, BACKLOG = 65_536, 4_096
LOOPBACK = "127.0.0.1"

# Takes each piece of one way of a connection.
HandOn = Callable[[bytes], Awaitable[None]]


class Ended(Exception):
    """Raised while a piece is handed on: both sides of the connection are to end now."""


class Relay:
    """Carries every connection on to an address, both ways, until both sides have ended.

    Attributes:
        listening_port: where it listens, once it does.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.listening_port = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    # What whoever derives may change -------------------------------------------------------------

    def is_taken(self) -> bool:
        """Return whether a connection that comes now is carried on; it is ended otherwise."""
        return True

    def way(self, writer: asyncio.StreamWriter, *, is_answer: bool) -> HandOn:
        """Return what hands on the pieces of one way of a connection that has just begun.

        Args:
            writer: towards whom.
            is_answer: whether they come from the address, not towards it.
        """

        async def hand_on_whole(piece: bytes) -> None:
            await hand_on(writer, piece)

        return hand_on_whole

    def end(self, writer: asyncio.StreamWriter) -> None:
        """End one side of a connection."""
        writer.transport.abort()

    # Carrying ------------------------------------------------------------------------------------

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until both sides have ended, or one of them does not go on."""
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not self.is_taken():
            self.end(writer)
            return
        try:
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            self.end(writer)
            return
        pair = {writer, back}
        self.writers |= pair
        try:
            await asyncio.gather(
                self._carry(reader, back, is_answer=False),
                self._carry(there, writer, is_answer=True),
            )
        except (OSError, Ended):
            pass
        except asyncio.CancelledError:
            # The stream's own callback would report it as a failure.
            if not self._is_closing:
                raise
        finally:
            self.writers -= pair
            for one in pair:
                self.end(one)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        hand_on_piece = self.way(writer, is_answer=is_answer)
        while piece := await reader.read(CHUNK):
            await hand_on_piece(piece)
        with suppress(OSError):
            writer.write_eof()

    async def close(self) -> None:
        """End every connection."""
        self._is_closing = True
        for writer in list(self.writers):
            self.end(writer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def hand_on(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Hand on a piece, and wait while too much is on its way."""
    writer.write(piece)
    await writer.drain()


R = TypeVar("R", bound=Relay)


@asynccontextmanager
async def listening(relay: R, host: str = LOOPBACK, port: int = 0) -> AsyncIterator[R]:
    """Have a relay listen, by default at any port, and end it with its connections."""
    server = await asyncio.start_server(relay.on_connection, host, port, backlog=BACKLOG)
    relay.listening_port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
        await server.wait_closed()
