"""A session that ends takes with it what waits for its confirmation, however it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.house import House, running_house, until
from tests.identity.hammer import Login
from tests.payments.stepping_up import (
    AMOUNT,
    careful_config,
    change,
    code_of,
    confirm,
    log_in,
    status_of,
    waiting,
)

DEVICES_MAX = 3


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house where transfers wait for a code, and a customer has few devices."""
    devices = {
        "devices_max = 10": f"devices_max = {DEVICES_MAX}",
        "code_sends_max = 5": "code_sends_max = 50",
        "code_resend_s = 30": "code_resend_s = 0",
    }
    with careful_config(**devices) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def operator(house: House) -> str:
    return str(house.description["operators"][0]["access_token"])


async def revoke(house: House, kind: str, value: str) -> None:
    reply = await house.call(
        "POST", "/admin/v1/revocations", {"kind": kind, "value": value}, token=operator(house)
    )
    assert reply.status == 201, reply.raw


async def by_itself(house: House, user: int, login: Login) -> str:
    path = f"/v1/sessions/{login.session_id}"
    assert (await house.call("DELETE", path, token=login.access_token)).status == 204
    return login.user_id


async def by_another_device(house: House, user: int, login: Login) -> str:
    token = house.user(user)["access_token"]
    reply = await house.call("POST", "/v1/sessions/revoke-others", token=token)
    assert reply.body["revoked"] >= 1
    return login.user_id


async def by_its_refresh_token(house: House, user: int, login: Login) -> str:
    form = {"token": login.refresh_token}
    assert (await house.call("POST", "/oauth/revoke", data=form)).status == 200
    return login.user_id


async def by_reuse(house: House, user: int, login: Login) -> str:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": login.refresh_token,
        "device_id": "of a thief",
    }
    assert (await house.call("POST", "/oauth/token", data=form)).code == "invalid-grant"
    return "sessions"


async def by_newer_devices(house: House, user: int, login: Login) -> str:
    for _ in range(DEVICES_MAX):
        await log_in(house, user)
    return login.user_id


async def by_an_operator(house: House, user: int, login: Login) -> str:
    path = f"/admin/v1/sessions/{login.session_id}"
    assert (await house.call("DELETE", path, token=operator(house))).status == 204
    return str(house.description["operators"][0]["id"])


async def by_sid(house: House, user: int, login: Login) -> str:
    await revoke(house, "sid", login.session_id)
    return str(house.description["operators"][0]["id"])


async def by_sub(house: House, user: int, login: Login) -> str:
    await revoke(house, "sub", login.user_id)
    return str(house.description["operators"][0]["id"])


End = Callable[[House, int, Login], Awaitable[str]]
WAYS: list[tuple[int, End, str]] = [
    (0, by_itself, "logout"),
    (1, by_another_device, "others"),
    (2, by_its_refresh_token, "logout"),
    (3, by_reuse, "reuse"),
    (4, by_newer_devices, "devices"),
    (5, by_an_operator, "operator"),
    (6, by_sid, "operator"),
    (7, by_sub, "operator"),
]


async def assert_canceled(house: House, payment: dict[str, Any], login: Login, by: str) -> None:
    """It is canceled as the call returned; its event is told, its line is written, no more."""
    assert await status_of(house, payment["id"]) == "canceled"
    events = await house.rows(
        "SELECT type, data ->> 'status' AS status FROM outbox WHERE payment_id = $1", payment["id"]
    )
    assert [tuple(one) for one in events] == [("payment.canceled", "canceled")]
    lines = await house.rows(
        "SELECT actor, action, detail ->> 'session' AS session FROM audit_log WHERE object = $1",
        payment["id"],
    )
    assert [tuple(one) for one in lines] == [(by, "payment.cancel", login.session_id)]
    postings = "SELECT count(*) FROM postings WHERE entry_id = $1"
    assert (await house.rows(postings, payment["id"]))[0][0] == 0
    attempts = "SELECT count(*) FROM attempts WHERE payment_id = $1"
    assert (await house.rows(attempts, payment["id"]))[0][0] == 0


async def remaining(house: House, user: int, token: str) -> Any:
    """Return the headroom of a card for a transfer, policy by policy."""
    card = house.user(user)["cards"]["uzcard"]
    reply = await house.call("GET", f"/v1/limits?card={card}&operation=transfer", token=token)
    assert reply.status == 200, reply.raw
    return [(one["policy"], one["used_amount"], one["used_count"]) for one in reply.body["limits"]]


@pytest.mark.parametrize(
    ("user", "end", "reason"), WAYS, ids=lambda one: getattr(one, "__name__", "")
)
async def test_an_end_cancels_what_waits_for_it(
    house: House, user: int, end: End, reason: str
) -> None:
    """At once; another session's stays, and the code that was sent helps nobody."""
    login = await log_in(house, user)
    before = await remaining(house, user, login.access_token)
    payment = await waiting(house, user, token=login.access_token)
    code = await code_of(house, user)
    by = await end(house, user, login)
    await assert_canceled(house, payment, login, by)
    (row,) = await house.rows(
        "SELECT end_reason, ended_by FROM sessions WHERE id = $1", login.session_id
    )
    assert tuple(row) == (reason, by)
    # A token of this very second is one of those issued until now.
    ended_s = int(time.time())
    await until(lambda: int(time.time()) > ended_s, within_s=5)
    later = await log_in(house, user)
    assert await remaining(house, user, later.access_token) == before
    late = await confirm(house, user, payment["id"], code, token=later.access_token)
    assert (late.status, late.code) == (409, "invalid-state"), late.raw


async def test_what_another_session_waits_for_stays(house: House) -> None:
    """And can be confirmed."""
    login = await log_in(house, 10)
    kept = await waiting(house, 10)
    code = await code_of(house, 10)
    await by_itself(house, 10, login)
    assert await status_of(house, kept["id"]) == "requires_action"
    paid = await confirm(house, 10, kept["id"], code)
    assert (paid.status, paid.body["status"]) == (201, "succeeded"), paid.raw


async def test_a_session_that_is_over_confirms_nothing_by_another(house: House) -> None:
    """As old as it may become, though nobody has looked yet: its payment is not confirmed."""
    login, other = await log_in(house, 11), await log_in(house, 11)
    payment = await waiting(house, 11, token=login.access_token)
    code = await code_of(house, 11)
    await change(
        house,
        "UPDATE sessions SET created_at = created_at - interval '1 year' WHERE id = $1",
        login.session_id,
    )
    late = await confirm(house, 11, payment["id"], code, token=other.access_token)
    assert (late.status, late.code) == (409, "invalid-state"), late.raw
    assert await status_of(house, payment["id"]) != "succeeded"


async def test_a_confirmation_and_an_end_at_once_agree(house: House) -> None:
    """Either it was paid or it was canceled, and the processor holds the same."""
    for user in range(12, 20):
        login = await log_in(house, user)
        payment = await waiting(house, user, token=login.access_token)
        code = await code_of(house, user)
        reply, _ = await asyncio.gather(
            confirm(house, user, payment["id"], code, token=login.access_token),
            by_an_operator(house, user, login),
        )
        status = await status_of(house, payment["id"])
        assert status == ("succeeded" if reply.status == 201 else "canceled"), reply.raw
        refs = await house.rows("SELECT id FROM attempts WHERE payment_id = $1", payment["id"])
        found = [await house.ledger("uzcard", row["id"]) for row in refs]
        assert bool(any(found)) is (status == "succeeded")


async def test_nothing_waits_for_a_session_that_has_ended(house: House) -> None:
    """A payment that was on its way while its session ended is refused or canceled."""
    for user in range(20, 26):
        login = await log_in(house, user)
        body = house.transfer(user, "uzcard", user + 1, "uzcard", AMOUNT)
        headers = {"Idempotency-Key": f"race-{user}"}
        replies = await asyncio.gather(
            house.call("POST", "/v1/payments", body, token=login.access_token, headers=headers),
            by_an_operator(house, user, login),
        )
        assert replies[0].status in (201, 401), replies[0].raw
        left = await house.rows(
            "SELECT p.id FROM payments p JOIN step_ups s ON s.payment_id = p.id"
            " WHERE s.session_id = $1 AND p.status = 'requires_action'",
            login.session_id,
        )
        assert left == []


async def test_killed_in_the_middle_an_end_and_what_it_cancels_are_one(house: House) -> None:
    """kill -9 of both workers among the ends: of each session both are done, or neither."""
    logins = {user: await log_in(house, user) for user in range(30, 46)}
    payments = {
        user: await waiting(house, user, token=login.access_token) for user, login in logins.items()
    }

    async def ended(user: int) -> bool:
        path = f"/admin/v1/sessions/{logins[user].session_id}"
        try:
            reply = await house.call("DELETE", path, token=operator(house))
        except aiohttp.ClientError:
            return False
        return reply.status == 204

    ends = [asyncio.create_task(ended(user)) for user in logins]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await house.kill_workers()
    await asyncio.gather(*ends)
    both = (
        "SELECT p.status = 'canceled' AS is_canceled, s.ended_at IS NOT NULL AS has_ended"
        " FROM step_ups u JOIN sessions s ON s.id = u.session_id"
        " JOIN payments p ON p.id = u.payment_id WHERE p.id = ANY($1::text[])"
    )
    found = await house.rows(both, [one["id"] for one in payments.values()])
    assert len(found) == len(logins)
    assert all(row["is_canceled"] is row["has_ended"] for row in found), found
    await until(house.is_ready, within_s=30)
    for user in logins:
        await until(lambda user=user: ended(user), within_s=30)
        assert await status_of(house, payments[user]["id"]) == "canceled"
