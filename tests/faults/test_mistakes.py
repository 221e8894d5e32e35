"""Known mistakes put back are found: the invariants that every other test relies on are not blind.

Each mistake is made by a worker of its own, in a sandbox of its own that is then thrown away, and
has to be found in the very payment it was made on. The same is done first without the mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.faults.invariants import broken
from tests.faults.test_database import held_up
from tests.faults.world import LOOKS_ONCE, Clients, ask, paused_workers, worker_beside
from tests.house import House, changed_config, until
from tests.http.test_callbacks import deliver, event
from tests.payments.books import attempts_of, fresh_amount, hold, paid

SETTLED_WITHIN_S = 8.0


async def no_longer_open(house: House, table: str, payment_id: str) -> None:
    """Wait until a payment's attempts or actions are no longer in doubt, for so long."""
    statement = (
        f"SELECT count(*) FROM {table} WHERE payment_id = $1 "
        "AND state IN ('sent', 'pending', 'unknown', 'reversing')"
    )

    async def ended() -> bool:
        return bool((await house.rows(statement, payment_id))[0][0] == 0)

    await until(ended, within_s=SETTLED_WITHIN_S)


async def captures(door: House, clients: Clients) -> str:
    """Capture at UZCARD, the first answer lost."""
    payment = await hold(door, 1, "uzcard", fresh_amount())
    one = clients.want(1, {"amount": 400_007}, f"/v1/payments/{payment['id']}/capture")
    drop = {"kind": "drop_reply_after_commit", "count": 1, "method": "hold.dismiss.charge"}
    async with door.fault("uzcard", **drop):
        reply = await ask(door, one)
    assert reply is not None, "the worker lives"
    assert reply.status == 202, reply.raw
    await no_longer_open(door, "actions", payment["id"])
    return str(payment["id"])


async def refunds(door: House, clients: Clients) -> str:
    """Refund sixty of a hundred, eight times at once: some see it before another has claimed."""
    payment = await paid(door, 2, "uzcard", fresh_amount())
    part = {"amount": payment["amount"] * 60 // 100}
    path = f"/v1/payments/{payment['id']}/refunds"
    async with door.fault("uzcard", kind="delay", seconds=0.3, count=8):
        await asyncio.gather(*(ask(door, clients.want(2, part, path)) for _ in range(8)))
    return str(payment["id"])


async def doubt(door: House, clients: Clients) -> str:
    """Pay at UZCARD, the answer lost."""
    one = clients.want(3, door.purchase(3, "uzcard", fresh_amount()))
    drop = {"kind": "drop_reply_after_commit", "count": 1, "method": "trans.pay.purpose"}
    async with door.fault("uzcard", **drop):
        reply = await ask(door, one)
    assert reply is not None, "the worker lives"
    assert reply.status == 202, reply.raw
    await no_longer_open(door, "attempts", reply.body["id"])
    return str(reply.body["id"])


async def reversals(door: House, clients: Clients) -> str:
    """Transfer over VISA: the second leg is declined, and nobody acknowledges the reversal."""
    one = clients.want(4, door.transfer(4, "visa", 5, "visa", fresh_amount()))
    async with AsyncExitStack() as stack:
        decline = {"kind": "decline", "method": "credit", "count": 1}
        await stack.enter_async_context(door.fault("visa", **decline))
        for method in ("0400", "0420", "0421"):
            lost = {"kind": "drop_request", "rate": 1, "method": method}
            await door.simulator("POST", "visa", "/_sim/faults", lost)
        reply = await ask(door, one)
        assert reply is not None, "the worker lives"
        assert reply.body["status"] == "processing", reply.raw
        found = await broken(door, clients)
    clients.asked.remove(one)
    payment_id = str(reply.body["id"])
    rows = await door.rows("SELECT owner FROM payments WHERE id = $1", payment_id)
    for sentence in found:
        if rows[0]["owner"] in sentence:
            raise Found(f"{sentence} ({payment_id})")
    return payment_id


async def commits(door: House, clients: Clients) -> str:
    """Pay, and be told."""
    one = clients.want(6, door.purchase(6, "uzcard", fresh_amount()))
    reply = await ask(door, one)
    assert reply is not None, "the worker lives"
    assert reply.status == 201, reply.raw
    return str(reply.body["id"])


class Found(Exception):
    """What was looked for while it happened."""


Doing = Callable[[House, Clients], Awaitable[str]]
Failing = dict[str, dict[str, object]]
LOST: Failing = {"after_fact_commit": {"action": "error", "count": 1}}


@pytest.mark.parametrize(
    ("mistake", "doing", "number", "failpoints"),
    [
        # First: what the others leave is taken up again and again, and would meet its failpoint.
        ("commit_unknown_is_failure", commits, "I3", LOST),
        ("capture_again", captures, "I4", None),
        ("refunds_unseen", refunds, "I7", None),
        ("unknown_fails_by_time", doubt, "I4", None),
        ("headroom_before_reversal", reversals, "I6", None),
    ],
)
async def test_a_mistake_is_found(
    doomed: House,
    mistake: str,
    doing: Doing,
    number: str,
    failpoints: dict[str, dict[str, object]] | None,
) -> None:
    """Without it the payment is as it should be; with it, the invariant names the payment."""
    clients = Clients()
    well = await doing(doomed, clients)
    for table in ("attempts", "actions"):
        await no_longer_open(doomed, table, well)
    found = [one for one in await broken(doomed, clients) if well in one]
    assert not found, found
    clients = Clients()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(paused_workers(doomed))
        looks_once = {}
        ticket = doomed.data_dir / f"ticket-{mistake}"
        if failpoints:
            # It is to meet the payment's commit, and none of what was left before.
            looks_once = stack.enter_context(changed_config(**LOOKS_ONCE))
            failpoints = {name: {**one, "ticket": str(ticket)} for name, one in failpoints.items()}
        beside = await stack.enter_async_context(
            worker_beside(doomed, failpoints=failpoints, mistake=mistake, environment=looks_once)
        )
        ticket.touch()
        try:
            payment_id = await doing(beside.door, clients)
            found = [one for one in await broken(beside.door, clients) if payment_id in one]
        except Found as sentence:
            found = [str(sentence)]
    assert any(one.startswith(number) for one in found), f"{mistake} was not found: {found}"


async def test_a_dead_worker_that_sends_is_found(doomed: House) -> None:
    """What others have settled as never sent is then charged: I4 says so."""
    clients = Clients()
    await held_up(doomed, clients, 8, "uzcard", mistake="dead_worker_sends")
    rows = await doomed.rows("SELECT id FROM payments ORDER BY id DESC LIMIT 1")
    found = [one for one in await broken(doomed, clients) if rows[0]["id"] in one]
    assert any(one.startswith("I4") for one in found), f"it was not found: {found}"


@pytest.mark.fault(rows=[18], what="approved while its reversal is under way")
async def test_told_approved_amid_a_reversal(doomed: House) -> None:
    """Row 18: what VISA says was approved while its reversal is under way ends as VISA has it."""
    clients = Clients()
    one = clients.want(7, doomed.purchase(7, "visa", fresh_amount()))
    drop = {"kind": "drop_reply_after_commit", "count": 1, "method": "purchase"}
    slow = {"kind": "delay", "count": 1, "method": "0400", "seconds": 0.4}
    async with doomed.fault("visa", **drop):
        await doomed.simulator("POST", "visa", "/_sim/faults", slow)
        reply = await ask(doomed, one)
        if reply is None or reply.status != 202:
            pytest.fail(f"nothing is in doubt: {reply}", pytrace=False)

        async def is_under_way() -> bool:
            return bool(await doomed.simulator("GET", "visa", "/_sim/faults") == [])

        await until(is_under_way, within_s=10)
        payment_id = reply.body["id"]
        (attempt,) = (await attempts_of(doomed, payment_id))[payment_id]
        await deliver(doomed, "visa", event(attempt.id, reply.body["total_debit"]))
    await doomed.settled(7, payment_id)

    async def is_reversed() -> bool:
        entries = await doomed.ledger("visa", attempt.rrn_made)
        return [entry["state"] for entry in entries] == ["reversed"]

    await until(is_reversed, within_s=10)
    found = [sentence for sentence in await broken(doomed, clients) if payment_id in sentence]
    assert not found, found
