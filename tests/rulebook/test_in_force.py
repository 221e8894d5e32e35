"""What is approved decides the very next payment on every worker, from its moment to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.core import record_json
from tests.house import House, Reply, running_house, until
from tests.rulebook.office import (
    APPROVED_WITHIN_S,
    PLANS,
    POLICIES,
    PROPOSALS,
    Office,
    moment,
    pay_alone,
    pay_everywhere,
    plan,
    policy,
    workers_of,
)

AMOUNT = 1_000_000


def shop_plan(house: House, percent: str, **changes: Any) -> dict[str, Any]:
    """Return a plan for the sandbox's merchant, over the one that is there."""
    components = [{"name": "bank", "kind": "percent", "percent": percent}]
    match = {"merchant": [house.merchant["id"]]}
    return plan("shop", match=match, components=components) | changes


def shop_policy(house: House, id: str = "shop-limit", **changes: Any) -> dict[str, Any]:
    match = {"merchant": [house.merchant["id"]]}
    return policy(id, match=match, max_amount=AMOUNT - 1) | changes


async def decided(house: House, payments: list[str]) -> list[dict[str, Any]]:
    """Return what payments were decided by, from what is stored of them."""
    rows = await house.rows(
        "SELECT record, commission_plan, commission_version FROM payments"
        " WHERE id = ANY($1::text[]) ORDER BY id",
        payments,
    )
    return [
        {
            "generation": msgspec.json.decode(record_json(row["record"]))["generation"],
            "plan": row["commission_plan"],
            "version": row["commission_version"],
        }
        for row in rows
    ]


async def assert_all_by(house: House, replies: list[Reply], generation: int, version: int) -> None:
    assert {reply.status for reply in replies} == {201}, [reply.raw for reply in replies]
    payments = [reply.body["id"] for reply in replies]
    for one in await decided(house, payments):
        assert one == {"generation": generation, "plan": "shop", "version": version}
    assert len(await workers_of(house, payments)) == 2, "both workers were asked"


@pytest.mark.fault(rows=[55], what="approved between payments on every worker")
async def test_the_next_payment_on_every_worker_is_decided_by_it(office: Office) -> None:
    house = office.house
    body = house.purchase(1, "humo", AMOUNT)
    for version, percent in ((1, "2"), (2, "3")):
        approved = await office.put(PLANS, shop_plan(house, percent))
        assert approved["version"] == version
        replies = await pay_everywhere(house, 1, body)
        await assert_all_by(house, replies, approved["generation"], version)
        assert {reply.body["commission"]["total"] for reply in replies} == {
            AMOUNT * int(percent) // 100
        }
    found = await office.get(f"{PLANS}/shop")
    assert found["active_version"] == 2
    assert [one["status"] for one in found["versions"]] == ["ended", "active"]
    assert found["versions"][0]["effective_to"] == found["versions"][1]["effective_from"]
    await office.delete(PLANS, "shop")
    found = await office.get(f"{PLANS}/shop")
    assert found["active_version"] is None
    replies = await pay_everywhere(house, 1, body, count=8)
    assert {reply.body["commission"]["plan"] for reply in replies} == {"purchase"}


async def test_an_earlier_version_comes_back_as_the_next(office: Office) -> None:
    house = office.house
    for percent in ("4", "5"):
        await office.put(PLANS, shop_plan(house, percent, id="shop-back"))
    reply = await office.call("POST", f"{PLANS}/shop-back/rollback", {"version": 1})
    assert reply.status == 201, reply.raw
    assert reply.body["based_on_version"] == 2
    approved = await office.approve(reply.body)
    assert (approved["version"], approved["status"]) == (3, "active")
    first = await office.get(f"{PLANS}/shop-back/versions/1")
    third = await office.get(f"{PLANS}/shop-back/versions/3")
    assert third["body"] == first["body"] | {"version": 3}
    paid = await house.pay(1, house.purchase(1, "humo", AMOUNT))
    commission = paid.body["commission"]
    assert (commission["plan"], commission["version"]) == ("shop-back", 3)
    assert commission["total"] == AMOUNT * 4 // 100
    await office.delete(PLANS, "shop-back")
    # What has ended can be brought back, too.
    reply = await office.call("POST", f"{PLANS}/shop-back/rollback", {"version": 2})
    assert reply.status == 201, reply.raw
    assert (await office.approve(reply.body))["version"] == 4
    await office.delete(PLANS, "shop-back")


async def test_a_limit_is_lowered_and_deleted(office: Office) -> None:
    house = office.house
    body = house.purchase(2, "humo", AMOUNT)
    async with office.in_force(POLICIES, shop_policy(house)):
        replies = await pay_everywhere(house, 2, body, count=12)
        assert {reply.code for reply in replies} == {"limit-exceeded"}
        assert {reply.body["errors"][0]["pointer"] for reply in replies} == {"/amount"}
        await office.put(POLICIES, shop_policy(house, max_amount=AMOUNT))
        replies = await pay_everywhere(house, 2, body, count=12)
        assert {reply.status for reply in replies} == {201}
        await office.put(POLICIES, shop_policy(house))
    replies = await pay_everywhere(house, 2, body, count=12)
    assert {reply.status for reply in replies} == {201}
    reply = await office.call("DELETE", f"{POLICIES}/shop-limit")
    assert (reply.status, reply.code) == (409, "invalid-state"), reply.raw


async def test_what_is_approved_for_later_begins_by_the_clock(office: Office) -> None:
    """Nobody does anything at its moment; before it the payment passes, from it on none does."""
    house = office.house
    at = moment(seconds=2.5)
    proposal = await office.propose(POLICIES, shop_policy(house, "shop-later", effective_from=at))
    approved = await office.approve(proposal)
    begins = datetime.fromisoformat(at)
    assert approved["status"] == "scheduled"
    assert datetime.fromisoformat(approved["effective_from"]) == begins
    found = await office.get(f"{POLICIES}/shop-later")
    assert found["active_version"] is None
    assert [one["version"] for one in found["scheduled"]] == [1]
    assert found["versions"][0]["status"] == "scheduled"

    replies: list[Reply] = []

    async def is_refused() -> bool:
        replies.append(await pay_alone(house, 3, house.purchase(3, "humo", AMOUNT)))
        return replies[-1].code == "limit-exceeded"

    await until(is_refused, within_s=10)
    assert [reply.status for reply in replies] == [201] * (len(replies) - 1) + [422]
    assert len(replies) > 1, "there was time before it"
    payments = [reply.body["id"] for reply in replies[:-1]]
    rows = await house.rows(
        "SELECT max(created_at) FROM payments WHERE id = ANY($1::text[])", payments
    )
    assert rows[0][0] < begins
    refusal = replies[-1].body["decision_id"]
    (row,) = await house.rows("SELECT created_at FROM refusals WHERE id = $1", refusal)
    assert row["created_at"] >= begins
    found = await office.get(f"{POLICIES}/shop-later")
    assert (found["active_version"], found["scheduled"]) == (1, [])
    assert (await office.get(f"{PROPOSALS}/{proposal['id']}"))["status"] == "active"
    replies = await pay_everywhere(house, 3, house.purchase(3, "humo", AMOUNT), count=8)
    assert {reply.code for reply in replies} == {"limit-exceeded"}
    await office.delete(POLICIES, "shop-later")


async def test_what_ends_ends_by_the_clock(office: Office) -> None:
    house = office.house
    until_then = moment(seconds=2)
    await office.put(POLICIES, shop_policy(house, "shop-short", effective_to=until_then))
    refused = await house.pay(4, house.purchase(4, "humo", AMOUNT))
    assert refused.code == "limit-exceeded", refused.raw

    async def passes() -> bool:
        return (await house.pay(4, house.purchase(4, "humo", AMOUNT))).status == 201

    await until(passes, within_s=10)
    found = await office.get(f"{POLICIES}/shop-short")
    assert found["versions"][0]["status"] == "ended"
    listed = await office.get(f"{POLICIES}?limit=100")
    assert "shop-short" not in {one["id"] for one in listed["data"]}


async def test_a_change_of_now_replaces_what_was_scheduled(office: Office) -> None:
    """And its proposal says so before it is approved."""
    await office.put(POLICIES, policy("planned", max_amount=1))
    later = await office.put(
        POLICIES, policy("planned", max_amount=2, effective_from=moment(days=1))
    )
    assert later["status"] == "scheduled"
    now = await office.propose(POLICIES, policy("planned", max_amount=3))
    assert len(now["warnings"]) == 1
    assert "Version 2" in now["warnings"][0]
    await office.approve(now)
    found = await office.get(f"{POLICIES}/planned")
    assert (found["active_version"], found["scheduled"]) == (3, [])
    statuses = [one["status"] for one in found["versions"]]
    assert statuses == ["ended", "superseded", "active"]
    assert (await office.get(f"{PROPOSALS}/{later['id']}"))["status"] == "superseded"


async def test_to_leave_an_operation_without_a_plan_is_warned_of(office: Office) -> None:
    reply = await office.call("DELETE", f"{PLANS}/payout")
    assert reply.status == 201, reply.raw
    assert (reply.body["action"], reply.body["body"]) == ("delete", None)
    (warning,) = reply.body["warnings"]
    assert "no plan covers payout" in warning
    body = without_range(await office.get(f"{PLANS}/payout/versions/1"))
    ending = await office.propose(PLANS, body | {"effective_to": moment(days=1)})
    (warning,) = ending["warnings"]
    assert "no plan covers payout" in warning
    withdrawn = await office.call(
        "POST", f"{PROPOSALS}/{reply.body['id']}/reject", {"reason": "a test"}
    )
    assert withdrawn.status == 200


def without_range(version: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = dict(version["body"])
    del body["version"]
    return body


async def test_many_changes_at_once_are_all_in_force(office: Office) -> None:
    """Different rules approved together each make a generation, without a gap."""
    before = await office.generation()
    proposals = [await office.propose(POLICIES, policy(f"many-{n}")) for n in range(8)]
    replies = await asyncio.gather(*(office.decide(one) for one in proposals))
    assert [reply.status for reply in replies] == [200] * 8
    generations = sorted(reply.body["generation"] for reply in replies)
    assert generations == list(range(before + 1, before + 9))
    listed = await office.get(f"{POLICIES}?limit=100")
    assert {f"many-{n}" for n in range(8)} <= {one["id"] for one in listed["data"]}
    rows = await office.house.rows("SELECT seq FROM rule_generations ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))


async def test_a_killed_worker_blocks_no_approval(office: Office) -> None:
    house = office.house
    proposal = await office.propose(POLICIES, policy("over-the-dead"))
    await house.kill_workers(1)
    began = time.monotonic()

    async def approved() -> bool:
        try:
            reply = await office.decide(proposal)
        except aiohttp.ClientError:
            # It met the worker that was killed.
            return False
        return reply.status == 200 or reply.code == "invalid-state"

    assert await until(approved, within_s=APPROVED_WITHIN_S)
    assert time.monotonic() - began < APPROVED_WITHIN_S
    assert (await office.get(f"{PROPOSALS}/{proposal['id']}"))["status"] == "active"
    await until(lambda: len(house.worker_pids()) == 2, within_s=20)
    await until(house.is_ready, within_s=20)


async def test_a_worker_that_slept_decides_nothing_by_old_rules() -> None:
    """The approval returns without it; when it wakes, it reads before money moves."""
    async with running_house(workers=2) as house:
        office = Office(house)
        body = house.purchase(1, "humo", AMOUNT)
        await office.put(PLANS, shop_plan(house, "2"))
        proposal = await office.propose(PLANS, shop_plan(house, "3"))
        asleep = house.worker_pids()[0]
        os.kill(asleep, signal.SIGSTOP)
        try:
            approved = await asyncio.wait_for(_decide_awake(office, proposal), 30)
        finally:
            os.kill(asleep, signal.SIGCONT)
        assert approved["version"] == 2
        replies = await pay_everywhere(house, 1, body, count=48)
        assert {reply.status for reply in replies} <= {201, 503}
        paid = [reply.body["id"] for reply in replies if reply.status == 201]
        assert {one["version"] for one in await decided(house, paid)} == {2}

        async def both_decide() -> bool:
            replies = await pay_everywhere(house, 1, body, count=8)
            return all(reply.status == 201 for reply in replies)

        await until(both_decide, within_s=10)


async def _decide_awake(office: Office, proposal: dict[str, Any]) -> dict[str, Any]:
    """Approve by whichever worker is awake: connections that the other got never answer."""
    path = f"{PROPOSALS}/{proposal['id']}"
    decisions: set[asyncio.Task[Reply]] = set()
    alone = {"Connection": "close"}
    began = time.monotonic()
    while True:
        decisions.add(
            asyncio.create_task(
                office.house.call("POST", f"{path}/approve", token=office.token(1), headers=alone)
            )
        )
        done, _ = await asyncio.wait(decisions, timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            decisions.discard(task)
            reply = task.result()
            if reply.status == 200:
                # It waited until what the sleeper had read was too old to decide by.
                assert time.monotonic() - began >= 4.5
                assert time.monotonic() - began < APPROVED_WITHIN_S + 3
                for other in decisions:
                    other.cancel()
                await asyncio.gather(*decisions, return_exceptions=True)
                approved: dict[str, Any] = reply.body
                return approved
            assert reply.code == "invalid-state", reply.raw


async def test_a_restart_keeps_the_rules() -> None:
    """What operators made is in force after it; the files are read once."""
    async with running_house() as house:
        office = Office(house)
        approved = await office.put(PLANS, shop_plan(house, "2"))
        await house.stop()
        await house.start()
        assert await office.generation() == approved["generation"]
        paid = await house.pay(1, house.purchase(1, "humo", AMOUNT))
        assert paid.status == 201, paid.raw
        assert await decided(house, [paid.body["id"]]) == [
            {"generation": approved["generation"], "plan": "shop", "version": 1}
        ]
