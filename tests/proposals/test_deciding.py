"""One mechanism for all kinds: who may see, decide and take back what, and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.faults.world import worker_beside
from tests.house import House, changed_config, running_house, until
from tests.operators.people import Person, person
from tests.payments.books import fresh_amount, paid
from tests.payments.test_reviews import CONNECTORS, SETTINGS, admin, in_doubt, review_of
from tests.proposals.test_refunds import proposed
from tests.rulebook.office import POLICIES, PROPOSALS, Office, policy

REASON = {"reason": "not like this"}


async def change(house: House, statement: str, *arguments: Any) -> None:
    """Change the database behind the product's back, as time does."""
    connection = await asyncpg.connect(house.description["database_url"])
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def risk(office: Office) -> Person:
    return await person(office.house, "risky", "risk")


@pytest.fixture(scope="module")
async def finance(office: Office) -> Person:
    return await person(office.house, "counting", "finance")


async def test_a_proposal_that_waited_too_long_is_not_approved(office: Office) -> None:
    """It is shown as expired, may be withdrawn still, and may be proposed again."""
    payment = await paid(office.house, 20, "visa", fresh_amount())
    proposal = await proposed(office, payment)
    await change(
        office.house, "UPDATE proposals SET expires_at = now() WHERE id = $1", proposal["id"]
    )
    late = await office.decide(proposal)
    assert (late.status, late.code) == (409, "proposal-stale"), late.raw
    assert (await office.get(f"{PROPOSALS}/{proposal['id']}"))["status"] == "expired"
    listed = await office.get(f"{PROPOSALS}?status=expired&kind=refund")
    assert proposal["id"] in {one["id"] for one in listed["data"]}
    withdrawn = await office.call("POST", f"{PROPOSALS}/{proposal['id']}/withdraw", REASON)
    assert (withdrawn.status, withdrawn.body["status"]) == (200, "withdrawn"), withdrawn.raw
    again = await office.approve(await proposed(office, payment))
    assert again["outcome"]["status"] == "succeeded"


async def test_an_approver_needs_the_scope_of_the_kind(
    office: Office, risk: Person, finance: Person
) -> None:
    """Who approves rules approves no refund, and the other way round."""
    payment = await paid(office.house, 21, "visa", fresh_amount())
    refund = await proposed(office, payment)
    rule = await office.propose(POLICIES, policy("of-another"))
    for who, foreign, own in ((risk, refund, rule), (finance, rule, refund)):
        for act, body in (("approve", None), ("reject", REASON)):
            reply = await who.call("POST", f"/proposals/{foreign['id']}/{act}", body)
            assert (reply.status, reply.code) == (403, "insufficient-scope"), (act, reply.raw)
        reply = await who.call("POST", f"/proposals/{own['id']}/approve")
        assert reply.status == 200, reply.raw


async def test_one_sees_the_kinds_that_are_ones_own(
    office: Office, risk: Person, finance: Person
) -> None:
    """What is another's to decide is neither listed nor found."""
    payment = await paid(office.house, 22, "visa", fresh_amount())
    refund = await proposed(office, payment)
    asked = await office.call(
        "POST", f"/admin/v1/operators/{risk.id}/proposals", {"roles": ["viewer"], "note": "moves"}
    )
    assert asked.status == 201, asked.raw
    roles = asked.body["id"]
    for who, kinds in (
        (risk, {"plan", "policy", "refund", "review"}),
        (finance, {"refund", "review", "break"}),
    ):
        listed = await who.call("GET", "/proposals?limit=100")
        assert {one["kind"] for one in listed.body["data"]} <= kinds
        assert refund["id"] in {one["id"] for one in listed.body["data"]}
        hidden = await who.call("GET", f"/proposals/{roles}")
        assert (hidden.status, hidden.code) == (404, "not-found")
        empty = await who.call("GET", "/proposals?kind=roles")
        assert empty.body["data"] == []
    shown = await office.get(f"{PROPOSALS}?kind=roles&status=proposed&limit=100")
    assert {one["kind"] for one in shown["data"]} == {"roles"}
    assert roles in {one["id"] for one in shown["data"]}


async def test_only_the_own_is_withdrawn(office: Office) -> None:
    payment = await paid(office.house, 23, "visa", fresh_amount())
    proposal = await proposed(office, payment)
    path = f"{PROPOSALS}/{proposal['id']}"
    anothers = await office.call("POST", f"{path}/withdraw", REASON, by=1)
    assert (anothers.status, anothers.code) == (409, "invalid-state")
    own = await office.call("POST", f"{path}/withdraw", REASON)
    assert (own.body["status"], own.body["reason"]) == ("withdrawn", REASON["reason"])
    late = await office.decide(proposal)
    assert (late.status, late.code) == (409, "invalid-state")


async def test_roles_that_were_changed_since_are_outdated(office: Office) -> None:
    """Two proposals for one operator: what the second was made of is not so any more."""
    someone = await person(office.house, "someone", "viewer")
    path = f"/admin/v1/operators/{someone.id}/proposals"
    first = await office.call("POST", path, {"roles": ["risk"], "note": "one"})
    second = await office.call("POST", path, {"roles": ["support"], "note": "two"})
    assert (await office.decide(first.body)).status == 200
    late = await office.call(
        "POST", f"/admin/v1/operator-proposals/{second.body['id']}/approve", by=1
    )
    assert (late.status, late.code) == (409, "proposal-stale"), late.raw
    rows = await office.house.rows("SELECT roles FROM operators WHERE id = $1", someone.id)
    assert rows[0]["roles"] == ["risk"]


async def test_a_route_of_one_kind_decides_no_other(office: Office) -> None:
    rule = await office.propose(POLICIES, policy("of-its-own"))
    path = f"/admin/v1/operator-proposals/{rule['id']}"
    for act in ("approve", "reject"):
        reply = await office.call("POST", f"{path}/{act}", by=1)
        assert (reply.status, reply.code) == (404, "not-found")


# Reviews ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def doubtful() -> AsyncIterator[House]:
    """A house that asks operators early."""
    with changed_config(connectors=CONNECTORS, settings=SETTINGS) as environment:
        async with running_house(environment=environment) as house:
            yield house


async def test_a_later_proposal_of_a_review_replaces_the_earlier(doubtful: House) -> None:
    """The earlier cannot be approved any more; the review shows the one that stands."""
    office = Office(doubtful)
    async with doubtful.fault("visa", kind="drop_request", rate=1.0):
        payment = await in_doubt(doubtful, 0)
        review = await review_of(doubtful, payment["id"])
        path = f"/reviews/{review['id']}"
        for note in ("by telephone", "by letter"):
            stated = {"outcome": "reversed", "note": note}
            assert (await admin(doubtful, "POST", f"{path}/proposals", stated)).status == 201
        found = await office.get(f"{PROPOSALS}?kind=review&limit=100")
        later, earlier = (one for one in found["data"] if one["subject"] == review["id"])
        assert (earlier["status"], later["status"]) == ("replaced", "proposed")
        assert (later["diff"], later["note"]) == ({"outcome": "reversed"}, "by letter")
        late = await office.decide(earlier)
        assert (late.status, late.code) == (409, "invalid-state")
        shown = (await admin(doubtful, "GET", path)).body
        assert (shown["status"], shown["note"]) == ("proposed", "by letter")
        # By the route of all proposals as by its own.
        assert (await office.approve(later))["status"] == "approved"
        settled = await doubtful.settled(0, payment["id"])
    assert settled["status"] == "failed"
    assert (await admin(doubtful, "GET", path)).body["status"] == "settled"


async def test_killed_between_approval_and_payment_a_review_is_settled(doubtful: House) -> None:
    """kill -9 of the worker that approved: another tells the payment what was agreed on."""
    async with doubtful.fault("visa", kind="drop_request", rate=1.0):
        payment = await in_doubt(doubtful, 1)
        review = await review_of(doubtful, payment["id"])
        path = f"/reviews/{review['id']}"
        stated = {"outcome": "reversed", "note": "confirmed by telephone"}
        assert (await admin(doubtful, "POST", f"{path}/proposals", stated)).status == 201
        ticket = doubtful.data_dir / "ticket-review"
        armed = {"before_review_settled": {"action": "kill", "ticket": str(ticket)}}
        async with worker_beside(doubtful, failpoints=armed) as beside:
            ticket.touch()
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await admin(beside.door, "POST", f"{path}/approve", operator=1)
            await beside.died()
        assert (await admin(doubtful, "GET", path)).body["status"] == "approved"

        async def settled() -> bool:
            return bool((await admin(doubtful, "GET", path)).body["status"] == "settled")

        await until(settled, within_s=30)
        assert (await doubtful.settled(1, payment["id"]))["status"] == "failed"
