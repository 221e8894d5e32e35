"""How operators log in, go on, prove themselves again, and leave.

Password and code always go together, and a failure does not tell which was wrong. A token lives as
long as an operator may be idle; it is renewed while it is valid, until the session's end. Approving
what another proposed takes an authentication a few minutes old (RFC 9470).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import asyncpg

from gateway.core import Claims, rfc3339
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.routes import Route
from gateway.kernel.ids import new_id
from gateway.kernel.passwords import Hasher
from gateway.kernel.vault import Vault
from gateway.operators import codes, store
from gateway.operators.model import Account, LoginBody, TokenView
from gateway.operators.roles import Roles
from gateway.settings import Operators as Settings

CLIENT = "console"
SESSION_PREFIX = "ops_"
_WRONG = "The login, the password or the code is wrong, or the account may not log in."
APPROVES = ":approve"


class Issue(Protocol):
    """Issues access tokens (`identity.tokens`)."""

    def __call__(
        self, *, sub: str, client_id: str, scope: Sequence[str], sid: str, channel: str, ttl_s: int
    ) -> str: ...


End = Callable[[Any, Sequence[str]], Awaitable[Any]]
"""Revokes sessions in an open transaction; returns what `Keep` is to wait for."""
Keep = Callable[[Any], Awaitable[None]]
"""Returns once no worker accepts the tokens of what was revoked."""


def binding(operator_id: str) -> str:
    """Return what an operator's code secret is sealed to."""
    return f"operators|totp|{operator_id}"


class OperatorSessions:
    """Logs operators in and out."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        clock: Clock,
        vault: Vault,
        hasher: Hasher,
        roles: Roles,
        issue: Issue,
        end: End,
        keep: Keep,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._vault = vault
        self._hasher = hasher
        self._roles = roles
        self._issue = issue
        self._end = end
        self._keep = keep
        self._settings = settings

    async def log_in(self, body: LoginBody) -> TokenView:
        """Begin a session.

        Raises:
            Problem: unauthenticated, otp-locked.
        """
        account = await self._try(body.login)
        is_right = await self._hasher.matches(
            body.password, None if account is None else account.password_hash
        )
        if account is None or not is_right or not await self._take(account, body.code):
            raise Problem("unauthenticated", _WRONG)
        now_ms = self._clock()
        session_id = new_id(SESSION_PREFIX, now_ms)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.ADD_SESSION, session_id, account.id, utc(now_ms))
            await self._record(connection, account.id, "operator.login", session_id)
        return self._token(session_id, account.id, account.roles, created_at_ms=now_ms)

    async def _try(self, login: str) -> Account | None:
        """Count a try; None for whoever may not log in, or is not there."""
        row = await self._pool.fetchrow(
            store.TRY, login, self._settings.tries_max, self._settings.lock_s
        )
        if row is not None:
            if row["is_last"]:
                await self._record_alone(row["id"], "operator.lock", row["id"])
            return Account(row["id"], row["password_hash"], row["totp_sealed"], row["roles"])
        if await self._pool.fetchval(store.IS_LOCKED, login):
            waits = ("Retry-After", str(self._settings.lock_s))
            detail = "Too many tries; the account is locked for a while."
            raise Problem("otp-locked", detail, headers=(waits,))
        return None

    async def _take(self, account: Account, code: str) -> bool:
        """Use a code up; a right one forgets the tries before it."""
        if account.totp_sealed is None:
            return False
        secret = self._vault.open(account.totp_sealed, bound_to=binding(account.id))
        step = codes.step_of(secret, code, now_ms=self._clock())
        if step is None:
            return False
        return await self._pool.fetchval(store.TAKE_STEP, account.id, step) is not None

    async def step_up(self, who: Claims, code: str) -> TokenView:
        """Take a new code, so that what needs a fresh authentication may be done.

        Raises:
            Problem: unauthenticated, otp-locked.
        """
        row = await self._pool.fetchrow(store.LOGIN_OF, who.sid)
        account = None if row is None or row["login"] is None else await self._try(row["login"])
        if account is None or not await self._take(account, code):
            raise Problem("unauthenticated", "The code is wrong, or the session has ended.")
        view = await self._go_on(store.AUTHENTICATED, who.sid)
        await self._record_alone(who.sub, "operator.step_up", who.sid)
        return view

    async def renew(self, who: Claims) -> TokenView:
        """Go on: another token, with what the roles permit by now.

        Raises:
            Problem: unauthenticated: the session has ended.
        """
        return await self._go_on(store.RENEW, who.sid)

    async def _go_on(self, statement: str, session_id: str) -> TokenView:
        settings = self._settings
        row = await self._pool.fetchrow(
            statement, session_id, utc(self._clock()), settings.session_s, settings.idle_s
        )
        if row is None:
            raise Problem("unauthenticated", "The session has ended; log in again.")
        created_at_ms = round(row["created_at"].timestamp() * 1000)
        return self._token(
            session_id, row["operator_id"], row["roles"], created_at_ms=created_at_ms
        )

    def _token(
        self, session_id: str, operator_id: str, roles: list[str], *, created_at_ms: int
    ) -> TokenView:
        ends_ms = created_at_ms + self._settings.session_s * 1000
        lives_s = max(1, min(self._settings.idle_s, (ends_ms - self._clock()) // 1000))
        scope = self._roles.permitted(roles)
        token = self._issue(
            sub=operator_id,
            client_id=CLIENT,
            scope=scope,
            sid=session_id,
            channel=CLIENT,
            ttl_s=lives_s,
        )
        return TokenView(token, "Bearer", lives_s, session_id, rfc3339(ends_ms), " ".join(scope))

    async def log_out(self, who: Claims) -> None:
        """End the session; returns once no worker accepts its tokens."""
        async with self._pool.acquire() as connection, connection.transaction():
            ended = await connection.fetch(store.END, who.sid)
            revoked = await self._end(connection, [row["id"] for row in ended])
            await self._record(connection, who.sub, "operator.logout", who.sid)
        await self._keep(revoked)

    async def end_all(self, connection: Any, operator_id: str) -> Any:
        """End an operator's sessions in an open transaction; `keep` waits for what it returns."""
        ended = await connection.fetch(store.END_ALL, operator_id)
        return await self._end(connection, [row["id"] for row in ended])

    async def keep(self, revoked: Any) -> None:
        """Return once no worker accepts what was ended."""
        await self._keep(revoked)

    # Fresh authentication -------------------------------------------------------------------

    def guard(self, routes: Sequence[Route]) -> list[Route]:
        """Return the routes; those that approve need a fresh authentication."""
        return [self._guarded(one) if _approves(one) else one for one in routes]

    def _guarded(self, route: Route) -> Route:
        handler = route.handler

        async def guarded(request: Request) -> Response | Stream:
            await self._check_fresh(request.who)
            return await handler(request)

        problems = (*route.problems, "insufficient-user-authentication")
        return replace(route, handler=guarded, problems=problems)

    async def _check_fresh(self, who: Claims) -> None:
        # A token without a session was made by whoever keeps the keys, for a sandbox.
        if not who.sid:
            return
        if not await self._pool.fetchval(store.IS_FRESH, who.sid, self._settings.approval_age_s):
            age_s = self._settings.approval_age_s
            challenge = f'Bearer error="insufficient_user_authentication", max_age="{age_s}"'
            raise Problem(
                "insufficient-user-authentication",
                "Approving needs a code given lately: POST /admin/v1/auth/step-up first.",
                headers=(("WWW-Authenticate", challenge),),
            )

    async def _record(self, connection: Any, actor: str, action: str, object: str) -> None:
        await audit.record(
            connection, at_ms=self._clock(), actor=actor, action=action, object=object, detail={}
        )

    async def _record_alone(self, actor: str, action: str, object: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._record(connection, actor, action, object)


def _approves(route: Route) -> bool:
    return route.scope is not None and route.scope.endswith(APPROVES)


def utc(at_ms: int) -> datetime:
    """Return a moment as the database takes it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
