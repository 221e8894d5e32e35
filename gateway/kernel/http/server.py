"""The HTTP front: one low-level aiohttp handler, no middleware.

Takes bytes, finds the route, hands the handler a `Request`, writes its `Response`. Every error,
the framework's own included, leaves as `application/problem+json`. Whom the door turns away is
answered before anything is read or parsed, where the bytes allow it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any

import redis.exceptions
import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway.core import Core, Refusal
from gateway.kernel.clock import Clock, system_clock
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.admission import CURRENT, Door, DoorPolicy, Priority, Ticket
from gateway.kernel.http.glance import Glance, glance
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.problems import Problem, RefusedByCore, response_of
from gateway.kernel.http.routes import Found, RouteTable
from gateway.kernel.http.shed import ShedAnswer
from gateway.kernel.ids import new_id
from gateway.kernel.metrics import Metrics

log = structlog.get_logger("http")

_AWAY = (Unavailable, *CONNECTION_LOST, redis.exceptions.RedisError)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_DEADLINE = re.compile(r"[1-9][0-9]{0,8}\Z")
_ACCEPTED = ("application/json", "application/problem+json", "application/*", "*/*")
# A body of at most 64 KiB arrives in far less; one that does not holds a place in flight.
BODY_TIMEOUT_S = 20.0
# How long a report waits for the ones before it.
REPORT_WAIT_S = 1.0
# A client that takes nothing of a stream for so long is taken to be gone.
STREAM_WRITE_TIMEOUT_S = 20.0
# They must differ: see `_Connection.handle_error`.
_LINE_BYTES_MAX = 8190
_HEADER_BYTES_MAX = 8192
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Instead of the library and its version.
    "Server": "oqim",
}
_READ_ERRORS = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload-too-large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "uri-too-long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "header-too-large",
    HTTPStatus.REQUEST_TIMEOUT: "request-timeout",
}


class HttpFront:
    """Dispatches requests to routes.

    Args:
        table: every route of the process.
        core: authorizes routes that are not hot.
        body_bytes_max: bodies over it are refused, as far as possible before they are read.
        door: decides who comes in; by default one that lets `in_flight_max` in.
        reports_at_once: reports that are made at the same time, so that what holds the database
            for long leaves it to others; more wait their turn for a second.
        body_timeout_s: a body that has not arrived by then is answered 408.
    """

    def __init__(
        self,
        table: RouteTable,
        core: Core,
        clock: Clock,
        metrics: Metrics,
        *,
        body_bytes_max: int,
        in_flight_max: int = 4_096,
        door: Door | None = None,
        reports_at_once: int = 2,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._table = table
        self._core = core
        self._clock = clock
        self._metrics = metrics
        self._body_bytes_max = body_bytes_max
        self.door = door or Door(DoorPolicy(in_flight_max=in_flight_max))
        self.shed_answer = ShedAnswer(_HEADERS)
        self._reports = asyncio.Semaphore(reports_at_once)
        self._body_timeout_s = body_timeout_s
        # The connections that carry streams.
        self._streaming: set[asyncio.Task[Any]] = set()
        self._is_stopping = False

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one aiohttp request."""
        connection = http.protocol
        ticket = connection.take_ticket() if isinstance(connection, _Connection) else None
        request_id = http.headers.get("X-Request-Id", "")
        if not _REQUEST_ID.match(request_id):
            request_id = new_id("req_", self._clock())
        found = self._table.find(http.method, http.path)
        route_name, priority = "none", Priority.READ
        if isinstance(found, Found):
            route_name, priority = found.route.path, found.route.priority
        if ticket is None:
            if not self.door.admits(priority):
                return _aiohttp_response(self.shed_answer.response(request_id), request_id)
            ticket = self.door.enter(priority)
        ticket.task = asyncio.current_task()
        CURRENT.set(ticket)
        response: Response | Stream
        try:
            if priority is Priority.REPORT:
                async with self._turn():
                    response = await self._answer(http, _routed(found), request_id)
            else:
                response = await self._answer(http, _routed(found), request_id)
        except Problem as problem:
            response = problem.response(request_id)
        except RefusedByCore as refused:
            response = response_of(refused, request_id)
        except web.HTTPRequestEntityTooLarge:
            response = self._too_large().response(request_id)
        except _AWAY as error:
            log.warning("something needed is away", route=route_name, error=repr(error))
            detail = "Something the gateway needs is away; try again with the same key."
            response = Problem("unavailable", detail).response(request_id)
        except Exception:
            log.exception("a handler failed", route=route_name, request_id=request_id)
            detail = "The gateway has a fault; it has been recorded under the request's id."
            response = Problem("internal-error", detail).response(request_id)
        finally:
            spent_s = ticket.close()
        status = HTTPStatus.OK if isinstance(response, Stream) else response.status
        self._metrics.observe_request(http.method, route_name, status, spent_s)
        if isinstance(response, Stream):
            return await self._stream(http, response, request_id)
        return _aiohttp_response(response, request_id)

    async def _stream(
        self, http: web.BaseRequest, stream: Stream, request_id: str
    ) -> web.StreamResponse:
        """Write a stream's chunks until it ends, its client goes away, or the process stops."""
        headers = _headers(stream.content_type, request_id)
        # A proxy that gathers what it passes on would keep it from the client.
        headers["X-Accel-Buffering"] = "no"
        answer = web.StreamResponse(headers=headers)
        answer.force_close()
        task = asyncio.current_task()
        assert task is not None, "a request is handled in a task"
        self._streaming.add(task)
        try:
            await answer.prepare(http)
            async with aclosing(stream.chunks) as chunks:
                async for chunk in chunks:
                    async with asyncio.timeout(STREAM_WRITE_TIMEOUT_S):
                        await answer.write(chunk)
            await answer.write_eof()
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            task.uncancel()
            await answer.write_eof()
        except Exception as error:
            # The answer was begun and cannot become a problem: it breaks off, and the client asks
            # again. One that went away or does not read is no fault of ours.
            if not isinstance(error, (ConnectionError, TimeoutError, *_AWAY)):
                log.exception("a stream failed", request_id=request_id)
            if http.transport is not None:
                http.transport.abort()
        finally:
            self._streaming.discard(task)
            stream.on_end()
        return answer

    def end_streams(self) -> None:
        """End every stream, so that a process that stops need not wait for them."""
        self._is_stopping = True
        for task in self._streaming:
            task.cancel()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Make a report when its turn comes; turn it away when it does not come soon."""
        try:
            async with asyncio.timeout(REPORT_WAIT_S):
                await self._reports.acquire()
        except TimeoutError:
            self.door.shed[Priority.REPORT] += 1
            raise Problem("overloaded", "Too many reports are being made.") from None
        try:
            yield
        finally:
            self._reports.release()

    def priority_of(self, seen: Glance) -> Priority | None:
        """What a request that was only glanced at is for; None when there is no such route."""
        found = self._table.find(seen.method, seen.path)
        return found.route.priority if isinstance(found, Found) else None

    def new_request_id(self) -> bytes:
        return new_id("req_", self._clock()).encode()

    async def _answer(
        self, http: web.BaseRequest, found: Found, request_id: str
    ) -> Response | Stream:
        route = found.route
        if "\x00" in http.path:
            raise Problem("invalid-request", "The path holds a NUL.")
        _check_accept(http, route.media_type)
        query = http.query_string
        if query and route.query is None:
            raise Problem("invalid-query", "This route takes no query parameters.")
        body = b""
        if http.body_exists:
            self._check_before_reading(http)
            body = await self._read(http)
            if len(body) > self._body_bytes_max:
                raise self._too_large()
        request = Request(
            method=http.method,
            path=http.path,
            raw_headers=http.raw_headers,
            query=query,
            body=body,
            request_id=request_id,
            received_at_ms=self._clock(),
            params=found.params,
        )
        request.deadline_ms = _deadline_of(request)
        if route.is_hot or route.scope is None:
            return await route.handler(request)
        claims = self._core.authorize(request.raw_headers, route.scope, request.received_at_ms)
        if isinstance(claims, Refusal):
            raise RefusedByCore(claims)
        request.claims = claims
        return await route.handler(request)

    async def _read(self, http: web.BaseRequest) -> bytes:
        # Most bodies have come with their head: those need no timer.
        if http.content.is_eof():
            return await http.read()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await http.read()
        except TimeoutError:
            raise Problem("request-timeout", "The body did not arrive in time.") from None

    def _check_before_reading(self, http: web.BaseRequest) -> None:
        if "Content-Encoding" in http.headers:
            detail = "Send the body without Content-Encoding."
            raise Problem("unsupported-content-encoding", detail)
        length = http.content_length
        if length is not None and length > self._body_bytes_max:
            raise self._too_large()

    def _too_large(self) -> Problem:
        detail = f"The body may have {self._body_bytes_max} bytes at most."
        return Problem("payload-too-large", detail)


def _check_accept(http: web.BaseRequest, media_type: str) -> None:
    accept = http.headers.get("Accept")
    if accept is None or "*/*" in accept:
        return
    offered = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    family = media_type.split("/", maxsplit=1)[0] + "/*"
    if not any(part in _ACCEPTED or part in (media_type, family) for part in offered):
        raise Problem("not-acceptable", f"Send Accept: {media_type}, or none.")


def _deadline_of(request: Request) -> int | None:
    text = request.header("deadline-ms")
    if text is None:
        return None
    if text == "0":
        raise Problem("deadline-exceeded", "The deadline passed before the request came.")
    if not _DEADLINE.match(text):
        raise Problem("invalid-deadline", "Send a positive number of milliseconds.")
    return int(text)


def _routed(found: Found | list[str] | None) -> Found:
    if isinstance(found, Found):
        return found
    if found is None:
        raise Problem("not-found", "There is no such path.")
    raise Problem(
        "method-not-allowed",
        "This path does not answer this method.",
        headers=(("Allow", ", ".join(found)),),
    )


def _headers(content_type: str, request_id: str) -> dict[str, str]:
    return {"Content-Type": content_type, "X-Request-Id": request_id, **_HEADERS}


def _aiohttp_response(response: Response, request_id: str) -> web.Response:
    headers = _headers(response.content_type, request_id)
    headers.update(response.headers)
    answer = web.Response(status=response.status, body=response.body, headers=headers)
    if response.status == HTTPStatus.REQUEST_TIMEOUT:
        # What is still to come of the request would be read as the next one.
        answer.force_close()
    return answer


class _Connection(web.RequestHandler):
    """aiohttp's connection: its own errors are problems, and what the door turns away while it is
    pressed never reaches its parser.
    """

    __slots__ = ("_answered", "_front", "_is_between", "_ticket")

    def __init__(self, front: HttpFront, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._front = front
        # The parser's buffer is empty: what comes next is the start of a request.
        self._is_between = True
        # Requests whose answers were handed to the socket, of `_request_count`.
        self._answered = 0
        # Of a request that was let in by its first bytes, and is not looked at yet.
        self._ticket: Ticket | None = None

    def data_received(self, data: bytes) -> None:
        """Take bytes; while the door is pressed, look at them first."""
        if not data:
            # Nothing came: the parser is asked for what it has kept.
            super().data_received(data)
            return
        if not self._front.door.is_pressed:
            self._is_between = False
            super().data_received(data)
            return
        seen = glance(data) if self._is_idle() else None
        if seen is not None and self._is_between:
            door, priority = self._front.door, self._front.priority_of(seen)
            if priority is not None:
                if not door.admits(priority):
                    self._turn_away(seen)
                    return
                self._give_up_ticket()
                self._ticket = door.enter(priority)
        super().data_received(data)
        # One plain request went in and came out as one, body and all: nothing of it is left.
        self._is_between = (
            seen is not None and len(self._messages) == 1 and self._messages[0][1].is_eof()
        )

    def _is_idle(self) -> bool:
        """Whether every request was answered, so that another answer may be written now."""
        return (
            self._answered == self._request_count
            and self.transport is not None
            and not self._paused
            and not self._upgraded
            and not (self._force_close or self._close)
        )

    def _turn_away(self, seen: Glance) -> None:
        assert self.transport is not None, "it has just received something"
        front = self._front
        self.transport.write(front.shed_answer.raw(seen.request_id or front.new_request_id()))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

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

    def connection_lost(self, exc: BaseException | None) -> None:
        self._give_up_ticket()
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
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            slug = "internal-error"
            log.error("the server failed", exc_info=exc)
        problem = Problem(slug, "The request could not be read as HTTP/1.1.")
        request_id = new_id("req_", system_clock())
        answer = _aiohttp_response(problem.response(request_id), request_id)
        answer.force_close()
        return answer


class HttpServer(web.Server):
    """aiohttp's low-level server over an `HttpFront`."""

    def __init__(self, front: HttpFront, **settings: Any) -> None:
        super().__init__(front.handle, **settings)
        self._front = front

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._front, self, loop=self._loop, **self._kwargs)


def make_server(front: HttpFront) -> HttpServer:
    """Return a server that never decompresses, never logs an access, and closes idle peers."""
    return HttpServer(
        front,
        access_log=None,
        keepalive_timeout=75.0,
        auto_decompress=False,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_HEADER_BYTES_MAX,
    )
