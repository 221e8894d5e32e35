"""One worker's identity and cards over real servers and a real socket, with a clock by hand."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import asyncpg
import msgspec
from aiohttp import web

from connectors.spi import CardCheck, CardData, CardLink, Connector, Outcome
from gateway import settings as settings_module
from gateway.cards.directory import Directory
from gateway.cards.routes import routes as card_routes
from gateway.cards.service import CardService
from gateway.cards.tries import Tries
from gateway.cards.unlinking import unlink_all
from gateway.core import Core
from gateway.identity.assertions import Assertions
from gateway.identity.challenges import Challenges
from gateway.identity.clients import Clients
from gateway.identity.codes import Codes
from gateway.identity.followers import Followers
from gateway.identity.gate import Gate
from gateway.identity.grants import Grants
from gateway.identity.keys import SigningKeys
from gateway.identity.messenger import RedisMessenger
from gateway.identity.metadata import metadata, token_endpoint
from gateway.identity.model import GRANT_OTP
from gateway.identity.presence import Presence
from gateway.identity.promise import Promise
from gateway.identity.proofs import Policy, Proofs
from gateway.identity.revocation import RevocationFeed, RevocationLog
from gateway.identity.revocation_routes import OperatorRevocations
from gateway.identity.revocation_routes import routes as revocation_routes
from gateway.identity.routes import routes as identity_routes
from gateway.identity.service import IdentityService
from gateway.identity.session_routes import Oversight
from gateway.identity.session_routes import routes as session_routes
from gateway.identity.sessions import Sessions
from gateway.identity.stream import RevocationStream
from gateway.identity.tokens import Tokens
from gateway.identity.users import Users
from gateway.kernel.db import pool as pools
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.front import HttpFront
from gateway.kernel.http.routes import RouteTable
from gateway.kernel.http.server import make_server
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis, open_redis
from gateway.kernel.vault import Vault
from gateway.payments.step_up import cancel_of_sessions
from tests.cores import rules_of

START_MS = 1_795_000_000_000
VAULT_KEY = b"v" * 32
# Shorter than the product's, so that a worker that is gone is waited for briefly.
AGE_S_MAX = 2.0
CODE = re.compile(r"[2-9A-HJKMNP-Z]{6}\Z")


@dataclass
class Hand:
    """A clock that a test moves."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1_000)


@dataclass
class Issuer:
    """The card half of a connector, as a test arranges it.

    Attributes:
        asked: the cards it was asked about, with phone and reference.
        linked: the cards it linked, with challenge and code.
    """

    check: CardCheck = field(default_factory=lambda: CardCheck(outcome=Outcome.APPROVED))
    link: CardLink = field(default_factory=lambda: CardLink(outcome=Outcome.APPROVED))
    asked: list[tuple[CardData, str, str]] = field(default_factory=list)
    linked: list[tuple[CardData, str | None, str]] = field(default_factory=list)

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        self.asked.append((card, phone, reference))
        return self.check

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        self.linked.append((card, challenge, code))
        return self.link


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def verdict(self) -> tuple[int, str]:
        """Status, and the problem's slug or ""."""
        is_problem = self.headers["Content-Type"] == "application/problem+json"
        return self.status, self.body["code"] if is_problem else ""


@dataclass
class Worker:
    """A running worker and a client of it."""

    base_url: str
    http: aiohttp.ClientSession
    clock: Hand
    pool: asyncpg.Pool
    redis: BoundedRedis
    core: Core
    vault: Vault
    keys: SigningKeys
    tokens: Tokens
    clients: Clients
    users: Users
    sessions: Sessions
    revocations: RevocationLog
    feed: RevocationFeed
    followers: Followers
    promise: Promise
    presence: Presence
    metrics: Metrics
    messenger: RedisMessenger
    issuers: dict[str, Issuer]
    cards: CardService

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make one request."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        async with self.http.request(
            method, self.base_url + path, json=body, data=form, headers=sent
        ) as reply:
            return Reply(reply.status, dict(reply.headers), await reply.read())

    async def grant(self, grant_type: str, **form: str) -> Reply:
        """Ask for tokens."""
        return await self.call("POST", "/oauth/token", form={"grant_type": grant_type, **form})

    async def ask(self, phone: str) -> str:
        """Ask for a code and return the challenge's id."""
        reply = await self.call("POST", "/v1/auth/challenges", body={"phone": phone})
        assert reply.status == 201, reply.raw
        return str(reply.body["challenge_id"])

    async def code(self, phone: str) -> str:
        """Return the code sent last."""
        return (await self.messenger.messages(phone))[0].code

    async def use(self, challenge_id: str, code: str, *, device: str = "dev-1") -> Reply:
        """Exchange a code."""
        return await self.grant(GRANT_OTP, challenge_id=challenge_id, code=code, device_id=device)

    async def log_in(self, phone: str, *, device: str = "dev-1") -> dict[str, Any]:
        """Log in and return the tokens."""
        reply = await self.use(await self.ask(phone), await self.code(phone), device=device)
        assert reply.status == 200, reply.raw
        tokens: dict[str, Any] = reply.body
        return tokens

    async def refresh(self, token: str, **form: str) -> Reply:
        """Use a refresh token."""
        return await self.grant("refresh_token", refresh_token=token, **form)


def wrong(code: str) -> str:
    """Return another code."""
    return ("3" if code[0] == "2" else "2") + code[1:]


def with_check_digit(digits: str) -> str:
    """Return `digits` and their Luhn check digit."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def pan(scheme: str, number: int) -> str:
    """Return a card number of a scheme."""
    prefix = {"visa": "4242", "humo": "9860", "uzcard": "8600"}[scheme]
    return with_check_digit(f"{prefix}02{number:09}")


@asynccontextmanager
async def running_worker(
    database_url: str,
    redis_url: str,
    *,
    clock: Hand,
    per_user_max: int = 20,
    kept_days: int = 180,
    poll_s: float = 0.05,
    vault_key: bytes = VAULT_KEY,
    **changes: Any,
) -> AsyncIterator[Worker]:
    """Run a worker with the product's settings over a migrated database.

    Args:
        changes: settings of identity that are other than the product's.
    """
    settings = settings_module.load({})
    limits = msgspec.structs.replace(
        settings.cards, per_user_max=per_user_max, deleted_number_kept_days=kept_days
    )
    identity = msgspec.structs.replace(settings.identity, **changes)
    async with AsyncExitStack() as stack:
        pool = await pools.create(database_url, size_max=8, command_timeout_s=10.0)
        stack.push_async_callback(pool.close)
        # Longer than the product's: a test that shares its machine waits, and is not told "away".
        client = open_redis(redis_url, timeout_s=5.0)
        stack.push_async_callback(client.aclose)
        core = Core(
            rules=rules_of(settings),
            generation=1,
            routing=settings.routing,
            issuer=identity.issuer,
            audience=identity.audience,
            lookup_key=b"l" * 32,
            quote_key=b"q" * 32,
            quote_ttl_ms=300_000,
            feed_age_ms_max=5_000,
            token_cache_size_max=1_000,
            card_cache_size_max=1_000,
            subject_cache_size_max=1_000,
        )
        vault = Vault({1: vault_key})
        keys = SigningKeys(
            pool=pool,
            vault=vault,
            core=core,
            clock=clock,
            life_s=identity.signing_key_life_s,
        )
        tokens = Tokens(keys=keys, settings=identity, clock=clock)
        assertions = Assertions(
            pool=pool,
            clock=clock,
            audiences=(identity.issuer, token_endpoint(settings.http.base_urls[0])),
        )
        clients = Clients(pool=pool, assertions=assertions)
        users = Users(pool=pool, clock=clock, new_user_tier=identity.new_user_tier)
        codes = Codes(key=b"c" * 32, length=identity.code_length)
        messenger = RedisMessenger(redis=client, clock=clock)
        challenges = Challenges(
            redis=client, messenger=messenger, codes=codes, settings=identity, clock=clock
        )
        revocations = RevocationLog(clock=clock)
        followers = Followers(pool=pool, feed_age_s_max=AGE_S_MAX)
        feed = RevocationFeed(
            pool=pool,
            core=core,
            clock=clock,
            watch=followers.watch,
            age_s_max=AGE_S_MAX,
            poll_s=poll_s,
        )
        metrics = Metrics()
        stream = RevocationStream(redis=client, url=redis_url, feed=feed, metrics=metrics)
        promise = Promise(pool=pool, feed=feed, followers=followers, stream=stream)
        presence = Presence(
            redis=client, core=core, metrics=metrics, kept_s=identity.refresh_token_ttl_s
        )
        sessions = Sessions(
            pool=pool,
            vault=vault,
            log=revocations,
            promise=promise,
            presence=presence,
            settings=identity,
            clock=clock,
            on_end=cancel_of_sessions,
            on_new_device=unlink_all,
        )
        service = IdentityService(
            pool=pool,
            core=core,
            clock=clock,
            settings=identity,
            keys=keys,
            clients=clients,
            assertions=assertions,
            challenges=challenges,
            sessions=sessions,
            revocations=revocations,
            feed=feed,
            promise=promise,
        )
        proofs = Proofs(
            redis=client,
            policy=Policy(
                base_urls=tuple(settings.http.base_urls),
                age_s=identity.dpop_proof_age_s,
                needs_nonce=identity.dpop_nonce_required,
            ),
            nonce_key=b"c" * 32,
            clock=clock,
            metrics=metrics,
        )
        await proofs.remember()
        grants = Grants(
            pool=pool,
            settings=identity,
            tokens=tokens,
            clients=clients,
            users=users,
            challenges=challenges,
            sessions=sessions,
            proofs=proofs,
        )
        described = metadata(
            issuer=identity.issuer,
            base_url=settings.http.base_urls[0],
            scopes=identity.mobile_scopes,
        )
        issuers = {scheme: Issuer() for scheme in ("visa", "humo", "uzcard")}
        cards = CardService(
            pool=pool,
            core=core,
            clock=clock,
            vault=vault,
            directory=Directory(pool, core, vault, size_max=100),
            connectors=cast(Mapping[str, Connector], issuers),
            codes=codes,
            messenger=messenger,
            phone_of=users.phone_of,
            settings=limits,
            identity=identity,
            tries=Tries(
                redis=client,
                numbers_max=limits.numbers_per_hour_max,
                refusals_max=limits.refusals_per_hour_max,
            ),
        )
        stack.push_async_callback(service.close)
        await service.start()
        stack.push_async_callback(followers.close)
        stream.start()
        stack.push_async_callback(stream.close)
        presence.start()
        stack.push_async_callback(presence.close)
        cursors = Cursors(b"k" * 32)
        operators = OperatorRevocations(
            pool=pool, log=revocations, sessions=sessions, promise=promise, clock=clock
        )
        oversight = Oversight(
            pool=pool, sessions=sessions, presence=presence, promise=promise, clock=clock
        )
        gate = Gate(feed=feed, core=core, presence=presence, proofs=proofs)
        table = RouteTable(
            gate.guard(
                [
                    *identity_routes(
                        identity=service, grants=grants, metadata=described, cursors=cursors
                    ),
                    *revocation_routes(operators),
                    *session_routes(oversight, cursors),
                    *card_routes(cards=cards, cursors=cursors),
                ]
            )
        )
        front = HttpFront(table, core, clock, metrics, body_bytes_max=65_536, in_flight_max=1_000)
        runner = web.ServerRunner(make_server(front))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Worker(
            base_url=f"http://127.0.0.1:{port}",
            http=http,
            clock=clock,
            pool=pool,
            redis=client,
            core=core,
            vault=vault,
            keys=keys,
            tokens=tokens,
            clients=clients,
            users=users,
            sessions=sessions,
            revocations=revocations,
            feed=feed,
            followers=followers,
            promise=promise,
            presence=presence,
            metrics=metrics,
            messenger=messenger,
            issuers=issuers,
            cards=cards,
        )
