"""The composition root: the only module that knows everything, and builds every object once."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from aiohttp import web

from connectors.spi import CallbackEvent, Connector, Merchant
from gateway.cards.directory import Directory
from gateway.cards.routes import routes as card_routes
from gateway.cards.service import CardService
from gateway.core import Core, RuleSet, check_version
from gateway.identity.challenges import Challenges
from gateway.identity.clients import Clients
from gateway.identity.codes import Codes
from gateway.identity.followers import Followers
from gateway.identity.gate import Gate
from gateway.identity.keys import SigningKeys
from gateway.identity.messages import routes as sandbox_routes
from gateway.identity.messenger import RedisMessenger
from gateway.identity.peers import PeerFront
from gateway.identity.presence import Presence
from gateway.identity.promise import Promise
from gateway.identity.revocation import Entry, RevocationFeed, RevocationLog
from gateway.identity.revocation_routes import OperatorRevocations
from gateway.identity.revocation_routes import routes as revocation_routes
from gateway.identity.routes import routes as identity_routes
from gateway.identity.service import IdentityService
from gateway.identity.sessions import Sessions
from gateway.identity.stream import RevocationStream
from gateway.identity.tokens import Tokens
from gateway.identity.users import Users
from gateway.kernel import audit
from gateway.kernel.audit.roots import Roots
from gateway.kernel.clock import Clock, system_clock
from gateway.kernel.db import pool as pools
from gateway.kernel.http.admission import Door, DoorPolicy, Priority, patience_of
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.routes import Route, RouteTable
from gateway.kernel.http.server import HttpFront, make_server
from gateway.kernel.http.system import Check
from gateway.kernel.http.system import routes as system_routes
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.kernel.outside import Outside
from gateway.kernel.passwords import Hasher
from gateway.kernel.redis import BoundedRedis, open_redis
from gateway.kernel.secrets import Keys, KeysError
from gateway.kernel.vault import Vault
from gateway.kernel.vault.keyring import Keyring
from gateway.kernel.vault.providers import ShareProvider, from_files
from gateway.ledger.balances import Balances
from gateway.ledger.chart import read_chart
from gateway.ledger.routes import routes as ledger_routes
from gateway.operators.roles import read_roles
from gateway.operators.routes import routes as operator_routes
from gateway.operators.service import Operators
from gateway.operators.sessions import OperatorSessions
from gateway.payments import connectors as loading
from gateway.payments.actions import Actions
from gateway.payments.callbacks import Callbacks
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.kept import Kept
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
from gateway.reconciliation.breaks import Breaks
from gateway.reconciliation.imports import Imports
from gateway.reconciliation.routes import routes as reconciliation_routes
from gateway.reconciliation.service import Reconciliation, reports_of
from gateway.reconciliation.settling import Settling
from gateway.rules.feed import Everywhere, RulesFeed, load_newest
from gateway.rules.routes import routes as rule_routes
from gateway.rules.seeds import ensure_first
from gateway.rules.service import Rules
from gateway.rules.simulations import Simulations
from gateway.rules.views import Rulebook
from gateway.rules.what_if import WhatIfs
from gateway.settings import Settings, SettingsError
from gateway.webhooks.addresses import Policy
from gateway.webhooks.client import Client
from gateway.webhooks.delivery import Deliverer
from gateway.webhooks.fanout import FanOut, settle_order
from gateway.webhooks.feed import Feed
from gateway.webhooks.routes import routes as webhook_routes
from gateway.webhooks.service import Endpoints

log = structlog.get_logger("app")

DRAIN_TIMEOUT_S = 25.0
GC_ALLOCATIONS = 50_000
_BREAKER = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
DAY_S = 86_400
# The bank's own acceptor, for what has no merchant.
ACCEPTOR = Merchant(id="OQIM", terminal_id="OQIM0001", mcc="6012", name="OQIM")


@dataclass(slots=True)
class Ground:
    """What every room stands on."""

    settings: Settings
    keys: Keys
    clock: Clock
    metrics: Metrics
    pool: asyncpg.Pool
    redis: BoundedRedis
    core: Core
    rules: RulesFeed
    vault: Vault
    keyring: Keyring
    directory: Directory
    cursors: Cursors


@dataclass(slots=True)
class PaymentRoom:
    """The objects of the payments room."""

    journal: Journal
    payments: Payments
    actions: Actions
    callbacks: Callbacks
    recovery: Recovery
    connectors: dict[str, Connector]
    routes: list[Route]


def make_core(settings: Settings, keys: Keys, rules: RuleSet, generation: int) -> Core:
    """Return a core that decides by `rules`, with no keys or revocations yet."""
    return Core(
        rules=rules,
        generation=generation,
        routing=settings.routing,
        issuer=settings.identity.issuer,
        audience=settings.identity.audience,
        lookup_key=keys.lookup,
        quote_key=keys.quote,
        quote_ttl_ms=settings.core.quote_ttl_s * 1000,
        feed_age_ms_max=round(settings.core.feed_age_s_max * 1000),
        token_cache_size_max=settings.core.token_cache_size_max,
        card_cache_size_max=settings.core.card_cache_size_max,
        subject_cache_size_max=settings.core.subject_cache_size_max,
    )


def _provider(settings: Settings) -> ShareProvider:
    try:
        return from_files([Path(one) for one in settings.vault.kek_shares])
    except KeysError as error:
        raise SettingsError(str(error)) from None


async def open_ground(settings: Settings, keys: Keys, stack: AsyncExitStack) -> Ground:
    pool = await pools.create(
        settings.database.url,
        size_max=settings.database.pool_size_max,
        command_timeout_s=settings.database.command_timeout_s,
        patience=patience_of(
            own_s=settings.database.acquire_timeout_ms / 1000,
            shared_s=settings.database.shared_acquire_timeout_ms / 1000,
        ),
    )
    stack.push_async_callback(pool.close)
    await pools.check_durable(pool)
    client = open_redis(settings.redis.url, timeout_s=settings.redis.timeout_s)
    stack.push_async_callback(client.aclose)
    await ensure_first(pool, settings.rules, system_clock)
    first = await load_newest(pool)
    core = make_core(settings, keys, first.rules, first.seq)
    rules = RulesFeed(pool=pool, core=core, clock=system_clock, first=first)
    stack.push_async_callback(rules.close)
    keyring = Keyring(_provider(settings), keys.vault)
    vault = await keyring.load(pool)
    return Ground(
        settings=settings,
        keys=keys,
        clock=system_clock,
        metrics=Metrics(),
        pool=pool,
        redis=client,
        core=core,
        rules=rules,
        vault=vault,
        keyring=keyring,
        directory=Directory(pool, core, vault, size_max=settings.core.card_cache_size_max),
        cursors=Cursors(keys.cursor),
    )


@dataclass(slots=True)
class IdentityRoom:
    """The objects of the identity room."""

    service: IdentityService
    tokens: Tokens
    sessions: Sessions
    clients: Clients
    users: Users
    codes: Codes
    messenger: RedisMessenger
    feed: RevocationFeed
    revocations: RevocationLog
    promise: Promise
    gate: Gate
    routes: list[Route]


async def open_identity(ground: Ground, stack: AsyncExitStack) -> IdentityRoom:
    """Build identity and start it: keys and revocations are read before it answers."""
    settings, pool, clock = ground.settings.identity, ground.pool, ground.clock
    signing = SigningKeys(pool=pool, vault=ground.vault, core=ground.core, clock=clock)
    tokens = Tokens(keys=signing, settings=settings, clock=clock)
    clients = Clients(pool=pool)
    codes = Codes(key=ground.keys.codes, length=settings.code_length)
    messenger = RedisMessenger(redis=ground.redis, clock=clock)
    revocations = RevocationLog(clock=clock)
    age_s_max = ground.settings.core.feed_age_s_max
    followers = Followers(pool=pool, feed_age_s_max=age_s_max)
    # Nothing is decided by rules, as by revocations, that were last read too long ago.
    feed = RevocationFeed(
        pool=pool,
        core=ground.core,
        clock=clock,
        also_read=(ground.rules.read, ground.keyring.read),
        watch=followers.watch,
        age_s_max=age_s_max,
    )
    stream = RevocationStream(
        redis=ground.redis, url=ground.settings.redis.url, feed=feed, metrics=ground.metrics
    )
    ground.metrics.gauge(
        "revocation_seq", "The last revocation applied here.", lambda: float(feed.read_seq)
    )
    ground.metrics.gauge(
        "revocation_age_seconds", "Since revocations were read here.", lambda: feed.age_s
    )
    promise = Promise(pool=pool, feed=feed, followers=followers, stream=stream)
    presence = Presence(
        redis=ground.redis,
        core=ground.core,
        metrics=ground.metrics,
        kept_s=settings.refresh_token_ttl_s,
    )
    sessions = Sessions(
        pool=pool,
        vault=ground.vault,
        log=revocations,
        promise=promise,
        presence=presence,
        settings=settings,
        clock=clock,
    )
    users = Users(pool=pool, clock=clock, new_user_tier=settings.new_user_tier)
    service = IdentityService(
        pool=pool,
        core=ground.core,
        clock=clock,
        settings=settings,
        keys=signing,
        tokens=tokens,
        clients=clients,
        users=users,
        challenges=Challenges(
            redis=ground.redis, messenger=messenger, codes=codes, settings=settings, clock=clock
        ),
        sessions=sessions,
        revocations=revocations,
        feed=feed,
        promise=promise,
    )
    stack.push_async_callback(service.close)
    await service.start()
    stack.push_async_callback(followers.close)
    stream.start()
    stack.push_async_callback(stream.close)
    presence.start()
    stack.push_async_callback(presence.close)
    operators = OperatorRevocations(
        pool=pool, log=revocations, sessions=sessions, promise=promise, clock=clock
    )
    return IdentityRoom(
        service=service,
        tokens=tokens,
        sessions=sessions,
        clients=clients,
        users=users,
        codes=codes,
        messenger=messenger,
        feed=feed,
        revocations=revocations,
        promise=promise,
        gate=Gate(feed=feed, core=ground.core, presence=presence),
        routes=[
            *identity_routes(identity=service, cursors=ground.cursors),
            *revocation_routes(operators),
        ],
    )


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


async def _register(ground: Ground) -> Lease:
    """Make this process a worker, known to all; from now on it decides by the newest rules."""
    lease_s = ground.settings.recovery.worker_lease_s
    lease = await Lease.register(ground.pool, ground.clock, ground.metrics, lease_s=lease_s)
    await ground.rules.work_as(lease.worker)
    return lease


async def _open_payments(
    ground: Ground, identity: IdentityRoom, lease: Lease, stack: AsyncExitStack
) -> PaymentRoom:
    settings, pool, core, clock = ground.settings, ground.pool, ground.core, ground.clock

    async def on_advice(name: str, event: CallbackEvent) -> None:
        await callbacks.advise(name, event)

    started = await open_connectors(ground, stack, on_advice)
    connectors: dict[str, Connector] = {name: Outside(one) for name, one in started.items()}
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
    reads, replays, sequences = Reads(pool), Replays(journal), Sequences(pool)
    instructions = Instructions(core, ground.directory, ground.vault, ACCEPTOR)
    supply = Supply(pool, core, ground.directory)
    step_ups = StepUps(
        pool=pool,
        clock=clock,
        vault=ground.vault,
        codes=identity.codes,
        messenger=identity.messenger,
        phone_of=identity.users.phone_of,
        replays=replays,
    )
    refusals, kept = Refusals(pool, clock, worker=lease.worker), Kept()
    payments = Payments(
        core=core,
        clock=clock,
        supply=supply,
        journal=journal,
        reads=reads,
        replays=replays,
        instructions=instructions,
        connectors=connectors,
        refusals=refusals,
        step_ups=step_ups,
        sequences=sequences,
        metrics=ground.metrics,
        lease=lease,
        kept=kept,
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
    reviews = Reviews(pool, payments, actions, reads, clock)
    callbacks = Callbacks(pool, payments, reads, connectors, clock, ground.metrics)
    recovery = Recovery(
        pool,
        payments,
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
    routes = [*payment_routes(handlers, payments), *review_routes(reviews, ground.cursors)]
    return PaymentRoom(journal, payments, actions, callbacks, recovery, connectors, routes)


def _open_rules(
    ground: Ground, identity: IdentityRoom, worker: int, stack: AsyncExitStack
) -> list[Route]:
    """Build what changes rules, and start replaying what is to be replayed."""
    pool, clock, settings = ground.pool, ground.clock, ground.settings
    views = Rulebook(pool=pool, clock=clock)
    simulations = Simulations(pool=pool, clock=clock)
    rules = Rules(
        pool=pool,
        clock=clock,
        views=views,
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


def _card_routes(ground: Ground, identity: IdentityRoom, payments: PaymentRoom) -> list[Route]:
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
    )
    return card_routes(cards=cards, cursors=ground.cursors)


def _open_webhooks(ground: Ground, stack: AsyncExitStack) -> list[Route]:
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


def _checks(ground: Ground, connectors: dict[str, Connector]) -> dict[str, Check]:
    """What must be usable before a request is worth sending here."""

    async def database() -> bool:
        return bool(await ground.pool.fetchval("SELECT true"))

    async def revocations() -> bool:
        return ground.core.check_feed(ground.clock()) is None

    def connector(one: Connector) -> Check:
        async def is_ready() -> bool:
            return one.is_ready()

        return is_ready

    # Without Redis payments go on, and a balancer that left this worker alone would stop them.
    checks: dict[str, Check] = {"database": database, "revocations": revocations}
    return checks | {f"connector {name}": connector(one) for name, one in connectors.items()}


def _expose(metrics: Metrics, journal: Journal) -> None:
    metrics.gauge("journal_batches", "Flushes.", lambda: _sum(journal, "batches"))
    metrics.gauge("journal_entries", "Entries flushed.", lambda: _sum(journal, "entries"))
    metrics.gauge("journal_queue_size", "Entries waiting.", lambda: _sum(journal, "queue_size"))


def _expose_connectors(metrics: Metrics, connectors: dict[str, Connector]) -> None:
    def read(name: str) -> Callable[[], dict[str, float]]:
        return lambda: {one.name: float(getattr(one, name)) for one in connectors.values()}

    def breakers() -> dict[str, float]:
        told = {one.name: getattr(one, "condition", None) for one in connectors.values()}
        return {name: _BREAKER[tell().breaker] for name, tell in told.items() if tell is not None}

    metrics.family("connector_in_flight", "Calls under way.", "connector", read("in_flight"))
    help_text = "Circuit breaker: 0 closed, 1 half-open, 2 open."
    metrics.family("connector_breaker_state", help_text, "connector", breakers)


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


def _sum(journal: Journal, name: str) -> float:
    return float(getattr(journal.intents, name) + getattr(journal.facts, name))


def _open_audit(ground: Ground, stack: AsyncExitStack) -> None:
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


def _open_operators(ground: Ground, identity: IdentityRoom) -> tuple[OperatorSessions, list[Route]]:
    """Build who the operators are and how they log in."""
    pool, clock = ground.pool, ground.clock

    async def end(connection: Any, session_ids: Sequence[str]) -> list[Entry]:
        log_of = identity.revocations
        return [await log_of.revoke(connection, kind="sid", value=one) for one in session_ids]

    async def keep(entries: list[Entry]) -> None:
        await identity.promise.keep(entries, None)

    roles = read_roles(ground.settings.roles)
    sessions = OperatorSessions(
        pool=pool,
        clock=clock,
        vault=ground.vault,
        hasher=Hasher(),
        roles=roles,
        issue=identity.tokens.issue,
        end=end,
        keep=keep,
        settings=ground.settings.operators,
    )
    operators = Operators(pool=pool, clock=clock, roles=roles, sessions=sessions)
    return sessions, operator_routes(operators, sessions, ground.cursors)


def _open_ledger(ground: Ground, stack: AsyncExitStack) -> list[Route]:
    balances = Balances(ground.pool, read_chart(ground.settings.accounts))
    balances.start()
    stack.push_async_callback(balances.close)
    return ledger_routes(balances, ground.clock)


def _open_reconciliation(
    ground: Ground, payments: PaymentRoom, stack: AsyncExitStack
) -> list[Route]:
    """Build what reports are matched by, and start to tell payments what they say."""
    pool, clock = ground.pool, ground.clock
    reports = reports_of(payments.connectors)
    imports = Imports(pool, clock)
    breaks = Breaks(pool, clock, read_chart(ground.settings.accounts))
    settling = Settling(
        pool,
        imports,
        reports,
        payments.payments,
        payments.actions,
        Reads(pool),
        ground.metrics,
    )
    settling.start()
    stack.push_async_callback(settling.close)
    service = Reconciliation(imports, settling, breaks, reports, clock)
    return reconciliation_routes(service, breaks, ground.cursors)


@asynccontextmanager
async def gateway(settings: Settings, keys: Keys) -> AsyncIterator[HttpFront]:
    """Build one worker's gateway; everything it opened is closed at the end, in order."""
    check_version()
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, keys, stack)
        identity = await open_identity(ground, stack)
        await settle_order(ground.pool)
        lease = await _register(ground)
        identity.tokens.watch_clock(lambda: lease.skew_s)
        _open_audit(ground, stack)
        payments = await _open_payments(ground, identity, lease, stack)
        routes = [
            *identity.routes,
            *_card_routes(ground, identity, payments),
            *payments.routes,
            *_open_rules(ground, identity, lease.worker, stack),
            *_open_webhooks(ground, stack),
            *_open_ledger(ground, stack),
            *_open_reconciliation(ground, payments, stack),
        ]
        operators, operator_doors = _open_operators(ground, identity)
        routes = operators.guard([*routes, *operator_doors])
        if settings.is_sandbox:
            routes += sandbox_routes(identity.messenger, os.environ.get("OQIM_SIMULATORS", "{}"))
        routes += system_routes(
            routes,
            version=version("oqim"),
            metrics=ground.metrics,
            checks=_checks(ground, payments.connectors),
        )
        table = RouteTable(identity.gate.guard(routes))
        yield PeerFront(
            table,
            ground.core,
            ground.clock,
            ground.metrics,
            body_bytes_max=settings.http.body_bytes_max,
            door=_open_door(settings, ground.metrics, stack),
            reports_at_once=settings.admission.reports_at_once,
        )


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that shares its port with the other workers'."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    return listening


async def serve(settings: Settings, keys: Keys, *, ready: asyncio.Event | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT, then finish what is in flight within 25 s."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with gateway(settings, keys) as front:
        runner = web.ServerRunner(make_server(front), shutdown_timeout=DRAIN_TIMEOUT_S)
        await runner.setup()
        site = web.SockSite(
            runner, listening_socket(settings.http.host, settings.http.port), backlog=4096
        )
        await site.start()
        # What is alive now stays alive: the collector need not look at it again. What comes dies
        # young and without cycles: looking seldom costs nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 20)
        log.info("serving", port=settings.http.port)
        if ready is not None:
            ready.set()
        await stopping.wait()
        log.info("stopping")
        front.end_streams()
        await runner.cleanup()
