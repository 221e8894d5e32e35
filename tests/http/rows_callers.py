"""Rows of who may not ask: without a token, with a forged one, of another, from another page."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.house import House, Reply, new_key
from tests.http.doors import JSON_DOORS, UNKNOWN, call, good, post_bytes
from tests.http.forging import Forger, ask, encoded, forger_of
from tests.http.rows import Everything, Row, Send

DOORS = ["list", "pay", "quote"]
NOW = int(time.time())
FORGED: dict[str, Callable[[Forger], str]] = {
    "43 expired": lambda one: one.token({"iat": NOW - 600, "exp": NOW - 1}),
    "43 without an end": lambda one: one.token({"exp": None}),
    "43 an end that is text": lambda one: one.token({"exp": str(NOW + 600)}),
    "43 an end that is a fraction": lambda one: one.token({"exp": NOW + 600.5}),
    "44 issued in the future": lambda one: one.token({"iat": NOW + 3_600, "exp": NOW + 7_200}),
    "44 not before the future": lambda one: one.token({"nbf": NOW + 3_600}),
    "45 alg none, unsigned": lambda one: (
        f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{encoded(one.claims)}."
    ),
    "45 alg none": lambda one: one.token(header={"alg": "none"}),
    "45 alg nOnE": lambda one: one.token(header={"alg": "nOnE"}),
    "45 alg absent": lambda one: one.token(header={"alg": ""}),
    "46 HS256 with the public key": lambda one: hs256(one),
    "47 jku": lambda one: one.token(header={"jku": "https://example.com/jwks.json"}),
    "47 x5u": lambda one: one.token(header={"x5u": "https://example.com/cert"}),
    "47 a key of its own": lambda one: stranger(one, with_jwk=True),
    "47 signed by a stranger": lambda one: stranger(one, with_jwk=False),
    "47 kid of a path": lambda one: one.token(header={"kid": "../../" + one.kid}),
    "47 kid of SQL": lambda one: one.token(header={"kid": "' OR 1=1 --"}),
    "47 crit": lambda one: one.token(header={"crit": ["exp"]}),
    "48 another audience": lambda one: one.token({"aud": "other-api"}),
    "48 no audience": lambda one: one.token({"aud": None}),
    "48 another issuer": lambda one: one.token({"iss": "https://example.com"}),
    "48 an ID token": lambda one: one.token(header={"typ": "JWT"}),
    "49 a signature of zeros": lambda one: spoilt(one, encoded(bytes(64))),
    "49 no signature": lambda one: spoilt(one, ""),
    "49 half a signature": lambda one: spoilt(one, encoded(bytes(32))),
    "49 padded": lambda one: one.token() + "==",
    "49 an extra dot": lambda one: one.token() + ".",
    "49 an extra part": lambda one: one.token() + ".e30",
    "49 no dots": lambda one: one.token().replace(".", ""),
    "49 other claims": lambda one: swapped(one),
    "51 over 4 KiB": lambda one: one.token({"scope": " ".join(["payments:write"] * 250)}),
}


def hs256(forger: Forger) -> str:
    head = {"alg": "HS256", "typ": "at+jwt", "kid": forger.kid}
    signed = f"{encoded(head)}.{encoded(forger.claims)}"
    mac = hmac.new(forger.public, signed.encode(), hashlib.sha256)
    return f"{signed}.{encoded(mac.digest())}"


def stranger(forger: Forger, *, with_jwk: bool) -> str:
    key = Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encoded(key.public_key().public_bytes_raw())}
    return forger.token(header={"jwk": jwk} if with_jwk else {}, key=key)


def spoilt(forger: Forger, signature: str) -> str:
    return forger.token().rpartition(".")[0] + "." + signature


def swapped(forger: Forger) -> str:
    head, _, signature = forger.token().split(".")
    return f"{head}.{encoded(forger.claims | {'scope': 'admin:rules:approve'})}.{signature}"


AUTHORIZATIONS: list[tuple[int, list[bytes], int, str]] = [
    (40, [], 401, "unauthenticated"),
    (41, [b"Basic b3FpbTpzYW5kYm94"], 401, "invalid-token"),
    (41, [b"Bearer"], 401, "invalid-token"),
    (41, [b"Bearer "], 401, "invalid-token"),
    (41, [b"Token abc"], 401, "invalid-token"),
    (41, [b"Bearer a b"], 401, "invalid-token"),
    (41, [b""], 401, "invalid-token"),
    (41, [b"Bearer \xff\xfe"], 401, "invalid-token"),
    (42, [b"Bearer abc", b"Bearer abc"], 400, "invalid-request"),
    (51, [b"Bearer " + b"a" * 9_000], 431, "header-too-large"),
]


FOREIGN = ["https://evil.example", "null"]


def _forged(door: str, make: Callable[[Forger], str]) -> Send:
    async def send(house: House, books: Everything) -> Reply | None:
        token = make(await forger_of(house))
        reply = await ask(house, door, b"Authorization: Bearer " + token.encode())
        assert reply is not None
        assert token.encode() not in reply.raw, "the token came back"
        return reply

    return send


def _authorized(door: str, values: list[bytes]) -> Send:
    async def send(house: House, books: Everything) -> Reply | None:
        return await ask(house, door, *(b"Authorization: " + value for value in values))

    return send


async def _in_the_query(house: House, books: Everything) -> Reply:
    """What stands in a URL stands in logs (RFC 9700, 4.3.2)."""
    token = house.user(0)["access_token"]
    reply = await call(house, "GET", f"/v1/payments?access_token={token}", token=token)
    assert token.encode() not in reply.raw
    return reply


async def _narrowed(house: House, books: Everything) -> Reply:
    """A merchant's token that may only read."""
    form = {
        "grant_type": "client_credentials",
        "client_id": house.merchant["client_id"],
        "client_secret": house.merchant["client_secret"],
        "scope": "payments:read",
    }
    token = (await call(house, "POST", "/oauth/token", data=form)).body["access_token"]
    return await call(house, "GET", "/v1/cards", token=token)


def _payout(house: House) -> dict[str, object]:
    return {
        "operation": "payout",
        "amount": 10_000,
        "currency": "UZS",
        "destination": {"card": house.user(1)["cards"]["humo"]},
    }


async def _customer_pays_out(house: House, books: Everything) -> Reply:
    token = house.user(0)["access_token"]
    return await call(house, "POST", "/v1/payments", _payout(house), token=token, key=new_key())


async def _operator_pays(house: House, books: Everything) -> Reply:
    token = house.description["operators"][0]["access_token"]
    body = house.purchase(0, "humo", 10_000)
    return await call(house, "POST", "/v1/payments", body, token=token, key=new_key())


def _anothers(method: str, path: str) -> Send:
    """Return a request of the first user about a card of the second."""

    async def send(house: House, books: Everything) -> Reply:
        card, token = house.user(1)["cards"]["humo"], house.user(0)["access_token"]
        return await call(house, method, path.format(card=card), token=token)

    return send


async def _pay_from_anothers(house: House, books: Everything) -> Reply:
    body = house.purchase(1, "humo", 10_000)
    return await post_bytes(house, "/v1/payments", json.dumps(body).encode())


def _from_page(origin: str, door: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        text = json.dumps(good(house, door)).encode()
        return await post_bytes(house, JSON_DOORS[door], text, headers={"Origin": origin})

    return send


def _operator_from_page(origin: str) -> Send:
    """A page that would have an operator's browser end somebody's session."""

    async def send(house: House, books: Everything) -> Reply:
        return await call(
            house,
            "POST",
            "/admin/v1/revocations",
            {"kind": "sid", "value": f"ses_{UNKNOWN}"},
            token=house.description["operators"][0]["access_token"],
            headers={"Origin": origin},
        )

    return send


def rows() -> Iterator[Row]:
    """Return the rows of callers."""
    for door in DOORS:
        for what, make in FORGED.items():
            number = int(what.split()[0])
            yield Row(number, f"{what}, at {door}", _forged(door, make), 401, "invalid-token")
        for number, values, status, slug in AUTHORIZATIONS:
            send = _authorized(door, values)
            yield Row(number, f"{str(values)[:40]}, at {door}", send, status, slug)
    yield Row(41, "in the query", _in_the_query, 400, "invalid-query")
    yield Row(53, "a narrowed token", _narrowed, 403, "insufficient-scope")
    yield Row(53, "a customer pays out", _customer_pays_out, 403, "insufficient-scope")
    yield Row(53, "an operator pays", _operator_pays, 403, "insufficient-scope")
    for method, path in (
        ("GET", "/v1/cards/{card}"),
        ("DELETE", "/v1/cards/{card}"),
        ("GET", "/v1/limits?card={card}"),
    ):
        send = _anothers(method, path)
        yield Row(30, f"{method} {path} of another", send, 404, "not-found")
    yield Row(30, "paid from another's", _pay_from_anothers, 404, "not-found")
    for origin in FOREIGN:
        for door in JSON_DOORS:
            send = _from_page(origin, door)
            yield Row(96, f"{origin}, at {door}", send, 403, "origin-not-allowed")
        send = _operator_from_page(origin)
        yield Row(96, f"{origin}, at revocations", send, 403, "origin-not-allowed")
