"""Refunds never exceed what was captured, and a hold ends once, however they are raced."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, running_house
from tests.payments.books import (
    SCHEMES,
    entries,
    fresh_amount,
    hold,
    paid,
    post,
    postings,
    read,
)

# The acquiring commission, with a least amount that a small capture cannot carry.
COMMISSION_AT_LEAST = {
    'name = "acquiring"\nkind = "percent"': 'name = "acquiring"\nmin = 50000\nkind = "percent"'
}


def by_answer(replies: Iterable[Reply]) -> Counter[Any]:
    """Count answers by status, and problem or payment status."""
    return Counter((one.status, one.code or one.body["status"]) for one in replies)


async def assert_refunded(house: House, user: int, payment_id: str, amount: int) -> None:
    """The API, the processor and the postings agree on what was given back."""
    shown = await read(house, user, payment_id)
    assert (shown["status"], shown["amount_refunded"]) == ("succeeded", amount), shown
    (entry,) = await entries(house, shown)
    assert entry["refunded_amount"] == amount, entry
    rows = await house.rows(
        "SELECT id FROM actions WHERE payment_id = $1 AND kind = 'refund' AND state = 'succeeded'",
        payment_id,
    )
    merchant = f"merchant:{house.merchant['id']}"
    posted = sum([(await postings(house, row["id"]))[merchant] for row in rows])
    assert posted == amount, "what the postings took from the merchant"


@pytest.mark.fault(rows=[53], what="50 refunds of everything")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_50_full_refunds_give_back_once(house: House, scheme: str) -> None:
    """One is done; the others are told that nothing is left."""
    amount = fresh_amount()
    payment = await paid(house, 30, scheme, amount)
    path = f"/v1/payments/{payment['id']}/refunds"
    replies = await asyncio.gather(*(post(house, 30, path, {"amount": amount}) for _ in range(50)))
    assert by_answer(replies) == {(201, "succeeded"): 1, (422, "refund-exceeds-captured"): 49}
    await assert_refunded(house, 30, payment["id"], amount)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_two_refunds_of_60_of_100(house: House, scheme: str) -> None:
    """One fits; the other would be more than was taken."""
    payment = await paid(house, 31, scheme, 1_000_000)
    path = f"/v1/payments/{payment['id']}/refunds"
    replies = await asyncio.gather(*(post(house, 31, path, {"amount": 600_000}) for _ in range(2)))
    assert by_answer(replies) == {(201, "succeeded"): 1, (422, "refund-exceeds-captured"): 1}
    await assert_refunded(house, 31, payment["id"], 600_000)


@pytest.mark.fault(rows=[53], what="parts raced")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_many_parts_never_exceed_what_was_captured(house: House, scheme: str) -> None:
    """Of 40 parts at once, of a hold captured in part, as many are done as fit."""
    captured, part = 700_001, 30_011
    payment = await hold(house, 32, scheme, fresh_amount())
    path = f"/v1/payments/{payment['id']}"
    reply = await post(house, 32, f"{path}/capture", {"amount": captured})
    assert reply.status == 200, reply.raw
    replies = await asyncio.gather(
        *(post(house, 32, f"{path}/refunds", {"amount": part}) for _ in range(40))
    )
    fit = captured // part
    assert by_answer(replies) == {
        (201, "succeeded"): fit,
        (422, "refund-exceeds-captured"): 40 - fit,
    }
    await assert_refunded(house, 32, payment["id"], fit * part)
    rest = await post(house, 32, f"{path}/refunds")
    assert rest.body["amount"] == captured - fit * part, rest.raw
    await assert_refunded(house, 32, payment["id"], captured)


@pytest.mark.fault(rows=[54], what="captures and cancels raced")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_captures_and_cancels_race_to_one_end(house: House, scheme: str) -> None:
    """Ten of each at once: one is done, and the processor has it so."""
    amount = fresh_amount()
    payment = await hold(house, 33, scheme, amount)
    path = f"/v1/payments/{payment['id']}"
    replies = await asyncio.gather(
        *(
            post(house, 33, f"{path}/{kind}", {"amount": 500_000} if kind == "capture" else None)
            for kind in ("capture", "cancel") * 10
        )
    )
    ends = [one for one in replies if one.status == 200]
    assert len(ends) == 1, by_answer(replies)
    refused = {(one.status, one.code) for one in replies if one.status != 200}
    assert refused == {(409, "invalid-state")}, refused
    shown = await read(house, 33, payment["id"])
    assert shown == ends[0].body, "what was answered is what is"
    (entry,) = await entries(house, shown)
    if shown["status"] == "succeeded":
        assert (entry["state"], entry["captured_amount"]) == ("captured", 500_000), entry
    else:
        assert (shown["status"], entry["state"]) == ("canceled", "released"), entry


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_has_ended_stays_ended(house: House, scheme: str) -> None:
    """A second capture, a cancel after it, and a capture after a cancel: 409, and nothing moves."""
    captured = await hold(house, 34, scheme, fresh_amount())
    path = f"/v1/payments/{captured['id']}"
    assert (await post(house, 34, f"{path}/capture", {"amount": 600_000})).status == 200
    canceled = await hold(house, 34, scheme, fresh_amount())
    other = f"/v1/payments/{canceled['id']}"
    assert (await post(house, 34, f"{other}/cancel")).status == 200
    bought = await paid(house, 34, scheme, fresh_amount())
    third = f"/v1/payments/{bought['id']}"
    before = await house.ledger(scheme)
    for refused in (
        f"{path}/capture",
        f"{path}/cancel",
        f"{other}/capture",
        f"{other}/cancel",
        f"{other}/refunds",
        f"{third}/capture",
        f"{third}/cancel",
    ):
        reply = await post(house, 34, refused)
        assert (reply.status, reply.code) == (409, "invalid-state"), f"{refused}: {reply.raw!r}"
    assert await house.ledger(scheme) == before, "nothing moved"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_more_than_was_held_is_not_captured(house: House, scheme: str) -> None:
    """422, and the hold may still be captured."""
    amount = fresh_amount()
    payment = await hold(house, 35, scheme, amount)
    path = f"/v1/payments/{payment['id']}/capture"
    reply = await post(house, 35, path, {"amount": amount + 1})
    assert (reply.status, reply.code) == (422, "capture-exceeds-authorized"), reply.raw
    reply = await post(house, 35, path, {"amount": amount})
    assert reply.status == 200, reply.raw


async def test_a_declined_refund_may_be_asked_again(house: House) -> None:
    """What the processor refused to give back is left to refund."""
    amount = fresh_amount()
    payment = await paid(house, 36, "visa", amount)
    path = f"/v1/payments/{payment['id']}/refunds"
    async with house.fault("visa", kind="decline", count=1, code="05", method="refund"):
        declined = await post(house, 36, path)
    assert (declined.status, declined.body["status"]) == (201, "failed"), declined.raw
    assert declined.body["decline"]["code"] == "do_not_honor", declined.raw
    await assert_refunded(house, 36, payment["id"], 0)
    again = await post(house, 36, path)
    assert (again.status, again.body["status"]) == (201, "succeeded"), again.raw
    await assert_refunded(house, 36, payment["id"], amount)


async def test_a_capture_too_small_for_its_commission_leaves_the_hold() -> None:
    """Refused before it is claimed, so that the hold may still end."""
    with changed_config(commissions=COMMISSION_AT_LEAST) as environment:
        async with running_house(environment=environment) as house:
            payment = await hold(house, 0, "humo", 1_000_000)
            path = f"/v1/payments/{payment['id']}"
            reply = await post(house, 0, f"{path}/capture", {"amount": 10})
            assert (reply.status, reply.code) == (422, "commission-exceeds-amount"), reply.raw
            reply = await post(house, 0, f"{path}/cancel")
            assert (reply.status, reply.body["status"]) == (200, "canceled"), reply.raw
