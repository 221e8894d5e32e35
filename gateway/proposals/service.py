"""Four eyes: one operator proposes a change, another approves it, and then it is made.

One mechanism for whatever needs two people. Each kind of change registers who may propose and
approve it, the version of what it is about, and how it is made; the approval makes it in its own
transaction, once, and only while what it is about is as the proposer saw it. Knows no kind by name.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import asyncpg

from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.proposals import store
from gateway.proposals.model import OPEN, Applied, Kind, Proposal, view_of

PREFIX = "prp_"


class Proposals:
    """Keeps proposals, and decides them.

    Args:
        lives_s: how long a proposal may wait for its approval.
    """

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock, lives_s: int) -> None:
        self._pool = pool
        self._clock = clock
        self._lives_ms = lives_s * 1000
        self._kinds: dict[str, Kind] = {}
        self._deciding = asyncio.Lock()

    def register(self, kind: Kind) -> None:
        """Let a kind of change be proposed."""
        assert kind.name not in self._kinds, f"{kind.name} is registered twice"
        self._kinds[kind.name] = kind

    # Proposing ----------------------------------------------------------------------------------

    def next_id(self) -> str:
        """Return the id of a proposal that is about to be added."""
        return new_id(PREFIX, self._clock())

    async def add(
        self,
        connection: Any,
        *,
        kind: str,
        subject: str,
        diff: dict[str, Any],
        base_version: str,
        note: str,
        actor: str,
        told: dict[str, Any],
        proposal_id: str | None = None,
        at_ms: int | None = None,
    ) -> str:
        """Add a proposal to the connection's open transaction, with its line in the audit log.

        Args:
            told: what the audit log says of it beside its id.
            proposal_id: of `next_id`, where it must be known before.
            at_ms: Unix milliseconds; None: now.

        Returns:
            Its id.
        """
        own, at_ms = self._kinds[kind], at_ms or self._clock()
        proposal_id, at = proposal_id or self.next_id(), store.moment(at_ms)
        if own.replaces:
            await connection.execute(store.REPLACE, kind, subject, actor, at)
        await connection.execute(
            store.ADD,
            proposal_id,
            kind,
            subject,
            store.encoded(diff),
            base_version,
            note,
            actor,
            at,
            store.moment(at_ms + self._lives_ms),
        )
        await audit.record(
            connection,
            at_ms=at_ms,
            actor=actor,
            action=f"{own.acts}.propose",
            object=subject if own.is_subject_audited else proposal_id,
            detail={"proposal": proposal_id, "note": note} | told,
        )
        return proposal_id

    async def keep_answer(self, connection: Any, proposal_id: str, answer: str) -> None:
        """Keep what was answered to whoever proposed under an idempotency key."""
        await connection.execute(store.STORE_ANSWER, proposal_id, answer)

    # Deciding -----------------------------------------------------------------------------------

    async def approve(
        self,
        proposal_id: str,
        actor: str,
        *,
        scopes: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> Proposal:
        """Make a change that another operator proposed; it is made once.

        Args:
            scopes: what the approver may do; None when a route of the kind's own has looked.
            kinds: of which it must be one; None: of any.

        Returns:
            The proposal, as it is then.

        Raises:
            Problem: `not-found`, `insufficient-scope`, `invalid-state` when it was decided before,
                `four-eyes-required`, `proposal-stale`; and what the change itself raises.
        """
        # One here at a time: those who wait for a lock must not hold the pool's connections.
        async with (
            self._deciding,
            self._pool.acquire() as connection,
            connection.transaction(),
        ):
            proposal, kind = await self._locked(connection, proposal_id, kinds)
            _check_scope(scopes, {kind.approve_scope})
            _check_open(proposal)
            if actor in (proposal.proposed_by, kind.concerned(proposal)):
                raise Problem("four-eyes-required", "Another operator must approve it.")
            applied = await self._apply(connection, kind, proposal, actor)
        await applied.after()
        return await self.get(proposal_id)

    async def _apply(self, connection: Any, kind: Kind, proposal: Proposal, actor: str) -> Applied:
        at_ms = self._clock()
        if proposal.expires_at_ms <= at_ms:
            raise Problem("proposal-stale", "It has waited for too long; propose it again.")
        if await kind.version(connection, proposal) != proposal.base_version:
            raise Problem("proposal-stale", "What it is about has been changed since.")
        applied = await kind.apply(connection, proposal, actor)
        await self._decide(connection, proposal, "approved", actor, None, applied.outcome)
        await self._record(connection, kind, proposal, "approve", actor, applied.outcome)
        return applied

    async def reject(
        self,
        proposal_id: str,
        reason: str,
        actor: str,
        *,
        scopes: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> Proposal:
        """End a proposal without effect: rejected, or withdrawn when it is the actor's own.

        Raises:
            Problem: `not-found`, `insufficient-scope`, `invalid-state` when it was decided before.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            proposal, kind = await self._locked(connection, proposal_id, kinds)
            _check_scope(scopes, {kind.propose_scope, kind.approve_scope})
            _check_open(proposal)
            status = "withdrawn" if proposal.proposed_by == actor else "rejected"
            await self._decide(connection, proposal, status, actor, reason, None)
            verb = "withdraw" if status == "withdrawn" else "reject"
            await self._record(connection, kind, proposal, verb, actor, {"reason": reason})
        return await self.get(proposal_id)

    async def withdraw(
        self, proposal_id: str, reason: str, actor: str, *, scopes: Collection[str]
    ) -> Proposal:
        """Take the own proposal back. Raises as `reject`; another's is not the actor's to take."""
        proposal = await self.get(proposal_id)
        if proposal.proposed_by != actor:
            _check_scope(scopes, self._scopes_of(proposal.kind))
            raise Problem("invalid-state", "It is another operator's; reject it instead.")
        return await self.reject(proposal_id, reason, actor, scopes=scopes)

    def _scopes_of(self, kind: str) -> set[str]:
        own = self._kinds[kind]
        return {own.propose_scope, own.approve_scope}

    async def _locked(
        self, connection: Any, proposal_id: str, kinds: Collection[str] | None
    ) -> tuple[Proposal, Kind]:
        at = store.moment(self._clock())
        row = await connection.fetchrow(store.LOCK, at, proposal_id)
        if row is None or (kinds is not None and row["kind"] not in kinds):
            raise _not_found()
        return store.proposal_of(row), self._kinds[row["kind"]]

    async def _decide(
        self,
        connection: Any,
        proposal: Proposal,
        status: str,
        actor: str,
        reason: str | None,
        outcome: dict[str, Any] | None,
    ) -> None:
        at = store.moment(self._clock())
        made = None if outcome is None else store.encoded(outcome)
        await connection.execute(store.DECIDE, proposal.id, status, actor, at, reason, made)

    async def _record(
        self,
        connection: Any,
        kind: Kind,
        proposal: Proposal,
        verb: str,
        actor: str,
        told: dict[str, Any],
    ) -> None:
        await audit.record(
            connection,
            at_ms=self._clock(),
            actor=actor,
            action=f"{kind.acts}.{verb}",
            object=proposal.subject if kind.is_subject_audited else proposal.id,
            detail={"proposal": proposal.id, "kind": kind.name, "subject": proposal.subject} | told,
        )

    # Reading ------------------------------------------------------------------------------------

    async def get(self, proposal_id: str) -> Proposal:
        """Return a proposal. Raises Problem `not-found`."""
        return await self.read(self._pool, proposal_id)

    async def read(self, connection: Any, proposal_id: str) -> Proposal:
        """Return a proposal as a connection's transaction sees it. Raises Problem `not-found`."""
        row = await connection.fetchrow(store.GET, store.moment(self._clock()), proposal_id)
        if row is None:
            raise _not_found()
        return store.proposal_of(row)

    async def open_of(self, kind: str, subject: str) -> str | None:
        """Return the id of the newest open proposal for a subject, or None."""
        found: str | None = await self._pool.fetchval(store.GET_OPEN, kind, subject)
        return found

    async def view(
        self, proposal_id: str, *, scopes: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return a proposal as it is shown.

        Raises:
            Problem: `not-found`, also for who may not see it.

        Args:
            scopes: of who asks; None: of who may see it.
        """
        proposal = await self.get(proposal_id)
        if scopes is not None and proposal.kind not in self._readable(scopes):
            raise _not_found()
        return (await self._views([proposal]))[0]

    async def page(
        self,
        *,
        scopes: Collection[str],
        kind: str | None,
        status: str | None,
        before: str,
        limit: int,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` proposals older than `before` that may be seen, newest first."""
        kinds = self._readable(scopes) & ({kind} if kind is not None else set(self._kinds))
        at = store.moment(self._clock())
        rows = await self._pool.fetch(store.LIST, at, before, sorted(kinds), status, limit)
        return await self._views([store.proposal_of(row) for row in rows])

    def _readable(self, scopes: Collection[str]) -> set[str]:
        return {
            one.name
            for one in self._kinds.values()
            if {one.read_scope, one.propose_scope, one.approve_scope} & set(scopes)
        }

    async def _views(self, proposals: list[Proposal]) -> list[dict[str, Any]]:
        told: dict[str, dict[str, Any]] = {}
        for kind in self._kinds.values():
            own = [one for one in proposals if one.kind == kind.name]
            if own:
                told |= await kind.told(own)
        return [view_of(one) | told.get(one.id, {}) for one in proposals]


def _check_open(proposal: Proposal) -> None:
    if proposal.status != OPEN:
        raise Problem("invalid-state", f"The proposal was {proposal.status} before.")


def _check_scope(scopes: Collection[str] | None, wanted: Iterable[str]) -> None:
    """Refuse who has none of the scopes that the proposal's kind asks for."""
    if scopes is not None and not set(wanted) & set(scopes):
        names = " or ".join(sorted(wanted))
        raise Problem("insufficient-scope", f"This needs {names}.")


def _not_found() -> Problem:
    return Problem("not-found", "There is no such proposal.")
