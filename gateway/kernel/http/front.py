"""The HTTP front: from what was asked to what is answered, whoever reads the bytes.

Finds the route, lets the door decide, hands the handler a `Request`, and turns everything that
can go wrong into `application/problem+json`. It has no middleware. `server` carries it over aiohttp
and, for the plain requests of hot routes, over bare bytes: both call `answer`, so that a request is
answered alike.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any

import redis.exceptions
import structlog
from aiohttp import web

from gateway.core import Core, Plain, RawAnswers, Refusal
from gateway.kernel.clock import Clock
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.admission import CURRENT, Door, DoorPolicy, Priority, Ticket
from gateway.kernel.http.edge import NOT_SHARED, Edge, Shared
from gateway.kernel.http.glance import Glance
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.peers import met
from gateway.kernel.http.problems import (
    Problem,
    RefusedByCore,
    refused_by_core,
    response_of,
)
from gateway.kernel.http.routes import Found, Route, RouteTable
from gateway.kernel.http.shed import ShedAnswer
from gateway.kernel.ids import new_id
from gateway.kernel.metrics import Metrics

log = structlog.get_logger("http")

_AWAY = (Unavailable, *CONNECTION_LOST, redis.exceptions.RedisError)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_DEADLINE = re.compile(r"[1-9][0-9]{0,8}\Z")
_ACCEPTED = ("application/json", "application/problem+json", "application/*", "*/*")
_REASONS = {status.value: status.phrase for status in HTTPStatus}
# A body of at most 64 KiB arrives in far less; one that does not holds a place in flight.
BODY_TIMEOUT_S = 20.0
# How long a report waits for the ones before it.
REPORT_WAIT_S = 1.0
# A client that takes nothing of a stream for so long is taken to be gone.
STREAM_WRITE_TIMEOUT_S = 20.0


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
        is_plain: whether plain requests of hot routes are answered without a parser.
        edge: what answers carry for browsers, and which pages may ask.
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
        is_plain: bool = True,
        edge: Edge | None = None,
    ) -> None:
        self._table = table
        self._core = core
        self._clock = clock
        self.metrics = metrics
        self.body_bytes_max = body_bytes_max
        # Those whose plain requests are answered without a parser, by their first lines.
        self.plain_routes = first_lines([one for one in table.routes if is_plain and one.is_hot])
        self.door = door or Door(DoorPolicy(in_flight_max=in_flight_max))
        self._edge = edge or Edge()
        self._raw = RawAnswers(list(self._edge.headers.items()))
        self.shed_answer = ShedAnswer(self._edge.headers)
        self._reports = asyncio.Semaphore(reports_at_once)
        self._body_timeout_s = body_timeout_s
        # The connections that carry streams.
        self._streaming: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        # Every answer is its connection's last.
        self.is_draining = False

    async def handle(self, http: web.BaseRequest, ticket: Ticket | None) -> web.StreamResponse:
        """Answer one aiohttp request.

        Args:
            ticket: its place, if it was let in by its first bytes.
        """
        met(http.remote or "")
        request_id = self.request_id_of(http.headers.get("X-Request-Id", ""))
        found = self._table.find(http.method, http.path)
        route = found.route if isinstance(found, Found) else None
        if ticket is None:
            priority = Priority.READ if route is None else route.priority
            if not self.door.admits(priority):
                return self.aiohttp_response(self.shed_answer.response(request_id), request_id)
            ticket = self.door.enter(priority)

        # What lets a page of another origin read the answer.
        shared = NOT_SHARED

        async def answered() -> Response | Stream:
            nonlocal shared
            origin = http.headers.get("Origin")
            if origin is not None:
                if _is_preflight(http):
                    return self._preflight(origin, found)
                shared = self._edge.admit(http.method, origin, http.headers.get("Host"))
            known = _routed(found)
            return await self._serve(known.route, await self._read(http, known, request_id))

        response = await self.answer(route, ticket, request_id, http.method, answered)
        if isinstance(response, Stream):
            return await self._stream(http, response, request_id, shared)
        return self.aiohttp_response(response, request_id, shared)

    async def handle_plain(self, route: Route, ticket: Ticket, plain: Plain, peer: str) -> bytes:
        """Answer one plain request; returns the answer's bytes.

        What its head says was looked at where it was read: there is nothing more to refuse in it
        than its deadline.
        """
        met(peer)
        given = plain.named.get(b"x-request-id", b"").decode()
        request_id = self.request_id_of(given)

        async def answered() -> Response | Stream:
            request = Request(
                method=route.method,
                path=route.path,
                raw_headers=plain.headers,
                query="",
                body=plain.body,
                request_id=request_id,
                received_at_ms=self._clock(),
            )
            if b"deadline-ms" in plain.named:
                request.deadline_ms = _deadline_of(request)
            return await self._serve(route, request)

        response = await self.answer(route, ticket, request_id, route.method, answered)
        assert isinstance(response, Response), "a hot route's answer has an end"
        return self._raw_of(response, request_id, is_last=self.is_draining)

    def _raw_of(self, answer: Response, request_id: str, *, is_last: bool) -> bytes:
        return self._raw.write(
            answer.status,
            _REASONS[answer.status],
            answer.content_type,
            request_id,
            (*answer.headers, ("Connection", "close")) if is_last else answer.headers,
            answer.body,
            self._clock() // 1_000,
        )

    async def answer(
        self,
        route: Route | None,
        ticket: Ticket,
        request_id: str,
        method: str,
        answered: Callable[[], Awaitable[Response | Stream]],
    ) -> Response | Stream:
        """Await an answer; whatever is raised instead becomes a problem. Never raises.

        Args:
            route: None when there is no such route.
            ticket: the request's place, given back here.
            answered: makes the answer.
        """
        ticket.task = asyncio.current_task()
        CURRENT.set(ticket)
        name = "none" if route is None else route.path
        response: Response | Stream
        try:
            if ticket.priority is Priority.REPORT:
                async with self._turn():
                    response = await answered()
            else:
                response = await answered()
        except Problem as problem:
            response = problem.response(request_id)
        except RefusedByCore as refused:
            response = response_of(refused, request_id)
        except web.HTTPRequestEntityTooLarge:
            response = self._too_large().response(request_id)
        except _AWAY as error:
            log.warning("something needed is away", route=name, error=repr(error))
            detail = "Something the gateway needs is away; try again with the same key."
            response = Problem("unavailable", detail).response(request_id)
        except Exception:
            log.exception("a handler failed", route=name, request_id=request_id)
            detail = "The gateway has a fault; it has been recorded under the request's id."
            response = Problem("internal-error", detail).response(request_id)
        finally:
            spent_s = ticket.close()
        status = HTTPStatus.OK if isinstance(response, Stream) else response.status
        self.metrics.observe_request(method, name, status, spent_s)
        return response

    async def _stream(
        self, http: web.BaseRequest, stream: Stream, request_id: str, shared: Shared
    ) -> web.StreamResponse:
        """Write a stream's chunks until it ends, its client goes away, or the process stops."""
        headers = self._headers_of(stream, request_id)
        headers.update(shared)
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

    def request_id_of(self, given: str) -> str:
        """Return the client's own id of a request, or a new one where it gave none that is fit."""
        return given if _REQUEST_ID.match(given) else new_id("req_", self._clock())

    def _headers_of(self, answer: Response | Stream, request_id: str) -> dict[str, str]:
        return {
            "Content-Type": answer.content_type,
            "X-Request-Id": request_id,
        } | self._edge.headers

    def _preflight(self, origin: str, found: Found | list[str] | None) -> Response:
        # OPTIONS is no route: what is found names the methods that are.
        if not isinstance(found, list):
            raise Problem("not-found", "There is no such path.")
        return Response(HTTPStatus.NO_CONTENT, b"", self._edge.preflight(origin, found))

    def last_words(self, problem: Problem) -> bytes:
        """Return an answer, as bytes, after which the connection is closed."""
        request_id = self.request_id_of("")
        return self._raw_of(problem.response(request_id), request_id, is_last=True)

    def aiohttp_response(
        self, response: Response, request_id: str, shared: Shared = NOT_SHARED
    ) -> web.Response:
        """Return an answer as aiohttp writes it.

        Args:
            shared: what lets a page of another origin read it.
        """
        headers = self._headers_of(response, request_id)
        headers.update(shared)
        headers.update(response.headers)
        answer = web.Response(status=response.status, body=response.body, headers=headers)
        if self.is_draining or response.status == HTTPStatus.REQUEST_TIMEOUT:
            # After a time-out, what is still to come of the request would be read as the next one.
            answer.force_close()
        return answer

    async def _serve(self, route: Route, request: Request) -> Response | Stream:
        if not route.is_hot and route.scope is not None:
            claims = self._core.authorize(request.raw_headers, route.scope, request.received_at_ms)
            if isinstance(claims, Refusal):
                raise refused_by_core(claims, request.raw_headers)
            request.claims = claims
        return await route.handler(request)

    async def _read(self, http: web.BaseRequest, found: Found, request_id: str) -> Request:
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
            body = await self._read_body(http)
            if len(body) > self.body_bytes_max:
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
        return request

    async def _read_body(self, http: web.BaseRequest) -> bytes:
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
        if length is not None and length > self.body_bytes_max:
            raise self._too_large()

    def _too_large(self) -> Problem:
        detail = f"The body may have {self.body_bytes_max} bytes at most."
        return Problem("payload-too-large", detail)


def first_lines(routes: Iterable[Route]) -> dict[bytes, Route]:
    """Return routes by the first lines of their plain requests; a path with names has none."""
    return {
        f"{route.method} {route.path} HTTP/1.1".encode(): route
        for route in routes
        if "{" not in route.path
    }


def _is_preflight(http: web.BaseRequest) -> bool:
    return http.method == "OPTIONS" and "Access-Control-Request-Method" in http.headers


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
