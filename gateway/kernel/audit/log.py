"""Who did what, written in the transaction that does it, and its list.

Rows are only ever added; each is linked to the one before as its transaction commits. Never put a
card number or a token into one.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
import msgspec

from gateway.core import rfc3339
from gateway.kernel import scopes
from gateway.kernel.audit.chain import canonical
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import query_as
from gateway.kernel.http.routes import Route

# The database links it when the transaction commits, in the order of commits.
_ADD = """
INSERT INTO audit_log (at, actor, action, object, detail, record) VALUES ($1, $2, $3, $4, $5, $6)
"""
_PAGE = """
SELECT id, at, actor, action, object, detail FROM audit_log
WHERE id < $1 AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
  AND ($4::text IS NULL OR object = $4)
ORDER BY id DESC LIMIT $5
"""
_LIST = "audit"
_FIRST = 2**63 - 1

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


async def record(
    connection: Any,
    *,
    at_ms: int,
    actor: str,
    action: str,
    object: str,
    detail: dict[str, Any],
) -> None:
    """Add one row to the connection's open transaction.

    Args:
        at_ms: Unix milliseconds.
        actor: who did it: an operator's id, or the name of what acted by itself.
        action: what was done, `noun.verb`.
        object: the id of what it was done to.
        detail: what else is worth knowing; JSON.
    """
    assert connection.is_in_transaction(), "what is done and its trace are one"
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    chained = canonical(
        {"action": action, "actor": actor, "at": at_ms, "detail": detail, "object": object}
    )
    encoded = msgspec.json.encode(detail).decode()
    await connection.execute(_ADD, at, actor, action, object, encoded, chained)


class AuditEntry(msgspec.Struct):
    """One thing done."""

    id: str
    at: str
    actor: str
    action: str
    object: str
    detail: dict[str, Any]


class AuditPage(msgspec.Struct):
    data: list[AuditEntry]
    next_cursor: str | None


class AuditQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None
    actor: Word | None = None
    action: Word | None = None
    object: Word | None = None


class _Handlers:
    def __init__(self, pool: asyncpg.Pool, cursors: Cursors) -> None:
        self._pool = pool
        self._cursors = cursors

    async def page(self, request: Request) -> Response:
        query = query_as(request, AuditQuery)
        wanted = (query.actor, query.action, query.object)
        page = self._cursors.page(_LIST, query, *wanted)
        before = int(page.position or _FIRST)
        rows = await self._pool.fetch(_PAGE, before, *wanted, page.limit)
        shown, following = page.cut(rows, lambda row: str(row["id"]))
        return json_response(200, AuditPage([_entry(row) for row in shown], following))


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        id=str(row["id"]),
        at=rfc3339(round(row["at"].timestamp() * 1_000)),
        actor=row["actor"],
        action=row["action"],
        object=row["object"],
        detail=msgspec.json.decode(row["detail"]),
    )


def routes(*, pool: asyncpg.Pool, cursors: Cursors) -> list[Route]:
    """Return the route of the list."""
    handlers = _Handlers(pool, cursors)
    return [
        Route(
            method="GET",
            path="/admin/v1/audit",
            handler=handlers.page,
            summary="List what operators did, newest first",
            tag="audit",
            scope=scopes.AUDIT_READ,
            priority=Priority.REPORT,
            query=AuditQuery,
            answers={200: AuditPage},
            problems=("invalid-query", "invalid-cursor"),
        )
    ]
