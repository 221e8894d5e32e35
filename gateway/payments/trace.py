"""Why: the decisions on a payment or a refusal in their order, for whoever asks.

Made from what was stored with the decision, never by deciding again. A customer is told sentences;
a merchant is told what is the merchant's; an operator is told everything.
"""

from typing import Any, Literal

import msgspec

from gateway.core import record_json, rfc3339
from gateway.payments import trace_texts as texts
from gateway.payments.model import OPEN_ATTEMPT_STATES, Attempt, Payment

View = Literal["customer", "merchant", "operator"]
StepName = Literal[
    "token", "revocation", "routing", "commission", "commission_line", "limit", "attempt"
]

_APPROVED = frozenset({"authorized", "captured"})
_UNDONE = frozenset({"reversing", "reversed", "voided"})
_ROUTING_CODES = ("unsupported-operation", "currency-not-supported")
_COMMISSION_CODES = ("commission-plan-missing", "commission-exceeds-amount")
# What a merchant may know of limits: only its own are told in figures.
_MERCHANTS_OWN = "merchant"


class Limit(msgspec.Struct, frozen=True):
    """One limit as the core recorded it. Amounts are minor units of its currency."""

    policy: str
    version: int
    subject: str
    window: str
    currency: str
    used_amount: int
    used_count: int
    asked: int
    min_amount: int | None
    max_amount: int | None
    max_count: int | None
    resets_at: str | None
    passes_at: str | None
    on_breach: str
    is_breached: bool
    broken: str | None


class Nearest(msgspec.Struct, frozen=True):
    """The nearest change that would have passed: an amount, a moment, a step-up."""

    amount: int | None
    at: str | None
    step_up: bool


class Decision(msgspec.Struct, frozen=True):
    """A stored decision."""

    at: str
    generation: int
    verdict: str
    code: str | None
    is_stepped_up: bool
    revocation_seq: int
    session: str | None
    operation: str
    amount: int
    currency: str
    source_scheme: str | None
    destination_scheme: str | None
    tier: str | None
    channel: str | None
    plan: str | None
    plan_version: int | None
    is_quoted: bool
    limits: list[Limit]
    nearest: Nearest


class Step(msgspec.Struct, omit_defaults=True):
    """One decision. `outcome`: `passed`, `refused`, `step_up`, or of an attempt its state."""

    step: StepName
    outcome: str
    at: str | None = None
    text: texts.Text | None = None
    detail: dict[str, Any] | None = None


class NearestView(msgspec.Struct, omit_defaults=True):
    """What would have passed."""

    amount: int | None = None
    at: str | None = None
    step_up: bool = False
    text: texts.Text | None = None


class TraceView(msgspec.Struct):
    """The ordered decisions on a payment, or on a refusal."""

    id: str
    view: View
    decision: str
    code: str | None
    rules_generation: int | None
    steps: list[Step]
    nearest: NearestView | None


def trace(
    decision_id: str,
    record: bytes,
    view: View,
    *,
    payment: Payment | None = None,
    attempts: list[Attempt] | None = None,
) -> TraceView:
    """Return the trace of a stored decision.

    Args:
        record: in the core's layout.
        payment: what the decision made, if it made one.
        attempts: the payment's, in order.
    """
    decision = msgspec.json.decode(record_json(record), type=Decision)
    steps = [*_who(decision), _routing(decision, payment)]
    if decision.code not in _ROUTING_CODES:
        steps += _commission(decision, payment)
        steps += [_limit(limit, decision.is_stepped_up) for limit in decision.limits]
    if decision.code in ("exchange-rate-missing", "amount-out-of-range"):
        steps.append(Step("limit", "refused", text=texts.sentence(decision.code)))
    steps += [_attempt(attempt) for attempt in attempts or ()]
    return TraceView(
        id=decision_id,
        view=view,
        decision=decision.verdict,
        code=decision.code,
        rules_generation=decision.generation if view == "operator" else None,
        # What has no words is of no use to a customer.
        steps=[_seen(step, view) for step in steps if step.text or view != "customer"],
        nearest=_nearest(decision, view),
    )


def _who(decision: Decision) -> list[Step]:
    token = {
        "session": decision.session,
        "tier": decision.tier,
        "channel": decision.channel,
    }
    known = {"applied_seq": decision.revocation_seq}
    return [
        Step("token", "passed", decision.at, texts.sentence("token"), token),
        Step("revocation", "passed", decision.at, texts.sentence("revocation"), known),
    ]


def _routing(decision: Decision, payment: Payment | None) -> Step:
    if decision.code in _ROUTING_CODES:
        text = texts.sentence("routing_refused")
        return Step("routing", "refused", decision.at, text, {"code": decision.code})
    scheme = decision.source_scheme or decision.destination_scheme or ""
    detail: dict[str, Any] = {
        "source_scheme": decision.source_scheme,
        "destination_scheme": decision.destination_scheme,
    }
    if payment is not None:
        detail["legs"] = [{"connector": name, "kind": kind} for name, kind in payment.legs]
    text = texts.sentence("routing", scheme=texts.same(scheme.upper()))
    return Step("routing", "passed", decision.at, text, detail)


def _commission(decision: Decision, payment: Payment | None) -> list[Step]:
    if decision.code in _COMMISSION_CODES:
        text = texts.sentence(decision.code)
        return [Step("commission", "refused", decision.at, text, {"code": decision.code})]
    plan = {
        "plan": decision.plan,
        "version": decision.plan_version,
        "is_quoted": decision.is_quoted,
    }
    if payment is None:
        return [Step("commission", "passed", decision.at, None, plan)]
    total = texts.amount(payment.commission_total, payment.currency)
    whole = plan | {
        "payer": payment.commission_payer,
        "total": payment.commission_total,
        "split": dict(payment.commission_split),
    }
    steps = [
        Step("commission", "passed", decision.at, texts.sentence("commission", amount=total), whole)
    ]
    for line in msgspec.json.decode(payment.commission_lines, type=list[dict[str, Any]]):
        amount = texts.amount(line["amount"], payment.currency)
        text = texts.sentence("line", component=texts.same(line["component"]), amount=amount)
        steps.append(Step("commission_line", "passed", None, text, line | plan))
    return steps


def _limit(limit: Limit, is_stepped_up: bool) -> Step:
    names = {
        "window": texts.words("window", limit.window),
        "subject": texts.words("subject", limit.subject),
    }
    used, asked, cap = _figures(limit)
    detail = msgspec.to_builtins(limit) | {"used": used, "asked": asked, "cap": cap}
    if limit.broken is None:
        return Step("limit", "passed", None, texts.sentence("limit_passed", **names), detail)
    if limit.broken == "min_amount":
        floor = texts.amount(limit.min_amount or 0, limit.currency)
        text = texts.sentence("min_amount", floor=floor)
    else:
        left = max(0, (limit.max_amount or 0) - limit.used_amount)
        text = texts.sentence(limit.broken, left=texts.amount(left, limit.currency), **names)
    if limit.resets_at is not None:
        text = texts.joined(text, texts.sentence("resets", when=texts.moment(limit.resets_at)))
    outcome = "refused"
    if limit.on_breach == "step_up":
        outcome = "passed" if is_stepped_up else "step_up"
    return Step("limit", outcome, None, text, detail)


def _figures(limit: Limit) -> tuple[int, int, int | None]:
    """Return what was used, asked and allowed: of what was broken, or of what is capped."""
    is_count = limit.broken == "max_count" or (limit.broken is None and limit.max_amount is None)
    if is_count and limit.max_count is not None:
        return limit.used_count, 1, limit.max_count
    if limit.broken == "min_amount":
        return 0, limit.asked, limit.min_amount
    return limit.used_amount, limit.asked, limit.max_amount


def _attempt(attempt: Attempt) -> Step:
    if attempt.state in _APPROVED:
        name = "attempt_approved"
    elif attempt.state in _UNDONE:
        name = "attempt_undone"
    elif attempt.state in OPEN_ATTEMPT_STATES:
        name = "attempt_open"
    else:
        name = "attempt_declined"
    detail = {
        "id": attempt.id,
        "connector": attempt.connector,
        "kind": attempt.kind,
        "rrn": attempt.rrn,
        "approval_code": attempt.approval_code,
        "processor_code": attempt.processor_code,
        "outcome_source": attempt.outcome_source,
        "tries": attempt.tries,
    }
    at = rfc3339(attempt.created_at_ms)
    return Step("attempt", attempt.state, at, texts.sentence(name), detail)


def _seen(step: Step, view: View) -> Step:
    """Leave of a step what a view may see."""
    if view == "operator":
        step.text = None
        return step
    if view == "customer":
        step.detail = None
        return step
    step.text = None
    detail = step.detail or {}
    if step.step in ("token", "revocation"):
        step.detail = None
    elif step.step == "limit" and detail.get("subject") != _MERCHANTS_OWN:
        step.detail = {key: detail[key] for key in ("policy", "subject", "window") if key in detail}
    elif step.step == "commission":
        step.detail = {key: value for key, value in detail.items() if key != "split"}
    elif step.step == "attempt":
        step.detail = {key: detail[key] for key in ("id", "connector", "rrn", "approval_code")}
    return step


def _nearest(decision: Decision, view: View) -> NearestView | None:
    nearest = decision.nearest
    if nearest.amount is None and nearest.at is None and not nearest.step_up:
        return None
    broken = [limit for limit in decision.limits if limit.is_breached]
    if view == "merchant" and any(limit.subject != _MERCHANTS_OWN for limit in broken):
        # It would say how much headroom a customer has left.
        return None
    if view != "customer":
        return NearestView(nearest.amount, nearest.at, nearest.step_up)
    told = []
    if nearest.step_up:
        told.append(texts.sentence("nearest_step_up"))
    if nearest.amount is not None:
        amount = texts.amount(nearest.amount, decision.currency)
        told.append(texts.sentence("nearest_amount", amount=amount))
    if nearest.at is not None:
        told.append(texts.sentence("nearest_at", when=texts.moment(nearest.at)))
    return NearestView(nearest.amount, nearest.at, nearest.step_up, texts.joined(*told))
