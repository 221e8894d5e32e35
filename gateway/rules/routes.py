"""HTTP in and out of rules: what operators propose, approve, read and try out."""

from typing import Any

from gateway.core import Refusal, read_body
from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route
from gateway.proposals.model import ProposalView
from gateway.rules.document import Kind
from gateway.rules.model import (
    DeleteQuery,
    PageQuery,
    PlanBody,
    PlanDetail,
    PlanPage,
    PolicyBody,
    PolicyDetail,
    PolicyPage,
    RollbackBody,
    SimulationBody,
    SimulationView,
    VersionDetail,
)
from gateway.rules.service import Rules
from gateway.rules.views import Rulebook
from gateway.rules.what_if import Asked, WhatIfs

_READ, _PROPOSE = scopes.RULES_READ, scopes.RULES_PROPOSE
_PAGES = ("invalid-query", "invalid-cursor")
_PATHS: dict[Kind, str] = {"plan": "commission-plans", "policy": "limit-policies"}
_NAMES: dict[Kind, str] = {"plan": "commission plan", "policy": "limit policy"}
_MANY: dict[Kind, str] = {"plan": "commission plans", "policy": "limit policies"}
_VERSION_MAX = 2**31


class _OfKind:
    """The handlers of one kind of rule."""

    def __init__(self, kind: Kind, rules: Rules, views: Rulebook, cursors: Cursors) -> None:
        self._kind = kind
        self._rules = rules
        self._views = views
        self._cursors = cursors

    async def propose(self, request: Request) -> Response:
        canonical = read_body(request.raw_headers, request.body)
        if isinstance(canonical, Refusal):
            raise RefusedByCore(canonical)
        return _proposed(await self._rules.propose_put(self._kind, canonical, request.who.sub))

    async def roll_back(self, request: Request) -> Response:
        body = body_as(request, RollbackBody)
        shown = await self._rules.propose_rollback(
            self._kind, request.params["id"], body.version, body.effective_from, request.who.sub
        )
        return _proposed(shown)

    async def delete(self, request: Request) -> Response:
        no_body(request)
        query = query_as(request, DeleteQuery)
        shown = await self._rules.propose_delete(
            self._kind, request.params["id"], query.effective_from, request.who.sub
        )
        return _proposed(shown)

    async def page(self, request: Request) -> Response:
        page = self._cursors.page(_PATHS[self._kind], query_as(request, PageQuery))
        rows = await self._views.rules(self._kind, after=page.position or "", limit=page.limit)
        shown, following = page.cut(rows, lambda row: str(row["id"]))
        return json_response(200, {"data": shown, "next_cursor": following})

    async def get(self, request: Request) -> Response:
        found = await self._views.rule(self._kind, request.params["id"])
        return _found(found, "There is no such rule.")

    async def version(self, request: Request) -> Response:
        text = request.params["version"]
        number = int(text) if text.isdecimal() and text.isascii() and len(text) <= 10 else 0
        found = None
        if 0 < number < _VERSION_MAX:
            found = await self._views.version_view(self._kind, request.params["id"], number)
        return _found(found, "There is no such version.")


class _OfAll:
    """The handlers of simulations."""

    def __init__(self, what_ifs: WhatIfs) -> None:
        self._what_ifs = what_ifs

    async def simulate(self, request: Request) -> Response:
        asked = body_as(request, Asked)
        shown = await self._what_ifs.start(asked, request.who.sub)
        where = (("Location", f"/admin/v1/simulations/{shown['id']}"),)
        return json_response(202, shown, where)

    async def simulation(self, request: Request) -> Response:
        return json_response(200, await self._what_ifs.get(request.params["id"]))

    async def cancel(self, request: Request) -> Response:
        no_body(request)
        shown = await self._what_ifs.cancel(request.params["id"], request.who.sub)
        return json_response(200, shown)


def _proposed(shown: dict[str, Any]) -> Response:
    return json_response(201, shown, (("Location", f"/admin/v1/proposals/{shown['id']}"),))


def _found(shown: dict[str, Any] | None, missing: str) -> Response:
    if shown is None:
        raise Problem("not-found", missing)
    return json_response(200, shown)


def routes(*, rules: Rules, views: Rulebook, what_ifs: WhatIfs, cursors: Cursors) -> list[Route]:
    """Return the room's routes."""
    found = _routes_of(
        "plan", _OfKind("plan", rules, views, cursors), PlanBody, PlanPage, PlanDetail
    )
    found += _routes_of(
        "policy", _OfKind("policy", rules, views, cursors), PolicyBody, PolicyPage, PolicyDetail
    )
    handlers = _OfAll(what_ifs)
    return [*found, *_simulation_routes(handlers)]


def _routes_of(kind: Kind, handlers: _OfKind, body: Any, page: Any, detail: Any) -> list[Route]:
    path, name, tag = f"/admin/v1/{_PATHS[kind]}", _NAMES[kind], _MANY[kind]
    return [
        Route(
            method="POST",
            path=path,
            handler=handlers.propose,
            summary=f"Propose a {name}, new or changed",
            tag=tag,
            scope=_PROPOSE,
            priority=Priority.PAYMENT,
            body=body,
            answers={201: ProposalView},
            problems=("rules-invalid",),
        ),
        Route(
            method="GET",
            path=path,
            handler=handlers.page,
            summary=f"List {_MANY[kind]} that are in force or scheduled",
            tag=tag,
            scope=_READ,
            priority=Priority.REPORT,
            query=PageQuery,
            answers={200: page},
            problems=_PAGES,
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}",
            handler=handlers.get,
            summary=f"Get a {name} and who made its versions",
            tag=tag,
            scope=_READ,
            priority=Priority.READ,
            answers={200: detail},
            problems=("not-found",),
        ),
        Route(
            method="DELETE",
            path=f"{path}/{{id}}",
            handler=handlers.delete,
            summary=f"Propose that a {name} ends",
            tag=tag,
            scope=_PROPOSE,
            priority=Priority.PAYMENT,
            query=DeleteQuery,
            answers={201: ProposalView},
            problems=("not-found", "invalid-state", "invalid-query"),
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}/versions/{{version}}",
            handler=handlers.version,
            summary=f"Get one version of a {name}",
            tag=tag,
            scope=_READ,
            priority=Priority.READ,
            answers={200: VersionDetail},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path=f"{path}/{{id}}/rollback",
            handler=handlers.roll_back,
            summary=f"Propose an earlier version of a {name} as its next",
            tag=tag,
            scope=_PROPOSE,
            priority=Priority.PAYMENT,
            body=RollbackBody,
            answers={201: ProposalView},
            problems=("not-found", "rules-invalid"),
        ),
    ]


def _simulation_routes(handlers: _OfAll) -> list[Route]:
    path, tag = "/admin/v1/simulations", "simulations"
    return [
        Route(
            method="POST",
            path=path,
            handler=handlers.simulate,
            summary="Replay recorded decisions against drafts",
            tag=tag,
            scope=_PROPOSE,
            priority=Priority.REPORT,
            body=SimulationBody,
            answers={202: SimulationView},
            problems=("rules-invalid", "simulation-running"),
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}",
            handler=handlers.simulation,
            summary="Get a simulation, its progress and its report",
            tag=tag,
            scope=_READ,
            priority=Priority.READ,
            answers={200: SimulationView},
            problems=("not-found",),
        ),
        Route(
            method="DELETE",
            path=f"{path}/{{id}}",
            handler=handlers.cancel,
            summary="Cancel a simulation",
            tag=tag,
            scope=_PROPOSE,
            priority=Priority.PAYMENT,
            answers={200: SimulationView},
            problems=("not-found", "invalid-state"),
        ),
    ]
