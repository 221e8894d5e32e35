"""HTTP in and out of operators: their logins, and who may do what."""

from typing import Annotated

import msgspec

from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route
from gateway.operators.model import (
    ChangeBody,
    ChangeView,
    LoginBody,
    OperatorPage,
    OperatorView,
    StepUpBody,
    TokenView,
)
from gateway.operators.service import Operators
from gateway.operators.sessions import SESSION_PREFIX, OperatorSessions

_TAG = "operators"
_LIST = "operators"


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class _Handlers:
    def __init__(self, operators: Operators, sessions: OperatorSessions, cursors: Cursors) -> None:
        self._operators = operators
        self._sessions = sessions
        self._cursors = cursors

    async def log_in(self, request: Request) -> Response:
        return json_response(200, await self._sessions.log_in(body_as(request, LoginBody)))

    async def step_up(self, request: Request) -> Response:
        _check_is_operator(request)
        body = body_as(request, StepUpBody)
        return json_response(200, await self._sessions.step_up(request.who, body.code))

    async def renew(self, request: Request) -> Response:
        _check_is_operator(request)
        no_body(request)
        return json_response(200, await self._sessions.renew(request.who))

    async def log_out(self, request: Request) -> Response:
        _check_is_operator(request)
        no_body(request)
        await self._sessions.log_out(request.who)
        return Response(204, b"")

    async def page(self, request: Request) -> Response:
        page = self._cursors.page(_LIST, query_as(request, PageQuery))
        found = await self._operators.page(after=page.position or "", limit=page.limit)
        return json_response(200, OperatorPage(*page.cut(found, lambda one: one.id)))

    async def get(self, request: Request) -> Response:
        return json_response(200, await self._operators.get(request.params["id"]))

    async def propose(self, request: Request) -> Response:
        body = body_as(request, ChangeBody)
        shown = await self._operators.propose(request.params["id"], body, request.who.sub)
        return json_response(201, shown)

    async def approve(self, request: Request) -> Response:
        no_body(request)
        shown = await self._operators.approve(request.params["id"], request.who.sub)
        return json_response(200, shown)

    async def reject(self, request: Request) -> Response:
        no_body(request)
        shown = await self._operators.reject(request.params["id"], request.who.sub)
        return json_response(200, shown)


def _check_is_operator(request: Request) -> None:
    if not request.who.sid.startswith(SESSION_PREFIX):
        raise Problem("insufficient-scope", "This is for operators who have logged in.")


def routes(operators: Operators, sessions: OperatorSessions, cursors: Cursors) -> list[Route]:
    """Return the routes of operators."""
    handlers = _Handlers(operators, sessions, cursors)
    return [
        Route(
            method="POST",
            path="/admin/v1/auth/login",
            handler=handlers.log_in,
            summary="Log in by password and the authenticator's code",
            tag=_TAG,
            scope=None,
            priority=Priority.PAYMENT,
            body=LoginBody,
            answers={200: TokenView},
            problems=("unauthenticated", "otp-locked"),
        ),
        Route(
            method="POST",
            path="/admin/v1/auth/step-up",
            handler=handlers.step_up,
            summary="Give a new code, as approving needs",
            tag=_TAG,
            scope="",
            priority=Priority.PAYMENT,
            body=StepUpBody,
            answers={200: TokenView},
            problems=(
                "insufficient-scope",
                "otp-locked",
            ),
        ),
        Route(
            method="POST",
            path="/admin/v1/auth/renew",
            handler=handlers.renew,
            summary="Go on with the session by another token",
            tag=_TAG,
            scope="",
            priority=Priority.PAYMENT,
            answers={200: TokenView},
            problems=("insufficient-scope",),
        ),
        Route(
            method="POST",
            path="/admin/v1/auth/logout",
            handler=handlers.log_out,
            summary="End the session; no worker accepts its tokens afterwards",
            tag=_TAG,
            scope="",
            priority=Priority.SETTLING,
            answers={204: None},
            problems=(
                "insufficient-scope",
                "unavailable",
            ),
        ),
        Route(
            method="GET",
            path="/admin/v1/operators",
            handler=handlers.page,
            summary="List operators with their roles and what those permit",
            tag=_TAG,
            scope=scopes.OPERATORS_READ,
            priority=Priority.REPORT,
            query=PageQuery,
            answers={200: OperatorPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path="/admin/v1/operators/{id}",
            handler=handlers.get,
            summary="Get an operator",
            tag=_TAG,
            scope=scopes.OPERATORS_READ,
            priority=Priority.READ,
            answers={200: OperatorView},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path="/admin/v1/operators/{id}/proposals",
            handler=handlers.propose,
            summary="Propose the roles an operator is to have; another operator approves",
            tag=_TAG,
            scope=scopes.OPERATORS_PROPOSE,
            priority=Priority.PAYMENT,
            body=ChangeBody,
            answers={201: ChangeView},
            problems=("not-found", "schema-violation"),
        ),
        Route(
            method="POST",
            path="/admin/v1/operator-proposals/{id}/approve",
            handler=handlers.approve,
            summary="Give an operator the roles that another proposed; the sessions end",
            tag=_TAG,
            scope=scopes.OPERATORS_APPROVE,
            priority=Priority.PAYMENT,
            answers={200: ChangeView},
            problems=("not-found", "invalid-state", "four-eyes-required", "proposal-stale"),
        ),
        Route(
            method="POST",
            path="/admin/v1/operator-proposals/{id}/reject",
            handler=handlers.reject,
            summary="Reject proposed roles, or take back the own proposal",
            tag=_TAG,
            scope=scopes.OPERATORS_PROPOSE,
            priority=Priority.PAYMENT,
            answers={200: ChangeView},
            problems=("not-found", "invalid-state"),
        ),
    ]
