"""Every route of operators, by requests made from the document with an operator's token.

In a house of its own: what an operator may do is done to everybody's rules and sessions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from schemathesis import GenerationMode

from tests.house import House, running_house
from tests.http.test_openapi import OPERATIONS, Described, can_be_spoilt, describe

ADMIN = sorted(one for one in OPERATIONS if " /admin/v1/" in one)
EXAMPLES = 12
# They say 401 of what was given to log in with, and 403 of a token that has no login behind it.
LOGINS = ("POST /admin/v1/auth/",)


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[House]:
    """A sandbox for operators alone."""
    async with running_house() as house:
        yield house


@pytest.fixture(scope="module")
async def admin(own: House) -> Described:
    """What operators may ask of it."""
    return describe(own, (await own.call("GET", "/openapi.json")).body)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", ADMIN)
async def test_every_answer_to_an_operator_is_foretold(
    admin: Described, label: str, mode: GenerationMode
) -> None:
    """A status, headers and a body that the document names, and never a fault of ours."""
    if mode is GenerationMode.NEGATIVE and not can_be_spoilt(admin.document, label):
        pytest.skip("there is nothing to spoil in it")
    token = admin.house.description["operators"][0]["access_token"]
    statuses = await admin.fuzz(label, mode, token=token, examples=EXAMPLES)
    assert statuses, "nothing was sent"
    if not label.startswith(LOGINS):
        assert 401 not in statuses, "the operator was logged out"
        assert 403 not in statuses, "an administrator may do everything, its own approvals apart"


@pytest.mark.parametrize("label", ADMIN)
async def test_no_answer_to_a_customer_or_a_merchant(admin: Described, label: str) -> None:
    """Neither has a scope of an operator's: 403, whatever is asked, and nothing of it is read."""
    if label == "POST /admin/v1/auth/login":
        pytest.skip("anybody may try to log in")
    method, path = label.split(" ")
    for name in ("{id}", "{seq}", "{version}"):
        path = path.replace(name, "1")
    for token in (
        admin.house.user(0)["access_token"],
        await admin.house.merchant_token(),
    ):
        reply = await admin.house.call(method, path, token=token)
        assert (reply.status, reply.code) == (403, "insufficient-scope"), label
