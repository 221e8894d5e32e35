"""What operators revoke, and where it is applied: HTTP, and the one use case behind it."""

import asyncpg

from gateway.core import rfc3339
from gateway.identity.model import AckView, RevocationBody, RevocationView, RevokedView
from gateway.identity.promise import Promise
from gateway.identity.revocation import Entry, RevocationLog
from gateway.identity.routes import patience_s
from gateway.identity.sessions import Sessions
from gateway.identity.store import millis
from gateway.kernel import audit, scopes
from gateway.kernel.clock import Clock, steady_s
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import body_as
from gateway.kernel.http.routes import Route

_TAG = "operators"
_SEQ_DIGITS_MAX = 18


class OperatorRevocations:
    """Revokes for operators, and tells who applied it."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        log: RevocationLog,
        sessions: Sessions,
        promise: Promise,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._log = log
        self._sessions = sessions
        self._promise = promise
        self._clock = clock

    async def revoke(
        self, body: RevocationBody, operator: str, patience_s: float | None
    ) -> RevokedView:
        """Revoke, end the sessions it names, and return once no worker accepts any of it.

        Raises:
            Problem: `unavailable`: it is written, and not certain everywhere yet.
        """
        started_s = steady_s()
        async with self._pool.acquire() as connection, connection.transaction():
            entries = await self._revoke(connection, body, operator)
            await audit.record(
                connection,
                at_ms=self._clock(),
                actor=operator,
                action="revocation.add",
                object=body.value,
                detail={"kind": body.kind, "seq": entries[-1].seq},
            )
        await self._promise.keep(entries, patience_s)
        elapsed_ms = round((steady_s() - started_s) * 1_000)
        seq = entries[-1].seq
        return RevokedView(seq, await self._acks(seq), elapsed_ms)

    async def _revoke(
        self, connection: asyncpg.pool.PoolConnectionProxy, body: RevocationBody, operator: str
    ) -> list[Entry]:
        entries: list[Entry] = []
        if body.kind == "sid":
            entries = await self._sessions.endings.one(connection, body.value, operator)
        elif body.kind == "sub":
            entries = await self._sessions.endings.of_user(connection, body.value, operator)
        elif body.kind == "client":
            await self._sessions.endings.of_client(connection, body.value, operator)
        if body.kind != "sid" or not entries:
            entries.append(await self._log.revoke(connection, kind=body.kind, value=body.value))
        return entries

    async def get(self, seq: int) -> RevocationView:
        """Return a revocation and who applied it. Raises Problem `not-found`."""
        row = await self._promise.get(seq)
        if row is None:
            raise Problem("not-found", "There is no such revocation, or no token needs it now.")
        acks = await self._acks(seq)
        return RevocationView(
            seq=seq,
            kind=row["kind"],
            value=row["value"],
            created_at=rfc3339(millis(row["created_at"])),
            expires_at=rfc3339(millis(row["expires_at"])),
            applied_by=acks,
            behind=await self._promise.behind(seq),
            elapsed_ms=max((one.after_ms for one in acks), default=0),
        )

    async def _acks(self, seq: int) -> list[AckView]:
        acks = await self._promise.acks(seq)
        return [AckView(f"{one.worker}@{one.name}", one.after_ms) for one in acks]


class _Handlers:
    def __init__(self, revocations: OperatorRevocations) -> None:
        self._revocations = revocations

    async def add(self, request: Request) -> Response:
        body = body_as(request, RevocationBody)
        shown = await self._revocations.revoke(body, request.who.sub, patience_s(request))
        return json_response(201, shown)

    async def get(self, request: Request) -> Response:
        text = request.params["seq"]
        if not (text.isascii() and text.isdecimal()) or len(text) > _SEQ_DIGITS_MAX:
            raise Problem("not-found", "There is no such revocation.")
        return json_response(200, await self._revocations.get(int(text)))


def routes(revocations: OperatorRevocations) -> list[Route]:
    """Return the operators' routes of revocations."""
    handlers = _Handlers(revocations)
    return [
        Route(
            method="POST",
            path="/admin/v1/revocations",
            handler=handlers.add,
            summary="Revoke a token, a session, or everything of a subject or client until now",
            tag=_TAG,
            scope=scopes.REVOCATIONS_WRITE,
            priority=Priority.SETTLING,
            body=RevocationBody,
            answers={201: RevokedView},
            problems=("unavailable",),
        ),
        Route(
            method="GET",
            path="/admin/v1/revocations/{seq}",
            handler=handlers.get,
            summary="Which workers refuse by a revocation, and after how many milliseconds",
            tag=_TAG,
            scope=scopes.REVOCATIONS_READ,
            priority=Priority.READ,
            answers={200: RevocationView},
            problems=("not-found",),
        ),
    ]
