"""Who the operators are and what each may do; changed by two of them."""

from typing import Any

import asyncpg

from gateway.core import rfc3339
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.operators import store
from gateway.operators.model import ChangeBody, ChangeView, OperatorView
from gateway.operators.roles import Roles
from gateway.operators.sessions import OperatorSessions, utc


class Operators:
    """Lists operators, and changes their roles by four eyes."""

    def __init__(
        self, *, pool: asyncpg.Pool, clock: Clock, roles: Roles, sessions: OperatorSessions
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._roles = roles
        self._sessions = sessions

    async def page(self, *, after: str, limit: int) -> list[OperatorView]:
        """Return up to `limit` operators after an id, in the order of ids."""
        return [self._view(row) for row in await self._pool.fetch(store.LIST, after, limit)]

    async def get(self, operator_id: str) -> OperatorView:
        """Return an operator. Raises Problem: not-found."""
        row = await self._pool.fetchrow(store.GET, operator_id)
        if row is None:
            raise _not_found()
        return self._view(row)

    def _view(self, row: Any) -> OperatorView:
        return OperatorView(
            id=row["id"],
            name=row["name"],
            login=row["login"],
            roles=row["roles"],
            scopes=[] if row["is_disabled"] else self._roles.permitted(row["roles"]),
            is_disabled=row["is_disabled"],
            is_locked=row["is_locked"],
            created_at=rfc3339(round(row["created_at"].timestamp() * 1000)),
        )

    async def propose(self, operator_id: str, body: ChangeBody, actor: str) -> ChangeView:
        """Ask for other roles; another operator gives them.

        Raises:
            Problem: not-found, schema-violation: there is no such role.
        """
        await self.get(operator_id)
        for number, role in enumerate(body.roles):
            if role not in self._roles.scopes:
                pointer = f"/roles/{number}"
                detail = f"Must be one of {', '.join(sorted(self._roles.scopes))}."
                raise Problem(
                    "schema-violation", "There is no such role.", errors=((pointer, detail),)
                )
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                store.PROPOSE,
                new_id("prp_", now_ms),
                operator_id,
                sorted(set(body.roles)),
                body.is_disabled,
                body.note,
                actor,
                utc(now_ms),
            )
            await self._record(connection, row, actor, "operator.propose")
        return _change(row)

    async def approve(self, proposal_id: str, actor: str) -> ChangeView:
        """Give the roles that another asked for; the operator's sessions end.

        Raises:
            Problem: not-found, invalid-state, four-eyes-required.
        """
        return await self._decide(proposal_id, actor, "active")

    async def reject(self, proposal_id: str, actor: str) -> ChangeView:
        """Leave everything as it is. Raises as `approve`; the own may be taken back."""
        return await self._decide(proposal_id, actor, "rejected")

    async def _decide(self, proposal_id: str, actor: str, status: str) -> ChangeView:
        revoked = None
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(store.LOCK_PROPOSAL, proposal_id)
            if row is None:
                raise Problem("not-found", "There is no such proposal.")
            if row["status"] != "proposed":
                raise Problem("invalid-state", f"The proposal is {row['status']}.")
            if status == "active":
                # Neither whoever asked, nor whom it is about.
                if actor in (row["proposed_by"], row["operator_id"]):
                    raise Problem("four-eyes-required", "Another operator must approve it.")
                await connection.execute(
                    store.CHANGE, row["operator_id"], row["roles"], row["is_disabled"]
                )
                revoked = await self._sessions.end_all(connection, row["operator_id"])
            row = await connection.fetchrow(
                store.DECIDE, proposal_id, status, actor, utc(self._clock())
            )
            verb = "approve" if status == "active" else "reject"
            await self._record(connection, row, actor, f"operator.{verb}")
        if revoked is not None:
            await self._sessions.keep(revoked)
        return _change(row)

    async def _record(self, connection: Any, row: Any, actor: str, action: str) -> None:
        await audit.record(
            connection,
            at_ms=self._clock(),
            actor=actor,
            action=action,
            object=row["operator_id"],
            detail={
                "proposal": row["id"],
                "roles": row["roles"],
                "is_disabled": row["is_disabled"],
                "note": row["note"],
            },
        )


def _change(row: Any) -> ChangeView:
    decided_at = row["decided_at"]
    return ChangeView(
        id=row["id"],
        operator=row["operator_id"],
        roles=row["roles"],
        is_disabled=row["is_disabled"],
        note=row["note"],
        status=row["status"],
        proposed_by=row["proposed_by"],
        proposed_at=rfc3339(round(row["proposed_at"].timestamp() * 1000)),
        decided_by=row["decided_by"],
        decided_at=None if decided_at is None else rfc3339(round(decided_at.timestamp() * 1000)),
    )


def _not_found() -> Problem:
    return Problem("not-found", "There is no such operator.")
