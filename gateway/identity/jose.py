"""Compact JWS that others made, and the keys they made them with (RFC 7515, RFC 7517, RFC 8725).

Read strictly, so that two readers cannot disagree, and verified by the one algorithm that the key
itself fixes: what a header says of algorithms, keys or places is never followed. Nothing here
knows what the claims are for, and nothing may believe them before `verify` returned.
"""

import base64
import binascii
import copy
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.core import Refusal, read_body

EDDSA, ES256, PS256 = "EdDSA", "ES256", "PS256"
ALGORITHMS = (EDDSA, ES256, PS256)
"""What a key of another's may sign with: asymmetric, one for each kind of key."""

JWK_BYTES_MAX = 2_048
JWS_BYTES_MAX = 6_144
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_JSON = [(b"content-type", b"application/json")]
_ALGORITHM_OF: dict[tuple[object, object], str] = {
    ("OKP", "Ed25519"): EDDSA,
    ("EC", "P-256"): ES256,
    ("RSA", None): PS256,
}
# What a key of each algorithm is made of; anything secret in it is refused, never dropped.
_PUBLIC = {EDDSA: ("x",), ES256: ("x", "y"), PS256: ("n", "e")}
_SECRET = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_COORDINATE_BYTES = 32
_RSA_BITS_MIN, _RSA_BITS_MAX = 2_048, 4_096
_RSA_EXPONENT = 65_537
# Members by which a header says that the rest must be read otherwise.
_OTHERWISE = frozenset(("crit", "b64", "zip"))
# Points of Ed25519 of small order, under which anybody can sign (RFC 8032, 5.1.7; without sign).
_WEAK_POINTS = frozenset(
    bytes.fromhex(one)
    for one in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


class JoseFault(Exception):
    """A key or a token of another's that cannot be used. The text holds nothing of it."""


def _registry(algorithm: str) -> JWSRegistry:
    """Return what verifies by one algorithm and no other."""
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = JWS_BYTES_MAX
    # RFC 9864 renames EdDSA, and the library warns of the name that everybody sends.
    quiet = copy.copy(JWSRegistry.algorithms[algorithm])
    quiet.security_warning = None
    registry.algorithms = {algorithm: quiet}
    return registry


_REGISTRIES = {algorithm: _registry(algorithm) for algorithm in ALGORITHMS}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of another's.

    Args:
        algorithm: the one it verifies by.
        kid: the owner's name for it, if it has one.
        thumbprint: RFC 7638, base64url of 32 bytes.
    """

    algorithm: str
    kid: str | None
    thumbprint: str
    key: OKPKey | ECKey | RSAKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unverified:
    """A compact JWS as it was read; nobody has said yet that it is true."""

    header: dict[str, Any]
    claims: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)


def read_jws(text: str, *, types: tuple[str, ...]) -> Unverified:
    """Read a compact JWS whose parts are JSON objects.

    Args:
        types: the values of `typ` that this kind of token has, in small letters; "" when it may
            have none (RFC 8725, 3.11).

    Raises:
        JoseFault: it is not one, or asks to be read in another way.
    """
    if len(text) > JWS_BYTES_MAX or not _COMPACT.match(text):
        raise JoseFault("it is not a compact JWS")
    header, claims, signature = text.split(".")
    _decoded(signature)
    read = Unverified(_object(_decoded(header)), _object(_decoded(claims)), text)
    if _OTHERWISE & read.header.keys():
        raise JoseFault("its header asks for what is not done here")
    typ = read.header.get("typ", "")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in types:
        raise JoseFault("its header names another type of token")
    if read.header.get("alg") not in ALGORITHMS:
        raise JoseFault(f"its algorithm is none of {', '.join(ALGORITHMS)}")
    return read


def verify(token: Unverified, key: PublicKey) -> None:
    """Return when the key signed the token, by the key's own algorithm.

    Raises:
        JoseFault: it did not.
    """
    if token.header["alg"] != key.algorithm:
        raise JoseFault("its algorithm is not the key's")
    try:
        jws.deserialize_compact(token.text, key.key, registry=_REGISTRIES[key.algorithm])
    except (JoseError, ValueError):
        raise JoseFault("its signature does not match") from None


def read_keys(text: bytes) -> list[PublicKey]:
    """Read a JWKS (RFC 7517, 5) of public keys, each of its own kid.

    Raises:
        JoseFault: one of them cannot be used; there is none; or two cannot be told apart.
    """
    keys = _object(text).get("keys")
    if not isinstance(keys, list) or not keys:
        raise JoseFault('a JWKS is {"keys": [...]} with one key at least')
    found = [read_key(one) for one in keys]
    if len({one.thumbprint for one in found}) < len(found):
        raise JoseFault("a key is there twice")
    if len(found) > 1 and len({one.kid for one in found if one.kid}) < len(found):
        raise JoseFault("of several keys each needs a `kid` of its own")
    return found


def read_key(jwk: object, *, algorithms: tuple[str, ...] = ALGORITHMS) -> PublicKey:
    """Read one public JWK: Ed25519, P-256, or RSA of 2048 to 4096 bits.

    Raises:
        JoseFault: it is another, private, weak, or meant for something else.
    """
    if not isinstance(jwk, dict):
        raise JoseFault("a key is a JSON object")
    if _SECRET & jwk.keys():
        raise JoseFault("it holds a private key; give the public one")
    kty, crv = jwk.get("kty"), jwk.get("crv")
    is_text = isinstance(kty, str) and isinstance(crv, str | None)
    algorithm = _ALGORITHM_OF.get((kty, crv), "") if is_text else ""
    if algorithm not in algorithms:
        raise JoseFault("a key is Ed25519, P-256 or RSA")
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("alg", algorithm) != algorithm
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        raise JoseFault(f"its `alg`, `use` or `key_ops` says that it does not verify {algorithm}")
    kid = jwk.get("kid")
    if not isinstance(kid, str | None) or (kid is not None and not 1 <= len(kid) <= 255):
        raise JoseFault("a `kid` is a text of 1 to 255 characters")
    key = _imported(algorithm, jwk)
    return PublicKey(algorithm, kid, key.thumbprint(), key)


def _imported(algorithm: str, jwk: dict[str, Any]) -> OKPKey | ECKey | RSAKey:
    parts: dict[str, str] = {}
    for name in _PUBLIC[algorithm]:
        value = jwk.get(name)
        if not isinstance(value, str) or len(value) > JWK_BYTES_MAX:
            raise JoseFault(f"its `{name}` is missing")
        parts[name] = value
    _check_strength(algorithm, {name: _decoded(value) for name, value in parts.items()})
    try:
        if algorithm == EDDSA:
            return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", **parts})
        if algorithm == ES256:
            return ECKey.import_key({"kty": "EC", "crv": "P-256", **parts})
        return RSAKey.import_key({"kty": "RSA", **parts})
    except (JoseError, ValueError):
        raise JoseFault("it is not a key of its kind") from None


def _check_strength(algorithm: str, parts: dict[str, bytes]) -> None:
    """Refuse a key of another size, and one under which anybody can sign."""
    if algorithm == PS256:
        bits = int.from_bytes(parts["n"], "big").bit_length()
        is_plain = int.from_bytes(parts["e"], "big") == _RSA_EXPONENT
        if not (_RSA_BITS_MIN <= bits <= _RSA_BITS_MAX and is_plain):
            raise JoseFault("an RSA key has 2048 to 4096 bits, and 65537 as its exponent")
    elif any(len(one) != _COORDINATE_BYTES for one in parts.values()):
        raise JoseFault(f"its coordinates have not {_COORDINATE_BYTES} bytes each")
    elif algorithm == EDDSA:
        raw = parts["x"]
        if raw[:-1] + bytes([raw[-1] & 0x7F]) in _WEAK_POINTS:
            raise JoseFault("it is a point of small order")


def _decoded(text: str) -> bytes:
    """Return what base64url says, in its one canonical form (RFC 4648, 3.5)."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise JoseFault("it is not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise JoseFault("it is not base64url in its one form")
    return raw


def _object(text: bytes) -> dict[str, Any]:
    """Return a JSON object, read by the core's strict parser: no member stands in it twice."""
    canonical = read_body(_JSON, text)
    if isinstance(canonical, Refusal):
        raise JoseFault("it is not JSON that can be read in one way")
    try:
        value: object = msgspec.json.decode(canonical)
    except msgspec.DecodeError:
        raise JoseFault("it holds a number that is out of range") from None
    if not isinstance(value, dict):
        raise JoseFault("it is not a JSON object")
    return value
