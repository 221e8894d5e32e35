"""Refunds that operators make: small ones alone, larger ones by two, each of them once."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.faults.world import worker_beside
from tests.house import House, Reply, new_key, until
from tests.payments.books import fresh_amount, paid
from tests.proposals.conftest import ALONE_MAX
from tests.rulebook.office import PROPOSALS, Office

REASON = "the shop is closed for good"


async def refund(
    office: Office,
    payment: dict[str, Any],
    amount: int | None = None,
    *,
    by: int = 0,
    key: str | None = None,
) -> Reply:
    """Ask for a refund as an operator."""
    body = {"reason": REASON} | ({} if amount is None else {"amount": amount})
    return await office.house.call(
        "POST",
        f"/admin/v1/payments/{payment['id']}/refunds",
        body,
        token=office.token(by),
        key=key or new_key(),
    )


async def proposed(office: Office, payment: dict[str, Any]) -> dict[str, Any]:
    """Propose to refund all of a payment."""
    reply = await refund(office, payment)
    assert (reply.status, reply.body["status"]) == (202, "proposed"), reply.raw
    proposal: dict[str, Any] = reply.body
    return proposal


async def refunds_of(house: House, payment: dict[str, Any]) -> list[tuple[int, str]]:
    """Amounts and states of a payment's refunds."""
    rows = await house.rows(
        "SELECT amount_minor, state FROM actions WHERE payment_id = $1 AND kind = 'refund'",
        payment["id"],
    )
    return [tuple(row) for row in rows]


async def given_back(house: House, payment: dict[str, Any]) -> int:
    """What the processor gave back of a payment."""
    found = await house.ledger("uzcard", payment["attempts"][0]["id"])
    return sum(int(one.get("refunded_amount") or 0) for one in found)


async def lines(office: Office, payment: dict[str, Any]) -> list[tuple[str, str]]:
    """What the audit log says was done to a payment, in order."""
    found = await office.get(f"/admin/v1/audit?object={payment['id']}")
    return [(one["action"], one["actor"]) for one in reversed(found["data"])]


async def test_what_is_small_is_given_back_at_once(office: Office) -> None:
    """By one operator, with a line in the audit log."""
    payment = await paid(office.house, 0, "visa", fresh_amount())
    reply = await refund(office, payment, ALONE_MAX)
    assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
    assert reply.body["amount"] == ALONE_MAX
    assert await lines(office, payment) == [("refund.make", office.id(0))]


async def test_what_is_divided_counts_together(office: Office) -> None:
    """The second part is over the threshold with the first, and waits."""
    payment = await paid(office.house, 1, "visa", fresh_amount())
    assert (await refund(office, payment, ALONE_MAX)).status == 201
    assert (await refund(office, payment, 1)).status == 202
    assert await refunds_of(office.house, payment) == [(ALONE_MAX, "succeeded")]


async def test_what_is_divided_at_once_counts_together(office: Office) -> None:
    """Of many parts at one moment as many are given back as one operator may, and no more."""
    payment = await paid(office.house, 10, "visa", fresh_amount())
    part = ALONE_MAX // 2
    replies = await asyncio.gather(*(refund(office, payment, part) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [201, 201] + [202] * 6
    assert await refunds_of(office.house, payment) == [(part, "succeeded")] * 2


@pytest.mark.parametrize("scheme", ["visa", "humo", "uzcard"])
async def test_what_is_larger_needs_two(office: Office, scheme: str) -> None:
    """Nothing is given back before; not by the one who asked; then once, and told of both."""
    house = office.house
    payment = await paid(house, 2, scheme, fresh_amount())
    proposal = await proposed(office, payment)
    assert (proposal["kind"], proposal["subject"]) == ("refund", payment["id"])
    assert proposal["diff"] == {"amount": payment["amount"], "currency": "UZS"}
    assert proposal["note"] == REASON
    own = await office.decide(proposal, by=0)
    assert (own.status, own.code) == (403, "four-eyes-required")
    assert await refunds_of(house, payment) == []
    approved = await office.approve(proposal)
    assert (approved["status"], approved["decided_by"]) == ("approved", office.id(1))
    assert approved["outcome"]["status"] == "succeeded", approved
    assert approved["outcome"]["refund"].startswith("rfd_")
    assert await refunds_of(house, payment) == [(payment["amount"], "succeeded")]
    assert await lines(office, payment) == [
        ("refund.propose", office.id(0)),
        ("refund.approve", office.id(1)),
    ]
    again = await office.decide(proposal)
    assert (again.status, again.code) == (409, "invalid-state")


async def test_two_approvals_at_once_give_back_once(office: Office) -> None:
    payment = await paid(office.house, 3, "uzcard", fresh_amount())
    proposal = await proposed(office, payment)
    replies = await asyncio.gather(*(office.decide(proposal) for _ in range(6)))
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409, 409, 409]
    assert {reply.code for reply in replies if reply.status == 409} == {"invalid-state"}
    assert await refunds_of(office.house, payment) == [(payment["amount"], "succeeded")]


async def test_two_proposals_for_one_payment_give_back_once(office: Office) -> None:
    """Approved at once on both workers: the later is outdated, whatever the order."""
    payment = await paid(office.house, 4, "uzcard", fresh_amount())
    first, second = await proposed(office, payment), await proposed(office, payment)
    replies = await asyncio.gather(office.decide(first), office.decide(second))
    assert sorted(reply.status for reply in replies) == [200, 409]
    assert {reply.code for reply in replies if reply.status == 409} == {"proposal-stale"}
    assert await refunds_of(office.house, payment) == [(payment["amount"], "succeeded")]


async def test_what_was_refunded_since_is_outdated(office: Office) -> None:
    """The customer was faster: what the operators saw is not so any more."""
    house = office.house
    payment = await paid(house, 5, "visa", fresh_amount())
    proposal = await proposed(office, payment)
    own = await house.call(
        "POST",
        f"/v1/payments/{payment['id']}/refunds",
        {"amount": 1},
        token=house.user(5)["access_token"],
        key=new_key(),
    )
    assert own.status == 201, own.raw
    late = await office.decide(proposal)
    assert (late.status, late.code) == (409, "proposal-stale"), late.raw
    assert await refunds_of(house, payment) == [(1, "succeeded")]


async def test_a_merchant_refunds_alone(office: Office) -> None:
    """By its own credentials, whatever the amount."""
    house = office.house
    payment = await paid(house, 6, "visa", fresh_amount())
    assert payment["amount"] > ALONE_MAX
    reply = await house.call(
        "POST",
        f"/v1/payments/{payment['id']}/refunds",
        token=await house.merchant_token(),
        key=new_key(),
    )
    assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw


async def test_a_key_proposes_once(office: Office) -> None:
    """The same answer byte for byte; another body is refused; at once it is one proposal."""
    house = office.house
    payment = await paid(house, 7, "visa", fresh_amount())
    key = new_key()
    replies = await asyncio.gather(*(refund(office, payment, key=key) for _ in range(5)))
    assert {reply.status for reply in replies} <= {202, 409}, [one.raw for one in replies]
    first = await refund(office, payment, key=key)
    assert first.headers["idempotent-replayed"] == "true"
    assert {one.raw for one in replies if one.status == 202} == {first.raw}
    other = await refund(office, payment, 7, key=key)
    assert (other.status, other.code) == (422, "idempotency-key-reused")
    rows = await house.rows("SELECT id FROM proposals WHERE subject = $1", payment["id"])
    assert [row["id"] for row in rows] == [first.body["id"]]


async def test_what_cannot_be_refunded_is_not_proposed(office: Office) -> None:
    house = office.house
    payment = await paid(house, 8, "visa", fresh_amount())
    over = await refund(office, payment, payment["amount"] + 1)
    assert (over.status, over.code) == (422, "refund-exceeds-captured")
    for amount in (0, -1, 10**15 + 1):
        reply = await refund(office, payment, amount)
        assert (reply.status, reply.code) == (422, "invalid-amount"), amount
    unknown = await refund(office, {"id": "pay_unknown"})
    assert (unknown.status, unknown.code) == (404, "not-found")
    body = await house.call(
        "POST",
        f"/admin/v1/payments/{payment['id']}/refunds",
        {"amount": 1},
        token=office.token(0),
        key=new_key(),
    )
    assert body.status == 422, "a reason is needed"


async def test_killed_between_approval_and_processor_it_is_given_back_once(office: Office) -> None:
    """kill -9 of the worker that approved: another sends what was agreed on."""
    house = office.house
    payment = await paid(house, 9, "uzcard", fresh_amount())
    proposal = await proposed(office, payment)
    ticket = house.data_dir / "ticket-refund"
    armed = {"after_action_claim": {"action": "kill", "ticket": str(ticket)}}
    async with worker_beside(house, failpoints=armed) as beside:
        ticket.touch()
        dead = Office(beside.door)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await dead.decide(proposal)
        await beside.died()

    async def settled() -> bool:
        return await refunds_of(house, payment) == [(payment["amount"], "succeeded")]

    await until(settled, within_s=30)
    shown = await office.get(f"{PROPOSALS}/{proposal['id']}")
    assert (shown["status"], shown["outcome"]["status"]) == ("approved", "succeeded")
    again = await office.decide(proposal)
    assert (again.status, again.code) == (409, "invalid-state")
    assert await given_back(house, payment) == payment["amount"]
