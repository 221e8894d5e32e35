"""HTTP in and out of proposals of every kind: shown, approved, rejected, withdrawn."""

from typing import Any

from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route
from gateway.proposals.model import ProposalPage, ProposalsQuery, ProposalView, ReasonBody
from gateway.proposals.service import Proposals

_PATH, _TAG = "/admin/v1/proposals", "proposals"
_LIST = "proposals"
_FIRST = "prp_~"


class _Handlers:
    def __init__(self, proposals: Proposals, cursors: Cursors) -> None:
        self._proposals = proposals
        self._cursors = cursors

    async def page(self, request: Request) -> Response:
        query = query_as(request, ProposalsQuery)
        page = self._cursors.page(_LIST, query, query.kind, query.status)
        found = await self._proposals.page(
            scopes=request.who.scope,
            kind=query.kind,
            status=query.status,
            before=page.position or _FIRST,
            limit=page.limit,
        )
        shown, following = page.cut(found, lambda one: str(one["id"]))
        return json_response(200, {"data": shown, "next_cursor": following})

    async def get(self, request: Request) -> Response:
        return await self._answer(request.params["id"], request.who.scope)

    async def approve(self, request: Request) -> Response:
        no_body(request)
        who = request.who
        await self._proposals.approve(request.params["id"], who.sub, scopes=who.scope)
        return await self._answer(request.params["id"])

    async def reject(self, request: Request) -> Response:
        body, who = body_as(request, ReasonBody), request.who
        await self._proposals.reject(request.params["id"], body.reason, who.sub, scopes=who.scope)
        return await self._answer(request.params["id"])

    async def withdraw(self, request: Request) -> Response:
        body, who = body_as(request, ReasonBody), request.who
        await self._proposals.withdraw(request.params["id"], body.reason, who.sub, scopes=who.scope)
        return await self._answer(request.params["id"])

    async def _answer(self, proposal_id: str, of: Any = None) -> Response:
        return json_response(200, await self._proposals.view(proposal_id, scopes=of))


def routes(proposals: Proposals, cursors: Cursors) -> list[Route]:
    """Return the room's routes."""
    handlers = _Handlers(proposals, cursors)
    return [
        Route(
            method="GET",
            path=_PATH,
            handler=handlers.page,
            summary="List proposals of the kinds that one may see, newest first",
            tag=_TAG,
            scope=scopes.PROPOSALS_READ,
            priority=Priority.REPORT,
            query=ProposalsQuery,
            answers={200: ProposalPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path=f"{_PATH}/{{id}}",
            handler=handlers.get,
            summary="Get a proposal, what became of it, and what it would have changed",
            tag=_TAG,
            scope=scopes.PROPOSALS_READ,
            priority=Priority.READ,
            answers={200: ProposalView},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path=f"{_PATH}/{{id}}/approve",
            handler=handlers.approve,
            summary="Approve another operator's proposal; answers once it counts everywhere",
            tag=_TAG,
            scope=scopes.PROPOSALS_APPROVE,
            priority=Priority.PAYMENT,
            answers={200: ProposalView},
            problems=(
                "not-found",
                "insufficient-scope",
                "four-eyes-required",
                "invalid-state",
                "proposal-stale",
                "unavailable",
            ),
        ),
        Route(
            method="POST",
            path=f"{_PATH}/{{id}}/reject",
            handler=handlers.reject,
            summary="Reject a proposal, or withdraw one's own",
            tag=_TAG,
            scope=scopes.PROPOSALS_PROPOSE,
            priority=Priority.PAYMENT,
            body=ReasonBody,
            answers={200: ProposalView},
            problems=("not-found", "insufficient-scope", "invalid-state"),
        ),
        Route(
            method="POST",
            path=f"{_PATH}/{{id}}/withdraw",
            handler=handlers.withdraw,
            summary="Take one's own proposal back",
            tag=_TAG,
            scope=scopes.PROPOSALS_PROPOSE,
            priority=Priority.PAYMENT,
            body=ReasonBody,
            answers={200: ProposalView},
            problems=("not-found", "insufficient-scope", "invalid-state"),
        ),
    ]
