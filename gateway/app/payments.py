"""The payments room and its connectors, built and started."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from connectors.spi import CallbackEvent, Connector, Merchant
from gateway.app.ground import Ground
from gateway.app.identity import IdentityRoom
from gateway.kernel.http.routes import Route
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.kernel.outside import Outside
from gateway.payments import connectors as loading
from gateway.payments.actions import Actions
from gateway.payments.callbacks import Callbacks
from gateway.payments.carrying import Carrier
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.kept import Kept
from gateway.payments.operator_refunds import OperatorRefunds
from gateway.payments.operator_refunds import routes as refund_routes
from gateway.payments.reads import Reads
from gateway.payments.recovery import Recovery
from gateway.payments.refusals import Refusals
from gateway.payments.replays import Replays
from gateway.payments.review_routes import routes as review_routes
from gateway.payments.reviews import Reviews
from gateway.payments.routes import PaymentRoutes
from gateway.payments.routes import routes as payment_routes
from gateway.payments.service import Payments
from gateway.payments.step_up import StepUps
from gateway.payments.store import Sequences
from gateway.payments.supply import Supply
from gateway.proposals.service import Proposals

_BATCH_ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)
_BREAKER = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
# The bank's own acceptor, for what has no merchant.
ACCEPTOR = Merchant(id="OQIM", terminal_id="OQIM0001", mcc="6012", name="OQIM")


@dataclass(slots=True)
class PaymentRoom:
    """The objects of the payments room."""

    journal: Journal
    carrier: Carrier
    actions: Actions
    callbacks: Callbacks
    recovery: Recovery
    connectors: dict[str, Connector]
    routes: list[Route]


async def ignore_advice(name: str, event: CallbackEvent) -> None:
    """Take an advice that nobody here waits for: a worker hears it again."""


async def open_connectors(
    ground: Ground, stack: AsyncExitStack, on_advice: loading.OnAdvice
) -> dict[str, Connector]:
    """Make and start the connectors that are switched on."""
    connectors = loading.load(
        ground.settings.connectors.enabled,
        ground.settings.connector_settings,
        ground.keys.callbacks,
        on_advice,
    )
    for connector in connectors.values():
        await connector.start()
        stack.push_async_callback(connector.close)
    return connectors


async def open_payments(
    ground: Ground,
    identity: IdentityRoom,
    proposals: Proposals,
    lease: Lease,
    stack: AsyncExitStack,
) -> PaymentRoom:
    settings, pool, core, clock = ground.settings, ground.pool, ground.core, ground.clock

    async def on_advice(name: str, event: CallbackEvent) -> None:
        await callbacks.advise(name, event)

    started = await open_connectors(ground, stack, on_advice)
    seconds = ground.metrics.histograms(
        "connector_call_seconds", "Time of a call to a processor.", ("connector", "call")
    )
    connectors: dict[str, Connector] = {
        name: Outside(one, seconds) for name, one in started.items()
    }
    _expose_connectors(ground.metrics, connectors)
    journal = Journal(
        pool,
        core,
        worker=lease.worker,
        batch_size_max=settings.journal.batch_size_max,
        queue_size_max=settings.journal.queue_size_max,
        hot_subject_s=settings.journal.hot_subject_s,
    )
    _expose(ground.metrics, journal)
    reads, sequences = Reads(pool), Sequences(pool)
    replays = Replays(journal, reads)
    instructions = Instructions(core, ground.directory, ground.vault, ACCEPTOR)
    supply = Supply(pool, core, ground.directory)
    step_ups = StepUps(
        pool=pool,
        core=core,
        clock=clock,
        vault=ground.vault,
        codes=identity.codes,
        messenger=identity.messenger,
        phone_of=identity.users.phone_of,
        replays=replays,
        hold=identity.sessions.hold,
        are_alive=identity.sessions.are_alive,
        settings=settings.identity,
        worker=lease.worker,
    )
    refusals, kept = Refusals(pool, clock, worker=lease.worker), Kept()
    carrier = Carrier(
        clock=clock,
        journal=journal,
        reads=reads,
        instructions=instructions,
        connectors=connectors,
        sequences=sequences,
        metrics=ground.metrics,
        lease=lease,
        kept=kept,
    )
    payments = Payments(
        core=core,
        clock=clock,
        supply=supply,
        journal=journal,
        replays=replays,
        instructions=instructions,
        carrier=carrier,
        refusals=refusals,
        step_ups=step_ups,
        sequences=sequences,
        metrics=ground.metrics,
        lease=lease,
    )
    actions = Actions(
        pool=pool,
        core=core,
        clock=clock,
        journal=journal,
        reads=reads,
        replays=replays,
        instructions=instructions,
        connectors=connectors,
        sequences=sequences,
        lease=lease,
        kept=kept,
    )
    ground.metrics.gauge("replies_kept", "Replies not written yet.", lambda: float(kept.size))
    reviews = Reviews(pool, carrier, actions, reads, clock, proposals)
    callbacks = Callbacks(pool, carrier, reads, connectors, clock, ground.metrics)
    recovery = Recovery(
        pool,
        carrier,
        actions,
        step_ups,
        reviews,
        callbacks,
        ground.metrics,
        settings.recovery,
        lease,
    )
    handlers = PaymentRoutes(
        core=core,
        supply=supply,
        payments=payments,
        actions=actions,
        callbacks=callbacks,
        reads=reads,
        refusals=refusals,
        cursors=ground.cursors,
    )
    stack.push_async_callback(refusals.close)
    stack.push_async_callback(journal.close)
    recovery.start()
    stack.push_async_callback(recovery.close)
    stack.push_async_callback(kept.close)
    stack.push_async_callback(payments.drain)
    refunds = OperatorRefunds(
        pool=pool,
        core=core,
        actions=actions,
        reads=reads,
        replays=replays,
        proposals=proposals,
        alone_max=settings.refunds.alone_max,
    )
    routes = [
        *payment_routes(handlers, payments),
        *review_routes(reviews, ground.cursors),
        *refund_routes(refunds),
    ]
    return PaymentRoom(journal, carrier, actions, callbacks, recovery, connectors, routes)


def _expose(metrics: Metrics, journal: Journal) -> None:
    metrics.gauge("journal_batches", "Flushes.", lambda: _sum(journal, "batches"))
    metrics.gauge("journal_entries", "Entries flushed.", lambda: _sum(journal, "entries"))
    metrics.gauge("journal_queue_size", "Entries waiting.", lambda: _sum(journal, "queue_size"))
    sizes = metrics.histograms("journal_batch_entries", "Of a flush.", ("lane",), _BATCH_ENTRIES)
    for lane in ("intents", "facts"):
        getattr(journal, lane).on_batch = sizes.of(lane).observe


def _sum(journal: Journal, name: str) -> float:
    return float(getattr(journal.intents, name) + getattr(journal.facts, name))


def _expose_connectors(metrics: Metrics, connectors: dict[str, Connector]) -> None:
    def read(name: str) -> Callable[[], dict[str, float]]:
        return lambda: {one.name: float(getattr(one, name)) for one in connectors.values()}

    def breakers() -> dict[str, float]:
        told = {one.name: getattr(one, "condition", None) for one in connectors.values()}
        return {name: _BREAKER[tell().breaker] for name, tell in told.items() if tell is not None}

    metrics.family("connector_in_flight", "Calls under way.", "connector", read("in_flight"))
    help_text = "Circuit breaker: 0 closed, 1 half-open, 2 open."
    metrics.family("connector_breaker_state", help_text, "connector", breakers)
