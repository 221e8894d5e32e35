"""Rules, changed by two people while payments run: one proposes, another approves.

A proposal is complete or refused; nothing of it counts before its approval, which checks it again
against what is in force by then, makes the next generation of rules in one transaction, and
answers once every worker decides by it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from gateway.core import RuleSet, rfc3339
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
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
from gateway.rules.times import millis_or_none, moment, moment_or_none, parsed
from gateway.rules.views import Rulebook

log = structlog.get_logger("rules")

_PROPOSAL = "prp_"
_WHAT_IF_SPAN_MS = 24 * 3_600_000
_NO_RULE = "There is no such rule."


class Rules:
    """The use cases.

    Args:
        catch_up: brings this worker to the newest generation at once.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        clock: Clock,
        views: Rulebook,
        simulations: Simulations,
        everywhere: Everywhere,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._views = views
        self._simulations = simulations
        self._everywhere = everywhere
        self._catch_up = catch_up
        self._approving = asyncio.Lock()

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
        proposal_id = new_id(_PROPOSAL, at_ms)
        action = "delete" if body is None else "put"
        await connection.execute(
            store.ADD_PROPOSAL,
            proposal_id,
            draft.kind,
            action,
            draft.id,
            body,
            moment_or_none(draft.from_ms),
            based_on,
            touched,
            told,
            actor,
            moment(at_ms),
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
        await audit.record(
            connection,
            at_ms=at_ms,
            actor=actor,
            action="proposal.propose",
            object=proposal_id,
            detail={"kind": draft.kind, "action": action, "target": draft.id},
        )
        return proposal_id

    # Deciding -----------------------------------------------------------------------------------

    async def approve(self, proposal_id: str, actor: str) -> dict[str, Any]:
        """Put a proposal into force; returns once every worker decides by it.

        Returns:
            The proposal's view, `active` or `scheduled`.

        Raises:
            Problem: `not-found`, `four-eyes-required`, `invalid-state` when it was decided before,
                `proposal-stale` when it does not fit what is in force by now.
        """
        # One here at a time: those who wait for the lock must not hold the pool's connections.
        async with (
            self._approving,
            self._pool.acquire() as connection,
            connection.transaction(),
        ):
            await connection.execute(store.LOCK)
            row = await self._open_proposal(connection, proposal_id)
            if row["proposed_by"] == actor:
                raise Problem("four-eyes-required", "Another operator must approve it.")
            made = await self._put_into_force(connection, row, actor)
        log.info("rules approved", proposal=proposal_id, generation=made)
        await self._catch_up()
        await self._everywhere.wait_for(made)
        return await self._shown(proposal_id)

    async def _put_into_force(self, connection: Any, row: Any, actor: str) -> int:
        """Write the next generation with the proposal in it, and return its number."""
        at_ms = self._clock()
        newest = await store.read_generation(connection, await store.newest(connection))
        from_ms = millis_or_none(row["effective_from"])
        if from_ms is not None and from_ms < at_ms:
            detail = "Its effective_from has passed."
            raise _outdated(detail, [("/effective_from", detail)])
        begins_ms = at_ms if from_ms is None else from_ms
        touched = await connection.fetchval(store.TOUCHED, row["kind"], row["target_id"])
        if touched != row["based_on_generation"]:
            raise _outdated("The rule has been changed since.", [])
        if row["action"] == "put":
            entry = await self._next(connection, row)
            faults = await faults_of(
                _draft_of(row), newest.entries, newest.rates, version=entry.version, at_ms=at_ms
            )
            if faults:
                raise _outdated("It does not fit the rules in force by now.", faults)
            after = with_put(newest.entries, entry, at_ms=begins_ms)
            version = entry.version
        else:
            if not _is_alive(newest.entries, row["kind"], row["target_id"], begins_ms):
                raise _outdated("The rule will have ended by then.", [])
            after = with_delete(newest.entries, row["kind"], row["target_id"], at_ms=begins_ms)
            version = None
            read = await compiled(after, newest.rates)
            assert isinstance(read, RuleSet), "rules without one of them are rules"
        made = await store.add_generation(
            connection,
            at_ms=at_ms,
            actor=actor,
            proposal_id=row["id"],
            before=newest.entries,
            after=after,
        )
        await connection.execute(
            store.DECIDE,
            row["id"],
            "approved",
            actor,
            moment(at_ms),
            None,
            made,
            version,
            moment(begins_ms),
        )
        await audit.record(
            connection,
            at_ms=at_ms,
            actor=actor,
            action="proposal.approve",
            object=row["id"],
            detail={
                "kind": row["kind"],
                "action": row["action"],
                "target": row["target_id"],
                "version": version,
                "generation": made,
                "effective_from": rfc3339(begins_ms),
            },
        )
        return made

    async def _next(self, connection: Any, row: Any) -> Entry:
        version = await store.next_version(connection, row["kind"], row["target_id"])
        return _draft_of(row).entry(version)

    async def reject(self, proposal_id: str, reason: str, actor: str) -> dict[str, Any]:
        """End a proposal without effect: rejected, or withdrawn when it is the actor's own.

        Raises:
            Problem: `not-found`, `invalid-state` when it was decided before.
        """
        at_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            row = await self._open_proposal(connection, proposal_id)
            status = "withdrawn" if row["proposed_by"] == actor else "rejected"
            await connection.execute(
                store.DECIDE,
                proposal_id,
                status,
                actor,
                moment(at_ms),
                reason,
                None,
                None,
                row["effective_from"],
            )
            await audit.record(
                connection,
                at_ms=at_ms,
                actor=actor,
                action="proposal.withdraw" if status == "withdrawn" else "proposal.reject",
                object=proposal_id,
                detail={"reason": reason},
            )
        return await self._shown(proposal_id)

    async def _open_proposal(self, connection: Any, proposal_id: str) -> Any:
        row = await connection.fetchrow(store.LOCK_PROPOSAL, proposal_id)
        if row is None:
            raise Problem("not-found", "There is no such proposal.")
        if row["status"] != "proposed":
            raise Problem("invalid-state", f"The proposal was {row['status']} before.")
        return row

    async def _shown(self, proposal_id: str) -> dict[str, Any]:
        shown = await self._views.proposal(proposal_id)
        assert shown is not None, "a proposal is never deleted"
        return shown


def _draft_of(row: Any) -> Draft:
    draft, _ = read_draft(row["kind"], row["body"].encode())
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
