"""Limits are never exceeded, by any interleaving on two workers, and are given back exactly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house
from tests.payments.books import (
    SCHEMES,
    entries,
    headroom,
    hold,
    paid,
    payments_count,
    post,
)

CARD_CAP = 1_000_000
MERCHANT_CAP = 40_000_000
# A year ends more seldom than a day: no test meets the end of its window.
LIMITS = f"""
[[limit_policies]]
id = "card-year"
version = 1
priority = 100
subject = "card"
match = {{ operation = ["purchase"] }}
window = {{ kind = "calendar", unit = "year" }}
max_amount = {CARD_CAP}
currency = "UZS"

[[limit_policies]]
id = "merchant-year"
version = 1
priority = 90
subject = "merchant"
match = {{ operation = ["purchase"] }}
window = {{ kind = "calendar", unit = "year" }}
max_amount = {MERCHANT_CAP}
currency = "UZS"

[[limit_policies]]
id = "three-transfers"
version = 1
priority = 80
subject = "user"
match = {{ operation = ["transfer"] }}
window = {{ kind = "calendar", unit = "year" }}
max_count = 3
currency = "UZS"

[[limit_policies]]
id = "one-transfer"
version = 1
priority = 70
subject = "platform"
match = {{ operation = ["transfer"] }}
window = {{ kind = "operation" }}
min_amount = 5000
max_amount = 900000
currency = "UZS"
"""


# A connection a request, so that both workers answer.
ALONE = {"Connection": "close"}


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[House]:
    """Two workers under small caps."""
    with changed_config(limits={"": LIMITS}) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def by_answer(replies: Iterable[Reply]) -> Counter[Any]:
    """Count answers by status, and problem or payment status."""
    return Counter((one.status, one.code or one.body["status"]) for one in replies)


async def charged(house: House, scheme: str, amount: int) -> int:
    """Return how many purchases of an amount a processor holds."""
    return sum(one["amount"] == amount for one in await house.ledger(scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_exactly_the_allowed_amount_passes(small: House, scheme: str) -> None:
    """Of 100 payments at once on one card, as many pass as fit, at the processor too."""
    amount = 30_011
    fit = CARD_CAP // amount
    replies = await asyncio.gather(
        *(small.pay(0, small.purchase(0, scheme, amount)) for _ in range(100))
    )
    assert by_answer(replies) == {(201, "succeeded"): fit, (422, "limit-exceeded"): 100 - fit}
    assert await charged(small, scheme, amount) == fit
    room = await headroom(small, 0, scheme, "card-year")
    assert (room["used_amount"], room["remaining_amount"]) == (
        fit * amount,
        CARD_CAP - fit * amount,
    ), room
    last = await small.pay(0, small.purchase(0, scheme, CARD_CAP - fit * amount))
    assert (last.status, last.body["status"]) == (201, "succeeded"), "what is left may be used"
    over = await small.pay(0, small.purchase(0, scheme, 1))
    assert over.code == "limit-exceeded", over.raw


@pytest.mark.fault(rows=[52], what="payments raced for the last headroom")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_headroom_for_one_lets_one_pass(small: House, scheme: str) -> None:
    """100 payments at once against headroom for one: exactly one."""
    replies = await asyncio.gather(
        *(small.pay(1, small.purchase(1, scheme, CARD_CAP)) for _ in range(100))
    )
    assert by_answer(replies) == {(201, "succeeded"): 1, (422, "limit-exceeded"): 99}
    (winner,) = [one for one in replies if one.status == 201]
    (entry,) = await entries(small, winner.body)
    mine = [
        one
        for one in await small.ledger(scheme)
        if one["pan_last4"] == entry["pan_last4"] and one["kind"] == "purchase"
    ]
    assert [one["amount"] for one in mine] == [CARD_CAP], "one was sent"


async def test_a_count_is_shared_by_a_users_cards(small: House) -> None:
    """Three transfers a user, whichever of the cards they are made from."""
    bodies = [
        small.transfer(2, scheme, 3, scheme, 10_000 + number)
        for number in range(10)
        for scheme in SCHEMES
    ]
    replies = await asyncio.gather(*(small.pay(2, body) for body in bodies))
    assert by_answer(replies) == {(201, "succeeded"): 3, (422, "limit-exceeded"): 27}
    room = await headroom(small, 2, "humo", "three-transfers", "transfer")
    assert (room["used_count"], room["remaining_count"]) == (3, 0), room


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_decline_gives_headroom_back(small: House, scheme: str) -> None:
    """What the processor declined is not counted."""
    before = await headroom(small, 4, scheme, "card-year")
    async with small.fault(scheme, kind="decline", count=1):
        reply = await small.pay(4, small.purchase(4, scheme, CARD_CAP))
    assert (reply.status, reply.body["status"]) == (201, "failed"), reply.raw
    assert await headroom(small, 4, scheme, "card-year") == before
    again = await small.pay(4, small.purchase(4, scheme, CARD_CAP))
    assert again.body["status"] == "succeeded", again.raw


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_cancel_gives_headroom_back(small: House, scheme: str) -> None:
    """A hold counts from the moment it is asked for until it is canceled."""
    payment = await hold(small, 5, scheme, CARD_CAP)
    room = await headroom(small, 5, scheme, "card-year")
    assert room["remaining_amount"] == 0, room
    refused = await small.pay(5, small.purchase(5, scheme, 1))
    assert refused.code == "limit-exceeded", refused.raw
    reply = await post(small, 5, f"/v1/payments/{payment['id']}/cancel")
    assert reply.status == 200, reply.raw
    room = await headroom(small, 5, scheme, "card-year")
    assert (room["used_amount"], room["remaining_amount"]) == (0, CARD_CAP), room
    await paid(small, 5, scheme, CARD_CAP)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_partial_capture_gives_the_rest_back(small: House, scheme: str) -> None:
    """Hold 123 000, capture 100 000: 23 000 return, and no refund returns any."""
    payment = await hold(small, 6, scheme, 123_000)
    room = await headroom(small, 6, scheme, "card-year")
    assert room["used_amount"] == 123_000, room
    path = f"/v1/payments/{payment['id']}"
    reply = await post(small, 6, f"{path}/capture", {"amount": 100_000})
    assert reply.status == 200, reply.raw
    room = await headroom(small, 6, scheme, "card-year")
    assert room["used_amount"] == 100_000, room
    reply = await post(small, 6, f"{path}/refunds")
    assert reply.status == 201, reply.raw
    room = await headroom(small, 6, scheme, "card-year")
    assert room["used_amount"] == 100_000, "a refund gives no headroom back"


async def test_a_refusal_says_why_and_does_nothing(small: House) -> None:
    """A problem that names the policy and shows nobody's data; no payment, nothing sent."""
    payments, sent = await payments_count(small), len(await small.ledger("uzcard"))
    reply = await small.pay(7, small.purchase(7, "uzcard", CARD_CAP + 1))
    assert reply.status == 422
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.body
    assert {name: body[name] for name in ("type", "status", "code", "retryable")} == {
        "type": "/problems/limit-exceeded",
        "status": 422,
        "code": "limit-exceeded",
        "retryable": False,
    }
    assert reply.headers["x-request-id"] == body["request_id"]
    assert "card-year" in body["detail"], body
    assert small.user(7)["cards"]["uzcard"] not in reply.raw.decode(), "the card is not echoed"
    assert await payments_count(small) == payments
    assert len(await small.ledger("uzcard")) == sent
    room = await headroom(small, 7, "uzcard", "card-year")
    assert room["used_amount"] == 0, "a refusal takes nothing"


@pytest.mark.parametrize("amount", [4_999, 900_001])
async def test_one_payment_has_bounds(small: House, amount: int) -> None:
    """The window of one operation refuses too little as it does too much."""
    reply = await small.pay(8, small.transfer(8, "humo", 9, "humo", amount))
    assert (reply.status, reply.code) == (422, "limit-exceeded"), reply.raw
    assert "one-transfer" in reply.body["detail"], reply.raw


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_worker_shows_the_same_headroom(small: House, scheme: str) -> None:
    """What one worker took and gave back is what the other shows."""

    async def rooms() -> set[int]:
        card, token = small.user(9)["cards"][scheme], small.user(9)["access_token"]
        found = set()
        for _ in range(12):
            reply = await small.call("GET", f"/v1/limits?card={card}", token=token, headers=ALONE)
            (room,) = [one for one in reply.body["limits"] if one["policy"] == "card-year"]
            found.add(room["remaining_amount"])
        return found

    assert await rooms() == {CARD_CAP}
    payment = await hold(small, 9, scheme, CARD_CAP)
    assert await rooms() == {0}, "a hold is seen by every worker"
    reply = await post(small, 9, f"/v1/payments/{payment['id']}/cancel")
    assert reply.status == 200, reply.raw
    assert await rooms() == {CARD_CAP}, "what was given back is seen by every worker"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_worker_refuses_what_was_given_back(small: House, scheme: str) -> None:
    """After every worker has refused by a hold, its cancel lets payments pass at every worker."""

    async def pay(amount: int) -> Reply:
        token = small.user(8)["access_token"]
        body = small.purchase(8, scheme, amount)
        return await small.call(
            "POST", "/v1/payments", body, token=token, key=new_key(), headers=ALONE
        )

    payment = await hold(small, 8, scheme, CARD_CAP)
    refused = [await pay(1) for _ in range(12)]
    assert by_answer(refused) == {(422, "limit-exceeded"): 12}
    reply = await post(small, 8, f"/v1/payments/{payment['id']}/cancel")
    assert reply.status == 200, reply.raw
    answers = [await pay(1) for _ in range(12)]
    assert by_answer(answers) == {(201, "succeeded"): 12}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_two_workers_share_one_card(small: House, scheme: str) -> None:
    """What both workers let pass at once on one card is counted together."""
    token = small.user(3)["access_token"]
    replies = await asyncio.gather(
        *(
            small.call(
                "POST",
                "/v1/payments",
                small.purchase(3, scheme, 10_000 + number),
                token=token,
                key=new_key(),
                headers=ALONE,
            )
            for number in range(40)
        )
    )
    assert by_answer(replies) == {(201, "succeeded"): 40}
    ids = [one.body["id"] for one in replies]
    rows = await small.rows(
        "SELECT DISTINCT worker FROM attempts WHERE payment_id = ANY($1::text[])", ids
    )
    assert len(rows) == 2, "both workers took payments on the one card"
    left = CARD_CAP - sum(range(10_000, 10_040))
    over = await small.pay(3, small.purchase(3, scheme, left + 1))
    assert over.code == "limit-exceeded", over.raw
    await paid(small, 3, scheme, left)


async def test_a_merchant_shared_by_all_is_never_over(small: House) -> None:
    """40 customers pay one merchant at once: its cap is used exactly as far as payments fit."""
    rows = await small.rows(
        """
        SELECT COALESCE(sum(CASE WHEN status = 'succeeded' THEN amount_received
                                 ELSE amount_capturable END), 0)::bigint
        FROM payments WHERE operation = 'purchase' AND status IN ('succeeded', 'requires_capture')
        """
    )
    used = rows[0][0]
    amount = 499_999
    fit = (MERCHANT_CAP - used) // amount
    wanted = [(user, scheme) for user in range(10, 50) for scheme in SCHEMES]
    assert 0 < fit < len(wanted), "the cap is met within this test"
    replies = await asyncio.gather(
        *(small.pay(user, small.purchase(user, scheme, amount)) for user, scheme in wanted)
    )
    assert by_answer(replies) == {
        (201, "succeeded"): fit,
        (422, "limit-exceeded"): len(wanted) - fit,
    }
    sent = sum([await charged(small, scheme, amount) for scheme in SCHEMES])
    assert sent == fit, "the processors hold as many"
