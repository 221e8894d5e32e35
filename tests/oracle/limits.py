"""Limits: every payment that took from a policy is an entry in one list, summed each time.

A policy is the JSON object of the admin API, as it is. An entry counts for the policy's later
versions too, as long as they limit the same subject over the same window in the same currency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import ceil
from typing import Any

from .commission import Facts, is_in_force, matches
from .rates import MINOR_UNITS_MAX, OutOfRange, minor_units
from .windows import TASHKENT, is_counted, resets_at

Policy = Mapping[str, Any]

PLATFORM = "platform"
_FACT_OF_SUBJECT = {"card": "source_card", "scheme": "source_scheme"}
"""The fact that names the subject, where it is not called as the subject is."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One policy that a payment would break, in the policy's currency and minor units."""

    policy: str
    used: int
    asked: int
    cap: int
    resets_at: datetime | None
    on_breach: str


@dataclass(frozen=True, slots=True)
class _Count:
    """What is counted together: a policy's id, its window and currency, and one subject."""

    policy: str
    window: tuple[tuple[str, Any], ...]
    currency: str
    kind: str
    subject: str


@dataclass(slots=True)
class _Entry:
    payment: str
    taken_at: datetime
    count: _Count
    # Minor units of the policy's currency for one of the payment's, at the rate of its day.
    rate: Fraction
    is_restored_by_refunds: bool
    amount: int


@dataclass(frozen=True, slots=True)
class Question:
    """A payment that asks, and one policy that it must pass."""

    policy: Policy
    count: _Count
    rate: Fraction
    asked: int


class Limits:
    """All policies and everything that was ever taken from them."""

    def __init__(self, policies: Sequence[Policy], rates: Sequence[Mapping[str, Any]]) -> None:
        self._policies = policies
        self._rates = rates
        self._entries: list[_Entry] = []

    def questions(
        self, facts: Facts, *, amount: int, currency: str, at: datetime
    ) -> list[Question]:
        """Return the policies a payment must pass, in the order in which their reasons count.

        Raises:
            NoRate: one of them counts in a currency that the payment cannot be converted to.
            OutOfRange: what it would count is no amount any more.
        """
        seen = dict(facts) | {"scheme": facts.get("source_scheme")}
        day = at.astimezone(TASHKENT).date()
        found = []
        for policy in self._policies:
            subject = _subject(policy["subject"], seen)
            if subject is None or not is_in_force(policy, at) or not matches(policy, seen):
                continue
            rate = minor_units(self._rates, currency, policy["currency"], day)
            count = _Count(
                policy["id"],
                tuple(sorted(policy["window"].items())),
                policy["currency"],
                policy["subject"],
                subject,
            )
            asked = ceil(amount * rate)
            if asked > MINOR_UNITS_MAX:
                raise OutOfRange(policy["id"])
            found.append(Question(policy, count, rate, asked))
        return sorted(found, key=_precedence)

    def breaches(self, questions: Sequence[Question], at: datetime) -> list[Breach]:
        """Return those that the payment does not pass, one breach a policy, in the same order."""
        found = (self._breach(question, at) for question in questions)
        return [breach for breach in found if breach is not None]

    def _breach(self, question: Question, at: datetime) -> Breach | None:
        policy, window = question.policy, question.policy["window"]
        counted = [
            entry
            for entry in self._entries
            if entry.count == question.count and is_counted(window, entry.taken_at, at)
        ]
        used_amount = sum(entry.amount for entry in counted)
        least, most = policy.get("min_amount"), policy.get("max_amount")
        # A sum that is no amount any more is over any cap, and over none as well.
        most = MINOR_UNITS_MAX if most is None else most
        if least is not None and question.asked < least:
            used, asked, cap = 0, question.asked, least
        elif used_amount + question.asked > most:
            used, asked, cap = used_amount, question.asked, most
        elif policy.get("max_count") is not None and len(counted) + 1 > policy["max_count"]:
            used, asked, cap = len(counted), 1, policy["max_count"]
        else:
            return None
        resets = resets_at(window, [entry.taken_at for entry in counted], at)
        on_breach = policy.get("on_breach") or "refuse"
        return Breach(policy["id"], used, asked, cap, resets, on_breach)

    def take(self, payment: str, questions: Sequence[Question], at: datetime) -> None:
        """Count an admitted payment for every policy that it passed."""
        for question in questions:
            is_restored = bool(question.policy.get("restore_on_refund"))
            self._entries.append(
                _Entry(payment, at, question.count, question.rate, is_restored, question.asked)
            )

    def give_back(self, payment: str) -> None:
        """Forget a payment that was declined or canceled."""
        self._entries = [entry for entry in self._entries if entry.payment != payment]

    def keep(self, payment: str, *, captured: int, refunded: int = 0) -> None:
        """Count no more of a payment than what it kept; it stays one payment."""
        for entry in self._entries:
            if entry.payment == payment:
                kept = captured - refunded if entry.is_restored_by_refunds else captured
                entry.amount = ceil(kept * entry.rate)


def _subject(kind: str, facts: Facts) -> str | None:
    if kind == PLATFORM:
        return PLATFORM
    return facts.get(_FACT_OF_SUBJECT.get(kind, kind))


def _precedence(question: Question) -> tuple[bool, int, str]:
    policy = question.policy
    is_operation = policy["window"]["kind"] == "operation"
    return (not is_operation, -int(policy["priority"]), policy["id"])
