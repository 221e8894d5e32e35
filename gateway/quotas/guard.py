"""Holds requests that carry a token to their client's limits, before anything is done for them.

Whose a request is is asked of the core, which knows its token by then or will in a moment; whoever
is not limited pays a look into a dictionary. Nobody waits for Redis but who has asked for more,
within one interval, than the client's rate makes in it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from gateway.core import Claims, Core, Refusal
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, Stream
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.kernel.http.routes import Handler, Route
from gateway.kernel.metrics import Metrics
from gateway.quotas.bucket import Bucket, Verdict
from gateway.quotas.exchange import Exchange, now_us
from gateway.quotas.gcra import SECOND_US, Pace, wait_us
from gateway.quotas.limits import NETWORK, Limits
from gateway.quotas.model import Limit, left_of

# What a request takes of its client's rate.
COSTS = {Priority.REPORT: 10}
# A request at once too many is soon one fewer.
_CROWD_WAIT_S = 1
_UNPACED = Pace(0, 0)

Headers = tuple[tuple[str, str], ...]


class Guard:
    """Guards routes.

    Args:
        limits: what each client is held to.
        exchange: holds the buckets.
        peer: returns the address of whoever sent the request that is being handled.
        workers: returns how many workers live, on all hosts, as last heard.
        steady_us: microseconds that never jump.
    """

    def __init__(
        self,
        *,
        core: Core,
        limits: Limits,
        exchange: Exchange,
        metrics: Metrics,
        peer: Callable[[], str],
        workers: Callable[[], int],
        steady_us: Callable[[], int] = now_us,
    ) -> None:
        self._core = core
        self._limits = limits
        self._exchange = exchange
        self._metrics = metrics
        self._peer = peer
        self._workers = workers
        self._steady_us = steady_us

    def guard(self, routes: Sequence[Route]) -> list[Route]:
        """Return the routes, those that take a token guarded."""
        return [self._guarded(route) if route.scope is not None else route for route in routes]

    def _guarded(self, route: Route) -> Route:
        handler, limits, core, peer = route.handler, self._limits, self._core, self._peer
        units = COSTS.get(route.priority, 1)

        def guarded(request: Request) -> Awaitable[Response | Stream]:
            if not limits.are_there_any:
                return handler(request)
            claims = request.claims
            if claims is None:
                # A hot route's handler asks the core for everything at once, and for this again:
                # it has the token by heart.
                found = core.authorize(request.raw_headers, "", request.received_at_ms)
                if isinstance(found, Refusal):
                    raise RefusedByCore(found)
                claims = found
            limit = limits.of(claims.client_id, claims.channel)
            if limit is None:
                return handler(request)
            if limit.networks:
                limits.check_network(claims.client_id, claims.channel, peer())
            if limit.pace is None and not limit.concurrency_max:
                return handler(request)
            return self._limited(handler, request, self._bucket_of(claims, limit), limit, units)

        return replace(route, handler=guarded, problems=(*route.problems, NETWORK))

    def _bucket_of(self, claims: Claims, limit: Limit) -> Bucket:
        tag = claims.client_id
        # The tag keeps a client's buckets together in a cluster.
        key = f"quota:{{{tag}}}:{claims.sub}" if limit.is_per_customer else f"quota:{{{tag}}}"
        pace = limit.pace or _UNPACED
        bucket = self._exchange.find(key)
        if bucket is None:
            bucket = Bucket(tag, key, pace, limit.concurrency_max)
            self._exchange.hold(bucket)
        elif bucket.pace is not pace or bucket.concurrency_max != limit.concurrency_max:
            bucket.pace, bucket.concurrency_max = pace, limit.concurrency_max
        return bucket

    async def _limited(
        self, handler: Handler, request: Request, bucket: Bucket, limit: Limit, units: int
    ) -> Response | Stream:
        if limit.pace is not None:
            await self._pass(bucket, limit, bucket.cost_us(units))
        verdict = self._room_in(bucket)
        if verdict is Verdict.WAIT:
            await self._exchange.ask(bucket, 0)
            verdict = self._room_in(bucket)
        if verdict is not Verdict.PASS:
            self._metrics.count("quotas_refused", "concurrency")
            detail = f"This client may have {limit.concurrency_max} requests at once."
            raise self._too_many(bucket, limit, detail, _CROWD_WAIT_S)
        bucket.in_flight += 1
        self._exchange.note(bucket)
        try:
            answer = await handler(request)
        except (Problem, RefusedByCore) as refused:
            refused.headers = (*refused.headers, *self._headers(bucket, limit))
            raise
        finally:
            bucket.in_flight -= 1
            if bucket.told != bucket.in_flight:
                self._exchange.note(bucket)
        if isinstance(answer, Response):
            answer.headers = (*answer.headers, *self._headers(bucket, limit))
        return answer

    def _room_in(self, bucket: Bucket) -> Verdict:
        exchange = self._exchange
        return bucket.has_room(
            self._steady_us(),
            workers=self._workers(),
            is_alone=exchange.is_away,
            fresh_us=exchange.fresh_us,
        )

    async def _pass(self, bucket: Bucket, limit: Limit, cost_us: int) -> None:
        """Return when a request may pass. Raises Problem `rate-limited`."""
        exchange, at_us = self._exchange, self._steady_us()
        may_pass: bool | None = None
        if not exchange.is_away:
            verdict = bucket.admit(at_us, cost_us, unseen_us_max=exchange.unseen_us_max)
            if verdict is Verdict.WAIT:
                may_pass = await exchange.ask(bucket, cost_us)
                at_us = self._steady_us()
            else:
                may_pass = verdict is Verdict.PASS
        if may_pass is None:
            verdict = bucket.admit_alone(at_us, cost_us, workers=self._workers())
            may_pass = verdict is Verdict.PASS
            # So that it is noticed when Redis is back.
            exchange.note(bucket)
        if may_pass:
            return
        self._metrics.count("quotas_refused", "rate")
        left_us = wait_us(bucket.tat_us, at_us, cost_us, bucket.pace.tolerance_us)
        raise self._too_many(
            bucket, limit, "This client asks for too much.", max(1, -(-left_us // SECOND_US))
        )

    def _too_many(self, bucket: Bucket, limit: Limit, detail: str, wait_s: int) -> Problem:
        headers = (("Retry-After", str(wait_s)), *self._headers(bucket, limit))
        return Problem("rate-limited", detail, headers=headers)

    def _headers(self, bucket: Bucket, limit: Limit) -> Headers:
        if limit.pace is None:
            return ()
        left = left_of(bucket, self._steady_us(), is_per_customer=limit.is_per_customer)
        return (("RateLimit-Policy", limit.policy), ("RateLimit", left))
