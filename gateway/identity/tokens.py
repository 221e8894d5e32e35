"""Access tokens as they are issued (RFC 9068, EdDSA). Verifying them is the core's."""

import copy
import secrets
from collections.abc import Callable, Iterable

from joserfc import jwt
from joserfc.jws import JWSRegistry

from gateway.identity.keys import ACCESS_TOKEN_TTL_S_MAX, SigningKeys
from gateway.kernel.clock import Clock
from gateway.kernel.errors import Unavailable
from gateway.kernel.lease import SKEW_MAX_S
from gateway.settings import Identity


def _only_eddsa() -> JWSRegistry:
    """Return a registry in which EdDSA is not warned of.

    RFC 9864 renames the algorithm to Ed25519, and the library warns of the old name at each token;
    verifiers of RFC 9068 tokens in use know the old one.
    """
    registry = JWSRegistry(algorithms=["EdDSA"])
    quiet = copy.copy(JWSRegistry.algorithms["EdDSA"])
    quiet.security_warning = None
    registry.algorithms = {"EdDSA": quiet}
    return registry


class Tokens:
    """Issues access tokens. It asks nobody whether it should."""

    def __init__(self, *, keys: SigningKeys, settings: Identity, clock: Clock) -> None:
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._registry = _only_eddsa()
        self._skew_s: Callable[[], float] = lambda: 0.0

    def watch_clock(self, skew_s: Callable[[], float]) -> None:
        """Issue nothing while this host's clock is further from the truth than `SKEW_MAX_S`."""
        self._skew_s = skew_s

    def issue(
        self,
        *,
        sub: str,
        client_id: str,
        scope: Iterable[str],
        sid: str = "",
        tier: str = "",
        channel: str,
        device: str = "",
        jkt: str = "",
        ttl_s: int | None = None,
        issued_at_s: int | None = None,
    ) -> str:
        """Return a signed token.

        Args:
            sub: `usr_...`, `mer_...` or an operator's id.
            scope: what it permits.
            sid: the session; "" for servers and operators, who have none.
            tier: identification level of a customer; "" for others.
            channel: `mobile`, `api` or `console`.
            device: the session's device; "" without a session.
            jkt: thumbprint of the key it is bound to (RFC 9449, 6.1); "" for its bearer's.
            ttl_s: seconds it lives, 1 to `ACCESS_TOKEN_TTL_S_MAX`; the setting's by default.
            issued_at_s: Unix seconds at which it was granted; now by default. A revocation of
                everything issued before a moment goes by it.

        Raises:
            Unavailable: this host's clock is wrong.
        """
        if abs(self._skew_s()) > SKEW_MAX_S:
            raise Unavailable("this host's clock is wrong; it must not date tokens")
        lives_s = self._settings.access_token_ttl_s if ttl_s is None else ttl_s
        if not 1 <= lives_s <= ACCESS_TOKEN_TTL_S_MAX:
            raise ValueError(f"a token lives 1 to {ACCESS_TOKEN_TTL_S_MAX} s")
        kid, key = self._keys.current
        now_s = self._clock() // 1_000 if issued_at_s is None else issued_at_s
        claims: dict[str, str | int | dict[str, str]] = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "sub": sub,
            "client_id": client_id,
            "scope": " ".join(scope),
            "jti": secrets.token_urlsafe(16),
            "iat": now_s,
            "exp": now_s + lives_s,
            "channel": channel,
        }
        optional = {"sid": sid, "tier": tier, "device": device}
        claims.update({name: value for name, value in optional.items() if value})
        if jkt:
            claims["cnf"] = {"jkt": jkt}
        header = {"alg": "EdDSA", "typ": "at+jwt", "kid": kid}
        return jwt.encode(header, claims, key, registry=self._registry)
