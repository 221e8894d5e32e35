"""A dated history, decided line by line: the semantics of `oqim decide`.

Nothing is decided after a line that cannot be read; time never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .commission import Commission, Plan, commission_on, plan_for, returned_by_refunds
from .limits import Breach, Limits
from .lines import FACTS, MalformedLine, read_line
from .rates import NoRate, OutOfRange
from .windows import TASHKENT

ADMITTED, CAPTURED, OVER = "admitted", "captured", "over"


@dataclass(slots=True)
class _Payment:
    """What is remembered of one payment; one that was not admitted is over at once."""

    state: str
    amount: int = 0
    plan: Plan | None = None
    commission: Commission | None = None
    captured: int = 0
    refunded: int = 0
    returned: int = 0


class History:
    """Decides one history under one document of rules.

    Args:
        rules: `commission_plans`, `limit_policies` and `rates`, each a list of JSON objects.
    """

    def __init__(self, rules: Mapping[str, Any]) -> None:
        self._plans: list[Plan] = rules.get("commission_plans") or []
        self._limits = Limits(rules.get("limit_policies") or [], rules.get("rates") or [])
        self._payments: dict[str, _Payment] = {}
        self._now: datetime | None = None

    def feed(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Decide one line that was read.

        Raises:
            MalformedLine: it goes back in time, or pays under an id used before.
        """
        at, name, event = line["at"], line["id"], line["event"]
        if self._now is not None and at < self._now:
            raise MalformedLine("time goes back")
        if event == "pay" and name in self._payments:
            raise MalformedLine(f"{name} was paid before")
        self._now = at
        if event == "pay":
            return {"id": name, "event": event} | self._pay(name, line, at)
        payment = self._payments.get(name, _Payment(OVER))
        returned_before = payment.returned
        is_done = self._after(name, payment, event, line)
        commission = payment.commission if is_done and event == "capture" else None
        return {
            "id": name,
            "event": event,
            "ok": is_done,
            "commission": _shown(commission),
            "commission_returned": payment.returned - returned_before,
        }

    def _pay(self, name: str, line: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        facts = {key: line.get(key) for key in ("operation", "currency", *FACTS)}
        amount = line["amount"]
        payment = self._payments[name] = _Payment(OVER, amount)
        plan = plan_for(self._plans, facts, at)
        if plan is None:
            return _refused("commission-plan-missing")
        commission = commission_on(plan, amount)
        if commission.exceeds_amount:
            return _refused("commission-exceeds-amount")
        try:
            questions = self._limits.questions(
                facts, amount=amount, currency=line["currency"], at=at
            )
        except NoRate:
            return _refused("exchange-rate-missing")
        except OutOfRange:
            return _refused("amount-out-of-range")
        breaches = self._limits.breaches(questions, at)
        if any(breach.on_breach == "refuse" for breach in breaches):
            return _refused("limit-exceeded", breaches)
        if not breaches:
            payment.state, payment.plan, payment.commission = ADMITTED, plan, commission
            self._limits.take(name, questions, at)
        return {
            "decision": "step_up" if breaches else "admit",
            "code": None,
            "breaches": [_shown_breach(breach) for breach in breaches],
            "commission": _shown(commission),
            "total_debit": commission.total_debit,
            "total_credit": commission.total_credit,
        }

    def _after(self, name: str, payment: _Payment, event: str, line: Mapping[str, Any]) -> bool:
        if event == "capture":
            return payment.state == ADMITTED and self._capture(name, payment, line["amount"])
        if event == "refund":
            return payment.state == CAPTURED and self._refund(name, payment, line["amount"])
        if payment.state != ADMITTED:
            return False
        payment.state = OVER
        self._limits.give_back(name)
        return True

    def _capture(self, name: str, payment: _Payment, amount: int) -> bool:
        assert payment.plan is not None, "it was admitted"
        if not 1 <= amount <= payment.amount:
            return False
        commission = commission_on(payment.plan, amount)
        if commission.exceeds_amount:
            return False
        payment.state, payment.captured, payment.commission = CAPTURED, amount, commission
        self._limits.keep(name, captured=amount)
        return True

    def _refund(self, name: str, payment: _Payment, amount: int) -> bool:
        assert payment.plan is not None, "it was admitted"
        assert payment.commission is not None, "it was admitted"
        if not 1 <= amount <= payment.captured - payment.refunded:
            return False
        payment.refunded += amount
        payment.returned = returned_by_refunds(
            payment.plan,
            total=payment.commission.total,
            captured=payment.captured,
            refunded=payment.refunded,
        )
        self._limits.keep(name, captured=payment.captured, refunded=payment.refunded)
        return True


def decide(rules: Mapping[str, Any], lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Decide a history of JSON lines, in order; an empty one is passed over, but counted.

    Raises:
        MalformedLine: with the number of the line, from 1; what came before it was yielded.
    """
    history = History(rules)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            answer = history.feed(read_line(line))
        except MalformedLine as error:
            raise MalformedLine(f"line {number}: {error}") from None
        yield answer


def _refused(code: str, breaches: Iterable[Breach] = ()) -> dict[str, Any]:
    return {
        "decision": "refuse",
        "code": code,
        "breaches": [_shown_breach(breach) for breach in breaches],
        "commission": None,
        "total_debit": None,
        "total_credit": None,
    }


def _shown_breach(breach: Breach) -> dict[str, Any]:
    resets_at = breach.resets_at
    return {
        "policy": breach.policy,
        "used": breach.used,
        "asked": breach.asked,
        "cap": breach.cap,
        "resets_at": resets_at
        and resets_at.astimezone(TASHKENT).isoformat(timespec="milliseconds"),
    }


def _shown(commission: Commission | None) -> dict[str, Any] | None:
    if commission is None:
        return None
    return {
        "total": commission.total,
        "payer": commission.payer,
        "plan": commission.plan,
        "lines": [
            {"component": line.component, "amount": line.amount, "exact": str(line.exact)}
            for line in commission.lines
        ],
        "split": dict(commission.split),
    }
