"""A front over a real socket with a few routes of its own, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import settings as settings_module
from gateway.core import Core
from gateway.kernel.clock import system_clock
from gateway.kernel.crew import Crew
from gateway.kernel.errors import Unavailable
from gateway.kernel.http import system
from gateway.kernel.http.edge import Edge
from gateway.kernel.http.front import HttpFront, first_lines
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import body_as, form_as, query_as
from gateway.kernel.http.routes import Route, RouteTable
from gateway.kernel.http.server import ConnectionLimits, make_server
from gateway.kernel.metrics import Metrics
from tests.cores import rules_of

BODY_BYTES_MAX = 2_000
READ_TIMEOUT_S = 10.0
LEAK = "password=hunter2"


class EchoBody(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=20)]
    amount: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    tags: list[str] = []


class EchoForm(msgspec.Struct, forbid_unknown_fields=True):
    grant_type: str
    ttl: Annotated[int, msgspec.Meta(ge=1)] = 60


class EchoQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class EchoView(msgspec.Struct):
    body: Any
    request_id: str
    deadline_ms: int | None
    params: dict[str, str]
    sub: str | None


def _view(request: Request, body: object = None) -> Response:
    sub = request.claims.sub if request.claims is not None else None
    view = EchoView(body, request.request_id, request.deadline_ms, request.params, sub)
    return json_response(200, view)


class Handlers:
    """What the routes do.

    Attributes:
        entered: set when `wait` runs; `release` lets it end.
    """

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def echo(self, request: Request) -> Response:
        return _view(request)

    async def json(self, request: Request) -> Response:
        return _view(request, body_as(request, EchoBody))

    async def form(self, request: Request) -> Response:
        return _view(request, form_as(request, EchoForm))

    async def query(self, request: Request) -> Response:
        return _view(request, query_as(request, EchoQuery))

    async def crash(self, request: Request) -> Response:
        raise ValueError(LEAK)

    async def away(self, request: Request) -> Response:
        raise Unavailable(LEAK)

    async def wait(self, request: Request) -> Response:
        self.entered.set()
        await self.release.wait()
        return _view(request)


def room(handlers: Handlers) -> list[Route]:
    """Return one route of each kind."""

    def route(method: str, path: str, handler: Any, **more: Any) -> Route:
        defaults: dict[str, Any] = {
            "summary": f"{method} {path}",
            "tag": "echo",
            "scope": None,
            "answers": {200: EchoView},
        }
        return Route(method=method, path=path, handler=handler, **(defaults | more))

    return [
        route("GET", "/v1/echo", handlers.query, query=EchoQuery),
        route("POST", "/v1/echo", handlers.json, body=EchoBody, is_idempotent=True),
        route("POST", "/v1/form", handlers.form, form=EchoForm),
        route("GET", "/v1/things/{id}", handlers.echo, problems=("not-found",)),
        route("DELETE", "/v1/things/{id}", handlers.echo, answers={204: None}),
        route("GET", "/v1/any-token", handlers.echo, scope=""),
        route("GET", "/v1/scoped", handlers.echo, scope="things:read"),
        route("POST", "/v1/crash", handlers.crash),
        route("POST", "/v1/away", handlers.away),
        route("GET", "/v1/wait", handlers.wait),
    ]


def make_core(settings: settings_module.Settings | None = None) -> Core:
    """Return a core with the rules of `config/` and no keys."""
    settings = settings or settings_module.load({})
    return Core(
        rules=rules_of(settings),
        generation=1,
        routing=settings.routing,
        issuer=settings.identity.issuer,
        audience=settings.identity.audience,
        lookup_key=b"l" * 32,
        quote_key=b"q" * 32,
        quote_ttl_ms=300_000,
        feed_age_ms_max=5_000,
        token_cache_size_max=100,
        card_cache_size_max=100,
        subject_cache_size_max=100,
    )


class Issuer:
    """Signs access tokens with a key that the core was told of."""

    def __init__(self, core: Core) -> None:
        self._key = Ed25519PrivateKey.generate()
        core.add_key("test", self._key.public_key().public_bytes_raw())
        self._identity = settings_module.load({}).identity

    def token(self, scope: str, *, ttl_s: int = 300) -> str:
        """Return a token of `usr_1` that permits `scope`."""
        now_s = int(time.time())
        claims = {
            "iss": self._identity.issuer,
            "aud": self._identity.audience,
            "sub": "usr_1",
            "client_id": "mobile",
            "scope": scope,
            "jti": f"jti-{scope}-{ttl_s}",
            "iat": now_s - 1000,
            "exp": now_s + ttl_s,
        }
        header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "test"}
        signed = b".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
            for part in (header, claims)
        )
        signature = base64.urlsafe_b64encode(self._key.sign(signed)).rstrip(b"=")
        return (signed + b"." + signature).decode()


@dataclass(slots=True)
class Answer:
    """One HTTP answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass(slots=True)
class Front:
    """A running front."""

    port: int
    handlers: Handlers
    issuer: Issuer
    metrics: Metrics
    routes: list[Route]

    async def send(
        self, raw: bytes, *, until_closed: bool = False, has_body: bool = True
    ) -> Answer:
        """Send bytes on a connection of their own and return the first answer.

        Args:
            has_body: false for the answer to a HEAD, whose length is that of another answer.
            until_closed: also wait until the server has closed, with nothing after the answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                writer.write(raw)
                answer = await read_answer(reader, has_body=has_body)
                if until_closed:
                    assert await reader.read() == b""
                return answer
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def call(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Answer:
        """Make one request; Content-Length is added when there is a body."""
        lines = [f"{method} {target} HTTP/1.1", "Host: oqim"]
        lines.extend(f"{name}: {value}" for name, value in headers)
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return await self.send(head + body, has_body=method != "HEAD")

    async def post_json(self, target: str, body: bytes | object) -> Answer:
        """POST a body as JSON; bytes go as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.call("POST", target, [("Content-Type", "application/json")], raw)


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> Answer:
    """Read one answer that has a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0")) if has_body else 0
    raw = await reader.readexactly(length)
    return Answer(int(first.split()[1]), headers, raw)


def assert_problem(answer: Answer, slug: str) -> None:
    """Assert that an answer is this problem, complete and in the form all problems have."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem = answer.body
    assert slug == problem["code"], problem
    assert f"/problems/{slug}" == problem["type"]
    assert answer.status == problem["status"]
    assert problem["title"]
    assert problem["detail"]
    assert isinstance(problem["retryable"], bool)
    assert problem["request_id"]
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert set(problem) <= {
        "type", "title", "status", "detail", "code", "request_id", "retryable", "errors",
    }  # fmt: skip


@asynccontextmanager
async def running_front(
    *,
    in_flight_max: int = 100,
    body_timeout_s: float = 20.0,
    checks: Mapping[str, system.Check] | None = None,
    edge: Edge | None = None,
    limits: ConnectionLimits | None = None,
    tls: ssl.SSLContext | None = None,
    is_plain: bool = False,
) -> AsyncIterator[Front]:
    """Serve the routes of `room` and the system's on a port of the machine's choice.

    Args:
        is_plain: plain requests of any route are answered without a parser.
    """
    handlers, metrics, core = Handlers(), Metrics(), make_core()
    own, crew = room(handlers), Crew({})
    await crew.open(metrics.text)
    routes = [
        *own,
        *system.routes(own, version="1.2.3", metrics=crew.exposition, checks=checks or {}),
    ]
    front = HttpFront(
        RouteTable(routes),
        core,
        system_clock,
        metrics,
        body_bytes_max=BODY_BYTES_MAX,
        in_flight_max=in_flight_max,
        body_timeout_s=body_timeout_s,
        edge=edge,
    )
    if is_plain:
        front.plain_routes = first_lines(routes)
    runner = web.ServerRunner(make_server(front, limits), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        yield Front(port, handlers, Issuer(core), metrics, routes)
    finally:
        handlers.release.set()
        await runner.cleanup()
