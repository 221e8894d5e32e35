"""Whatever an operator changes leaves a line in the audit log: every admin route that changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.house import House, new_key, running_house
from tests.identity.hammer import log_in
from tests.operators.people import Person, person
from tests.payments.books import fresh_amount, paid
from tests.payments.stepping_up import change
from tests.rulebook.office import PLANS, POLICIES, PROPOSALS, Office, moment, plan, policy

ADMIN = "/admin/v1"
REASON = {"reason": "not like this"}
# It changes nothing but the token in the operator's own hands.
WITHOUT = {f"POST {ADMIN}/auth/renew"}


@dataclass(slots=True)
class Act:
    """One request that changes something.

    Args:
        by: whose line it must be; by default the second operator of the sandbox.
        token: of whoever does it.
    """

    path: str
    body: Any = None
    by: str | None = None
    token: str | None = None
    headers: dict[str, str] | None = None
    is_public: bool = False


Prepare = Callable[[Office], Awaitable[Act]]
ACTS: dict[str, Prepare] = {}


def acts(label: str) -> Callable[[Prepare], Prepare]:
    """Say which route a preparation is of."""

    def register(prepare: Prepare) -> Prepare:
        assert label not in ACTS, f"{label} is prepared twice"
        ACTS[label] = prepare
        return prepare

    return register


@pytest.fixture(scope="module")
async def office() -> AsyncIterator[Office]:
    async with running_house() as house:
        yield Office(house)


async def fresh(office: Office) -> Person:
    """Return an operator who has just logged in."""
    return await person(office.house, f"p-{new_key()[-12:].replace('_', '-')}", "security")


# Rules --------------------------------------------------------------------------------------------


@acts(f"POST {PLANS}")
async def _(office: Office) -> Act:
    return Act(PLANS, plan("line-plan"))


@acts(f"POST {POLICIES}")
async def _(office: Office) -> Act:
    return Act(POLICIES, policy("line-policy"))


@acts(f"DELETE {PLANS}/{{id}}")
async def _(office: Office) -> Act:
    await office.put(PLANS, plan("line-gone"))
    return Act(f"{PLANS}/line-gone")


@acts(f"DELETE {POLICIES}/{{id}}")
async def _(office: Office) -> Act:
    await office.put(POLICIES, policy("line-gone"))
    return Act(f"{POLICIES}/line-gone")


@acts(f"POST {PLANS}/{{id}}/rollback")
async def _(office: Office) -> Act:
    for priority in (901, 902):
        await office.put(PLANS, plan("line-back", priority=priority))
    return Act(f"{PLANS}/line-back/rollback", {"version": 1})


@acts(f"POST {POLICIES}/{{id}}/rollback")
async def _(office: Office) -> Act:
    for amount in (1, 2):
        await office.put(POLICIES, policy("line-back", max_amount=amount))
    return Act(f"{POLICIES}/line-back/rollback", {"version": 1})


@acts(f"POST {PROPOSALS}/{{id}}/approve")
async def _(office: Office) -> Act:
    made = await office.propose(POLICIES, policy("line-approved"))
    return Act(f"{PROPOSALS}/{made['id']}/approve")


@acts(f"POST {PROPOSALS}/{{id}}/reject")
async def _(office: Office) -> Act:
    made = await office.propose(POLICIES, policy("line-rejected"))
    return Act(f"{PROPOSALS}/{made['id']}/reject", REASON)


@acts(f"POST {PROPOSALS}/{{id}}/withdraw")
async def _(office: Office) -> Act:
    made = await office.propose(POLICIES, policy("line-withdrawn"), by=1)
    return Act(f"{PROPOSALS}/{made['id']}/withdraw", REASON)


@acts(f"POST {ADMIN}/simulations")
async def _(office: Office) -> Act:
    return Act(f"{ADMIN}/simulations", {"from": moment(days=-1), "to": moment()})


@acts(f"DELETE {ADMIN}/simulations/{{id}}")
async def _(office: Office) -> Act:
    await change(
        office.house,
        "INSERT INTO simulations (id, draft, from_at, to_at, status, started_by, created_at,"
        " worker, lease_until) VALUES ('sim_line', '{}', now(), now(), 'running', 'opr', now(), 0,"
        " now() + interval '1 hour')",
    )
    return Act(f"{ADMIN}/simulations/sim_line")


# Operators ----------------------------------------------------------------------------------------


@acts(f"POST {ADMIN}/auth/login")
async def _(office: Office) -> Act:
    who = await fresh(office)
    body = {"login": who.login, "password": "correct horse battery staple", "code": who.code()}
    return Act(f"{ADMIN}/auth/login", body, by=who.id, is_public=True)


@acts(f"POST {ADMIN}/auth/logout")
async def _(office: Office) -> Act:
    who = await fresh(office)
    return Act(f"{ADMIN}/auth/logout", by=who.id, token=who.token)


@acts(f"POST {ADMIN}/auth/step-up")
async def _(office: Office) -> Act:
    who = await fresh(office)
    return Act(f"{ADMIN}/auth/step-up", {"code": who.code()}, by=who.id, token=who.token)


@acts(f"POST {ADMIN}/operators/{{id}}/proposals")
async def _(office: Office) -> Act:
    who = await fresh(office)
    return Act(f"{ADMIN}/operators/{who.id}/proposals", {"roles": ["risk"], "note": "moves"})


async def _change_of_roles(office: Office) -> str:
    who = await fresh(office)
    body = {"roles": ["risk"], "note": "moves"}
    reply = await office.call("POST", f"{ADMIN}/operators/{who.id}/proposals", body)
    return f"{ADMIN}/operator-proposals/{reply.body['id']}"


@acts(f"POST {ADMIN}/operator-proposals/{{id}}/approve")
async def _(office: Office) -> Act:
    return Act(f"{await _change_of_roles(office)}/approve")


@acts(f"POST {ADMIN}/operator-proposals/{{id}}/reject")
async def _(office: Office) -> Act:
    return Act(f"{await _change_of_roles(office)}/reject")


# Customers and clients ----------------------------------------------------------------------------


@acts(f"DELETE {ADMIN}/sessions/{{id}}")
async def _(office: Office) -> Act:
    login = await log_in(office.house)
    return Act(f"{ADMIN}/sessions/{login.session_id}")


@acts(f"POST {ADMIN}/revocations")
async def _(office: Office) -> Act:
    return Act(f"{ADMIN}/revocations", {"kind": "sub", "value": "usr_nobody"})


@acts(f"PUT {ADMIN}/clients/{{id}}/limits")
async def _(office: Office) -> Act:
    path = f"{ADMIN}/clients/sandbox-shop/limits"
    shown = await office.call("GET", path)
    body = {"rate_per_s": None, "burst": None, "concurrency_max": 1_000, "networks": []}
    return Act(path, body, headers={"If-Match": shown.headers["etag"]})


# Payments -----------------------------------------------------------------------------------------


@acts(f"POST {ADMIN}/payments/{{id}}/refunds")
async def _(office: Office) -> Act:
    payment = await paid(office.house, 0, "visa", fresh_amount())
    body = {"amount": 1, "reason": "a kindness"}
    return Act(f"{ADMIN}/payments/{payment['id']}/refunds", body)


async def _review(office: Office, number: int) -> str:
    payment = await paid(office.house, 1, "visa", fresh_amount())
    await change(
        office.house,
        "INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status)"
        " VALUES ($1, $2, 'conflict', $1, 'two facts', 'open')",
        f"rev_line{number}",
        payment["id"],
    )
    return f"{ADMIN}/reviews/rev_line{number}"


@acts(f"POST {ADMIN}/reviews/{{id}}/proposals")
async def _(office: Office) -> Act:
    return Act(f"{await _review(office, 1)}/proposals", {"outcome": "noted", "note": "seen"})


@acts(f"POST {ADMIN}/reviews/{{id}}/approve")
async def _(office: Office) -> Act:
    path = await _review(office, 2)
    body = {"outcome": "noted", "note": "seen"}
    assert (await office.call("POST", f"{path}/proposals", body)).status == 201
    return Act(f"{path}/approve")


# Reconciliation -----------------------------------------------------------------------------------


@acts(f"POST {ADMIN}/reconciliation/imports")
async def _(office: Office) -> Act:
    await paid(office.house, 2, "humo", fresh_amount())
    return Act(
        f"{ADMIN}/reconciliation/imports",
        {"connector": "humo", "business_day": moment(hours=5)[:10]},
    )


async def _break(office: Office, number: int) -> str:
    await change(
        office.house,
        "INSERT INTO reconciliation_breaks (id, connector, business_day, kind, name, side)"
        " VALUES ($1, 'humo', '2026-01-01', 'amount', $1, 'payment')",
        f"brk_00000000000{number}",
    )
    return f"{ADMIN}/reconciliation/breaks/brk_00000000000{number}"


@acts(f"POST {ADMIN}/reconciliation/breaks/{{id}}/proposals")
async def _(office: Office) -> Act:
    return Act(f"{await _break(office, 8)}/proposals", {"action": "accept", "note": "known"})


@acts(f"POST {ADMIN}/reconciliation/breaks/{{id}}/approve")
async def _(office: Office) -> Act:
    path = await _break(office, 9)
    body = {"action": "accept", "note": "known"}
    assert (await office.call("POST", f"{path}/proposals", body)).status == 201
    return Act(f"{path}/approve")


# The tests ----------------------------------------------------------------------------------------


async def test_every_admin_route_that_changes_something_is_tried(office: Office) -> None:
    """One that is added is added here, with what it leaves in the log."""
    document = (await office.house.call("GET", "/openapi.json")).body
    changing = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith(ADMIN) and method in ("post", "put", "patch", "delete")
    }
    assert changing - WITHOUT == set(ACTS)


async def lines_after(house: House, last: int) -> list[tuple[str, str]]:
    """Who did what since."""
    rows = await house.rows(
        "SELECT actor, action FROM audit_log WHERE id > $1 AND hash IS NOT NULL ORDER BY id", last
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("label", sorted(ACTS))
async def test_what_an_operator_changes_leaves_a_line(office: Office, label: str) -> None:
    """Of the operator who did it, chained, by the time the answer is there."""
    house = office.house
    act = await ACTS[label](office)
    (newest,) = await house.rows("SELECT coalesce(max(id), 0) AS id FROM audit_log")
    reply = await house.call(
        label.split(" ")[0],
        act.path,
        act.body,
        token=None if act.is_public else act.token or office.token(1),
        key=new_key(),
        headers=act.headers,
    )
    assert reply.status < 300, reply.raw
    by = act.by or office.id(1)
    found = await lines_after(house, newest["id"])
    assert [actor for actor, _ in found] == [by], found
