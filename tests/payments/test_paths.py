"""Every scheme and operation that is routed: the API, the ledger, the processor, to the tiyin."""

from __future__ import annotations

from typing import Any

import pytest

from tests.house import House, new_key
from tests.payments.books import (
    CHARGED,
    SCHEMES,
    attempts_of,
    charge,
    entries,
    entries_of,
    events,
    expected_postings,
    fresh_amount,
    hold,
    paid,
    pan,
    payments_count,
    post,
    postings,
    read,
)

LOCAL_ROUTES = [
    ("uzcard", "uzcard", "uzcard"),
    ("uzcard", "humo", "uzcard"),
    ("humo", "uzcard", "uzcard"),
    ("humo", "humo", "humo"),
]


def assert_shown(payment: dict[str, Any], /, **expected: Any) -> None:
    """The payment shows each of `expected`."""
    shown = {name: payment[name] for name in expected}
    assert expected == shown, payment


def assert_charged(payment: dict[str, Any], operation: str, source: str | None, amount: int) -> Any:
    """Commission and totals are what the plan makes of the amount; returns the charge."""
    asked = charge(operation, source, amount)
    assert {
        "total": asked.total,
        "payer": asked.payer,
        "plan": asked.plan,
        "version": 1,
    } == payment["commission"], payment
    assert_shown(payment, total_debit=asked.debit(amount), total_credit=asked.credit(amount))
    return asked


def brief(entry: dict[str, Any]) -> tuple[str, int, str]:
    """What was moved, how much, and where it stands."""
    return entry["kind"], entry["amount"], entry["state"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_purchase_is_charged_once_and_posted(house: House, scheme: str) -> None:
    """One attempt, captured; the merchant is credited what the acquiring commission leaves."""
    amount = fresh_amount()
    before = len(await house.ledger(scheme))
    payment = await paid(house, 1, scheme, amount)
    asked = assert_charged(payment, "purchase", scheme, amount)
    assert_shown(
        payment,
        status="succeeded",
        amount=amount,
        amount_received=amount,
        amount_capturable=0,
        amount_refunded=0,
        scheme=scheme,
        capture="automatic",
        decline=None,
    )
    (attempt,) = payment["attempts"]
    assert ("captured", scheme, "reply") == (
        attempt["state"],
        attempt["connector"],
        attempt["outcome_source"],
    )
    (entry,) = await entries(house, payment)
    assert ("purchase", amount, "approved") == brief(entry), entry
    assert entry["refunded_amount"] == 0, entry
    assert attempt["rrn"] == entry["rrn"], "the API's rrn is the processor's"
    assert before + 1 == len(await house.ledger(scheme)), "one entry was added, no more"
    expected = expected_postings(
        f"processor:{scheme}", f"merchant:{house.merchant['id']}", asked, amount
    )
    assert expected == await postings(house, payment["id"])
    assert await events(house, payment["id"]) == ["payment.succeeded"]
    assert payment == await read(house, 1, payment["id"]), "a read shows what was answered"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", [1, 0.4], ids=["full", "partial"])
async def test_a_hold_is_captured(house: House, scheme: str, part: float) -> None:
    """A hold posts nothing; its capture posts what was taken, with the commission of that."""
    amount = fresh_amount()
    taken = amount if part == 1 else 400_003
    payment = await hold(house, 2, scheme, amount)
    assert_charged(payment, "purchase", scheme, amount)
    assert_shown(payment, amount_capturable=amount, amount_received=0, capture="manual")
    (entry,) = await entries(house, payment)
    assert ("hold", amount, "approved") == brief(entry), entry
    assert not await postings(house, payment["id"]), "a hold moves nothing"

    body = {} if part == 1 else {"amount": taken}
    reply = await post(house, 2, f"/v1/payments/{payment['id']}/capture", body)
    assert reply.status == 200, reply.raw
    captured = reply.body
    assert_shown(
        captured,
        status="succeeded",
        amount=amount,
        amount_received=taken,
        amount_capturable=0,
    )
    assert captured["attempts"][0]["state"] == "captured"
    asked = assert_charged(captured, "purchase", scheme, taken)
    (entry,) = await entries(house, payment)
    assert ("hold", amount, "captured") == brief(entry), entry
    assert taken == entry["captured_amount"], entry

    rows = await house.rows("SELECT id, state FROM actions WHERE payment_id = $1", payment["id"])
    (action,) = rows
    assert action["state"] == "succeeded"
    expected = expected_postings(
        f"processor:{scheme}", f"merchant:{house.merchant['id']}", asked, taken
    )
    assert expected == await postings(house, action["id"])
    assert await events(house, payment["id"]) == ["payment.requires_capture", "payment.succeeded"]
    assert captured == await read(house, 2, payment["id"])


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_hold_is_canceled(house: House, scheme: str) -> None:
    """A canceled hold is released at the processor and leaves no posting."""
    amount = fresh_amount()
    payment = await hold(house, 3, scheme, amount)
    reply = await post(house, 3, f"/v1/payments/{payment['id']}/cancel")
    assert reply.status == 200, reply.raw
    assert_shown(reply.body, status="canceled", amount_capturable=0, amount_received=0)
    assert reply.body["attempts"][0]["state"] == "voided"
    (entry,) = await entries(house, payment)
    assert ("hold", amount, "released") == brief(entry), entry
    rows = await house.rows("SELECT id FROM actions WHERE payment_id = $1", payment["id"])
    for entry_id in (payment["id"], rows[0]["id"]):
        assert not await postings(house, entry_id), "nothing was moved"
    assert await events(house, payment["id"]) == ["payment.requires_capture", "payment.canceled"]


@pytest.mark.parametrize("capture", ["automatic", "manual"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_purchase_is_refunded_in_parts(house: House, scheme: str, capture: str) -> None:
    """Two parts, then what is left; the status stays, the processor's entry ends refunded."""
    amount = fresh_amount()
    if capture == "automatic":
        payment = await paid(house, 4, scheme, amount)
    else:
        payment = await hold(house, 4, scheme, amount + 5)
        reply = await post(house, 4, f"/v1/payments/{payment['id']}/capture", {"amount": amount})
        assert reply.status == 200, reply.raw
    path = f"/v1/payments/{payment['id']}/refunds"
    given_back = 0
    for part in (300_001, 200_002, None):
        reply = await post(house, 4, path, {"amount": part} if part else {"reason": "the rest"})
        expected = part or amount - given_back
        assert reply.status == 201, reply.raw
        assert_shown(
            reply.body, status="succeeded", amount=expected, payment=payment["id"], decline=None
        )
        given_back += expected
        (entry,) = await entries(house, payment)
        assert given_back == entry["refunded_amount"], entry
        lines = await postings(house, reply.body["id"])
        assert {
            f"merchant:{house.merchant['id']}": expected,
            f"processor:{scheme}": -expected,
        } == dict(lines)
        shown = await read(house, 4, payment["id"])
        assert_shown(shown, status="succeeded", amount_refunded=given_back, amount_received=amount)
    assert entry["state"] == "refunded", entry
    token = house.user(4)["access_token"]
    listed = await house.call("GET", path, token=token)
    assert [300_001, 200_002, amount - 500_003] == [one["amount"] for one in listed.body["data"]]
    again = await post(house, 4, path, {"amount": 1})
    assert (again.status, again.code) == (422, "refund-exceeds-captured"), again.raw
    types = await events(house, payment["id"])
    assert types.count("refund.succeeded") == 3, types


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_purchase_is_refunded_whole(house: House, scheme: str) -> None:
    """A refund without an amount gives everything back, in one message."""
    amount = fresh_amount()
    payment = await paid(house, 5, scheme, amount)
    reply = await post(house, 5, f"/v1/payments/{payment['id']}/refunds")
    assert reply.status == 201, reply.raw
    assert_shown(reply.body, status="succeeded", amount=amount)
    (entry,) = await entries(house, payment)
    assert (amount, "refunded") == (entry["refunded_amount"], entry["state"]), entry


@pytest.mark.parametrize("base", [3_000_000, 1_500_000_000], ids=["percent", "at-most"])
@pytest.mark.parametrize(("source", "destination", "connector"), LOCAL_ROUTES)
async def test_a_transfer_inside_one_processor(
    house: House, source: str, destination: str, connector: str, base: int
) -> None:
    """The sender pays amount and commission, the receiver gets the amount, under one reference."""
    amount = fresh_amount(base)
    reply = await house.pay(6, house.transfer(6, source, 7, destination, amount))
    assert reply.status == 201, reply.raw
    payment = reply.body
    asked = assert_charged(payment, "transfer", source, amount)
    assert_shown(payment, status="succeeded", amount_received=amount, scheme=source)
    (attempt,) = payment["attempts"]
    assert ("authorized", connector) == (attempt["state"], attempt["connector"])
    debit, credit = await entries(house, payment)
    assert ("debit", amount + asked.total, "approved") == brief(debit), debit
    assert ("credit", amount, "approved") == brief(credit), credit
    account = f"processor:{connector}"
    expected = expected_postings(account, account, asked, amount)
    assert expected == await postings(house, payment["id"])
    assert await events(house, payment["id"]) == ["payment.succeeded"]


@pytest.mark.parametrize("base", [3_000_000, 30_000_000], ids=["at-least", "percent"])
async def test_a_visa_transfer_has_two_legs(house: House, base: int) -> None:
    """An account funding transaction of amount and commission, then an original credit."""
    amount = fresh_amount(base)
    reply = await house.pay(8, house.transfer(8, "visa", 9, "visa", amount))
    assert reply.status == 201, reply.raw
    payment = reply.body
    asked = assert_charged(payment, "transfer", "visa", amount)
    assert_shown(payment, status="succeeded", amount_received=amount)
    first, second = (await attempts_of(house, payment["id"]))[payment["id"]]
    assert [one["state"] for one in payment["attempts"]] == ["authorized", "authorized"]
    (debit,) = await entries_of(house, first, 0)
    (credit,) = await entries_of(house, second, 0)
    assert ("debit", amount + asked.total, "approved") == brief(debit), debit
    assert ("credit", amount, "approved") == brief(credit), credit
    expected = expected_postings("processor:visa", "processor:visa", asked, amount)
    assert expected == await postings(house, payment["id"])


async def test_a_declined_second_leg_gives_the_first_back(house: House) -> None:
    """The account funding is reversed when the credit is declined; nothing is posted."""
    amount = fresh_amount(3_000_000)
    number = {"pan": pan("visa", 9)}
    await house.simulator("POST", "visa", "/_sim/cards", number | {"status": "blocked"})
    try:
        reply = await house.pay(8, house.transfer(8, "visa", 9, "visa", amount))
    finally:
        await house.simulator("POST", "visa", "/_sim/cards", number | {"status": "active"})
    assert reply.status == 201, reply.raw
    payment = reply.body
    assert_shown(payment, status="failed", amount_received=0)
    assert payment["decline"]["code"] == "card_blocked", payment
    first, second = payment["attempts"]
    assert (first["state"], second["state"]) == ("reversed", "declined"), payment
    debit, credit = await entries(house, payment)
    assert (debit["kind"], debit["state"]) == ("debit", "reversed"), debit
    assert (credit["kind"], credit["state"]) == ("credit", "declined"), credit
    assert not await postings(house, payment["id"])
    assert await events(house, payment["id"]) == ["payment.failed"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_transfer_to_a_number(house: House, scheme: str) -> None:
    """A destination given by its number is credited, and its number is shown nowhere."""
    amount = fresh_amount(3_000_000)
    number = pan(scheme, 11)
    body = house.transfer(10, scheme, 10, scheme, amount) | {"destination": {"pan": number}}
    reply = await house.pay(10, body)
    assert reply.status == 201, reply.raw
    assert reply.body["status"] == "succeeded", reply.raw
    assert {"last4": number[-4:]} == reply.body["destination"]
    assert number.encode() not in reply.raw, "the number comes back"
    credit = (await entries(house, reply.body))[-1]
    assert ("credit", amount, "approved") == brief(credit), credit
    assert number[-4:] == credit["pan_last4"], credit
    rows = await house.rows("SELECT * FROM payments WHERE id = $1", reply.body["id"])
    assert number not in str(rows), "the number is kept in clear"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_payout_by_the_merchant(house: House, scheme: str) -> None:
    """The merchant's money goes to a card; the bank carries the commission."""
    amount = fresh_amount()
    token = await house.merchant_token()
    body = {
        "operation": "payout",
        "amount": amount,
        "currency": "UZS",
        "destination": {"card": house.user(12)["cards"][scheme]},
    }
    reply = await house.call("POST", "/v1/payments", body, token=token, key=new_key())
    assert reply.status == 201, reply.raw
    payment = reply.body
    asked = assert_charged(payment, "payout", None, amount)
    assert asked.payer == "bank"
    assert_shown(payment, status="succeeded", amount_received=amount, scheme=scheme, source=None)
    (entry,) = await entries(house, payment)
    assert ("credit", amount, "approved") == brief(entry), entry
    expected = expected_postings(
        f"merchant:{house.merchant['id']}", f"processor:{scheme}", asked, amount
    )
    assert expected == await postings(house, payment["id"])
    assert await events(house, payment["id"]) == ["payment.succeeded"]


async def test_a_customer_cannot_pay_out(house: House) -> None:
    """A payout needs a merchant's own scope."""
    body = house.transfer(12, "uzcard", 13, "uzcard", fresh_amount()) | {"operation": "payout"}
    del body["source"]
    before = await payments_count(house)
    reply = await house.pay(12, body)
    assert (reply.status, reply.code) == (403, "insufficient-scope"), reply.raw
    assert before == await payments_count(house)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_decline_is_an_answer(house: House, scheme: str) -> None:
    """A processor's decline is 201 with a failed payment, its reason, and no posting."""
    amount = fresh_amount()
    async with house.fault(scheme, kind="decline", count=1):
        reply = await house.pay(13, house.purchase(13, scheme, amount))
    assert reply.status == 201, reply.raw
    assert_shown(reply.body, status="failed", amount_received=0)
    assert reply.body["decline"]["code"] == "insufficient_funds", reply.raw
    assert {"code", "message", "advice"} == set(reply.body["decline"])
    assert all(one["state"] not in CHARGED for one in await entries(house, reply.body))
    assert not await postings(house, reply.body["id"])
    assert await events(house, reply.body["id"]) == ["payment.failed"]


async def test_a_quoted_payment_costs_what_was_quoted(house: House) -> None:
    """A quote promises the totals; the payment made with it is charged exactly those."""
    amount = fresh_amount(3_000_000)
    body = house.transfer(14, "humo", 15, "humo", amount)
    quote = await post(house, 14, "/v1/payments/quote", body)
    assert quote.status == 200, quote.raw
    asked = charge("transfer", "humo", amount)
    assert (asked.debit(amount), asked.credit(amount)) == (
        quote.body["total_debit"],
        quote.body["total_credit"],
    ), quote.raw
    assert asked.total == quote.body["commission"]["total"], quote.raw
    reply = await house.pay(14, body | {"quote_id": quote.body["quote_id"]})
    assert reply.status == 201, reply.raw
    assert_shown(reply.body, status="succeeded", total_debit=quote.body["total_debit"])
    other = await house.pay(14, body | {"quote_id": quote.body["quote_id"], "amount": amount + 100})
    assert (other.status, other.code) == (422, "quote-invalid"), other.raw
