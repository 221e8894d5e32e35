"""What processors leave in doubt for too long: handed to two operators, headroom kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.payments.books import fresh_amount, headroom

CONNECTORS = {
    "timeout_ms = 10000": "timeout_ms = 400\nbreaker_failures_max = 1000",
    'terminal_id = "OQIM0001"': (
        'terminal_id = "OQIM0001"\ntimeout_ms = 400\nbreaker_failures_max = 1000'
    ),
}
SETTINGS = {
    "tries_max = 6": "tries_max = 2",
    "retry_first_s = 1.0": "retry_first_s = 0.1",
    "retry_last_s = 10.0": "retry_last_s = 0.2",
}


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house that asks operators early."""
    with changed_config(connectors=CONNECTORS, settings=SETTINGS) as environment:
        async with running_house(environment=environment) as house:
            yield house


async def admin(
    house: House, method: str, path: str, body: Any = None, *, operator: int = 0
) -> Reply:
    """Make an operator's request."""
    token = house.description["operators"][operator]["access_token"]
    return await house.call(method, f"/admin/v1{path}", body, token=token)


async def review_of(house: House, payment_id: str) -> Any:
    """The open review of a payment, once there is one."""

    async def found() -> Any:
        reviews = (await admin(house, "GET", "/reviews?limit=100")).body["data"]
        return next((one for one in reviews if one["payment"] == payment_id), None)

    return await until(found, within_s=20)


async def in_doubt(house: House, user: int) -> dict[str, Any]:
    """A VISA purchase whose answer, and every answer about it, is lost."""
    for message in ("0400", "0420", "0421"):
        fault = {"kind": "drop_request", "rate": 1.0, "method": message}
        await house.simulator("POST", "visa", "/_sim/faults", fault)
    reply = await house.pay(user, house.purchase(user, "visa", fresh_amount()))
    assert (reply.status, reply.body["status"]) == (202, "processing"), reply.raw
    body: dict[str, Any] = reply.body
    return body


@pytest.mark.fault(rows=[19], what="to operators after six tries")
async def test_what_nobody_acknowledges_goes_to_operators_and_keeps_its_headroom(
    house: House,
) -> None:
    """It is not failed by a timer; two operators settle it, and only then headroom returns."""
    before = (await headroom(house, 0, "visa", "card-day"))["remaining_amount"]
    async with house.fault("visa", kind="drop_request", rate=1.0):
        payment = await in_doubt(house, 0)
        review = await review_of(house, payment["id"])
        assert (review["kind"], review["status"]) == ("attempt", "open")
        doubt = (await admin(house, "GET", "/money-in-doubt")).body
        assert doubt["count"] >= 1
        assert doubt["sum"]["UZS"] >= payment["amount"]
        assert doubt["oldest_at"] is not None
        kept = (await headroom(house, 0, "visa", "card-day"))["remaining_amount"]
        assert before - kept == payment["amount"], "the headroom is kept"
        path = f"/reviews/{review['id']}"
        early = await admin(house, "POST", f"{path}/approve")
        assert (early.status, early.code) == (409, "invalid-state")
        wrong = await admin(
            house, "POST", f"{path}/proposals", {"outcome": "succeeded", "note": "seen"}
        )
        assert (wrong.status, wrong.code) == (422, "schema-violation")
        stated = {"outcome": "reversed", "note": "the processor confirmed by telephone"}
        proposed = await admin(house, "POST", f"{path}/proposals", stated)
        assert (proposed.status, proposed.body["status"]) == (201, "proposed"), proposed.raw
        own = await admin(house, "POST", f"{path}/approve")
        assert (own.status, own.code) == (403, "four-eyes-required")
        approved = await admin(house, "POST", f"{path}/approve", operator=1)
        assert (approved.status, approved.body["status"]) == (200, "settled"), approved.raw
        again = await admin(house, "POST", f"{path}/approve", operator=1)
        assert (again.status, again.code) == (409, "invalid-state")
        settled = await house.settled(0, payment["id"])
        assert settled["status"] == "failed"
        assert (await headroom(house, 0, "visa", "card-day"))["remaining_amount"] == before
    actions = {row["action"] for row in await house.rows("SELECT action FROM audit_log")}
    assert {"review.propose", "review.approve"} <= actions


async def test_what_settles_itself_needs_no_operator(house: House) -> None:
    """Once the processor answers, the review is closed, and cannot be approved any more."""
    async with house.fault("visa", kind="drop_request", rate=1.0):
        payment = await in_doubt(house, 1)
        review = await review_of(house, payment["id"])
    settled = await house.settled(1, payment["id"])
    assert settled["status"] == "failed"

    async def closed() -> bool:
        reply = await admin(house, "GET", f"/reviews/{review['id']}")
        return bool(reply.body["status"] == "closed")

    await until(closed, within_s=10)
    late = await admin(
        house,
        "POST",
        f"/reviews/{review['id']}/proposals",
        {"outcome": "reversed", "note": "too late"},
    )
    assert (late.status, late.code) == (409, "invalid-state")


@pytest.mark.parametrize("state", ["received", "parked"])
async def test_a_callback_that_was_left_is_applied_by_whoever_looks(
    house: House, state: str
) -> None:
    """By a worker that died at it, or one that did not know the payment yet."""
    async with house.fault("uzcard", kind="drop_reply_after_commit", count=1):
        # Nobody hears of it by asking.
        fault = {"kind": "drop_request", "rate": 1.0, "method": "trans.ext"}
        await house.simulator("POST", "uzcard", "/_sim/faults", fault)
        reply = await house.pay(3, house.purchase(3, "uzcard", fresh_amount()))
        assert (reply.status, reply.body["status"]) == (202, "processing"), reply.raw
        payment = reply.body
        event = {
            "event_id": new_key(), "outcome": "APPROVED", "processor_code": "0", "rrn": None,
            "approval_code": "123456", "references": {}, "lookup": {}, "reversed": False,
            "reference": payment["attempts"][0]["id"], "currency": "UZS",
            "amount_minor": payment["total_debit"],
        }  # fmt: skip
        connection = await asyncpg.connect(house.description["database_url"])
        try:
            await connection.execute(
                "INSERT INTO callbacks (connector, event_id, body_hash, body, state, attempt_id,"
                " event, received_at) VALUES ('uzcard', $1, '', '', $2, $3, $4,"
                " now() - interval '1 minute')",
                event["event_id"],
                state,
                event["reference"],
                json.dumps(event),
            )
        finally:
            await connection.close()
        settled = await house.settled(3, payment["id"], within_s=20)
    assert settled["status"] == "succeeded"
    assert settled["attempts"][0]["outcome_source"] == "callback"
    rows = await house.rows("SELECT state FROM callbacks WHERE event_id = $1", event["event_id"])
    assert rows[0]["state"] in ("applied", "ignored")


async def test_customers_and_merchants_have_no_business_here(house: House) -> None:
    """Reviews are the operators'."""
    token = house.user(2)["access_token"]
    for path in ("/reviews", "/money-in-doubt"):
        reply = await house.call("GET", f"/admin/v1{path}", token=token)
        assert (reply.status, reply.code) == (403, "insufficient-scope")
    missing = await admin(house, "GET", "/reviews/rev_unknown")
    assert (missing.status, missing.code) == (404, "not-found")
