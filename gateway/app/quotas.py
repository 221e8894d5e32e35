"""What clients are held to, built and started."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from gateway.app.ground import Ground
from gateway.app.identity import IdentityRoom
from gateway.kernel.http.peers import peer
from gateway.kernel.http.routes import Route
from gateway.quotas.exchange import Exchange
from gateway.quotas.guard import Guard
from gateway.quotas.limits import ClientLimits
from gateway.quotas.routes import routes as quota_routes


def quota_doors(ground: Ground) -> list[Route]:
    """Return what operators change limits by."""
    return quota_routes(ClientLimits(pool=ground.pool, clock=ground.clock))


def hold_to_limits(
    ground: Ground, identity: IdentityRoom, routes: Sequence[Route], stack: AsyncExitStack
) -> list[Route]:
    """Return the routes, each client held to its limits, and start to tell other workers."""
    exchange = Exchange(
        redis=ground.redis,
        metrics=ground.metrics,
        interval_s=ground.settings.quotas.exchange_ms / 1_000,
    )
    ground.metrics.gauge("quotas_buckets", "Buckets held here.", lambda: float(exchange.size))
    ground.metrics.gauge(
        "quotas_alone", "1 while rates are not shared.", lambda: float(exchange.is_away)
    )
    ground.metrics.gauge(
        "quotas_limits_seq",
        "The last change of clients' limits known here.",
        lambda: float(ground.limits.read_seq),
    )
    exchange.start()
    stack.push_async_callback(exchange.close)
    guard = Guard(
        core=ground.core,
        limits=ground.limits,
        exchange=exchange,
        metrics=ground.metrics,
        peer=peer,
        workers=lambda: identity.followers.alive_count,
    )
    return guard.guard(routes)
