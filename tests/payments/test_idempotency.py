"""One key, one payment: the same bytes for the same request, whoever answers and however often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house
from tests.payments.books import (
    SCHEMES,
    entries,
    fresh_amount,
    hold,
    paid,
    payments_count,
    post,
    read,
)

CAP = 1_000_000
LIMITS = f"""
[[limit_policies]]
id = "card-year"
version = 1
priority = 100
subject = "card"
window = {{ kind = "calendar", unit = "year" }}
max_amount = {CAP}
currency = "UZS"
"""


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[House]:
    """A house whose processors may be taken away, under a small limit."""
    # A refused connection opens the breaker; it closes again soon enough to be waited for.
    changes = {"timeout_ms = 10000": "timeout_ms = 3000\nbreaker_open_ms = 300"}
    with changed_config(limits={"": LIMITS}, connectors=changes) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def is_replayed(reply: Reply) -> bool:
    """Whether an answer says that it was given before."""
    return reply.headers.get("idempotent-replayed") == "true"


def assert_same(first: Reply, again: Reply) -> None:
    """`again` is `first`, byte for byte, and says so."""
    assert (first.status, first.raw) == (again.status, again.raw)
    assert is_replayed(again), again.headers
    assert first.headers.get("location") == again.headers.get("location")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_key_answers_the_same_bytes(house: House, scheme: str) -> None:
    """A repeat is answered from what was stored, however the JSON is written."""
    amount = fresh_amount()
    body = house.purchase(20, scheme, amount)
    key = new_key()
    first = await house.pay(20, body, key=key)
    assert first.status == 201, first.raw
    assert not is_replayed(first)
    assert_same(first, await house.pay(20, body, key=key))
    turned = json.dumps(dict(reversed(body.items())), indent=3).encode()
    token = house.user(20)["access_token"]
    rewritten = await house.call(
        "POST",
        "/v1/payments",
        data=turned,
        token=token,
        key=key,
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert_same(first, rewritten)
    sent = [one for one in await house.ledger(scheme) if one["amount"] == amount]
    assert len(sent) == 1, sent


@pytest.mark.fault(rows=[4], what="another body under a key")
async def test_a_key_is_for_one_request(house: House) -> None:
    """Another body under the key is refused, and the first answer stays."""
    key = new_key()
    body = house.purchase(20, "uzcard", fresh_amount())
    first = await house.pay(20, body, key=key)
    before = await payments_count(house)
    for change in ({"amount": 1}, {"description": "other"}, {"capture": "manual"}):
        reply = await house.pay(20, body | change, key=key)
        assert (reply.status, reply.code) == (422, "idempotency-key-reused"), reply.raw
        assert not is_replayed(reply)
    assert await payments_count(house) == before
    assert_same(first, await house.pay(20, body, key=key))


@pytest.mark.fault(rows=[3], what="64 copies")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_64_copies_at_once_are_one_payment(house: House, scheme: str) -> None:
    """One is sent; the others wait, or are told the same bytes, then and for ever after."""
    amount = fresh_amount()
    body = house.purchase(21, scheme, amount)
    key = new_key()
    async with house.fault(scheme, kind="delay", count=2, seconds=0.3):
        replies = await asyncio.gather(*(house.pay(21, body, key=key) for _ in range(64)))
    answered = [one for one in replies if one.status == 201]
    waiting = [one for one in replies if one.status == 409]
    assert len(answered) + len(waiting) == 64, [one.status for one in replies]
    assert answered, "the first is answered"
    assert waiting, "while the first runs, the others are told to wait"
    assert {one.code for one in waiting} == {"idempotency-in-progress"}
    assert all(int(one.headers["retry-after"]) >= 1 for one in waiting), "they say when"
    assert len({one.raw for one in answered}) == 1
    assert sum(not is_replayed(one) for one in answered) == 1
    later = await asyncio.gather(*(house.pay(21, body, key=key) for _ in range(64)))
    assert {one.raw for one in later} == {answered[0].raw}
    assert all(is_replayed(one) for one in later)
    sent = [one for one in await house.ledger(scheme) if one["amount"] == amount]
    assert len(sent) == 1, sent
    opened = await house.rows("SELECT count(*) FROM payments WHERE amount_minor = $1", amount)
    assert opened[0][0] == 1


async def test_a_key_means_the_same_to_every_worker(house: House) -> None:
    """Copies on 30 connections of their own reach both workers; one payment comes of them."""
    body = json.dumps(house.purchase(22, "humo", fresh_amount())).encode()
    key = new_key()
    first = await _sent(house, 22, body, [f"Idempotency-Key: {key}"])
    assert first.status == 201, first.raw
    for _ in range(30):
        assert_same(first, await _sent(house, 22, body, [f"Idempotency-Key: {key}"]))


async def test_quoted_and_bare_are_one_key(house: House) -> None:
    """`"k"` (RFC 8941) and `k` name the same request."""
    body = json.dumps(house.purchase(22, "uzcard", fresh_amount())).encode()
    key = new_key()
    first = await _sent(house, 22, body, [f'Idempotency-Key: "{key}"'])
    assert first.status == 201, first.raw
    assert_same(first, await _sent(house, 22, body, [f"Idempotency-Key: {key}"]))


@pytest.mark.parametrize(
    ("lines", "slug"),
    [
        ([], "idempotency-key-missing"),
        (["Idempotency-Key:"], "idempotency-key-invalid"),
        (['Idempotency-Key: ""'], "idempotency-key-invalid"),
        (["Idempotency-Key: " + "k" * 256], "idempotency-key-invalid"),
        (['Idempotency-Key: "open'], "idempotency-key-invalid"),
        (['Idempotency-Key: shut"'], "idempotency-key-invalid"),
        (["Idempotency-Key: a\tb"], "idempotency-key-invalid"),
        (["Idempotency-Key: kl\u00fc\u00e9"], "idempotency-key-invalid"),
        (["Idempotency-Key: one", "Idempotency-Key: two"], "idempotency-key-invalid"),
        (["Idempotency-Key: one", "idempotency-key: one"], "idempotency-key-invalid"),
    ],
    ids=[
        "missing",
        "empty",
        "quoted-empty",
        "256",
        "open-quote",
        "shut-quote",
        "control",
        "not-ascii",
        "two",
        "the-same-twice",
    ],
)
@pytest.mark.parametrize("action", [False, True], ids=["pay", "refund"])
async def test_a_key_must_be_usable(
    house: House, lines: list[str], slug: str, action: bool
) -> None:
    """400 with the reason; nothing is opened."""
    before = await payments_count(house)
    path, body = "/v1/payments", json.dumps(house.purchase(22, "uzcard", 1000)).encode()
    if action:
        path, body = "/v1/payments/pay_01M80B0BSGEVZR4CC6BJBYBDHN/refunds", b'{"amount": 1}'
    reply = await _sent(house, 22, body, lines, path)
    assert (reply.status, reply.code) == (400, slug), reply.raw
    assert await payments_count(house) == before


async def test_255_characters_are_a_key(house: House) -> None:
    """The longest key, and every printable character."""
    printable = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\')
    key = (new_key() + printable * 3)[:255]
    body = json.dumps(house.purchase(22, "uzcard", fresh_amount())).encode()
    first = await _sent(house, 22, body, [f"Idempotency-Key: {key}"])
    assert first.status == 201, first.raw
    assert_same(first, await _sent(house, 22, body, [f'Idempotency-Key: "{key}"']))


async def test_another_users_key_is_another_key(house: House) -> None:
    """The same key of two users: two payments, and neither is told the other's answer."""
    key = new_key()
    one = await house.pay(23, house.purchase(23, "humo", fresh_amount()), key=key)
    two = await house.pay(24, house.purchase(24, "humo", fresh_amount()), key=key)
    assert (one.status, two.status) == (201, 201), two.raw
    assert one.body["id"] != two.body["id"]
    assert not is_replayed(two)


async def test_a_key_belongs_to_its_route(house: House) -> None:
    """The same key may be used for a payment and for its refund."""
    key = new_key()
    payment = await house.pay(23, house.purchase(23, "uzcard", fresh_amount()), key=key)
    path = f"/v1/payments/{payment.body['id']}/refunds"
    refund = await post(house, 23, path, {"amount": 5}, key=key)
    assert refund.status == 201, refund.raw
    assert not is_replayed(refund)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["capture", "cancel", "refunds"])
async def test_an_action_is_done_once_a_key(house: House, scheme: str, kind: str) -> None:
    """16 copies at once of a capture, a cancel or a refund: one is done, all answer the same."""
    amount = fresh_amount()
    make = paid if kind == "refunds" else hold
    payment = await make(house, 25, scheme, amount)
    path = f"/v1/payments/{payment['id']}/{kind}"
    body: Any = None if kind == "cancel" else {"amount": 400_000}
    key = new_key()
    replies = await asyncio.gather(*(post(house, 25, path, body, key=key) for _ in range(16)))
    done = [one for one in replies if one.status < 300]
    waiting = [one.code for one in replies if one.status >= 300]
    assert set(waiting) <= {"idempotency-in-progress"}, waiting
    assert sum(not is_replayed(one) for one in done) == 1, [one.status for one in replies]
    first = next(one for one in done if not is_replayed(one))
    assert_same(first, await post(house, 25, path, body, key=key))
    if kind != "cancel":
        other = await post(house, 25, path, {"amount": 1}, key=key)
        assert (other.status, other.code) == (422, "idempotency-key-reused"), other.raw
    (entry,) = await entries(house, payment)
    shown = await read(house, 25, payment["id"])
    if kind == "capture":
        assert (entry["state"], entry["captured_amount"]) == ("captured", 400_000), entry
    elif kind == "cancel":
        assert entry["state"] == "released", entry
    else:
        assert (entry["refunded_amount"], shown["amount_refunded"]) == (400_000, 400_000), entry
    rows = await house.rows("SELECT id FROM actions WHERE payment_id = $1", payment["id"])
    assert len(rows) == 1, "one action was claimed"


# What is told of a payment is written by the same rule whenever it is asked: also its text.
TOLD = {
    "description": "Choy, \u201cqora\u201d \u2014 \u0427\u043e\u0439 \U0001f375",
    "metadata": {"b": '"quoted" \\ / ', "a": "\u00e9\u00a0", "": "1e400"},
}
AFTERWARDS: dict[str, list[tuple[str, Any]]] = {
    "capture": [("capture", {"amount": 400_000}), ("refunds", {"amount": 1_000})],
    "cancel": [("cancel", None)],
    "refunds": [("refunds", {"amount": 1_000}), ("refunds", {"amount": 2_000})],
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", sorted(AFTERWARDS))
async def test_a_payments_first_answer_outlives_what_changes_it(
    house: House, scheme: str, kind: str
) -> None:
    """A repeat is answered as the first was, before an action, while it runs, and after each."""
    capture = {} if kind == "refunds" else {"capture": "manual"}
    body = house.purchase(26, scheme, fresh_amount()) | TOLD | capture
    key = new_key()
    first = await house.pay(26, body, key=key)
    assert first.status == 201, first.raw
    assert {name: first.body[name] for name in TOLD} == TOLD
    assert_same(first, await house.pay(26, body, key=key))
    told = first.body
    for action, given in AFTERWARDS[kind]:
        path = f"/v1/payments/{first.body['id']}/{action}"
        done, *again = await asyncio.gather(
            post(house, 26, path, given), *(house.pay(26, body, key=key) for _ in range(8))
        )
        assert done.status < 300, done.raw
        for one in [*again, await house.pay(26, body, key=key)]:
            assert_same(first, one)
        before, told = told, await read(house, 26, first.body["id"])
        assert told != before, "the payment is told as it is now"


async def test_a_replay_comes_before_a_limit(own: House) -> None:
    """The stored 201 is answered though the limit is used up since."""
    key = new_key()
    body = own.purchase(0, "uzcard", CAP)
    first = await own.pay(0, body, key=key)
    assert first.status == 201, first.raw
    refused = await own.pay(0, body)
    assert refused.code == "limit-exceeded", refused.raw
    assert_same(first, await own.pay(0, body, key=key))


async def test_a_refused_key_may_be_used_again(own: House) -> None:
    """A refusal opens nothing, so that its key is free for the same request or another."""
    key = new_key()
    refused = await own.pay(1, own.purchase(1, "humo", CAP + 1), key=key)
    assert refused.code == "limit-exceeded", refused.raw
    again = await own.pay(1, own.purchase(1, "humo", CAP), key=key)
    assert (again.status, is_replayed(again)) == (201, False), again.raw


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_key_is_free_again_when_nothing_was_sent(own: House, scheme: str) -> None:
    """503 while nobody listens at the processor: the same key pays once it is back."""
    key = new_key()
    body = own.purchase(2, scheme, CAP)
    async with own.without_processors():
        reply = await own.pay(2, body, key=key)
        assert (reply.status, reply.code) == (503, "processor-unavailable"), reply.raw
        assert int(reply.headers["retry-after"]) >= 1
        second = await own.pay(2, body, key=key)
        assert (second.status, second.code) == (503, "processor-unavailable"), second.raw
    again = await own.pay(2, body, key=key)
    assert (again.status, again.body["status"]) == (201, "succeeded"), again.raw
    assert not is_replayed(again)
    assert len(await entries(own, again.body)) == 1
    rows = await own.rows(
        "SELECT status FROM payments WHERE source_card_id = $1 ORDER BY id",
        own.user(2)["cards"][scheme],
    )
    assert [row["status"] for row in rows] == ["failed", "failed", "succeeded"]


async def _sent(
    house: House, user: int, body: bytes, lines: list[str], path: str = "/v1/payments"
) -> Reply:
    """Send a request whose header lines are as given, on a connection of its own."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: oqim",
        f"Authorization: Bearer {house.user(user)['access_token']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    reply = await house.send("\r\n".join([*head, "", ""]).encode() + body)
    assert reply is not None, "the gateway closed without an answer"
    return reply
