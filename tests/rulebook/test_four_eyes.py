"""One proposes, another approves: once, and only what still fits."""

from __future__ import annotations

import asyncio

import pytest

from tests.house import until
from tests.rulebook.office import PLANS, POLICIES, PROPOSALS, Office, moment, plan, policy

REASON = {"reason": "not like this"}


async def test_a_proposal_is_whole_and_changes_nothing(office: Office) -> None:
    before = await office.generation()
    body = policy("whole")
    proposal = await office.propose(POLICIES, body)
    assert proposal["status"] == "proposed"
    assert (proposal["kind"], proposal["action"]) == ("policy", "put")
    assert (proposal["target"], proposal["based_on_version"]) == ("whole", None)
    assert proposal["body"] == body
    assert proposal["proposed_by"] == office.id(0)
    assert proposal["decided_by"] is proposal["generation"] is proposal["version"] is None
    assert proposal["warnings"] == []
    shown = await office.get(f"{PROPOSALS}/{proposal['id']}")
    assert shown | {"what_if": None} == proposal | {"what_if": None}
    assert await office.generation() == before
    assert (await office.call("GET", f"{POLICIES}/whole")).status == 404


@pytest.mark.fault(rows=[56], what="the own proposal")
async def test_nobody_approves_what_is_his_own(office: Office) -> None:
    before = await office.generation()
    for by in (0, 1):
        proposal = await office.propose(POLICIES, policy("own"), by=by)
        reply = await office.decide(proposal, by=by)
        assert (reply.status, reply.code) == (403, "four-eyes-required"), reply.raw
        assert (await office.get(f"{PROPOSALS}/{proposal['id']}"))["status"] == "proposed"
    assert await office.generation() == before


async def test_another_approves_and_both_are_told_of(office: Office) -> None:
    proposal = await office.propose(PLANS, plan("told"))
    approved = await office.approve(proposal)
    assert approved["status"] == "active"
    assert (approved["version"], approved["decided_by"]) == (1, office.id(1))
    assert approved["generation"] == await office.generation()
    found = await office.get(f"{PLANS}/told")
    assert (found["active_version"], found["scheduled"]) == (1, [])
    assert found["effective_from"] == approved["effective_from"]
    assert found["components"] == plan("told")["components"]
    (version,) = found["versions"]
    assert version["status"] == "active"
    assert (version["proposed_by"], version["approved_by"]) == (office.id(0), office.id(1))
    assert version["proposal"] == proposal["id"]
    assert version["generation"] == approved["generation"]
    detail = await office.get(f"{PLANS}/told/versions/1")
    assert detail == version | {"body": plan("told") | {"version": 1}}
    listed = await office.get(f"{PLANS}?limit=100")
    assert {"told", "purchase", "payout"} <= {one["id"] for one in listed["data"]}


async def test_another_rejects_and_the_proposer_withdraws(office: Office) -> None:
    for by, status in ((1, "rejected"), (0, "withdrawn")):
        proposal = await office.propose(POLICIES, policy("unwanted"))
        path = f"{PROPOSALS}/{proposal['id']}"
        reply = await office.call("POST", f"{path}/reject", REASON, by=by)
        assert reply.status == 200, reply.raw
        assert (reply.body["status"], reply.body["reason"]) == (status, REASON["reason"])
        assert reply.body["decided_by"] == office.id(by)
        for again in ("approve", "reject"):
            body = REASON if again == "reject" else None
            reply = await office.call("POST", f"{path}/{again}", body, by=1)
            assert (reply.status, reply.code) == (409, "invalid-state"), again
    assert (await office.call("GET", f"{POLICIES}/unwanted")).status == 404


async def test_a_rejection_needs_a_reason(office: Office) -> None:
    proposal = await office.propose(POLICIES, policy("reasoned"))
    path = f"{PROPOSALS}/{proposal['id']}/reject"
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "more": 1}):
        assert (await office.call("POST", path, body, by=1)).status == 422
    assert (await office.get(f"{PROPOSALS}/{proposal['id']}"))["status"] == "proposed"


@pytest.mark.parametrize("act", ["approve", "reject"])
async def test_an_unknown_proposal_is_not_found(office: Office, act: str) -> None:
    body = REASON if act == "reject" else None
    reply = await office.call("POST", f"{PROPOSALS}/prp_nobody/{act}", body)
    assert (reply.status, reply.code) == (404, "not-found")


async def test_two_approvals_at_once_make_one_generation(office: Office) -> None:
    before = await office.generation()
    proposal = await office.propose(POLICIES, policy("once"))
    replies = await asyncio.gather(*(office.decide(proposal) for _ in range(6)))
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409, 409, 409]
    assert {reply.code for reply in replies if reply.status == 409} == {"invalid-state"}
    assert await office.generation() == before + 1


async def test_of_two_proposals_for_one_rule_the_later_is_outdated(office: Office) -> None:
    """It was written against what is no longer there, be it a version more or a rule less."""
    first = await office.propose(POLICIES, policy("raced", max_amount=1))
    second = await office.propose(POLICIES, policy("raced", max_amount=2))
    replies = await asyncio.gather(office.decide(first), office.decide(second))
    assert sorted(reply.status for reply in replies) == [200, 409]
    assert {reply.code for reply in replies if reply.status == 409} == {"proposal-stale"}
    third = await office.propose(POLICIES, policy("raced", max_amount=3))
    assert third["based_on_version"] == 1
    await office.delete(POLICIES, "raced")
    reply = await office.decide(third)
    assert (reply.status, reply.code) == (409, "proposal-stale"), reply.raw


async def test_what_no_longer_fits_says_why(office: Office) -> None:
    """Two plans that each fit alone: the second approval names the first."""
    first = await office.propose(PLANS, plan("fits-1"))
    second = await office.propose(PLANS, plan("fits-2", match=plan("fits-1")["match"]))
    before = await office.generation()
    await office.approve(first)
    reply = await office.decide(second)
    assert (reply.status, reply.code) == (409, "proposal-stale"), reply.raw
    (error,) = reply.body["errors"]
    assert error["pointer"] == ""
    assert "fits-1 version 1" in error["detail"]
    assert await office.generation() == before + 1
    assert (await office.get(f"{PROPOSALS}/{second['id']}"))["status"] == "proposed"


async def test_a_beginning_that_has_passed_is_outdated(office: Office) -> None:
    at = moment(seconds=0.3)
    proposal = await office.propose(POLICIES, policy("late", effective_from=at))
    await until(lambda: moment() > at, within_s=5)
    reply = await office.decide(proposal)
    assert (reply.status, reply.code) == (409, "proposal-stale"), reply.raw
    assert [one["pointer"] for one in reply.body["errors"]] == ["/effective_from"]


async def test_proposals_are_listed_by_what_became_of_them(office: Office) -> None:
    made = [await office.propose(POLICIES, policy(f"listed-{number}")) for number in range(3)]
    await office.approve(made[0])
    await office.call("POST", f"{PROPOSALS}/{made[1]['id']}/reject", REASON, by=1)
    for proposal, status in zip(made, ("active", "rejected", "proposed"), strict=True):
        listed = await office.get(f"{PROPOSALS}?status={status}&limit=100")
        assert {one["status"] for one in listed["data"]} == {status}
        assert proposal["id"] in {one["id"] for one in listed["data"]}
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await office.get(f"{PROPOSALS}?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        assert 1 <= len(page["data"]) <= 2
        seen += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
    assert seen == sorted(set(seen), reverse=True)
    assert {one["id"] for one in made} <= set(seen)


async def test_everything_done_is_in_the_audit_log(office: Office) -> None:
    proposal = await office.propose(POLICIES, policy("audited"))
    rejected = await office.propose(POLICIES, policy("audited"))
    withdrawn = await office.propose(POLICIES, policy("audited"))
    approved = await office.approve(proposal)
    for one, by in ((rejected, 1), (withdrawn, 0)):
        await office.call("POST", f"{PROPOSALS}/{one['id']}/reject", REASON, by=by)

    async def done_to(object: str) -> list[tuple[str, str]]:
        rows = (await office.get(f"/admin/v1/audit?object={object}"))["data"]
        return [(row["action"], row["actor"]) for row in reversed(rows)]

    first, second = office.id(0), office.id(1)
    assert await done_to(proposal["id"]) == [
        ("proposal.propose", first),
        ("proposal.approve", second),
    ]
    assert await done_to(rejected["id"]) == [
        ("proposal.propose", first),
        ("proposal.reject", second),
    ]
    assert await done_to(withdrawn["id"]) == [
        ("proposal.propose", first),
        ("proposal.withdraw", first),
    ]
    page = await office.get("/admin/v1/audit?action=proposal.approve&limit=1")
    assert page["data"][0]["detail"]["generation"] == approved["generation"]
    assert page["next_cursor"] is not None
    following = await office.get(
        f"/admin/v1/audit?action=proposal.approve&limit=1&cursor={page['next_cursor']}"
    )
    assert int(following["data"][0]["id"]) < int(page["data"][0]["id"])
    reply = await office.call("GET", f"/admin/v1/audit?limit=1&cursor={page['next_cursor']}")
    assert reply.code == "invalid-cursor", "a cursor is good for its own filters"
