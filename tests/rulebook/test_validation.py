"""What cannot be used is refused when it is proposed, all of it at once, and nothing stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.rulebook.office import PLANS, POLICIES, SIMULATIONS, Office, moment, plan, policy


@pytest.fixture(autouse=True)
async def nothing_left(office: Office) -> AsyncIterator[None]:
    """After a refusal there is what there was before."""
    before = await _everything(office)
    yield
    assert await _everything(office) == before


async def _everything(office: Office) -> dict[str, int]:
    tables = (
        "rule_proposals", "rule_generations", "rule_ranges", "commission_plans",
        "limit_policies", "simulations", "audit_log",
    )  # fmt: skip
    return {
        table: (await office.house.rows(f"SELECT count(*) FROM {table}"))[0][0] for table in tables
    }


async def faults(office: Office, path: str, body: Any) -> dict[str, str]:
    """Propose what cannot be used, and return what is wrong with it by pointer."""
    reply = await office.call("POST", path, body)
    assert reply.status == 422, reply.raw
    assert reply.code in ("rules-invalid", "unknown-member"), reply.raw
    errors = reply.body["errors"]
    found = {one["pointer"]: one["detail"] for one in errors}
    assert len(found) == len(errors), "each place is named once"
    return found


def component(**changes: Any) -> dict[str, Any]:
    return plan("p", components=[{"name": "c", "kind": "percent", "percent": "1"} | changes])


def tiers(*tiers: dict[str, Any]) -> dict[str, Any]:
    return plan(
        "p", components=[{"name": "c", "kind": "tiered", "mode": "volume", "tiers": list(tiers)}]
    )


def shares(*shares: tuple[str, str]) -> dict[str, Any]:
    return plan("p", split=[{"party": party, "share": share} for party, share in shares])


def window(**window: Any) -> dict[str, Any]:
    return policy("p", window=window)


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


BAD_PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown member": (plan("p", surprise=1), "/surprise"),
    "a version": (plan("p", version=2), "/version"),
    "no id": (without(plan("p"), "id"), "/id"),
    "an id with a space": (plan("a plan"), "/id"),
    "an id that is no text": (plan("p") | {"id": 7}, "/id"),
    "no payer": (without(plan("p"), "payer"), "/payer"),
    "an unknown payer": (plan("p", payer="nobody"), "/payer"),
    "a priority that is no integer": (plan("p", priority="1"), "/priority"),
    "a component that is no object": (plan("p", components=[7]), "/components/0"),
    "components that are no list": (plan("p", components={}), "/components"),
    "an unknown kind": (component(kind="magic"), "/components/0/kind"),
    "an unknown member inside": (component(surprise=1), "/components/0/surprise"),
    "another kind's member": (component(amount=1), "/components/0/amount"),
    "a percent that is a number": (component(percent=1), "/components/0/percent"),
    "a percent over 100": (component(percent="100.000001"), "/components/0/percent"),
    "a negative percent": (component(percent="-1"), "/components/0/percent"),
    "a percent of seven digits": (component(percent="0.1234567"), "/components/0/percent"),
    "min over max": (component(min=2, max=1), "/components/0/min"),
    "a negative cap": (component(max=-1), "/components/0/max"),
    "a cap over 10^15": (component(max=10**15 + 1), "/components/0/max"),
    "a cap beyond any integer": (component(max=10**40), "/components/0/max"),
    "an unknown rounding": (component(rounding="nearest"), "/components/0/rounding"),
    "a bad VAT": (component(vat_percent="twelve"), "/components/0/vat_percent"),
    "two components of a name": (
        plan("p", components=[{"name": "c", "kind": "fixed", "amount": 1}] * 2),
        "/components/1/name",
    ),
    "tiers out of order": (
        tiers({"up_to": 10, "percent": "1"}, {"up_to": 10, "percent": "2"}, {"up_to": None}),
        "/components/0/tiers/1/up_to",
    ),
    "a tier after the last": (
        tiers({"up_to": None, "percent": "1"}, {"up_to": None, "percent": "2"}),
        "/components/0/tiers/1",
    ),
    "a last tier that ends": (tiers({"up_to": 10, "percent": "1"}), "/components/0/tiers"),
    "no tiers": (tiers(), "/components/0/tiers"),
    "shares that are not 100": (shares(("bank", "60"), ("partner", "39.999999")), "/split"),
    "a party with two shares": (shares(("bank", "60"), ("bank", "40")), "/split"),
    "an unknown match key": (plan("p", match={"device": ["d"]}), "/match/device"),
    "a match that is no list": (plan("p", match={"tier": "basic"}), "/match/tier"),
    "an unknown operation": (plan("p", match={"operation": ["pay"]}), "/match/operation/0"),
    "a match of no text": (plan("p", match={"mcc": [5411]}), "/match/mcc/0"),
    "an unknown on_refund": (plan("p", on_refund="some"), "/on_refund"),
    "a beginning in the past": (plan("p", effective_from=moment(seconds=-1)), "/effective_from"),
    "a beginning without an offset": (
        plan("p", effective_from="2999-01-01T00:00:00"), "/effective_from",
    ),
    "a beginning that is no date": (
        plan("p", effective_from="2999-02-30T00:00:00Z"), "/effective_from",
    ),
    "a beginning that is no text": (plan("p", effective_from=0), "/effective_from"),
    "an end in the past": (plan("p", effective_to=moment(seconds=-1)), "/effective_to"),
    "an end before the beginning": (
        plan("p", effective_from=moment(hours=2), effective_to=moment(hours=1)), "/effective_to",
    ),
    "an end after the end of time": (
        plan("p", effective_to="9999-12-31T23:59:59Z"), "/effective_to",
    ),
}  # fmt: skip

BAD_POLICIES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown member": (policy("p", surprise=1), "/surprise"),
    "a version": (policy("p", version=1), "/version"),
    "no id": (without(policy("p"), "id"), "/id"),
    "an unknown subject": (policy("p", subject="terminal"), "/subject"),
    "no window": (without(policy("p"), "window"), "/window"),
    "an unknown window": (window(kind="sliding"), "/window/kind"),
    "an unknown unit": (window(kind="calendar", unit="decade"), "/window/unit"),
    "no unit": (window(kind="calendar"), "/window/unit"),
    "59 seconds": (window(kind="rolling", seconds=59), "/window/seconds"),
    "over 31 days": (window(kind="rolling", seconds=31 * 86_400 + 1), "/window/seconds"),
    "no seconds": (window(kind="rolling"), "/window/seconds"),
    "seconds of a calendar window": (
        window(kind="calendar", unit="day", seconds=60), "/window/seconds",
    ),
    "an unknown member inside": (window(kind="operation", surprise=1), "/window/surprise"),
    "no cap": (without(policy("p"), "max_amount"), ""),
    "a negative cap": (policy("p", max_amount=-1), "/max_amount"),
    "a cap that is no integer": (policy("p", max_amount="1"), "/max_amount"),
    "a negative count": (policy("p", max_count=-1), "/max_count"),
    "min over max": (policy("p", min_amount=2, max_amount=1), "/min_amount"),
    "a min of a window": (
        policy("p", min_amount=1, window={"kind": "calendar", "unit": "day"}), "/min_amount",
    ),
    "no currency": (without(policy("p"), "currency"), "/currency"),
    "a currency that is none": (policy("p", currency="som"), "/currency"),
    "an unknown match key": (policy("p", match={"currency": ["UZS"]}), "/match/currency"),
    "an unknown on_breach": (policy("p", on_breach="ignore"), "/on_breach"),
    "a restore that is no boolean": (policy("p", restore_on_refund="yes"), "/restore_on_refund"),
    "a beginning in the past": (
        policy("p", effective_from=moment(seconds=-1)), "/effective_from",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "pointer"), BAD_PLANS.values(), ids=BAD_PLANS)
async def test_a_bad_plan_is_refused(office: Office, body: Any, pointer: str) -> None:
    assert set(await faults(office, PLANS, body)) == {pointer}


@pytest.mark.parametrize(("body", "pointer"), BAD_POLICIES.values(), ids=BAD_POLICIES)
async def test_a_bad_policy_is_refused(office: Office, body: Any, pointer: str) -> None:
    assert set(await faults(office, POLICIES, body)) == {pointer}


async def test_everything_wrong_is_told_at_once(office: Office) -> None:
    body = component(percent="200", min=9, max=1) | {
        "version": 3,
        "payer": "nobody",
        "split": [{"party": "bank", "share": "99"}],
        "match": {"colour": ["red"]},
        "effective_from": moment(days=-1),
    }
    assert set(await faults(office, PLANS, body)) == {
        "/version",
        "/payer",
        "/split",
        "/match/colour",
        "/effective_from",
        "/components/0/percent",
        "/components/0/min",
    }


@pytest.mark.parametrize("path", [PLANS, POLICIES])
@pytest.mark.parametrize("body", [[], "text", 7, None])
async def test_what_is_no_object_is_refused(office: Office, path: str, body: Any) -> None:
    token = office.token(0)
    headers = {"Content-Type": "application/json"}
    text = {"[]": b"[]", "'text'": b'"text"', "7": b"7", "None": b"null"}[repr(body)]
    reply = await office.house.call("POST", path, token=token, headers=headers, data=text)
    assert (reply.status, reply.code) == (422, "rules-invalid"), reply.raw
    assert reply.body["errors"] == [{"pointer": "", "detail": "Must be an object."}]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"id": "p", "id": "p"}', "duplicate-member"),
        (b'{"id": NaN}', "malformed-json"),
        (b'{"id": "p",}', "malformed-json"),
        (b"\xff", "invalid-encoding"),
        (b'{"priority": 1.5}', "schema-violation"),
        (b"[" * 33, "too-deep"),
        (b"", "malformed-json"),
    ],
)
async def test_bodies_are_read_strictly(office: Office, text: bytes, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = await office.house.call(
        "POST", PLANS, token=office.token(0), headers=headers, data=text
    )
    assert reply.code == code, reply.raw


async def test_a_plan_that_could_match_what_another_does_is_refused(office: Office) -> None:
    """Of equal priority, at a time when both are in force; told at the plan itself."""
    twin = plan("p", priority=100, match={"operation": ["purchase"], "tier": ["basic"]})
    found = await faults(office, PLANS, twin)
    assert set(found) == {""}
    assert "purchase version 1" in found[""]
    later = plan("p", priority=100, match={}, effective_from=moment(days=400))
    assert set(await faults(office, PLANS, later)) == {""}


async def test_nobody_but_operators_proposes(office: Office) -> None:
    house = office.house
    customer = house.user(0)["access_token"]
    merchant = await house.merchant_token()
    for token in (customer, merchant):
        for method, path in (("POST", PLANS), ("GET", POLICIES), ("GET", "/admin/v1/audit")):
            reply = await house.call(
                method, path, plan("p") if method == "POST" else None, token=token
            )
            assert (reply.status, reply.code) == (403, "insufficient-scope"), path
    reply = await house.call("POST", POLICIES, policy("p"))
    assert (reply.status, reply.code) == (401, "unauthenticated")


@pytest.mark.parametrize("path", [PLANS, POLICIES])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_rule_is_not_found(office: Office, method: str, path: str) -> None:
    reply = await office.call(method, f"{path}/nobody-made-it")
    assert (reply.status, reply.code) == (404, "not-found")


@pytest.mark.parametrize("version", ["0", "2", "one", "99999999999", "-1", "1.0", "\u0661"])
async def test_an_unknown_version_is_not_found(office: Office, version: str) -> None:
    reply = await office.call("GET", f"{PLANS}/purchase/versions/{version}")
    assert (reply.status, reply.code) == (404, "not-found")


async def test_a_rollback_to_nowhere_is_refused(office: Office) -> None:
    reply = await office.call("POST", f"{PLANS}/purchase/rollback", {"version": 7})
    assert (reply.status, reply.code) == (404, "not-found")
    reply = await office.call(
        "POST", f"{PLANS}/purchase/rollback", {"version": 1, "effective_from": "soon"}
    )
    assert (reply.status, reply.code) == (422, "rules-invalid"), reply.raw
    assert [one["pointer"] for one in reply.body["errors"]] == ["/effective_from"]
    reply = await office.call("POST", f"{PLANS}/purchase/rollback", {"version": 0})
    assert (reply.status, reply.code) == (422, "schema-violation")


@pytest.mark.parametrize("when", ["soon", "2020-01-01T00:00:00Z"])
async def test_a_deletion_begins_later_or_at_approval(office: Office, when: str) -> None:
    reply = await office.call("DELETE", f"{PLANS}/purchase?effective_from={when}")
    assert (reply.status, reply.code) == (400, "invalid-query"), reply.raw


BAD_SIMULATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "moments that are none": ({"from": "then", "to": "now"}, {"/from", "/to"}),
    "nothing between": ({"from": moment(), "to": moment(days=-1)}, {"/from"}),
    "only what is to come": ({"from": moment(days=1), "to": moment(days=2)}, {"/from"}),
    "a bad draft": (
        {"commission_plans": [plan("a"), component(percent="x")]},
        {"/commission_plans/1/components/0/percent"},
    ),
    "two of one id": (
        {"limit_policies": [policy("a"), policy("a")]}, {"/limit_policies/1"},
    ),
    "drafts that meet each other": (
        {"commission_plans": [plan("a"), plan("b") | {"match": plan("a")["match"]}]},
        {"/commission_plans/1"},
    ),
    "a version": ({"limit_policies": [policy("a", version=1)]}, {"/limit_policies/0/version"}),
    "a draft that is no object": ({"limit_policies": [1]}, {"/limit_policies/0"}),
    "deletions of what never was": (
        {"delete": {"commission_plans": ["a"], "limit_policies": ["b"]}},
        {"/delete/commission_plans/0", "/delete/limit_policies/0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "pointers"), BAD_SIMULATIONS.values(), ids=BAD_SIMULATIONS)
async def test_a_bad_simulation_is_refused(
    office: Office, body: dict[str, Any], pointers: set[str]
) -> None:
    whole = {"from": moment(days=-1), "to": moment()} | body
    assert set(await faults(office, SIMULATIONS, whole)) == pointers
