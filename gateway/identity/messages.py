"""What only a sandbox answers: the messages that would have been sent to phones."""

import json
from datetime import datetime
from typing import Any

import aiohttp
import msgspec

from gateway.identity.messenger import RedisMessenger
from gateway.identity.phones import normalise
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import query_as
from gateway.kernel.http.routes import Route

_PROBE = aiohttp.ClientTimeout(total=2.0)
# The one processor that sends its codes itself.
_SENDS_CODES = "uzcard"


class MessagesQuery(msgspec.Struct, forbid_unknown_fields=True):
    to: str


class MessageView(msgspec.Struct):
    to: str
    code: str
    text: str
    at: str
    sender: str


class MessageList(msgspec.Struct):
    data: list[MessageView]
    next_cursor: str | None


class SandboxRoutes:
    """The handlers.

    Args:
        simulators: each scheme's control URL.
    """

    def __init__(self, messenger: RedisMessenger, simulators: dict[str, str]) -> None:
        self._messenger = messenger
        self._simulators = simulators

    async def messages(self, request: Request) -> Response:
        phone = normalise(query_as(request, MessagesQuery).to.replace(" ", "+"))
        if phone is None:
            raise Problem("invalid-query", "Give `to` as +998 and nine digits.")
        ours = [
            MessageView(one.to, one.code, one.text, one.at, "oqim")
            for one in await self._messenger.messages(phone)
        ]
        everything = [*ours, *await self._processors(phone)]
        everything.sort(key=lambda one: datetime.fromisoformat(one.at), reverse=True)
        return json_response(200, MessageList(everything, None))

    async def _processors(self, phone: str) -> list[MessageView]:
        url = self._simulators.get(_SENDS_CODES)
        if url is None:
            return []
        async with (
            aiohttp.ClientSession(timeout=_PROBE) as session,
            session.get(f"{url}/_sim/messages", params={"to": phone}) as reply,
        ):
            sent: list[dict[str, Any]] = await reply.json()
        return [
            MessageView(one["to"], one["code"], f"Code {one['code']}", str(one["at"]), _SENDS_CODES)
            for one in sent
        ]


def routes(messenger: RedisMessenger, simulators: str) -> list[Route]:
    """Return the sandbox's routes; `simulators` is JSON of their control URLs."""
    handlers = SandboxRoutes(messenger, json.loads(simulators))
    return [
        Route(
            method="GET",
            path="/sandbox/v1/messages",
            handler=handlers.messages,
            summary="The one-time codes that would have been sent to a phone, newest first",
            tag="sandbox",
            scope=None,
            priority=Priority.READ,
            query=MessagesQuery,
            answers={200: MessageList},
            problems=("invalid-query",),
        )
    ]
