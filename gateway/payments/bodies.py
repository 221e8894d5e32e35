"""What the API takes of payments: bodies and queries, described and read."""

from typing import Annotated, Literal

import msgspec

from gateway.kernel.http.problems import Problem
from gateway.payments.trace import View

Status = Literal[
    "requires_action", "processing", "requires_capture", "succeeded", "failed", "canceled"
]
Amount = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
# Described only: its own problem is `invalid-amount`, not one of shape.
AmountLeft = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": 10**15})]
Party = Annotated[
    dict[str, str],
    msgspec.Meta(min_length=1, max_length=1, description="One of `card`, `pan` or `merchant`."),
]
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=40)], Annotated[str, msgspec.Meta(max_length=500)]],
    msgspec.Meta(max_length=50),
]


class PaymentBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /v1/payments` takes; read by the core, described here."""

    operation: Literal["purchase", "transfer", "payout"]
    amount: Amount
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    destination: Party
    source: Party | None = None
    capture: Literal["automatic", "manual"] | None = None
    description: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    purpose: Annotated[str, msgspec.Meta(pattern="^[0-9]{2}$")] | None = None
    quote_id: Annotated[str, msgspec.Meta(max_length=4_096)] | None = None
    metadata: Metadata | None = None


class CaptureBody(msgspec.Struct, forbid_unknown_fields=True):
    amount: AmountLeft | None = None


class RefundBody(msgspec.Struct, forbid_unknown_fields=True):
    amount: AmountLeft | None = None
    reason: Annotated[str, msgspec.Meta(max_length=255)] | None = None


class ConfirmBody(msgspec.Struct, forbid_unknown_fields=True):
    """The code, and what the app showed beside it: where that is not the payment, the code ends."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
    amount: Amount | None = None
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] | None = None
    destination: (
        Annotated[
            dict[str, str],
            msgspec.Meta(
                min_length=1, max_length=1, description="As the payment shows its `destination`."
            ),
        ]
        | None
    ) = None
    nonce: Annotated[str, msgspec.Meta(max_length=64)] | None = None

    def __repr__(self) -> str:
        return "ConfirmBody(...)"


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None
    status: Status | None = None


class LimitsQuery(msgspec.Struct, forbid_unknown_fields=True):
    card: str
    operation: Annotated[str, msgspec.Meta(pattern="^(purchase|transfer|payout)$")] = "purchase"


class TraceQuery(msgspec.Struct, forbid_unknown_fields=True):
    view: View | None = None


def check_amount(amount: int | None) -> None:
    """Refuse an amount out of range. Raises Problem `invalid-amount`."""
    if amount is not None and not 1 <= amount <= 10**15:
        detail = "Must be an integer of minor units from 1 to 10^15."
        raise Problem("invalid-amount", detail, errors=(("/amount", detail),))
