"""HTTP in and out of reconciliation."""

from datetime import date
from typing import Annotated

import msgspec

from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route
from gateway.reconciliation.breaks import Breaks
from gateway.reconciliation.model import (
    BreakKind,
    BreakStatus,
    BreakView,
    ImportBody,
    ImportView,
    ProposalBody,
)
from gateway.reconciliation.service import Reconciliation

_TAG = "reconciliation"
_READ = scopes.RECONCILIATION_READ
_DAYS, _BREAKS = "reconciliation-days", "reconciliation-breaks"
_AFTER_ALL = "~"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=100)]


class DaysPage(msgspec.Struct):
    """A page of reports."""

    data: list[ImportView]
    next_cursor: str | None


class BreaksPage(msgspec.Struct):
    """A page of breaks."""

    data: list[BreakView]
    next_cursor: str | None


class DaysQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How reports are listed."""

    limit: Limit = 20
    cursor: str | None = None
    connector: Name | None = None
    business_day: date | None = None


class BreaksQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How breaks are listed."""

    limit: Limit = 20
    cursor: str | None = None
    kind: BreakKind | None = None
    connector: Name | None = None
    status: BreakStatus | None = None
    business_day: date | None = None


class _Handlers:
    def __init__(self, service: Reconciliation, breaks: Breaks, cursors: Cursors) -> None:
        self._service = service
        self._breaks = breaks
        self._cursors = cursors

    async def days(self, request: Request) -> Response:
        query = query_as(request, DaysQuery)
        page = self._cursors.page(_DAYS, query, query.connector, query.business_day)
        before = (date.max, _AFTER_ALL)
        if page.position is not None:
            day, _, connector = page.position.partition("|")
            before = (date.fromisoformat(day), connector)
        found = await self._breaks.days(
            connector=query.connector,
            day=query.business_day,
            before=before,
            limit=page.limit,
        )
        cut = page.cut(found, lambda one: f"{one.business_day}|{one.connector}")
        return json_response(200, DaysPage(*cut))

    async def take(self, request: Request) -> Response:
        body = body_as(request, ImportBody)
        shown, is_new = await self._service.fetch(
            body.connector, body.business_day, request.who.sub
        )
        return json_response(201 if is_new else 200, shown)

    async def page(self, request: Request) -> Response:
        query = query_as(request, BreaksQuery)
        wanted = (query.kind, query.connector, query.status, query.business_day)
        page = self._cursors.page(_BREAKS, query, *wanted)
        found = await self._breaks.page(
            after=page.position or "",
            kind=query.kind,
            connector=query.connector,
            status=query.status,
            day=query.business_day,
            limit=page.limit,
        )
        return json_response(200, BreaksPage(*page.cut(found, lambda one: one.id)))

    async def get(self, request: Request) -> Response:
        return json_response(200, await self._breaks.get(request.params["id"]))

    async def propose(self, request: Request) -> Response:
        body = body_as(request, ProposalBody)
        shown = await self._breaks.propose(request.params["id"], body, request.who.sub)
        return json_response(201, shown)

    async def approve(self, request: Request) -> Response:
        no_body(request)
        shown = await self._breaks.approve(request.params["id"], request.who.sub)
        return json_response(200, shown)


def routes(service: Reconciliation, breaks: Breaks, cursors: Cursors) -> list[Route]:
    """Return the room's routes."""
    handlers = _Handlers(service, breaks, cursors)
    return [
        Route(
            method="GET",
            path="/admin/v1/reconciliation",
            handler=handlers.days,
            summary="List processors' reports as they stand, newest business day first",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            query=DaysQuery,
            answers={200: DaysPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="POST",
            path="/admin/v1/reconciliation/imports",
            handler=handlers.take,
            summary="Fetch a processor's report of a business day and match it",
            tag=_TAG,
            scope=scopes.RECONCILIATION_WRITE,
            priority=Priority.REPORT,
            body=ImportBody,
            answers={200: ImportView, 201: ImportView},
            problems=("processor-unavailable",),
        ),
        Route(
            method="GET",
            path="/admin/v1/reconciliation/breaks",
            handler=handlers.page,
            summary="List differences between reports and what was done here, oldest first",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            query=BreaksQuery,
            answers={200: BreaksPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path="/admin/v1/reconciliation/breaks/{id}",
            handler=handlers.get,
            summary="Get a break with its two sides",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            answers={200: BreakView},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path="/admin/v1/reconciliation/breaks/{id}/proposals",
            handler=handlers.propose,
            summary="Propose to accept a break, or to post an entry; another operator approves",
            tag=_TAG,
            scope=scopes.RECONCILIATION_PROPOSE,
            priority=Priority.PAYMENT,
            body=ProposalBody,
            answers={201: BreakView},
            problems=("not-found", "invalid-state"),
        ),
        Route(
            method="POST",
            path="/admin/v1/reconciliation/breaks/{id}/approve",
            handler=handlers.approve,
            summary="Close a break as another operator proposed",
            tag=_TAG,
            scope=scopes.RECONCILIATION_APPROVE,
            priority=Priority.PAYMENT,
            answers={200: BreakView},
            problems=("not-found", "four-eyes-required", "invalid-state", "proposal-stale"),
        ),
    ]
