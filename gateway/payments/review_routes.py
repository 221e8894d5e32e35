"""HTTP in and out of what operators settle: reviews, and the money in doubt."""

from typing import Annotated

import msgspec

from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route
from gateway.payments.reviews import InDoubtView, ProposalBody, Reviews, ReviewView, Status

_TAG = "operators"
_READ = scopes.REVIEWS_READ
_LIST = "reviews"
_FIRST = "rev_~"


class ReviewPage(msgspec.Struct):
    """A page of reviews."""

    data: list[ReviewView]
    next_cursor: str | None


class ReviewsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How reviews are listed."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None
    status: Status | None = None


class _Handlers:
    def __init__(self, reviews: Reviews, cursors: Cursors) -> None:
        self._reviews = reviews
        self._cursors = cursors

    async def page(self, request: Request) -> Response:
        query = query_as(request, ReviewsQuery)
        page = self._cursors.page(_LIST, query, query.status)
        before = page.position or _FIRST
        found = await self._reviews.page(before=before, status=query.status, limit=page.limit)
        return json_response(200, ReviewPage(*page.cut(found, lambda one: one.id)))

    async def get(self, request: Request) -> Response:
        return json_response(200, await self._reviews.get(request.params["id"]))

    async def propose(self, request: Request) -> Response:
        body = body_as(request, ProposalBody)
        shown = await self._reviews.propose(request.params["id"], body, request.who.sub)
        return json_response(201, shown)

    async def approve(self, request: Request) -> Response:
        no_body(request)
        shown = await self._reviews.approve(request.params["id"], request.who.sub)
        return json_response(200, shown)

    async def in_doubt(self, request: Request) -> Response:
        return json_response(200, await self._reviews.money_in_doubt())


def routes(reviews: Reviews, cursors: Cursors) -> list[Route]:
    """Return the routes of reviews."""
    handlers = _Handlers(reviews, cursors)
    return [
        Route(
            method="GET",
            path="/admin/v1/reviews",
            handler=handlers.page,
            summary="List payments that a human must settle, newest first",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            query=ReviewsQuery,
            answers={200: ReviewPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path="/admin/v1/reviews/{id}",
            handler=handlers.get,
            summary="Get a review",
            tag=_TAG,
            scope=_READ,
            priority=Priority.READ,
            answers={200: ReviewView},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path="/admin/v1/reviews/{id}/proposals",
            handler=handlers.propose,
            summary="Say what became of it; another operator approves",
            tag=_TAG,
            scope=scopes.REVIEWS_PROPOSE,
            priority=Priority.PAYMENT,
            body=ProposalBody,
            answers={201: ReviewView},
            problems=("not-found", "invalid-state"),
        ),
        Route(
            method="POST",
            path="/admin/v1/reviews/{id}/approve",
            handler=handlers.approve,
            summary="Settle it as another operator proposed",
            tag=_TAG,
            scope=scopes.REVIEWS_APPROVE,
            priority=Priority.PAYMENT,
            answers={200: ReviewView},
            problems=("not-found", "four-eyes-required", "invalid-state", "proposal-stale"),
        ),
        Route(
            method="GET",
            path="/admin/v1/money-in-doubt",
            handler=handlers.in_doubt,
            summary="Money of which nobody can say yet where it is",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            answers={200: InDoubtView},
        ),
    ]
