"""Which role decides which kind of proposal: every cell."""

from __future__ import annotations

import tomllib

import pytest

from gateway.kernel import scopes
from tests.house import CONFIG
from tests.operators.people import Person, person
from tests.payments.books import fresh_amount, paid
from tests.payments.stepping_up import change
from tests.proposals.test_refunds import proposed
from tests.rulebook.office import PLANS, POLICIES, PROPOSALS, Office, plan, policy

ROLES = tomllib.loads((CONFIG / "roles.toml").read_text())["roles"]
KINDS = {
    "plan": scopes.RULES_APPROVE,
    "policy": scopes.RULES_APPROVE,
    "refund": scopes.REFUNDS_APPROVE,
    "roles": scopes.OPERATORS_APPROVE,
    "review": scopes.REVIEWS_APPROVE,
    "break": scopes.RECONCILIATION_APPROVE,
}
REASON = {"reason": "not like this"}


@pytest.fixture(scope="module")
async def open_proposals(office: Office) -> dict[str, str]:
    """Ids of one proposal a kind; they have waited too long, so that deciding changes nothing."""
    house = office.house
    payment = await paid(house, 40, "visa", fresh_amount())
    someone = await person(house, "of-the-matrix", "viewer")
    await change(
        house,
        "INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status)"
        " VALUES ('rev_matrix', $1, 'conflict', 'matrix', 'two facts', 'open')",
        payment["id"],
    )
    await change(
        house,
        "INSERT INTO reconciliation_breaks (id, connector, business_day, kind, name, side)"
        " VALUES ('brk_matrix', 'humo', '2026-01-01', 'amount', 'matrix', 'payment')",
    )
    made = {
        "plan": (await office.propose(PLANS, plan("matrix")))["id"],
        "policy": (await office.propose(POLICIES, policy("matrix")))["id"],
        "refund": (await proposed(office, payment))["id"],
    }
    for kind, path, body in (
        ("roles", f"/operators/{someone.id}/proposals", {"roles": [], "note": "leaves"}),
        ("review", "/reviews/rev_matrix/proposals", {"outcome": "noted", "note": "seen"}),
        (
            "break",
            "/reconciliation/breaks/brk_matrix/proposals",
            {"action": "accept", "note": "known"},
        ),
    ):
        reply = await office.call("POST", f"/admin/v1{path}", body)
        assert reply.status == 201, reply.raw
        listed = await office.get(f"{PROPOSALS}?kind={kind}&limit=1")
        made[kind] = listed["data"][0]["id"]
    await change(
        house,
        "UPDATE proposals SET expires_at = now() WHERE id = ANY($1::text[])",
        list(made.values()),
    )
    return made


@pytest.fixture(scope="module")
async def crew(office: Office) -> dict[str, Person]:
    """One operator a role."""
    return {role: await person(office.house, f"matrix-{role}", role) for role in ROLES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", sorted(ROLES))
async def test_who_may_approve_what(
    open_proposals: dict[str, str], crew: dict[str, Person], role: str, kind: str
) -> None:
    """403 exactly where the role has not the kind's scope; otherwise it had waited too long."""
    given = ROLES[role]["scopes"]
    may = "*" in given or KINDS[kind] in given
    reply = await crew[role].call("POST", f"/proposals/{open_proposals[kind]}/approve")
    wanted = (409, "proposal-stale") if may else (403, "insufficient-scope")
    assert (reply.status, reply.code) == wanted, reply.raw


async def test_every_kind_is_in_the_matrix(office: Office) -> None:
    """One that is added is added here."""
    document = (await office.house.call("GET", "/openapi.json")).body
    names = document["components"]["schemas"]["ProposalView"]["properties"]["kind"]["enum"]
    assert set(names) == set(KINDS)
