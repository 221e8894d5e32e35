"""Assertions by which servers say who they are: `private_key_jwt` (RFC 7521, RFC 7523).

A client signs a short-lived token by a key of its own, of which only the public half is known
here. Each works once: which were used is in the database, where nothing forgets it. Never accept
one whose use could not be written.
"""

import hashlib
from typing import Annotated

import asyncpg
import msgspec

from gateway.identity import jose, store
from gateway.identity.jose import JoseFault, PublicKey, Unverified
from gateway.identity.store import moment
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.lease import SKEW_MAX_S

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFE_S_MAX = 300
"""How far ahead an assertion may end."""
_AHEAD_S = 60
_TYPES = ("", "jwt", "client-authentication+jwt")
_UNKNOWN = "The client is not known, or its assertion is not signed by a key of its own."

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _Claims(msgspec.Struct):
    """Claims of an assertion (RFC 7523, 3); others are left alone."""

    iss: _Text
    sub: _Text
    aud: _Text | Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=1)]
    exp: int | float
    jti: _Text
    iat: int | float | None = None
    nbf: int | float | None = None


class Assertions:
    """Reads assertions.

    Args:
        audiences: names of this server: its issuer and its token endpoint.
    """

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock, audiences: tuple[str, ...]) -> None:
        self._pool = pool
        self._clock = clock
        self._audiences = audiences

    def read(self, text: str) -> tuple[str, Unverified]:
        """Return the client that an assertion says it is of, and the assertion, not verified yet.

        Raises:
            Problem: `invalid-client`.
        """
        try:
            token = jose.read_jws(text, types=_TYPES)
        except JoseFault as fault:
            raise Problem("invalid-client", f"The assertion cannot be used: {fault}.") from None
        client_id = token.claims.get("sub")
        if not isinstance(client_id, str) or "\x00" in client_id:
            raise Problem("invalid-client", "The assertion names no client in `sub`.")
        return client_id, token

    async def check(self, token: Unverified, *, client_id: str, keys: list[PublicKey]) -> None:
        """Return when one of a client's keys signed an assertion, for us, for now, and once.

        Args:
            keys: the client's; none when there is no such client.

        Raises:
            Problem: `invalid-client`.
        """
        try:
            jose.verify(token, _chosen(token, keys))
        except JoseFault:
            raise Problem("invalid-client", _UNKNOWN) from None
        try:
            claims = msgspec.convert(token.claims, _Claims)
        except msgspec.ValidationError as error:
            raise Problem("invalid-client", f"The assertion is not whole: {error}.") from None
        wrong = self._wrong(claims, client_id)
        if wrong:
            raise Problem("invalid-client", wrong)
        # Remembered for as long as any worker's clock may take it for a new one.
        until_ms = round((claims.exp + SKEW_MAX_S * 2) * 1_000)
        digest = hashlib.sha256(claims.jti.encode()).digest()
        is_new = await self._pool.fetchval(store.ADD_ASSERTION, client_id, digest, moment(until_ms))
        if not is_new:
            raise Problem("invalid-client", "The assertion was used before; make one a request.")

    def _wrong(self, claims: _Claims, client_id: str) -> str:
        now_s = self._clock() / 1_000
        audience = claims.aud if isinstance(claims.aud, str) else claims.aud[0]
        if claims.iss != client_id or claims.sub != client_id:
            return "`iss` and `sub` of the assertion are both the client's id."
        if audience not in self._audiences:
            return "`aud` of the assertion is this server's issuer or its token endpoint, alone."
        if claims.exp <= now_s:
            return "The assertion has expired."
        if claims.exp > now_s + LIFE_S_MAX:
            return f"The assertion ends {LIFE_S_MAX} seconds from now at the latest."
        latest = max(claims.iat or 0, claims.nbf or 0)
        return "The assertion is not in force yet." if latest > now_s + _AHEAD_S else ""

    async def prune(self) -> None:
        """Forget assertions that could not be used again anyway."""
        await self._pool.execute(store.PRUNE_ASSERTIONS, moment(self._clock()))


def _chosen(token: Unverified, keys: list[PublicKey]) -> PublicKey:
    """Return the one key a header may mean; what it means besides is not looked at."""
    kid = token.header.get("kid")
    if kid is None:
        fitting = [one for one in keys if one.algorithm == token.header["alg"]]
    else:
        fitting = [one for one in keys if one.kid == kid]
    if len(fitting) != 1:
        raise JoseFault("none of the client's keys is meant")
    return fitting[0]
