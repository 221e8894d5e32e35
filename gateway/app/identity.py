"""Identity and the operators, built and started."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from gateway.app.ground import Ground
from gateway.cards.unlinking import unlink_all
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
from gateway.identity.presence import Presence
from gateway.identity.promise import Promise
from gateway.identity.proofs import Policy, Proofs
from gateway.identity.revocation import Entry, RevocationFeed, RevocationLog
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
from gateway.kernel.http.peers import peer
from gateway.kernel.http.routes import Route
from gateway.kernel.passwords import Hasher
from gateway.operators.roles import read_roles
from gateway.operators.routes import routes as operator_routes
from gateway.operators.service import Operators
from gateway.operators.sessions import OperatorSessions
from gateway.payments.step_up import cancel_of_sessions
from gateway.proposals.service import Proposals


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
    followers: Followers
    revocations: RevocationLog
    promise: Promise
    gate: Gate
    routes: list[Route]


async def open_identity(ground: Ground, stack: AsyncExitStack) -> IdentityRoom:
    """Build identity and start it: keys and revocations are read before it answers."""
    settings, pool, clock = ground.settings.identity, ground.pool, ground.clock
    signing = _keys_of(ground)
    tokens = Tokens(keys=signing, settings=settings, clock=clock)
    assertions, clients = _clients_of(ground)
    codes = Codes(key=ground.keys.codes, length=settings.code_length)
    messenger = RedisMessenger(redis=ground.redis, clock=clock)
    revocations = RevocationLog(clock=clock)
    followers = Followers(pool=pool, feed_age_s_max=ground.settings.core.feed_age_s_max)
    feed = _feed_of(ground, followers)
    stream = RevocationStream(
        redis=ground.redis, url=ground.settings.redis.url, feed=feed, metrics=ground.metrics
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
        on_end=cancel_of_sessions,
        on_new_device=unlink_all,
    )
    users = Users(pool=pool, clock=clock, new_user_tier=settings.new_user_tier)
    challenges = Challenges(
        redis=ground.redis, messenger=messenger, codes=codes, settings=settings, clock=clock
    )
    service = IdentityService(
        pool=pool,
        core=ground.core,
        clock=clock,
        settings=settings,
        keys=signing,
        clients=clients,
        assertions=assertions,
        challenges=challenges,
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
    proofs = await _open_proofs(ground)
    grants = Grants(
        pool=pool,
        settings=settings,
        tokens=tokens,
        clients=clients,
        users=users,
        challenges=challenges,
        sessions=sessions,
        proofs=proofs,
    )
    described = metadata(
        issuer=settings.issuer,
        base_url=ground.settings.http.base_urls[0],
        scopes=settings.mobile_scopes,
    )
    operators = OperatorRevocations(
        pool=pool, log=revocations, sessions=sessions, promise=promise, clock=clock
    )
    oversight = Oversight(
        pool=pool, sessions=sessions, presence=presence, promise=promise, clock=clock
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
        followers=followers,
        revocations=revocations,
        promise=promise,
        gate=Gate(feed=feed, core=ground.core, presence=presence, proofs=proofs),
        routes=[
            *identity_routes(
                identity=service, grants=grants, metadata=described, cursors=ground.cursors
            ),
            *revocation_routes(operators),
            *session_routes(oversight, ground.cursors),
        ],
    )


def _keys_of(ground: Ground) -> SigningKeys:
    return SigningKeys(
        pool=ground.pool,
        vault=ground.vault,
        core=ground.core,
        clock=ground.clock,
        life_s=ground.settings.identity.signing_key_life_s,
    )


def _clients_of(ground: Ground) -> tuple[Assertions, Clients]:
    audiences = (
        ground.settings.identity.issuer,
        token_endpoint(ground.settings.http.base_urls[0]),
    )
    assertions = Assertions(pool=ground.pool, clock=ground.clock, audiences=audiences)
    clients = Clients(
        pool=ground.pool,
        assertions=assertions,
        check_network=lambda one, channel: ground.limits.check_network(one, channel, peer()),
    )
    return assertions, clients


def _feed_of(ground: Ground, followers: Followers) -> RevocationFeed:
    """Build what reads revocations, and show how far it has come."""
    # Nothing is decided by rules, as by revocations, that were last read too long ago.
    feed = RevocationFeed(
        pool=ground.pool,
        core=ground.core,
        clock=ground.clock,
        also_read=(ground.rules.read, ground.keyring.read, ground.limits.read),
        watch=followers.watch,
        age_s_max=ground.settings.core.feed_age_s_max,
    )
    ground.metrics.gauge(
        "revocation_seq", "The last revocation applied here.", lambda: float(feed.read_seq)
    )
    ground.metrics.gauge(
        "revocation_age_seconds", "Since revocations were read here.", lambda: feed.age_s
    )
    return feed


async def _open_proofs(ground: Ground) -> Proofs:
    """Build what checks proofs of keys, and let its memory begin."""
    settings = ground.settings.identity
    proofs = Proofs(
        redis=ground.redis,
        policy=Policy(
            base_urls=tuple(ground.settings.http.base_urls),
            age_s=settings.dpop_proof_age_s,
            needs_nonce=settings.dpop_nonce_required,
        ),
        nonce_key=ground.keys.codes,
        clock=ground.clock,
        metrics=ground.metrics,
    )
    await proofs.remember(is_first=ground.settings.is_sandbox)
    return proofs


def open_operators(
    ground: Ground, identity: IdentityRoom, proposals: Proposals
) -> tuple[OperatorSessions, list[Route]]:
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
    operators = Operators(pool=pool, roles=roles, sessions=sessions, proposals=proposals)
    return sessions, operator_routes(operators, sessions, ground.cursors)
