"""Identity's use cases beside tokens: ask for a code, log out, and say who holds a token."""

import asyncio
import contextlib

import asyncpg
import msgspec
import structlog

from gateway.core import Claims, Core, Refusal
from gateway.identity.assertions import Assertions
from gateway.identity.challenges import Challenge, Challenges
from gateway.identity.clients import MOBILE, Client, Clients
from gateway.identity.endings import SWEPT_AT_ONCE_MAX
from gateway.identity.grants import credentials_of
from gateway.identity.keys import SigningKeys
from gateway.identity.model import (
    Confirmation,
    Introspection,
    Jwk,
    Jwks,
    OneTokenForm,
)
from gateway.identity.phones import normalise
from gateway.identity.promise import Promise
from gateway.identity.revocation import RevocationFeed, RevocationLog
from gateway.identity.sessions import Sessions
from gateway.kernel.clock import Clock
from gateway.kernel.http.messages import Request
from gateway.kernel.http.problems import Problem
from gateway.kernel.secrets import KeysError
from gateway.settings import Identity

log = structlog.get_logger("identity")

HOUSEKEEPING_S = 60.0


class IdentityService:
    """Everything a client may ask of identity.

    `start` after the database is migrated and before requests are taken; it starts the feed too.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        settings: Identity,
        keys: SigningKeys,
        clients: Clients,
        assertions: Assertions,
        challenges: Challenges,
        sessions: Sessions,
        revocations: RevocationLog,
        feed: RevocationFeed,
        promise: Promise,
    ) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._settings = settings
        self._keys = keys
        self._clients = clients
        self._assertions = assertions
        self._challenges = challenges
        self.sessions = sessions
        self._revocations = revocations
        self._feed = feed
        self._promise = promise
        self._housekeeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read keys and revocations, make the mobile client as the settings have it."""
        await self._keys.load()
        await self._clients.put(
            client_id=MOBILE,
            channel="mobile",
            subject=None,
            secret=None,
            scopes=self._settings.mobile_scopes,
            dpop=self._settings.mobile_dpop,
        )
        await self._feed.start()
        self._housekeeper = asyncio.create_task(self._keep_house(), name="identity-housekeeping")

    async def close(self) -> None:
        """Stop what runs in the background. Call it before the pool is closed."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeper
        await self._feed.close()

    async def _keep_house(self) -> None:
        """Learn of new signing keys, end what nobody uses, drop revocations that are outlived."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await self._keys.load()
                while await self.sessions.endings.sweep() == SWEPT_AT_ONCE_MAX:
                    pass
                await self._revocations.prune(self._pool)
                await self._assertions.prune()
            except (OSError, KeysError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
                log.warning("housekeeping failed", error=type(error).__name__)

    # Logging in.

    async def ask_challenge(self, phone: str) -> Challenge:
        """Send a one-time code. Raises Problem `invalid-phone`, `rate-limited`, `otp-locked`."""
        number = normalise(phone)
        if number is None:
            detail = "Give a phone number with its country code."
            raise Problem("invalid-phone", detail, errors=(("/phone", detail),))
        return await self._challenges.ask(number)

    # Tokens.

    async def revoke(
        self, form: OneTokenForm, request: Request, *, patience_s: float | None = None
    ) -> None:
        """End what a token stands for; nothing happens for one that is not ours (RFC 7009).

        When it returns, no worker accepts the token.

        Args:
            patience_s: the caller's; by default it takes as long as it must.

        Raises:
            Problem: `invalid-client`; `unavailable`: try again.
        """
        caller = await self._clients.identify(credentials_of(request, form))
        claims = self._claims(form.token)
        if claims is not None:
            if await self._may_end(caller, claims.client_id):
                await self._revoke_one(claims, patience_s)
            return
        found = await self.sessions.of_token(form.token)
        if found is None:
            # It may be a token that was revoked by a call that could not wait until the end.
            await self._promise.keep_all(patience_s)
            return
        if await self._may_end(caller, found.client_id):
            await self.sessions.end(found.session_id, user_id=found.user_id, patience_s=patience_s)

    async def _revoke_one(self, claims: Claims, patience_s: float | None) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            entry = await self._revocations.revoke(
                connection, kind="jti", value=claims.jti, expires_at_s=claims.exp
            )
        await self._promise.keep([entry], patience_s)

    async def _may_end(self, caller: Client | None, client_id: str) -> bool:
        if caller is not None:
            return caller.id == client_id
        owner = await self._clients.get(client_id)
        if owner is not None and owner.is_confidential:
            raise Problem("invalid-client", "Authenticate as the client of this token.")
        return True

    async def introspect(self, form: OneTokenForm, request: Request) -> Introspection:
        """Say what one of the caller's own tokens is (RFC 7662).

        Raises:
            Problem: `invalid-client` unless a client authenticates; `revocation-feed-stale`.
        """
        caller = await self._clients.identify(credentials_of(request, form))
        if caller is None or not caller.is_confidential:
            raise Problem("invalid-client", "Authenticate as the client: by secret or assertion.")
        # To call a token active is to accept it.
        await self._feed.open()
        claims = self._claims(form.token)
        if claims is not None and claims.client_id == caller.id:
            return Introspection(
                active=True,
                token_type="DPoP" if claims.jkt else "Bearer",
                scope=" ".join(claims.scope),
                client_id=claims.client_id,
                sub=claims.sub,
                sid=claims.sid or None,
                iss=self._settings.issuer,
                aud=self._settings.audience,
                jti=claims.jti,
                iat=claims.iat,
                exp=claims.exp,
                cnf=Confirmation(claims.jkt) if claims.jkt else None,
            )
        grant = await self.sessions.alive(form.token)
        if grant is not None and grant.client_id == caller.id:
            return Introspection(
                active=True,
                token_type="refresh_token",
                client_id=grant.client_id,
                sub=grant.user_id,
                sid=grant.session_id,
            )
        return Introspection(active=False)

    def _claims(self, token: str) -> Claims | None:
        claims = self._core.inspect(token.encode(), self._clock())
        return None if isinstance(claims, Refusal) else claims

    # What others need to know of us.

    def jwks(self) -> Jwks:
        """Return the keys that tokens may be verified with."""
        return Jwks([msgspec.convert(key, Jwk) for key in self._keys.jwks()])
