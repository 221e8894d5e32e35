"""Rules, changed by two people while payments run: one proposes, another approves.

A proposal is complete or refused; nothing of it counts before its approval, which checks it again
against what is in force by then, makes the next generation of rules in one transaction, and
answers once every worker decides by it. Who may decide what is the mechanism's of all proposals.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import structlog

from gateway.core import RuleSet, rfc3339
from gateway.kernel import scopes
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.proposals.model import Applied, Proposal
from gateway.proposals.model import Kind as ProposalKind
from gateway.proposals.service import Proposals
from gateway.rules import store
from gateway.rules.document import Entry, Fault, Kind, warnings, with_delete, with_put
from gateway.rules.drafts import (
    Draft,
    Wish,
    compiled,
    faults_of,
    invalid,
    of_version,
    read_draft,
    wish_of,
)
from gateway.rules.feed import Everywhere
from gateway.rules.simulations import Simulations
from gateway.rules.times import parsed
from gateway.rules.views import Rulebook

log = structlog.get_logger("rules")

_WHAT_IF_SPAN_MS = 24 * 3_600_000
_NO_RULE = "There is no such rule."


class Rules:
    """The use cases.

    Args:
        proposals: where rules are registered as what two people change.
        catch_up: brings this worker to the newest generation at once.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        clock: Clock,
        views: Rulebook,
        proposals: Proposals,
        simulations: Simulations,
        everywhere: Everywhere,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._views = views
        self._proposals = proposals
        self._simulations = simulations
        self._everywhere = everywhere
        self._catch_up = catch_up
        names: tuple[Kind, ...] = ("plan", "policy")
        for name in names:
            proposals.register(
                ProposalKind(
                    name=name,
                    read_scope=scopes.RULES_READ,
                    propose_scope=scopes.RULES_PROPOSE,
                    approve_scope=scopes.RULES_APPROVE,
                    acts="proposal",
                    is_subject_audited=False,
                    version=self._version,
                    apply=self._put_into_force,
                    told=self._told,
                )
            )

    # Proposing ----------------------------------------------------------------------------------

    async def propose_put(self, kind: Kind, body: bytes, actor: str) -> dict[str, Any]:
        """Propose a rule, new or changed.

        Args:
            body: canonical JSON, as it was sent.

        Returns:
            The proposal's view.

        Raises:
            Problem: `rules-invalid` with everything that is wrong.
        """
        draft, faults = read_draft(kind, body)
        return await self._propose(draft, faults, actor)

    async def propose_rollback(
        self, kind: Kind, id: str, version: int, effective_from: str | None, actor: str
    ) -> dict[str, Any]:
        """Propose what an earlier version said as the next version of its id.

        Raises:
            Problem: `not-found`, `rules-invalid`.
        """
        entry = await self._views.version(kind, id, version)
        if entry is None:
            raise Problem("not-found", "There is no such version.")
        draft, faults = of_version(entry, effective_from=effective_from)
        return await self._propose(draft, faults, actor)

    async def _propose(self, draft: Draft, faults: list[Fault], actor: str) -> dict[str, Any]:
        at_ms = self._clock()
        async with self._pool.acquire() as connection:
            touched, generation = await _ground(connection, draft.kind, draft.id)
            version = await store.next_version(connection, draft.kind, draft.id)
            entries = generation.entries
            faults += await faults_of(
                draft, entries, generation.rates, version=version, at_ms=at_ms
            )
            if faults:
                raise invalid(faults)
            entry = draft.entry(version)
            begins_ms = at_ms if draft.from_ms is None else draft.from_ms
            after = with_put(entries, entry, at_ms=begins_ms)
            moments = [begins_ms, *([] if draft.to_ms is None else [draft.to_ms])]
            async with connection.transaction():
                proposal_id = await self._add(
                    connection,
                    draft=draft,
                    body=store.encoded(draft.members),
                    based_on=_in_force(entries, draft.kind, draft.id, at_ms),
                    touched=touched,
                    told=warnings(entries, after, moments),
                    wish=wish_of(draft, version),
                    actor=actor,
                    at_ms=at_ms,
                )
        self._simulations.wake()
        return await self._shown(proposal_id)

    async def propose_delete(
        self, kind: Kind, id: str, effective_from: str | None, actor: str
    ) -> dict[str, Any]:
        """Propose that a rule ends.

        Raises:
            Problem: `not-found`, `invalid-state` when it has ended, `invalid-query`.
        """
        at_ms = self._clock()
        from_ms = parsed(effective_from) if effective_from is not None else None
        if effective_from is not None and (from_ms is None or from_ms < at_ms):
            raise Problem("invalid-query", "effective_from is an RFC 3339 time to come.")
        async with self._pool.acquire() as connection:
            touched, generation = await _ground(connection, kind, id)
            entries = generation.entries
            ends_ms = at_ms if from_ms is None else from_ms
            if not _is_alive(entries, kind, id, ends_ms):
                if await store.next_version(connection, kind, id) == 1:
                    raise Problem("not-found", _NO_RULE)
                raise Problem("invalid-state", "It will have ended by then.")
            after = with_delete(entries, kind, id, at_ms=ends_ms)
            async with connection.transaction():
                proposal_id = await self._add(
                    connection,
                    draft=Draft(kind, id, {}, from_ms, None),
                    body=None,
                    based_on=_in_force(entries, kind, id, at_ms),
                    touched=touched,
                    told=warnings(entries, after, [ends_ms]),
                    wish=Wish([], [(kind, id)]),
                    actor=actor,
                    at_ms=at_ms,
                )
        self._simulations.wake()
        return await self._shown(proposal_id)

    async def _add(
        self,
        connection: Any,
        *,
        draft: Draft,
        body: str | None,
        based_on: int | None,
        touched: int,
        told: list[str],
        wish: Wish,
        actor: str,
        at_ms: int,
    ) -> str:
        action = "delete" if body is None else "put"
        proposal_id = await self._proposals.add(
            connection,
            kind=draft.kind,
            subject=draft.id,
            diff={
                "action": action,
                "body": None if body is None else msgspec.Raw(body.encode()),
                "effective_from_ms": draft.from_ms,
                "based_on_version": based_on,
                "warnings": told,
            },
            base_version=str(touched),
            note="",
            actor=actor,
            told={"kind": draft.kind, "action": action, "target": draft.id},
            at_ms=at_ms,
        )
        await self._simulations.add(
            connection,
            wish=wish,
            from_ms=at_ms - _WHAT_IF_SPAN_MS,
            to_ms=at_ms,
            actor=actor,
            at_ms=at_ms,
            proposal_id=proposal_id,
        )
        return proposal_id

    # Deciding -----------------------------------------------------------------------------------

    async def _version(self, connection: Any, proposal: Proposal) -> str:
        """Return the last generation that touched a proposal's target; none is made meanwhile."""
        await connection.execute(store.LOCK)
        touched: int = await connection.fetchval(store.TOUCHED, proposal.kind, proposal.subject)
        return str(touched)

    async def _put_into_force(self, connection: Any, proposal: Proposal, actor: str) -> Applied:
        """Write the next generation with the proposal in it."""
        at_ms, diff = self._clock(), proposal.diff
        newest = await store.read_generation(connection, await store.newest(connection))
        from_ms: int | None = diff["effective_from_ms"]
        if from_ms is not None and from_ms < at_ms:
            detail = "Its effective_from has passed."
            raise _outdated(detail, [("/effective_from", detail)])
        begins_ms = at_ms if from_ms is None else from_ms
        after, version = await self._after(connection, proposal, newest, begins_ms, at_ms)
        made = await store.add_generation(
            connection,
            at_ms=at_ms,
            actor=actor,
            proposal_id=proposal.id,
            before=newest.entries,
            after=after,
        )
        outcome = {
            "action": diff["action"],
            "target": proposal.subject,
            "version": version,
            "generation": made,
            "effective_from": rfc3339(begins_ms),
            "effective_from_ms": begins_ms,
        }
        return Applied(outcome, lambda: self._everywhere_by(made, proposal.id))

    async def _after(
        self,
        connection: Any,
        proposal: Proposal,
        newest: store.Generation,
        begins_ms: int,
        at_ms: int,
    ) -> tuple[list[Entry], int | None]:
        """Return what is in force after a proposal, and the version that it makes."""
        draft = _draft_of(proposal)
        if draft is not None:
            entry = draft.entry(await store.next_version(connection, draft.kind, draft.id))
            faults = await faults_of(
                draft, newest.entries, newest.rates, version=entry.version, at_ms=at_ms
            )
            if faults:
                raise _outdated("It does not fit the rules in force by now.", faults)
            return with_put(newest.entries, entry, at_ms=begins_ms), entry.version
        kind, target = _kind_of(proposal), proposal.subject
        if not _is_alive(newest.entries, kind, target, begins_ms):
            raise _outdated("The rule will have ended by then.", [])
        after = with_delete(newest.entries, kind, target, at_ms=begins_ms)
        read = await compiled(after, newest.rates)
        assert isinstance(read, RuleSet), "rules without one of them are rules"
        return after, None

    async def _everywhere_by(self, generation: int, proposal_id: str) -> None:
        """Return once every worker decides by a generation."""
        log.info("rules approved", proposal=proposal_id, generation=generation)
        await self._catch_up()
        await self._everywhere.wait_for(generation)

    async def _told(self, proposals: Sequence[Proposal]) -> dict[str, dict[str, Any]]:
        return await self._views.proposals([one.id for one in proposals])

    async def _shown(self, proposal_id: str) -> dict[str, Any]:
        return await self._proposals.view(proposal_id)


def _kind_of(proposal: Proposal) -> Kind:
    return "plan" if proposal.kind == "plan" else "policy"


def _draft_of(proposal: Proposal) -> Draft | None:
    """Return the rule that a proposal puts; None where it deletes one."""
    body = proposal.diff["body"]
    if body is None:
        return None
    draft, _ = read_draft(_kind_of(proposal), store.encoded(body).encode())
    return draft


async def _ground(connection: Any, kind: Kind, id: str) -> tuple[int, store.Generation]:
    """Return what a proposal is written against: the last touch of its target, and the newest."""
    # In this order: a change in between makes the proposal outdated, and is never overlooked.
    touched: int = await connection.fetchval(store.TOUCHED, kind, id)
    return touched, await store.read_generation(connection, await store.newest(connection))


def _in_force(entries: list[Entry], kind: Kind, id: str, at_ms: int) -> int | None:
    """Return the version of an id that is in force at a moment."""
    found = [one for one in entries if (one.kind, one.id) == (kind, id)]
    return next((one.version for one in found if one.is_in_force(at_ms)), None)


def _is_alive(entries: list[Entry], kind: Kind, id: str, at_ms: int) -> bool:
    """Whether some version of an id has not ended by a moment."""
    return any((one.kind, one.id) == (kind, id) and not one.has_ended(at_ms) for one in entries)


def _outdated(detail: str, faults: list[Fault]) -> Problem:
    return Problem("proposal-stale", detail, errors=tuple(faults))
