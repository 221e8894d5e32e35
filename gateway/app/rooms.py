"""The rooms around payments, built and started; each function returns the routes of one."""

from contextlib import AsyncExitStack

from gateway.app.ground import Ground
from gateway.app.identity import IdentityRoom
from gateway.app.payments import PaymentRoom
from gateway.cards.routes import routes as card_routes
from gateway.cards.service import CardService
from gateway.cards.tries import Tries
from gateway.kernel import audit
from gateway.kernel.audit.roots import Roots
from gateway.kernel.http.routes import Route
from gateway.ledger.balances import Balances
from gateway.ledger.chart import read_chart
from gateway.ledger.routes import routes as ledger_routes
from gateway.payments.reads import Reads
from gateway.proposals.routes import routes as proposal_routes
from gateway.proposals.service import Proposals
from gateway.reconciliation.breaks import Breaks
from gateway.reconciliation.imports import Imports
from gateway.reconciliation.routes import routes as reconciliation_routes
from gateway.reconciliation.service import Reconciliation, reports_of
from gateway.reconciliation.settling import Settling
from gateway.rules.feed import Everywhere
from gateway.rules.routes import routes as rule_routes
from gateway.rules.service import Rules
from gateway.rules.simulations import Simulations
from gateway.rules.views import Rulebook
from gateway.rules.what_if import WhatIfs
from gateway.settings import SettingsError
from gateway.webhooks.addresses import Policy
from gateway.webhooks.client import Client
from gateway.webhooks.days import EventDays
from gateway.webhooks.delivery import Deliverer
from gateway.webhooks.fanout import FanOut
from gateway.webhooks.feed import Feed
from gateway.webhooks.routes import routes as webhook_routes
from gateway.webhooks.service import Endpoints

DAY_S = 86_400


def open_proposals(ground: Ground) -> tuple[Proposals, list[Route]]:
    """Build what two people agree by; each room registers what it lets them change."""
    lives_s = ground.settings.proposals.lives_s
    proposals = Proposals(pool=ground.pool, clock=ground.clock, lives_s=lives_s)
    return proposals, proposal_routes(proposals, ground.cursors)


def open_rules(
    ground: Ground,
    identity: IdentityRoom,
    proposals: Proposals,
    worker: int,
    stack: AsyncExitStack,
) -> list[Route]:
    """Build what changes rules, and start replaying what is to be replayed."""
    pool, clock, settings = ground.pool, ground.clock, ground.settings
    views = Rulebook(pool=pool, clock=clock)
    simulations = Simulations(pool=pool, clock=clock)
    rules = Rules(
        pool=pool,
        clock=clock,
        views=views,
        proposals=proposals,
        simulations=simulations,
        everywhere=Everywhere(
            pool=pool,
            lease_s=settings.recovery.worker_lease_s,
            feed_age_s_max=settings.core.feed_age_s_max,
        ),
        catch_up=identity.feed.catch_up,
    )
    what_ifs = WhatIfs(pool=pool, clock=clock, simulations=simulations)
    simulations.start(worker)
    stack.push_async_callback(simulations.close)
    return [
        *rule_routes(rules=rules, views=views, what_ifs=what_ifs, cursors=ground.cursors),
        *audit.routes(pool=pool, cursors=ground.cursors),
    ]


def card_doors(ground: Ground, identity: IdentityRoom, payments: PaymentRoom) -> list[Route]:
    cards = CardService(
        pool=ground.pool,
        core=ground.core,
        clock=ground.clock,
        vault=ground.vault,
        directory=ground.directory,
        connectors=payments.connectors,
        codes=identity.codes,
        messenger=identity.messenger,
        phone_of=identity.users.phone_of,
        settings=ground.settings.cards,
        identity=ground.settings.identity,
        tries=Tries(
            redis=ground.redis,
            numbers_max=ground.settings.cards.numbers_per_hour_max,
            refusals_max=ground.settings.cards.refusals_per_hour_max,
        ),
    )
    return card_routes(cards=cards, cursors=ground.cursors)


def open_webhooks(ground: Ground, stack: AsyncExitStack) -> list[Route]:
    """Build what tells others of events, and start telling."""
    pool, clock, settings = ground.pool, ground.clock, ground.settings.webhooks
    policy = Policy(
        ports=frozenset(settings.ports),
        allow_loopback=settings.allow_private and ground.settings.is_sandbox,
    )
    client = Client(policy, timeout_s=settings.timeout_s)
    stack.push_async_callback(client.close)
    deliverer = Deliverer(
        pool=pool,
        fan_out=FanOut(pool, clock, kept_s=settings.kept_days * DAY_S),
        days=EventDays(pool, ground.metrics, ahead=settings.days_ahead, kept=settings.kept_days),
        client=client,
        vault=ground.vault,
        clock=clock,
        metrics=ground.metrics,
        settings=settings,
    )
    feed = Feed(pool, ground.metrics, ground.settings.events)
    endpoints = Endpoints(
        pool=pool, vault=ground.vault, clock=clock, policy=policy, settings=settings
    )
    deliverer.start()
    stack.push_async_callback(deliverer.close)
    feed.start()
    stack.push_async_callback(feed.close)
    return webhook_routes(
        endpoints=endpoints, feed=feed, core=ground.core, clock=clock, cursors=ground.cursors
    )


def open_audit(ground: Ground, stack: AsyncExitStack) -> None:
    """Begin to sign the roots of the audit log."""
    seed = ground.keys.audit
    if seed is None:
        raise SettingsError(
            "the keys file has no `audit` key, which signs the audit log; add 32 random bytes in "
            "base64 (openssl rand -base64 32)"
        )
    period_s = ground.settings.audit.root_s
    roots = Roots(ground.pool, ground.clock, seed=seed, period_s=period_s)
    roots.start()
    stack.push_async_callback(roots.close)


def open_ledger(ground: Ground, stack: AsyncExitStack) -> list[Route]:
    balances = Balances(ground.pool, read_chart(ground.settings.accounts))
    balances.start()
    stack.push_async_callback(balances.close)
    return ledger_routes(balances, ground.clock)


def open_reconciliation(
    ground: Ground, payments: PaymentRoom, proposals: Proposals, stack: AsyncExitStack
) -> list[Route]:
    """Build what reports are matched by, and start to tell payments what they say."""
    pool, clock = ground.pool, ground.clock
    reports = reports_of(payments.connectors)
    imports = Imports(pool, clock)
    breaks = Breaks(pool, clock, read_chart(ground.settings.accounts), proposals)
    settling = Settling(
        pool,
        imports,
        reports,
        payments.carrier,
        payments.actions,
        Reads(pool),
        ground.metrics,
    )
    settling.start()
    stack.push_async_callback(settling.close)
    service = Reconciliation(imports, settling, breaks, reports, clock)
    return reconciliation_routes(service, breaks, ground.cursors)
