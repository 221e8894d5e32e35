"""The types and the Protocol of a connector.

A connector speaks to one processor. It is sans-IO inside (`codec` turns bytes into messages and
back, `status` is the table from the processor's results to `Outcome`, `connector` is the flow) over
the shared transports. It knows nothing of the gateway, keeps nothing durable, and never raises for
what a processor or a network does: that is a `Result`. An exception from a connector is a bug.

Rules every implementation keeps (`connectors.spi.contract` tests them):

1. Once the first byte may have left, no answer in time, an unreadable answer, or an answer whose
   amount, currency or reference is not the one asked for is `Outcome.PENDING` with `sent=True`.
2. `sent=False` is said only when provably no byte left (connect refused, breaker open, queue full).
3. An unrecognised processor status is `PENDING`.
4. Every message is rebuilt from the `Instruction` alone, byte for byte where the protocol matches
   by fields (STAN, RRN, transmission time), so that recovery after a crash names the same one.
5. `repr` and `str` of nothing here shows a PAN, a token or an expiry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from connectors.spi.outcome import Outcome
from connectors.spi.pan import Pan


class Kind(StrEnum):
    """What an attempt asks of a processor."""

    PURCHASE = "purchase"  # debit the card, final
    HOLD = "hold"  # debit the card later: capture or cancel follows
    TRANSFER = "transfer"  # card to card inside one processor
    DEBIT = "debit"  # pull half of a two-legged transfer (VISA AFT)
    CREDIT = "credit"  # push to a card (VISA OCT, payout)


class SettleBy(StrEnum):
    """How an unknown outcome of this processor is settled."""

    INQUIRY = "inquiry"
    REVERSAL = "reversal"


@dataclass(frozen=True, slots=True)
class CardData:
    """A card as a processor needs it. Never logged: `repr` shows only the scheme.

    Args:
        scheme: `visa`, `humo` or `uzcard`.
        pan: Luhn-valid.
        expiry: `YYMM`, or None when the card was given by PAN alone (a destination).
        token: the processor's own token for the card (`CardCheck.token`), when it gave one.
    """

    scheme: str
    pan: Pan
    expiry: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Merchant:
    """The card acceptor.

    Args:
        id: acceptor id as the processor knows it, up to 15 characters (ISO 8583 F42).
        terminal_id: 8 characters (F41).
        name, city: up to 25 and 13 characters (F43); country is ISO 3166 alpha-2.
        mcc: 4 digits (F18).
    """

    id: str
    terminal_id: str
    mcc: str
    name: str
    city: str = "TASHKENT"
    country: str = "UZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One attempt, complete: the same instruction always makes the same messages.

    Args:
        kind: what is asked.
        reference: our unique name of the attempt (`att_...`, at most 36 ASCII characters); the
            idempotency key at processors that have one (UZCARD `ext`, HUMO `paymentRef`).
        sequence: a positive number unique per attempt, from which STAN and RRN are derived.
        created_at_ms: Unix milliseconds UTC when the attempt was made; transmission times derive
            from it and never from a clock.
        amount_minor: 1 to 10**15 minor units of `currency` (ISO 4217 alpha-3): what is debited, or
            for `CREDIT` what is credited.
        credit_minor: for `TRANSFER`, what the destination receives; at most `amount_minor`.
        card: the card debited; for `CREDIT`, the card credited.
        destination: the card credited, for `TRANSFER` only.
        references: what earlier results of this attempt answered in `Result.references`; needed by
            capture, cancel, refund, reverse and inquire when known (after a crash it may be empty).
    """

    kind: Kind
    reference: str
    sequence: int
    created_at_ms: int
    amount_minor: int
    currency: str
    card: CardData
    merchant: Merchant
    destination: CardData | None = None
    credit_minor: int | None = None
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a message.

    Args:
        outcome: in the common taxonomy.
        sent: False only when provably no byte left.
        processor_code: the processor's own code, for the operator (never its message text).
        rrn: retrieval reference number, when there is one.
        approval_code: authorisation code, when there is one.
        references: names the processor gave to the operation; stored with the attempt and given
            back in `Instruction.references`. No PAN, no token.
    """

    outcome: Outcome
    sent: bool = True
    processor_code: str | None = None
    rrn: str | None = None
    approval_code: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCheck:
    """Answer to `check_card`: may this card be added, and who sends the one-time code.

    Args:
        outcome: `APPROVED` when the card may go on to verification.
        challenge: the processor's id of its one-time code, when the processor sends the code;
            None when the code is ours to send (HUMO's bank, VISA).
        phone: the phone the processor holds for the card (`+998...`), when it tells; the gateway
            compares it with the customer's.
    """

    outcome: Outcome
    challenge: str | None = None
    phone: str | None = None
    processor_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLink:
    """Answer to `link_card`: the card's token at the processor, if it uses one."""

    outcome: Outcome
    token: str | None = field(default=None, repr=False)
    processor_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackEvent:
    """One verified callback or advice, in our words.

    Args:
        event_id: the processor's unique name of the event; the key of deduplication.
        reference: our `Instruction.reference`, if the event carries it, else None.
        lookup: the processor's references by which to find the attempt otherwise.
        result: what it says became of the operation.
        amount_minor, currency: as told, to be compared with ours; None when not told.
        reversed: the event says that an approved operation was undone.
    """

    event_id: str
    result: Result
    reference: str | None = None
    lookup: Mapping[str, str] = field(default_factory=dict)
    amount_minor: int | None = None
    currency: str | None = None
    reversed: bool = False


class CallbackRefused(Exception):
    """A callback that is not to be believed. `code` is the problem's slug; safe to log."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Iso8583Error(ValueError):
    """A message that does not fit its specification: names the field's path, never its value."""


class Iso8583Codec(Protocol):
    """The ISO 8583:1987 codec, handed in by the gateway so that connectors need not import it.

    Fields are `{number: value}`; values are `str` for numeric and text fields (digits without
    padding rules applied for LL numerics, padded to width for fixed ones), `bytes` for binary ones.
    """

    def pack(self, mti: str, fields: Mapping[int, str | bytes]) -> bytes:
        """Return MTI, bitmap(s) and fields. Raises Iso8583Error."""
        ...

    def unpack(self, message: bytes) -> tuple[str, dict[int, str | bytes]]:
        """Return MTI and fields of one whole message. Raises Iso8583Error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a connector's link is. A connector may tell it by a method `condition()`.

    Args:
        breaker: `closed`, `half-open` or `open`.
        in_flight: messages awaiting an answer.
        waiting: callers waiting for a place to send.
    """

    breaker: str
    in_flight: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorContext:
    """What the gateway gives a connector when it makes one.

    Args:
        name: the connector's name in `config/`.
        settings: its own section of `config/connectors.toml`, already read; the connector
            validates it and raises ValueError that names the key when it is wrong.
        secrets: named secrets (`password`, `token`, `callback_secret`).
        iso8583: the codec, for a connector that speaks ISO 8583.
        on_advice: called with each event that arrives unasked on a socket (VISA 0120, 0420), after
            which the connector acknowledges it; awaits until it is durably stored.
    """

    name: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str] = field(repr=False)
    iso8583: Iso8583Codec | None = None
    on_advice: Any = None  # Callable[[CallbackEvent], Awaitable[None]] | None


class Connector(Protocol):
    """One processor. Entry point group `oqim.connectors`: `create(context) -> Connector`.

    `create` opens nothing; `start` may connect in the background and returns at once even when the
    processor is away; `close` finishes what is in flight within its deadline. Every money method
    may be cancelled by its caller at any await; the outcome is then unknown.
    """

    name: str
    settle_by: SettleBy
    """How recovery settles `PENDING`: by `inquire`, or by `reverse` until acknowledged."""
    capture_partial: bool
    refund_partial: bool

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def is_ready(self) -> bool:
        """Whether a message would leave now (signed on, breaker closed)."""
        ...

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        """Ask whether a card may be added; UZCARD sends its one-time code to `phone`."""
        ...

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        """Finish adding a card. `code` is the processor's one-time code when `challenge` is set."""
        ...

    async def authorize(self, instruction: Instruction) -> Result:
        """Do what `instruction.kind` says."""
        ...

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        """Take `amount_minor` of an authorised `HOLD`; what is left of it is released.

        Capture, cancel and refund may be asked again under the same `reference` (and `sequence`):
        a processor that did it already is not made to do it twice.
        """
        ...

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        """Release an authorised `HOLD` that was not captured."""
        ...

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        """Give back `amount_minor` of a captured operation. `reference` names this refund."""
        ...

    async def reverse(self, instruction: Instruction) -> Result:
        """Undo an attempt whatever became of it.

        `APPROVED` (undone), `ALREADY_REVERSED` and `ORIGINAL_NOT_FOUND` (nothing to undo) are
        final; anything else is asked again, and asking again is always safe.
        """
        ...

    async def inquire(self, instruction: Instruction) -> Result:
        """Ask what became of an attempt.

        `APPROVED`: it was done (references filled in). A decline: it was not. `ALREADY_REVERSED`:
        it was undone. `ORIGINAL_NOT_FOUND`: the processor never saw it. `PENDING`: ask later.
        A half-made operation (HUMO created and not confirmed) is cancelled by the inquiry and
        answered `ALREADY_REVERSED`; a `HOLD` is whole once created.
        """
        ...

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        """Ask what became of the refund named `reference`, in the same words as `inquire`."""
        ...

    def verify_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> CallbackEvent:
        """Believe or refuse a callback, on its raw bytes.

        Args:
            headers: names in lower case.
            body: as received.

        Raises:
            CallbackRefused: signature, timestamp or form is wrong.
        """
        ...
