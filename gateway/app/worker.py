"""One worker: every room over one ground, behind one front."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from connectors.spi import Connector
from gateway.app.ground import Ground, open_ground
from gateway.app.identity import open_identity, open_operators
from gateway.app.payments import open_payments
from gateway.app.quotas import hold_to_limits, quota_doors
from gateway.app.rooms import (
    card_doors,
    open_audit,
    open_ledger,
    open_proposals,
    open_reconciliation,
    open_rules,
    open_webhooks,
)
from gateway.core import check_version
from gateway.identity.messages import routes as sandbox_routes
from gateway.kernel.crew import Crew
from gateway.kernel.http.admission import Door, DoorPolicy, Priority
from gateway.kernel.http.edge import Edge
from gateway.kernel.http.front import HttpFront
from gateway.kernel.http.routes import RouteTable
from gateway.kernel.http.system import Check
from gateway.kernel.http.system import routes as system_routes
from gateway.kernel.lag import LoopLag
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.kernel.secrets import Keys
from gateway.settings import Settings
from gateway.webhooks.fanout import settle_order


async def _register(ground: Ground) -> Lease:
    """Make this process a worker, known to all; from now on it decides by the newest rules."""
    lease_s = ground.settings.recovery.worker_lease_s
    lease = await Lease.register(ground.pool, ground.clock, ground.metrics, lease_s=lease_s)
    await ground.rules.work_as(lease.worker)
    return lease


def _checks(ground: Ground, lease: Lease, connectors: dict[str, Connector]) -> dict[str, Check]:
    """What must be usable before a request is worth sending here."""

    async def database() -> bool:
        return bool(await ground.pool.fetchval("SELECT true"))

    async def revocations() -> bool:
        return ground.core.check_feed(ground.clock()) is None

    async def held() -> bool:
        return lease.is_held()

    def connector(one: Connector) -> Check:
        async def is_ready() -> bool:
            return one.is_ready()

        return is_ready

    # Without Redis payments go on, and a balancer that left this worker alone would stop them.
    checks: dict[str, Check] = {
        "database": database,
        "lease": held,
        "revocations": revocations,
    }
    return checks | {f"connector {name}": connector(one) for name, one in connectors.items()}


def _open_door(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Door:
    """Build what decides who comes in, and let it follow the load."""
    own = settings.admission
    door = Door(
        DoorPolicy(
            in_flight_max=settings.http.in_flight_max,
            inside_first=own.inside_first,
            inside_min=own.inside_min,
            inside_max=own.inside_max,
            delay_target_ms=own.delay_target_ms,
            payments_percent=own.payments_percent,
            reads_percent=own.reads_percent,
            reports_percent=own.reports_percent,
        )
    )
    metrics.gauge("door_limit", "Requests that may be inside.", lambda: float(door.limit))
    metrics.gauge("door_inside", "Requests inside.", lambda: float(sum(door.inside)))
    metrics.gauge("door_in_flight", "Requests unanswered.", lambda: float(door.in_flight))
    metrics.family(
        "door_shed",
        "Requests turned away.",
        "priority",
        lambda: {one.name.lower(): float(door.shed[one]) for one in Priority},
        is_counter=True,
    )
    door.start()
    stack.callback(door.stop)
    return door


def _watch_process(ground: Ground, stack: AsyncExitStack) -> None:
    """Tell what slows everything down: a loop held up, caches without what is asked for."""
    metrics, lag = ground.metrics, LoopLag()
    metrics.gauge(
        "event_loop_lag_seconds",
        "The longest of 10 s that the loop was late.",
        lambda: lag.latest_max_s,
    )
    metrics.gauge("event_loop_late_seconds", "All of it so far.", lambda: lag.total_s)
    for at, name, help_text, is_counter in (
        (1, "core_cache_size", "Entries.", False),
        (2, "core_cache_hits", "Asked for and there.", True),
        (3, "core_cache_misses", "Asked for and not there.", True),
    ):
        metrics.family(name, help_text, "cache", _caches(ground, at), is_counter=is_counter)
    lag.start()
    stack.callback(lag.stop)


def _caches(ground: Ground, at: int) -> Callable[[], dict[str, float]]:
    return lambda: {str(one[0]): float(one[at]) for one in ground.core.cache_usage()}


@asynccontextmanager
async def gateway(settings: Settings, keys: Keys, crew: Crew) -> AsyncIterator[HttpFront]:
    """Build one worker's gateway; everything it opened is closed at the end, in order."""
    check_version()
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, keys, stack)
        identity = await open_identity(ground, stack)
        await settle_order(ground.pool)
        lease = await _register(ground)
        identity.tokens.watch_clock(lambda: lease.skew_s)
        open_audit(ground, stack)
        _watch_process(ground, stack)
        proposals, proposal_doors = open_proposals(ground)
        payments = await open_payments(ground, identity, proposals, lease, stack)
        routes = [
            *identity.routes,
            *card_doors(ground, identity, payments),
            *payments.routes,
            *proposal_doors,
            *open_rules(ground, identity, proposals, lease.worker, stack),
            *open_webhooks(ground, stack),
            *open_ledger(ground, stack),
            *open_reconciliation(ground, payments, proposals, stack),
            *quota_doors(ground),
        ]
        operators, operator_doors = open_operators(ground, identity, proposals)
        routes = operators.guard([*routes, *operator_doors])
        if settings.is_sandbox:
            routes += sandbox_routes(identity.messenger, os.environ.get("OQIM_SIMULATORS", "{}"))
        routes += system_routes(
            routes,
            version=version("oqim"),
            metrics=crew.exposition,
            checks=_checks(ground, lease, payments.connectors),
        )
        await crew.open(ground.metrics.text)
        stack.callback(crew.close)
        table = RouteTable(identity.gate.guard(hold_to_limits(ground, identity, routes, stack)))
        yield HttpFront(
            table,
            ground.core,
            ground.clock,
            ground.metrics,
            body_bytes_max=settings.http.body_bytes_max,
            is_plain=settings.http.is_plain,
            door=_open_door(settings, ground.metrics, stack),
            reports_at_once=settings.admission.reports_at_once,
            body_timeout_s=settings.http.body_timeout_s,
            edge=Edge(
                is_tls=bool(settings.http.tls_certificate), origins=settings.http.cors_origins
            ),
        )
