"""Payments, attempts and actions: their types, their states as tables, and their JSON.

Holds no IO and reads no clock. A terminal state is never left: what contradicts it is a conflict.
"""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from connectors.spi import Outcome, Result

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
