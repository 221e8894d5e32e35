"""Customers' sessions as operators see and end them: HTTP, and the use cases behind it.

An operator sees which device, from where, when last, and how a session ended; never a token. What
is ended here is told to the audit log, and no worker accepts its tokens when the call has returned.
"""

from typing import Annotated, Any, Literal

import asyncpg
import msgspec

from gateway.core import rfc3339
from gateway.identity import store
from gateway.identity.endings import EndReason
from gateway.identity.presence import Presence
from gateway.identity.promise import Promise
from gateway.identity.routes import patience_s
from gateway.identity.sessions import Sessions
from gateway.identity.store import millis
from gateway.kernel import audit, scopes
from gateway.kernel.clock import Clock
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import no_body, query_as
from gateway.kernel.http.routes import Route

_TAG = "operators"
_LIST = "all-sessions"
_FIRST = "ses_~"

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
State = Literal["alive", "ended"]


class SessionView(msgspec.Struct):
    """One session, alive or not. Times are RFC 3339.

    Attributes:
        last_used_at: when it last got tokens.
        last_seen_at: when it last asked for anything, as far as that is known.
        address: where it was seen last, null when that is not known.
        level: how its customer was authenticated.
        ended_by: a customer's or an operator's id, or `sessions` for what ended by itself.
    """

    id: str
    user: str
    client_id: str
    device_id: str
    device_name: str
    created_at: str
    last_used_at: str
    last_seen_at: str
    address: str | None
    level: str
    ended_at: str | None
    end_reason: EndReason | None
    ended_by: str | None


class SessionPage(msgspec.Struct):
    """One page of sessions."""

    data: list[SessionView]
    next_cursor: str | None


class SessionsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which sessions: of a customer, of a client, alive or ended."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, msgspec.Meta(max_length=1_024)] | None = None
    user: Id | None = None
    client: Id | None = None
    state: State | None = None


class Oversight:
    """Shows all customers' sessions, and ends one."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        sessions: Sessions,
        presence: Presence,
        promise: Promise,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._sessions = sessions
        self._presence = presence
        self._promise = promise
        self._clock = clock

    async def page(
        self,
        *,
        user: str | None,
        client: str | None,
        state: State | None,
        before: str,
        limit: int,
    ) -> list[SessionView]:
        """Return up to `limit` sessions older than `before`, the latest login first."""
        is_alive = None if state is None else state == "alive"
        rows = await self._pool.fetch(store.FIND_SESSIONS, user, client, is_alive, before, limit)
        alive = [(row["user_id"], row["id"]) for row in rows if row["ended_at"] is None]
        seen = await self._presence.of_many(alive)
        return [_view(row, seen.get(row["id"])) for row in rows]

    async def end(self, session_id: str, operator: str, patience: float | None) -> None:
        """End a session; ending it again changes nothing.

        Raises:
            Problem: `not-found`; `unavailable`: it has ended, and that is not certain everywhere.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(store.GET_SESSION, session_id)
            if row is None:
                raise Problem("not-found", "There is no such session.")
            ended = await self._sessions.endings.one(connection, session_id, operator)
            if ended:
                await audit.record(
                    connection,
                    at_ms=self._clock(),
                    actor=operator,
                    action="session.end",
                    object=session_id,
                    detail={"user": row["user_id"], "client": row["client_id"]},
                )
        if ended:
            await self._promise.keep(ended, patience)
        else:
            # Somebody else's end of it may not be certain yet.
            await self._promise.keep_all(patience)


def _view(row: Any, sight: Any) -> SessionView:
    used_at_ms, ended_at = millis(row["last_used_at"]), row["ended_at"]
    seen_at_ms = used_at_ms if sight is None else max(sight.seen_at_ms, used_at_ms)
    return SessionView(
        id=row["id"],
        user=row["user_id"],
        client_id=row["client_id"],
        device_id=row["device_id"],
        device_name=row["device_name"],
        created_at=rfc3339(millis(row["created_at"])),
        last_used_at=rfc3339(used_at_ms),
        last_seen_at=rfc3339(seen_at_ms),
        address=(sight.address if sight is not None else None) or row["address"],
        level=row["level"],
        ended_at=None if ended_at is None else rfc3339(millis(ended_at)),
        end_reason=row["end_reason"],
        ended_by=row["ended_by"],
    )


class _Handlers:
    def __init__(self, oversight: Oversight, cursors: Cursors) -> None:
        self._oversight = oversight
        self._cursors = cursors

    async def page(self, request: Request) -> Response:
        query = query_as(request, SessionsQuery)
        page = self._cursors.page(_LIST, query, query.user, query.client, query.state)
        found = await self._oversight.page(
            user=query.user,
            client=query.client,
            state=query.state,
            before=page.position or _FIRST,
            limit=page.limit,
        )
        return json_response(200, SessionPage(*page.cut(found, lambda one: one.id)))

    async def end(self, request: Request) -> Response:
        no_body(request)
        await self._oversight.end(request.params["id"], request.who.sub, patience_s(request))
        return Response(204, b"")


def routes(oversight: Oversight, cursors: Cursors) -> list[Route]:
    """Return the operators' routes of customers' sessions."""
    handlers = _Handlers(oversight, cursors)
    return [
        Route(
            method="GET",
            path="/admin/v1/sessions",
            handler=handlers.page,
            summary="List customers' sessions, alive and ended, the latest login first",
            tag=_TAG,
            scope=scopes.SESSIONS_READ,
            priority=Priority.REPORT,
            query=SessionsQuery,
            answers={200: SessionPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="DELETE",
            path="/admin/v1/sessions/{id}",
            handler=handlers.end,
            summary="End a customer's session; no worker accepts its tokens afterwards",
            tag=_TAG,
            scope=scopes.SESSIONS_WRITE,
            priority=Priority.SETTLING,
            answers={204: None},
            problems=("not-found", "unavailable"),
        ),
    ]
