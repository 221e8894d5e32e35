"""What must hold when everything has settled, whatever was broken before; by number.

Four tellers of one story are compared: what clients were answered, the database, the processors'
own ledgers, and the limits as the API shows them. Only reads. `drained` waits until nothing is in
doubt (I13); `broken` then names every sentence of the story that does not hold.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg

from gateway.audit.commissions import audit
from tests.faults.world import Asked, Clients, ask
from tests.house import House, until
from tests.payments.books import CHARGED, SCHEMES, attempts_of, headroom

# A worker that lives and could not write an outcome leaves it for half a minute.
DRAINED_WITHIN_S = 60.0
DONE = frozenset({"succeeded", "requires_capture"})
# What a client may find later where it was told the first: terminal answers stay.
REACHABLE = {
    "processing": {"processing", "requires_capture", "succeeded", "failed", "canceled"},
    "requires_capture": {"requires_capture", "processing", "succeeded", "canceled"},
    "requires_action": {"requires_action", "processing", "succeeded", "failed", "canceled"},
    "succeeded": {"succeeded"},
    "failed": {"failed"},
    "canceled": {"canceled"},
    "pending": {"pending", "succeeded", "failed"},
}
OPEN = """
SELECT (SELECT count(*) FROM payments WHERE status = 'processing')
     + (SELECT count(*) FROM attempts WHERE state IN ('sent', 'unknown', 'reversing'))
     + (SELECT count(*) FROM actions WHERE state IN ('pending', 'unknown'))
"""
PAYMENTS = """
SELECT id, owner, version, status, operation, scheme, amount_minor, total_debit, total_credit,
    amount_received, amount_refunded, amount_refunding, commission_payer, commission_returned,
    response_status
FROM payments ORDER BY id
"""
ACTIONS = "SELECT id, payment_id, kind, state, amount_minor, commission_returned FROM actions"

Books = dict[str, list[dict[str, Any]]]


async def drained(house: House, *, within_s: float = DRAINED_WITHIN_S) -> None:
    """I13: wait until nothing is in doubt any more, here and under way to the processors."""

    async def nothing_open() -> bool:
        return bool((await house.rows(OPEN))[0][0] == 0)

    await until(nothing_open, within_s=within_s)


async def broken(house: House, clients: Clients, doors: Iterable[House] = ()) -> list[str]:
    """Return what does not hold, each sentence beginning with the invariant's number.

    Args:
        doors: of other workers, which must show the same limits.
    """
    payments = {row["id"]: dict(row) for row in await house.rows(PAYMENTS)}
    actions = [dict(row) for row in await house.rows(ACTIONS)]
    ledgers: Books = {scheme: await house.ledger(scheme) for scheme in SCHEMES}
    found = [
        *await _conserved(house),
        *_told(clients.asked, payments, {one["id"]: one for one in actions}),
        *await _as_the_processors_hold(house, payments, ledgers, actions),
        *[one for door in (house, *doors) for one in await _headroom(door, payments)],
        *_refunds(payments, actions),
        *await _legal(house, payments),
        *await _commissions(house),
    ]
    return found + await _replayed(house, clients.asked)


async def unsafe(house: House, clients: Clients) -> list[str]:
    """Return what must hold at any moment, and does not: with faults, and with clients asking."""
    payment_rows, action_rows = await _snapshot(house, PAYMENTS, ACTIONS)
    payments = {row["id"]: row for row in payment_rows}
    return [
        *await _conserved(house),
        *_told(clients.asked, payments, {one["id"]: one for one in action_rows}),
        *_refunds(payments, action_rows),
    ]


async def _snapshot(house: House, *statements: str) -> list[list[dict[str, Any]]]:
    """Read several statements as of one moment."""
    connection = await asyncpg.connect(house.description["database_url"])
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [[dict(row) for row in await connection.fetch(one)] for one in statements]
    finally:
        await connection.close()


async def hold_all(house: House, clients: Clients, doors: Iterable[House] = ()) -> None:
    """Wait for the end of doubt; then every invariant must hold."""
    await drained(house)
    found = await broken(house, clients, doors)
    assert not found, "\n".join(found)


async def _conserved(house: House) -> list[str]:
    """I1: every entry sums to zero in each currency, and what succeeded is posted."""
    found = [
        f"I1 {row['entry_id']} sums to {row['sum']} {row['currency']}"
        for row in await house.rows(
            "SELECT entry_id, currency, sum(amount_minor) FROM postings "
            "GROUP BY 1, 2 HAVING sum(amount_minor) <> 0"
        )
    ]
    found += [
        f"I1 {row['id']} succeeded and is not posted"
        for row in await house.rows(
            "SELECT id FROM payments p WHERE status = 'succeeded' AND NOT EXISTS ("
            "SELECT FROM postings WHERE entry_id = p.id OR entry_id IN ("
            "SELECT id FROM actions WHERE payment_id = p.id AND kind = 'capture'))"
        )
    ]
    found += [
        f"I1 {row['id']} did not succeed and is posted"
        for row in await house.rows(
            "SELECT id FROM payments p WHERE status <> 'succeeded' "
            "AND EXISTS (SELECT FROM postings WHERE entry_id = p.id)"
        )
    ]
    return found


def _told(
    asked: Iterable[Asked],
    payments: Mapping[str, Mapping[str, Any]],
    actions: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """I2, I3, I15: one object a key, none of them lost, every failure a problem we know of."""
    found = []
    keys: dict[str, str] = {}
    for one in asked:
        if len(one.ids) > 1 and not one.path.endswith(("/capture", "/cancel")):
            found.append(f"I2 {one.key} has {one.ids}")
        for reply in one.answers:
            is_problem = reply.headers["content-type"] == "application/problem+json"
            if reply.status == 500 or (reply.status > 500 and not is_problem):
                found.append(f"I15 {one.key} was answered {reply.status} {reply.raw[:200]!r}")
            if reply.status not in (200, 201, 202):
                continue
            told_id, status = reply.body["id"], reply.body["status"]
            row = payments.get(told_id) or actions.get(told_id)
            if row is None:
                found.append(f"I3 {told_id} was told and is lost")
                continue
            now = str(row["status"] if told_id in payments else row["state"])
            if now not in REACHABLE[status]:
                found.append(f"I3 {told_id} was told to be {status} and is {now}")
            if keys.setdefault(told_id, one.key) != one.key and one.path == "/v1/payments":
                found.append(f"I2 {told_id} has two keys")
    return found


async def _as_the_processors_hold(
    house: House,
    payments: Mapping[str, Mapping[str, Any]],
    ledgers: Books,
    actions: Iterable[Mapping[str, Any]],
) -> list[str]:
    """I2, I4, I7: charged there exactly when done here, once, and given back what we gave back."""
    back: Counter[str] = Counter()
    for action in actions:
        if action["kind"] == "refund" and action["state"] == "succeeded":
            is_senders = payments[action["payment_id"]]["commission_payer"] == "sender"
            returned = action["commission_returned"] if is_senders else 0
            back[action["payment_id"]] += action["amount_minor"] + returned
    by_ref: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for scheme, entries in ledgers.items():
        for entry in entries:
            by_ref[scheme, entry["ref"]].append(entry)
    found = []
    known: set[tuple[str, str]] = set()
    attempts = await attempts_of(house, *payments)
    for payment_id, row in payments.items():
        for attempt in attempts[payment_id]:
            scheme = attempt.connector
            refs = {attempt.rrn_made if scheme == "visa" else attempt.id}
            if scheme == "uzcard" and attempt.kind == "hold":
                # Amounts are each used once, so that a lost hold is found without its name.
                refs = {
                    one["ref"]
                    for one in ledgers[scheme]
                    if one["kind"] == "hold" and one["amount"] == row["total_debit"]
                }
                refs |= {attempt.hold_id} if attempt.hold_id else set()
            known |= {(scheme, ref) for ref in refs}
            charged = [
                one for ref in refs for one in by_ref[scheme, ref] if one["state"] in CHARGED
            ]
            halves = 2 if attempt.kind == "transfer" else 1
            expected = halves if row["status"] in DONE else 0
            name = f"{payment_id} ({row['status']} {attempt.kind} at {scheme}, {attempt.state})"
            # While nobody can say, either is right.
            is_told = row["status"] != "processing"
            if len(charged) > halves or (is_told and len(charged) != expected):
                number = "I2" if len(charged) > halves else "I4"
                found.append(f"{number} {name} is charged {len(charged)} times, not {expected}")
            given = sum(one.get("refunded_amount") or 0 for one in charged)
            if attempt.kind in ("purchase", "hold") and charged and given != back[payment_id]:
                found.append(f"I7 {name}: the processor gave back {given}, not {back[payment_id]}")
            taken = sum(one.get("captured_amount") or 0 for one in charged)
            captured = {"succeeded": row["total_debit"], "requires_capture": 0}
            if attempt.kind == "hold" and taken != captured.get(row["status"], taken):
                found.append(
                    f"I4 {name}: captured {taken} there, the debit is {row['total_debit']}"
                )
    for scheme, entries in ledgers.items():
        found += [
            f"I4 {scheme} charged what nobody asked for: {one}"
            for one in entries
            if one["state"] in CHARGED and (scheme, one["ref"]) not in known
        ]
    return found


async def _headroom(house: House, payments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """I5, I6: each customer's month counts what stands, nothing that ended, never over its cap."""
    counted: Counter[str] = Counter()
    for row in payments.values():
        # What is captured of a hold is all that goes on counting.
        stands = row["amount_received"] if row["status"] == "succeeded" else row["amount_minor"]
        # What may have been charged counts, until it is known to be given back.
        counted[row["owner"]] += stands if row["status"] in DONE | {"processing"} else 0
    found = []
    users = {house.user(number)["id"]: number for number in range(50)}
    for owner, expected in counted.items():
        if owner not in users:
            continue
        room = await headroom(house, users[owner], "humo", "user-month")
        used, left = room["used_amount"], room["remaining_amount"]
        if used != expected:
            found.append(f"I6 {owner} has {used} of the month counted, {expected} stand")
        if left < 0:
            found.append(f"I5 {owner} is over the month's cap by {-left}")
    return found


def _refunds(
    payments: Mapping[str, Mapping[str, Any]], actions: Iterable[Mapping[str, Any]]
) -> list[str]:
    """I7: refunds never exceed what was captured, and are what the payment says they are."""
    done: Counter[str] = Counter()
    going_on: Counter[str] = Counter()
    for action in actions:
        if action["kind"] == "refund" and action["state"] == "succeeded":
            done[action["payment_id"]] += action["amount_minor"]
        elif action["kind"] == "refund" and action["state"] != "failed":
            going_on[action["payment_id"]] += action["amount_minor"]
    found = []
    for payment_id, row in payments.items():
        claimed = done[payment_id] + going_on[payment_id]
        if claimed > row["amount_received"]:
            found.append(f"I7 {payment_id}: refunds of {claimed}, of {row['amount_received']}")
        kept = (row["amount_refunded"], row["amount_refunding"])
        if kept != (done[payment_id], claimed):
            found.append(
                f"I7 {payment_id}: refunds {done[payment_id]} of {claimed}, kept as {kept}"
            )
    return found


async def _legal(house: House, payments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """I12: one end a payment, told once, in order; nothing kept as a contradiction."""
    rows = await house.rows("SELECT payment_id, sequence, type FROM outbox ORDER BY id")
    events: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        events[row["payment_id"]].append((row["sequence"], row["type"]))
    found = []
    for payment_id, several in events.items():
        sequences = [sequence for sequence, _ in several]
        if any(after <= before for before, after in itertools.pairwise(sequences)):
            found.append(f"I12 {payment_id}: its events are out of order: {several}")
        ends = [
            kind
            for _, kind in several
            if kind in ("payment.succeeded", "payment.failed", "payment.canceled")
        ]
        status = payments[payment_id]["status"]
        expected = [f"payment.{status}"] if status in ("succeeded", "failed", "canceled") else []
        if ends != expected:
            found.append(f"I12 {payment_id} is {status}; told were the ends {ends}")
        if sequences[-1] > payments[payment_id]["version"]:
            found.append(f"I12 {payment_id}: an event of a version there is not")
    found += [
        f"I12 {row['payment_id']}: {row['detail']}"
        for row in await house.rows("SELECT payment_id, detail FROM conflicts")
    ]
    return found


async def _commissions(house: House) -> list[str]:
    """I10: every commission is what the second implementation computes, to the minor unit."""
    found: list[str] = []
    await audit(
        house.description["database_url"],
        tell=lambda difference: found.append(f"I10 {difference}"),
        advance=lambda done, total: None,
    )
    return found


async def _replayed(house: House, asked: Iterable[Asked]) -> list[str]:
    """I17: the same request under the same key is answered the first answer's bytes."""
    slots = asyncio.Semaphore(8)

    async def one_replayed(one: Asked) -> str | None:
        told = [reply for reply in one.answers if reply.status in (200, 201, 202)]
        if not told:
            return None
        async with slots:
            again = await ask(house, one)
        assert again is not None, "the sandbox answers"
        last = told[-1]
        if last.status != 202 and (again.status, again.raw) != (last.status, last.raw):
            return f"I17 {one.key}: {again.status} {again.raw!r}, before {last.raw!r}"
        return None

    replayed = await asyncio.gather(*(one_replayed(one) for one in asked))
    return [one for one in replayed if one is not None]
