"""Payments, attempts and actions: their types, their states as tables, and their JSON.

Holds no IO and reads no clock. A terminal state is never left: what contradicts it is a conflict.
"""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal

import msgspec

from connectors.spi import Outcome, Result
from gateway.core import rfc3339

REQUIRES_ACTION = "requires_action"
PROCESSING = "processing"
REQUIRES_CAPTURE = "requires_capture"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELED = "canceled"

# What a payment may become. Refunds never change it.
PAYMENT_TRANSITIONS: dict[str, frozenset[str]] = {
    REQUIRES_ACTION: frozenset({PROCESSING, FAILED, CANCELED}),
    PROCESSING: frozenset({PROCESSING, REQUIRES_CAPTURE, SUCCEEDED, FAILED, CANCELED}),
    REQUIRES_CAPTURE: frozenset({PROCESSING, SUCCEEDED, CANCELED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
}

# What an attempt may become.
ATTEMPT_TRANSITIONS: dict[str, frozenset[str]] = {
    "created": frozenset({"sent", "declined"}),
    "sent": frozenset({"authorized", "captured", "declined", "unknown", "reversed"}),
    "unknown": frozenset({"authorized", "captured", "declined", "reversing", "reversed"}),
    "authorized": frozenset({"captured", "voided", "reversing", "reversed", "expired"}),
    "captured": frozenset({"reversing", "reversed"}),
    "reversing": frozenset({"reversed"}),
    "declined": frozenset(),
    "reversed": frozenset(),
    "voided": frozenset(),
    "expired": frozenset(),
}

# What a capture, a cancel or a refund may become.
ACTION_TRANSITIONS: dict[str, frozenset[str]] = {
    "pending": frozenset({"unknown", "succeeded", "failed"}),
    "unknown": frozenset({"unknown", "succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
}

OPEN_ATTEMPT_STATES = frozenset({"sent", "unknown", "reversing"})

_MESSAGES = {
    "insufficient_funds": ("There is not enough money on the card.", "Use another card."),
    "limit_amount": ("The card's own limit was reached.", "Pay less, or ask the card's bank."),
    "limit_count": ("The card was used too often today.", "Try tomorrow, or use another card."),
    "invalid_card": ("The card was not recognised.", "Check the card."),
    "expired_card": ("The card has expired.", "Use another card."),
    "card_blocked": ("The card is blocked.", "Ask the card's bank."),
    "not_permitted_card": ("The card does not permit this.", "Use another card."),
    "owner_mismatch": ("The card belongs to another person.", "Use your own card."),
    "fraud_suspect": ("The payment was stopped by a fraud check.", "Ask the card's bank."),
    "issuer_unavailable": ("The card's bank does not answer.", "Try again later."),
    "switch_unavailable": ("The processor does not answer.", "Try again later."),
    "system_error": ("The processor has a fault.", "Try again later."),
}
_MESSAGE_OTHERWISE = ("The card's bank declined the payment.", "Ask the card's bank.")


@dataclass(slots=True)
class Attempt:
    """One try at one processor. `age_s` is its age when it was read, by the database's clock."""

    id: str
    payment_id: str
    leg: int
    connector: str
    kind: str
    state: str
    sequence: int
    created_at_ms: int
    rrn: str | None = None
    approval_code: str | None = None
    processor_code: str | None = None
    references: dict[str, str] = field(default_factory=dict)
    outcome_source: str | None = None
    tries: int = 0
    age_s: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_ATTEMPT_STATES


@dataclass(slots=True)
class Payment:
    """What the customer asked for. Amounts are minor units of `currency`."""

    id: str
    version: int
    owner: str
    client_id: str
    operation: str
    status: str
    scheme: str
    amount_minor: int
    currency: str
    total_debit: int
    total_credit: int
    source_card_id: str | None
    destination_card_id: str | None
    destination_pan: bytes | None
    merchant_id: str | None
    is_manual_capture: bool
    commission_total: int
    commission_vat: int
    commission_payer: str
    commission_plan: str
    commission_version: int
    legs: list[tuple[str, str]]
    # The decision, in the core's layout: what it took from limits is in it.
    record: bytes
    details: dict[str, Any]
    created_at_ms: int
    amount_capturable: int = 0
    amount_received: int = 0
    amount_refunded: int = 0
    amount_refunding: int = 0
    decline_code: str | None = None
    commission_lines: str = "[]"
    commission_split: list[tuple[str, int]] = field(default_factory=list)
    commission_returned: int = 0
    commission_returning: int = 0

    @property
    def has_waited(self) -> bool:
        """Whether it was written before, to wait for a stronger authentication."""
        return self.version > 1

    def become(self, status: str) -> None:
        """Change the status as the table allows; anything else is a fault of ours."""
        if status not in PAYMENT_TRANSITIONS[self.status]:
            raise AssertionError(f"{self.id}: {self.status} cannot become {status}")
        self.status = status


_payment_values = attrgetter(*(one.name for one in fields(Payment)))
_attempt_values = attrgetter(*(one.name for one in fields(Attempt)))


def copy_of(payment: Payment) -> Payment:
    """Return a payment that may be changed while the one that was read stays as it was."""
    return Payment(*_payment_values(payment))


def move_attempt(attempt: Attempt, state: str) -> None:
    """Change an attempt's state as the table allows; anything else is a fault of ours."""
    if state not in ATTEMPT_TRANSITIONS[attempt.state]:
        raise AssertionError(f"{attempt.id}: {attempt.state} cannot become {state}")
    attempt.state = state


def state_after(attempt: Attempt, outcome: Outcome) -> str:
    """Return the state an outcome brings an attempt to.

    A hold is authorized; a purchase was captured with its authorization; what is neither approved
    nor declined is unknown, whatever its name.
    """
    if outcome.is_approved:
        return "captured" if attempt.kind == "purchase" else "authorized"
    if outcome.is_unknown:
        return "unknown"
    if outcome is Outcome.ALREADY_REVERSED:
        return "reversed"
    return "declined"


def absorb(attempt: Attempt, result: Result, source: str) -> Attempt:
    """Return the attempt with what a result tells of it, its state not yet changed."""
    told = Attempt(*_attempt_values(attempt))
    told.rrn = result.rrn or attempt.rrn
    told.approval_code = result.approval_code or attempt.approval_code
    told.processor_code = result.processor_code or attempt.processor_code
    told.references = {**attempt.references, **result.references}
    told.outcome_source = source
    return told


@dataclass(slots=True)
class Action:
    """A capture, a cancel or a refund."""

    id: str
    payment_id: str
    kind: str
    state: str
    amount_minor: int
    sequence: int
    created_at_ms: int
    # What of the commission goes back with a refund.
    commission_returned: int = 0
    reason: str | None = None
    decline_code: str | None = None
    tries: int = 0

    @property
    def is_open(self) -> bool:
        return bool(ACTION_TRANSITIONS[self.state])


def move_action(action: Action, state: str) -> None:
    """Change an action's state as the table allows; anything else is a fault of ours."""
    if state not in ACTION_TRANSITIONS[action.state]:
        raise AssertionError(f"{action.id}: {action.state} cannot become {state}")
    action.state = state


# The API's shapes -------------------------------------------------------------------------


class CommissionView(msgspec.Struct):
    total: int
    payer: str
    plan: str
    version: int


class AttemptView(msgspec.Struct):
    id: str
    connector: str
    state: str
    rrn: str | None
    approval_code: str | None
    outcome_source: str | None


class DeclineView(msgspec.Struct):
    code: str
    message: str
    advice: str


class NextAction(msgspec.Struct):
    """What a customer has to do: send the code that was sent to the phone to `confirm`.

    The code is good for this payment alone, and with this `nonce`.
    """

    type: Literal["confirm_with_code"]
    confirm: str
    expires_at: str
    nonce: str


class PaymentView(msgspec.Struct):
    id: str
    status: str
    operation: str
    amount: int
    currency: str
    amount_capturable: int
    amount_received: int
    amount_refunded: int
    commission: CommissionView
    total_debit: int
    total_credit: int
    scheme: str
    source: dict[str, str] | None
    destination: dict[str, str]
    capture: str
    description: str | None
    purpose: str | None
    attempts: list[AttemptView]
    decline: DeclineView | None
    next_action: NextAction | None
    created_at: str
    metadata: dict[str, str]


class RefundView(msgspec.Struct):
    id: str
    payment: str
    amount: int
    commission_returned: int
    currency: str
    status: str
    reason: str | None
    decline: DeclineView | None
    created_at: str


_encode = msgspec.json.Encoder().encode


def decline_view(code: str | None) -> DeclineView | None:
    """Return what a customer is told of a decline."""
    if code is None:
        return None
    message, advice = _MESSAGES.get(code, _MESSAGE_OTHERWISE)
    return DeclineView(code, message, advice)


def _next_action(payment: Payment) -> NextAction | None:
    """Return what a customer has to do, while the payment waits for it."""
    if payment.status != REQUIRES_ACTION:
        return None
    return NextAction(
        type="confirm_with_code",
        confirm=f"/v1/payments/{payment.id}/confirm",
        expires_at=rfc3339(payment.details["confirm_by_ms"]),
        nonce=payment.details.get("confirm_nonce", ""),
    )


def destination_of(payment: Payment) -> dict[str, str]:
    """Return who is paid, as the API shows it."""
    if payment.operation == "purchase":
        return {"merchant": payment.merchant_id or ""}
    if payment.destination_card_id:
        return {"card": payment.destination_card_id}
    return {"last4": payment.details.get("destination_last4", "")}


def payment_view(payment: Payment, attempts: list[Attempt]) -> PaymentView:
    """Return a payment as the API shows it."""
    return PaymentView(
        id=payment.id,
        status=payment.status,
        operation=payment.operation,
        amount=payment.amount_minor,
        currency=payment.currency,
        amount_capturable=payment.amount_capturable,
        amount_received=payment.amount_received,
        amount_refunded=payment.amount_refunded,
        commission=CommissionView(
            payment.commission_total,
            payment.commission_payer,
            payment.commission_plan,
            payment.commission_version,
        ),
        total_debit=payment.total_debit,
        total_credit=payment.total_credit,
        scheme=payment.scheme,
        source={"card": payment.source_card_id} if payment.source_card_id else None,
        destination=destination_of(payment),
        capture="manual" if payment.is_manual_capture else "automatic",
        description=payment.details.get("description"),
        purpose=payment.details.get("purpose"),
        attempts=[
            AttemptView(
                one.id, one.connector, one.state, one.rrn, one.approval_code, one.outcome_source
            )
            for one in attempts
        ],
        decline=decline_view(payment.decline_code),
        next_action=_next_action(payment),
        created_at=rfc3339(payment.created_at_ms),
        metadata=payment.details.get("metadata", {}),
    )


def payment_json(payment: Payment, attempts: list[Attempt]) -> bytes:
    """Return a payment's API body."""
    return _encode(payment_view(payment, attempts))


_REFUND_STATUS = {
    "pending": "pending",
    "unknown": "pending",
    "succeeded": "succeeded",
    "failed": "failed",
}


def refund_view(action: Action, currency: str) -> RefundView:
    """Return a refund as the API shows it."""
    return RefundView(
        id=action.id,
        payment=action.payment_id,
        amount=action.amount_minor,
        commission_returned=action.commission_returned,
        currency=currency,
        status=_REFUND_STATUS[action.state],
        reason=action.reason,
        decline=decline_view(action.decline_code),
        created_at=rfc3339(action.created_at_ms),
    )


def refund_json(action: Action, currency: str) -> bytes:
    """Return a refund's API body."""
    return _encode(refund_view(action, currency))
