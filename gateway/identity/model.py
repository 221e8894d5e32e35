"""What identity reads and answers."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

GRANT_OTP = "urn:oqim:params:oauth:grant-type:otp"
GRANT_REFRESH = "refresh_token"
GRANT_CLIENT = "client_credentials"

# Longer than any token, code or id of ours.
_Text = Annotated[str, Meta(max_length=4_096)]
_Assertion = Annotated[str, Meta(max_length=8_192)]


class AskChallenge(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/auth/challenges`."""

    phone: Annotated[str, Meta(max_length=64)]


class ChallengeAnswer(msgspec.Struct):
    """A code is on its way. Times are RFC 3339."""

    challenge_id: str
    expires_at: str
    resend_at: str


class TokenForm(msgspec.Struct):
    """Form of `POST /oauth/token`; what a grant does not know is ignored (RFC 6749, 3.2)."""

    grant_type: _Text
    challenge_id: _Text | None = None
    code: _Text | None = None
    device_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    device_name: Annotated[str, Meta(max_length=128)] | None = None
    refresh_token: _Text | None = None
    scope: _Text | None = None
    client_id: _Text | None = None
    client_secret: _Text | None = None
    client_assertion_type: _Text | None = None
    client_assertion: _Assertion | None = None

    def __repr__(self) -> str:
        return f"TokenForm({self.grant_type!r})"


class TokenAnswer(msgspec.Struct):
    """Tokens. `expires_in` is in seconds; servers get no refresh token and no session.

    Attributes:
        token_type: `Bearer`, or `DPoP` when the token is bound to the key that was proven.
    """

    access_token: str
    token_type: str
    expires_in: int
    scope: str
    refresh_token: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return "TokenAnswer(...)"


class OneTokenForm(msgspec.Struct):
    """Form of `POST /oauth/revoke` and `POST /oauth/introspect` (RFC 7009, RFC 7662)."""

    token: _Text
    token_type_hint: _Text | None = None
    client_id: _Text | None = None
    client_secret: _Text | None = None
    client_assertion_type: _Text | None = None
    client_assertion: _Assertion | None = None

    def __repr__(self) -> str:
        return "OneTokenForm(...)"


class Confirmation(msgspec.Struct):
    """The key that a token's sender must prove: its thumbprint (RFC 9449, 6.2)."""

    jkt: str


class Introspection(msgspec.Struct, omit_defaults=True):
    """What a token is; of one that is not usable, nothing but that is told."""

    active: bool
    token_type: str | None = None
    scope: str | None = None
    client_id: str | None = None
    sub: str | None = None
    sid: str | None = None
    iss: str | None = None
    aud: str | None = None
    jti: str | None = None
    iat: int | None = None
    exp: int | None = None
    cnf: Confirmation | None = None


class SessionAnswer(msgspec.Struct):
    """One device that is logged in. Times are RFC 3339.

    Attributes:
        last_used_at: when it last got tokens.
        last_seen_at: when it last asked for anything, to within a second or two.
        address: where it was seen last, null when that is not known.
        level: how its customer was authenticated: `otp`, by a one-time code.
    """

    id: str
    client_id: str
    device_id: str
    device_name: str
    is_current: bool
    created_at: str
    last_used_at: str
    last_seen_at: str
    address: str | None
    level: str


class SessionList(msgspec.Struct):
    """One page of sessions."""

    data: list[SessionAnswer]
    next_cursor: str | None


class SessionsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Query of a list."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=1_024)] | None = None


class Revoked(msgspec.Struct):
    """How many sessions were ended."""

    revoked: int


class RevocationBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /admin/v1/revocations`: one token, one session, or everything until now."""

    kind: Literal["jti", "sid", "sub", "client"]
    value: Annotated[str, Meta(min_length=1, max_length=255)]


class AckView(msgspec.Struct):
    """A worker that refuses what was revoked, and how long after it was written."""

    worker: str
    after_ms: int


class RevokedView(msgspec.Struct):
    """A revocation that no worker anywhere accepts any more."""

    seq: int
    applied_by: list[AckView]
    elapsed_ms: int


class RevocationView(msgspec.Struct):
    """A revocation, and who refuses by it.

    Attributes:
        applied_by: workers that said so; one that ended since stays named.
        behind: workers that may accept tokens and have not said so yet.
        elapsed_ms: until the last of them said so.
    """

    seq: int
    kind: str
    value: str
    created_at: str
    expires_at: str
    applied_by: list[AckView]
    behind: list[str]
    elapsed_ms: int


class Jwk(msgspec.Struct):
    """One public key (RFC 8037)."""

    kty: str
    crv: str
    alg: str
    use: str
    kid: str
    x: str


class Jwks(msgspec.Struct):
    """Every key a token may be signed with."""

    keys: list[Jwk]


class ServerMetadata(msgspec.Struct):
    """Authorization server metadata (RFC 8414)."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    revocation_endpoint: str
    introspection_endpoint: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_signing_alg_values_supported: list[str]
    introspection_endpoint_auth_methods_supported: list[str]
    introspection_endpoint_auth_signing_alg_values_supported: list[str]
    dpop_signing_alg_values_supported: list[str]
    service_documentation: str
