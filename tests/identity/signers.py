"""Keys of others and what they sign: written against the RFCs with `cryptography` alone.

It shares nothing with the code under test, so that the two cannot be wrong alike.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ISSUER = "https://oqim.local"
TOKEN_URL = f"{ISSUER}/oauth/token"
_numbers = itertools.count(1)

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def base64url(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(text: str) -> Any:
    """Return what a part of a JWS says."""
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def ath_of(token: str) -> str:
    """Return the hash of a token that a proof carries (RFC 9449, 4.2)."""
    return base64url(hashlib.sha256(token.encode()).digest())


def compact(private: Private, alg: str, header: str | bytes, claims: str | bytes) -> str:
    """Return a compact JWS over a header and claims as they are."""
    parts = [one.encode() if isinstance(one, str) else one for one in (header, claims)]
    signed = ".".join(base64url(one) for one in parts)
    return f"{signed}.{base64url(signature(private, alg, signed.encode()))}"


def signature(private: Private, alg: str, data: bytes) -> bytes:
    """Return a signature as JWS has it (RFC 7518, 3; RFC 8037, 3.1)."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        size = (private.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if alg.startswith("PS"):
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        return private.sign(data, salted, hashes.SHA256())
    return private.sign(data, padding.PKCS1v15(), hashes.SHA256())


def new_private(alg: str) -> Private:
    """Return a new key of an algorithm's kind."""
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if alg == "ES384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65_537, 2_048)


@dataclass
class Signer:
    """Somebody with a key of their own."""

    alg: str = "ES256"
    kid: str | None = None
    private: Private = field(default=None, repr=False)  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        if self.private is None:
            self.private = new_private(self.alg)

    @property
    def jwk(self) -> dict[str, str]:
        """The public half (RFC 7517), without a kid."""
        public = self.private.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        if isinstance(public, ec.EllipticCurvePublicKey):
            numbers, size = public.public_numbers(), (public.curve.key_size + 7) // 8
            x, y = (base64url(one.to_bytes(size, "big")) for one in (numbers.x, numbers.y))
            return {"kty": "EC", "crv": f"P-{public.curve.key_size}", "x": x, "y": y}
        n, e = public.public_numbers().n, public.public_numbers().e
        n_text, e_text = (
            base64url(one.to_bytes((one.bit_length() + 7) // 8, "big")) for one in (n, e)
        )
        return {"kty": "RSA", "n": n_text, "e": e_text}

    @property
    def jkt(self) -> str:
        """The thumbprint (RFC 7638)."""
        text = json.dumps(dict(sorted(self.jwk.items())), separators=(",", ":"))
        return base64url(hashlib.sha256(text.encode()).digest())

    def jwks(self) -> str:
        """The public half as a JWKS."""
        named = self.jwk if self.kid is None else {**self.jwk, "kid": self.kid}
        return json.dumps({"keys": [named]})

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """Return a compact JWS; members that are None are left out."""
        parts = [
            json.dumps({name: value for name, value in one.items() if value is not None})
            for one in (header, claims)
        ]
        return compact(self.private, self.alg, *parts)

    def proof(
        self,
        method: str,
        url: str,
        *,
        at_s: float,
        token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Return a DPoP proof (RFC 9449, 4.2).

        Args:
            header, changes: members that are otherwise than in a good one; None leaves one out.
        """
        claims = {
            "jti": f"proof-{next(_numbers)}",
            "htm": method,
            "htu": url,
            "iat": int(at_s),
            "ath": None if token is None else ath_of(token),
        }
        own = {"typ": "dpop+jwt", "alg": self.alg, "jwk": self.jwk}
        return self.sign(own | dict(header or {}), claims | changes)

    def assertion(
        self,
        client_id: str,
        *,
        at_s: float,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> dict[str, str]:
        """Return the form members of `private_key_jwt` (RFC 7523, 2.2)."""
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": ISSUER,
            "jti": f"assertion-{next(_numbers)}",
            "iat": int(at_s),
            "exp": int(at_s) + 60,
        }
        own = {"typ": "JWT", "alg": self.alg, "kid": self.kid}
        text = self.sign(own | dict(header or {}), claims | changes)
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": text}
