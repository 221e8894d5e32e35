"""What stands before every route that takes a token: is this worker allowed to believe one now?

It is the first thing a request meets that came through while the worker slept: the age of the last
reading of revocations, by a clock that goes on meanwhile. A token that is bound to a key is
believed with a proof alone. Beside it, who was seen is noted.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import replace

from gateway.core import Claims, Core, Refusal
from gateway.identity.presence import Presence
from gateway.identity.proofs import Proofs
from gateway.identity.revocation import RevocationFeed
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.peers import peer
from gateway.kernel.http.problems import refused_by_core
from gateway.kernel.http.routes import Handler, Route

_STALE = "revocation-feed-stale"
_PROOF = ("invalid-dpop-proof", "use-dpop-nonce")
_BEARER = b"bearer "


class Gate:
    """Guards routes."""

    def __init__(
        self, *, feed: RevocationFeed, core: Core, presence: Presence, proofs: Proofs
    ) -> None:
        self._feed = feed
        self._core = core
        self._presence = presence
        self._proofs = proofs

    def guard(self, routes: Sequence[Route]) -> list[Route]:
        """Return the routes, those that take a token guarded."""
        return [self._guarded(route) if route.scope is not None else route for route in routes]

    def _guarded(self, route: Route) -> Route:
        handler = route.handler
        feed, presence = self._feed, self._presence

        def guarded(request: Request) -> Awaitable[Response | Stream]:
            claims = request.claims
            if claims is None:
                # A hot route authorizes by itself, and takes a bound token under another scheme
                # alone: what is not plainly its bearer's is looked at first.
                value = _authorization(request)
                is_plain = value[: len(_BEARER)].lower() == _BEARER
            else:
                value = b""
                is_plain = not claims.jkt
            if not (is_plain and feed.is_open()):
                return self._carefully(route, handler, request)
            if claims is None:
                presence.note_header(value, request.received_at_ms, peer())
            else:
                presence.note_claims(claims, request.received_at_ms, peer())
            return handler(request)

        problems = dict.fromkeys((*route.problems, _STALE, *_PROOF, "unavailable"))
        return replace(route, handler=guarded, problems=tuple(problems))

    async def _carefully(
        self, route: Route, handler: Handler, request: Request
    ) -> Response | Stream:
        await self._feed.open()
        claims = self._authorized(route, request)
        if claims.jkt:
            await self._proofs.check(request, claims.jkt)
            # Meanwhile it may have been revoked.
            await self._feed.open()
            claims = self._authorized(route, request)
        if not route.is_hot:
            request.claims = claims
        self._presence.note_claims(claims, request.received_at_ms, peer())
        return await handler(request)

    def _authorized(self, route: Route, request: Request) -> Claims:
        """Return who asks, by what is known now; a hot route's scope is its own to ask for."""
        assert route.scope is not None, "a guarded route takes a token"
        scope = "" if route.is_hot else route.scope
        claims = self._core.authorize(request.raw_headers, scope, request.received_at_ms)
        if isinstance(claims, Refusal):
            raise refused_by_core(claims, request.raw_headers)
        return claims


def _authorization(request: Request) -> bytes:
    """Return the first Authorization header, or nothing."""
    for name, value in request.raw_headers:
        if len(name) == 13 and name.lower() == b"authorization":
            return value
    return b""
