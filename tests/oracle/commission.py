"""Commissions on exact fractions: which plan, each line, the split, what a refund gives back.

A plan is the JSON object of the admin API, as it is. Amounts are integers of minor units. A value
is rounded once, by the rule that its component names, and clamped after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

Plan = Mapping[str, Any]
Facts = Mapping[str, str | None]
"""What is known of a payment, by the key that `match` calls it; an absent fact is None."""

ALWAYS = datetime.min.replace(tzinfo=UTC)
HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a commission.

    Attributes:
        kind: `fixed`, `percent`, `tiered` or `vat`.
        basis: what it was computed on, minor units.
        exact: the value before it was rounded and clamped.
        amount: the value that counts, minor units.
    """

    component: str
    kind: str
    basis: int
    exact: Fraction
    rounding: str
    amount: int


@dataclass(frozen=True, slots=True)
class Commission:
    """What one plan takes of one amount, and what is then debited and credited."""

    plan: str
    version: int
    payer: str
    lines: tuple[Line, ...]
    total: int
    vat_total: int
    split: Mapping[str, int]
    total_debit: int
    total_credit: int

    @property
    def exceeds_amount(self) -> bool:
        """Whether the receiver would get nothing."""
        return self.total_credit < 1


def plan_for(plans: Iterable[Plan], facts: Facts, at: datetime) -> Plan | None:
    """Return the plan in force at a moment, of those that match the one of highest priority."""
    found = [plan for plan in plans if is_in_force(plan, at) and matches(plan, facts)]
    return max(found, key=lambda plan: int(plan["priority"]), default=None)


def is_in_force(rule: Mapping[str, Any], at: datetime) -> bool:
    """Return whether `[effective_from, effective_to)` contains a moment."""
    begin, end = span(rule)
    return begin <= at and (end is None or at < end)


def span(rule: Mapping[str, Any]) -> tuple[datetime, datetime | None]:
    """Return from when a rule is in force, and until when; None for no end."""
    begin, end = rule.get("effective_from"), rule.get("effective_to")
    return (
        ALWAYS if begin is None else datetime.fromisoformat(begin),
        None if end is None else datetime.fromisoformat(end),
    )


def matches(rule: Mapping[str, Any], facts: Facts) -> bool:
    """Return whether every list of `match` that has values contains the payment's."""
    match = rule.get("match") or {}
    return all(not values or facts.get(key) in values for key, values in match.items())


def can_both_apply(one: Plan, other: Plan) -> bool:
    """Return whether some payment at some moment would be matched by both with equal priority."""
    if one["priority"] != other["priority"]:
        return False
    (begin, end), (other_begin, other_end) = span(one), span(other)
    if (end is not None and end <= other_begin) or (other_end is not None and other_end <= begin):
        return False
    mine, others = one.get("match") or {}, other.get("match") or {}
    return all(
        not mine.get(key) or not others.get(key) or set(mine[key]) & set(others[key])
        for key in {*mine, *others}
    )


def commission_on(plan: Plan, amount: int) -> Commission:
    """Compute a plan's commission on an amount of one minor unit or more."""
    lines: list[Line] = []
    for component in plan["components"]:
        line = _line(component, amount)
        lines.append(line)
        if component.get("vat_percent") is not None:
            lines.append(_vat(line, component["vat_percent"]))
    total = sum(line.amount for line in lines)
    # The receiver of a purchase may be called by its name.
    payer = "receiver" if plan["payer"] == "merchant" else plan["payer"]
    return Commission(
        plan=plan["id"],
        version=plan["version"],
        payer=payer,
        lines=tuple(lines),
        total=total,
        vat_total=sum(line.amount for line in lines if line.kind == "vat"),
        split=split(plan.get("split") or (), total),
        total_debit=amount + total if payer == "sender" else amount,
        total_credit=amount - total if payer == "receiver" else amount,
    )


def _line(component: Mapping[str, Any], amount: int) -> Line:
    kind = component["kind"]
    rounding = component.get("rounding") or "half_up"
    if kind == "fixed":
        exact = Fraction(component["amount"])
    elif kind == "percent":
        exact = _percent(amount, component["percent"])
    else:
        exact = _tiered(component, amount)
    rounded = round_to_unit(exact, rounding)
    least, most = component.get("min"), component.get("max")
    if least is not None:
        rounded = max(rounded, least)
    if most is not None:
        rounded = min(rounded, most)
    return Line(component["name"], kind, amount, exact, rounding, rounded)


def _vat(line: Line, percent: str) -> Line:
    exact = _percent(line.amount, percent)
    amount = round_to_unit(exact, line.rounding)
    return Line(line.component, "vat", line.amount, exact, line.rounding, amount)


def _percent(amount: int, percent: str) -> Fraction:
    return amount * Fraction(percent) / 100


def _tiered(component: Mapping[str, Any], amount: int) -> Fraction:
    tiers = component["tiers"]
    if component["mode"] == "volume":
        tier = next(tier for tier in tiers if tier["up_to"] is None or amount <= tier["up_to"])
        return _percent(amount, tier["percent"]) + (tier.get("fixed") or 0)
    exact = Fraction(0)
    below = 0
    for tier in tiers:
        # A tier without one unit of the amount takes nothing, its fixed part neither.
        if amount > below:
            upper = amount if tier["up_to"] is None else min(amount, tier["up_to"])
            exact += _percent(upper - below, tier["percent"]) + (tier.get("fixed") or 0)
        if tier["up_to"] is not None:
            below = tier["up_to"]
    return exact


def round_to_unit(value: Fraction, rounding: str) -> int:
    """Round a value of zero or more to a whole minor unit.

    Args:
        rounding: `half_up`, `half_even`, `up` or `down`.
    """
    whole = value.numerator // value.denominator
    rest = value - whole
    if rounding == "down":
        return whole
    if rounding == "up":
        return whole + (rest > 0)
    if rounding == "half_up":
        return whole + (rest >= HALF)
    if rounding == "half_even":
        return whole + (rest > HALF or (rest == HALF and whole % 2 == 1))
    raise ValueError(f"no such rounding: {rounding}")


def split(shares: Sequence[Mapping[str, str]], total: int) -> dict[str, int]:
    """Divide a total by shares in percent: each floored, what is left over one each, in order."""
    parts = {one["party"]: int(total * Fraction(one["share"]) // 100) for one in shares}
    left = total - sum(parts.values())
    for party in list(parts)[:left]:
        parts[party] += 1
    return parts


def returned_by_refunds(plan: Plan, *, total: int, captured: int, refunded: int) -> int:
    """Return how much of a commission has been given back in all.

    Args:
        total: the commission on what was captured.
        refunded: refunded so far in all, at most what was captured.
    """
    rule = plan.get("on_refund") or "none"
    if rule == "full":
        return total if refunded == captured else 0
    if rule == "proportional":
        return total * refunded // captured
    return 0
