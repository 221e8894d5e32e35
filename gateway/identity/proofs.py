"""Proofs that a request's sender holds the key its token is bound to: DPoP (RFC 9449).

A proof is for one request: this method, this address, this token, now, and once across every
worker. What was seen is in Redis, which may forget: a proof that may have been made before its
memory begins is not believed, but answered with a nonce to be put into a newer one. Never accept
a proof while Redis cannot be asked.
"""

import base64
import contextlib
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
from redis.exceptions import RedisError

from gateway.identity import jose
from gateway.identity.jose import JoseFault
from gateway.kernel.clock import Clock
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.messages import Request
from gateway.kernel.http.problems import Problem
from gateway.kernel.lease import SKEW_MAX_S
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis

ALGORITHMS = (jose.EDDSA, jose.ES256)
"""Of proofs: whoever makes one brings the key along, and these are cheap to check."""

AHEAD_S = 10
"""How far a client's clock may be ahead. One that is further off needs a nonce."""
NONCE_AGE_S = 300
"""How long a nonce is good for. A proof that carries one needs no clock (RFC 9449, 4.3)."""
_TYPES = ("dpop+jwt",)
# One memory a group of keys, so that a cluster spreads them and the loss of any node is noticed.
_GROUPS = "0123456789abcdef"
_PORTS = {"http": 80, "https": 443}
_NONCE_BYTES = 24
# An address without query and fragment. Whoever splits one drops what is not in here.
_PLAIN = re.compile(r"[!-\"$->@-~]+\Z")

# KEYS: when this memory begins, the proof. ARGV: now in ms; the earliest moment in ms at which it
# can have been made; how long it must be remembered in ms.
_USE = """
local since = redis.call('GET', KEYS[1])
if not since then
    since = ARGV[1]
    redis.call('SET', KEYS[1], since)
end
if tonumber(ARGV[2]) < tonumber(since) then return {'blind', since} end
if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[3]) then return {'new', since} end
return {'seen', since}
"""

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _Claims(msgspec.Struct):
    """Claims of a proof (RFC 9449, 4.2); others are left alone."""

    jti: _Text
    htm: _Text
    htu: Annotated[str, msgspec.Meta(min_length=1, max_length=2_048)]
    iat: int | float
    ath: _Text | None = None
    nonce: _Text | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What proofs must be like.

    Args:
        base_urls: where clients reach this server, without a slash at the end.
        age_s: how old a proof may be.
        needs_nonce: whether each must carry a nonce of ours.
    """

    base_urls: tuple[str, ...]
    age_s: int
    needs_nonce: bool


class Proofs:
    """Checks proofs.

    Args:
        nonce_key: the same for every worker.
    """

    def __init__(
        self,
        *,
        redis: BoundedRedis,
        policy: Policy,
        nonce_key: bytes,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._redis = redis
        self._policy = policy
        self._nonces = _Nonces(nonce_key)
        self._clock = clock
        self._metrics = metrics
        self._addresses = [_address(one.rstrip("/")) for one in policy.base_urls]
        self._use_script = redis.register_script(_USE)

    async def remember(self, *, is_first: bool = False) -> None:
        """Let the memory begin now where it has not begun; without Redis it begins later.

        Args:
            is_first: nobody can have used a proof before, as in a sandbox that starts: whoever
                comes first needs no nonce.
        """
        since_ms = self._clock() - (AHEAD_S * 1_000 if is_first else 0)
        pipeline = self._redis.pipeline(transaction=False)
        for group in _GROUPS:
            pipeline.set(_since(group), since_ms, nx=True)
        with contextlib.suppress(Unavailable, RedisError):
            await pipeline.execute()

    async def of_key(self, request: Request) -> str | None:
        """Return the thumbprint of the key that a request for tokens proves, or None.

        Raises:
            Problem: `invalid-dpop-proof`, `use-dpop-nonce`.
            Unavailable: whether it was used before cannot be known.
        """
        if request.header("dpop") is None:
            return None
        return await self._check(request, thumbprint=None, token=None)

    async def check(self, request: Request, thumbprint: str) -> None:
        """Return when a request proves the key that its token is bound to.

        Args:
            request: its one Authorization header was found to be `DPoP` and a good token.
            thumbprint: of the key the token is bound to.

        Raises:
            Problem: `invalid-dpop-proof`, `use-dpop-nonce`.
            Unavailable: whether it was used before cannot be known.
        """
        authorization = request.header("authorization") or ""
        token = authorization[len("DPoP ") :].strip()
        await self._check(request, thumbprint=thumbprint, token=token)

    async def _check(self, request: Request, *, thumbprint: str | None, token: str | None) -> str:
        try:
            key, claims = self._read(request, token)
        except JoseFault as fault:
            self._metrics.count("dpop_proofs", "invalid")
            raise Problem("invalid-dpop-proof", f"The proof is not valid: {fault}.") from None
        if thumbprint not in (None, key):
            self._metrics.count("dpop_proofs", "invalid")
            detail = "The proof is by another key than the token is bound to."
            raise Problem("invalid-dpop-proof", detail)
        await self._use(key, claims)
        return key

    def _read(self, request: Request, token: str | None) -> tuple[str, _Claims]:
        values = [value for name, value in request.raw_headers if name.lower() == b"dpop"]
        if len(values) != 1:
            raise JoseFault("send one DPoP header")
        proof = jose.read_jws(values[0].decode("latin-1").strip(), types=_TYPES)
        key = jose.read_key(proof.header.get("jwk"), algorithms=ALGORITHMS)
        jose.verify(proof, key)
        try:
            claims = msgspec.convert(proof.claims, _Claims)
        except msgspec.ValidationError as error:
            raise JoseFault(f"{error}".rstrip(".").replace("`", "")) from None
        if claims.htm != request.method:
            raise JoseFault("its `htm` is not the request's method")
        if not self._is_here(claims.htu, request.path):
            raise JoseFault("its `htu` is not the request's address, without query and fragment")
        if token is not None:
            digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode("latin-1")).digest())
            if claims.ath is None or claims.ath != digest.rstrip(b"=").decode():
                raise JoseFault("its `ath` is not the hash of the token")
        return key.thumbprint, claims

    def _is_here(self, htu: str, path: str) -> bool:
        """Whether an address is that of the request, after what RFC 3986 (6.2) holds equal."""
        if not _PLAIN.match(htu):
            return False
        address = _address(htu)
        if address is None:
            return False
        scheme, authority, given = address
        return any(
            one is not None and one[:2] == (scheme, authority) and (given or "/") == one[2] + path
            for one in self._addresses
        )

    async def _use(self, key: str, claims: _Claims) -> None:
        """Use a proof up. Raises Problem when it was used, or that cannot be known."""
        now_ms = self._clock()
        earliest_ms, last_ms = self._span(claims, now_ms)
        # As long as any worker's clock may take it for a new one.
        last_ms += round(2 * SKEW_MAX_S * 1_000)
        digest = hashlib.sha256(f"{key}\x00{claims.jti}".encode()).hexdigest()
        answer: list[Any] = await self._use_script(
            keys=[_since(digest[0]), f"dpop:{{{digest[0]}}}:{digest}"],
            args=[now_ms, earliest_ms, max(1, last_ms - now_ms)],
        )
        verdict, since_ms = answer[0].decode(), int(answer[1])
        self._metrics.count("dpop_proofs", verdict)
        if verdict == "blind":
            raise self._newer(max(now_ms, since_ms))
        if verdict == "seen":
            raise Problem("invalid-dpop-proof", "The proof was used before; make one a request.")

    def _span(self, claims: _Claims, now_ms: int) -> tuple[int, int]:
        """Return when a proof can have been made at the earliest, and when it is too old.

        Its nonce says so where it has one, and else its maker's clock. In Unix milliseconds.

        Raises:
            Problem: it is too old now, or from the future, or needs a nonce.
        """
        if claims.nonce is not None or self._policy.needs_nonce:
            given_ms = self._nonces.read(claims.nonce or "", now_ms)
            if given_ms is None:
                self._metrics.count("dpop_proofs", "nonce")
                raise self._newer(now_ms)
            return given_ms, given_ms + NONCE_AGE_S * 1_000
        now_s = now_ms / 1_000
        if not now_s - self._policy.age_s <= claims.iat <= now_s + AHEAD_S:
            self._metrics.count("dpop_proofs", "invalid")
            nonce = self._nonces.new(now_ms)
            detail = "The proof's `iat` is not now: set the clock, or send the DPoP-Nonce in it."
            raise Problem("invalid-dpop-proof", detail, headers=(("DPoP-Nonce", nonce),))
        iat_ms = round(claims.iat * 1_000)
        return iat_ms - AHEAD_S * 1_000, iat_ms + self._policy.age_s * 1_000

    def _newer(self, at_ms: int) -> Problem:
        nonce = self._nonces.new(at_ms)
        detail = "Put the nonce of the DPoP-Nonce header into a new proof."
        return Problem("use-dpop-nonce", detail, headers=(("DPoP-Nonce", nonce),))


class _Nonces:
    """Nonces say when they were given, and that it was us; nothing is kept of them."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.new(key, b"dpop-nonce", hashlib.sha256).digest()

    def new(self, at_ms: int) -> str:
        stamp = at_ms.to_bytes(8, "big")
        return base64.urlsafe_b64encode(stamp + self._seal(stamp)).decode()

    def read(self, nonce: str, now_ms: int) -> int | None:
        """Return when a nonce was given, in Unix milliseconds; None for one that is no use now."""
        try:
            raw = base64.urlsafe_b64decode(nonce)
        except ValueError:
            return None
        stamp, seal = raw[:8], raw[8:]
        if len(raw) != _NONCE_BYTES or not hmac.compare_digest(seal, self._seal(stamp)):
            return None
        given_ms = int.from_bytes(stamp, "big")
        is_current = now_ms - given_ms <= NONCE_AGE_S * 1_000
        return given_ms if is_current else None

    def _seal(self, stamp: bytes) -> bytes:
        return hmac.new(self._key, stamp, hashlib.sha256).digest()[: _NONCE_BYTES - len(stamp)]


def _since(group: str) -> str:
    # The tag keeps a memory's beginning where its proofs are, in a cluster too.
    return f"dpop:{{{group}}}:since"


def _address(url: str) -> tuple[str, str, str] | None:
    """Return scheme, authority and decoded path of a URL; None for one that cannot be a request's.

    A port that is the scheme's own is left out.
    """
    try:
        split = urlsplit(url)
        port = split.port
        path = unquote(split.path, errors="strict")
    except ValueError:
        return None
    scheme, host = split.scheme.lower(), (split.hostname or "").lower()
    if scheme not in _PORTS or not host or "@" in split.netloc:
        return None
    authority = host if port in (None, _PORTS[scheme]) else f"{host}:{port}"
    return scheme, authority, path
