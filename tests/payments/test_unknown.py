"""What nobody can say yet: answered 202, settled to what the processor holds, never charged twice.

Every fault meets every kind of money message of every scheme. The processors wait longer than the
gateway does, so that what was done late, and what was asked for again, are both seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.payments.books import (
    CHARGED,
    SCHEMES,
    attempts_of,
    charge,
    conflicts,
    entries,
    entries_of,
    events,
    fresh_amount,
    headroom,
    hold,
    paid,
    post,
    postings,
    read,
)

SETTLED_WITHIN_S = 30.0
# Longer than the gateway waits for an answer and then takes to ask what became of it, also on a
# busy machine; shorter than it waits to believe "never seen".
LATE_S = 2.5
CONNECTORS = {
    "timeout_ms = 10000": "timeout_ms = 700\nbreaker_failures_max = 1000",
    'terminal_id = "OQIM0001"': (
        'terminal_id = "OQIM0001"\ntimeout_ms = 700\nbreaker_failures_max = 1000'
    ),
}
SETTINGS = {
    "not_found_final_s = 15.0": "not_found_final_s = 4.0",
    "retry_last_s = 10.0": "retry_last_s = 2.0",
}


@pytest.fixture(scope="module")
async def doubtful() -> AsyncIterator[House]:
    """Two workers who lose patience early, so that doubt is cheap to make."""
    with changed_config(connectors=CONNECTORS, settings=SETTINGS) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@dataclass(frozen=True, slots=True)
class Case:
    """One operation of a scheme, and the message of it that a fault is to meet.

    Args:
        doubt: what becomes of it when the processor did it and the answer was lost.
        late: what becomes of it when the processor did it after the gateway gave up.
    """

    operation: str
    scheme: str
    method: str
    doubt: str
    late: str

    @property
    def name(self) -> str:
        return f"{self.scheme} {self.operation} {self.method}"


# What is half made at HUMO is cancelled, what VISA cannot say is reversed; the rest is found.
CASES = [
    Case("purchase", "uzcard", "trans.pay.purpose", "succeeded", "succeeded"),
    Case("hold", "uzcard", "hold.create", "requires_capture", "requires_capture"),
    Case("transfer", "uzcard", "p2p.universal", "succeeded", "succeeded"),
    Case("payout", "uzcard", "p2p.universal.credit", "succeeded", "succeeded"),
    Case("purchase", "humo", "SOAP_SMS", "failed", "failed"),
    Case("hold", "humo", "SOAP_DMS", "requires_capture", "requires_capture"),
    Case("transfer", "humo", "Request", "failed", "failed"),
    Case("payout", "humo", "SOAP_TOCARD_2", "failed", "failed"),
    Case("purchase", "visa", "purchase", "failed", "failed"),
    Case("hold", "visa", "hold", "failed", "failed"),
    Case("transfer", "visa", "debit", "failed", "failed"),
    Case("payout", "visa", "credit", "failed", "failed"),
]
# Faults that meet another message of the same operation, when the first has passed.
LATER = [
    Case("purchase", "humo", "confirm", "succeeded", "failed"),
    Case("transfer", "visa", "credit", "failed", "failed"),
]
FAULTS = ["drop_reply_after_commit", "garbage", "wrong_amount", "delay", "drop_request"]


async def pay(house: House, user: int, case: Case, amount: int) -> Reply:
    """Make the payment of a case."""
    if case.operation == "transfer":
        return await house.pay(
            user, house.transfer(user, case.scheme, user + 1, case.scheme, amount)
        )
    if case.operation == "payout":
        body = {
            "operation": "payout",
            "amount": amount,
            "currency": "UZS",
            "destination": {"card": house.user(user)["cards"][case.scheme]},
        }
        token = await house.merchant_token()
        return await house.call("POST", "/v1/payments", body, token=token, key=new_key())
    capture = "manual" if case.operation == "hold" else "automatic"
    return await house.pay(user, house.purchase(user, case.scheme, amount, capture=capture))


async def settled(house: House, user: int, case: Case, payment_id: str) -> dict[str, Any]:
    """Return the case's payment once it is settled."""
    token = house.user(user)["access_token"]
    if case.operation == "payout":
        token = await house.merchant_token()

    async def final() -> Any:
        reply = await house.call("GET", f"/v1/payments/{payment_id}", token=token)
        assert reply.status == 200, reply.raw
        return reply.body if reply.body["status"] != "processing" else None

    payment: dict[str, Any] = await until(final, within_s=SETTLED_WITHIN_S)
    return payment


async def assert_as_the_processor_holds(house: House, case: Case, payment: dict[str, Any]) -> None:
    """Charged there if and only if succeeded here, once, and posted accordingly."""
    sent = (await attempts_of(house, payment["id"]))[payment["id"]]
    is_done = payment["status"] in ("succeeded", "requires_capture")
    for attempt in sent:
        found = await entries_of(house, attempt, payment["total_debit"])
        halves = 2 if attempt.kind == "transfer" else 1
        assert len(found) <= halves, f"{case.name}: done more than once: {found}"
        done = [one for one in found if one["state"] in CHARGED]
        assert len(done) == (halves if is_done else 0), f"{case.name} {payment['status']}: {found}"
        assert not [one for one in found if one["state"] == "pending"], f"{case.name}: {found}"
    if payment["status"] == "succeeded":
        posted = await postings(house, payment["id"])
        asked = charge(
            payment["operation"],
            None if payment["operation"] == "payout" else case.scheme,
            payment["amount"],
        )
        moved = sum(value for value in posted.values() if value > 0)
        between = asked.debit(payment["amount"]) + (asked.total if asked.payer == "bank" else 0)
        one_account = payment["operation"] == "transfer"
        assert moved == (asked.total if one_account else between), f"{case.name}: {dict(posted)}"
    else:
        assert not await postings(house, payment["id"]), f"{case.name}: nothing may be posted"
    ends = [one for one in await events(house, payment["id"]) if one != "refund.succeeded"]
    assert ends == [f"payment.{payment['status']}"], f"{case.name}: told once"
    assert not await conflicts(house, payment["id"]), f"{case.name}: nothing contradicts"


async def in_doubt(house: House, fault: str, cases: list[Case], first_user: int) -> None:
    """Make each case meet the fault once, all at a time, and hold every end to the ledgers."""
    users = {case: first_user + 2 * number for number, case in enumerate(cases)}
    rooms = {case: await headroom(house, users[case], case.scheme, "user-month") for case in cases}
    for case in cases:
        order = {"kind": fault, "count": 1, "method": case.method}
        if fault == "delay":
            order["seconds"] = LATE_S
        await house.simulator("POST", case.scheme, "/_sim/faults", order)
    amounts = {case: fresh_amount(2_000_000) for case in cases}
    replies = await asyncio.gather(
        *(pay(house, users[case], case, amounts[case]) for case in cases)
    )
    for scheme in {case.scheme for case in cases}:
        left = await house.simulator("GET", scheme, "/_sim/faults")
        assert left == [], f"{scheme}: a fault met nothing: {left}"
    for case, reply in zip(cases, replies, strict=True):
        assert reply.status == 202, f"{case.name}: {reply.raw!r}"
        assert reply.body["status"] == "processing", case.name
        assert reply.headers["location"] == f"/v1/payments/{reply.body['id']}", case.name
        assert "unknown" in [one["state"] for one in reply.body["attempts"]], case.name
    payments = await asyncio.gather(
        *(
            settled(house, users[case], case, reply.body["id"])
            for case, reply in zip(cases, replies, strict=True)
        )
    )
    if fault == "delay":
        # What was late has arrived by now everywhere.
        await until(_quiet(house, cases), within_s=LATE_S + 1)
    for case, payment in zip(cases, payments, strict=True):
        expected = "failed" if fault == "drop_request" else case.doubt
        if fault == "delay":
            expected = case.late
        assert payment["status"] == expected, f"{case.name}: {payment}"
        assert all(one["state"] != "unknown" for one in payment["attempts"]), payment
        await assert_as_the_processor_holds(house, case, payment)
        if case.operation == "payout":
            continue
        room = await headroom(house, users[case], case.scheme, "user-month")
        used = room["used_amount"] - rooms[case]["used_amount"]
        assert used == (0 if expected == "failed" else amounts[case]), f"{case.name}: headroom"


def _quiet(house: House, cases: list[Case]) -> Any:
    """Return a condition: the ledgers of the cases stay as they are from one look to the next."""
    seen: dict[str, Any] = {}

    async def quiet() -> bool:
        schemes = {case.scheme for case in cases}
        now = {scheme: await house.ledger(scheme) for scheme in schemes}
        is_same = now == seen
        seen.clear()
        seen.update(now)
        return is_same

    return quiet


@pytest.mark.fault(rows=[16, 17, 25, 26], what="answers lost, late, garbled, of another amount")
@pytest.mark.parametrize("fault", FAULTS)
async def test_doubt_ends_as_the_processor_has_it(doubtful: House, fault: str) -> None:
    """Every kind of message of every scheme meets the fault once."""
    cases = CASES
    if fault == "wrong_amount":
        # SVGate's answer to a hold tells no amount.
        cases = [case for case in CASES if case.method != "hold.create"]
    await in_doubt(doubtful, fault, cases, 0)


@pytest.mark.fault(rows=[16, 17, 26], what="each later message of a payment")
@pytest.mark.parametrize("fault", ["drop_reply_after_commit", "garbage", "delay"])
async def test_doubt_about_a_later_message(doubtful: House, fault: str) -> None:
    """HUMO's confirmation, and the second leg over VISA, whose first leg is then given back."""
    await in_doubt(doubtful, fault, LATER, 30)


async def test_what_is_half_done_is_undone(doubtful: House) -> None:
    """A confirmation or a second leg that never arrived: the first half is given back."""
    humo, visa = LATER
    cases = [
        Case(humo.operation, humo.scheme, humo.method, "failed", "failed"),
        Case(visa.operation, visa.scheme, visa.method, "failed", "failed"),
    ]
    await in_doubt(doubtful, "drop_request", cases, 30)


@pytest.mark.fault(rows=[22], what="an answer twice")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_answer_that_comes_twice_counts_once(doubtful: House, scheme: str) -> None:
    """A duplicate answer is no doubt: 201, and one entry."""
    for capture in ("automatic", "manual"):
        amount = fresh_amount()
        async with doubtful.fault(scheme, kind="duplicate_reply", count=1):
            reply = await doubtful.pay(40, doubtful.purchase(40, scheme, amount, capture=capture))
        assert reply.status == 201, reply.raw
        assert len(await entries(doubtful, reply.body)) == 1
        again = await doubtful.pay(41, doubtful.purchase(41, scheme, fresh_amount()))
        assert (again.status, again.body["status"]) == (201, "succeeded"), "the next is answered"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_repeated_key_is_answered_202_until_the_end(doubtful: House, scheme: str) -> None:
    """A retry of what is in doubt sends nothing again and is told the same bytes."""
    amount = fresh_amount()
    key = new_key()
    body = doubtful.purchase(42, scheme, amount)
    method = {"uzcard": "trans.pay.purpose", "humo": "confirm", "visa": "purchase"}[scheme]
    async with doubtful.fault(scheme, kind="drop_reply_after_commit", count=1, method=method):
        first = await doubtful.pay(42, body, key=key)
    assert first.status == 202, first.raw
    again = await doubtful.pay(42, body, key=key)
    assert (again.status, again.raw) == (202, first.raw)
    assert again.headers["location"] == first.headers["location"]
    await doubtful.settled(42, first.body["id"], within_s=SETTLED_WITHIN_S)
    sent = [one for one in await doubtful.ledger(scheme) if one["amount"] == amount]
    assert len(sent) == 1, sent


# Captures, cancels and refunds -------------------------------------------------------------------

ACTION_METHODS = {
    ("uzcard", "capture"): "hold.dismiss.charge",
    ("uzcard", "cancel"): "hold.dismiss",
    ("uzcard", "refund"): "trans.reverse.partial",
    ("uzcard", "refund-whole"): "trans.reverse",
    ("humo", "capture"): "confirm",
    ("humo", "cancel"): "CancelRequest",
    ("humo", "refund"): "ReturnPayment",
    ("visa", "capture"): "0120",
    ("visa", "cancel"): "0400",
    ("visa", "refund"): "refund",
}
PART = 400_007


@pytest.mark.fault(rows=[16, 17], what="captures, cancels and refunds in doubt")
@pytest.mark.parametrize("fault", ["drop_reply_after_commit", "garbage", "delay", "drop_request"])
@pytest.mark.parametrize("kind", ["capture", "cancel", "refund", "refund-whole"])
async def test_an_action_in_doubt_is_done_once(doubtful: House, kind: str, fault: str) -> None:
    """It is asked for again under its own name until it is known, and is done exactly once."""
    schemes = [scheme for scheme in SCHEMES if (scheme, kind) in ACTION_METHODS]
    await asyncio.gather(*(_act_in_doubt(doubtful, scheme, kind, fault) for scheme in schemes))


async def _act_in_doubt(house: House, scheme: str, kind: str, fault: str) -> None:
    user = 44
    amount = fresh_amount()
    make = paid if kind.startswith("refund") else hold
    payment = await make(house, user, scheme, amount)
    path = f"/v1/payments/{payment['id']}/{'refunds' if kind.startswith('refund') else kind}"
    body = {"amount": PART} if kind in ("capture", "refund") else None
    order: dict[str, Any] = {
        "kind": fault,
        "count": 1,
        "method": ACTION_METHODS[scheme, kind],
    } | ({"seconds": LATE_S} if fault == "delay" else {})
    await house.simulator("POST", scheme, "/_sim/faults", order)
    reply = await post(house, user, path, body)
    left = await house.simulator("GET", scheme, "/_sim/faults")
    assert left == [], f"{scheme} {kind}: the fault met nothing"
    context = f"{scheme} {kind}: {reply.raw!r}"
    if kind.startswith("refund"):
        assert (reply.status, reply.body["status"]) == (201, "pending"), context
    else:
        assert reply.status == 202, context

    async def final() -> bool:
        rows = await house.rows("SELECT state FROM actions WHERE payment_id = $1", payment["id"])
        return [row["state"] for row in rows] == ["succeeded"]

    await until(final, within_s=SETTLED_WITHIN_S)
    if fault == "delay":
        one = Case(kind, scheme, "", "", "")
        await until(_quiet(house, [one]), within_s=LATE_S + 1)
    (entry,) = await entries(house, payment)
    shown = await read(house, user, payment["id"])
    if kind == "capture":
        assert (entry["state"], entry["captured_amount"]) == ("captured", PART), entry
        assert (shown["status"], shown["amount_received"]) == ("succeeded", PART), shown
    elif kind == "cancel":
        assert (entry["state"], shown["status"]) == ("released", "canceled"), (entry, shown)
    else:
        given_back = PART if kind == "refund" else amount
        assert entry["refunded_amount"] == given_back, entry
        assert shown["amount_refunded"] == given_back, shown
    assert not await conflicts(house, payment["id"])
    rows = await house.rows("SELECT id FROM actions WHERE payment_id = $1", payment["id"])
    posted = await postings(house, rows[0]["id"])
    assert bool(posted) == (kind != "cancel"), dict(posted)
