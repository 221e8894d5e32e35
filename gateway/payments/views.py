"""What the API shows of payments, and the JSON it is written as.

Holds no IO and reads no clock.
"""

from typing import Literal

import msgspec

from gateway.core import rfc3339
from gateway.payments.model import REQUIRES_ACTION, Action, Attempt, Payment

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


class QuoteLine(msgspec.Struct):
    component: str
    kind: str
    basis: int
    exact: str
    rounding: str
    amount: int


class QuoteCommission(msgspec.Struct):
    total: int
    payer: str
    plan: str
    version: int
    lines: list[QuoteLine]


class HeadroomView(msgspec.Struct):
    policy: str
    version: int
    subject: str
    window: str
    currency: str
    min_amount: int | None
    max_amount: int | None
    max_count: int | None
    used_amount: int
    used_count: int
    remaining_amount: int | None
    remaining_count: int | None
    resets_at: str | None


class QuoteView(msgspec.Struct):
    quote_id: str
    expires_at: str
    amount: int
    currency: str
    commission: QuoteCommission
    total_debit: int
    total_credit: int
    limits: list[HeadroomView]


class LimitsView(msgspec.Struct):
    card: str
    operation: str
    currency: str
    remaining_amount: int | None
    remaining_count: int | None
    grows_at: str | None
    limits: list[HeadroomView]


class PaymentPage(msgspec.Struct):
    data: list[PaymentView]
    next_cursor: str | None


class RefundList(msgspec.Struct):
    data: list[RefundView]
    next_cursor: str | None


class Accepted(msgspec.Struct):
    received: bool


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
