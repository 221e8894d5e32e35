"""A merchant's server: keeps every request it gets and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from tests.house import House, Reply, until

Answer = Callable[[int], web.Response | Awaitable[web.Response]]
"""The number of a request, from 1, in; its answer out."""


def ok(number: int) -> web.Response:
    """Take everything."""
    return web.Response(status=204)


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def timestamp(self) -> int:
        return int(self.headers["webhook-timestamp"])

    @property
    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def payment(self) -> str:
        return str(self.body["data"]["id"])

    @property
    def sequence(self) -> int:
        return int(self.body["data"]["sequence"])


@dataclass(slots=True)
class Receiver:
    """A receiver on loopback.

    Args:
        answer: what it answers from now on; may be replaced at any time.
    """

    port: int
    answer: Answer = ok
    got: list[Received] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        raw = await request.read()
        self.got.append(Received(headers, raw, asyncio.get_running_loop().time()))
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            answer = self.answer(len(self.got))
            return answer if isinstance(answer, web.StreamResponse) else await answer
        finally:
            self.at_once -= 1

    def about(self, payment_id: str) -> list[Received]:
        """Return the requests about a payment, in the order they came."""
        return [one for one in self.got if one.payment == payment_id]

    async def heard(
        self, payment_id: str, count: int = 1, *, within_s: float = 10.0
    ) -> list[Received]:
        """Return the requests about a payment once there are `count`."""

        def enough() -> list[Received] | None:
            found = self.about(payment_id)
            return found if len(found) >= count else None

        found: list[Received] = await until(enough, within_s=within_s)
        return found


@asynccontextmanager
async def receiving(answer: Answer = ok) -> AsyncIterator[Receiver]:
    """Run a receiver on a port of its own."""
    receiver = Receiver(0, answer)
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


def assert_signed(one: Received, secret: str) -> None:
    """The reference library accepts the signature of the bytes that came."""
    told = Webhook(secret).verify(one.raw, one.headers)
    assert told == one.body


@dataclass(slots=True)
class Shop:
    """The merchant's side of a house: what its own server may call."""

    house: House
    token: str

    async def call(self, method: str, path: str, body: Any = None) -> Reply:
        return await self.house.call(method, f"/v1{path}", body, token=self.token)

    async def add(self, url: str, **more: Any) -> dict[str, Any]:
        """Add an endpoint and return it, with its secret."""
        reply = await self.call("POST", "/webhook-endpoints", {"url": url} | more)
        assert reply.status == 201, reply.raw
        endpoint: dict[str, Any] = reply.body
        return endpoint

    @asynccontextmanager
    async def endpoint(self, url: str, **more: Any) -> AsyncIterator[dict[str, Any]]:
        """Have an endpoint for a while."""
        endpoint = await self.add(url, **more)
        try:
            yield endpoint
        finally:
            reply = await self.call("DELETE", f"/webhook-endpoints/{endpoint['id']}")
            assert reply.status == 204, reply.raw

    async def deliveries(self, endpoint: dict[str, Any], **filters: Any) -> list[dict[str, Any]]:
        """Return the newest deliveries to an endpoint."""
        query = "&".join(f"{name}={value}" for name, value in ({"limit": 100} | filters).items())
        reply = await self.call("GET", f"/webhook-endpoints/{endpoint['id']}/deliveries?{query}")
        assert reply.status == 200, reply.raw
        found: list[dict[str, Any]] = reply.body["data"]
        return found

    async def delivery(
        self, endpoint: dict[str, Any], payment_id: str, status: str, *, within_s: float = 10.0
    ) -> dict[str, Any]:
        """Return the delivery about a payment once it has a status."""

        async def found() -> dict[str, Any] | None:
            for one in await self.deliveries(endpoint, status=status):
                if one["payment"] == payment_id:
                    return one
            return None

        delivery: dict[str, Any] = await until(found, within_s=within_s)
        return delivery
