"""Messages to customers. What a message says is never logged."""

from typing import Protocol

import msgspec
from redis.asyncio import Redis

from gateway.core import rfc3339
from gateway.kernel.clock import Clock

KEPT_PER_PHONE_MAX = 20
KEPT_S = 3_600


class Messenger(Protocol):
    """Carries one text to one phone."""

    async def send(self, *, to: str, text: str, code: str) -> None:
        """Hand a message over for delivery.

        Args:
            to: E.164.
            text: what the customer reads; it holds the code.
            code: the code alone.
        """
        ...


class Message(msgspec.Struct, frozen=True):
    """One message that would have been sent. Never printed."""

    to: str
    text: str
    code: str
    at: str

    def __repr__(self) -> str:
        return "Message(...)"


class RedisMessenger:
    """Keeps messages where the sandbox shows them, instead of sending them.

    Args:
        redis: a client that answers bytes.
    """

    def __init__(self, *, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock

    async def send(self, *, to: str, text: str, code: str) -> None:
        """Keep the message for an hour, among the latest of its phone."""
        message = Message(to, text, code, rfc3339(self._clock()))
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.lpush(_key(to), msgspec.json.encode(message))
            pipeline.ltrim(_key(to), 0, KEPT_PER_PHONE_MAX - 1)
            pipeline.expire(_key(to), KEPT_S)
            await pipeline.execute()

    async def messages(self, to: str) -> list[Message]:
        """Return the messages of a phone, the latest first."""
        kept = await self._redis.lrange(_key(to), 0, KEPT_PER_PHONE_MAX - 1)
        return [msgspec.json.decode(one, type=Message) for one in kept]


def _key(to: str) -> str:
    return f"messages:{to}"
