"""Identity's use cases: log in, stay logged in, log out, and say who holds a token."""

import asyncio
import contextlib

import asyncpg
import msgspec
import structlog

from gateway.core import Claims, Core, Refusal
from gateway.identity import store
from gateway.identity.challenges import Challenge, Challenges
from gateway.identity.clients import MOBILE, Client, Clients
from gateway.identity.keys import SigningKeys
from gateway.identity.model import (
    GRANT_CLIENT,
    GRANT_OTP,
    GRANT_REFRESH,
    Introspection,
    Jwk,
    Jwks,
    OneTokenForm,
    ServerMetadata,
    TokenAnswer,
    TokenForm,
)
from gateway.identity.peers import peer
from gateway.identity.phones import normalise
from gateway.identity.promise import Promise
from gateway.identity.revocation import RevocationFeed, RevocationLog
from gateway.identity.sessions import SWEPT_AT_ONCE_MAX, Grant, Sessions
from gateway.identity.tokens import Tokens
from gateway.identity.users import Users
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.secrets import KeysError
from gateway.settings import Identity

log = structlog.get_logger("identity")

HOUSEKEEPING_S = 60.0
_UNNAMED_DEVICE = "unnamed device"


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
        tokens: Tokens,
        clients: Clients,
        users: Users,
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
        self._tokens = tokens
        self._clients = clients
        self._users = users
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
                while await self.sessions.sweep() == SWEPT_AT_ONCE_MAX:
                    pass
                await self._revocations.prune(self._pool)
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

    async def grant(
        self, form: TokenForm, authorization: str | None, *, patience_s: float | None = None
    ) -> TokenAnswer:
        """Exchange a grant for tokens.

        Args:
            authorization: the request's Authorization header.
            patience_s: the caller's, for what must be certain before it is answered.

        Raises:
            Problem: `unsupported-grant-type`, `invalid-request`, `invalid-client`,
                `invalid-grant`, `otp-...`, `unavailable`.
        """
        if form.grant_type not in (GRANT_OTP, GRANT_REFRESH, GRANT_CLIENT):
            raise Problem("unsupported-grant-type", "See grant_types_supported in the metadata.")
        client = await self._clients.identify(
            authorization=authorization,
            client_id=form.client_id,
            client_secret=form.client_secret,
        )
        if form.grant_type == GRANT_OTP:
            return await self._grant_otp(form, client)
        if form.grant_type == GRANT_REFRESH:
            return await self._grant_refresh(form, client, patience_s)
        return self._grant_client(form, client)

    async def _grant_otp(self, form: TokenForm, client: Client | None) -> TokenAnswer:
        if form.challenge_id is None or form.code is None or form.device_id is None:
            raise Problem("invalid-request", "Give challenge_id, code and device_id.")
        if client is not None and client.subject is not None:
            raise Problem("invalid-client", "This client does not carry customers.")
        phone = await self._challenges.use(form.challenge_id, form.code)
        grant = await self.sessions.create(
            user_id=await self._users.of_phone(phone),
            client_id=MOBILE if client is None else client.id,
            device_id=form.device_id,
            device_name=form.device_name or _UNNAMED_DEVICE,
            address=peer(),
            checks_device=self._settings.new_device_unlinks_cards,
        )
        return await self._answer(grant, form.scope)

    async def _grant_refresh(
        self, form: TokenForm, client: Client | None, patience_s: float | None
    ) -> TokenAnswer:
        if form.refresh_token is None:
            raise Problem("invalid-request", "Give refresh_token.")
        grant = await self.sessions.refresh(
            form.refresh_token,
            device_id=form.device_id,
            client_id=None if client is None else client.id,
            patience_s=patience_s,
        )
        return await self._answer(grant, form.scope)

    def _grant_client(self, form: TokenForm, client: Client | None) -> TokenAnswer:
        if client is None or client.secret_hash is None or client.subject is None:
            raise Problem("invalid-client", "Authenticate with the client's id and secret.")
        scopes = _narrowed(client.scopes, form.scope)
        token = self._tokens.issue(
            sub=client.subject, client_id=client.id, scope=scopes, channel=client.channel
        )
        return TokenAnswer(token, "Bearer", self._settings.access_token_ttl_s, " ".join(scopes))

    async def _answer(self, grant: Grant, asked: str | None) -> TokenAnswer:
        bearer = await self._pool.fetchrow(store.GET_BEARER, grant.user_id, grant.client_id)
        assert bearer is not None, "sessions refer to users and clients"
        scopes = _narrowed(bearer["scopes"], asked)
        left_s = max(1, grant.ends_at_s - grant.granted_at_s)
        ttl_s = min(self._settings.access_token_ttl_s, left_s)
        token = self._tokens.issue(
            sub=grant.user_id,
            client_id=grant.client_id,
            scope=scopes,
            sid=grant.session_id,
            tier=bearer["tier"],
            channel=bearer["channel"],
            device=grant.device_id,
            ttl_s=ttl_s,
            issued_at_s=grant.granted_at_s,
        )
        return TokenAnswer(
            token,
            "Bearer",
            ttl_s,
            " ".join(scopes),
            grant.refresh_token,
            grant.session_id,
        )

    # Tokens.

    async def revoke(
        self, form: OneTokenForm, authorization: str | None, *, patience_s: float | None = None
    ) -> None:
        """End what a token stands for; nothing happens for one that is not ours (RFC 7009).

        When it returns, no worker accepts the token.

        Args:
            patience_s: the caller's; by default it takes as long as it must.

        Raises:
            Problem: `invalid-client`; `unavailable`: try again.
        """
        caller = await self._identify(form, authorization)
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
        session_id, user_id, client_id = found
        if await self._may_end(caller, client_id):
            await self.sessions.end(session_id, user_id=user_id, patience_s=patience_s)

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
        if owner is not None and owner.secret_hash is not None:
            raise Problem("invalid-client", "Authenticate as the client of this token.")
        return True

    async def introspect(self, form: OneTokenForm, authorization: str | None) -> Introspection:
        """Say what one of the caller's own tokens is (RFC 7662).

        Raises:
            Problem: `invalid-client` unless a client with a secret authenticates;
                `revocation-feed-stale`.
        """
        caller = await self._identify(form, authorization)
        if caller is None or caller.secret_hash is None:
            raise Problem("invalid-client", "Authenticate with the client's id and secret.")
        # To call a token active is to accept it.
        await self._feed.open()
        claims = self._claims(form.token)
        if claims is not None and claims.client_id == caller.id:
            return Introspection(
                active=True,
                token_type="Bearer",
                scope=" ".join(claims.scope),
                client_id=claims.client_id,
                sub=claims.sub,
                sid=claims.sid or None,
                iss=self._settings.issuer,
                aud=self._settings.audience,
                jti=claims.jti,
                iat=claims.iat,
                exp=claims.exp,
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

    async def _identify(self, form: OneTokenForm, authorization: str | None) -> Client | None:
        return await self._clients.identify(
            authorization=authorization,
            client_id=form.client_id,
            client_secret=form.client_secret,
        )

    def _claims(self, token: str) -> Claims | None:
        headers = [(b"authorization", b"Bearer " + token.encode())]
        claims = self._core.authorize(headers, "", self._clock())
        return None if isinstance(claims, Refusal) else claims

    # What others need to know of us.

    def jwks(self) -> Jwks:
        """Return the keys that tokens may be verified with."""
        return Jwks([msgspec.convert(key, Jwk) for key in self._keys.jwks()])

    def metadata(self) -> ServerMetadata:
        """Return where things are and what is supported (RFC 8414)."""
        base = self._settings.issuer.rstrip("/")
        with_secret = ["client_secret_basic", "client_secret_post"]
        return ServerMetadata(
            issuer=self._settings.issuer,
            token_endpoint=f"{base}/oauth/token",
            jwks_uri=f"{base}/.well-known/jwks.json",
            revocation_endpoint=f"{base}/oauth/revoke",
            introspection_endpoint=f"{base}/oauth/introspect",
            scopes_supported=self._settings.mobile_scopes,
            response_types_supported=[],
            grant_types_supported=[GRANT_OTP, GRANT_REFRESH, GRANT_CLIENT],
            token_endpoint_auth_methods_supported=["none", *with_secret],
            revocation_endpoint_auth_methods_supported=["none", *with_secret],
            introspection_endpoint_auth_methods_supported=with_secret,
        )


def _narrowed(granted: list[str], asked: str | None) -> list[str]:
    """Return what was asked of what may be granted; everything when nothing was asked."""
    wanted = (asked or "").split()
    if not wanted:
        return granted
    scopes = [scope for scope in granted if scope in wanted]
    if not scopes:
        raise Problem("invalid-grant", "None of the scopes asked for may be granted.")
    return scopes
