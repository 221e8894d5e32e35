"""Operators log in by password and code, go on, step up, leave, and are locked out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.house import House, changed_config, running_house, until
from tests.operators.people import PASSWORD, Person, person


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house where a code given is soon too old to approve by."""
    changes = {"settings": {"approval_age_s = 300": "approval_age_s = 2"}}
    with changed_config(**changes) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@pytest.fixture(scope="module")
async def chief(house: House) -> Person:
    return await person(house, "chief", "administrator")


async def test_password_and_code_go_together(house: House) -> None:
    """Whatever is wrong, the answer is the same, and says nothing of which it was."""
    one = await person(house, "one", "viewer")
    nobody = {"login": "nobody", "password": PASSWORD, "code": "123456"}
    wrong = [
        await one.log_in(password="not the password", code="000000"),
        await one.log_in(code="000000"),
        await house.call("POST", "/admin/v1/auth/login", nobody),
    ]
    assert {reply.status for reply in wrong} == {401}
    assert len({reply.body["detail"] for reply in wrong}) == 1
    assert (await one.log_in()).status == 200


async def test_a_code_is_taken_once(house: House) -> None:
    """Even by logins at one moment."""
    one = await person(house, "once", "viewer")
    code = one.code()
    replies = await asyncio.gather(*(one.log_in(code=code) for _ in range(4)))
    assert sorted(reply.status for reply in replies) == [200, 401, 401, 401]


async def test_too_many_tries_lock_the_account(house: House) -> None:
    """The right password and code are refused as well, and it is in the audit log."""
    one = await person(house, "guessed", "viewer")
    for _ in range(5):
        assert (await one.log_in(password="guess", code="000000")).status == 401
    locked = await one.log_in()
    assert (locked.status, locked.code) == (429, "otp-locked")
    assert int(locked.headers["retry-after"]) >= 1800
    chief = house.description["operators"][0]["access_token"]
    acts = await house.call("GET", "/admin/v1/audit?action=operator.lock", token=chief)
    assert one.id in {act["object"] for act in acts.body["data"]}


async def test_a_session_goes_on_and_ends(house: House) -> None:
    """Renewed while it is alive; after logging out no worker takes any of its tokens."""
    one = await person(house, "leaver", "viewer")
    first = one.token
    renewed = await one.call("POST", "/auth/renew")
    assert renewed.status == 200, renewed.raw
    assert renewed.body["expires_in"] <= 900
    one.token = renewed.body["access_token"]
    assert (await one.call("POST", "/auth/logout")).status == 204
    for token in (first, one.token):
        for _ in range(6):
            reply = await house.call("GET", "/admin/v1/reviews", token=token)
            assert (reply.status, reply.code) == (401, "invalid-token")


async def test_approving_needs_a_code_given_lately(house: House, chief: Person) -> None:
    """An old login reads and proposes; it approves after a new code (RFC 9470)."""
    other = await person(house, "other", "viewer")
    asked = await house.call(
        "POST",
        f"/admin/v1/operators/{other.id}/proposals",
        {"roles": ["support"], "note": "answers calls"},
        token=house.description["operators"][0]["access_token"],
    )
    assert asked.status == 201, asked.raw
    is_fresh = (
        "SELECT authenticated_at > now() - interval '2 seconds' FROM operator_sessions"
        " WHERE operator_id = $1 ORDER BY authenticated_at DESC LIMIT 1"
    )

    async def is_old() -> bool:
        return not (await house.rows(is_fresh, chief.id))[0][0]

    await until(is_old, within_s=10)
    path = f"/operator-proposals/{asked.body['id']}/approve"
    for address in (path, f"/proposals/{asked.body['id']}/approve"):
        old = await chief.call("POST", address)
        assert (old.status, old.code) == (401, "insufficient-user-authentication")
    assert 'error="insufficient_user_authentication"' in old.headers["www-authenticate"]
    assert (await chief.call("GET", "/operators")).status == 200
    wrong = await chief.call("POST", "/auth/step-up", {"code": "000000"})
    assert (wrong.status, wrong.code) == (401, "unauthenticated")
    stepped = await chief.call("POST", "/auth/step-up", {"code": chief.code()})
    assert stepped.status == 200, stepped.raw
    done = await chief.call("POST", path)
    assert (done.status, done.body["status"]) == (200, "active"), done.raw


async def test_what_is_added_must_be_sound(house: House) -> None:
    """Unknown roles, odd logins and taken ones are refused with a reason."""
    add = ("operators", "add")
    given = {"OQIM_OPERATOR_PASSWORD": PASSWORD}
    for arguments, words in (
        ((*add, "new", "--name", "New", "--role", "king"), "there is no role king"),
        ((*add, "Bad Login", "--name", "New", "--role", "viewer"), "small letters"),
    ):
        done = await asyncio.to_thread(house.oqim, *arguments, **given)
        assert done.returncode == 2
        assert words in done.stderr
    taken = (*add, "taken", "--name", "T", "--role", "viewer")
    made = await asyncio.to_thread(house.oqim, *taken, **given)
    assert made.returncode == 0, made.stderr
    assert "otpauth://totp/" in made.stdout
    again = await asyncio.to_thread(house.oqim, *taken, **given)
    assert again.returncode == 2
    assert "already" in again.stderr
