"""Two hosts that share a database and a Redis, and nothing else; one of them is lost under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.crews import crew
from tests.faults.invariants import drained
from tests.faults.world import CONFIG, Clients, ask, ask_through
from tests.house import House, changed_config, running_house
from tests.identity.hammer import by_access_token, log_in

CAP = 1_000_000
AMOUNT = 30_011
FIT = CAP // AMOUNT
ASKED = 100
# A worker that is not heard of is waited for so long, once.
REVOKED_WITHIN_S = 7.0
LIMITS = f"""
[[limit_policies]]
id = "card-year"
version = 1
priority = 90
subject = "card"
match = {{ operation = ["purchase"] }}
window = {{ kind = "calendar", unit = "year" }}
max_amount = {CAP}
currency = "UZS"
"""


@pytest.fixture(scope="module")
async def narrow() -> AsyncIterator[House]:
    """A sandbox with a small cap for each card."""
    with changed_config(**CONFIG, limits={"": LIMITS}) as environment:
        async with running_house(environment=environment) as house:
            yield house


@pytest.mark.fault(rows=[52], what="two hosts, one lost under load")
async def test_a_limit_is_exact_over_two_hosts_when_one_is_lost(narrow: House) -> None:
    """As many payments as fit, no more and no fewer, wherever they were asked for."""
    clients, user = Clients(), 7
    async with crew(narrow, "host-a.log") as one, crew(narrow, "host-b.log") as other:
        wanted = [clients.want(user, narrow.purchase(user, "visa", AMOUNT)) for _ in range(ASKED)]
        asking = [
            asyncio.create_task(ask((one, other)[number % 2].door, each))
            for number, each in enumerate(wanted)
        ]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        other.kill()
        await asyncio.gather(*asking)
        # Whoever got no answer asks again, with the same key, at the host that is left.
        replies = await asyncio.gather(*(ask_through(one.door, each) for each in wanted))
        await drained(narrow)
        settled = [
            await narrow.settled(user, reply.body["id"]) for reply in replies if reply.code is None
        ]
        assert {"limit-exceeded"} == {reply.code for reply in replies if reply.code is not None}
        succeeded = [each for each in settled if each["status"] == "succeeded"]
        # Nobody was refused whose payment was made: what the lost host had begun answers its key.
        made = await narrow.rows("SELECT id FROM payments WHERE amount_minor = $1", AMOUNT)
        assert {row["id"] for row in made} == {each["id"] for each in settled}
        # What was in doubt when its host was lost, and had never left it, has failed.
        assert len(succeeded) <= FIT
        left = CAP - len(succeeded) * AMOUNT
        for _ in range(left // AMOUNT):
            more = clients.want(user, narrow.purchase(user, "visa", AMOUNT))
            assert (await ask_through(one.door, more)).status == 201, "what is left may be used"
        over = clients.want(user, narrow.purchase(user, "visa", AMOUNT))
        assert (await ask_through(one.door, over)).code == "limit-exceeded"
        held = [entry for entry in await narrow.ledger("visa") if entry["amount"] == AMOUNT]
        assert sum(entry["state"] in ("approved", "captured") for entry in held) == FIT


async def test_the_promise_is_kept_over_two_hosts_when_one_is_lost(narrow: House) -> None:
    """A call that revokes returns once the lost host's workers cannot accept the token any more."""
    async with crew(narrow, "host-c.log") as one, crew(narrow, "host-d.log") as other:
        login = await log_in(one.door)
        for door in (one.door, other.door):
            reply = await door.call("GET", "/v1/sessions", token=login.access_token)
            assert reply.status == 200, reply.raw
        other.kill()
        began = time.monotonic()
        await by_access_token(one.door, login)
        assert time.monotonic() - began < REVOKED_WITHIN_S
        for door in (one.door, narrow):
            reply = await door.call("GET", "/v1/sessions", token=login.access_token)
            assert (reply.status, reply.code) == (401, "invalid-token")
        again = await log_in(one.door)
        began = time.monotonic()
        await by_access_token(one.door, again)
        assert time.monotonic() - began < 1.0, "the lost host is waited for once"
