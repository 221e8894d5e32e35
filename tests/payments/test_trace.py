"""Why a payment was decided as it was, and commissions that go back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house

LIMITS = """
[[limit_policies]]
id = "single"
priority = 100
subject = "platform"
window = { kind = "operation" }
max_amount = 5000000
currency = "UZS"

[[limit_policies]]
id = "hour"
priority = 50
subject = "card"
match = { operation = ["purchase"] }
window = { kind = "rolling", seconds = 3600 }
max_amount = 6000000
currency = "UZS"
restore_on_refund = true

[[limit_policies]]
id = "careful"
priority = 40
subject = "user"
match = { operation = ["transfer"] }
window = { kind = "calendar", unit = "year" }
max_amount = 1000000
currency = "UZS"
on_breach = "step_up"
"""
PLANS = """
[[commission_plans]]
id = "divided"
priority = 100
match = { operation = ["purchase"] }
payer = "sender"
on_refund = "proportional"
split = [ { party = "bank", share = "70" }, { party = "agent", share = "30" } ]

[[commission_plans.components]]
name = "tiers"
kind = "tiered"
mode = "graduated"
tiers = [ { up_to = 1000000, percent = "2" }, { percent = "1", fixed = 333 } ]
vat_percent = "12"

[[commission_plans]]
id = "free"
priority = 100
match = { operation = ["transfer", "payout"] }
payer = "bank"
"""


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house with limits that bite, and a commission that is divided and goes back."""
    with changed_config(limits={"": LIMITS}, commissions={"": PLANS}) as environment:
        async with running_house(environment=environment) as house:
            yield house


async def trace(house: House, decision_id: str, token: str, query: str = "") -> Reply:
    """Ask why."""
    return await house.call("GET", f"/v1/payments/{decision_id}/trace{query}", token=token)


def steps(shown: Any, name: str) -> list[Any]:
    """The steps of one name."""
    return [step for step in shown["steps"] if step["step"] == name]


def operator(house: House) -> str:
    """An operator's token."""
    return str(house.description["operators"][0]["access_token"])


async def test_a_payment_is_traced_step_by_step(house: House) -> None:
    """Token, revocation, routing, commission with its lines, limits, attempts: in this order."""
    payment = (await house.pay(0, house.purchase(0, "visa", 1_500_000))).body
    shown = (await trace(house, payment["id"], operator(house))).body
    assert shown["view"] == "operator"
    assert [step["step"] for step in shown["steps"]] == [
        "token", "revocation", "routing", "commission", "commission_line", "commission_line",
        "limit", "limit", "attempt",
    ]  # fmt: skip
    line = steps(shown, "commission_line")[0]["detail"]
    # 2% of the first million, 1% of the half, and the second tier's fixed part.
    assert (line["exact"], line["amount"], line["plan"]) == ("25333", 25_333, "divided")
    assert steps(shown, "commission")[0]["detail"]["split"] == {"bank": 19_862, "agent": 8_511}
    hour = steps(shown, "limit")[1]["detail"]
    assert (hour["policy"], hour["used"], hour["asked"]) == ("hour", 0, 1_500_000)
    assert (hour["cap"], hour["is_breached"]) == (6_000_000, False)
    assert steps(shown, "attempt")[0]["outcome"] == "captured"


async def test_a_refusal_is_traced_by_its_id_and_says_what_would_pass(house: House) -> None:
    """The id is in the problem; every limit that fails is there, with what was counted."""
    assert (await house.pay(1, house.purchase(1, "visa", 4_000_000))).status == 201
    refused = await house.pay(1, house.purchase(1, "visa", 5_000_001))
    assert (refused.status, refused.code) == (422, "limit-exceeded")
    decision_id = refused.body["decision_id"]
    shown = (await trace(house, decision_id, operator(house))).body
    assert (shown["decision"], shown["code"]) == ("refuse", "limit-exceeded")
    single, hour = (step["detail"] for step in steps(shown, "limit"))
    assert (single["policy"], single["used"], single["cap"]) == ("single", 0, 5_000_000)
    assert (hour["policy"], hour["used"], hour["asked"]) == ("hour", 4_000_000, 5_000_001)
    assert hour["resets_at"] is not None
    by_request = await trace(house, refused.body["request_id"], operator(house))
    assert by_request.body == shown
    # Two millions are left of the hour; no moment helps, since the single one never grows.
    assert shown["nearest"]["amount"] == 2_000_000
    assert "at" not in shown["nearest"]
    assert (await house.pay(1, house.purchase(1, "visa", 2_000_000))).status == 201


async def test_a_customer_is_told_in_three_languages(house: House) -> None:
    """Sentences with amounts as each language writes them, and no inner figures."""
    refused = await house.pay(2, house.purchase(2, "visa", 5_000_001))
    token = house.user(2)["access_token"]
    shown = (await trace(house, refused.body["decision_id"], token)).body
    assert shown["view"] == "customer"
    assert all("detail" not in step for step in shown["steps"])
    text = shown["nearest"]["text"]
    assert text["en"] == "50,000.00 UZS would have passed."
    assert text["ru"] == "Сумма 50\xa0000,00 UZS прошла бы."
    assert set(text) == {"uz", "ru", "en"}
    for step in shown["steps"]:
        assert set(step["text"]) == {"uz", "ru", "en"}, step


async def test_a_merchant_sees_its_payment_and_not_the_customers_headroom(house: House) -> None:
    """Limits of the customer are named, without figures; another merchant's are not found."""
    payment = (await house.pay(3, house.purchase(3, "visa", 10_000))).body
    shown = (await trace(house, payment["id"], await house.merchant_token())).body
    assert shown["view"] == "merchant"
    for step in steps(shown, "limit"):
        assert set(step["detail"]) == {"policy", "subject", "window"}
    assert "split" not in steps(shown, "commission")[0]["detail"]


async def test_anothers_trace_is_not_found_and_a_view_is_not_chosen(house: House) -> None:
    """The same 404 as for an unknown one; only operators choose a view."""
    refused = await house.pay(4, house.purchase(4, "visa", 5_000_001))
    other = house.user(5)["access_token"]
    assert (await trace(house, refused.body["decision_id"], other)).status == 404
    assert (await trace(house, "dec_unknown", other)).status == 404
    own = house.user(4)["access_token"]
    wanted = await trace(house, refused.body["decision_id"], own, "?view=operator")
    assert (wanted.status, wanted.code) == (403, "insufficient-scope")
    seen = await trace(house, refused.body["decision_id"], operator(house), "?view=customer")
    assert seen.body["view"] == "customer"


async def test_what_is_refused_outright_asks_for_no_code(house: House) -> None:
    """What a limit refuses outright is refused, whatever else would ask for a code."""
    body = house.transfer(10, "uzcard", 11, "uzcard", 5_000_001)
    refused = await house.pay(10, body)
    assert (refused.status, refused.code) == (422, "limit-exceeded")
    assert len(refused.body["errors"]) == 2


# Commissions that are divided and go back ---------------------------------------------------------


async def balances(house: House, *entries: str) -> dict[str, int]:
    """What entries posted, by account."""
    found = await house.rows(
        "SELECT account, sum(amount_minor)::bigint AS sum FROM postings"
        " WHERE entry_id = ANY($1) GROUP BY 1",
        list(entries),
    )
    return {row["account"]: row["sum"] for row in found if row["sum"]}


async def test_refunds_give_the_commission_back_in_parts_that_add_up(house: House) -> None:
    """A third, a third and the rest: every account that the payment moved ends at zero."""
    payment = (await house.pay(12, house.purchase(12, "visa", 1_000_001))).body
    total = payment["commission"]["total"]
    posted = await balances(house, payment["id"])
    assert posted["partner:agent"] == -(total * 30 // 100) or posted["partner:agent"] < 0
    entries = [payment["id"]]
    token = house.user(12)["access_token"]
    returned = 0
    for amount in (333_333, 333_334, 333_334):
        reply = await house.call(
            "POST",
            f"/v1/payments/{payment['id']}/refunds",
            {"amount": amount},
            token=token,
            key=new_key(),
        )
        assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
        returned += reply.body["commission_returned"]
        entries.append(reply.body["id"])
    assert returned == total
    assert await balances(house, *entries) == {}
    (entry,) = [one for one in await house.ledger("visa") if one["amount"] == 1_000_001 + total]
    assert entry["refunded_amount"] == 1_000_001 + total


async def test_a_refund_restores_the_headroom_of_a_policy_that_says_so(house: House) -> None:
    """What is refunded may be spent again within the window."""
    token = house.user(13)["access_token"]
    payment = (await house.pay(13, house.purchase(13, "visa", 4_000_000))).body
    path = f"/v1/limits?card={house.user(13)['cards']['visa']}&operation=purchase"

    async def left() -> Any:
        reply = await house.call("GET", path, token=token)
        limits = {one["policy"]: one["remaining_amount"] for one in reply.body["limits"]}
        return limits["hour"]

    assert await left() == 2_000_000
    await house.call(
        "POST",
        f"/v1/payments/{payment['id']}/refunds",
        {"amount": 1_000_000},
        token=token,
        key=new_key(),
    )
    assert await left() == 3_000_000
