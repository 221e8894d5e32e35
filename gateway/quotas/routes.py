"""HTTP in and out of clients' limits."""

import re

from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import body_as
from gateway.kernel.http.routes import Route
from gateway.quotas.limits import ClientLimits
from gateway.quotas.model import LimitsBody, LimitsView

_TAG = "operators"
_PATH = "/admin/v1/clients/{id}/limits"
_ETAG = re.compile(r'"([0-9]{1,18})"\Z')


class _Handlers:
    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits

    async def get(self, request: Request) -> Response:
        return _shown(await self._limits.get(request.params["id"]))

    async def put(self, request: Request) -> Response:
        given = request.header("if-match")
        if given is None:
            raise Problem("precondition-required", "Send If-Match: the ETag of what you have read.")
        found = _ETAG.match(given)
        # What is no revision of ours was never read here: it matches nothing (RFC 9110, 13.1.1).
        revision = int(found.group(1)) if found else -1
        body = body_as(request, LimitsBody)
        shown = await self._limits.put(
            request.params["id"], body, actor=request.who.sub, revision=revision
        )
        return _shown(shown)


def _shown(view: LimitsView) -> Response:
    return json_response(200, view, (("ETag", f'"{view.revision}"'),))


def routes(limits: ClientLimits) -> list[Route]:
    """Return the operators' routes of clients' limits."""
    handlers = _Handlers(limits)
    return [
        Route(
            method="GET",
            path=_PATH,
            handler=handlers.get,
            summary="What a client may ask for: its rate, its requests at once, its networks",
            tag=_TAG,
            scope=scopes.CLIENTS_READ,
            priority=Priority.READ,
            answers={200: LimitsView},
            problems=("not-found",),
        ),
        Route(
            method="PUT",
            path=_PATH,
            handler=handlers.put,
            summary="Change a client's limits, whole; every worker holds it to them within seconds",
            tag=_TAG,
            scope=scopes.CLIENTS_WRITE,
            priority=Priority.SETTLING,
            body=LimitsBody,
            is_conditional=True,
            answers={200: LimitsView},
            problems=("not-found", "precondition-required", "precondition-failed"),
        ),
    ]
