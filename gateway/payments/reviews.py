"""Payments that a human must settle: one operator proposes what became of one, another approves.

What is in doubt keeps its headroom and goes on being asked about; whoever is first to know settles
it. Never settles anything by itself, and never by the same operator twice.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import asyncpg
import msgspec

from connectors.spi import Outcome, Result
from gateway.core import rfc3339
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.payments import store
from gateway.payments.actions import Actions
from gateway.payments.model import Action, Attempt
from gateway.payments.outcomes import UNKNOWN_WAIT_S
from gateway.payments.reads import Reads
from gateway.payments.service import Payments

OPEN_REVIEW = """
INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status)
VALUES ($1, $2, $3, $4, $5, 'open') ON CONFLICT (kind, subject_id) DO NOTHING
"""
_COLUMNS = """
r.id, r.payment_id, r.kind, r.subject_id, r.reason, r.status, r.opened_at, r.outcome, r.note,
r.proposed_by, r.proposed_at, r.decided_by, r.decided_at, p.amount_minor, p.currency
"""
LIST_REVIEWS = f"""
SELECT {_COLUMNS} FROM reviews r JOIN payments p ON p.id = r.payment_id
WHERE r.id < $1 AND ($2::text IS NULL OR r.status = $2) ORDER BY r.id DESC LIMIT $3
"""
GET_REVIEW = f"""
SELECT {_COLUMNS} FROM reviews r JOIN payments p ON p.id = r.payment_id WHERE r.id = $1
"""
PROPOSE = """
UPDATE reviews SET status = 'proposed', outcome = $2, note = $3, proposed_by = $4, proposed_at = $5
WHERE id = $1 AND status IN ('open', 'proposed') RETURNING id
"""
DECIDE = """
UPDATE reviews SET status = 'settled', decided_by = $2, decided_at = $3
WHERE id = $1 AND status = 'proposed' AND outcome = $4 AND proposed_by <> $2 RETURNING id
"""
# What settled itself needs nobody any more.
CLOSE_SETTLED = """
UPDATE reviews r SET status = 'closed'
WHERE r.status IN ('open', 'proposed') AND (
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

Status = Literal["open", "proposed", "settled", "closed"]
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
    """One review."""

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
        payments: Payments,
        actions: Actions,
        reads: Reads,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._reads = reads
        self._payments = payments
        self._actions = actions
        self._clock = clock

    async def open(self, one: Attempt | Action, reason: str) -> None:
        """Hand what is in doubt to operators; it keeps its headroom."""
        kind = "attempt" if isinstance(one, Attempt) else "action"
        review_id = new_id("rev_", self._clock())
        await self._pool.execute(OPEN_REVIEW, review_id, one.payment_id, kind, one.id, reason)

    async def close_settled(self) -> None:
        """Close what became known by itself."""
        await self._pool.execute(CLOSE_SETTLED)

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
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            proposed = await connection.fetchval(
                PROPOSE, review_id, body.outcome, body.note, operator, _moment(now_ms)
            )
            if proposed is None:
                raise Problem("invalid-state", f"The review is {review.status}.")
            await audit.record(
                connection,
                at_ms=now_ms,
                actor=operator,
                action="review.propose",
                object=review_id,
                detail={"outcome": body.outcome, "note": body.note, "payment": review.payment},
            )
        return await self.get(review_id)

    async def approve(self, review_id: str, operator: str) -> ReviewView:
        """Settle it as another operator proposed.

        Raises:
            Problem: not-found, four-eyes-required, invalid-state.
        """
        review = await self.get(review_id)
        if review.status != "proposed":
            raise Problem("invalid-state", f"The review is {review.status}.")
        if review.proposed_by == operator:
            raise Problem("four-eyes-required", "Another operator must approve it.")
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            decided = await connection.fetchval(
                DECIDE, review_id, operator, _moment(now_ms), review.outcome
            )
            if decided is None:
                raise Problem("invalid-state", "The review has changed; read it again.")
            await audit.record(
                connection,
                at_ms=now_ms,
                actor=operator,
                action="review.approve",
                object=review_id,
                detail={"outcome": review.outcome, "payment": review.payment},
            )
        await self._settle(review)
        return await self.get(review_id)

    async def _settle(self, review: ReviewView) -> None:
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
                await self._payments.reversed(payment, attempts, attempt)
                return
            await self._payments.settle(attempt, result, source="operator", wait_s=UNKNOWN_WAIT_S)
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


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


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
