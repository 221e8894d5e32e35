"""Recorded decisions in the order of time, and what became of them: what a replay is fed with.

It reads what payments wrote and writes nothing. A payment's id carries the moment of its decision,
and so does a refusal's: both tables are read by their keys, a page at a time.
"""

import heapq
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from gateway.kernel.ids import ALPHABET, LENGTH
from gateway.rules.times import millis

Event = tuple[str, str, bytes, int, int, str]
"""`(kind, id, record, before, after, text)`, as `gateway.core.Simulation.feed` takes it."""

# What is read at once keeps the loop from everybody else: 2 ms for so many.
PAGE_SIZE = 200

_Table = Literal["payments", "refusals"]
_PREFIXES: dict[_Table, str] = {"payments": "pay_", "refusals": "dec_"}
_PREFIX_LENGTH = 4

READ_PAYMENTS = """
SELECT id, created_at, record, commission_lines::text AS lines, status, amount_minor,
    amount_received, amount_refunded, is_manual_capture, updated_at
FROM payments WHERE id > $1 AND id < $2 AND record <> '' ORDER BY id LIMIT $3
"""
READ_REFUSALS = """
SELECT id, created_at, record FROM refusals WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
"""
READ_ACTIONS = """
SELECT payment_id, kind, amount_minor, created_at FROM actions
WHERE payment_id = ANY($1::text[]) AND state = 'succeeded' AND kind IN ('capture', 'refund')
ORDER BY id
"""
COUNT = """
SELECT (SELECT count(*) FROM payments WHERE id > $1 AND id < $2 AND record <> '')
     + (SELECT count(*) FROM refusals WHERE id > $3 AND id < $4)
"""
# The moment of the newest decision but $5.
FIND_CUT = """
SELECT at FROM (
    (SELECT created_at AS at FROM payments WHERE id > $1 AND id < $2 AND record <> ''
     ORDER BY id DESC LIMIT $5 + 1)
    UNION ALL
    (SELECT created_at AS at FROM refusals WHERE id > $3 AND id < $4
     ORDER BY id DESC LIMIT $5 + 1)) newest
ORDER BY at DESC OFFSET $5 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in order of time.

    Args:
        until_ms: the moment of the last decision in it.
        decisions: how many of the events are decisions.
    """

    events: list[Event]
    until_ms: int
    decisions: int


@dataclass(frozen=True, slots=True)
class _Decision:
    at_ms: int
    # What follows the prefix of the id: the order among both tables.
    order: str
    event: Event
    later: list[tuple[int, Event]]


def first_id(prefix: str, at_ms: int) -> str:
    """Return the least id of a moment."""
    number = at_ms << 80
    digits = (ALPHABET[(number >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
    return prefix + "".join(digits)


def _bounds(table: _Table, from_ms: int, to_ms: int) -> tuple[str, str]:
    # No id has only zeros after its moment, or one in 2^80: both ends may be left out.
    prefix = _PREFIXES[table]
    return first_id(prefix, from_ms), first_id(prefix, to_ms)


async def count(pool: asyncpg.Pool, from_ms: int, to_ms: int) -> int:
    """Return how many decisions a span holds."""
    bounds = (*_bounds("payments", from_ms, to_ms), *_bounds("refusals", from_ms, to_ms))
    number: int = await pool.fetchval(COUNT, *bounds)
    return number


async def start_of_newest(pool: asyncpg.Pool, from_ms: int, to_ms: int, number: int) -> int:
    """Return the beginning of the part of a span that holds no more than its newest decisions."""
    bounds = (*_bounds("payments", from_ms, to_ms), *_bounds("refusals", from_ms, to_ms))
    cut = await pool.fetchval(FIND_CUT, *bounds, number)
    return from_ms if cut is None else millis(cut) + 1


async def batches(pool: asyncpg.Pool, from_ms: int, to_ms: int) -> AsyncGenerator[Batch, None]:
    """Read the decisions of `[from_ms, to_ms)` and what became of them within it, in order."""
    payments, refusals = (
        _Reader(pool, "payments", from_ms, to_ms),
        _Reader(pool, "refusals", from_ms, to_ms),
    )
    waiting: list[tuple[int, int, Event]] = []
    number = 0
    events: list[Event] = []
    decisions = 0
    while True:
        readers = [one for one in (payments, refusals) if await one.has_next()]
        if not readers:
            break
        decision = min(readers, key=lambda one: one.next_order()).take()
        while waiting and waiting[0][0] <= decision.at_ms:
            events.append(heapq.heappop(waiting)[2])
        events.append(decision.event)
        decisions += 1
        for at_ms, event in decision.later:
            if at_ms < to_ms:
                number += 1
                heapq.heappush(waiting, (at_ms, number, event))
        if decisions == PAGE_SIZE:
            yield Batch(events, decision.at_ms, decisions)
            events, decisions = [], 0
    events.extend(heapq.heappop(waiting)[2] for _ in range(len(waiting)))
    if events:
        yield Batch(events, to_ms, decisions)


class _Reader:
    """One table's decisions, a page ahead."""

    def __init__(self, pool: asyncpg.Pool, table: _Table, from_ms: int, to_ms: int) -> None:
        self._pool = pool
        self._table = table
        self._after, self._before = _bounds(table, from_ms, to_ms)
        self._page: deque[_Decision] = deque()
        self._is_at_end = False

    async def has_next(self) -> bool:
        if not self._page and not self._is_at_end:
            await self._read()
        return bool(self._page)

    def next_order(self) -> str:
        return self._page[0].order

    def take(self) -> _Decision:
        return self._page.popleft()

    async def _read(self) -> None:
        statement = READ_PAYMENTS if self._table == "payments" else READ_REFUSALS
        rows = await self._pool.fetch(statement, self._after, self._before, PAGE_SIZE)
        self._is_at_end = len(rows) < PAGE_SIZE
        if not rows:
            return
        self._after = rows[-1]["id"]
        if self._table == "refusals":
            self._page.extend(_refusal(row) for row in rows)
            return
        acted = [row["id"] for row in rows if row["amount_refunded"] or row["is_manual_capture"]]
        actions: dict[str, list[Any]] = {}
        if acted:
            for action in await self._pool.fetch(READ_ACTIONS, acted):
                actions.setdefault(action["payment_id"], []).append(action)
        self._page.extend(_payment(row, actions.get(row["id"], [])) for row in rows)


def _refusal(row: Any) -> _Decision:
    event = ("decision", row["id"], row["record"], 0, 0, "")
    return _Decision(millis(row["created_at"]), row["id"][_PREFIX_LENGTH:], event, [])


def _payment(row: Any, actions: list[Any]) -> _Decision:
    id, record = row["id"], row["record"]
    event = ("decision", id, record, 0, 0, row["lines"])
    later: list[tuple[int, Event]] = []
    if row["status"] in ("failed", "canceled"):
        ended = ("end", id, record, row["amount_minor"], 0, "")
        later.append((millis(row["updated_at"]), ended))
    captured, refunded = row["amount_received"], 0
    for action in actions:
        at_ms, amount = millis(action["created_at"]), action["amount_minor"]
        if action["kind"] == "capture" and amount < row["amount_minor"]:
            later.append((at_ms, ("end", id, record, row["amount_minor"], amount, "")))
        if action["kind"] == "refund":
            before, refunded = refunded, refunded + amount
            later.append((at_ms, ("refund", id, record, before, refunded, str(captured))))
    return _Decision(millis(row["created_at"]), id[_PREFIX_LENGTH:], event, later)
