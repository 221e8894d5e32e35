"""What reconciliation shows, and what it is asked. Holds no IO."""

from datetime import date
from typing import Annotated, Any, Literal

import msgspec

BreakKind = Literal[
    "missing_here",
    "missing_there",
    "amount",
    "commission",
    "status",
    "currency",
    "duplicate",
    "day",
]
BreakStatus = Literal["open", "proposed", "resolved", "accepted", "posted"]
KINDS: tuple[str, ...] = (
    "missing_here",
    "missing_there",
    "amount",
    "commission",
    "status",
    "currency",
    "duplicate",
    "day",
)


class SumView(msgspec.Struct):
    """What a report's approved lines add up to, in one currency; minor units.

    `debits` and `credits` are what the processor owes us and we it; `net` is their difference, of
    which `fees` are kept back.
    """

    currency: str
    debits: int
    credits: int
    net: int
    fees: int


class ImportView(msgspec.Struct):
    """One report of one connector and business day, as it stands."""

    id: str
    connector: str
    business_day: date
    revision: int
    source: Literal["processor", "file"]
    imported_by: str
    imported_at: str
    lines: int
    matched: int
    breaks: dict[str, int]
    sums: list[SumView]
    settlement_entries: list[str]


class SideView(msgspec.Struct):
    """What one side says. Members that a side does not know are null."""

    reference: str | None = None
    processor_reference: str | None = None
    movement: str | None = None
    status: str | None = None
    amount: int | None = None
    commission: int | None = None
    fee: int | None = None
    currency: str | None = None
    day: date | None = None


class PostingBody(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a journal entry. Debit positive, credit negative; minor units."""

    account: Annotated[str, msgspec.Meta(pattern=r"^[a-z-]{1,32}:[A-Za-z0-9_-]{1,64}$")]
    amount: Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]


class ProposalBody(msgspec.Struct, forbid_unknown_fields=True):
    """How an operator would close a break, and why.

    `accept`: it is explained, and nothing is posted. `post`: the postings are, as one entry.
    """

    action: Literal["accept", "post"]
    note: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    postings: Annotated[list[PostingBody], msgspec.Meta(max_length=20)] = []


class BreakView(msgspec.Struct):
    """One difference between a report and what was done here."""

    id: str
    connector: str
    business_day: date
    kind: BreakKind
    status: BreakStatus
    age_seconds: int
    payment: str | None
    line: int | None
    ours: SideView | None
    theirs: SideView | None
    opened_at: str
    resolved_at: str | None
    action: str | None
    note: str | None
    postings: list[PostingBody]
    proposed_by: str | None
    proposed_at: str | None
    decided_by: str | None
    decided_at: str | None
    entry: str | None


class ImportBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which report to fetch."""

    connector: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    business_day: date


class Untold(msgspec.Struct):
    """A break that says of an attempt or action what is not recorded of it."""

    id: str
    connector: str
    business_day: date
    side: str
    subject: str
    payment: str
    ours: SideView
    theirs: SideView


def untold(row: Any) -> Untold:
    """Return it from its row."""
    return Untold(
        id=row["id"],
        connector=row["connector"],
        business_day=row["business_day"],
        side=row["side"],
        subject=row["subject"],
        payment=row["payment_id"],
        ours=side(row["ours"]) or SideView(),
        theirs=side(row["theirs"]) or SideView(),
    )


def side(text: str | None) -> SideView | None:
    """Read one side as it is kept."""
    return None if text is None else msgspec.json.decode(text, type=SideView)
