"""Where and when a session was last seen: its live state, in Redis.

Noting costs a request one entry in a dictionary; a flush in the background writes what was noted,
many at a time. Whatever is lost with Redis is written again from the session's row or at its next
request. Never decide by it whether a token or a session is good.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.exceptions import RedisError

from gateway.core import Claims, Core, Refusal
from gateway.kernel.errors import Unavailable
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis, end

Noted = TypeVar("Noted")

FLUSH_S = 1.0
# Sessions noted between two flushes; what is over it is noted at its next request.
NOTED_MAX = 20_000
# Neither a pipeline nor a look at headers may hold the event loop up for much over a millisecond.
_PIPELINE_MAX = 100
_HEADERS_AT_ONCE_MAX = 500


@dataclass(frozen=True, slots=True)
class Sight:
    """A session as it was last seen.

    Args:
        seen_at_ms: Unix milliseconds.
        address: of the peer; "" when it is not known.
        is_restored: taken from the session's row because Redis had nothing: whatever is noted of
            the session by then is later, and stays.
    """

    user_id: str
    session_id: str
    seen_at_ms: int
    address: str
    device_id: str = ""
    level: str = ""
    is_restored: bool = False


class Presence:
    """Notes requests of sessions, and tells when and from where each was seen last.

    Args:
        kept_s: how long the state of a session is kept that is not seen any more.
    """

    def __init__(self, *, redis: BoundedRedis, core: Core, metrics: Metrics, kept_s: int) -> None:
        self._redis = redis
        self._core = core
        self._metrics = metrics
        self._kept_ms = kept_s * 1_000
        # By session; and, of requests that nobody but the core has authorized, by their header.
        self._sights: dict[str, Sight] = {}
        self._headers: dict[bytes, tuple[int, str]] = {}
        self._ended: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to flush; returns at once."""
        self._task = asyncio.create_task(self._run(), name="session-presence")

    async def close(self) -> None:
        """Write what was noted, and stop."""
        if self._task is not None:
            await end(self._task)
            await self._flush_noting()

    def note_claims(self, claims: Claims, seen_at_ms: int, address: str) -> None:
        """Note that a request came whose sender is known."""
        if claims.sid:
            self.note(Sight(claims.sub, claims.sid, seen_at_ms, address))

    def note_header(self, authorization: bytes, seen_at_ms: int, address: str) -> None:
        """Note that a request came; whether it was accepted is looked at when it is flushed."""
        if len(self._headers) < NOTED_MAX:
            self._headers[authorization] = (seen_at_ms, address)

    def note(self, sight: Sight) -> None:
        """Note a session's state, to be written soon."""
        if len(self._sights) < NOTED_MAX or sight.session_id in self._sights:
            self._sights[sight.session_id] = sight

    def note_end(self, user_id: str, session_ids: Sequence[str]) -> None:
        """Note that sessions have ended, so that their state goes."""
        for session_id in session_ids:
            self._sights.pop(session_id, None)
            if len(self._ended) < NOTED_MAX:
                self._ended[session_id] = user_id

    async def of(self, user_id: str, session_ids: Sequence[str]) -> dict[str, Sight | None]:
        """Return the last sights of a customer's sessions, by id.

        Returns:
            None for those of which Redis has nothing; without Redis, those noted here alone.
        """
        return await self.of_many([(user_id, one) for one in session_ids])

    async def of_many(self, sessions: Sequence[tuple[str, str]]) -> dict[str, Sight | None]:
        """Return the last sights of sessions, by id, as `of` does.

        Args:
            sessions: list[n] of customer and session.
        """
        found: dict[str, Sight | None]
        found = {one: self._sights[one] for _, one in sessions if one in self._sights}
        asked = [(user_id, one) for user_id, one in sessions if one not in found]
        if not asked:
            return found
        pipeline = self._redis.pipeline(transaction=False)
        for user_id, session_id in asked:
            pipeline.hmget(_key(user_id, session_id), "seen_at_ms", "address")
        try:
            rows = await pipeline.execute()
        except (Unavailable, RedisError):
            return found
        for (user_id, session_id), (seen_at_ms, address) in zip(asked, rows, strict=True):
            found[session_id] = None
            if seen_at_ms is not None:
                where = (address or b"").decode()
                found[session_id] = Sight(user_id, session_id, int(seen_at_ms), where)
        return found

    async def flush(self) -> None:
        """Write everything noted until now. Raises Unavailable; what is not written is kept."""
        await self._read_headers()
        for some in _batched(list(self._ended.items()), _PIPELINE_MAX):
            pipeline = self._redis.pipeline(transaction=False)
            for session_id, user_id in some:
                pipeline.delete(_key(user_id, session_id))
            await pipeline.execute()
            for session_id, _ in some:
                self._ended.pop(session_id, None)
        for sights in _batched(list(self._sights.values()), _PIPELINE_MAX):
            pipeline = self._redis.pipeline(transaction=False)
            for sight in sights:
                key = _key(sight.user_id, sight.session_id)
                if sight.is_restored:
                    for name, value in _fields(sight).items():
                        pipeline.hsetnx(key, name, value)
                else:
                    pipeline.hset(key, mapping=_fields(sight))
                pipeline.pexpire(key, self._kept_ms)
            await pipeline.execute()
            for sight in sights:
                # What was noted meanwhile is later, and stays.
                if self._sights.get(sight.session_id) is sight:
                    del self._sights[sight.session_id]

    async def _read_headers(self) -> None:
        """Learn whose the noted requests were; those that the core refuses were nobody's."""
        headers, self._headers = self._headers, {}
        for some in _batched(list(headers.items()), _HEADERS_AT_ONCE_MAX):
            for value, (seen_at_ms, address) in some:
                claims = self._core.authorize([(b"authorization", value)], "", seen_at_ms)
                if not isinstance(claims, Refusal) and claims.sid:
                    self.note(Sight(claims.sub, claims.sid, seen_at_ms, address))
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush_noting()

    async def _flush_noting(self) -> None:
        try:
            await self.flush()
        except (Unavailable, RedisError):
            self._metrics.count("session_presence", "unwritten")


def _batched(noted: list[Noted], size: int) -> Iterator[list[Noted]]:
    for start in range(0, len(noted), size):
        yield noted[start : start + size]


def _key(user_id: str, session_id: str) -> str:
    # The tag keeps a customer's sessions together in a cluster.
    return f"session:{{{user_id}}}:{session_id}"


def _fields(sight: Sight) -> dict[Any, Any]:
    fields: dict[Any, Any] = {"seen_at_ms": sight.seen_at_ms}
    known = {"address": sight.address, "device_id": sight.device_id, "level": sight.level}
    return fields | {name: value for name, value in known.items() if value}
