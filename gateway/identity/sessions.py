"""Sessions: a customer logged in on a device, and the refresh tokens that keep it so.

A refresh token is used once and has one successor. The same one again, at once and from the same
device, is an app that lost the answer: it gets that successor. Later, or from elsewhere, somebody
has a copy: the session ends and is revoked.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gateway.identity import store
from gateway.identity.keys import Sealer
from gateway.identity.revocation import RevocationFeed, RevocationLog
from gateway.identity.store import millis, moment
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.settings import Identity

_TOKEN_BYTES = 32
_PREFIX = "ort_"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session was given. Never printed whole."""

    session_id: str
    user_id: str
    client_id: str
    device_id: str
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """One session that is alive. Times are Unix milliseconds."""

    id: str
    client_id: str
    device_id: str
    device_name: str
    created_at_ms: int
    last_used_at_ms: int


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _new_token() -> str:
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def _binding(token_hash: bytes) -> str:
    return f"refresh_tokens|successor|{token_hash.hex()}"


class Sessions:
    """Makes, prolongs, lists and ends sessions.

    Args:
        vault: seals the successor that may be given twice.
        feed: this worker's; it learns at once of what ends here.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        vault: Sealer,
        log: RevocationLog,
        feed: RevocationFeed,
        settings: Identity,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._log = log
        self._feed = feed
        self._settings = settings
        self._clock = clock

    async def create(
        self, *, user_id: str, client_id: str, device_id: str, device_name: str
    ) -> Grant:
        """Log a customer in on a device."""
        now_ms = self._clock()
        session_id = new_id("ses_", now_ms)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                store.ADD_SESSION,
                session_id,
                user_id,
                client_id,
                device_id,
                device_name,
                moment(now_ms),
            )
            token = await self._add_token(connection, session_id, device_id, now_ms)
        return Grant(session_id, user_id, client_id, device_id, token)

    async def _add_token(
        self, connection: Any, session_id: str, device_id: str, now_ms: int
    ) -> str:
        token = _new_token()
        expires_at = moment(now_ms + self._settings.refresh_token_ttl_s * 1_000)
        await connection.execute(
            store.ADD_REFRESH, _hash(token), session_id, device_id, expires_at, moment(now_ms)
        )
        return token

    async def refresh(
        self, token: str, *, device_id: str | None = None, client_id: str | None = None
    ) -> Grant:
        """Use a refresh token and return its successor.

        Args:
            device_id, client_id: when given, they must be the session's.

        Raises:
            Problem: `invalid-grant`; the session may have been ended by it.
        """
        token_hash = _hash(token)
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(store.LOCK_REFRESH, token_hash)
            if row is None or not self._refresh_is_alive(row, client_id, now_ms):
                raise _invalid_grant()
            is_stolen = self._refresh_is_stolen(row, device_id, now_ms)
            if is_stolen:
                await self._end(connection, [row["session_id"]], now_ms)
                successor = ""
            elif row["used_at"] is None:
                successor = await self._refresh_rotate(connection, row, token_hash, now_ms)
            else:
                successor = self._vault.open(row["successor"], bound_to=_binding(token_hash))
        if is_stolen:
            await self._feed.catch_up()
            raise _invalid_grant()
        return Grant(
            row["session_id"], row["user_id"], row["client_id"], row["device_id"], successor
        )

    def _refresh_is_alive(self, row: asyncpg.Record, client_id: str | None, now_ms: int) -> bool:
        if row["ended_at"] is not None or millis(row["expires_at"]) <= now_ms:
            return False
        return client_id in (None, row["client_id"])

    def _refresh_is_stolen(self, row: asyncpg.Record, device_id: str | None, now_ms: int) -> bool:
        if device_id not in (None, row["device_id"]):
            return True
        if row["used_at"] is None:
            return False
        return now_ms > millis(row["used_at"]) + self._settings.refresh_grace_s * 1_000

    async def _refresh_rotate(
        self, connection: Any, row: asyncpg.Record, token_hash: bytes, now_ms: int
    ) -> str:
        session_id = row["session_id"]
        successor = await self._add_token(connection, session_id, row["device_id"], now_ms)
        sealed = self._vault.seal(successor, bound_to=_binding(token_hash))
        await connection.execute(store.USE_REFRESH, token_hash, moment(now_ms), sealed)
        await connection.execute(store.PRUNE_REFRESH, session_id, moment(now_ms))
        return successor

    async def page(self, user_id: str, *, before: str | None, limit: int) -> list[Session]:
        """Return up to `limit` sessions of a customer that are alive, the latest login first."""
        rows = await self._pool.fetch(
            store.LIST_SESSIONS, user_id, before, moment(self._clock()), limit
        )
        return [
            Session(
                row["id"],
                row["client_id"],
                row["device_id"],
                row["device_name"],
                millis(row["created_at"]),
                millis(row["last_used_at"]),
            )
            for row in rows
        ]

    async def end(self, session_id: str, *, user_id: str) -> bool:
        """End a customer's session; ending it again changes nothing.

        Returns:
            False when the customer has no such session.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(store.GET_OWN_SESSION, session_id, user_id) is None:
                return False
            await self._end(connection, [session_id], self._clock())
        await self._feed.catch_up()
        return True

    async def end_others(self, *, user_id: str, session_id: str) -> int:
        """End every session of a customer but one, and return how many were ended."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(store.LOCK_OTHER_SESSIONS, user_id, session_id)
            ended = await self._end(connection, [row["id"] for row in rows], self._clock())
        await self._feed.catch_up()
        return ended

    async def _end(self, connection: Any, session_ids: list[str], now_ms: int) -> int:
        rows = await connection.fetch(store.END_SESSIONS, session_ids, moment(now_ms))
        for row in rows:
            await self._log.revoke(connection, kind="sid", value=row["id"])
        return len(rows)

    async def alive(self, token: str) -> Grant | None:
        """Return the session of a refresh token that would be accepted, or None; uses nothing."""
        row = await self._pool.fetchrow(store.GET_REFRESH, _hash(token))
        if row is None or row["ended_at"] is not None or row["used_at"] is not None:
            return None
        if millis(row["expires_at"]) <= self._clock():
            return None
        return Grant(row["session_id"], row["user_id"], row["client_id"], "", token)

    async def of_token(self, token: str) -> tuple[str, str, str] | None:
        """Return session, customer and client of a refresh token, used or not, or None."""
        row = await self._pool.fetchrow(store.GET_REFRESH, _hash(token))
        if row is None:
            return None
        return row["session_id"], row["user_id"], row["client_id"]


def _invalid_grant() -> Problem:
    return Problem("invalid-grant", "The refresh token is not valid any more; log in again.")
