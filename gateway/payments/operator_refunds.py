"""Refunds that operators make: small ones alone, larger ones by two.

What may be given back of one payment without a second pair of eyes is a setting by currency; what
was given back of it before counts too, so that nothing is gained by dividing. A merchant and a
customer refund by their own credentials, under their own limits, and wait for nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import asyncpg
import msgspec

from gateway.core import Core
from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.read import body_as
from gateway.kernel.http.routes import Route
from gateway.payments import store
from gateway.payments.actions import Actions, NeedsTwo
from gateway.payments.bodies import AmountLeft, check_amount
from gateway.payments.model import Payment
from gateway.payments.reads import Reads
from gateway.payments.replays import Replays, key_of
from gateway.payments.views import RefundView, refund_view
from gateway.proposals.model import Applied, Kind, Proposal, ProposalView, view_of
from gateway.proposals.service import Proposals

_KIND: Literal["refund"] = "refund"
# Held until the refund is claimed: of two approvals the later sees what the first has made.
_VERSION = "SELECT version::text FROM payments WHERE id = $1 FOR NO KEY UPDATE"


class OperatorRefundBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to give back, and why. `amount` absent: all that is left."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    amount: AmountLeft | None = None


class OperatorRefunds:
    """Refunds anybody's payment, or has that proposed.

    Args:
        alone_max: minor units by currency that need no second pair of eyes.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        actions: Actions,
        reads: Reads,
        replays: Replays,
        proposals: Proposals,
        alone_max: Mapping[str, int],
    ) -> None:
        self._pool = pool
        self._core = core
        self._actions = actions
        self._reads = reads
        self._replays = replays
        self._proposals = proposals
        self._alone_max = alone_max
        proposals.register(
            Kind(
                name=_KIND,
                read_scope=scopes.PAYMENTS_READ,
                propose_scope=scopes.REFUNDS_PROPOSE,
                approve_scope=scopes.REFUNDS_APPROVE,
                acts="refund",
                version=self._version,
                apply=self._apply,
                told=self._told,
            )
        )

    async def refund(self, request: Request, payment_id: str, body: OperatorRefundBody) -> Response:
        """Give back at once (201), or propose to (202); once per key.

        Raises:
            Problem: not-found, invalid-state, refund-exceeds-captured, or the key's own.
        """
        check_amount(body.amount)
        key = key_of(self._core, request)
        replayed = await self._replays.find(*key)
        if replayed is not None:
            return replayed
        payment, amount_minor = await self._actions.refundable(payment_id, body.amount)
        try:
            return await self._actions.act(
                request,
                "refund",
                payment_id,
                amount_minor=body.amount,
                reason=body.reason,
                is_operator=True,
                alone_max=self._alone_max.get(payment.currency, 0),
            )
        except NeedsTwo:
            return await self._propose(payment, amount_minor, body.reason, request.who.sub, key)

    async def _propose(
        self,
        payment: Payment,
        amount_minor: int,
        reason: str,
        actor: str,
        key: tuple[bytes, bytes],
    ) -> Response:
        diff = {"amount": amount_minor, "currency": payment.currency}
        proposal_id = self._proposals.next_id()
        async with self._pool.acquire() as connection, connection.transaction():
            is_new = await connection.fetchval(store.CLAIM_KEY, *key, proposal_id)
            if is_new is not None:
                await self._proposals.add(
                    connection,
                    kind=_KIND,
                    subject=payment.id,
                    diff=diff,
                    base_version=str(payment.version),
                    note=reason,
                    actor=actor,
                    told=diff,
                    proposal_id=proposal_id,
                )
                proposal = await self._proposals.read(connection, proposal_id)
                answer = msgspec.json.encode(view_of(proposal))
                await self._proposals.keep_answer(connection, proposal_id, answer.decode())
        if is_new is None:
            return await self._replays.answer(*key)
        return Response(202, answer, (("Location", f"/admin/v1/proposals/{proposal_id}"),))

    async def _version(self, connection: Any, proposal: Proposal) -> str:
        version: str = await connection.fetchval(_VERSION, proposal.subject)
        return version

    async def _apply(self, connection: Any, proposal: Proposal, actor: str) -> Applied:
        payment, amount_minor = await self._actions.refundable(
            proposal.subject, proposal.diff["amount"]
        )
        action = await self._actions.claim_refund(connection, payment, amount_minor, proposal.note)
        outcome = {"refund": action.id} | proposal.diff
        return Applied(outcome, lambda: self._actions.carry_refund(action))

    async def _told(self, proposals: Sequence[Proposal]) -> dict[str, dict[str, Any]]:
        """What became of refunds that were approved, at their processors."""
        made = {one.id: one for one in proposals if one.outcome is not None}
        actions = await self._reads.actions([one.outcome["refund"] for one in made.values()])
        found = {}
        for one in made.values():
            shown = refund_view(actions[one.outcome["refund"]], one.diff["currency"])
            found[one.id] = {"outcome": one.outcome | {"status": shown.status}}
        return found


class _Handlers:
    def __init__(self, refunds: OperatorRefunds) -> None:
        self._refunds = refunds

    async def refund(self, request: Request) -> Response:
        body = body_as(request, OperatorRefundBody)
        return await self._refunds.refund(request, request.params["id"], body)


def routes(refunds: OperatorRefunds) -> list[Route]:
    """Return the operators' route of refunds."""
    handlers = _Handlers(refunds)
    return [
        Route(
            method="POST",
            path="/admin/v1/payments/{id}/refunds",
            handler=handlers.refund,
            summary="Refund a payment; over a threshold, another operator approves first",
            tag="operators",
            scope=scopes.REFUNDS_PROPOSE,
            priority=Priority.SETTLING,
            body=OperatorRefundBody,
            answers={201: RefundView, 202: ProposalView},
            problems=(
                "idempotency-key-missing",
                "idempotency-key-invalid",
                "idempotency-key-reused",
                "idempotency-in-progress",
                "not-found",
                "invalid-state",
                "processor-unavailable",
                "revocation-feed-stale",
                "invalid-amount",
                "refund-exceeds-captured",
                "refund-not-supported",
            ),
            is_idempotent=True,
        )
    ]
