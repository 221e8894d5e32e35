"""The server: aiohttp's, whose connections look at what comes before its parser does.

While the door is pressed, whoever is turned away is answered from the first bytes. A plain request
of a hot route (`read_plain`) is answered without aiohttp; everything else goes through its parser,
over the same port and the same connection.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from gateway.core import Plain, Told, read_plain
from gateway.kernel.http.admission import Ticket
from gateway.kernel.http.front import HttpFront
from gateway.kernel.http.glance import glance
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.routes import Route

log = structlog.get_logger("http")

# They must differ: see `_Connection.handle_error`.
_LINE_BYTES_MAX = 8190
_HEADER_BYTES_MAX = 8192
_READ_ERRORS = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload-too-large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "uri-too-long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "header-too-large",
    HTTPStatus.REQUEST_TIMEOUT: "request-timeout",
}
# How long the rest of a plain request is waited for before a parser, which has time-outs of its
# own, takes over; and in how many pieces it may come.
PIECES_WAIT_S = 1.0
PIECES_MAX = 8
# What may come of the next requests while one is answered; the rest waits in the socket.
_HELD_BYTES_MAX = 65_536
# Longer than any request is answered for.
_WHILE_ANSWERING_S = 3_600.0
# Over 128: the parser's exception has no other mark.
_TOO_MANY_HEADERS = "Too many headers"
# How long the rest of a refused request is read, so that its client can read the answer.
_LINGERING_S = 2.0
# The first lines of hot routes are shorter.
_FIRST_LINE_BYTES_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections there may be, and how slow.

    Args:
        connections_max: of this worker; one more is closed as it comes.
        head_timeout_s: from the first byte of a request to the end of its head; then 408.
        idle_timeout_s: without a request; then it is closed.
    """

    connections_max: int = 10_000
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0


class _Connection(web.RequestHandler):
    """aiohttp's connection, whose own errors are problems.

    One request is answered at a time, by this class or by aiohttp; what comes meanwhile is held
    back from the one that does not answer.
    """

    __slots__ = (
        "_answered",
        "_answering",
        "_body",
        "_front",
        "_head_timer",
        "_held",
        "_is_between",
        "_is_holding",
        "_is_to_close",
        "_pieces",
        "_pieces_timer",
        "_server",
        "_ticket",
    )

    def __init__(self, server: "HttpServer", **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server
        self._front = server.front
        # Of the last request that the parser has seen the head of.
        self._body: StreamReader | None = None
        # Runs while the parser has the beginning of a head.
        self._head_timer: asyncio.TimerHandle | None = None
        # The parser's buffer is empty: what comes next is the start of a request.
        self._is_between = True
        # Requests of aiohttp's whose answers were handed to the socket, of `_request_count`.
        self._answered = 0
        # Of a request that was let in by its first bytes, and is not looked at yet.
        self._ticket: Ticket | None = None
        # The beginning of a plain request.
        self._pieces: list[bytes] = []
        self._pieces_timer: asyncio.TimerHandle | None = None
        # What answers a plain request, and what came meanwhile.
        self._answering: asyncio.Task[None] | None = None
        self._held: list[bytes] = []
        self._is_holding = False
        self._is_to_close = False

    def data_received(self, data: bytes) -> None:
        """Take bytes: answer a plain request, turn one away, or leave them to the parser."""
        if not data:
            # Nothing came: the parser is asked for what it has kept.
            self._feed(data)
        elif self._answering is not None:
            self._hold(data)
        elif not (self._is_between and self._is_idle()):
            self._is_between = False
            data = self._joined(data)
            self._pieces.clear()
            self._feed(data)
        else:
            data = self._joined(data)
            if not self._is_taken(data):
                self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Leave bytes to the parser, unless the door turns their request away."""
        self._pieces.clear()
        seen = glance(data)
        if seen is not None and self._front.door.is_pressed:
            door, priority = self._front.door, self._front.priority_of(seen)
            if priority is not None:
                if not door.admits(priority):
                    self._turn_away(seen.request_id or self._front.request_id_of("").encode())
                    return
                self._give_up_ticket()
                self._ticket = door.enter(priority)
        self._feed(data)
        # One plain request went in and came out as one, body and all: nothing of it is left.
        self._is_between = (
            seen is not None and len(self._messages) == 1 and self._messages[0][1].is_eof()
        )

    def _feed(self, data: bytes) -> None:
        """Give the parser bytes; what is the beginning of a head has so long to end."""
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._body = self._messages[-1][1]
        if not self._is_in_head():
            self._stop_head_timer()
        elif self._head_timer is None:
            late_s = self._server.limits.head_timeout_s
            self._head_timer = self._loop.call_later(late_s, self._refuse_late_head)

    def _refuse_late_head(self) -> None:
        self._head_timer = None
        if self._is_in_head():
            assert self.transport is not None, "it is idle, and not closed"
            problem = Problem("request-timeout", "The request's head did not arrive in time.")
            self.transport.write(self._front.last_words(problem))
            self.force_close()

    def _is_in_head(self) -> bool:
        """Whether what comes now belongs to a head, and not to a body that is thrown away."""
        return self._is_idle() and (self._body is None or self._body.is_eof())

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_idle(self) -> bool:
        """Whether every request was answered, so that another answer may be written now."""
        return (
            self._answered == self._request_count
            and self.transport is not None
            and not self._paused
            and not self._upgraded
            and not (self._force_close or self._close)
        )

    def _turn_away(self, request_id: bytes) -> None:
        assert self.transport is not None, "it has just received something"
        self.transport.write(self._front.shed_answer.raw(request_id))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    # Plain requests.

    def _is_taken(self, data: bytes) -> bool:
        """Take a plain request of a hot route, whole or its beginning; False leaves all of it."""
        front = self._front
        line_ends_at = data.find(b"\r\n", 0, _FIRST_LINE_BYTES_MAX)
        route = front.plain_routes.get(data[:line_ends_at]) if line_ends_at > 0 else None
        if route is None:
            return False
        plain = read_plain(data, line_ends_at, front.body_bytes_max)
        if not isinstance(plain, Plain):
            return plain == Told.UNFINISHED and self._wait_for_more(data)
        self._pieces.clear()
        if front.door.admits(route.priority):
            self._next_keepalive_close_time = self._loop.time() + _WHILE_ANSWERING_S
            ticket = front.door.enter(route.priority)
            self._answering = self._loop.create_task(self._answer(route, ticket, plain))
        else:
            given = plain.named.get(b"x-request-id", b"").decode()
            self._turn_away(front.request_id_of(given).encode())
        return True

    async def _answer(self, route: Route, ticket: Ticket, plain: Plain) -> None:
        peer = self.peername
        address = str(peer[0]) if isinstance(peer, tuple) else peer or ""
        try:
            answer = await self._front.handle_plain(route, ticket, plain, address)
            if self.transport is not None:
                self.transport.write(answer)
            if self._front.is_draining:
                self.force_close()
        except BaseException as error:
            # Without an answer the next one would be taken for it.
            self.force_close()
            if not isinstance(error, Exception):
                raise
            log.exception("a plain request was not answered")
        finally:
            self._answering = None
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._is_to_close:
            super().close()
        held, self._held = b"".join(self._held), []
        if self._is_holding:
            self._is_holding = False
            if self.transport is not None:
                self.transport.resume_reading()
        if held:
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        """Keep what came while a plain request is answered."""
        self._held.append(data)
        if not self._is_holding and sum(map(len, self._held)) > _HELD_BYTES_MAX:
            self._is_holding = True
            if self.transport is not None:
                self.transport.pause_reading()

    def _wait_for_more(self, data: bytes) -> bool:
        """Keep the beginning of a plain request; False when it has come in too many pieces."""
        if len(self._pieces) >= PIECES_MAX:
            return False
        # One text of everything so far, and a mark for each piece that it came in.
        self._pieces = [data, *([b""] * len(self._pieces))]
        if self._pieces_timer is None:
            self._pieces_timer = self._loop.call_later(PIECES_WAIT_S, self._leave_pieces)
        return True

    def _joined(self, data: bytes) -> bytes:
        """Return what came, after the pieces that came before."""
        return b"".join(self._pieces) + data if self._pieces else data

    def _leave_pieces(self) -> None:
        """Leave a request whose end does not come to the parser, and to its time-outs."""
        self._pieces_timer = None
        if self._pieces and self._answering is None:
            data = self._joined(b"")
            self._pieces.clear()
            self._is_between = False
            self._feed(data)

    def close(self) -> None:
        """Close once what is being answered is answered."""
        if self._answering is not None:
            self._is_to_close = True
        else:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # its name
        """Wait for what is being answered, then close."""
        if self._answering is not None:
            self._is_to_close = True
            _, late = await asyncio.wait({self._answering}, timeout=timeout)
            for task in late:
                task.cancel()
        await super().shutdown(timeout)

    # aiohttp's requests.

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        return finished

    def take_ticket(self) -> Ticket | None:
        """Return the place that the request about to be looked at was given, if it was."""
        ticket, self._ticket = self._ticket, None
        return ticket

    def _give_up_ticket(self) -> None:
        """Give back the place of what came, and never was a request."""
        ticket = self.take_ticket()
        if ticket is not None:
            ticket.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections_count += 1
        if self._server.connections_count > self._server.limits.connections_max:
            self._server.refused_count += 1
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._give_up_ticket()
        self._stop_head_timer()
        if self._pieces_timer is not None:
            self._pieces_timer.cancel()
        self._server.left()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was begun and cannot become another")
        slug = _READ_ERRORS.get(HTTPStatus(status), "malformed-request")
        if isinstance(exc, LineTooLong):
            # The exception says which bound was passed, and nothing else tells the two apart.
            slug = "uri-too-long" if exc.args[1] == _LINE_BYTES_MAX else "header-too-large"
        elif isinstance(exc, BadHttpMessage) and exc.message.startswith(_TOO_MANY_HEADERS):
            slug = "header-too-large"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            slug = "internal-error"
            log.error("the server failed", exc_info=exc)
        problem = Problem(slug, "The request could not be read as HTTP/1.1.")
        request_id = self._front.request_id_of("")
        answer = self._front.aiohttp_response(problem.response(request_id), request_id)
        answer.force_close()
        return answer


class HttpServer(web.Server):
    """aiohttp's low-level server over an `HttpFront`.

    Attributes:
        connections_count: open ones.
        refused_count: those that were too many.
    """

    def __init__(self, front: HttpFront, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(self._handle, **settings)
        self.front = front
        self.limits = limits
        self.connections_count = 0
        self.refused_count = 0
        self._is_empty = asyncio.Event()

    def left(self) -> None:
        """Count a connection that was closed."""
        self.connections_count -= 1
        if self.connections_count == 0:
            self._is_empty.set()

    async def drain(self, *, within_s: float) -> None:
        """Have every answer from now on be its connection's last; wait until none is left.

        Args:
            within_s: after which those that asked nothing meanwhile are left to be closed.
        """
        self.front.is_draining = True
        self._is_empty.clear()
        if self.connections_count:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._is_empty.wait()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        connection = http.protocol
        assert isinstance(connection, _Connection), "this server makes all of its connections"
        return await self.front.handle(http, connection.take_ticket())

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def make_server(front: HttpFront, limits: ConnectionLimits | None = None) -> HttpServer:
    """Return a server that never decompresses, never logs an access, and closes idle peers."""
    limits = limits or ConnectionLimits()
    return HttpServer(
        front,
        limits,
        access_log=None,
        keepalive_timeout=limits.idle_timeout_s,
        lingering_time=_LINGERING_S,
        auto_decompress=False,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_HEADER_BYTES_MAX,
    )
