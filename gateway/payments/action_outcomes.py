"""What a result makes of a capture, a cancel or a refund: a result in, a fact and an answer out.

Holds no IO and reads no clock.
"""

from dataclasses import replace

from connectors.spi import Outcome, Result
from gateway.core import Commission
from gateway.kernel.http.messages import Response
from gateway.kernel.http.problems import Problem
from gateway.payments import ledger
from gateway.payments.entries import ALL, ActionFact, Fact
from gateway.payments.model import (
    CANCELED,
    SUCCEEDED,
    Action,
    Attempt,
    Payment,
    absorb,
    copy_of,
    move_action,
    move_attempt,
)
from gateway.payments.outcomes import UNKNOWN_WAIT_S
from gateway.payments.views import payment_json, refund_json


def conclude(
    payment: Payment,
    attempts: list[Attempt],
    action: Action,
    result: Result,
    commission: Commission | None,
) -> tuple[Fact, Response]:
    """Return the fact a result makes of an action, and the answer to the one who asked."""
    payment, action = copy_of(payment), replace(action)
    if result.outcome.is_unknown:
        move_action(action, "unknown")
        told = (201 if action.kind == "refund" else 202, body_of(action, payment, attempts))
        fact = Fact(payment, action=ActionFact(action, UNKNOWN_WAIT_S, told))
        return fact, Response(*told)
    if result.outcome.is_approved or result.outcome is Outcome.ALREADY_REVERSED:
        return _done(payment, attempts, action, result, commission)
    move_action(action, "failed")
    action.decline_code = result.outcome.code
    if action.kind == "refund":
        payment.amount_refunding -= action.amount_minor
        payment.commission_returning -= action.commission_returned
    problem = Problem(
        "processor-unavailable" if not result.sent else "invalid-state",
        f"The processor did not {action.kind} ({result.outcome.code}).",
    )
    response = (
        Response(201, refund_json(action, payment.currency))
        if action.kind == "refund" and result.sent
        else problem.response("-")
    )
    stored = (response.status, response.body) if result.sent else None
    return Fact(payment, action=ActionFact(action, response=stored)), response


def _done(
    payment: Payment,
    attempts: list[Attempt],
    action: Action,
    result: Result,
    commission: Commission | None,
) -> tuple[Fact, Response]:
    move_action(action, "succeeded")
    # What the payment told until now is what it was answered with, unless that is kept already.
    answered = (201, payment_json(payment, attempts))
    fact = Fact(payment, response=answered, action=ActionFact(action))
    status = 200
    if action.kind == "capture":
        assert commission is not None, "a capture has a commission"
        # What the processor calls the capture is what a refund must name.
        authorized = absorb(attempts[0], result, attempts[0].outcome_source or "reply")
        attempts = [_moved(authorized, "captured"), *attempts[1:]]
        payment.become(SUCCEEDED)
        payment.amount_capturable = 0
        payment.amount_received = action.amount_minor
        payment.total_debit = commission.total_debit
        payment.total_credit = commission.total_credit
        payment.commission_total = commission.total
        payment.commission_vat = commission.vat_total
        payment.commission_lines = commission.lines
        payment.commission_split = commission.split
        fact.with_commission_lines = True
        fact.entry = ledger.settled(payment, action.id)
        if action.amount_minor < payment.amount_minor:
            fact.give_back = (action.amount_minor,)
        fact.event = "payment.succeeded"
        fact.attempts = [(attempts[0], 0.0)]
    elif action.kind == "cancel":
        attempts = [_moved(attempts[0], "voided"), *attempts[1:]]
        payment.become(CANCELED)
        payment.amount_capturable = 0
        fact.give_back = ALL
        fact.event = "payment.canceled"
        fact.attempts = [(attempts[0], 0.0)]
    else:
        status = 201
        before = payment.amount_refunded
        fact.entry = ledger.refunded(payment, action)
        payment.amount_refunded += action.amount_minor
        payment.commission_returned += action.commission_returned
        fact.give_back = (payment.amount_received, before, payment.amount_refunded)
        fact.event = "refund.succeeded"
    body = body_of(action, payment, attempts)
    assert fact.action is not None, "the fact is about an action"
    fact.action.response = (status, body)
    return fact, Response(status, body)


def paid_back(payment: Payment, amount_minor: int, returned: int) -> int:
    """What a refund brings back to the card: with it the commission that the sender had paid."""
    return amount_minor + (returned if payment.commission_payer == "sender" else 0)


def _moved(attempt: Attempt, state: str) -> Attempt:
    moved = replace(attempt)
    move_attempt(moved, state)
    return moved


def body_of(action: Action, payment: Payment, attempts: list[Attempt]) -> bytes:
    """Return what is told of an action: the refund, or the payment."""
    if action.kind == "refund":
        return refund_json(action, payment.currency)
    return payment_json(payment, attempts)
