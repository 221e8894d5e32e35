"""A client of server-sent events, as the HTML standard has them, which never forgets its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.house import House, until


@dataclass(frozen=True, slots=True)
class Message:
    """One event."""

    id: str
    type: str
    body: Any

    @property
    def what(self) -> tuple[str, int]:
        """The payment and the sequence."""
        return self.body["data"]["id"], self.body["data"]["sequence"]


@dataclass(slots=True)
class Follower:
    """Follows one token's events over however many connections it takes.

    Args:
        last_id: where it goes on; kept from every block, also from those that are no event.
        blocks: blocks read, events or not.
    """

    house: House
    token: str
    last_id: str = ""
    messages: list[Message] = field(default_factory=list)
    blocks: int = 0
    connections: int = 0

    def open(
        self, http: aiohttp.ClientSession, **headers: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Make one connection, for as long as it is entered."""
        sent = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"} | headers
        if self.last_id:
            sent["Last-Event-ID"] = self.last_id
        url = f"{self.house.base_url}/v1/events"
        return http.get(url, headers=sent, timeout=aiohttp.ClientTimeout(total=None))

    async def once(self, **headers: str) -> None:
        """Follow one connection to its end."""
        async with aiohttp.ClientSession() as http, self.open(http, **headers) as reply:
            assert reply.status == 200, await reply.text()
            assert reply.content_type == "text/event-stream"
            self.connections += 1
            await self._read(reply)

    async def _read(self, reply: aiohttp.ClientResponse) -> None:
        block: dict[str, str] = {}
        async for line in reply.content:
            text = line.decode().removesuffix("\n")
            if text:
                name, _, value = text.partition(":")
                block[name] = value.removeprefix(" ")
                continue
            # A block is good when its empty line has come, and only then.
            self.last_id = block.get("id", self.last_id)
            self.blocks += 1
            if "data" in block:
                self.messages.append(
                    Message(self.last_id, block["event"], json.loads(block["data"]))
                )
            block = {}

    async def forever(self) -> None:
        """Follow, and connect again whenever the connection breaks or ends."""
        while True:
            with suppress(aiohttp.ClientError, AssertionError):
                await self.once()
            await asyncio.sleep(0.02)

    async def has(self, wanted: Callable[[], bool], *, within_s: float = 10.0) -> None:
        """Wait until what it was told is as wanted."""
        await until(wanted, within_s=within_s)

    def told(self) -> list[tuple[str, int]]:
        """Return payment and sequence of every event, in the order they came."""
        return [one.what for one in self.messages]


async def following(follower: Follower) -> AsyncIterator[Follower]:
    """Follow while a test runs."""
    task = asyncio.create_task(follower.forever())
    try:
        await follower.has(lambda: follower.blocks > 0)
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
