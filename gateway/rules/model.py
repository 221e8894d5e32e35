"""What operators send and read, as the API has it. Bodies are read by the core, described here."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Moment = Annotated[str, msgspec.Meta(max_length=40, description="RFC 3339, with an offset.")]
Id = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
Percent = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$")]
Minor = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Cap = Annotated[int, msgspec.Meta(ge=0, le=10**18)]
Priority = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)]
Value = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Values = list[Value]
Operations = list[Literal["purchase", "transfer", "payout"]]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
Payer = Literal["sender", "receiver", "bank"]
OnRefund = Literal["none", "full", "proportional"]
Rounding = Literal["half_up", "half_even", "up", "down"]
Subject = Literal[
    "card",
    "destination_card",
    "user",
    "merchant",
    "device",
    "issuer_bin",
    "scheme",
    "platform",
]
OnBreach = Literal["refuse", "step_up"]


class PlanMatch(msgspec.Struct, forbid_unknown_fields=True):
    """A listed key must contain the payment's value; an absent or empty one asks for nothing."""

    operation: Operations | None = None
    source_scheme: Values | None = None
    destination_scheme: Values | None = None
    tier: Values | None = None
    channel: Values | None = None
    merchant: Values | None = None
    mcc: Values | None = None
    currency: Values | None = None


class PolicyMatch(msgspec.Struct, forbid_unknown_fields=True):
    """As a plan's; `scheme` is the source's."""

    operation: Operations | None = None
    scheme: Values | None = None
    tier: Values | None = None
    channel: Values | None = None
    merchant: Values | None = None
    mcc: Values | None = None
    country: Values | None = None


class Tier(msgspec.Struct, forbid_unknown_fields=True):
    """Amounts over the tier before it, up to and with `up_to`; the last has none."""

    percent: Percent | None = None
    up_to: Minor | None = None
    fixed: Minor | None = None


class Component(msgspec.Struct, forbid_unknown_fields=True):
    """One part of a commission; what it needs is by its `kind`."""

    name: Value
    kind: Literal["fixed", "percent", "tiered"]
    amount: Minor | None = None
    percent: Percent | None = None
    mode: Literal["volume", "graduated"] | None = None
    tiers: list[Tier] | None = None
    min: Minor | None = None
    max: Minor | None = None
    rounding: Rounding | None = None
    vat_percent: Percent | None = None


class Share(msgspec.Struct, forbid_unknown_fields=True):
    party: Value
    share: Percent


class PlanBody(msgspec.Struct, forbid_unknown_fields=True):
    """A commission plan; `effective_from` absent: at approval."""

    id: Id
    payer: Payer
    components: list[Component] | None = None
    split: list[Share] | None = None
    match: PlanMatch | None = None
    priority: Priority | None = None
    on_refund: OnRefund | None = None
    effective_from: Moment | None = None
    effective_to: Moment | None = None


class Window(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["operation", "calendar", "rolling"]
    unit: Literal["hour", "day", "week", "month", "year"] | None = None
    seconds: Annotated[int, msgspec.Meta(ge=60, le=2_678_400)] | None = None


class PolicyBody(msgspec.Struct, forbid_unknown_fields=True):
    """A limit policy; `effective_from` absent: at approval."""

    id: Id
    subject: Subject
    window: Window
    currency: Currency
    max_amount: Cap | None = None
    min_amount: Cap | None = None
    max_count: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None = None
    match: PolicyMatch | None = None
    priority: Priority | None = None
    on_breach: OnBreach | None = None
    restore_on_refund: bool | None = None
    effective_from: Moment | None = None
    effective_to: Moment | None = None


class Scheduled(msgspec.Struct):
    version: int
    effective_from: str
    effective_to: str | None


class _Rule(msgspec.Struct, kw_only=True):
    """The version in force; when there is none, `active_version` is null and the next is shown."""

    id: str
    active_version: int | None
    effective_from: str | None
    effective_to: str | None
    scheduled: list[Scheduled]


class PlanView(_Rule, kw_only=True):
    payer: Payer
    components: list[Component] | UnsetType = UNSET
    split: list[Share] | UnsetType = UNSET
    match: PlanMatch | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    on_refund: OnRefund | UnsetType = UNSET


class PolicyView(_Rule, kw_only=True):
    subject: Subject
    window: Window
    currency: str
    max_amount: int | UnsetType = UNSET
    min_amount: int | UnsetType = UNSET
    max_count: int | UnsetType = UNSET
    match: PolicyMatch | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    on_breach: OnBreach | UnsetType = UNSET
    restore_on_refund: bool | UnsetType = UNSET


VersionStatus = Literal["active", "scheduled", "ended", "superseded"]


class VersionView(msgspec.Struct):
    """One version and who made it; a superseded one never came into force.

    `proposal` and who proposed are null of what the first files brought.
    """

    version: int
    status: VersionStatus
    effective_from: str | None
    effective_to: str | None
    generation: int
    proposal: str | None
    proposed_by: str | None
    proposed_at: str | None
    approved_by: str
    approved_at: str


class VersionDetail(VersionView):
    body: dict[str, Any]


class PlanDetail(PlanView, kw_only=True):
    versions: list[VersionView]


class PolicyDetail(PolicyView, kw_only=True):
    versions: list[VersionView]


class PlanPage(msgspec.Struct):
    data: list[PlanView]
    next_cursor: str | None


class PolicyPage(msgspec.Struct):
    data: list[PolicyView]
    next_cursor: str | None


SimulationStatus = Literal["running", "done", "failed", "canceled"]


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """Brings a version back as the next one; `effective_from` absent: at approval."""

    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    effective_from: Moment | None = None


class DeleteQuery(msgspec.Struct, forbid_unknown_fields=True):
    """When it ends; absent: at approval."""

    effective_from: Moment | None = None


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class Deletions(msgspec.Struct, forbid_unknown_fields=True):
    commission_plans: list[Id] = []
    limit_policies: list[Id] = []


class SimulationBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to replay, `from` to before `to`; the drafts count as in force all that time."""

    from_: Moment = msgspec.field(name="from")
    to: Moment
    commission_plans: list[PlanBody] | None = None
    limit_policies: list[PolicyBody] | None = None
    delete: Deletions | None = None


class Progress(msgspec.Struct):
    """Decisions replayed, and how many there are; null: not counted yet."""

    done: int
    total: int | None


class SimulationView(msgspec.Struct):
    id: str
    status: SimulationStatus
    from_: str = msgspec.field(name="from")
    to: str
    progress: Progress
    report: dict[str, Any] | None
    error: str | None
    notes: list[str]
    started_by: str
    created_at: str
    finished_at: str | None
