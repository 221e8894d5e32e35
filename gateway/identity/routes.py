"""HTTP in and out of identity."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.core import rfc3339
from gateway.identity.grants import Grants
from gateway.identity.model import (
    AskChallenge,
    ChallengeAnswer,
    Introspection,
    Jwks,
    OneTokenForm,
    Revoked,
    ServerMetadata,
    SessionAnswer,
    SessionList,
    SessionsQuery,
    TokenAnswer,
    TokenForm,
)
from gateway.identity.oauth_errors import NO_STORE, OAuthProblem
from gateway.identity.service import IdentityService
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.read import body_as, form_as, no_body, query_as
from gateway.kernel.http.routes import Route

_LIST = "sessions"
PATIENCE_MIN_S = 1.0
_PUBLIC_FOR_A_WHILE = (("Cache-Control", "public, max-age=60"),)
_OTP = ("otp-invalid", "otp-expired", "otp-already-used", "otp-locked")
_FORM = ("invalid-request", "unsupported-media-type")
_NETWORK = "client-network-not-allowed"


def patience_s(request: Request) -> float | None:
    """Return how long a call that revokes may take, in seconds; None when it may as it must.

    While nothing is broken it is a matter of milliseconds: a caller with less patience than
    `PATIENCE_MIN_S` is better served by a late certainty than by none.
    """
    if request.deadline_ms is None:
        return None
    return max(PATIENCE_MIN_S, request.deadline_ms / 1_000)


@contextmanager
def _oauth() -> Iterator[None]:
    """Let problems leave as OAuth names them."""
    try:
        yield
    except OAuthProblem:
        raise
    except Problem as problem:
        raise OAuthProblem(problem) from None


class _Handlers:
    def __init__(
        self,
        identity: IdentityService,
        grants: Grants,
        metadata: ServerMetadata,
        cursors: Cursors,
    ) -> None:
        self._identity = identity
        self._grants = grants
        self._metadata = metadata
        self._cursors = cursors

    async def ask_challenge(self, request: Request) -> Response:
        asked = body_as(request, AskChallenge)
        challenge = await self._identity.ask_challenge(asked.phone)
        answer = ChallengeAnswer(
            challenge.id, rfc3339(challenge.expires_at_ms), rfc3339(challenge.resend_at_ms)
        )
        return json_response(201, answer)

    async def token(self, request: Request) -> Response:
        with _oauth():
            form = form_as(request, TokenForm, blanks_count=False)
            answer = await self._grants.grant(form, request, patience_s=patience_s(request))
        return json_response(200, answer, NO_STORE)

    async def revoke(self, request: Request) -> Response:
        with _oauth():
            form = form_as(request, OneTokenForm)
            await self._identity.revoke(form, request, patience_s=patience_s(request))
        return json_response(200, {}, NO_STORE)

    async def introspect(self, request: Request) -> Response:
        with _oauth():
            form = form_as(request, OneTokenForm)
            answer = await self._identity.introspect(form, request)
        return json_response(200, answer, NO_STORE)

    async def jwks(self, request: Request) -> Response:
        return json_response(200, self._identity.jwks(), _PUBLIC_FOR_A_WHILE)

    async def metadata(self, request: Request) -> Response:
        return json_response(200, self._metadata, _PUBLIC_FOR_A_WHILE)

    async def list_sessions(self, request: Request) -> Response:
        who = request.who
        page = self._cursors.page(_LIST, query_as(request, SessionsQuery), who.sub)
        sessions = await self._identity.sessions.page(
            who.sub, before=page.position, limit=page.limit
        )
        shown, following = page.cut(sessions, lambda one: one.id)
        data = [
            SessionAnswer(
                one.id,
                one.client_id,
                one.device_id,
                one.device_name,
                one.id == who.sid,
                rfc3339(one.created_at_ms),
                rfc3339(one.last_used_at_ms),
                rfc3339(one.last_seen_at_ms),
                one.address,
                one.level,
            )
            for one in shown
        ]
        return json_response(200, SessionList(data, following))

    async def end_session(self, request: Request) -> Response:
        no_body(request)
        session_id = request.params["id"]
        is_ended = await self._identity.sessions.end(
            session_id, user_id=request.who.sub, patience_s=patience_s(request)
        )
        if not is_ended:
            raise Problem("not-found", "There is no such session.")
        return Response(204, b"")

    async def end_other_sessions(self, request: Request) -> Response:
        no_body(request)
        who = request.who
        ended = await self._identity.sessions.end_others(
            user_id=who.sub, session_id=who.sid, patience_s=patience_s(request)
        )
        return json_response(200, Revoked(ended))


def routes(
    *, identity: IdentityService, grants: Grants, metadata: ServerMetadata, cursors: Cursors
) -> list[Route]:
    """Return the routes of identity."""
    handlers = _Handlers(identity, grants, metadata, cursors)
    return [
        Route(
            method="POST",
            path="/v1/auth/challenges",
            handler=handlers.ask_challenge,
            summary="Send a one-time code to a phone",
            tag="Identity",
            scope=None,
            priority=Priority.PAYMENT,
            body=AskChallenge,
            answers={201: ChallengeAnswer},
            problems=("invalid-phone", "rate-limited", "otp-locked"),
        ),
        Route(
            method="POST",
            path="/oauth/token",
            handler=handlers.token,
            summary="Exchange a one-time code, a refresh token or client credentials for tokens",
            tag="Identity",
            scope=None,
            priority=Priority.PAYMENT,
            form=TokenForm,
            answers={200: TokenAnswer},
            problems=(
                *_FORM,
                "invalid-client",
                _NETWORK,
                "invalid-grant",
                "unauthorized-client",
                "unsupported-grant-type",
                "invalid-scope",
                "device-limit-reached",
                *_OTP,
                "unavailable",
            ),
        ),
        Route(
            method="POST",
            path="/oauth/revoke",
            handler=handlers.revoke,
            summary="Revoke an access token, or the session of a refresh token",
            tag="Identity",
            scope=None,
            priority=Priority.SETTLING,
            form=OneTokenForm,
            answers={200: dict[str, str]},
            problems=(*_FORM, "invalid-client", _NETWORK, "unavailable"),
        ),
        Route(
            method="POST",
            path="/oauth/introspect",
            handler=handlers.introspect,
            summary="Say whether a token of the calling client is active",
            tag="Identity",
            scope=None,
            priority=Priority.READ,
            form=OneTokenForm,
            answers={200: Introspection},
            problems=(*_FORM, "invalid-client", _NETWORK, "revocation-feed-stale"),
        ),
        Route(
            method="GET",
            path="/.well-known/jwks.json",
            handler=handlers.jwks,
            summary="Public keys of access tokens",
            tag="Identity",
            scope=None,
            priority=Priority.READ,
            answers={200: Jwks},
        ),
        Route(
            method="GET",
            path="/.well-known/oauth-authorization-server",
            handler=handlers.metadata,
            summary="Authorization server metadata",
            tag="Identity",
            scope=None,
            priority=Priority.READ,
            answers={200: ServerMetadata},
        ),
        Route(
            method="GET",
            path="/v1/sessions",
            handler=handlers.list_sessions,
            summary="List the devices that are logged in",
            tag="Sessions",
            scope="sessions:read",
            priority=Priority.READ,
            query=SessionsQuery,
            answers={200: SessionList},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="DELETE",
            path="/v1/sessions/{id}",
            handler=handlers.end_session,
            summary="Log a device out",
            tag="Sessions",
            scope="sessions:write",
            priority=Priority.SETTLING,
            answers={204: None},
            problems=("not-found", "unavailable"),
        ),
        Route(
            method="POST",
            path="/v1/sessions/revoke-others",
            handler=handlers.end_other_sessions,
            summary="Log every other device out",
            tag="Sessions",
            scope="sessions:write",
            priority=Priority.SETTLING,
            answers={200: Revoked},
            problems=("unavailable",),
        ),
    ]
