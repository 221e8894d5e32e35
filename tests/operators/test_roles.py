"""Who may call what: every admin route with every role, and roles changed by four eyes."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.kernel import scopes
from tests.house import House, running_house
from tests.operators.people import Person, person

CONFIG = Path(__file__).resolve().parents[2] / "config"
ROLES = tomllib.loads((CONFIG / "roles.toml").read_text())["roles"]
# Public, or for anybody who is logged in.
WITHOUT = {
    "POST /admin/v1/auth/login",
    "POST /admin/v1/auth/logout",
    "POST /admin/v1/auth/renew",
    "POST /admin/v1/auth/step-up",
}


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    async with running_house() as house:
        yield house


@pytest.fixture(scope="module")
async def crew(house: House) -> dict[str, Person]:
    """One operator a role."""
    return {role: await person(house, f"the-{role}", role) for role in ROLES}


async def asked_scopes(house: House) -> dict[str, str]:
    """Return the scope that the OpenAPI document names for each admin operation."""
    document = (await house.call("GET", "/openapi.json")).body
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            label = f"{method.upper()} {path}"
            if path.startswith("/admin/") and label not in WITHOUT:
                (scope,) = operation["security"][1]["oauth"]
                found[label] = scope
    return found


def somewhere(label: str) -> tuple[str, str]:
    """Return an operation's method, and a path of it that names nothing there is."""
    method, path = label.split(" ")
    return method, path.replace("{", "no-").replace("}", "")


async def test_every_admin_route_has_a_scope_of_its_own_kind(house: House) -> None:
    """And every scope is asked for by some route, but those that handlers look at themselves."""
    asked = set((await asked_scopes(house)).values())
    assert asked == set(scopes.ADMIN) - scopes.ASKED_INSIDE


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_the_matrix(house: House, crew: dict[str, Person], role: str) -> None:
    """Each cell: refused with 403 exactly where the role does not name the route's scope."""
    given = set(scopes.with_implied(ROLES[role]["scopes"]))
    for label, scope in (await asked_scopes(house)).items():
        method, path = somewhere(label)
        reply = await house.call(method, path, token=crew[role].token)
        is_permitted = "*" in given or scope in given
        is_refused = (reply.status, reply.code) == (403, "insufficient-scope")
        assert is_refused is not is_permitted, f"{role} at {label} ({scope}): {reply.raw!r}"


async def test_customers_and_merchants_are_no_operators(house: House) -> None:
    """No admin route takes their tokens."""
    merchant = await house.merchant_token()
    for label in await asked_scopes(house):
        method, path = somewhere(label)
        for token in (house.user(0)["access_token"], merchant):
            reply = await house.call(method, path, token=token)
            assert reply.code == "insufficient-scope", f"{label}: {reply.raw!r}"


async def test_roles_are_changed_by_two_others(house: House, crew: dict[str, Person]) -> None:
    """Neither who asks nor whom it is about approves; the sessions end, and the next has them."""
    security, chief = crew["security"], crew["administrator"]
    third = await person(house, "third", "security")
    path = f"/operators/{third.id}/proposals"
    unknown = await security.call("POST", path, {"roles": ["king"], "note": "no"})
    assert (unknown.status, unknown.code) == (422, "schema-violation")
    asked = await security.call("POST", path, {"roles": ["risk"], "note": "moves over"})
    assert asked.status == 201, asked.raw
    approve = f"/operator-proposals/{asked.body['id']}/approve"
    for own in (security, third):
        refused = await own.call("POST", approve)
        assert (refused.status, refused.code) == (403, "four-eyes-required")
    assert (await chief.call("POST", approve)).status == 200
    ended = await third.call("GET", "/audit")
    assert (ended.status, ended.code) == (401, "invalid-token")
    again = await chief.call("POST", approve)
    assert (again.status, again.code) == (409, "invalid-state")
    assert (await third.log_in()).status == 200
    assert (await third.call("GET", "/limit-policies")).status == 200
    assert (await third.call("GET", "/audit")).code == "insufficient-scope"


async def test_who_is_disabled_does_not_log_in(house: House, crew: dict[str, Person]) -> None:
    """Disabled by four eyes: tokens end, and password and code are not enough any more."""
    leaver = await person(house, "leaver", "viewer")
    change = {"roles": [], "note": "left", "is_disabled": True}
    asked = await crew["security"].call("POST", f"/operators/{leaver.id}/proposals", change)
    path = f"/operator-proposals/{asked.body['id']}/approve"
    approved = await crew["administrator"].call("POST", path)
    assert approved.status == 200, approved.raw
    assert (await leaver.call("GET", "/reviews")).status == 401
    assert (await leaver.log_in()).status == 401
    shown = await crew["security"].call("GET", f"/operators/{leaver.id}")
    assert (shown.body["is_disabled"], shown.body["scopes"]) == (True, [])
