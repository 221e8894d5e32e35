"""Several hundred access tokens that somebody made in bad faith, and the one that is good.

Each is wrong in one way alone: where its signature must hold, it is by the house's own key. It is
sent to a route that the server authorizes and to one that the core admits, and answered 401 with a
problem by both; what is larger than a header may be is 431. Nothing is a 500.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from tests.house import House, Reply, new_key
from tests.http.test_bad_callers import Forger
from tests.identity.signers import Signer, base64url, compact

# The order of the group of Ed25519 (RFC 8032, 5.1).
ORDER = 2**252 + 27742317777372353535851937790883648493
Tokens = Iterator[tuple[str, str]]


class Mint:
    """Makes tokens that are good but for one thing."""

    def __init__(self, forger: Forger) -> None:
        now_s = int(time.time())
        self.forger = forger
        self.key = forger.key
        self.now_s = now_s
        self.header: dict[str, Any] = {"alg": "EdDSA", "typ": "at+jwt", "kid": forger.kid}
        self.claims = forger.claims | {"iat": now_s - 5, "exp": now_s + 300}

    def good(self) -> str:
        return self.of(self.header, self.claims)

    def of(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        return compact(self.key, "EdDSA", json.dumps(header), json.dumps(claims))

    def with_header(self, **changes: Any) -> str:
        """`...` takes a member away."""
        return self.of(_changed(self.header, changes), self.claims)

    def with_claims(self, **changes: Any) -> str:
        """`...` takes a member away."""
        return self.of(self.header, _changed(self.claims, changes))

    def raw_header(self, text: str | bytes) -> str:
        return compact(self.key, "EdDSA", text, json.dumps(self.claims))

    def raw_claims(self, text: str | bytes) -> str:
        return compact(self.key, "EdDSA", json.dumps(self.header), text)


def _changed(members: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (members | changes).items() if value is not ...}


def algorithms(mint: Mint) -> Tokens:
    """RFC 8725, 2.1 and 3.1: whatever the header says, the key's own algorithm is used."""
    named = [
        *("none", "None", "NONE", "nOnE", "", "eddsa", "EDDSA", "EdDSA ", " EdDSA", "Ed25519"),
        *("Ed448", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384"),
        *("PS512", "ES256", "ES384", "ES512", "ES256K", "A128KW", "dir", "RSA-OAEP", "ECDH-ES"),
        *(None, 0, 1, True, ["EdDSA"], {"EdDSA": 1}, ..., "EdDSA\u0000"),
    ]
    for alg in named:
        yield f"alg {alg!r}", mint.with_header(alg=alg)
    for alg in ("none", "None", "nOnE"):
        unsigned = mint.with_header(alg=alg).rpartition(".")[0]
        yield f"alg {alg}, unsigned", f"{unsigned}."
        yield f"alg {alg}, two parts", unsigned
    public = mint.key.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    raw = public.public_bytes_raw()
    secrets = {
        "raw": raw,
        "base64url": base64url(raw).encode(),
        "hex": raw.hex().encode(),
        "PEM": public.public_bytes(serialization.Encoding.PEM, spki),
        "DER": public.public_bytes(serialization.Encoding.DER, spki),
        "kid": mint.forger.kid.encode(),
        "empty": b"",
    }
    for size, digest in ((256, "sha256"), (384, "sha384"), (512, "sha512")):
        for form, secret in secrets.items():
            signed = mint.with_header(alg=f"HS{size}").rpartition(".")[0]
            mac = hmac.new(secret, signed.encode(), digest).digest()
            yield f"HS{size} by the public key, {form}", f"{signed}.{base64url(mac)}"


def foreign(mint: Mint) -> Tokens:
    """RFC 8725, 3.10: a key that is not ours signs nothing, whoever offers it and wherever."""
    header, claims = json.dumps(mint.header), json.dumps(mint.claims)
    stranger = ed25519.Ed25519PrivateKey.generate()
    yield "a stranger's key", compact(stranger, "EdDSA", header, claims)
    for alg in ("ES256", "ES384", "RS256", "PS256"):
        signer = Signer(alg)
        for named in (alg, "EdDSA"):
            told = json.dumps(mint.header | {"alg": named})
            yield f"{alg} named {named}", compact(signer.private, alg, told, claims)
        told = json.dumps(mint.header | {"alg": alg, "jwk": signer.jwk})
        yield f"{alg} with its jwk", compact(signer.private, alg, told, claims)
    offered = Signer("EdDSA", private=stranger).jwk
    pem = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"
    members: dict[str, list[Any]] = {
        "jwk": [offered, {}, "key", None],
        "jku": ["https://evil.example/jwks.json", "http://127.0.0.1/", "file:///etc/passwd", ""],
        "x5u": ["https://evil.example/cert.pem", "http://169.254.169.254/", ""],
        "x5c": [[pem], [], pem],
        "x5t": ["AAAA"],
        "x5t#S256": ["AAAA"],
        "crit": [["exp"], ["b64"], ["alg"], [], "exp", None, [1], ["exp", "exp"]],
        "b64": [False, True, "false"],
        "zip": ["DEF", "GZ", ""],
        "cty": ["JWT", "at+jwt"],
        "enc": ["A256GCM"],
        "p2c": [2**31],
        "epk": [offered],
        "iss": ["https://oqim.local"],
        "nonce": ["x"],
        "x": ["y"],
    }
    for name, values in members.items():
        for value in values:
            told = json.dumps(mint.header | {name: value})
            yield f"{name} {value!r}, ours", compact(mint.key, "EdDSA", told, claims)
            yield f"{name} {value!r}, a stranger's", compact(stranger, "EdDSA", told, claims)


def headers(mint: Mint) -> Tokens:
    """RFC 8725, 3.11, and RFC 9068, 4: a token is of its type, and its key has a name."""
    for typ in (
        *("JWT", "jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt"),
        *("at+jwt ", " at+jwt", "at+jwt;v=1", "at jwt", "at+jw", "at+jwts", "applicationat+jwt"),
        *("application/application/at+jwt", "text/at+jwt", "", None, 1, True, ["at+jwt"], {}, ...),
    ):
        yield f"typ {typ!r}", mint.with_header(typ=typ)
    kid = mint.forger.kid
    for name in (
        *(f"../{kid}", f"../../{kid}", f"./{kid}", f"/{kid}", "/dev/null", "../../../dev/null"),
        *("file:///dev/null", "https://evil.example/key", "..\\..\\" + kid, kid + "%00"),
        *("' OR '1'='1", f"{kid}' OR 1=1 --", f"x' UNION SELECT '{kid}", "'; DROP TABLE users;--"),
        *(f"{kid} ", f" {kid}", kid[:-1], kid + "0", kid.lower(), kid.swapcase(), kid * 20),
        *(f"{kid}\u0000", f"\u0000{kid}", "*", "%", "_", "", "null", "${kid}", "{{kid}}", "|id"),
        *(None, 0, 1, 1.5, True, [], [kid], {}, {"kid": kid}, ..., "\u202e" + kid, "ключ"),
    ):
        yield f"kid {name!r}", mint.with_header(kid=name)


def texts(good: str) -> Iterator[tuple[str, str | bytes]]:
    """JSON objects that two readers may read otherwise, or not at all, from a good one."""
    inner = good[1:-1]
    yield "empty", ""
    yield "no JSON", "token"
    yield from (("null", "null"), ("a text", '"x"'), ("a number", "1"), ("true", "true"))
    yield "an array", f"[{good}]"
    yield "an empty object", "{}"
    yield "a byte order mark", b"\xef\xbb\xbf" + good.encode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield encoding, good.encode(encoding)
    for what, tail in (
        *(("trailing text", "x"), ("trailing object", "{}"), ("trailing brace", "}")),
        *(
            ("trailing NUL", "\x00"),
            ("trailing comma", ","),
            ("twice", good),
            ("a vertical tab", "\v"),
        ),
    ):
        yield what, good + tail
    yield "a leading NUL", "\x00" + good
    yield "a NUL in it", good.replace(":", "\x00:", 1)
    yield "a comma at the end", f"{{{inner},}}"
    yield "no closing brace", good[:-1]
    yield "a comment", f"{{{inner}/* */}}"
    yield "a line comment", f"{good}// x"
    yield "single quotes", good.replace('"', "'")
    yield "bare names", good.replace('"', "")
    for value in ("NaN", "Infinity", "-Infinity", "1e400x", "01", "+1", ".5", "1.", "0x1", "--1"):
        yield f"a value {value}", f'{{{inner},"x":{value}}}'
    yield "invalid UTF-8", f'{{{inner},"x":"'.encode() + b'\xff\xfe"}'
    yield "overlong UTF-8", f'{{{inner},"x":"'.encode() + b'\xc0\xaf"}'
    yield "a lone surrogate", f'{{{inner},"x":"\\ud800"}}'
    yield "a bad escape", f'{{{inner},"x":"\\x41"}}'
    yield "a raw newline in a text", f'{{{inner},"x":"a\nb"}}'
    yield "too deep", f'{{{inner},"x":{"[" * 40}{"]" * 40}}}'
    yield "far too deep", f'{{{inner},"x":{"[" * 700}}}'
    yield "objects too deep", f'{{{inner},"x":' + '{"a":' * 40


def malformed(mint: Mint) -> Tokens:
    """RFC 8725, 3.7 and RFC 8259: one reading, of one object, with every member once."""
    header, claims = json.dumps(mint.header), json.dumps(mint.claims)
    for what, text in texts(header):
        yield f"header: {what}", mint.raw_header(text)
    for what, text in texts(claims):
        yield f"claims: {what}", mint.raw_claims(text)
    inner = header[1:-1]
    for more in (
        *('"alg":"none"', '"alg":"EdDSA"', '"a\\u006cg":"none"', '"kid":"x"', '"typ":"JWT"'),
        *(f'"kid":"{mint.forger.kid}"', '"k\\u0069d":"x"'),
    ):
        yield f"header twice {more}", mint.raw_header(f"{{{inner},{more}}}")
        yield f"header twice, first {more}", mint.raw_header(f"{{{more},{inner}}}")
    inner = claims[1:-1]
    for more in (
        *('"sub":"usr_other"', '"s\\u0075b":"usr_other"', '"scope":"admin:rules:approve"'),
        *(f'"exp":{mint.now_s + 9_999}', '"iss":"https://evil.example"', '"aud":"other"'),
        *('"jti":"other"', '"client_id":"console"', '"x":{"y":1,"y":2}', '"x":[{"y":1,"y":1}]'),
    ):
        yield f"claims twice {more}", mint.raw_claims(f"{{{inner},{more}}}")
        yield f"claims twice, first {more}", mint.raw_claims(f"{{{more},{inner}}}")


def claims(mint: Mint) -> Tokens:
    """RFC 9068, 2.2 and 4: what must be there is there, of its type, for us, and now."""
    for name in ("iss", "aud", "sub", "client_id", "jti", "iat", "exp"):
        for value in (..., None, "", [], {}, True, [""], [[]], {"x": 1}):
            yield f"{name} {value!r}", mint.with_claims(**{name: value})
    for name in ("iss", "sub", "client_id", "jti"):
        for value in (0, 1, 1.5, [mint.claims[name]]):
            yield f"{name} {value!r}", mint.with_claims(**{name: value})
    for name in ("scope", "sid", "tier", "channel", "device"):
        for value in (None, 1, [], ["payments:read"], {}, True):
            yield f"{name} {value!r}", mint.with_claims(**{name: value})
    issuer, audience = mint.claims["iss"], mint.claims["aud"]
    for iss in (
        *(
            f"{issuer}/",
            issuer.upper(),
            f"{issuer} ",
            f" {issuer}",
            issuer.replace("https", "http"),
        ),
        *("https://evil.example", f"{issuer}.evil.example", f"{issuer}\u0000", issuer[:-1], "oqim"),
    ):
        yield f"iss {iss!r}", mint.with_claims(iss=iss)
    for aud in (
        *("other", f"{audience} ", f" {audience}", audience.upper(), audience[:-1], f"{audience}s"),
        *(["other"], [audience, 1], [audience, None], [audience, [audience]], [audience, {}]),
        *([[audience]], {audience: audience}, f"{audience},other", f"{audience}\u0000", "*"),
    ):
        yield f"aud {aud!r}", mint.with_claims(aud=aud)
    now_s = mint.now_s
    for name in ("iat", "exp", "nbf"):
        good = {"iat": now_s - 5, "exp": now_s + 300, "nbf": now_s - 5}[name]
        for text in (
            *(f'"{good}"', f"{good}.5", f"{good}.0", f"{good}e0", f"{good // 10}e1", "1e400"),
            *("-1e3", str(2**63), str(2**64), str(2**200), "-0.1", "true", "null", f"[{good}]"),
        ):
            inner = json.dumps(_changed(mint.claims, {name: ...}))[1:-1]
            yield f"{name} as {text[:24]}", mint.raw_claims(f'{{{inner},"{name}":{text}}}')
    for what, changes in {
        "just ended": {"exp": now_s - 1, "iat": now_s - 300},
        "ended long ago": {"exp": 1_000, "iat": 900},
        "ended at zero": {"exp": 0},
        "ended before that": {"exp": -(2**62)},
        "ends before it begins": {"iat": now_s + 30, "exp": now_s + 20},
        "lives for nothing": {"iat": now_s + 30, "exp": now_s + 30},
        "lives too long": {"exp": now_s + 12 * 3_600 + 60},
        "lives for ever": {"exp": 2**62},
        "from the future": {"iat": now_s + 120, "exp": now_s + 300},
        "from the far future": {"iat": 2**40, "exp": 2**40 + 300},
        "not before the future": {"nbf": now_s + 120},
        "not before the far future": {"nbf": 2**62},
        "begun at zero": {"iat": 0},
        "begun before that": {"iat": -(2**62)},
    }.items():
        yield what, mint.with_claims(**changes)
    thumbprint = Signer("EdDSA").jkt
    for cnf in (
        *({"jkt": thumbprint}, {"jkt": thumbprint[:-1]}, {"jkt": ""}, {"jkt": None}, {}, [], ""),
        *({"jwk": Signer("EdDSA").jwk}, {"x5t#S256": thumbprint}, thumbprint, None, True),
        *({"jkt": thumbprint, "x5t#S256": thumbprint}, {"jkt": [thumbprint]}),
    ):
        yield f"cnf {cnf!r}", mint.with_claims(cnf=cnf)


def signatures(mint: Mint) -> Tokens:
    """RFC 8032, 5.1.7 and RFC 7518, 3.4: a signature is right in its one form."""
    good = mint.good()
    signed, _, text = good.rpartition(".")
    raw = base64.urlsafe_b64decode(text + "==")
    r, s = raw[:32], int.from_bytes(raw[32:], "little")
    forms = {
        "zeros": bytes(64),
        "nothing": b"",
        "half": raw[:32],
        "a byte less": raw[:63],
        "a byte more": raw + b"\x00",
        "twice": raw * 2,
        "reversed": raw[::-1],
        "halves exchanged": raw[32:] + raw[:32],
        "s and the order": r + (s + ORDER).to_bytes(32, "little"),
        "s and twice the order": r + ((s + 2 * ORDER) % 2**256).to_bytes(32, "little"),
        "the other s": r + (ORDER - s).to_bytes(32, "little"),
        "s of zero": r + bytes(32),
        "r of small order": b"\x01" + bytes(31) + raw[32:],
        "r of small order, s of zero": b"\x01" + bytes(63),
        "all ones": b"\xff" * 64,
    }
    ecdsa = ec.generate_private_key(ec.SECP256R1())
    der = ecdsa.sign(hashlib.sha256(signed.encode()).digest(), ec.ECDSA(Prehashed(hashes.SHA256())))
    forms["ECDSA in DER"] = der
    rsa_key = rsa.generate_private_key(65_537, 2_048)
    forms["as long as RSA's"] = bytes(rsa_key.key_size // 8)
    for what, form in forms.items():
        yield f"signature: {what}", f"{signed}.{base64url(form)}"
        named = mint.with_header(alg="ES256").rpartition(".")[0]
        yield f"ES256 signature: {what}", f"{named}.{base64url(form)}"
    for bit in range(0, 512, 16):
        spoilt = bytearray(raw)
        spoilt[bit // 8] ^= 1 << (bit % 8)
        yield f"signature with bit {bit} changed", f"{signed}.{base64url(bytes(spoilt))}"
    other = mint.with_claims(sub="usr_other").split(".")
    header, payload, _ = good.split(".")
    yield "another token's claims", f"{header}.{other[1]}.{text}"
    yield "another token's signature", f"{header}.{payload}.{other[2]}"


def forms(mint: Mint) -> Tokens:
    """RFC 7515, 3.1 and 5.2, RFC 4648, 3.5: three parts of canonical base64url, and two dots."""
    good = mint.good()
    header, payload, text = good.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes end in a character of which four bits say nothing.
    for more in (1, 2, 5, 15):
        last = alphabet[(alphabet.index(text[-1]) & ~15 | more) % 64]
        if last != text[-1]:
            yield f"not canonical by {more}", f"{header}.{payload}.{text[:-1]}{last}"
    yield from {
        "padded": f"{good}==",
        "padded once": f"{good}=",
        "padded parts": f"{header}=.{payload}=.{text}==",
        "no dots": good.replace(".", ""),
        "one dot": f"{header}.{payload}{text}",
        "a dot at the end": f"{good}.",
        "a dot at the start": f".{good}",
        "two dots together": f"{header}..{text}",
        "five parts": f"{good}.{payload}.{text}",
        "four parts": f"{good}.e30",
        "only dots": "..",
        "one dot alone": ".",
        "no header": f".{payload}.{text}",
        "no claims": f"{header}..{text}",
        "parts exchanged": f"{payload}.{header}.{text}",
        "in quotes": f'"{good}"',
        "in brackets": f"<{good}>",
        "a comma": f"{good},",
        "two tokens": f"{good},{good}",
        "two tokens and a space": f"{good} {good}",
        "the scheme twice": f"Bearer {good}",
        "the name of it": f"token={good}",
        "percent-encoded": good.replace(".", "%2E"),
        "a space in it": good[:50] + " " + good[50:],
        "a tab in it": good[:50] + "\t" + good[50:],
        "base64 of it": base64.b64encode(good.encode()).decode(),
        "JSON": json.dumps({"payload": payload, "protected": header, "signature": text}),
        "standard alphabet": "+/" + good[2:],
        "a tilde": good[:-1] + "~",
        "not ASCII": good[:-1] + "é",
        "a NUL, as text": good + "%00",
        "a small o with a slash": good.replace(".", "ø"),
        "null": "null",
        "undefined": "undefined",
        "a refresh token": "ort_" + "A" * 43,
        "a uuid": "123e4567-e89b-12d3-a456-426614174000",
        "x": "x",
        "over 4 KiB": mint.with_claims(more="x" * 3_500),
        "nearly 8 KiB": "A" * 7_900,
    }.items()
    for length in range(1, len(good), 40):
        yield f"cut after {length}", good[:length]


KINDS = [algorithms, foreign, headers, malformed, claims, signatures, forms]
LIMITS = "limits"
DOORS = (LIMITS, "quote")


async def ask(house: House, door: str, token: str) -> Reply | None:
    """Ask at a door of a route that the server authorizes, or of one that the core does."""
    if door == LIMITS:
        card = house.user(0)["cards"]["humo"]
        head, body = f"GET /v1/limits?card={card} HTTP/1.1", b""
    else:
        head = "POST /v1/payments/quote HTTP/1.1"
        body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
    lines = [
        head,
        "Host: oqim",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Idempotency-Key: {new_key()}",
    ]
    sent = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
    return await house.send(sent, within_s=5.0)


@pytest.fixture(scope="module")
def mint(forger: Forger) -> Mint:
    return Mint(forger)


@pytest.mark.parametrize("kind", KINDS, ids=[one.__name__ for one in KINDS])
@pytest.mark.parametrize("door", DOORS)
async def test_a_hostile_token_is_refused(house: House, mint: Mint, kind: Any, door: str) -> None:
    """401 with a problem and a challenge, nothing of the token in it; afterwards a good one is."""
    wrong = {}
    tokens = list(kind(mint))
    for what, token in tokens:
        reply = await ask(house, door, token)
        assert reply is not None, what
        if (reply.status, reply.code) != (401, "invalid-token"):
            wrong[what] = (reply.status, reply.raw[:200])
            continue
        assert "bearer" in reply.headers["www-authenticate"].lower(), what
        assert len(token) < 20 or token.encode("latin-1", "replace") not in reply.raw, what
    assert wrong == {}
    assert len(tokens) == len({what for what, _ in tokens}), "each has a name of its own"
    control = await ask(house, door, mint.good())
    assert control is not None
    assert control.status == 200, control.raw


def test_there_are_hundreds(mint: Mint) -> None:
    """And no two alike."""
    tokens = [token for kind in KINDS for _, token in kind(mint)]
    assert len(tokens) > 600
    assert mint.good() not in tokens


@pytest.mark.parametrize("door", DOORS)
async def test_good_tokens_may_be_written_in_several_ways(
    house: House, mint: Mint, door: str
) -> None:
    """RFC 9068, 4 and RFC 7519, 4.1.3: what must not be refused, lest the table proves nothing."""
    audience = mint.claims["aud"]
    for token in (
        mint.good(),
        mint.with_header(typ="AT+JWT"),
        mint.with_header(typ="application/at+jwt"),
        mint.with_claims(aud=[audience]),
        mint.with_claims(aud=["other", audience]),
        mint.with_claims(nbf=mint.now_s - 5),
        mint.with_claims(iat=mint.now_s + 30),
        mint.with_claims(more={"a": [1, None, True]}),
        mint.raw_claims(f" {json.dumps(mint.claims)}\n"),
    ):
        reply = await ask(house, door, token)
        assert reply is not None
        assert reply.status == 200, reply.raw


@pytest.mark.parametrize("door", DOORS)
async def test_a_token_larger_than_a_header_is_another_problem(house: House, door: str) -> None:
    """RFC 6585, 5: 431, before anything of it is read."""
    for size in (8_300, 20_000, 60_000):
        reply = await ask(house, door, "A" * size)
        assert reply is not None
        assert (reply.status, reply.code) == (431, "header-too-large"), size


@pytest.mark.parametrize("door", DOORS)
async def test_a_revoked_token_is_refused(house: House, mint: Mint, door: str) -> None:
    """RFC 7009, 2: at once, and nothing else of the same session."""
    token, other = (mint.with_claims(jti=new_key()) for _ in range(2))
    reply = await ask(house, door, token)
    assert reply is not None
    assert reply.status == 200
    assert (await house.call("POST", "/oauth/revoke", data={"token": token})).status == 200
    for one, status in ((token, 401), (other, 200)):
        reply = await ask(house, door, one)
        assert reply is not None
        assert reply.status == status
