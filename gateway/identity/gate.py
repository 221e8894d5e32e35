"""What stands before every route that takes a token: is this worker allowed to believe one now?

It is the first thing a request meets that came through while the worker slept: the age of the last
reading of revocations, by a clock that goes on meanwhile. Beside it, who was seen is noted.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import replace

from gateway.core import Core, Refusal
from gateway.identity.presence import Presence
from gateway.identity.revocation import RevocationFeed
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.peers import peer
from gateway.kernel.http.problems import RefusedByCore
from gateway.kernel.http.routes import Handler, Route

_STALE = "revocation-feed-stale"


class Gate:
    """Guards routes."""

    def __init__(self, *, feed: RevocationFeed, core: Core, presence: Presence) -> None:
        self._feed = feed
        self._core = core
        self._presence = presence

    def guard(self, routes: Sequence[Route]) -> list[Route]:
        """Return the routes, those that take a token guarded."""
        return [self._guarded(route) if route.scope is not None else route for route in routes]

    def _guarded(self, route: Route) -> Route:
        handler = route.handler
        feed, presence = self._feed, self._presence

        def guarded(request: Request) -> Awaitable[Response | Stream]:
            if not feed.is_open():
                return self._when_open(route, handler, request)
            presence.note_request(request, peer())
            return handler(request)

        problems = route.problems if _STALE in route.problems else (*route.problems, _STALE)
        return replace(route, handler=guarded, problems=problems)

    async def _when_open(
        self, route: Route, handler: Handler, request: Request
    ) -> Response | Stream:
        await self._feed.open()
        if not route.is_hot:
            # It was authorized by what was known before.
            assert route.scope is not None, "a guarded route takes a token"
            claims = self._core.authorize(request.raw_headers, route.scope, request.received_at_ms)
            if isinstance(claims, Refusal):
                raise RefusedByCore(claims)
            request.claims = claims
        self._presence.note_request(request, peer())
        return await handler(request)
