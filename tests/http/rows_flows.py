"""Rows for which something has to be there first: codes, payments, proposals, callbacks."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

from tests.house import House, Reply, new_key, until
from tests.http.doors import NOWHERE, call
from tests.http.forging import ask
from tests.http.logins import challenge, exchange, fresh_phone, other
from tests.http.rows import Everything, Row, Send
from tests.http.test_callbacks import BAD_HEADERS, BODY, UNKNOWN_ATTEMPT, deliver, event, signed
from tests.rulebook.office import POLICIES, Office, policy

_names = itertools.count(1)
# What asks for a code: row 33.
_STEP_UP = """
[[limit_policies]]
id = "careful"
priority = 300
subject = "user"
match = { operation = ["transfer"], scheme = ["uzcard"] }
window = { kind = "operation" }
max_amount = 1000000
currency = "UZS"
on_breach = "step_up"

"""
_ANCHOR = "# A customer known by phone alone."
LIMITS = {_ANCHOR: _STEP_UP + _ANCHOR}
URLS = [
    "http://shop.example.uz/hooks",
    "https://user:pass@shop.example.uz/",
    "https://shop.example.uz:22/",
    "https://127.1/",
    "https://[::ffff:127.0.0.1]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2130706433/",
    "https://localhost./",
    "https://д\u045eкон.uz/",  # noqa: RUF001  # an international name, as it is written
]

# Codes -------------------------------------------------------------------------------------------


async def _wrong_code(house: House, books: Everything) -> Reply:
    challenge_id, code = await challenge(house, fresh_phone())
    return await exchange(house, challenge_id, other(code))


async def _tries_over(house: House, books: Everything) -> Reply:
    """After three wrong ones the right one does not help any more."""
    challenge_id, code = await challenge(house, fresh_phone())
    for _ in range(3):
        assert (await exchange(house, challenge_id, other(code))).code == "otp-invalid"
    locked = await exchange(house, challenge_id, code)
    assert int(locked.headers["retry-after"]) > 60
    return locked


async def _code_of_another(house: House, books: Everything) -> Reply:
    """Two payments wait for codes; the first one's is given for the second."""
    token, phone = house.user(8)["access_token"], house.user(8)["phone"].replace("+", "%2B")
    body = house.transfer(8, "uzcard", 9, "uzcard", 1_500_000)
    first = await house.pay(8, body)
    assert first.body["status"] == "requires_action", first.raw
    sent = await call(house, "GET", f"/sandbox/v1/messages?to={phone}")
    second = (await house.pay(8, body)).body["id"]
    await books.open()
    path, code = f"/v1/payments/{second}/confirm", sent.body["data"][0]["code"]
    return await call(house, "POST", path, {"code": code}, token=token, key=new_key())


async def _code_used(house: House, books: Everything) -> Reply:
    challenge_id, code = await challenge(house, fresh_phone())
    assert (await exchange(house, challenge_id, code)).status == 200
    await books.open()
    return await exchange(house, challenge_id, code)


async def _revoked(house: House, books: Everything) -> Reply | None:
    """On many connections, so that each worker is asked."""
    logged_in = await exchange(house, *await challenge(house, fresh_phone()))
    token = logged_in.body["access_token"]
    line = b"Authorization: Bearer " + token.encode()
    seen = await ask(house, "list", line)
    assert seen is not None
    assert seen.status == 200, seen.raw
    assert (await call(house, "POST", "/oauth/revoke", data={"token": token})).status == 200
    await books.open()
    replies = await asyncio.gather(*(ask(house, door, line) for door in ["list", "pay"] * 8))
    assert {reply.status for reply in replies if reply is not None} == {401}
    return replies[-1]


# Keys --------------------------------------------------------------------------------------------


async def _key_reused(house: House, books: Everything) -> Reply:
    body, key = house.purchase(10, "humo", 1_000_000), new_key()
    assert (await house.pay(10, body, key=key)).status == 201
    await books.open()
    return await house.pay(10, body | {"amount": 1_000_001}, key=key)


async def _key_in_progress(house: House, books: Everything) -> Reply:
    body, key = house.purchase(11, "humo", 1_000_000), new_key()
    before = await house.rows("SELECT count(*) FROM payments")

    async def is_begun() -> bool:
        return await house.rows("SELECT count(*) FROM payments") != before

    async with house.fault("humo", kind="delay", count=1, seconds=3.0):
        first = asyncio.create_task(house.pay(11, body, key=key))
        await until(is_begun, within_s=5)
        again = await house.pay(11, body, key=key)
        assert not first.done(), "the first still runs"
        assert (await first).status == 201
    await books.open()
    return again


# Payments ----------------------------------------------------------------------------------------


async def _paid(house: House, user: int, **changes: Any) -> dict[str, Any]:
    reply = await house.pay(user, house.purchase(user, "humo", 1_000_000, **changes))
    assert reply.status == 201, reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def _act(house: House, user: int, payment: str, action: str, body: Any = None) -> Reply:
    path, token = f"/v1/payments/{payment}/{action}", house.user(user)["access_token"]
    return await call(house, "POST", path, body, token=token, key=new_key())


def _in_state(state: str, action: str, body: Any = None) -> Send:
    """Return an action on a payment that is paid, canceled, failed, or held."""

    async def send(house: House, books: Everything) -> Reply:
        capture = "manual" if state in ("canceled", "held") else "automatic"
        if state == "failed":
            async with house.fault("humo", kind="decline", count=1):
                payment = await _paid(house, 12)
            assert payment["status"] == "failed", payment
        else:
            payment = await _paid(house, 12, capture=capture)
        if state == "canceled":
            assert (await _act(house, 12, payment["id"], "cancel")).status == 200
        await books.open()
        return await _act(house, 12, payment["id"], action, body)

    return send


def _anothers(method: str, action: str) -> Send:
    """Return a request about another's payment: the very answer that an unknown one gets."""

    async def send(house: House, books: Everything) -> Reply:
        payment = await _paid(house, 13)
        await books.open()
        answers = []
        for name in (payment["id"], NOWHERE):
            reply = await call(
                house,
                method,
                f"/v1/payments/{name}{action}",
                token=house.user(14)["access_token"],
                key=new_key() if method == "POST" else None,
                headers={"X-Request-Id": "same"},
            )
            answers.append(reply)
        assert answers[0].raw == answers[1].raw, "it tells that there is one"
        return answers[0]

    return send


async def _over_a_limit(house: House, books: Everything) -> Reply:
    """It names the limit, and nobody else."""
    reply = await house.pay(0, house.purchase(0, "humo", 10**15))
    for user in range(1, 50):
        assert house.user(user)["id"] not in reply.raw.decode()
    return reply


def _cursor(change: str) -> Send:
    """Return a page asked for by a cursor of another list, filter or owner, or by a changed one."""

    async def send(house: House, books: Everything) -> Reply:
        for _ in range(2):
            await _paid(house, 15)
        token = house.user(15)["access_token"]
        page = await call(house, "GET", "/v1/payments?limit=1", token=token)
        cursor = page.body["next_cursor"]
        await books.open()
        changed = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
        path = {
            "changed": f"/v1/payments?limit=1&cursor={changed}",
            "filter": f"/v1/payments?limit=1&cursor={cursor}&status=failed",
            "list": f"/v1/cards?cursor={cursor}",
            "owner": f"/v1/payments?limit=1&cursor={cursor}",
        }[change]
        who = house.user(16)["access_token"] if change == "owner" else token
        return await call(house, "GET", path, token=who)

    return send


# Operators ---------------------------------------------------------------------------------------

_SHOP = "/admin/v1/clients/sandbox-shop/limits"


def _unread(headers: dict[str, str]) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        token = house.description["operators"][0]["access_token"]
        return await call(house, "PUT", _SHOP, {"burst": 9}, token=token, headers=headers)

    return send


async def _own_approval(house: House, books: Everything) -> Reply:
    office = Office(house)
    proposal = await office.propose(POLICIES, policy(f"own-{next(_names)}"))
    await books.open()
    return await office.decide(proposal, by=0)


async def _stale_approval(house: House, books: Everything) -> Reply:
    office, name = Office(house), f"raced-{next(_names)}"
    first = await office.propose(POLICIES, policy(name, max_amount=1))
    second = await office.propose(POLICIES, policy(name, max_amount=2))
    await office.approve(first)
    await books.open()
    return await office.decide(second)


async def _over_its_rate(house: House, books: Everything) -> Reply:
    """A merchant's server is held to a request a second; afterwards to nothing."""
    operator = house.description["operators"][0]["access_token"]
    token = await house.merchant_token()

    async def put(body: dict[str, Any]) -> None:
        etag = (await call(house, "GET", _SHOP, token=operator)).headers["etag"]
        reply = await call(house, "PUT", _SHOP, body, token=operator, headers={"If-Match": etag})
        assert reply.status == 200, reply.raw

    async def refused() -> Reply | None:
        reply = await call(house, "GET", "/v1/payments", token=token)
        return reply if reply.status != 200 else None

    await put({"rate_per_s": 1, "burst": 1})
    await books.open()
    try:
        reply: Reply = await until(refused, within_s=5)
        await books.assert_untouched()
    finally:
        await put({})
        await books.open()
    return reply


# Callbacks and webhooks --------------------------------------------------------------------------


def _called_back(change: dict[str, str | None]) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        said = signed(house, "uzcard", BODY) | change
        headers = {name: value for name, value in said.items() if value is not None}
        return await deliver(house, "uzcard", BODY, headers)

    return send


def _late(age_s: int) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        return await deliver(house, "uzcard", BODY, signed(house, "uzcard", BODY, age_s=age_s))

    return send


def _altered(body: bytes) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        return await deliver(house, "uzcard", body, signed(house, "uzcard", BODY))

    return send


async def _other_body(house: House, books: Everything) -> Reply:
    headers = signed(house, "uzcard", BODY)
    assert (await deliver(house, "uzcard", BODY, headers)).status == 200
    await books.open()
    changed = event(UNKNOWN_ATTEMPT, 101)
    again = signed(house, "uzcard", changed, name=headers["webhook-id"])
    return await deliver(house, "uzcard", changed, again)


def _hook(url: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        token = await house.merchant_token()
        reply = await call(house, "POST", "/v1/webhook-endpoints", {"url": url}, token=token)
        assert url not in reply.raw.decode()
        return reply

    return send


def rows() -> Iterator[Row]:
    """Return the rows of what must be there first."""

    def arranged(number: int, what: str, send: Send, status: int, slug: str) -> Row:
        return Row(number, what, send, status, slug, is_arranged=True)

    yield arranged(31, "a wrong code", _wrong_code, 422, "otp-invalid")
    # Three tries, as the central bank's rules ask, and not five.
    yield arranged(32, "a fourth try", _tries_over, 429, "otp-locked")
    yield arranged(33, "another payment's", _code_of_another, 422, "sca-binding-mismatch")
    yield arranged(34, "a code used twice", _code_used, 409, "otp-already-used")
    yield arranged(50, "everywhere", _revoked, 401, "invalid-token")
    yield arranged(38, "another amount", _key_reused, 422, "idempotency-key-reused")
    yield arranged(39, "the first runs", _key_in_progress, 409, "idempotency-in-progress")
    for method, action in (
        ("GET", ""),
        ("GET", "/refunds"),
        ("POST", "/refunds"),
        ("POST", "/capture"),
        ("POST", "/cancel"),
    ):
        send = _anothers(method, action)
        yield arranged(54, f"{method} {action}", send, 404, "not-found")
    for change in ("changed", "filter", "list", "owner"):
        yield arranged(71, f"a cursor: {change}", _cursor(change), 400, "invalid-cursor")
    yield Row(73, "no If-Match", _unread({}), 428, "precondition-required")
    stale = _unread({"If-Match": '"999999"'})
    yield Row(74, "an old If-Match", stale, 412, "precondition-failed")
    yield from _state_rows()
    yield Row(77, "over every limit", _over_a_limit, 422, "limit-exceeded", "/amount")
    yield arranged(78, "one's own proposal", _own_approval, 403, "four-eyes-required")
    yield arranged(79, "what another has changed", _stale_approval, 409, "proposal-stale")
    yield arranged(80, "over its rate", _over_its_rate, 429, "rate-limited")
    for number, headers, status, slug in BAD_HEADERS:
        yield Row(number, str(headers)[:60], _called_back(headers), status, slug)
    for age_s in (306, -306, 86_400):
        yield Row(84, f"{age_s} s old", _late(age_s), 401, "callback-timestamp-invalid")
    rewritten = json.dumps(json.loads(BODY), separators=(",", ":")).encode()
    for body in (BODY.replace(b"100", b"101"), BODY + b" ", rewritten, b"", b"\xff" + BODY):
        yield Row(86, str(body[:40]), _altered(body), 401, "callback-signature-invalid")
    yield arranged(88, "another body", _other_body, 409, "callback-conflict")
    for url in URLS:
        yield Row(95, url, _hook(url), 422, "url-not-allowed", "/url")


def _state_rows() -> Iterator[Row]:
    for state, action, body, number, status, slug in (
        ("paid", "capture", None, 75, 409, "invalid-state"),
        ("paid", "cancel", None, 75, 409, "invalid-state"),
        ("canceled", "capture", None, 75, 409, "invalid-state"),
        ("canceled", "cancel", None, 75, 409, "invalid-state"),
        ("canceled", "refunds", None, 75, 409, "invalid-state"),
        ("failed", "capture", None, 75, 409, "invalid-state"),
        ("failed", "cancel", None, 75, 409, "invalid-state"),
        ("failed", "refunds", None, 75, 409, "invalid-state"),
        ("held", "refunds", None, 75, 409, "invalid-state"),
        ("held", "capture", {"amount": 1_000_001}, 76, 422, "capture-exceeds-authorized"),
        ("paid", "refunds", {"amount": 1_000_001}, 76, 422, "refund-exceeds-captured"),
    ):
        send = _in_state(state, action, body)
        yield Row(number, f"{action}, {state}", send, status, slug, is_arranged=True)
