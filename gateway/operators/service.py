"""Who the operators are and what each may do; changed by two of them."""

from typing import Any, Literal

import asyncpg

from gateway.core import rfc3339
from gateway.kernel import scopes
from gateway.kernel.http.problems import Problem
from gateway.operators import store
from gateway.operators.model import ChangeBody, ChangeView, OperatorView
from gateway.operators.roles import Roles
from gateway.operators.sessions import OperatorSessions
from gateway.proposals.model import Applied, Kind, Proposal
from gateway.proposals.service import Proposals

_KIND: Literal["roles"] = "roles"
# Its own route asks for none.
_NO_REASON = "no reason was given"
_STATUS: dict[str, Literal["proposed", "active"]] = {"proposed": "proposed", "approved": "active"}


class Operators:
    """Lists operators, and changes their roles by four eyes.

    Args:
        proposals: where roles are registered as what two people change.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        roles: Roles,
        sessions: OperatorSessions,
        proposals: Proposals,
    ) -> None:
        self._pool = pool
        self._roles = roles
        self._sessions = sessions
        self._proposals = proposals
        proposals.register(
            Kind(
                name=_KIND,
                read_scope=scopes.OPERATORS_READ,
                propose_scope=scopes.OPERATORS_PROPOSE,
                approve_scope=scopes.OPERATORS_APPROVE,
                acts="operator",
                version=self._version,
                apply=self._apply,
                # Neither whoever asked, nor whom it is about.
                concerned=lambda proposal: proposal.subject,
            )
        )

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
        change = {"roles": sorted(set(body.roles)), "is_disabled": body.is_disabled}
        async with self._pool.acquire() as connection, connection.transaction():
            version = await connection.fetchval(store.VERSION, operator_id)
            proposal_id = await self._proposals.add(
                connection,
                kind=_KIND,
                subject=operator_id,
                diff=change,
                base_version=version,
                note=body.note,
                actor=actor,
                told=change,
            )
        return _change(await self._proposals.get(proposal_id))

    async def approve(self, proposal_id: str, actor: str) -> ChangeView:
        """Give the roles that another asked for; the operator's sessions end.

        Raises:
            Problem: not-found, invalid-state, four-eyes-required, proposal-stale.
        """
        return _change(await self._proposals.approve(proposal_id, actor, kinds={_KIND}))

    async def reject(self, proposal_id: str, actor: str) -> ChangeView:
        """Leave everything as it is; the own may be taken back.

        Raises:
            Problem: not-found, invalid-state.
        """
        return _change(await self._proposals.reject(proposal_id, _NO_REASON, actor, kinds={_KIND}))

    async def _version(self, connection: Any, proposal: Proposal) -> str:
        version: str = await connection.fetchval(store.VERSION, proposal.subject)
        return version

    async def _apply(self, connection: Any, proposal: Proposal, actor: str) -> Applied:
        change = proposal.diff
        await connection.execute(
            store.CHANGE, proposal.subject, change["roles"], change["is_disabled"]
        )
        revoked = await self._sessions.end_all(connection, proposal.subject)
        return Applied(change, lambda: self._sessions.keep(revoked))


def _change(proposal: Proposal) -> ChangeView:
    decided_at_ms = proposal.decided_at_ms
    return ChangeView(
        id=proposal.id,
        operator=proposal.subject,
        roles=proposal.diff["roles"],
        is_disabled=proposal.diff["is_disabled"],
        note=proposal.note,
        status=_STATUS.get(proposal.status, "rejected"),
        proposed_by=proposal.proposed_by,
        proposed_at=rfc3339(proposal.proposed_at_ms),
        decided_by=proposal.decided_by,
        decided_at=None if decided_at_ms is None else rfc3339(decided_at_ms),
    )


def _not_found() -> Problem:
    return Problem("not-found", "There is no such operator.")
