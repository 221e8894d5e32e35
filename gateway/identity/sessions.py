"""Sessions: a customer logged in on a device, and the refresh tokens that keep it so.

A refresh token is used once and has one successor. The same one again, at once and from the same
device, is an app that lost the answer: it gets that successor. Later, or from elsewhere, somebody
has a copy: the session ends and is revoked.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gateway.identity import store
from gateway.identity.endings import ITSELF, Ending, Endings, OnEnd
from gateway.identity.keys import Sealer
from gateway.identity.presence import Presence, Sight
from gateway.identity.promise import Promise
from gateway.identity.revocation import Entry, RevocationLog
from gateway.identity.store import millis, moment
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.settings import Identity

_TOKEN_BYTES = 32
_PREFIX = "ort_"
LEVEL_OTP = "otp"

OnNewDevice = Callable[[Any, str, str, int], Awaitable[None]]
"""Does what a login from a device never seen before asks for, in its open transaction: connection,
the customer's id, the session's, and Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session was given. Never printed whole.

    Args:
        jkt: thumbprint of the key that the session is bound to; "" for none.
        granted_at_s: Unix seconds, taken while nobody could end the session: a token that says it
            was issued then is refused by whatever ends everything issued before a later moment.
        ends_at_s: Unix seconds after which the session may have nothing any more.
    """

    session_id: str
    user_id: str
    client_id: str
    device_id: str
    refresh_token: str = field(repr=False)
    jkt: str = ""
    granted_at_s: int = 0
    ends_at_s: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a refresh token is. `scope` is what was granted at login, None for everything."""

    session_id: str
    user_id: str
    client_id: str
    scope: list[str] | None


@dataclass(frozen=True, slots=True)
class Session:
    """One session that is alive. Times are Unix milliseconds."""

    id: str
    client_id: str
    device_id: str
    device_name: str
    created_at_ms: int
    last_used_at_ms: int
    last_seen_at_ms: int
    address: str | None
    level: str


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _new_token() -> str:
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def successor_binding(token_hash: bytes) -> str:
    """Return what a refresh token's successor is sealed to."""
    return f"refresh_tokens|successor|{token_hash.hex()}"


class Sessions:
    """Makes, prolongs, lists and ends sessions.

    Args:
        vault: seals the successor that may be given twice.
        promise: what ends here is refused everywhere once a call has returned.
        presence: the live state, which may be lost.
        on_end: done with every end of sessions.
        on_new_device: done with a login that checks devices, from one that is new.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        vault: Sealer,
        log: RevocationLog,
        promise: Promise,
        presence: Presence,
        settings: Identity,
        clock: Clock,
        on_end: OnEnd,
        on_new_device: OnNewDevice,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._promise = promise
        self._presence = presence
        self._settings = settings
        self._clock = clock
        self._on_new_device = on_new_device
        self.endings = Endings(
            pool=pool,
            log=log,
            promise=promise,
            presence=presence,
            settings=settings,
            clock=clock,
            on_end=on_end,
        )

    async def create(
        self,
        *,
        user_id: str,
        client_id: str,
        device_id: str,
        device_name: str,
        address: str = "",
        checks_device: bool = False,
        jkt: str = "",
        scope: list[str] | None = None,
    ) -> Grant:
        """Log a customer in on a device; beyond `devices_max` a session ends, or none begins.

        Args:
            address: of the peer, "" when it is not known.
            checks_device: whether a device never seen before is one to be careful with.
            jkt: thumbprint of the key that its tokens are bound to; "" for none.
            scope: what it may ever have; None for all that its client may.

        Raises:
            Problem: `device-limit-reached`.
        """
        now_ms = self._clock()
        session_id = new_id("ses_", now_ms)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.LOCK_USER, user_id)
            if checks_device and not await connection.fetchval(
                store.HAS_DEVICE, user_id, device_id
            ):
                await self._on_new_device(connection, user_id, session_id, now_ms)
            ended = await self._create_make_room(connection, user_id, device_id, now_ms)
            await connection.execute(
                store.ADD_SESSION,
                session_id,
                user_id,
                client_id,
                device_id,
                device_name,
                moment(now_ms),
                address or None,
                LEVEL_OTP,
                jkt or None,
                scope,
            )
            token = await self._add_token(connection, session_id, device_id, now_ms, now_ms)
            oldest = await connection.fetch(
                store.OLDEST_SESSIONS, user_id, self._settings.devices_max
            )
            ids = [row["id"] for row in oldest]
            ended += await self.endings.end(connection, ids, now_ms, Ending("devices", user_id))
        self._presence.note(Sight(user_id, session_id, now_ms, address, device_id, LEVEL_OTP))
        await self._promise.tell(ended)
        return Grant(
            session_id,
            user_id,
            client_id,
            device_id,
            token,
            jkt,
            granted_at_s=now_ms // 1_000,
            ends_at_s=self._ends_at_s(now_ms),
        )

    async def _create_make_room(
        self, connection: Any, user_id: str, device_id: str, now_ms: int
    ) -> list[Entry]:
        """Refuse one device too many, where the oldest is not to give way; a device that logs in
        again takes its own place.
        """
        if self._settings.devices_over == "end-oldest":
            return []
        own = await connection.fetch(store.SESSIONS_OF_DEVICE, user_id, device_id)
        ids = [row["id"] for row in own]
        ended = await self.endings.end(connection, ids, now_ms, Ending("devices", user_id))
        count: int = await connection.fetchval(store.COUNT_SESSIONS, user_id)
        if count >= self._settings.devices_max:
            detail = "Too many devices are logged in; log one of them out first."
            raise Problem("device-limit-reached", detail)
        return ended

    def _ends_at_s(self, created_ms: int) -> int:
        return created_ms // 1_000 + self._settings.session_lifetime_s

    async def _add_token(
        self, connection: Any, session_id: str, device_id: str, now_ms: int, created_ms: int
    ) -> str:
        token = _new_token()
        # Unused it ends early, and used for ever it ends with its session.
        expires_ms = min(
            now_ms + self._settings.refresh_token_ttl_s * 1_000,
            created_ms + self._settings.session_lifetime_s * 1_000,
        )
        await connection.execute(
            store.ADD_REFRESH,
            _hash(token),
            session_id,
            device_id,
            moment(expires_ms),
            moment(now_ms),
        )
        return token

    async def refresh(
        self,
        token: str,
        *,
        device_id: str | None = None,
        client_id: str | None = None,
        jkt: str = "",
        patience_s: float | None = None,
    ) -> Grant:
        """Use a refresh token and return its successor.

        Args:
            device_id, client_id: when given, they must be the session's.
            jkt: thumbprint of the key that was proven, "" for none. A session that is bound is
                renewed by its own key alone, and one that is not is bound from now on.
            patience_s: how long it may take to make sure that a session it ended is.

        Raises:
            Problem: `invalid-grant`; the session may have been ended by it. `invalid-dpop-proof`:
                a key must be proven. `unavailable`: it was ended, and that is not certain
                everywhere yet.
        """
        token_hash = _hash(token)
        stolen: list[Entry] = []
        successor = ""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(store.LOCK_REFRESH, token_hash)
            # From here on nobody else can end the session before this commits.
            now_ms = self._clock()
            has_ended = row is not None and row["ended_at"] is not None
            is_alive = row is not None and self._refresh_is_alive(row, client_id, now_ms)
            if row is not None and is_alive:
                if self._refresh_is_stolen(row, device_id, now_ms):
                    ending = Ending("reuse", ITSELF)
                    stolen = await self.endings.end(connection, [row["session_id"]], now_ms, ending)
                else:
                    await self._refresh_bind(connection, row, jkt)
                    successor = await self._refresh_follow(connection, row, token_hash, now_ms)
        if has_ended:
            await self._promise.keep_all(patience_s)
        await self._promise.keep(stolen, patience_s)
        if row is None or not successor:
            raise _invalid_grant()
        return Grant(
            row["session_id"],
            row["user_id"],
            row["client_id"],
            row["device_id"],
            successor,
            jkt,
            granted_at_s=now_ms // 1_000,
            ends_at_s=self._ends_at_s(millis(row["created_at"])),
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

    async def _refresh_bind(self, connection: Any, row: asyncpg.Record, jkt: str) -> None:
        """Hold a session to its key (RFC 9449, 5), and bind one that has none yet."""
        if not jkt and (row["jkt"] is not None or row["dpop"] == "required"):
            raise Problem("invalid-dpop-proof", "Send a DPoP header: the token is bound to a key.")
        if row["jkt"] is not None and row["jkt"] != jkt:
            raise Problem("invalid-grant", "The refresh token is bound to another key.")
        if jkt and row["jkt"] is None:
            await connection.execute(store.BIND_SESSION, row["session_id"], jkt)

    async def _refresh_follow(
        self, connection: Any, row: asyncpg.Record, token_hash: bytes, now_ms: int
    ) -> str:
        """Return the token's successor: a new one, or the one it has already."""
        if row["used_at"] is not None:
            return self._vault.open(row["successor"], bound_to=successor_binding(token_hash))
        session_id = row["session_id"]
        successor = await self._add_token(
            connection, session_id, row["device_id"], now_ms, millis(row["created_at"])
        )
        sealed = self._vault.seal(successor, bound_to=successor_binding(token_hash))
        await connection.execute(store.USE_REFRESH, token_hash, moment(now_ms), sealed)
        await connection.execute(store.PRUNE_REFRESH, session_id, moment(now_ms))
        return successor

    async def page(self, user_id: str, *, before: str | None, limit: int) -> list[Session]:
        """Return up to `limit` sessions of a customer that are alive, the latest login first.

        Which they are is the database's word; when and where each was seen is Redis's, as far as
        it knows. What it has lost is written to it again.
        """
        rows = await self._pool.fetch(
            store.LIST_SESSIONS, user_id, before, moment(self._clock()), limit
        )
        seen = await self._presence.of(user_id, [row["id"] for row in rows])
        sessions = []
        for row in rows:
            used_at_ms = millis(row["last_used_at"])
            sight = seen.get(row["id"])
            if sight is None:
                sight = Sight(
                    user_id,
                    row["id"],
                    used_at_ms,
                    row["address"] or "",
                    row["device_id"],
                    row["level"],
                    is_restored=True,
                )
                # Where Redis could not be asked, it may know more than the row does.
                if row["id"] in seen:
                    self._presence.note(sight)
            sessions.append(
                Session(
                    id=row["id"],
                    client_id=row["client_id"],
                    device_id=row["device_id"],
                    device_name=row["device_name"],
                    created_at_ms=millis(row["created_at"]),
                    last_used_at_ms=used_at_ms,
                    last_seen_at_ms=max(sight.seen_at_ms, used_at_ms),
                    address=sight.address or row["address"],
                    level=row["level"],
                )
            )
        return sessions

    async def end(self, session_id: str, *, user_id: str, patience_s: float | None = None) -> bool:
        """End a customer's session; ending it again changes nothing.

        Returns:
            False when the customer has no such session.

        Raises:
            Problem: `unavailable`: it has ended, and that is not certain everywhere yet.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(store.GET_OWN_SESSION, session_id, user_id) is None:
                return False
            ending = Ending("logout", user_id)
            ended = await self.endings.end(connection, [session_id], self._clock(), ending)
        await self._keep(ended, patience_s)
        return True

    async def end_others(
        self, *, user_id: str, session_id: str, patience_s: float | None = None
    ) -> int:
        """End every session of a customer but one, and return how many were ended."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(store.LOCK_OTHER_SESSIONS, user_id, session_id)
            ids, ending = [row["id"] for row in rows], Ending("others", user_id)
            ended = await self.endings.end(connection, ids, self._clock(), ending)
        await self._keep(ended, patience_s)
        return len(ended)

    async def _keep(self, ended: list[Entry], patience_s: float | None) -> None:
        if ended:
            await self._promise.keep(ended, patience_s)
        else:
            # Somebody else's end of it may not be certain yet.
            await self._promise.keep_all(patience_s)

    async def hold(self, connection: Any, session_id: str) -> bool:
        """Whether a session is alive; until the connection's transaction ends nobody ends it."""
        return bool(await connection.fetchval(store.HOLD_SESSION, session_id))

    async def are_alive(self, session_ids: Sequence[str]) -> bool:
        """Whether none of some sessions has ended."""
        wanted = set(session_ids)
        began = moment(self._clock() - self._settings.session_lifetime_s * 1_000)
        alive: int = await self._pool.fetchval(store.COUNT_ALIVE, list(wanted), began)
        return alive == len(wanted)

    async def alive(self, token: str) -> Grant | None:
        """Return the session of a refresh token that would be accepted, or None; uses nothing."""
        row = await self._pool.fetchrow(store.GET_REFRESH, _hash(token))
        if row is None or row["ended_at"] is not None or row["used_at"] is not None:
            return None
        if millis(row["expires_at"]) <= self._clock():
            return None
        return Grant(row["session_id"], row["user_id"], row["client_id"], "", token)

    async def of_token(self, token: str) -> Owner | None:
        """Return whose a refresh token is, used or not, or None."""
        row = await self._pool.fetchrow(store.GET_REFRESH, _hash(token))
        if row is None:
            return None
        return Owner(row["session_id"], row["user_id"], row["client_id"], row["scope"])


def _invalid_grant() -> Problem:
    return Problem("invalid-grant", "The refresh token is not valid any more; log in again.")
