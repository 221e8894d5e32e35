"""How sessions end: with whatever waits for them, in one transaction, and refused from then on.

Every end goes through here, whoever asks for it. Never ends a session without the revocation that
has every worker refuse its tokens, but for a client's, which is revoked as a whole.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from gateway.identity import store
from gateway.identity.presence import Presence
from gateway.identity.promise import Promise
from gateway.identity.revocation import Entry, RevocationLog
from gateway.identity.store import moment
from gateway.kernel.clock import Clock
from gateway.settings import Identity

SWEPT_AT_ONCE_MAX = 200

EndReason = Literal["logout", "others", "operator", "reuse", "devices", "idle", "lifetime"]
"""How a session ended: by its customer, one or all others; by an operator; a refresh token was used
again; a newer login had its place; unused for too long; as old as it may become."""
ITSELF = "sessions"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why sessions end, and who ends them: a customer's or an operator's id, or `sessions`."""

    reason: EndReason
    by: str


OnEnd = Callable[[Any, Sequence[str], Ending, int], Awaitable[None]]
"""Does what an end of sessions takes with it, in its open transaction: connection, ids, why, and
Unix milliseconds."""


class Endings:
    """Ends sessions.

    Args:
        promise: hears of what ended by itself.
        presence: forgets what has ended.
        on_end: done with every end.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        log: RevocationLog,
        promise: Promise,
        presence: Presence,
        settings: Identity,
        clock: Clock,
        on_end: OnEnd,
    ) -> None:
        self._pool = pool
        self._log = log
        self._promise = promise
        self._presence = presence
        self._settings = settings
        self._clock = clock
        self._on_end = on_end

    async def end(
        self, connection: Any, session_ids: list[str], now_ms: int, ending: Ending
    ) -> list[Entry]:
        """End sessions in the connection's open transaction; those that had ended stay as they are.

        Returns:
            The revocations, for whoever waits until they count everywhere.
        """
        ids = await self._end_rows(connection, session_ids, now_ms, ending)
        return await self._revoked(connection, ids)

    async def of_user(self, connection: Any, user_id: str, operator: str) -> list[Entry]:
        """End every session of a customer, in the connection's open transaction."""
        rows = await connection.fetch(store.LOCK_OTHER_SESSIONS, user_id, "")
        ids, ending = [row["id"] for row in rows], Ending("operator", operator)
        return await self.end(connection, ids, self._clock(), ending)

    async def one(self, connection: Any, session_id: str, operator: str) -> list[Entry]:
        """End a session, whoever's it is, in the connection's open transaction."""
        return await self.end(connection, [session_id], self._clock(), Ending("operator", operator))

    async def of_client(self, connection: Any, client_id: str, operator: str) -> None:
        """End every session of a client, in the connection's open transaction.

        Their tokens are refused by the client's own revocation, which the caller adds.
        """
        rows = await connection.fetch(store.LOCK_SESSIONS_OF_CLIENT, client_id)
        ids, ending = [row["id"] for row in rows], Ending("operator", operator)
        await self._end_rows(connection, ids, self._clock(), ending)

    async def sweep(self) -> int:
        """End sessions that nobody used for too long, or that are as old as they may become.

        Returns:
            How many were ended; more may be left.
        """
        now_ms = self._clock()
        at, lifetime_s = moment(now_ms), self._settings.session_lifetime_s
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(store.LIST_EXPIRED, at, lifetime_s, SWEPT_AT_ONCE_MAX)
            idle = [row["id"] for row in rows if not row["is_over"]]
            over = [row["id"] for row in rows if row["is_over"]]
            ids = await self._end_rows(connection, idle, now_ms, Ending("idle", ITSELF))
            ids += await self._end_rows(connection, over, now_ms, Ending("lifetime", ITSELF))
            ended = await self._revoked(connection, ids)
        await self._promise.tell(ended)
        await self._pool.execute(store.DELETE_EXPIRED, at, SWEPT_AT_ONCE_MAX)
        return len(ended)

    async def _revoked(self, connection: Any, ids: list[str]) -> list[Entry]:
        return [await self._log.revoke(connection, kind="sid", value=one) for one in ids]

    async def _end_rows(
        self, connection: Any, session_ids: list[str], now_ms: int, ending: Ending
    ) -> list[str]:
        """End sessions with what waits for them; returns those that had not ended before."""
        if not session_ids:
            return []
        await connection.fetch(store.LOCK_SESSIONS, session_ids)
        rows = await connection.fetch(
            store.END_SESSIONS, session_ids, moment(now_ms), ending.reason, ending.by
        )
        ids = [row["id"] for row in rows]
        # Before the log, which nobody may hold who waits for a payment.
        await self._on_end(connection, ids, ending, now_ms)
        for row in rows:
            self._presence.note_end(row["user_id"], [row["id"]])
        return ids
