"""Killed in the middle: nothing told is lost, nothing is charged twice, nothing stays in doubt."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.payments.books import CHARGED, SCHEMES, attempts_of, fresh_amount

PAYMENTS = 200
SETTLED_WITHIN_S = 60.0
RESTARTED_WITHIN_S = 10.0
QUICK_S, SLOW_S = 0.05, 2.0
UNDER_WAY_MIN = 12
IN_FLIGHT = re.compile(r"^oqim_connector_in_flight\{.*\} ([0-9.]+)$", re.MULTILINE)
OPERATIONS = ("purchase", "hold", "transfer")


@pytest.fixture
async def fragile() -> AsyncIterator[House]:
    """Two workers of a sandbox of its own, with the bank's own waits."""
    with changed_config() as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@dataclass(slots=True)
class Wanted:
    """One payment a client wants, and every answer it was given."""

    user: int
    scheme: str
    body: dict[str, Any]
    key: str = field(default_factory=new_key)
    answers: list[Reply] = field(default_factory=list)


def wanted(house: House, number: int) -> Wanted:
    """Return the n-th payment: schemes and operations in turn, a user's cards in turn."""
    user, scheme = number % 50, SCHEMES[number % 3]
    operation = OPERATIONS[number // 3 % 3]
    amount = fresh_amount()
    if operation == "transfer":
        body = house.transfer(user, scheme, (user + 1) % 50, scheme, amount)
    else:
        capture = "manual" if operation == "hold" else "automatic"
        body = house.purchase(user, scheme, amount, capture=capture)
    return Wanted(user, scheme, body)


async def ask(house: House, one: Wanted) -> bool:
    """Ask once; returns whether an answer came."""
    try:
        reply = await house.pay(one.user, one.body, key=one.key)
    except aiohttp.ClientError:
        return False
    one.answers.append(reply)
    return True


async def delay(house: House, seconds: float) -> None:
    """Have every processor take so long over each message that comes from now on."""
    for scheme in SCHEMES:
        fault = {"kind": "delay", "rate": 1.0, "seconds": seconds}
        await house.simulator("POST", scheme, "/_sim/faults", fault)


async def pay_through(house: House, payments: list[Wanted], breaking: asyncio.Event) -> None:
    """Start all payments, twenty at a time, and let `breaking` be set when a third is done and
    messages are under way at the processors, who take their time, for a kill to find them there.
    """
    await delay(house, QUICK_S)
    slots = asyncio.Semaphore(20)
    done = 0

    async def one(payment: Wanted) -> None:
        nonlocal done
        async with slots:
            await ask(house, payment)
        done += 1
        if done == len(payments) // 3:
            await delay(house, SLOW_S)
            await until(many_under_way, within_s=SETTLED_WITHIN_S)
            await delay(house, QUICK_S)
            breaking.set()

    async def many_under_way() -> bool:
        reply = await house.call("GET", "/metrics")
        assert reply.status == 200, reply.raw
        counted = [float(one) for one in IN_FLIGHT.findall(reply.raw.decode())]
        return sum(counted) >= UNDER_WAY_MIN

    await asyncio.gather(*(one(payment) for payment in payments))


async def retry_all(house: House, payments: list[Wanted]) -> None:
    """Repeat every request under its key until it is answered with a payment."""
    slots = asyncio.Semaphore(20)

    async def one(payment: Wanted) -> None:
        async def answered() -> bool:
            if not await ask(house, payment):
                return False
            last = payment.answers[-1]
            if last.status in (201, 202):
                return True
            # Still running, nothing was sent, or a worker that is only starting: ask again.
            assert last.code in (
                "idempotency-in-progress",
                "processor-unavailable",
                "unavailable",
                "revocation-feed-stale",
            ), last.raw
            return False

        async with slots:
            await until(answered, within_s=SETTLED_WITHIN_S)

    await asyncio.gather(*(one(payment) for payment in payments))


async def assert_all_is_well(house: House, payments: list[Wanted]) -> None:
    """No payment told is lost, one id a key, everything settled as the processors hold it."""
    told: dict[str, str] = {}
    for payment in payments:
        ids = {one.body["id"] for one in payment.answers if one.status in (201, 202)}
        assert len(ids) == 1, f"{payment.key}: one payment a key, not {ids}"
        told[payment.key] = ids.pop()
        final = {one.raw for one in payment.answers if one.status == 201}
        assert len(final) <= 1, f"{payment.key}: a final answer changed"
    assert len(set(told.values())) == len(payments), "two keys share a payment"

    async def all_settled() -> bool:
        rows = await house.rows("SELECT count(*) FROM payments WHERE status = 'processing'")
        return bool(rows[0][0] == 0)

    await until(all_settled, within_s=SETTLED_WITHIN_S)
    rows = await house.rows("SELECT id, status, total_debit FROM payments")
    payments_by_id = {row["id"]: row for row in rows}
    for payment in payments:
        row = payments_by_id.get(told[payment.key])
        assert row is not None, f"{told[payment.key]} was told and is lost"
        for reply in payment.answers:
            if reply.status == 201:
                assert reply.body["status"] == row["status"], f"{row['id']} ended otherwise"
    await assert_ledgers_agree(house, payments_by_id)
    rows = await house.rows(
        "SELECT DISTINCT connector FROM attempts WHERE outcome_source IN ('inquiry', 'reversal')"
    )
    assert rows, "the kill left nothing in doubt: it proves nothing"


async def assert_ledgers_agree(house: House, payments_by_id: dict[str, Any]) -> None:
    """Every payment is charged once if it succeeded, and not at all otherwise; nothing else is."""
    ledgers = {scheme: await house.ledger(scheme) for scheme in SCHEMES}
    taken: Counter[tuple[str, str]] = Counter()
    attempts = await attempts_of(house, *payments_by_id)
    for payment_id, row in payments_by_id.items():
        is_done = row["status"] in ("succeeded", "requires_capture")
        for attempt in attempts[payment_id]:
            ref = attempt.rrn_made if attempt.connector == "visa" else attempt.id
            found = [one for one in ledgers[attempt.connector] if one["ref"] == ref]
            if attempt.connector == "uzcard" and attempt.kind == "hold":
                # Amounts are each used once, so that a lost hold is found without its name.
                found = [
                    one
                    for one in ledgers["uzcard"]
                    if one["kind"] == "hold" and one["amount"] == row["total_debit"]
                ]
            charged = [one for one in found if one["state"] in CHARGED]
            halves = 2 if attempt.kind == "transfer" else 1
            context = f"{payment_id} {row['status']} {attempt.kind} at {attempt.connector}"
            assert len(charged) == (halves if is_done else 0), f"{context}: {found}"
            taken.update((attempt.connector, one["ref"]) for one in charged)
    for scheme in SCHEMES:
        charged = [one for one in ledgers[scheme] if one["state"] in CHARGED]
        stray = [one for one in charged if not taken[scheme, one["ref"]]]
        assert not stray, f"{scheme} charged what no payment asked for: {stray}"
    rows = await house.rows(
        "SELECT entry_id FROM postings GROUP BY 1 HAVING sum(amount_minor) <> 0"
    )
    assert not rows, "every entry sums to zero"
    rows = await house.rows(
        """
        SELECT p.id FROM payments p WHERE p.status = 'succeeded'
        AND NOT EXISTS (SELECT FROM postings WHERE entry_id = p.id)
        """
    )
    assert not rows, "what succeeded is posted"
    rows = await house.rows("SELECT detail FROM conflicts")
    assert not rows, "nothing contradicts"


@pytest.mark.fault(rows=[9], what="every worker killed while processors answer")
@pytest.mark.parametrize("times", [1, 3])
async def test_workers_killed_in_the_middle(fragile: House, times: int) -> None:
    """kill -9 of both workers amid payments, once and again and again."""
    payments = [wanted(fragile, number) for number in range(PAYMENTS)]
    breaking = asyncio.Event()
    paying = asyncio.create_task(pay_through(fragile, payments, breaking))
    await breaking.wait()
    await fragile.kill_workers()
    await paying
    for _ in range(times - 1):
        await until(fragile.is_ready, within_s=30)
        trying = asyncio.create_task(retry_all(fragile, payments))
        await until(fragile.worker_pids, within_s=30)
        await fragile.kill_workers()
        await trying
    unanswered = [one for one in payments if not one.answers]
    assert times > 1 or unanswered, "the kill met nothing: every payment was answered"
    await retry_all(fragile, payments)
    await assert_all_is_well(fragile, payments)


@pytest.mark.fault(rows=[9], what="one worker of two killed")
async def test_one_worker_killed_is_covered_by_the_other(fragile: House) -> None:
    """kill -9 of one of two: the other goes on, and takes up what the dead one left."""
    payments = [wanted(fragile, number) for number in range(PAYMENTS)]
    breaking = asyncio.Event()
    paying = asyncio.create_task(pay_through(fragile, payments, breaking))
    await breaking.wait()
    await fragile.kill_workers(1)
    await paying
    await retry_all(fragile, payments)
    await assert_all_is_well(fragile, payments)


async def test_the_sandbox_killed_in_the_middle(fragile: House) -> None:
    """kill -9 of everything amid payments; the second start finds all of it, soon."""
    payments = [wanted(fragile, number) for number in range(PAYMENTS)]
    breaking = asyncio.Event()
    paying = asyncio.create_task(pay_through(fragile, payments, breaking))
    await breaking.wait()
    before = dict(fragile.description["users"][0]["cards"])
    await fragile.kill()
    await paying
    began = time.monotonic()
    await fragile.start()
    took_s = time.monotonic() - began
    assert took_s < RESTARTED_WITHIN_S, f"the second start took {took_s:.1f} s"
    assert fragile.description["users"][0]["cards"] == before, "the people are the same"
    assert any(not one.answers for one in payments), "the kill met nothing"
    await retry_all(fragile, payments)
    await assert_all_is_well(fragile, payments)
