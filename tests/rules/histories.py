"""Documents of rules and histories that strain them, made of one stream of choices.

The stream is hypothesis's, which can shrink what it chose, or a seeded generator's, which is fast.
The first value of every choice is the plainest one, so that what is shrunk is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

from tests.oracle.windows import MILLISECOND, TASHKENT, resets_at
from tests.rules.deciders import FREE, OPERATION, POLICY, Json, calendar, later, pay, rolling

T = TypeVar("T")

ROUNDINGS = (None, "half_up", "half_even", "up", "down")
PAYERS = ("sender", "receiver", "bank")
SUBJECTS = (
    "card",
    "destination_card",
    "user",
    "merchant",
    "device",
    "issuer_bin",
    "scheme",
    "platform",
)
WINDOWS = (
    calendar("day"),
    OPERATION,
    *(calendar(unit) for unit in ("hour", "week", "month", "year")),
    *(rolling(seconds) for seconds in (60, 61, 119, 3600, 86_400, 2_678_400)),
)
CURRENCIES = ("UZS", "USD", "JPY", "BHD")
FACTS: dict[str, tuple[str | None, ...]] = {
    "operation": ("purchase", "transfer"),
    "source_scheme": ("humo", "uzcard"),
    "destination_scheme": (None, "humo"),
    "source_card": ("c1", "c2"),
    "destination_card": (None, "c1", "c2"),
    "issuer_bin": ("986001", None),
    "user": ("u1", "u2", None),
    "merchant": ("m1", "m2", None),
    "mcc": ("5411", "4814", None),
    "country": ("UZ", "KZ"),
    "tier": ("basic", "identified"),
    "channel": ("mobile", "web"),
    "device": ("d1", None),
}
PLAN_KEYS = (
    "operation",
    "source_scheme",
    "destination_scheme",
    "tier",
    "channel",
    "merchant",
    "mcc",
)
POLICY_KEYS = ("operation", "scheme", "tier", "channel", "merchant", "mcc", "country")
# The last moments of an hour, a day, a week, a month (of a leap year too) and a year are near.
BEGINNINGS = tuple(
    datetime(*moment, tzinfo=TASHKENT)
    for moment in (
        (2026, 11, 21, 10, 0),
        (2026, 11, 21, 10, 59),
        (2026, 11, 22, 23, 50),
        (2028, 2, 28, 23, 0),
        (2026, 12, 31, 20, 0),
    )
)
STEPS = (
    timedelta(0),
    MILLISECOND,
    *(timedelta(seconds=seconds) for seconds in (1, 30, 59, 60, 61, 600, 3599, 3600)),
    *(timedelta(hours=hours) for hours in (5, 23, 24, 25)),
    *(timedelta(days=days) for days in (6, 7, 15, 31, 180)),
)
OFFSETS = (TASHKENT, UTC, timezone(-timedelta(hours=3, minutes=30)))


class Choices(Protocol):
    """Where choices come from."""

    def between(self, least: int, most: int) -> int:
        """Choose a number, both ends included."""

    def one_of(self, values: Sequence[T]) -> T:
        """Choose a value."""


class Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def between(self, least: int, most: int) -> int:
        return self._draw(st.integers(least, most))

    def one_of(self, values: Sequence[T]) -> T:
        return self._draw(st.sampled_from(values))


class Seeded:
    """Choices of a seeded generator."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def between(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def one_of(self, values: Sequence[T]) -> T:
        return self._random.choice(values)


def _rarely(choose: Choices, one_in: int) -> bool:
    return choose.between(1, one_in) == one_in


# Plans --------------------------------------------------------------------------------------


def percent(choose: Choices) -> str:
    """Choose a percent: a plain one, or any of six digits."""
    plain = choose.one_of(("1", "0", "0.5", "12", "50", "33.333333", "100", ""))
    if plain:
        return plain
    whole, fraction = divmod(choose.between(0, 100_000_000), 1_000_000)
    return f"{whole}.{fraction:06}"


def component(choose: Choices, name: str, scale: int) -> Json:
    """Choose one component of a plan."""
    kind = choose.one_of(("percent", "fixed", "tiered"))
    chosen: Json = {"name": name, "kind": kind}
    if kind == "fixed":
        chosen["amount"] = choose.between(0, 20 * scale)
    elif kind == "percent":
        chosen["percent"] = percent(choose)
    else:
        chosen["mode"] = choose.one_of(("volume", "graduated"))
        chosen["tiers"] = _tiers(choose, scale)
    if kind != "fixed":
        least = choose.one_of((None, 0, 3 * scale))
        if least is not None:
            chosen["min"] = least
        if _rarely(choose, 3):
            chosen["max"] = (least or 0) + choose.between(0, 50 * scale)
    rounding = choose.one_of(ROUNDINGS)
    if rounding is not None:
        chosen["rounding"] = rounding
    if _rarely(choose, 3):
        chosen["vat_percent"] = percent(choose)
    return chosen


def _tiers(choose: Choices, scale: int) -> list[Json]:
    tiers: list[Json] = []
    edge = 0
    for _ in range(choose.between(0, 3)):
        edge += choose.between(1, 400 * scale)
        tiers.append({"up_to": edge, "percent": percent(choose), "fixed": _fixed(choose, scale)})
    tiers.append({"up_to": None, "percent": percent(choose), "fixed": _fixed(choose, scale)})
    return tiers


def _fixed(choose: Choices, scale: int) -> int:
    return choose.between(0, 10 * scale) if _rarely(choose, 3) else 0


def plan(choose: Choices, name: str, scale: int) -> Json:
    """Choose a plan that matches every payment."""
    return FREE | {
        "id": name,
        "payer": choose.one_of(PAYERS),
        "components": [
            component(choose, f"component-{number}", scale)
            for number in range(choose.between(0, 3))
        ],
        "split": _split(choose),
        "on_refund": choose.one_of(("none", "full", "proportional")),
    }


def _split(choose: Choices) -> list[Json]:
    left = 100_000_000
    shares = []
    for _ in range(choose.between(0, 3)):
        shares.append(choose.between(0, left))
        left -= shares[-1]
    if not shares:
        return []
    return [
        {"party": f"party-{number}", "share": f"{share // 1_000_000}.{share % 1_000_000:06}"}
        for number, share in enumerate([*shares, left])
    ]


def _match(choose: Choices, keys: Sequence[str]) -> Json:
    match: Json = {}
    for _ in range(choose.between(0, 2)):
        key = choose.one_of(keys)
        values = FACTS["source_scheme" if key == "scheme" else key]
        match[key] = [choose.one_of([value for value in values if value is not None])]
    return match


def _versions(choose: Choices, begin: datetime, first: Json, changed: Any) -> list[Json]:
    """Choose versions of a rule, one after the other, at times with nothing in between."""
    versions = [first]
    moment = begin
    for version in range(2, 2 + choose.one_of((0, 0, 1, 2))):
        moment += choose.one_of(STEPS[1:])
        last = versions[-1]
        last["effective_to"] = moment.isoformat(timespec="milliseconds")
        if _rarely(choose, 8):
            moment += choose.one_of(STEPS[1:])
        starts = {"effective_from": moment.isoformat(timespec="milliseconds")}
        versions.append(changed(last) | {"version": version, "effective_to": None} | starts)
    return versions


def _plans(choose: Choices, begin: datetime, scale: int) -> list[Json]:
    plans: list[Json] = []
    for number in range(choose.between(1, 3)):
        name = f"plan-{number}"
        first = plan(choose, name, scale) | {"priority": number}
        # The lowest is for whatever the others do not match, but for now and then.
        if number > 0 or _rarely(choose, 10):
            first["match"] = _match(choose, PLAN_KEYS)

        def changed(last: Json, name: str = name) -> Json:
            kept = {key: last[key] for key in ("priority", "match")}
            return plan(choose, name, scale) | kept

        plans += _versions(choose, begin, first, changed)
    return plans


# Policies -----------------------------------------------------------------------------------


def _policy(choose: Choices, name: str, scale: int) -> Json:
    window = choose.one_of(WINDOWS)
    chosen = POLICY | {
        "id": name,
        "priority": choose.between(0, 2),
        "subject": choose.one_of(SUBJECTS),
        "match": _match(choose, POLICY_KEYS),
        "window": window,
        "currency": choose.one_of(("UZS",) * 8 + CURRENCIES),
        "on_breach": choose.one_of(("refuse", "refuse", "step_up")),
        "restore_on_refund": choose.one_of((False, True)),
    }
    if window == OPERATION and _rarely(choose, 2):
        chosen["min_amount"] = choose.between(0, 50) * scale
    caps = choose.one_of((("max_amount",), ("max_count",), ("max_amount", "max_count")))
    if "max_amount" in caps:
        chosen["max_amount"] = choose.between(50, 3000) * scale
    if "max_count" in caps:
        chosen["max_count"] = choose.between(0, 12)
    return chosen


def _policies(choose: Choices, begin: datetime, scale: int) -> list[Json]:
    policies: list[Json] = []
    for number in range(choose.between(0, 5)):
        name = f"policy-{number}"

        def changed(last: Json, name: str = name) -> Json:
            if _rarely(choose, 4):
                return _policy(choose, name, scale)
            version = dict(last)
            for cap in ("max_amount", "max_count"):
                if cap in version and "min_amount" not in version:
                    version[cap] = version[cap] * choose.between(0, 12) // 8
            key = choose.one_of(("", "match", "restore_on_refund", "priority", "on_breach"))
            if key:
                version[key] = _policy(choose, name, scale)[key]
            return version

        policies += _versions(choose, begin, _policy(choose, name, scale), changed)
    return policies


def _rates(choose: Choices, begin: datetime) -> list[Json]:
    rates: list[Json] = []
    for currency in CURRENCIES[1:]:
        day = begin.date() - timedelta(days=choose.one_of((0, 1, 14, 14, 15)))
        for _ in range(choose.one_of((3, 12, 30, 1, 0))):
            rates.append(
                {
                    "currency": currency,
                    "date": day.isoformat(),
                    "rate": choose.one_of(("1", "1.37", "0.0713", "12021.22", "99.999999")),
                    "nominal": choose.one_of((1, 10, 100)),
                }
            )
            day += timedelta(days=choose.one_of((1, 2, 14, 15)))
    return rates


# Histories ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Case:
    """A document of rules and a history to decide under it."""

    rules: Json
    lines: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class _Story:
    """What the next line depends on."""

    now: datetime
    windows: list[Json]
    amounts: list[int]
    paid: list[tuple[str, int]] = field(default_factory=list)
    captured: list[tuple[str, int]] = field(default_factory=list)


def case(choose: Choices, size_max: int) -> Case:
    """Choose rules, and a history of up to this many lines."""
    begin = choose.one_of(BEGINNINGS)
    scale = choose.one_of((1, 100, 1_000_000))
    policies = _policies(choose, begin, scale)
    plans = _plans(choose, begin, scale)
    rules = {
        "commission_plans": plans,
        "limit_policies": policies,
        "rates": _rates(choose, begin),
    }
    story = _Story(
        begin, [policy["window"] for policy in policies], amounts(plans, policies, scale)
    )
    made = Case(rules)
    for number in range(choose.between(1, size_max)):
        made.lines.append(_line(choose, story, f"p{number}"))
    return made


def amounts(plans: list[Json], policies: list[Json], scale: int) -> list[int]:
    """Return amounts at and beside what decides: caps, shares of them, edges of tiers."""
    edges = {1, 100, scale}
    for one in policies:
        for cap in (one.get("max_amount"), one.get("min_amount")):
            edges |= {cap, cap // 2, cap // 3} if cap else set()
    for one in plans:
        for component in one["components"]:
            edges |= {tier["up_to"] for tier in component.get("tiers", ()) if tier["up_to"]}
    near = {edge + beside for edge in edges for beside in (-1, 0, 1)}
    return sorted(amount for amount in near if amount >= 1)


def _line(choose: Choices, story: _Story, name: str) -> Json:
    _move_on(choose, story)
    when = story.now.astimezone(choose.one_of(OFFSETS)).isoformat(timespec="milliseconds")
    if story.paid and choose.between(1, 10) > 7:
        return _event(choose, story, when)
    amount = choose.one_of(story.amounts)
    if _rarely(choose, 4):
        amount = choose.between(1, 2 * story.amounts[-1])
    amount = min(amount, 10**15)
    story.paid.append((name, amount))
    changes: Json = {}
    for _ in range(choose.between(0, 3)):
        key = choose.one_of(tuple(FACTS))
        changes[key] = choose.one_of(FACTS[key])
    if _rarely(choose, 10):
        changes["currency"] = choose.one_of(CURRENCIES)
    return pay(name, amount, when, **changes)


def _event(choose: Choices, story: _Story, when: str) -> Json:
    """Choose what happens to a payment of late, or to one that nobody made."""
    event = choose.one_of(("capture", "refund", "refund", "cancel", "decline"))
    payments = story.captured if event == "refund" and story.captured else story.paid
    name, amount = choose.one_of(payments[-6:])
    if _rarely(choose, 20):
        name = "nobody"
    if event in ("cancel", "decline"):
        return later(event, name, when)
    part = choose.one_of((amount, max(1, amount // 2), max(1, amount // 3), 1, amount + 1))
    if event == "capture":
        story.captured.append((name, part))
    return later(event, name, when, amount=part)


def _move_on(choose: Choices, story: _Story) -> None:
    """Move the clock: mostly by little, at times to the very edge of a window."""
    kind = choose.between(1, 12)
    if kind <= 6:
        story.now += choose.one_of(STEPS[:3])
    elif kind <= 9:
        story.now += choose.one_of(STEPS[:10])
    elif kind == 10:
        story.now += choose.one_of(STEPS)
    elif story.windows:
        window = choose.one_of(story.windows)
        edge = resets_at(window, [story.now], story.now)
        if edge is not None:
            near = edge + choose.one_of((timedelta(0), -MILLISECOND, MILLISECOND))
            story.now = max(story.now, near)
