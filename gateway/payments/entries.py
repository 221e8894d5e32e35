"""What the journal is given, and what it answers."""

from dataclasses import dataclass, field

from gateway.core import Admission, Refusal
from gateway.payments.ledger import JournalEntry
from gateway.payments.model import Action, Attempt, Payment


@dataclass(frozen=True, slots=True)
class Opened:
    """The intent is durable: bytes may leave."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The key was used before: the stored answer, or a refusal, is the answer."""


@dataclass(frozen=True, slots=True)
class CardChanged:
    """The source card is not what the core believed: decide again."""


OPENED, REPLAYED, CARD_CHANGED = Opened(), Replayed(), CardChanged()
# An admission: it waits for a stronger authentication after all.
OpenAnswer = Opened | Replayed | CardChanged | Refusal | Admission


class VersionMoved(Exception):
    """Another fact about the payment was recorded first: read it and decide again."""


@dataclass(slots=True)
class Intent:
    """A payment about to be opened. `scope` and `fingerprint` are its idempotency key's.

    Args:
        object_id: what the key stands for: the payment, or its confirmation.
    """

    payment: Payment
    attempt: Attempt
    admission: Admission
    scope: bytes
    fingerprint: bytes
    object_id: str


@dataclass(slots=True)
class ActionFact:
    """What became of a capture, a cancel or a refund."""

    action: Action
    wait_s: float = 0.0
    response: tuple[int, bytes] | None = None


@dataclass(slots=True)
class Fact:
    """What became of a payment, all of which is recorded in one commit.

    Args:
        payment: as it is now; `version` is the one it was read at.
        response: the answer to keep under its key, unless one is kept already: its status, and its
            body where the payment goes on to change; no body is what the payment tells from now on.
        attempts: those that changed, each with the seconds until recovery may look at it.
        sent: attempts about to be sent.
        entry: what is posted, if anything is.
        event: the outbox event's type, if somebody should be told.
        give_back: how the headroom it took changes, if it does.
        frees: the scope of a key to forget, because nothing was sent under it.
        action: what became of an action on it.
    """

    payment: Payment
    response: tuple[int, bytes | None] | None = None
    attempts: list[tuple[Attempt, float]] = field(default_factory=list)
    sent: list[Attempt] = field(default_factory=list)
    entry: JournalEntry | None = None
    event: str | None = None
    give_back: "Change | None" = None
    frees: bytes | None = None
    action: ActionFact | None = None
    with_commission_lines: bool = False

    @property
    def is_outcome_alone(self) -> bool:
        """Whether nothing is about to be sent, given back or forgotten, and nobody acted."""
        return not (self.sent or self.action or self.frees) and self.give_back is None


Change = tuple[int, ...]
"""How the headroom a payment took changes: `ALL` of it is given back; `(captured,)` minor units are
all that goes on counting; or `(captured, refunded before, refunded after)`."""

ALL: Change = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is stored under an idempotency key. No status: the first is still running; a status and
    no body: what the payment tells (`Reads.answered`).
    """

    fingerprint: bytes
    object_id: str
    status: int | None
    body: bytes | None
