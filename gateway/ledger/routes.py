"""HTTP in and out of the ledger."""

from datetime import datetime

import msgspec

from gateway.kernel import scopes
from gateway.kernel.clock import Clock
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import query_as
from gateway.kernel.http.routes import Route
from gateway.ledger.balances import Balances, EntryView, TrialBalance

_TAG = "operators"
_READ = scopes.LEDGER_READ


class TrialQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`at`: RFC 3339 with an offset; by default now."""

    at: str | None = None


class _Handlers:
    def __init__(self, balances: Balances, clock: Clock) -> None:
        self._balances = balances
        self._clock = clock

    async def trial_balance(self, request: Request) -> Response:
        query = query_as(request, TrialQuery)
        at_ms = self._clock() if query.at is None else _millis(query.at)
        return json_response(200, await self._balances.trial_balance(at_ms))

    async def entry(self, request: Request) -> Response:
        return json_response(200, await self._balances.entry(request.params["id"]))


def _millis(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        detail = "Must be an RFC 3339 time with an offset."
        raise Problem("invalid-query", detail, errors=(("/at", detail),))
    return round(moment.timestamp() * 1000)


def routes(balances: Balances, clock: Clock) -> list[Route]:
    """Return the room's routes."""
    handlers = _Handlers(balances, clock)
    return [
        Route(
            method="GET",
            path="/admin/v1/ledger/trial-balance",
            handler=handlers.trial_balance,
            summary="Every account at a moment; debits equal credits",
            tag=_TAG,
            scope=_READ,
            priority=Priority.REPORT,
            query=TrialQuery,
            answers={200: TrialBalance},
            problems=("invalid-query",),
        ),
        Route(
            method="GET",
            path="/admin/v1/ledger/entries/{id}",
            handler=handlers.entry,
            summary="A journal entry, by the payment's or the action's id",
            tag=_TAG,
            scope=_READ,
            priority=Priority.READ,
            answers={200: EntryView},
            problems=("not-found",),
        ),
    ]
