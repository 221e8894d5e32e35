"""The promise: when a call that revokes has returned, no worker anywhere accepts the token.

Owns the order in which that is made true: the row is committed (by whoever calls), told to the
stream, applied here, and then waited for. It writes nothing itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from gateway.identity.followers import Followers
from gateway.identity.revocation import Entry, RevocationFeed
from gateway.identity.stream import RevocationStream
from gateway.kernel.clock import steady_s
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.admission import outside
from gateway.kernel.http.problems import Problem

GET = "SELECT seq, kind, value, created_at, expires_at FROM revocations WHERE seq = $1"
GET_ACKS = """
SELECT a.follower, a.name,
       greatest(0, round(extract(epoch FROM a.applied_at - r.created_at) * 1000))::bigint
           AS after_ms
FROM revocation_acks a JOIN revocations r ON r.seq = a.seq
WHERE a.seq = $1 ORDER BY a.follower
"""


@dataclass(frozen=True, slots=True)
class Ack:
    """A worker that applied a revocation, and how long after it was written."""

    worker: int
    name: str
    after_ms: int


class Promise:
    """Waits until what was revoked is refused everywhere."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        feed: RevocationFeed,
        followers: Followers,
        stream: RevocationStream,
    ) -> None:
        self._pool = pool
        self._feed = feed
        self._followers = followers
        self._stream = stream

    async def tell(self, entries: Sequence[Entry]) -> None:
        """Have every worker hear of what was just committed, and apply it here."""
        if entries:
            self._feed.apply_early(entries)
            await asyncio.gather(self._stream.publish(entries), self._feed.caught_up())

    async def keep(self, entries: Sequence[Entry], patience_s: float | None) -> None:
        """Return once no worker accepts what was just committed.

        Args:
            entries: all of one transaction; none: nothing to wait for.
            patience_s: the caller's; None: as long as it takes, which is `silent_after_s`.

        Raises:
            Problem: `unavailable`: it is written, and not yet certain everywhere.
        """
        if not entries:
            return
        ends_at_s = None if patience_s is None else steady_s() + patience_s
        await asyncio.gather(self._wait(entries[-1].seq, ends_at_s), self.tell(entries))

    async def keep_all(self, patience_s: float | None) -> None:
        """Return once no worker accepts what anybody has revoked before this call.

        For what was found to be revoked already: whoever did it may have been told to try again.

        Raises:
            Problem: `unavailable`.
            Unavailable: the log cannot be read.
        """
        ends_at_s = None if patience_s is None else steady_s() + patience_s
        if not await self._feed.caught_up():
            raise Unavailable("revocations cannot be read")
        await self._wait(self._feed.read_seq, ends_at_s)

    async def _wait(self, seq: int, ends_at_s: float | None) -> None:
        left_s = None if ends_at_s is None else max(0.0, ends_at_s - steady_s())
        # The others' work, not ours: it takes no place at the door meanwhile.
        with outside():
            is_certain = await self._followers.wait_for(seq, patience_s=left_s)
        if not is_certain:
            raise Problem(
                "unavailable",
                "The revocation is written; it is not yet certain that every worker refuses the "
                "token. Try again.",
            )

    async def acks(self, seq: int) -> list[Ack]:
        """Return the workers that applied a revocation."""
        rows = await self._pool.fetch(GET_ACKS, seq)
        return [Ack(row["follower"], row["name"], row["after_ms"]) for row in rows]

    async def behind(self, seq: int) -> list[str]:
        """Return the names of workers that may accept tokens and have not applied it yet."""
        alive = await self._followers.look(self._pool)
        return [one.name for one in alive if one.applied_seq < seq]

    async def get(self, seq: int) -> Any:
        """Return a revocation's row, or None."""
        return await self._pool.fetchrow(GET, seq)
