"""The HTTP side of a scheme: one low-level aiohttp server, its faults, and its control routes.

It knows no protocol. A scheme reads a request into a `Call` and runs it, synchronously: what is
recorded and what is answered cannot be torn apart by a client that goes away.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, Protocol

from aiohttp import web

from connectors.simulators.control import CONTROL_PREFIX, Control
from connectors.simulators.faults import Drawn, Faults

DROPPED_HELD_S = 60.0
KEEPALIVE_S = 3600.0
GARBAGE = b"\x00\xff<\x01{garbage\xfe\xfd"


class Reply(NamedTuple):
    """An HTTP answer of a scheme."""

    body: bytes
    status: int
    content_type: str


@dataclass(slots=True)
class Call:
    """One request, understood but not yet done.

    Attributes:
        names: what a fault's `method` may call it.
        is_money: whether faults without a method concern it.
        amount: minor units, for faults by amount.
        is_keyed: whether a second delivery is recognised by its key.
        run: does it; takes the code to refuse with (or None) and what to add to the amounts told.
    """

    names: tuple[str, ...]
    is_money: bool
    amount: int
    is_keyed: bool
    run: Callable[[str | None, int], Reply]


class HttpScheme(Protocol):
    """What a scheme behind this front does."""

    def read(self, path: str, headers: Mapping[str, str], body: bytes) -> Call | Reply:
        """Understand a request, or answer at once what is wrong with it."""
        ...


class HttpFront:
    """Serves one scheme, and its control routes beneath `/_sim/`.

    Args:
        scheme: None for a port that has control routes alone.
    """

    def __init__(self, scheme: HttpScheme | None, faults: Faults, control: Control) -> None:
        self._scheme = scheme
        self._faults = faults
        self._control = control
        self._dropped: set[asyncio.Task[Reply]] = set()

    def server(self) -> web.Server:
        """Make the server. A handler is cancelled when its client goes away."""
        return web.Server(
            self.handle,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_field_size=16 * 1024,
            handler_cancellation=True,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        # The raw path spares parsing a URL for every message; control routes need the query.
        path = request.raw_path
        body = await request.read()
        if path.startswith(CONTROL_PREFIX):
            path = request.path
            answer = self._control.answer(request.method, path, request.query, body)
            return web.Response(
                body=answer.body, status=answer.status, content_type=answer.content_type
            )
        if self._scheme is None or request.method != "POST":
            return web.Response(status=404 if self._scheme is None else 405)
        call = self._scheme.read(path, request.headers, body)
        if isinstance(call, Reply):
            return _response(call)
        if self._faults.is_armed:
            drawn = self._faults.draw(call.names, call.is_money, call.amount)
            if drawn is not None:
                return await self._answer_badly(request, call, drawn)
        return _response(call.run(None, 0))

    async def _answer_badly(
        self, request: web.BaseRequest, call: Call, drawn: Drawn
    ) -> web.StreamResponse:
        if drawn.delay_s:
            # A processor goes on with what it received, whether or not the client still waits.
            task = asyncio.create_task(_run_later(call, drawn))
            self._dropped.add(task)
            task.add_done_callback(self._dropped.discard)
            reply = await asyncio.shield(task)
        else:
            reply = _run(call, drawn)
        if drawn.kind in ("drop_request", "drop_reply_after_commit"):
            await asyncio.sleep(DROPPED_HELD_S)
            if request.transport is not None:
                request.transport.abort()
        return _response(reply)


async def _run_later(call: Call, drawn: Drawn) -> Reply:
    await asyncio.sleep(drawn.delay_s)
    return _run(call, drawn)


def _run(call: Call, drawn: Drawn) -> Reply:
    match drawn.kind:
        case "drop_request":
            return Reply(b"", 503, "text/plain")
        case "decline":
            return call.run(drawn.code, 0)
        case "wrong_amount":
            return call.run(None, 1)
        case "duplicate_reply":
            first = call.run(None, 0)
            # Delivered twice: the answer of the second delivery is the one that arrives.
            return call.run(None, 0) if call.is_keyed else first
        case "garbage":
            return call.run(None, 0)._replace(body=GARBAGE, status=200)
    return call.run(None, 0)


class ReadyResponse(web.StreamResponse):
    """A reply written in one piece: aiohttp's header machinery costs more than making it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status=reply.status)
        self._reply = reply

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write status line, headers and body.

        Raises:
            ConnectionResetError: the client is gone.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("client is gone")
        reply = self._reply
        self._keep_alive = request.keep_alive
        connection = "" if request.keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
            f"Content-Type: {reply.content_type}; charset=utf-8\r\n{connection}"
            f"Content-Length: {len(reply.body)}\r\n\r\n"
        )
        transport.write(head.encode() + reply.body)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _response(reply: Reply) -> ReadyResponse:
    return ReadyResponse(reply)
