"""What the cards room reads and answers. Nothing here shows a number in its repr."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from connectors.spi import Pan

PENDING = "pending_verification"
ACTIVE = "active"
DELETED = "deleted"

Status = Literal["pending_verification", "active"]


class AddCard(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/cards`. `expiry` is `YY-MM`; a security code is never accepted."""

    pan: Annotated[str, Meta(max_length=64)]
    expiry: Annotated[str, Meta(max_length=16)]
    cvv: Annotated[Any, Meta(description="Refused, whatever it holds.")] = UNSET

    def __repr__(self) -> str:
        return "AddCard(...)"


class VerifyCard(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/cards/{id}/verify`."""

    code: Annotated[str, Meta(min_length=1, max_length=16)]

    def __repr__(self) -> str:
        return "VerifyCard(...)"


class Card(msgspec.Struct):
    """A card as its owner sees it. `bin` is its first 6 digits, `expiry` is `YY-MM`."""

    id: str
    scheme: str
    bin: str
    last4: str
    expiry: str
    status: Status
    created_at: str


class CardList(msgspec.Struct):
    """One page of cards."""

    data: list[Card]
    next_cursor: str | None


class CardsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Query of a list."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=1_024)] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A card somebody wants to add, checked. Never printed.

    Args:
        expiry: `YYMM`.
        lookup: the keyed hash by which the same number is found again.
    """

    pan: Pan
    scheme: str
    expiry: str
    lookup: str

    def __repr__(self) -> str:
        return f"Wanted({self.scheme!r})"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What verification of a card waits for.

    Args:
        challenge: the processor's, when it sent the code; else `code_hash` and `expires_at_ms`.
    """

    challenge: str | None
    code_hash: bytes | None
    expires_at_ms: int | None
