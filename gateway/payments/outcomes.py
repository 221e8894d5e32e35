"""What a result makes of a payment: a result in, a fact out. Holds no IO and reads no clock.

`conclude` is the one place where outcomes become states; replies, inquiries, reversals and
callbacks all come here.
"""

from dataclasses import replace
from enum import Enum

from connectors.spi import Outcome, Result
from gateway.kernel.ids import attempt_id
from gateway.payments import ledger
from gateway.payments.entries import ALL, Fact
from gateway.payments.model import (
    FAILED,
    PROCESSING,
    REQUIRES_CAPTURE,
    SUCCEEDED,
    Attempt,
    Payment,
    absorb,
    copy_of,
    move_attempt,
    state_after,
)
from gateway.payments.views import payment_json

# How long nobody but the worker that sends may look at an attempt.
SEND_LEASE_S = 30.0
UNKNOWN_WAIT_S = 0.5
_CREATED, _ACCEPTED = 201, 202
# It is told as it is now until an action changes it, which then keeps what was told.
_TOLD_BY_PAYMENT = (_CREATED, None)
_APPROVED_STATES = frozenset({"authorized", "captured"})


class Next(Enum):
    """What is to be done once the fact is recorded."""

    NOTHING = "nothing"
    SEND = "send"  # the next leg
    REVERSE = "reverse"  # the legs before


class Contradiction(Exception):
    """A result that cannot be true beside what is recorded already."""


def new_attempt(payment: Payment, leg: int, sequence: int, now_ms: int) -> Attempt:
    """Return a payment's attempt on one of its legs, about to be sent."""
    connector, kind = payment.legs[leg - 1]
    if kind == "purchase" and payment.is_manual_capture:
        kind = "hold"
    return Attempt(
        id=attempt_id(payment.id, leg),
        payment_id=payment.id,
        leg=leg,
        connector=connector,
        kind=kind,
        state="sent",
        sequence=sequence,
        created_at_ms=now_ms,
    )


def conclude(
    payment: Payment,
    attempts: list[Attempt],
    attempt: Attempt,
    result: Result,
    *,
    source: str,
    following: Attempt | None = None,
    wait_s: float = UNKNOWN_WAIT_S,
) -> tuple[Fact, list[Attempt], Next] | None:
    """Return the fact a result makes, the attempts as they are then, and what follows.

    Args:
        payment, attempts: as they were read; neither is changed.
        attempt: the one the result is about.
        source: `reply`, `inquiry`, `reversal` or `callback`.
        following: the next leg's attempt, ready to be sent, when there is a next leg.
        wait_s: until recovery looks again, if the attempt stays open.

    Returns:
        None when the result tells nothing new.

    Raises:
        Contradiction: the attempt has ended otherwise.
    """
    current = next(one for one in attempts if one.id == attempt.id)
    state = state_after(current, result.outcome)
    if current.state == "reversing":
        # Whatever came late, it ends reversed.
        return None
    if not current.is_open:
        _check_agreement(current, state)
        return None
    payment = copy_of(payment)
    moved = absorb(current, result, source)
    moved.tries = attempt.tries
    if state != moved.state:
        move_attempt(moved, state)
    attempts = [moved if one.id == moved.id else one for one in attempts]
    if state == "unknown":
        return _still_unknown(payment, attempts, moved, wait_s), attempts, Next.NOTHING
    if state in _APPROVED_STATES:
        return _approved(payment, attempts, moved, following)
    return _declined(payment, attempts, moved, result)


def _check_agreement(current: Attempt, state: str) -> None:
    was_approved = current.state in _APPROVED_STATES
    if state == "unknown" or (was_approved and state in _APPROVED_STATES):
        return
    if not was_approved and state not in _APPROVED_STATES:
        return
    raise Contradiction(f"{current.id} is {current.state} and is now told to be {state}")


def _still_unknown(
    payment: Payment, attempts: list[Attempt], moved: Attempt, wait_s: float
) -> Fact:
    fact = Fact(payment, attempts=[(moved, wait_s)])
    if moved.outcome_source == "reply":
        fact.response = (_ACCEPTED, payment_json(payment, attempts))
    return fact


def _approved(
    payment: Payment, attempts: list[Attempt], moved: Attempt, following: Attempt | None
) -> tuple[Fact, list[Attempt], Next]:
    if moved.leg < len(payment.legs):
        assert following is not None, "the next leg's attempt is made before its turn"
        fact = Fact(payment, attempts=[(moved, 0.0)], sent=[following])
        return fact, [*attempts, following], Next.SEND
    if moved.kind == "hold":
        payment.become(REQUIRES_CAPTURE)
        payment.amount_capturable = payment.amount_minor
        entry = None
    else:
        payment.become(SUCCEEDED)
        payment.amount_received = payment.amount_minor
        entry = ledger.settled(payment, payment.id)
    fact = Fact(
        payment,
        response=_TOLD_BY_PAYMENT,
        attempts=[(moved, 0.0)],
        entry=entry,
        event=f"payment.{payment.status}",
    )
    return fact, attempts, Next.NOTHING


def _declined(
    payment: Payment, attempts: list[Attempt], moved: Attempt, result: Result
) -> tuple[Fact, list[Attempt], Next]:
    payment.decline_code = decline_code_of(result)
    return undo(payment, attempts, [moved])


def undo(
    payment: Payment, attempts: list[Attempt], changed: list[Attempt]
) -> tuple[Fact, list[Attempt], Next]:
    """Fail a payment whose attempt ended badly; legs that were approved are reversed first."""
    after = []
    for one in attempts:
        if one.state in _APPROVED_STATES:
            one = replace(one)
            move_attempt(one, "reversing")
            changed = [*changed, one]
        after.append(one)
    if any(one.is_open for one in after):
        fact = Fact(payment, attempts=[(one, 0.0) for one in changed])
        return fact, after, Next.REVERSE
    payment.become(FAILED)
    fact = Fact(
        payment,
        response=_TOLD_BY_PAYMENT,
        attempts=[(one, 0.0) for one in changed],
        event="payment.failed",
        give_back=ALL,
    )
    return fact, after, Next.NOTHING


def decline_code_of(result: Result) -> str:
    """Return the taxonomy's code of a result that was not approved."""
    if result.outcome in (Outcome.ORIGINAL_NOT_FOUND, Outcome.ALREADY_REVERSED):
        # It was never done, or was undone: the customer sees a processor that did not answer.
        return Outcome.SWITCH_UNAVAILABLE.code
    return result.outcome.code


def reversing(
    payment: Payment, attempts: list[Attempt], attempt: Attempt
) -> tuple[Fact, list[Attempt]]:
    """Return the fact that an attempt in doubt is about to be undone.

    Recorded before its reversal is sent: an approval that comes meanwhile, or after whoever sent it
    has died, then finds that it ends reversed.
    """
    moved = replace(attempt)
    move_attempt(moved, "reversing")
    attempts = [moved if one.id == moved.id else one for one in attempts]
    return Fact(copy_of(payment), attempts=[(moved, SEND_LEASE_S)]), attempts


def reversed_(
    payment: Payment, attempts: list[Attempt], attempt: Attempt
) -> tuple[Fact, list[Attempt], Next]:
    """Return the fact that an attempt was undone; the payment fails once nothing is open."""
    payment = copy_of(payment)
    if payment.decline_code is None:
        payment.decline_code = Outcome.SWITCH_UNAVAILABLE.code
    moved = replace(attempt, outcome_source="reversal")
    move_attempt(moved, "reversed")
    attempts = [moved if one.id == moved.id else one for one in attempts]
    return undo(payment, attempts, [moved])


def is_in_doubt(payment: Payment) -> bool:
    """Whether the client is to be answered 202."""
    return payment.status == PROCESSING
