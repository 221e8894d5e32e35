"""What is exchanged for tokens at the token endpoint, and which key they are bound to."""

import re

import asyncpg

from gateway.identity import store
from gateway.identity.challenges import Challenges
from gateway.identity.clients import MOBILE, Client, Clients, Credentials
from gateway.identity.model import (
    GRANT_CLIENT,
    GRANT_OTP,
    GRANT_REFRESH,
    OneTokenForm,
    TokenAnswer,
    TokenForm,
)
from gateway.identity.proofs import Proofs
from gateway.identity.sessions import Grant, Owner, Sessions
from gateway.identity.tokens import Tokens
from gateway.identity.users import Users
from gateway.kernel.http.messages import Request
from gateway.kernel.http.peers import peer
from gateway.kernel.http.problems import Problem
from gateway.settings import Identity

_UNNAMED_DEVICE = "unnamed device"
# RFC 6749, 3.3.
_SCOPES = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*\Z")


def credentials_of(request: Request, form: TokenForm | OneTokenForm) -> Credentials:
    """Return what a request says of its client."""
    authorizations = [
        value for name, value in request.raw_headers if name.lower() == b"authorization"
    ]
    if len(authorizations) > 1:
        raise Problem("invalid-request", "Send one Authorization header.")
    return Credentials(
        authorization=request.header("authorization"),
        client_id=form.client_id,
        client_secret=form.client_secret,
        assertion_type=form.client_assertion_type,
        assertion=form.client_assertion,
    )


class Grants:
    """Exchanges grants for tokens."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        settings: Identity,
        tokens: Tokens,
        clients: Clients,
        users: Users,
        challenges: Challenges,
        sessions: Sessions,
        proofs: Proofs,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._tokens = tokens
        self._clients = clients
        self._users = users
        self._challenges = challenges
        self._sessions = sessions
        self._proofs = proofs

    async def grant(
        self, form: TokenForm, request: Request, *, patience_s: float | None = None
    ) -> TokenAnswer:
        """Exchange a grant for tokens.

        Args:
            request: its headers may say who the client is, and prove a key.
            patience_s: the caller's, for what must be certain before it is answered.

        Raises:
            Problem: `unsupported-grant-type`, `invalid-request`, `invalid-client`,
                `unauthorized-client`, `invalid-dpop-proof`, `use-dpop-nonce`, `invalid-grant`,
                `invalid-scope`, `otp-...`, `unavailable`.
        """
        if form.grant_type not in (GRANT_OTP, GRANT_REFRESH, GRANT_CLIENT):
            raise Problem("unsupported-grant-type", "See grant_types_supported in the metadata.")
        if form.scope is not None and not _SCOPES.match(form.scope):
            raise Problem("invalid-scope", "Scopes are separated by one space each.")
        client = await self._clients.identify(credentials_of(request, form))
        if form.grant_type == GRANT_OTP:
            return await self._grant_otp(form, client, request)
        if form.grant_type == GRANT_REFRESH:
            return await self._grant_refresh(form, client, request, patience_s)
        return await self._grant_client(form, client, request)

    async def _grant_otp(
        self, form: TokenForm, client: Client | None, request: Request
    ) -> TokenAnswer:
        if form.challenge_id is None or form.code is None or form.device_id is None:
            raise Problem("invalid-request", "Give challenge_id, code and device_id.")
        carrier = client or await self._clients.get(MOBILE)
        assert carrier is not None, "it is made at start"
        if carrier.subject is not None:
            raise Problem("unauthorized-client", "This client does not carry customers.")
        scopes = _narrowed(carrier.scopes, form.scope)
        jkt = await self._key_of(request, carrier.dpop)
        phone = await self._challenges.use(form.challenge_id, form.code)
        grant = await self._sessions.create(
            user_id=await self._users.of_phone(phone),
            client_id=carrier.id,
            device_id=form.device_id,
            device_name=form.device_name or _UNNAMED_DEVICE,
            address=peer(),
            checks_device=self._settings.new_device_unlinks_cards,
            jkt=jkt,
            scope=None if form.scope is None else scopes,
        )
        return await self._answer(grant, scopes)

    async def _grant_refresh(
        self,
        form: TokenForm,
        client: Client | None,
        request: Request,
        patience_s: float | None,
    ) -> TokenAnswer:
        if form.refresh_token is None:
            raise Problem("invalid-request", "Give refresh_token.")
        owner = await self._sessions.of_token(form.refresh_token)
        carrier = client
        if client is None and owner is not None:
            carrier = await self._clients.get(owner.client_id)
            if carrier is not None and carrier.is_confidential:
                raise Problem("invalid-client", "Authenticate as the client of this token.")
        scopes = _renewed(carrier, owner, form.scope)
        grant = await self._sessions.refresh(
            form.refresh_token,
            device_id=form.device_id,
            client_id=None if carrier is None else carrier.id,
            jkt=await self._key_of(request, "off" if carrier is None else carrier.dpop),
            patience_s=patience_s,
        )
        return await self._answer(grant, scopes)

    async def _grant_client(
        self, form: TokenForm, client: Client | None, request: Request
    ) -> TokenAnswer:
        if client is None or not client.is_confidential:
            raise Problem("invalid-client", "Authenticate as the client: by secret or assertion.")
        if client.subject is None:
            raise Problem("unauthorized-client", "This client acts for nobody by itself.")
        scopes = _narrowed(client.scopes, form.scope)
        jkt = await self._key_of(request, client.dpop)
        token = self._tokens.issue(
            sub=client.subject,
            client_id=client.id,
            scope=scopes,
            channel=client.channel,
            jkt=jkt,
        )
        return TokenAnswer(token, _type(jkt), self._settings.access_token_ttl_s, " ".join(scopes))

    async def _key_of(self, request: Request, dpop: str) -> str:
        """Return the thumbprint of the key that tokens will be bound to, "" for none.

        Args:
            dpop: the client's: `off`, `optional` or `required`.
        """
        if dpop == "off":
            return ""
        jkt = await self._proofs.of_key(request)
        if jkt is None and dpop == "required":
            raise Problem("invalid-dpop-proof", "Send a DPoP header: this client proves its key.")
        return jkt or ""

    async def _answer(self, grant: Grant, scopes: list[str]) -> TokenAnswer:
        bearer = await self._pool.fetchrow(store.GET_BEARER, grant.user_id, grant.client_id)
        assert bearer is not None, "sessions refer to users and clients"
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
            jkt=grant.jkt,
            ttl_s=ttl_s,
            issued_at_s=grant.granted_at_s,
        )
        return TokenAnswer(
            token,
            _type(grant.jkt),
            ttl_s,
            " ".join(scopes),
            grant.refresh_token,
            grant.session_id,
        )


def _type(jkt: str) -> str:
    return "DPoP" if jkt else "Bearer"


def _narrowed(granted: list[str], asked: str | None) -> list[str]:
    """Return what was asked of what may be granted; everything when nothing was asked."""
    if asked is None:
        return granted
    wanted = asked.split(" ")
    scopes = [scope for scope in granted if scope in wanted]
    if not scopes:
        raise Problem("invalid-scope", "None of the scopes asked for may be granted.")
    return scopes


def _renewed(carrier: Client | None, owner: Owner | None, asked: str | None) -> list[str]:
    """Return what a session may go on with: nothing that was not granted at its login.

    It is what the client may have now, too: what was taken from it is not renewed (RFC 6749, 6).
    """
    if carrier is None or owner is None:
        return []
    granted = [one for one in carrier.scopes if owner.scope is None or one in owner.scope]
    if asked is not None and not set(asked.split(" ")) <= set(granted):
        raise Problem("invalid-scope", "Only scopes that were granted at login may be asked for.")
    return _narrowed(granted, asked)
