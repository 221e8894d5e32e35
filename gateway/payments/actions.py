"""Captures, cancels and refunds: claimed in one transaction, sent, recorded as a fact.

The claim is one conditional UPDATE on the payment, so that no interleaving captures twice or
refunds more than was captured. Sending again under the same reference is safe at every connector,
and that is how an action in doubt is settled.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import asyncpg
import structlog

from connectors.spi import Connector, Outcome, Result
from gateway.core import Commission, Core, Refusal
from gateway.kernel import audit, failpoints
from gateway.kernel.clock import Clock
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.kernel.ids import new_id, place_in
from gateway.kernel.lease import Lease
from gateway.payments import store
from gateway.payments.action_outcomes import body_of, conclude, paid_back
from gateway.payments.entries import VersionMoved
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.kept import Kept
from gateway.payments.model import REQUIRES_CAPTURE, SUCCEEDED, Action, Attempt, Payment
from gateway.payments.reads import Reads
from gateway.payments.replays import Replays, key_of
from gateway.payments.store import Sequences

log = structlog.get_logger("actions")

_PREFIXES = {"capture": "cap_", "cancel": "can_", "refund": "rfd_"}
_RECORD_TRIES_MAX = 20
# Refunds of one payment claimed on other workers at the same time: each read again.
_CLAIM_TRIES_MAX = 20


class _Moved(Exception):
    """Another refund was claimed first; there is room for this one still."""


class NeedsTwo(Exception):
    """More would be given back of the payment than one operator may; nothing was claimed."""


class _Unclaimed(Exception):
    """The payment's state does not permit the action; its transaction is undone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One action asked for.

    Args:
        operator: who asked, when it was neither the customer nor the merchant.
        alone_max: minor units that may be given back of the payment in all; None: any.
    """

    kind: str
    payment: Payment
    amount_minor: int
    reason: str | None
    scope: bytes
    fingerprint: bytes
    operator: str | None = None
    alone_max: int | None = None


class Actions:
    """Captures, cancels, refunds, and settles those in doubt."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        journal: Journal,
        reads: Reads,
        replays: Replays,
        instructions: Instructions,
        connectors: Mapping[str, Connector],
        sequences: Sequences,
        lease: Lease,
        kept: Kept,
    ) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._journal = journal
        self._reads = reads
        self._replays = replays
        self._instructions = instructions
        self._connectors = connectors
        self._sequences = sequences
        self._lease = lease
        self._kept = kept
        self._recording: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def act(
        self,
        request: Request,
        kind: str,
        payment_id: str,
        *,
        amount_minor: int | None = None,
        reason: str | None = None,
        is_operator: bool = False,
        alone_max: int | None = None,
    ) -> Response:
        """Capture, cancel or refund a payment of the caller's, once per key.

        Args:
            amount_minor: 1 to 10**15; None: all that is left.
            is_operator: whether the payment may be anybody's, and the audit log is told.
            alone_max: minor units that refunds may come to together; None: any.

        Raises:
            Problem: not-found, invalid-state, capture-exceeds-authorized,
                refund-exceeds-captured, or the key's own.
            NeedsTwo: it would be more than `alone_max`.
        """
        key = key_of(self._core, request)
        replayed = await self._replays.find(*key)
        if replayed is not None:
            return replayed
        found = await self._reads.visible(payment_id, None if is_operator else request.who.sub)
        if found is None:
            raise Problem("not-found", "There is no such payment.")
        payment, attempts = found
        try:
            amount = self._amount(kind, payment, amount_minor)
        except Problem:
            # A copy of this very request may have changed the state since its key was looked for.
            replayed = await self._replays.find(*key)
            if replayed is None:
                raise
            return replayed
        # Refused before it is claimed: what is claimed must be able to end.
        self._commission(kind, payment, amount)
        operator = request.who.sub if is_operator else None
        wanted = Wanted(kind, payment, amount, reason, *key, operator, alone_max)
        await failpoints.hit("before_action_claim")
        action = await self._claim(wanted)
        if action is None:
            return await self._replays.answer(*key)
        return await self._carry(action, payment, attempts, scope=wanted.scope)

    def _amount(self, kind: str, payment: Payment, asked: int | None) -> int:
        if kind == "refund":
            if payment.status != SUCCEEDED or payment.operation != "purchase":
                raise Problem("invalid-state", "Only a purchase that succeeded can be refunded.")
            left = payment.amount_received - payment.amount_refunding
            if left < 1 or (asked is not None and asked > left):
                detail = f"{left} minor units are left to refund."
                raise Problem("refund-exceeds-captured", detail)
            self._check_partial_refund(payment, asked or left)
            return asked or left
        if payment.status != REQUIRES_CAPTURE:
            raise Problem("invalid-state", f"The payment is {payment.status}.")
        held = payment.amount_capturable
        if asked is not None and asked > held:
            detail = f"{held} minor units were authorised."
            raise Problem("capture-exceeds-authorized", detail)
        return asked or held

    def _check_partial_refund(self, payment: Payment, amount: int) -> None:
        connector = self._connectors[payment.legs[0][0]]
        back = paid_back(payment, amount, self._returned(payment, amount))
        if back != payment.total_debit and not connector.refund_partial:
            detail = "This processor refunds the whole amount only."
            raise Problem("refund-not-supported", detail)

    def _returned(self, payment: Payment, amount_minor: int) -> int:
        """What of the commission goes back with a refund, over what goes back already."""
        so_far = self._core.commission_returned(
            payment.commission_plan,
            payment.commission_version,
            payment.commission_total,
            payment.amount_received,
            payment.amount_refunding + amount_minor,
        )
        if isinstance(so_far, Refusal):
            raise RefusedByCore(so_far)
        # A refund that failed may have left more going back than is due yet.
        return max(0, so_far - payment.commission_returning)

    async def _claim(self, wanted: Wanted) -> Action | None:
        """Make the action durable; None when its key is in use."""
        if wanted.kind != "refund":
            return await self._claim_once(wanted)
        async with self._alone(wanted.payment.id):
            for _ in range(_CLAIM_TRIES_MAX):
                try:
                    return await self._claim_once(wanted)
                except _Moved:
                    payment, _ = await self._reads.whole(wanted.payment.id)
                    wanted = replace(wanted, payment=payment)
        raise Problem("unavailable", "The payment is busy; try again with the same key.")

    async def _claim_once(self, wanted: Wanted) -> Action | None:
        # The claim is made of this very reading of the payment, so that none slips by another.
        together = wanted.payment.amount_refunding + wanted.amount_minor
        if wanted.alone_max is not None and together > wanted.alone_max:
            raise NeedsTwo
        action = await self._new_action(wanted)
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                key = await connection.fetchval(
                    store.CLAIM_KEY, wanted.scope, wanted.fingerprint, action.id
                )
                if key is None:
                    return None
                await self._claim_in(connection, wanted, action)
                if wanted.operator is not None:
                    await audit.record(
                        connection,
                        at_ms=self._clock(),
                        actor=wanted.operator,
                        action=f"{wanted.kind}.make",
                        object=wanted.payment.id,
                        detail={
                            wanted.kind: action.id,
                            "amount": action.amount_minor,
                            "currency": wanted.payment.currency,
                            "reason": wanted.reason,
                        },
                    )
        except (_Unclaimed, asyncpg.UniqueViolationError):
            raise await self._why_unclaimed(wanted) from None
        return action

    async def _new_action(self, wanted: Wanted) -> Action:
        now_ms, returned = self._clock(), 0
        if wanted.kind == "refund":
            returned = self._returned(wanted.payment, wanted.amount_minor)
        return Action(
            id=new_id(_PREFIXES[wanted.kind], now_ms, place_in(wanted.payment.id)),
            payment_id=wanted.payment.id,
            kind=wanted.kind,
            state="pending",
            amount_minor=wanted.amount_minor,
            sequence=await self._sequences.next(),
            created_at_ms=now_ms,
            commission_returned=returned,
            reason=wanted.reason,
        )

    async def _claim_in(self, connection: Any, wanted: Wanted, action: Action) -> None:
        """Make an action durable in the open transaction. Raises _Unclaimed."""
        payment = wanted.payment
        claim, expected = store.CLAIM_END, []
        if wanted.kind == "refund":
            claim = store.CLAIM_REFUND
            expected = [
                action.commission_returned,
                payment.amount_refunding,
                payment.commission_returning,
            ]
        amount_minor = action.amount_minor
        if await connection.fetchval(claim, payment.id, amount_minor, *expected) is None:
            raise _Unclaimed
        await connection.execute(
            store.INSERT_ACTION,
            action.id,
            action.payment_id,
            action.kind,
            action.amount_minor,
            action.commission_returned,
            action.reason,
            action.sequence,
            self._lease.worker,
        )

    # What operators agree on --------------------------------------------------------------------

    async def refundable(self, payment_id: str, amount_minor: int | None) -> tuple[Payment, int]:
        """Return a payment and what a refund of it would be; None: all that is left.

        Raises:
            Problem: not-found, invalid-state, refund-exceeds-captured, refund-not-supported.
        """
        found = await self._reads.visible(payment_id, None)
        if found is None:
            raise Problem("not-found", "There is no such payment.")
        return found[0], self._amount("refund", found[0], amount_minor)

    async def claim_refund(
        self, connection: Any, payment: Payment, amount_minor: int, reason: str
    ) -> Action:
        """Make a refund durable in the open transaction; `carry_refund` it once that commits.

        Raises:
            Problem: proposal-stale: another refund was claimed since the payment was read.
        """
        wanted = Wanted("refund", payment, amount_minor, reason, b"", b"")
        action = await self._new_action(wanted)
        try:
            await self._claim_in(connection, wanted, action)
        except _Unclaimed:
            raise Problem("proposal-stale", "The payment has been refunded since.") from None
        return action

    async def carry_refund(self, action: Action) -> None:
        """Send a refund that was claimed; what becomes of it otherwise is recovery's to find."""
        payment, attempts = await self._reads.whole(action.payment_id)
        try:
            await self._carry(action, payment, attempts, scope=None)
        except (Unavailable, Problem, *CONNECTION_LOST) as error:
            log.warning("a refund waits for recovery", action=action.id, reason=str(error))

    async def _why_unclaimed(self, wanted: Wanted) -> Exception:
        payment, _ = await self._reads.whole(wanted.payment.id)
        left = payment.amount_received - payment.amount_refunding
        if wanted.kind == "refund" and payment.status == SUCCEEDED:
            if left >= wanted.amount_minor:
                return _Moved()
            return Problem("refund-exceeds-captured", f"{left} minor units are left to refund.")
        if payment.status == REQUIRES_CAPTURE:
            return Problem("invalid-state", "The payment is being captured or canceled already.")
        return Problem("invalid-state", f"The payment is {payment.status}.")

    async def _carry(
        self,
        action: Action,
        payment: Payment,
        attempts: list[Attempt],
        *,
        scope: bytes | None,
    ) -> Response:
        """Send, or send again, and record what became of it.

        Args:
            scope: the key's, when this is the first time; when provably nothing was sent, the
                action fails and its key may be used again.
        """
        attempt = attempts[0]
        commission = self._commission(action.kind, payment, action.amount_minor)
        await failpoints.hit("after_action_claim")
        self._lease.check()
        result = await self._send(action, payment, attempt, commission)
        await failpoints.hit("after_action_reply")
        if not result.sent:
            outcome = Outcome.PENDING if scope is None else Outcome.SWITCH_UNAVAILABLE
            result = replace(result, outcome=outcome)
        try:
            return await self._record(action, result, commission, scope)
        except (Unavailable, *CONNECTION_LOST):
            if result.sent:
                self._kept.keep(action.id, partial(self._record, action, result, commission, None))
            raise

    async def _send(
        self,
        action: Action,
        payment: Payment,
        attempt: Attempt,
        commission: Commission | None,
    ) -> Result:
        connector = self._connectors[attempt.connector]
        instruction = await self._instructions.of(payment, attempt)
        if action.kind == "capture":
            assert commission is not None, "a capture has a commission"
            return await connector.capture(
                instruction, reference=action.id, amount_minor=commission.total_debit
            )
        if action.kind == "cancel":
            return await connector.cancel(instruction, reference=action.id)
        return await connector.refund(
            instruction,
            reference=action.id,
            sequence=action.sequence,
            amount_minor=paid_back(payment, action.amount_minor, action.commission_returned),
        )

    def _commission(self, kind: str, payment: Payment, amount_minor: int) -> Commission | None:
        """What is charged on a capture: the plan's version of the authorization, computed anew."""
        if kind != "capture":
            return None
        commission = self._core.commission(
            payment.commission_plan, payment.commission_version, amount_minor
        )
        if isinstance(commission, Refusal):
            raise RefusedByCore(commission)
        return commission

    async def _record(
        self,
        action: Action,
        result: Result,
        commission: Commission | None,
        scope: bytes | None,
    ) -> Response:
        async with self._alone(action.payment_id):
            return await self._record_alone(action, result, commission, scope)

    def _alone(self, payment_id: str) -> asyncio.Lock:
        """One at a time in this worker: many at once would move the version under one another, and
        the last of them would run out of tries after the processor has done its part.
        """
        return self._recording.setdefault(payment_id, asyncio.Lock())

    async def _record_alone(
        self,
        action: Action,
        result: Result,
        commission: Commission | None,
        scope: bytes | None,
    ) -> Response:
        for _ in range(_RECORD_TRIES_MAX):
            payment, attempts = await self._reads.whole(action.payment_id)
            # Read after the payment: whoever concludes it from here on moves the version.
            current = await self._reads.action(action.id)
            if not current.is_open:
                body = body_of(current, payment, attempts)
                return Response(201 if current.kind == "refund" else 200, body)
            fact, response = conclude(payment, attempts, action, result, commission)
            if not result.sent:
                fact.frees = scope
            try:
                await self._journal.record(fact)
            except VersionMoved:
                continue
            return response
        raise Problem("unavailable", "The payment is busy; ask for it to see what became of it.")

    async def settle(self, action: Action, result: Result) -> None:
        """Record what became known of an action in doubt, unless it is known already."""
        payment, _ = await self._reads.whole(action.payment_id)
        commission = self._commission(action.kind, payment, action.amount_minor)
        await self._record(action, result, commission, None)

    async def resolve(self, action: Action, *, wait_s: float) -> None:
        """Take up an action in doubt: send it again under the same reference."""
        payment, attempts = await self._reads.whole(action.payment_id)
        await self._carry(action, payment, attempts, scope=None)
        await self._reads.postpone_action(action.id, wait_s)
