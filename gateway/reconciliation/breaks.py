"""Breaks for operators: shown, explained or posted by one, approved by another.

What is posted is one journal entry that sums to zero, in the transaction that closes the break and
writes the audit log. Never changes a payment.
"""

from datetime import date
from typing import Any, Literal

import asyncpg
import msgspec

from gateway.core import rfc3339
from gateway.kernel import scopes
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.ledger.chart import Chart
from gateway.proposals.model import Applied, Kind, Proposal
from gateway.proposals.service import Proposals
from gateway.reconciliation import store
from gateway.reconciliation.imports import post
from gateway.reconciliation.model import (
    BreakView,
    ImportView,
    PostingBody,
    ProposalBody,
    SumView,
    side,
)
from gateway.reconciliation.postings import checked

_KIND: Literal["break"] = "break"
_DECIDED = {"accept": "accepted", "post": "posted"}


class Breaks:
    """Shows and closes breaks, and shows what was imported.

    Args:
        proposals: where breaks are registered as what two people close.
    """

    def __init__(
        self, pool: asyncpg.Pool, clock: Clock, chart: Chart, proposals: Proposals
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._chart = chart
        self._proposals = proposals
        proposals.register(
            Kind(
                name=_KIND,
                read_scope=scopes.RECONCILIATION_READ,
                propose_scope=scopes.RECONCILIATION_PROPOSE,
                approve_scope=scopes.RECONCILIATION_APPROVE,
                acts="reconciliation",
                version=self._version,
                apply=self._apply,
                replaces=True,
            )
        )

    async def days(
        self,
        *,
        connector: str | None,
        day: date | None,
        before: tuple[date, str],
        limit: int,
    ) -> list[ImportView]:
        """Return up to `limit` reports that stand, newest business day first."""
        rows = await self._pool.fetch(store.LIST_DAYS, connector, day, *before, limit)
        return [_import_view(row) for row in rows]

    async def page(
        self,
        *,
        after: str,
        kind: str | None,
        connector: str | None,
        status: str | None,
        day: date | None,
        limit: int,
    ) -> list[BreakView]:
        """Return up to `limit` breaks that were opened after `after`, oldest first."""
        rows = await self._pool.fetch(store.LIST_BREAKS, after, kind, connector, status, day, limit)
        now_ms = self._clock()
        return [_view(row, now_ms) for row in rows]

    async def get(self, break_id: str) -> BreakView:
        """Return one break. Raises Problem `not-found`."""
        return _view(await self._row(break_id), self._clock())

    async def _row(self, break_id: str) -> Any:
        row = await self._pool.fetchrow(store.GET_BREAK, break_id)
        if row is None:
            raise Problem("not-found", "There is no such break.")
        return row

    async def propose(self, break_id: str, body: ProposalBody, operator: str) -> BreakView:
        """Say how it should be closed; a later proposal replaces an earlier one.

        Raises:
            Problem: not-found, schema-violation, invalid-state.
        """
        await self._row(break_id)
        if body.action == "post":
            checked(body.postings, self._chart)
        elif body.postings:
            detail = "Only `post` has postings."
            raise Problem("schema-violation", detail, errors=(("/postings", detail),))
        diff = {"action": body.action, "postings": msgspec.to_builtins(body.postings)}
        async with self._pool.acquire() as connection, connection.transaction():
            version = await self._held(connection, break_id)
            await self._proposals.add(
                connection,
                kind=_KIND,
                subject=break_id,
                diff=diff,
                base_version=version,
                note=body.note,
                actor=operator,
                told=diff,
            )
        return await self.get(break_id)

    async def approve(self, break_id: str, operator: str) -> BreakView:
        """Close it as another operator proposed; what is posted is posted with it.

        Raises:
            Problem: not-found, four-eyes-required, invalid-state, proposal-stale.
        """
        row = await self._row(break_id)
        proposal_id = await self._proposals.open_of(_KIND, break_id)
        if row["status"] not in ("open", "proposed") or proposal_id is None:
            raise Problem("invalid-state", f"The break is {row['status']}.")
        await self._proposals.approve(proposal_id, operator, kinds={_KIND})
        return await self.get(break_id)

    async def _held(self, connection: Any, break_id: str) -> str:
        """Return the version of a break that is open, which stays so for the transaction.

        Raises:
            Problem: invalid-state.
        """
        row = await connection.fetchrow(store.HOLD_BREAK, break_id)
        if row["status"] != "open":
            raise Problem("invalid-state", f"The break is {row['status']}.")
        version: str = row["version"]
        return version

    async def _version(self, connection: Any, proposal: Proposal) -> str:
        return await self._held(connection, proposal.subject)

    async def _apply(self, connection: Any, proposal: Proposal, operator: str) -> Applied:
        break_id, action = proposal.subject, proposal.diff["action"]
        entry_id = f"adj_{break_id[4:]}" if action == "post" else None
        await connection.execute(store.CLOSE_BREAK, break_id, _DECIDED[action], entry_id)
        if entry_id is not None:
            postings = msgspec.convert(proposal.diff["postings"], list[PostingBody])
            await post(connection, entry_id, checked(postings, self._chart))
        row = await connection.fetchrow(store.GET_BREAK, break_id)
        outcome = {
            "action": action,
            "entry": entry_id,
            "payment": row["payment_id"],
            "connector": row["connector"],
            "business_day": row["business_day"].isoformat(),
        }
        return Applied(outcome)


def _shown(moment: Any) -> str | None:
    return None if moment is None else rfc3339(round(moment.timestamp() * 1000))


def _import_view(row: Any) -> ImportView:
    return ImportView(
        id=row["id"],
        connector=row["connector"],
        business_day=row["business_day"],
        revision=row["revision"],
        source=row["source"],
        imported_by=row["imported_by"],
        imported_at=_shown(row["imported_at"]) or "",
        lines=row["lines"],
        matched=row["matched"],
        breaks=msgspec.json.decode(row["breaks"]),
        sums=msgspec.json.decode(row["sums"], type=list[SumView]),
        settlement_entries=row["entries"] or [],
    )


def _view(row: Any, now_ms: int) -> BreakView:
    # An open one grows older; one that is closed is as old as it became.
    until = row["resolved_at"] or row["decided_at"]
    until_s = until.timestamp() if until is not None else now_ms / 1000
    return BreakView(
        id=row["id"],
        connector=row["connector"],
        business_day=row["business_day"],
        kind=row["kind"],
        status=row["status"],
        age_seconds=max(0, int(until_s - row["opened_at"].timestamp())),
        payment=row["payment_id"],
        line=row["line_number"],
        ours=side(row["ours"]),
        theirs=side(row["theirs"]),
        opened_at=_shown(row["opened_at"]) or "",
        resolved_at=_shown(row["resolved_at"]),
        action=row["action"],
        note=row["note"],
        postings=msgspec.json.decode(row["postings"] or "[]", type=list[PostingBody]),
        proposed_by=row["proposed_by"],
        proposed_at=_shown(row["proposed_at"]),
        decided_by=row["decided_by"],
        decided_at=_shown(row["decided_at"]),
        entry=row["entry_id"],
    )
