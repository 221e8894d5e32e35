"""A dated history, decided line by line: the semantics of `oqim decide`.

Nothing is decided after a line that cannot be read; time never goes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .commission import Commission, Plan, commission_on, plan_for, returned_by_refunds
from .limits import Breach, Limits
from .rates import NoRate
from .windows import MILLISECOND, TASHKENT

AMOUNT_MAX = 10**15
FACTS = (
    "operation",
    "source_scheme",
    "destination_scheme",
    "source_card",
    "destination_card",
    "issuer_bin",
    "user",
    "merchant",
    "mcc",
    "country",
    "tier",
    "channel",
    "device",
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_CURRENCY = re.compile(r"[A-Z]{3}")

ADMITTED, CAPTURED, OVER = "admitted", "captured", "over"


class MalformedLine(Exception):
    """A line that cannot be read; it says why."""


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
        """Decide one line.

        Raises:
            MalformedLine: it cannot be read, goes back in time, or pays under an id used before.
        """
        at = _moment(line.get("at"))
        name, event = _text(line, "id"), _text(line, "event")
        if event not in ("pay", "decline", "cancel", "capture", "refund"):
            raise MalformedLine(f"no such event: {event}")
        if event == "pay":
            _check_payment(line)
        elif event in ("capture", "refund"):
            _integer(line)
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
        facts = {key: line.get(key) for key in (*FACTS, "currency")}
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
    """Decide a history of JSON lines, in order.

    Raises:
        MalformedLine: with the number of the line, from 1; what came before it was yielded.
    """
    history = History(rules)
    for number, line in enumerate(lines, start=1):
        try:
            read = json.loads(line)
            if not isinstance(read, dict):
                raise MalformedLine("not an object")
            answer = history.feed(read)
        except (ValueError, MalformedLine) as error:
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


def _check_payment(line: Mapping[str, Any]) -> None:
    _text(line, "operation")
    if not _CURRENCY.fullmatch(_text(line, "currency")):
        raise MalformedLine("currency is not three capital letters")
    if not 1 <= _integer(line) <= AMOUNT_MAX:
        raise MalformedLine("amount is out of range")
    for key in FACTS:
        if line.get(key) is not None:
            _text(line, key)


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedLine(f"{key} is not a text")
    return value


def _integer(line: Mapping[str, Any]) -> int:
    amount = line.get("amount")
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise MalformedLine("amount is not a whole number of minor units")
    return amount


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise MalformedLine("at is not a moment (RFC 3339)")
    at = datetime.fromisoformat(value.upper())
    # What is finer than a millisecond has no meaning here.
    return at - at.microsecond % 1000 * (MILLISECOND / 1000)
