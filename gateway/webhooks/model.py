"""Events, endpoints and deliveries: their types, their JSON, and when a try is repeated.

Holds no IO and reads no clock.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from gateway.core import rfc3339
from gateway.kernel.ids import ALPHABET, LENGTH

EventType = Literal[
    "payment.succeeded",
    "payment.failed",
    "payment.canceled",
    "payment.requires_capture",
    "refund.succeeded",
]
Status = Literal["pending", "succeeded", "failed"]

# 24 hours: the standard's examples wait no longer, and no receiver may ask us to.
WAIT_S_MAX = 86_400.0
# A wait grows by up to a tenth, so that what failed together is not repeated together.
_JITTER = 0.1

Position = tuple[str, int]
"""Where an event stands in the order of all: its transaction (xid8, in decimal) and its number."""


def key_of(position: Position) -> tuple[int, int]:
    """Return what positions are compared by."""
    return int(position[0]), position[1]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a payment.

    Args:
        sequence: the payment's version: greater for what happened later to the same payment,
            with gaps.
        data: JSON of what is told of the payment.
        owner, merchant_id: who may be told.
    """

    position: Position
    payment_id: str
    sequence: int
    type: str
    data: str
    created_at_ms: int
    owner: str | None
    merchant_id: str | None

    @property
    def id(self) -> str:
        """The event's public id, made from what never changes about it."""
        number = (self.created_at_ms << 80) | self.position[1]
        shifts = range((LENGTH - 1) * 5, -1, -5)
        return "evt_" + "".join([ALPHABET[(number >> shift) & 31] for shift in shifts])

    def is_for(self, subject: str) -> bool:
        """Return whether `subject` may be told of it."""
        return subject in (self.owner, self.merchant_id)

    def body(self) -> bytes:
        """Return the JSON that is told: `type`, `timestamp` and `data`, on one line."""
        data = msgspec.json.decode(self.data, type=dict[str, object])
        data["sequence"] = self.sequence
        told = {"type": self.type, "timestamp": rfc3339(self.created_at_ms), "data": data}
        return msgspec.json.encode(told)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint.

    Args:
        tries: begun, this one included.
        keys: the endpoint's secrets that sign now.
    """

    id: str
    endpoint_id: str
    event_id: str
    type: str
    tries: int
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    keys: list[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try.

    Args:
        http_status: what was answered; None when nothing was.
        error: why nothing was, in words that hold nothing of the URL and of the answer.
        retry_after_s: what the receiver asked for.
    """

    http_status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether the receiver has it: 2xx, and nothing else (a redirect is not followed)."""
        return self.http_status is not None and 200 <= self.http_status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants nothing any more (410)."""
        return self.http_status == 410

    def pause_s(self, throttle_s: float) -> float | None:
        """Return for how long the whole endpoint is left alone; None when it is not."""
        if self.is_success:
            return None
        if self.retry_after_s is not None:
            return min(self.retry_after_s, WAIT_S_MAX)
        return throttle_s if self.http_status in (429, 502, 504) else None


def wait_s(schedule_s: Sequence[float], outcome: Outcome, tries: int) -> float | None:
    """Return how long to wait after the `tries`-th try failed; None when it was the last.

    Args:
        schedule_s: the wait before each try, of which the first is not used here.
    """
    if tries >= len(schedule_s):
        return None
    planned = schedule_s[tries] * random.uniform(1.0, 1.0 + _JITTER)
    return max(planned, min(outcome.retry_after_s or 0.0, WAIT_S_MAX))


# The API's shapes -------------------------------------------------------------------------

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2_048)]
Description = Annotated[str, msgspec.Meta(max_length=255)]
Events = Annotated[
    list[EventType],
    msgspec.Meta(max_length=5, description="None: every type there is, and those to come."),
]


class WebhookEndpointBody(msgspec.Struct, forbid_unknown_fields=True):
    """A new endpoint."""

    url: Url
    events: Events = []
    description: Description | None = None


class WebhookEndpointChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be changed of an endpoint; what is left out stays."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    is_enabled: bool | None = None


class WebhookEndpointView(msgspec.Struct):
    """An endpoint as it is shown."""

    id: str
    url: str
    events: list[str]
    description: str | None
    is_enabled: bool
    disabled_reason: str | None
    failing_since: str | None
    created_at: str


class WebhookEndpointWithSecret(WebhookEndpointView):
    """An endpoint as it is shown once: with the secret that signs."""

    secret: str

    def __repr__(self) -> str:
        return f"WebhookEndpointWithSecret({self.id!r})"


class WebhookEndpointPage(msgspec.Struct):
    data: list[WebhookEndpointView]
    next_cursor: str | None


class WebhookDeliveryView(msgspec.Struct):
    """A delivery as it is shown.

    `tries` are those of the schedule that runs; `http_status` and `error` are the last try's.
    """

    id: str
    endpoint: str
    event: str
    type: str
    payment: str
    sequence: int
    status: Status
    tries: int
    next_try_at: str | None
    tried_at: str | None
    http_status: int | None
    error: str | None
    created_at: str


class WebhookDeliveryPage(msgspec.Struct):
    data: list[WebhookDeliveryView]
    next_cursor: str | None


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class DeliveriesQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None
    status: Status | None = None


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True):
    after: Annotated[
        str | None,
        msgspec.Meta(description="Instead of Last-Event-ID, where it cannot be sent."),
    ] = None
