"""What every room stands on: pools, the core, the vault, opened once a worker."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg

from gateway.cards.directory import Directory
from gateway.core import Core, RuleSet
from gateway.kernel.clock import Clock, system_clock
from gateway.kernel.db import pool as pools
from gateway.kernel.http.admission import patience_of
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis, meet, open_redis
from gateway.kernel.secrets import Keys, KeysError
from gateway.kernel.vault import Vault
from gateway.kernel.vault.keyring import Keyring
from gateway.kernel.vault.providers import Provider, open_provider
from gateway.quotas.limits import Limits
from gateway.rules.feed import RulesFeed, load_newest
from gateway.rules.seeds import ensure_first
from gateway.settings import Settings, SettingsError


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
    limits: Limits


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


def _provider(settings: Settings) -> Provider:
    try:
        return open_provider(settings.vault)
    except KeysError as error:
        raise SettingsError(str(error)) from None


def _limits(settings: Settings) -> Limits:
    are_on = not settings.is_sandbox or settings.quotas.applies_in_sandbox
    return Limits(settings.quotas, are_defaults_on=are_on)


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
    await meet(client)
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
        limits=_limits(settings),
    )
