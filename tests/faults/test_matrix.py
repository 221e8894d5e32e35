"""A worker killed, or its connections lost, at every step; then everything must hold.

Rows are those of the table in docs/reliability.md. Each has a worker of its own that is told where
to fail; the sandbox's own worker takes up what it left, and answers whoever asks again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.faults.invariants import hold_all
from tests.faults.world import (
    LOOKS_ONCE,
    Asked,
    Clients,
    ask,
    ask_through,
    paused_workers,
    worker_beside,
)
from tests.house import House, changed_config, until
from tests.payments.books import SCHEMES, fresh_amount, hold, paid, payments_count

KILL: dict[str, object] = {"action": "kill", "count": 1}
LOST = {"action": "error", "count": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a payment at which its worker is killed.

    Args:
        row: number in the table.
        ends: what may become of a payment that met it, by scheme; where the processor was never
            asked it fails, where it answered it is found or reversed.
    """

    row: int
    failpoint: str
    ends: dict[str, set[str]]


NEVER_SENT = {scheme: {"failed"} for scheme in SCHEMES}
STANDS = {scheme: {"succeeded"} for scheme in SCHEMES}
# UZCARD and HUMO can say what they did; what VISA did is reversed.
FOUND = {"uzcard": {"succeeded"}, "humo": {"succeeded"}, "visa": {"failed"}}
STEPS = [
    Step(6, "before_intent_commit", STANDS),
    Step(7, "after_intent_commit", NEVER_SENT),
    Step(8, "before_send", NEVER_SENT),
    Step(10, "after_reply", FOUND),
    Step(10, "before_fact_commit", FOUND),
    Step(11, "after_fact_commit", STANDS),
    Step(11, "before_answer", STANDS),
]


@pytest.fixture(autouse=True)
async def everything_holds(sandbox: House, clients: Clients) -> AsyncIterator[None]:
    """After every row: no doubt is left, and every invariant holds for all that was ever asked."""
    yield
    await hold_all(sandbox, clients)


async def killed_at(house: House, failpoint: str, one: Asked) -> None:
    """Ask a worker that is killed at a step; it must die of it before it answers.

    What others left in doubt passes the same steps: it looks for that once, at its start, and the
    step is armed when it has answered that it is ready.
    """
    ticket = house.data_dir / f"ticket-{one.key}"
    armed = {failpoint: KILL | {"ticket": str(ticket)}}
    with changed_config(**LOOKS_ONCE) as environment:
        async with worker_beside(house, failpoints=armed, environment=environment) as beside:
            ticket.touch()
            assert await ask(beside.door, one) is None, f"{failpoint} was not met"
            await beside.died()


async def at_most(count: int, *waiting: Awaitable[Any]) -> None:
    """Await all, so many at a time: each has a process to start."""
    slots = asyncio.Semaphore(count)

    async def one(awaitable: Awaitable[Any]) -> None:
        async with slots:
            await awaitable

    await asyncio.gather(*(one(awaitable) for awaitable in waiting))


@pytest.mark.fault(rows=[5, 6, 7, 8, 10, 11], what="kill -9 at each step")
async def test_killed_at_every_step(sandbox: House, clients: Clients, seed: int) -> None:
    """Rows 5 to 11: the key finds its one payment, which ends as the processor has it."""

    async def one_step(number: int, step: Step) -> None:
        # Each seed meets the steps with other schemes.
        scheme = SCHEMES[(seed + number) % len(SCHEMES)]
        user = (seed * len(STEPS) + number) % 50
        one = clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
        await killed_at(sandbox, step.failpoint, one)
        reply = await ask_through(sandbox, one)
        payment = await sandbox.settled(user, reply.body["id"])
        context = f"row {step.row}, seed {seed}, {scheme} at {step.failpoint}: {payment}"
        assert payment["status"] in step.ends[scheme], context

    await at_most(2, *(one_step(number, step) for number, step in enumerate(STEPS)))


@pytest.mark.fault(rows=[37], what="lost before, in and after commits")
async def test_connection_lost_around_commits(sandbox: House, clients: Clients, seed: int) -> None:
    """Row 37: whether a commit was made is looked up, and nothing is taken for failed."""
    points = ("after_intent_commit", "before_fact_commit", "after_fact_commit")
    ones = []
    async with worker_beside(sandbox, failpoints=dict.fromkeys(points, LOST)) as beside:
        for number in range(4):
            user = (seed + number) % 50
            scheme = SCHEMES[(seed + number) % len(SCHEMES)]
            one = clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
            reply = await ask(beside.door, one)
            assert reply is not None, "the worker lives"
            assert reply.status in (201, 202), f"seed {seed}, {scheme}: {reply.raw!r}"
            ones.append((one, reply, scheme))
        # The first could not write its outcome, and keeps the reply until it can; the second was
        # found to be written.
        assert [reply.status for _, reply, _ in ones] == [202, 201, 201, 201]
        for one, reply, scheme in ones:
            payment = await sandbox.settled(one.user, reply.body["id"])
            assert payment["status"] == "succeeded", f"seed {seed}, {scheme}: {payment}"


ACTION_STEPS = [
    ("refund", "before_action_claim"),
    ("refund", "after_action_claim"),
    ("refund", "after_action_reply"),
    ("capture", "after_action_claim"),
    ("capture", "after_action_reply"),
    ("cancel", "after_action_reply"),
]


async def test_killed_amid_an_action(sandbox: House, clients: Clients, seed: int) -> None:
    """A capture, a cancel or a refund whose worker died is done, and done once."""

    async def one_step(number: int, kind: str, failpoint: str) -> None:
        scheme = SCHEMES[(seed + number) % len(SCHEMES)]
        user = (seed * len(ACTION_STEPS) + number) % 50
        make = paid if kind == "refund" else hold
        payment = await make(sandbox, user, scheme, fresh_amount())
        part = {"amount": payment["amount"] // 3} if kind != "cancel" else {}
        path = f"/v1/payments/{payment['id']}/{'refunds' if kind == 'refund' else kind}"
        one = clients.want(user, part, path)
        await killed_at(sandbox, failpoint, one)
        reply = await ask_through(sandbox, one)
        context = f"seed {seed}, {scheme} {kind} at {failpoint}"
        assert reply.status in (200, 201, 202), f"{context}: {reply.raw!r}"

        async def ended() -> list[str]:
            rows = await sandbox.rows(
                "SELECT state FROM actions WHERE payment_id = $1", payment["id"]
            )
            states = [row["state"] for row in rows]
            return states if not {"pending", "unknown"} & set(states) else []

        assert await until(ended, within_s=20) == ["succeeded"], context

    await at_most(2, *(one_step(number, *step) for number, step in enumerate(ACTION_STEPS)))


@pytest.mark.fault(rows=[12], what="kill -9 amid a reversal")
async def test_killed_amid_a_reversal(sandbox: House, clients: Clients, seed: int) -> None:
    """Row 12: the first leg of a transfer is given back once, whenever its worker died."""
    ones = []
    for failpoint in ("before_reversal", "after_reversal"):
        user = (2 * seed) % 49
        body = sandbox.transfer(user, "visa", user + 1, "visa", fresh_amount())
        one = clients.want(user, body)
        async with sandbox.fault("visa", kind="decline", method="credit", count=1):
            await killed_at(sandbox, failpoint, one)
        ones.append(one)
    for one in ones:
        reply = await ask_through(sandbox, one)
        payment = await sandbox.settled(one.user, reply.body["id"])
        assert payment["status"] == "failed", f"seed {seed}: {payment}"


@pytest.mark.fault(rows=[12], what="kill -9 of two that recover")
async def test_recovery_killed_again_and_again(sandbox: House, clients: Clients, seed: int) -> None:
    """Row 12: whoever takes up what is in doubt dies of it, twice; the third settles it."""
    scheme = SCHEMES[seed % len(SCHEMES)]
    method = {"uzcard": "trans.pay.purpose", "humo": "confirm", "visa": "purchase"}[scheme]
    user = seed % 50
    one = clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
    drop = {"kind": "drop_reply_after_commit", "count": 1, "method": method}
    async with paused_workers(sandbox), sandbox.fault(scheme, **drop):
        for number in range(2):
            claims = {"after_recovery_claim": KILL}
            async with worker_beside(sandbox, failpoints=claims, may_die=number > 0) as beside:
                if number == 0:
                    reply = await ask(beside.door, one)
                    assert reply is not None, "it is answered before anybody looks again"
                    assert reply.status == 202, reply.raw
                await beside.died()
    reply = await ask_through(sandbox, one)
    payment = await sandbox.settled(user, reply.body["id"])
    assert payment["status"] in FOUND[scheme], f"seed {seed}, {scheme}: {payment}"


@pytest.mark.fault(rows=[1, 2], what="half a request; a whole one without its client")
async def test_a_client_who_leaves(sandbox: House, clients: Clients, seed: int) -> None:
    """Rows 1 and 2: half a request is nothing; a whole one goes on without its client."""
    user = seed % 50
    body = sandbox.purchase(user, body_scheme(seed), fresh_amount())
    gone = clients.want(user, body)
    before = await payments_count(sandbox)
    head = (
        f"POST /v1/payments HTTP/1.1\r\nHost: oqim\r\nIdempotency-Key: {gone.key}\r\n"
        f"Authorization: Bearer {sandbox.user(user)['access_token']}\r\n"
        "Content-Type: application/json\r\n"
    )
    raw = json.dumps(body)
    address = urlsplit(sandbox.base_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n{raw[: len(raw) // 2]}".encode())
    await writer.drain()
    writer.transport.abort()
    assert (await ask_through(sandbox, gone)).status == 201, "the key was never used"
    assert await payments_count(sandbox) == before + 1
    left = clients.want(user, body | {"amount": fresh_amount()})
    raw = json.dumps(left.body)
    head = head.replace(gone.key, left.key)
    async with sandbox.fault(body_scheme(seed), kind="delay", seconds=0.3, count=1):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n{raw}".encode())
        await writer.drain()

        async def is_opened() -> bool:
            return await payments_count(sandbox) == before + 2

        await until(is_opened, within_s=10)
        writer.transport.abort()
        reply = await ask_through(sandbox, left)
    assert reply.status == 201, reply.raw
    assert await payments_count(sandbox) == before + 2, "one payment a key"


@pytest.mark.fault(rows=[64], what="a worker stopped past its deadline, while a processor answers")
async def test_a_worker_held_up_while_it_waits(sandbox: House, clients: Clients, seed: int) -> None:
    """Row 64: an answer that waited in the socket past the deadline is one payment all the same."""
    scheme, user = SCHEMES[seed % len(SCHEMES)], seed % 50
    async with worker_beside(sandbox) as beside:
        one = clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
        before = await payments_count(sandbox)
        async with sandbox.fault(scheme, kind="delay", seconds=0.4, count=1):
            asking = asyncio.create_task(ask(beside.door, one))

            async def is_opened() -> bool:
                return await payments_count(sandbox) == before + 1

            await until(is_opened, within_s=10)
            os.kill(beside.process.pid, signal.SIGSTOP)
            # Longer than the deadline of 0.7 s, shorter than the lease.
            await asyncio.sleep(1.2)
            os.kill(beside.process.pid, signal.SIGCONT)
            reply = await asking
            assert reply is not None, "the worker lives"
            assert reply.status in (201, 202), f"seed {seed}, {scheme}: {reply.raw!r}"
            # HUMO's first half may have been found alone, and canceled: the ledger is the judge.
            payment = await sandbox.settled(user, reply.body["id"])
            assert payment["status"] in ("succeeded", "failed"), payment


@pytest.mark.fault(rows=[64], what="a worker stopped before it sends, for longer than its lease")
async def test_what_others_took_up_is_not_sent_after_all(
    sandbox: House, clients: Clients, seed: int
) -> None:
    """Row 64: a worker that stood still between its intent and its send sends nothing any more.

    Not even once its lease is renewed: the others have found that the processor never saw it, and
    failed the payment.
    """
    scheme, user = SCHEMES[seed % len(SCHEMES)], seed % 50
    held_up = {"before_send": {"action": "delay", "seconds": 9.0, "count": 1}}
    async with worker_beside(sandbox, failpoints=held_up) as beside:
        one = clients.want(user, sandbox.purchase(user, scheme, fresh_amount()))
        before = await payments_count(sandbox)
        entries = len(await sandbox.ledger(scheme))
        asking = asyncio.create_task(ask(beside.door, one))

        async def is_opened() -> bool:
            return await payments_count(sandbox) == before + 1

        await until(is_opened, within_s=10)
        os.kill(beside.process.pid, signal.SIGSTOP)
        # Longer than its lease of 3 s, and than others wait for what a processor has not seen.
        await asyncio.sleep(7.5)
        os.kill(beside.process.pid, signal.SIGCONT)
        # Its lease is renewed before it goes on.
        reply = await asking
        assert reply is not None, "the worker lives"
        assert reply.status == 202, f"seed {seed}, {scheme}: {reply.raw!r}"
        payment = await sandbox.settled(user, reply.body["id"])
        assert payment["status"] == "failed", payment
        approved = [
            entry
            for entry in (await sandbox.ledger(scheme))[entries:]
            if entry["state"] in ("approved", "captured")
        ]
        assert not approved, f"seed {seed}, {scheme}: {approved}"


def body_scheme(seed: int) -> str:
    """Return the scheme a seed's client pays with."""
    return SCHEMES[seed % len(SCHEMES)]
