"""Payments that a human must settle: one operator proposes what became of one, another approves.

What is in doubt keeps its headroom and goes on being asked about; whoever is first to know settles
it. Never settles anything by itself, and never by the same operator twice. What two have agreed on
is told to the payment once that is committed, by whoever finds it.
"""

from typing import Annotated, Any, Literal

import asyncpg
import msgspec
import structlog

from connectors.spi import Outcome, Result
from gateway.core import rfc3339
from gateway.kernel import failpoints, scopes
from gateway.kernel.clock import Clock
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.payments import store
from gateway.payments.actions import Actions
from gateway.payments.carrying import Carrier
from gateway.payments.model import Action, Attempt
from gateway.payments.outcomes import UNKNOWN_WAIT_S
from gateway.payments.reads import Reads
from gateway.proposals.model import Applied, Proposal
from gateway.proposals.model import Kind as ProposalKind
from gateway.proposals.service import Proposals

log = structlog.get_logger("payments")

OPEN_REVIEW = """
INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status)
VALUES ($1, $2, $3, $4, $5, 'open') ON CONFLICT (kind, subject_id) DO NOTHING
"""
# The proposal that stands: an open one that has not expired, or the one that was approved.
_REVIEWS = """
SELECT r.id, r.payment_id, r.kind, r.subject_id, r.reason, r.opened_at, p.amount_minor, p.currency,
    o.diff ->> 'outcome' AS outcome, o.note, o.proposed_by, o.proposed_at, o.decided_by,
    o.decided_at,
    CASE WHEN r.status = 'open' AND o.status = 'proposed' THEN 'proposed' ELSE r.status END
        AS status
FROM reviews r JOIN payments p ON p.id = r.payment_id LEFT JOIN LATERAL (
    SELECT * FROM proposals n
    WHERE n.kind = 'review' AND n.subject = r.id
      AND (n.status = 'approved' OR n.status = 'proposed' AND n.expires_at > now())
    ORDER BY n.id DESC LIMIT 1) o ON true
"""
LIST_REVIEWS = f"""
SELECT * FROM ({_REVIEWS} WHERE r.id < $1) shown
WHERE $2::text IS NULL OR status = $2 ORDER BY id DESC LIMIT $3
"""
GET_REVIEW = f"{_REVIEWS} WHERE r.id = $1"
HOLD_REVIEW = "SELECT status, kind, subject_id FROM reviews WHERE id = $1 FOR UPDATE"
ATTEMPT_STATE = "SELECT state FROM attempts WHERE id = $1"
ACTION_STATE = "SELECT state FROM actions WHERE id = $1"
APPROVED = "UPDATE reviews SET status = 'approved' WHERE id = $1"
SETTLED = "UPDATE reviews SET status = 'settled' WHERE id = $1 AND status = 'approved'"
# Of a worker that died between.
LEFT = """
SELECT r.id FROM reviews r JOIN proposals o ON o.kind = 'review' AND o.subject = r.id
WHERE r.status = 'approved' AND o.status = 'approved'
  AND o.decided_at < now() - $1 * interval '1 second'
ORDER BY r.id LIMIT 20
"""
# What settled itself needs nobody any more.
CLOSE_SETTLED = """
UPDATE reviews r SET status = 'closed'
WHERE r.status = 'open' AND (
    r.kind = 'attempt' AND EXISTS (
        SELECT FROM attempts a WHERE a.id = r.subject_id
          AND a.state NOT IN ('sent', 'unknown', 'reversing'))
    OR r.kind = 'action' AND EXISTS (
        SELECT FROM actions a WHERE a.id = r.subject_id
          AND a.state NOT IN ('pending', 'unknown')))
"""
IN_DOUBT = """
SELECT p.currency, a.connector, count(*) AS count, sum(p.total_debit)::bigint AS sum,
    min(p.created_at) AS oldest
FROM attempts a JOIN payments p ON p.id = a.payment_id
WHERE a.state IN ('sent', 'unknown', 'reversing')
GROUP BY 1, 2
UNION ALL
SELECT p.currency, 'action:' || a.kind, count(*), sum(a.amount_minor)::bigint, min(a.created_at)
FROM actions a JOIN payments p ON p.id = a.payment_id
WHERE a.state IN ('pending', 'unknown')
GROUP BY 1, 2
"""

# Its own worker settles it at once: only what is older was left.
_LEFT_S = 10.0
_KIND: Literal["review"] = "review"

Status = Literal["open", "proposed", "approved", "settled", "closed"]
Kind = Literal["attempt", "action", "conflict"]

# What an operator may find to have happened, by what is reviewed.
OUTCOMES: dict[str, tuple[str, ...]] = {
    "attempt": ("approved", "declined", "reversed"),
    "action": ("succeeded", "failed"),
    "conflict": ("noted",),
}
_RESULTS = {
    "approved": Outcome.APPROVED,
    "succeeded": Outcome.APPROVED,
    "declined": Outcome.DO_NOT_HONOR,
    "failed": Outcome.DO_NOT_HONOR,
    "reversed": Outcome.ALREADY_REVERSED,
}


class ReviewView(msgspec.Struct):
    """One review. `approved`: two have agreed, and the payment is being told."""

    id: str
    payment: str
    kind: Kind
    subject: str
    reason: str
    status: Status
    amount: int
    currency: str
    outcomes: list[str]
    opened_at: str
    outcome: str | None
    note: str | None
    proposed_by: str | None
    proposed_at: str | None
    decided_by: str | None
    decided_at: str | None


class ProposalBody(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator found out, and how."""

    outcome: Literal["approved", "declined", "reversed", "succeeded", "failed", "noted"]
    note: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class InDoubtPart(msgspec.Struct):
    """What is in doubt at one connector, or by one kind of action."""

    where: str
    currency: str
    count: int
    sum: int
    oldest_at: str


class InDoubtView(msgspec.Struct):
    """Money of which nobody can say yet where it is. Sums are minor units by currency."""

    count: int
    sum: dict[str, int]
    oldest_at: str | None
    parts: list[InDoubtPart]


class Reviews:
    """Opens, shows and settles reviews."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        carrier: Carrier,
        actions: Actions,
        reads: Reads,
        clock: Clock,
        proposals: Proposals,
    ) -> None:
        self._pool = pool
        self._reads = reads
        self._carrier = carrier
        self._actions = actions
        self._clock = clock
        self._proposals = proposals
        proposals.register(
            ProposalKind(
                name=_KIND,
                read_scope=scopes.REVIEWS_READ,
                propose_scope=scopes.REVIEWS_PROPOSE,
                approve_scope=scopes.REVIEWS_APPROVE,
                acts="review",
                version=self._version,
                apply=self._apply,
                replaces=True,
            )
        )

    async def open(self, one: Attempt | Action, reason: str) -> None:
        """Hand what is in doubt to operators; it keeps its headroom."""
        kind = "attempt" if isinstance(one, Attempt) else "action"
        review_id = new_id("rev_", self._clock())
        await self._pool.execute(OPEN_REVIEW, review_id, one.payment_id, kind, one.id, reason)

    async def sweep(self) -> None:
        """Close what became known by itself, and settle what a dead worker left approved."""
        await self._pool.execute(CLOSE_SETTLED)
        for row in await self._pool.fetch(LEFT, _LEFT_S):
            try:
                await self._settle(row["id"])
            except (Unavailable, Problem) as error:
                log.warning("a review waits", review=row["id"], reason=str(error))

    async def page(self, *, before: str, status: str | None, limit: int) -> list[ReviewView]:
        """Return up to `limit` reviews older than `before`, newest first."""
        rows = await self._pool.fetch(LIST_REVIEWS, before, status, limit)
        return [_view(row) for row in rows]

    async def get(self, review_id: str) -> ReviewView:
        """Return one review. Raises Problem `not-found`."""
        row = await self._pool.fetchrow(GET_REVIEW, review_id)
        if row is None:
            raise Problem("not-found", "There is no such review.")
        return _view(row)

    async def propose(self, review_id: str, body: ProposalBody, operator: str) -> ReviewView:
        """Say what became of it; a later proposal replaces an earlier one.

        Raises:
            Problem: not-found, schema-violation, invalid-state.
        """
        review = await self.get(review_id)
        if review.kind == "attempt":
            attempt = await self._reads.attempt(review.subject)
            if attempt is not None and attempt.state == "reversing":
                # It was asked to be undone: that it stands cannot be said any more.
                review.outcomes = ["reversed"]
        if body.outcome not in review.outcomes:
            detail = f"Must be one of: {', '.join(review.outcomes)}."
            raise Problem("schema-violation", detail, errors=(("/outcome", detail),))
        async with self._pool.acquire() as connection, connection.transaction():
            version = await self._held(connection, review_id)
            await self._proposals.add(
                connection,
                kind=_KIND,
                subject=review_id,
                diff={"outcome": body.outcome},
                base_version=version,
                note=body.note,
                actor=operator,
                told={"outcome": body.outcome, "payment": review.payment},
            )
        return await self.get(review_id)

    async def approve(self, review_id: str, operator: str) -> ReviewView:
        """Settle it as another operator proposed.

        Raises:
            Problem: not-found, four-eyes-required, invalid-state, proposal-stale.
        """
        review = await self.get(review_id)
        proposal_id = await self._proposals.open_of(_KIND, review_id)
        if review.status not in ("open", "proposed") or proposal_id is None:
            raise Problem("invalid-state", f"The review is {review.status}.")
        await self._proposals.approve(proposal_id, operator, kinds={_KIND})
        return await self.get(review_id)

    async def _held(self, connection: Any, review_id: str) -> str:
        """Return the version of a review that is open, which stays so for the transaction.

        Raises:
            Problem: invalid-state.
        """
        row = await connection.fetchrow(HOLD_REVIEW, review_id)
        if row["status"] != "open":
            raise Problem("invalid-state", f"The review is {row['status']}.")
        if row["kind"] == "conflict":
            return ""
        statement = ATTEMPT_STATE if row["kind"] == "attempt" else ACTION_STATE
        state: str = await connection.fetchval(statement, row["subject_id"])
        # Whether it was taken up by recovery says nothing of what became of it.
        return "unknown" if state in ("sent", "pending") else state

    async def _version(self, connection: Any, proposal: Proposal) -> str:
        return await self._held(connection, proposal.subject)

    async def _apply(self, connection: Any, proposal: Proposal, operator: str) -> Applied:
        await connection.execute(APPROVED, proposal.subject)
        return Applied(proposal.diff, lambda: self._settle(proposal.subject))

    async def _settle(self, review_id: str) -> None:
        """Tell a payment what two have agreed on; told again, it changes nothing."""
        row = await self._pool.fetchrow(GET_REVIEW, review_id)
        assert row is not None, "it was approved"
        await failpoints.hit("before_review_settled")
        await self._tell(_view(row))
        await self._pool.execute(SETTLED, review_id)

    async def _tell(self, review: ReviewView) -> None:
        """Apply what was approved; a fact that came first stands, and this one is a conflict."""
        if review.kind == "conflict":
            return
        assert review.outcome is not None, "it was proposed"
        result = Result(outcome=_RESULTS[review.outcome], processor_code="operator")
        if review.kind == "attempt":
            rows = await self._pool.fetch(store.GET_ATTEMPTS, [review.subject])
            attempt = store.attempt_of(rows[0])
            if attempt.state == "reversing":
                payment, attempts = await self._reads.whole(attempt.payment_id)
                await self._carrier.reversed(payment, attempts, attempt)
                return
            await self._carrier.settle(attempt, result, source="operator", wait_s=UNKNOWN_WAIT_S)
            return
        row = await self._pool.fetchrow(store.GET_ACTION, review.subject)
        assert row is not None, "its review names it"
        await self._actions.settle(store.action_of(row), result)

    async def money_in_doubt(self) -> InDoubtView:
        """Return what is neither taken nor given back, as far as anybody knows."""
        parts = [
            InDoubtPart(
                where=row["connector"],
                currency=row["currency"],
                count=row["count"],
                sum=row["sum"],
                oldest_at=_shown(row["oldest"]) or "",
            )
            for row in await self._pool.fetch(IN_DOUBT)
        ]
        sums: dict[str, int] = {}
        for part in parts:
            sums[part.currency] = sums.get(part.currency, 0) + part.sum
        return InDoubtView(
            count=sum(part.count for part in parts),
            sum=sums,
            oldest_at=min((part.oldest_at for part in parts), default=None),
            parts=parts,
        )


def _shown(moment: Any) -> str | None:
    return None if moment is None else rfc3339(round(moment.timestamp() * 1000))


def _view(row: asyncpg.Record) -> ReviewView:
    return ReviewView(
        id=row["id"],
        payment=row["payment_id"],
        kind=row["kind"],
        subject=row["subject_id"],
        reason=row["reason"],
        status=row["status"],
        amount=row["amount_minor"],
        currency=row["currency"],
        outcomes=list(OUTCOMES[row["kind"]]),
        opened_at=_shown(row["opened_at"]) or "",
        outcome=row["outcome"],
        note=row["note"],
        proposed_by=row["proposed_by"],
        proposed_at=_shown(row["proposed_at"]),
        decided_by=row["decided_by"],
        decided_at=_shown(row["decided_at"]),
    )
