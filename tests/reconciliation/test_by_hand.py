"""Any report is classed and settled as a slow classification by hand says."""

from __future__ import annotations

import random
from datetime import date, timedelta

import asyncpg
import pytest

from tests.reconciliation.desk import (
    DAY,
    broken,
    posted,
    take,
)
from tests.reconciliation.files import (
    humo_file,
    humo_row,
)
from tests.reconciliation.ours import make, noon_ms

STATES = ("captured", "captured", "captured", "declined", "reversed", "unknown")


def by_hand(
    ours: dict[str, tuple[str, int]], lines: list[tuple[str, str, int]]
) -> list[tuple[str, str]]:
    """Class every difference one by one.

    Args:
        ours: state and amount by reference.
        lines: what (`done`, `declined`, `undone`), reference, amount; in their order.
    """
    found = []
    by_name: dict[str, dict[str, list[int]]] = {}
    for what, name, amount in lines:
        by_name.setdefault(name, {"done": [], "declined": [], "undone": []})[what].append(amount)
    for name in [*ours, *(name for name in by_name if name not in ours)]:
        state, amount = ours.get(name, ("none", 0))
        said = by_name.get(name, {"done": [], "declined": [], "undone": []})
        for what in ("done", "undone"):
            found += [("duplicate", name)] * (len(said[what]) - 1)
        if said["done"]:
            if state == "none":
                found.append(("missing_here", name))
            elif state in ("declined", "unknown") or (state == "reversed" and not said["undone"]):
                found.append(("status", name))
            elif said["done"][0] != amount:
                found.append(("amount", name))
        elif said["declined"] and state in ("captured", "unknown"):
            found.append(("status", name))
        elif state == "captured" and not said["declined"]:
            found.append(("missing_there", name))
        if said["undone"] and not (state == "reversed" and said["done"]):
            found.append(("missing_here" if state == "none" else "status", name))
    return sorted(found)


def settled_by_hand(ours: dict[str, tuple[str, int]], lines: list[tuple[str, str, int]]) -> int:
    """What of a report is settled: what is said once, rightly, and is so here."""
    net = 0
    for name, (state, amount) in ours.items():
        done = [told for what, about, told in lines if (what, about) == ("done", name)]
        is_undone = any((what, about) == ("undone", name) for what, about, _ in lines)
        if state == "captured" or (state == "reversed" and is_undone):
            net += amount if done[:1] == [amount] else 0
        if state == "reversed" and is_undone and done:
            net -= amount
    return net


def report(rng: random.Random, names: list[str]) -> list[tuple[str, str, int]]:
    """What a careless processor may say of these and of others."""
    lines = []
    for name in [*names, "alien-1", "alien-2"]:
        for what, least in (("done", 0.75), ("done", 0.1), ("declined", 0.15), ("declined", 0.1)):
            if rng.random() < least:
                lines.append((what, name, rng.choice((1_000, 1_000, 1_000, 999))))
        for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))):
            lines.append(("undone", name, 1_000))
    rng.shuffle(lines)
    return lines


def written(day: date, lines: list[tuple[str, str, int]]) -> bytes:
    """The same as HUMO's file."""
    changes = {
        "done": {},
        "declined": {"code": "116"},
        "undone": {"operation": "RETURN", "original": "SOAP_SMS"},
    }
    return humo_file(
        day, [humo_row(day, name, amount, **changes[what]) for what, name, amount in lines]
    )


@pytest.mark.fault(rows=[65], what="reports at random beside a classification by hand")
async def test_any_report_is_classed_as_by_hand_and_again_when_corrected(
    pool: asyncpg.Pool,
) -> None:
    """Sixty days, each reported twice: what is open afterwards is what the second one leaves."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    for number in range(60):
        day = DAY - timedelta(days=3 * number)
        ours = {}
        for state in sorted(set(STATES)):
            count = rng.randrange(4)
            for one in await make(pool, "humo", noon_ms(day), count=count, state=state):
                ours[one.attempt] = (state, 1_000)
        for _ in range(2):
            lines = report(rng, list(ours))
            await take(pool, "humo", written(day, lines), day)
            context = (seed, number, lines, ours)
            assert sorted(await broken(pool, day=day)) == by_hand(ours, lines), context
            net = await pool.fetchval(
                "SELECT sum(net_minor) FROM reconciliation_settlements WHERE business_day = $1",
                day,
            )
            assert (net or 0) == settled_by_hand(ours, lines), context
    assert sum((await posted(pool)).values()) == 0
