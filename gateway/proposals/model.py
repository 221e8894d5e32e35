"""What a proposal is, what a kind of proposals brings, and their shapes outside. Holds no IO."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.core import rfc3339

KindName = Literal["plan", "policy", "refund", "roles", "review", "break"]
Status = Literal[
    "proposed",
    "approved",
    "scheduled",
    "active",
    "superseded",
    "rejected",
    "withdrawn",
    "replaced",
    "expired",
]
"""What became of it. `approved` of a rule is told as `scheduled`, `active` or `superseded`;
`replaced`: the same operator's or another's later proposal stands instead."""

OPEN = "proposed"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One change that somebody asked for. Times are Unix milliseconds.

    Args:
        subject: the id of what it would change.
        diff: what it would become, JSON.
        base_version: of the subject, as it was when it was proposed.
        note: why, in the proposer's words; "" where the diff says it all.
        status: as it is stored; an open one may have expired.
        reason: why it was rejected or withdrawn.
        outcome: what its approval made, JSON.
    """

    id: str
    kind: str
    subject: str
    diff: Any
    base_version: str
    note: str
    status: str
    proposed_by: str
    proposed_at_ms: int
    expires_at_ms: int
    decided_by: str | None
    decided_at_ms: int | None
    reason: str | None
    outcome: Any
    shown_status: str


async def _nothing() -> None:
    """Do nothing more."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an approval did in its transaction.

    Args:
        outcome: JSON, kept with the proposal.
        after: what is left to do once it is committed; whatever a crash leaves of it, somebody
            else must find.
    """

    outcome: dict[str, Any] = field(default_factory=dict)
    after: Callable[[], Awaitable[None]] = _nothing


def _nobody(proposal: Proposal) -> str | None:
    return None


async def _no_more(proposals: Sequence[Proposal]) -> dict[str, dict[str, Any]]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of proposals, as its room registers it.

    Args:
        acts: the noun of its acts in the audit log.
        is_subject_audited: whether the audit log's object is the subject, not the proposal.
        version: the subject's version by now, in the approval's transaction.
        apply: makes the change, in the approval's transaction; raises Problem when it cannot.
        concerned: who, beside the proposer, may not approve it.
        replaces: whether a later proposal for a subject takes the place of an open one.
        told: further members of the view, by id.
    """

    name: KindName
    read_scope: str
    propose_scope: str
    approve_scope: str
    acts: str
    version: Callable[[Any, Proposal], Awaitable[str]]
    apply: Callable[[Any, Proposal, str], Awaitable[Applied]]
    is_subject_audited: bool = True
    concerned: Callable[[Proposal], str | None] = _nobody
    replaces: bool = False
    told: Callable[[Sequence[Proposal]], Awaitable[dict[str, dict[str, Any]]]] = _no_more


# The API's shapes ---------------------------------------------------------------------------------


class WhatIf(msgspec.Struct):
    """A rule's proposal, replayed over what was decided lately."""

    status: Literal["running", "done", "failed", "canceled"]
    from_: str = msgspec.field(name="from")
    to: str
    report: dict[str, Any] | None
    error: str | None
    notes: list[str]


class ProposalView(msgspec.Struct):
    """A change that one operator asked for, and what became of it.

    `diff` is what the subject would become, `base_version` what it was when it was proposed; one
    whose subject has changed since, or that has waited too long, is not approved any more. `action`
    and what follows are told of rules alone; `effective_from` null: at approval.
    """

    id: str
    status: Status
    kind: KindName
    subject: str
    diff: dict[str, Any]
    base_version: str
    note: str
    proposed_by: str
    proposed_at: str
    expires_at: str
    decided_by: str | None
    decided_at: str | None
    reason: str | None
    outcome: dict[str, Any] | None
    action: Literal["put", "delete"] | UnsetType = UNSET
    target: str | UnsetType = UNSET
    body: dict[str, Any] | UnsetType | None = UNSET
    based_on_version: int | UnsetType | None = UNSET
    effective_from: str | UnsetType | None = UNSET
    warnings: list[str] | UnsetType = UNSET
    generation: int | UnsetType | None = UNSET
    version: int | UnsetType | None = UNSET
    what_if: WhatIf | UnsetType | None = UNSET


class ProposalPage(msgspec.Struct):
    """One page of proposals."""

    data: list[ProposalView]
    next_cursor: str | None


class ProposalsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which proposals."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: str | None = None
    kind: KindName | None = None
    status: Status | None = None


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why a proposal ends without effect."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


def view_of(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal as it is shown, without what its kind adds."""
    decided_at_ms = proposal.decided_at_ms
    return {
        "id": proposal.id,
        "status": proposal.shown_status,
        "kind": proposal.kind,
        "subject": proposal.subject,
        "diff": proposal.diff,
        "base_version": proposal.base_version,
        "note": proposal.note,
        "proposed_by": proposal.proposed_by,
        "proposed_at": rfc3339(proposal.proposed_at_ms),
        "expires_at": rfc3339(proposal.expires_at_ms),
        "decided_by": proposal.decided_by,
        "decided_at": None if decided_at_ms is None else rfc3339(decided_at_ms),
        "reason": proposal.reason,
        "outcome": proposal.outcome,
    }
