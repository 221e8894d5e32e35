"""Who decides a history: the core's engine, and the oracle; and short ways to write one down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from gateway.core import Decider
from tests.oracle.history import decide
from tests.oracle.windows import TASHKENT

Json = dict[str, Any]
Decide = Callable[[Mapping[str, Any], Iterable[Json]], list[Json]]
"""Decides the lines of a history under a document of rules; list[n] of answers, same order."""

BEGIN = datetime(2026, 11, 21, 10, tzinfo=TASHKENT)
FREE: Json = {
    "id": "free",
    "version": 1,
    "effective_from": "2020-01-01T00:00:00+05:00",
    "effective_to": None,
    "priority": 1,
    "match": {},
    "payer": "sender",
    "components": [],
    "split": [],
    "on_refund": "none",
}
POLICY: Json = {
    "id": "policy",
    "version": 1,
    "effective_from": "2020-01-01T00:00:00+05:00",
    "effective_to": None,
    "priority": 100,
    "subject": "card",
    "match": {},
    "window": {"kind": "calendar", "unit": "day"},
    "currency": "UZS",
    "on_breach": "refuse",
    "restore_on_refund": False,
}


def by_engine(rules: Mapping[str, Any], lines: Iterable[Json]) -> list[Json]:
    """Decide by the compiled core."""
    decider = Decider(json.dumps(rules).encode())
    sent = "".join(json.dumps(line) + "\n" for line in lines)
    return [json.loads(line) for line in decider.feed(sent.encode()).splitlines()]


def by_oracle(rules: Mapping[str, Any], lines: Iterable[Json]) -> list[Json]:
    """Decide by the oracle."""
    return list(decide(rules, (json.dumps(line) for line in lines)))


def plan(*components: Json, **changes: Any) -> Json:
    """Return a commission plan that matches every payment."""
    return FREE | {"id": "plan", "components": list(components)} | changes


def policy(**changes: Any) -> Json:
    """Return a limit policy that matches every payment: per card and day, nothing capped."""
    return POLICY | changes


def rolling(seconds: int) -> Json:
    """Return a rolling window."""
    return {"kind": "rolling", "seconds": seconds}


def calendar(unit: str) -> Json:
    """Return a calendar window."""
    return {"kind": "calendar", "unit": unit}


OPERATION = {"kind": "operation"}


def rules(
    *, plans: Iterable[Json] = (FREE,), policies: Iterable[Json] = (), rates: Iterable[Json] = ()
) -> Json:
    """Return a document of rules; without plans of its own, everything is free."""
    return {
        "commission_plans": list(plans),
        "limit_policies": list(policies),
        "rates": list(rates),
    }


def at(after: timedelta | float = 0, *, begin: datetime = BEGIN) -> str:
    """Return a moment, this many seconds (or that long) after the beginning."""
    after = after if isinstance(after, timedelta) else timedelta(seconds=after)
    return (begin + after).isoformat(timespec="milliseconds")


def pay(name: str, amount: int, when: str = "", **changes: Any) -> Json:
    """Return a payment's line: a purchase by one card at one merchant."""
    return {
        "at": when or at(),
        "event": "pay",
        "id": name,
        "operation": "purchase",
        "amount": amount,
        "currency": "UZS",
        "source_scheme": "humo",
        "destination_scheme": None,
        "source_card": "c1",
        "destination_card": None,
        "issuer_bin": "986001",
        "user": "u1",
        "merchant": "m1",
        "mcc": "5411",
        "country": "UZ",
        "tier": "basic",
        "channel": "mobile",
        "device": "d1",
    } | changes


def later(event: str, name: str, when: str = "", **changes: Any) -> Json:
    """Return the line of an event on a payment."""
    return {"at": when or at(), "event": event, "id": name} | changes
