"""Reports of the processors beside what was paid: everything matches, and every difference is told.

The simulators keep ledgers of their own and write their reports from them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house
from tests.payments.books import fresh_amount, hold, paid, pan, post

SCHEMES = ("uzcard", "humo", "visa")
CONNECTORS = {
    "timeout_ms = 10000": "timeout_ms = 600\nbreaker_failures_max = 1000",
    'terminal_id = "OQIM0001"': (
        'terminal_id = "OQIM0001"\ntimeout_ms = 600\nbreaker_failures_max = 1000'
    ),
}


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house of its own: its processors' days are this module's."""
    with changed_config(connectors=CONNECTORS) as environment:
        async with running_house(environment=environment) as house:
            yield house


def today() -> date:
    """The business day that goes on."""
    return (datetime.now(UTC) + timedelta(hours=5)).date()


async def admin(
    house: House, method: str, path: str, body: Any = None, *, operator: int = 0
) -> Reply:
    """Make an operator's request."""
    token = house.description["operators"][operator]["access_token"]
    return await house.call(method, f"/admin/v1{path}", body, token=token)


async def fetched(house: House, scheme: str, day: date | None = None) -> dict[str, Any]:
    """Have a day's report fetched; returns it as it stands."""
    body = {"connector": scheme, "business_day": str(day or today())}
    reply = await admin(house, "POST", "/reconciliation/imports", body)
    assert reply.status in (200, 201), reply.raw
    shown: dict[str, Any] = reply.body
    return shown


async def breaks(house: House, **query: str) -> list[dict[str, Any]]:
    """Return breaks, oldest first."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    reply = await admin(house, "GET", f"/reconciliation/breaks?limit=100&{text}")
    assert reply.status == 200, reply.raw
    found: list[dict[str, Any]] = reply.body["data"]
    return found


async def paid_out(house: House, user: int, scheme: str) -> None:
    """Pay a card from the merchant; it must succeed."""
    body = {
        "operation": "payout",
        "amount": fresh_amount(),
        "currency": "UZS",
        "destination": {"pan": pan(scheme, user)},
    }
    token = await house.merchant_token()
    reply = await house.call("POST", "/v1/payments", body, token=token, key=new_key())
    assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw


async def test_a_day_of_every_kind_of_payment_matches_to_the_last_line(house: House) -> None:
    """Purchases, captures, refunds, transfers, payouts: no break, and settlements that are even."""
    transfers = 0
    for scheme in SCHEMES:
        await paid(house, 0, scheme, fresh_amount())
        held = await hold(house, 1, scheme, fresh_amount(5_000_000))
        part = {"amount": 3_000_017}
        captured = await post(house, 1, f"/v1/payments/{held['id']}/capture", part)
        assert captured.status == 200, captured.raw
        held = await hold(house, 2, scheme, fresh_amount())
        canceled = await post(house, 2, f"/v1/payments/{held['id']}/cancel")
        assert canceled.status == 200, canceled.raw
        for amount in (None, 200_000):
            payment = await paid(house, 3, scheme, fresh_amount())
            body = {} if amount is None else {"amount": amount}
            refunded = await post(house, 3, f"/v1/payments/{payment['id']}/refunds", body)
            assert refunded.status == 201, refunded.raw
            assert refunded.body["status"] == "succeeded", refunded.raw
        for user, other in enumerate(SCHEMES, start=4):
            transfer = house.transfer(user, scheme, 9, other, fresh_amount(5_000_000))
            reply = await house.pay(user, transfer)
            if reply.code == "unsupported-operation":
                continue
            assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
            transfers += 1
        await paid_out(house, 10, scheme)
    assert transfers >= 5
    for scheme in SCHEMES:
        shown = await fetched(house, scheme)
        found = await breaks(house, connector=scheme)
        assert found == [], json.dumps(found, indent=1)
        assert shown["lines"] == shown["matched"] >= 7, shown
        assert shown["breaks"] == {}
        assert len(shown["settlement_entries"]) == 1
        entry = await admin(house, "GET", f"/ledger/entries/{shown['settlement_entries'][0]}")
        postings = {one["account"]: one["amount"] for one in entry.body["postings"]}
        (sums,) = shown["sums"]
        assert postings[f"processor:{scheme}"] == -sums["net"]
        assert sum(postings.values()) == 0
        if scheme == "visa":
            assert postings["processor-fee:visa"] == sums["fees"] > 0
    shown = (await admin(house, "GET", "/ledger/trial-balance")).body
    assert all(total["debit"] == total["credit"] for total in shown["totals"])
    assert all(one["kind"] for one in shown["accounts"]), shown["accounts"]
    for scheme in SCHEMES:
        # All that a processor owed us is to be settled: its account is even.
        balances = {one["account"]: one["balance"] for one in shown["accounts"]}
        assert balances[f"processor:{scheme}"] == 0, scheme
