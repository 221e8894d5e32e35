"""The stream by which revocations are heard of within a millisecond or two.

It lives in Redis, which may lose, repeat or withhold what it was given: an entry refuses a token a
little sooner and wakes a reading of the log, and nothing ever counts as known because it stood
here, or as unrevoked because it did not. Entries are numbered as in the log, so that a gap shows.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from gateway.identity.revocation import Entry, RevocationFeed
from gateway.kernel.errors import Unavailable
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import AWAY, BoundedRedis, end, open_ear

log = structlog.get_logger("identity")

KEY = "revocations"
# What is older has been read from the log long ago.
_LENGTH_MAX = 10_000
_BLOCK_MS = 1_000
_ENTRIES_MAX = 1_000
_RETRY_S = 0.2
_FROM_NOW = b"$"


class RevocationStream:
    """One worker's ear to the stream, and its voice.

    Args:
        redis: what is published goes through it.
        url: of the same Redis, for a connection of its own that waits for entries.
    """

    def __init__(
        self, *, redis: BoundedRedis, url: str, feed: RevocationFeed, metrics: Metrics
    ) -> None:
        self._redis = redis
        self._feed = feed
        self._metrics = metrics
        self._ear = open_ear(url, timeout_s=_BLOCK_MS / 1_000 + 1.0, connect_timeout_s=1.0)
        self._after: bytes = _FROM_NOW
        self._heard_seq: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; returns at once."""
        self._task = asyncio.create_task(self._listen(), name="revocation-stream")

    async def close(self) -> None:
        """Stop listening."""
        await end(self._task)
        await self._ear.aclose()

    async def publish(self, entries: Sequence[Entry]) -> None:
        """Tell every worker of what was committed; one that does not hear it reads it soon."""
        pipeline = self._redis.pipeline(transaction=False)
        for one in entries:
            fields: dict[Any, Any] = {
                "seq": one.seq,
                "kind": one.kind,
                "value": one.value,
                "not_before_s": one.not_before_s,
                "expires_at_s": one.expires_at_s,
            }
            pipeline.xadd(KEY, fields, maxlen=_LENGTH_MAX, approximate=True)
        try:
            await pipeline.execute()
        except (Unavailable, RedisError):
            self._metrics.count("revocation_stream", "unpublished", len(entries))

    async def _listen(self) -> None:
        is_away = False
        while True:
            try:
                if await self._hear():
                    await self._feed.catch_up()
                is_away = False
            except Exception as error:
                # Whatever it was, the log is read all the same: it goes on, and says so once.
                if not isinstance(error, (*AWAY, RedisError)):
                    log.exception("the stream was not understood")
                elif not is_away:
                    log.warning("the stream cannot be read", error=type(error).__name__)
                is_away = True
                self._after = _FROM_NOW
                await asyncio.sleep(_RETRY_S)

    async def _hear(self) -> bool:
        """Wait for entries a while; returns whether there may be something to read in the log."""
        # What the library says it returns depends on the protocol; over this client it is lists.
        found: Any = await self._ear.xread({KEY: self._after}, count=_ENTRIES_MAX, block=_BLOCK_MS)
        if not found:
            return await self._look_at_the_end()
        (_, entries) = found[0]
        heard = [one for one in (_entry(fields) for _, fields in entries) if one is not None]
        self._after = entries[-1][0]
        self._note_gap(heard)
        self._feed.apply_early(heard)
        return True

    async def _look_at_the_end(self) -> bool:
        """A silent stream may be another than it was: go on from where it ends now."""
        last: Any = await self._ear.xrevrange(KEY, count=1)
        before, self._after = self._after, last[0][0] if last else b"0-0"
        return before not in (_FROM_NOW, self._after)

    def _note_gap(self, heard: Sequence[Entry]) -> None:
        for one in heard:
            if self._heard_seq is not None and one.seq > self._heard_seq + 1:
                self._metrics.count("revocation_stream", "gap")
            self._heard_seq = max(self._heard_seq or 0, one.seq)


def _entry(fields: dict[bytes, bytes]) -> Entry | None:
    """Read an entry; None for one that is not ours."""
    try:
        return Entry(
            int(fields[b"seq"]),
            fields[b"kind"].decode(),
            fields[b"value"].decode(),
            int(fields[b"not_before_s"]),
            int(fields[b"expires_at_s"]),
        )
    except (KeyError, ValueError):
        return None
