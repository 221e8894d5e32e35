"""The path of a new payment, top to bottom: decided, made durable, carried, answered.

Everything below is a leaf that it calls; what processors are asked is `carrying`.
"""

import asyncio
from dataclasses import replace

import msgspec
import structlog

from connectors.spi import Pan
from gateway.core import Admission, Core, Refusal
from gateway.kernel import failpoints
from gateway.kernel.clock import Clock
from gateway.kernel.db.batch import QueueFull
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id, place_of
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.payments import outcomes
from gateway.payments.carrying import Carrier, accepted
from gateway.payments.entries import (
    REPLAYED,
    CardChanged,
    Intent,
    Opened,
    Replayed,
)
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.model import PROCESSING, REQUIRES_ACTION, Attempt, Payment
from gateway.payments.refusals import Refusals
from gateway.payments.replays import Replays, key_of
from gateway.payments.step_up import Stated, StepUps
from gateway.payments.store import Sequences
from gateway.payments.supply import Supply

log = structlog.get_logger("payments")

# A card that changes under a decision is read again; it does not go on changing.
_DECISIONS_MAX = 3


class Payments:
    """Takes new payments, and those that a customer has confirmed."""

    def __init__(
        self,
        *,
        core: Core,
        clock: Clock,
        supply: Supply,
        journal: Journal,
        replays: Replays,
        instructions: Instructions,
        carrier: Carrier,
        refusals: Refusals,
        step_ups: StepUps,
        sequences: Sequences,
        metrics: Metrics,
        lease: Lease,
    ) -> None:
        self._core = core
        self._clock = clock
        self._supply = supply
        self._journal = journal
        self._replays = replays
        self._instructions = instructions
        self._carrier = carrier
        self._refusals = refusals
        self._step_ups = step_ups
        self._sequences = sequences
        self._metrics = metrics
        self._lease = lease
        self._carrying: set[asyncio.Task[Response]] = set()

    async def pay(self, request: Request) -> Response:
        """Decide, make the intent durable, send, make the outcome durable, answer."""
        for _ in range(_DECISIONS_MAX):
            admission = await self._decide(request)
            if isinstance(admission, Response):
                return admission
            if admission.is_step_up:
                return await self._step_ups.begin(request, admission, self._waiting(admission))
            payment = self._new_payment(admission)
            mark = self._lease.mark()
            opened = await self._open(
                payment, admission, *admission.idempotency, payment.id, request.request_id
            )
            if isinstance(opened, Attempt):
                scope, _ = admission.idempotency
                if request.deadline_ms is None:
                    return await self._carrier.carry(payment, [opened], scope, mark)
                return await self._within_deadline(request, payment, opened, scope, mark)
            if isinstance(opened, Admission):
                return await self._step_ups.begin(request, opened, self._waiting(opened))
            if not isinstance(opened, CardChanged):
                return await self._replays.answer(*admission.idempotency)
            self._forget_cards(payment)
        raise Problem("unavailable", "The card is being changed; try again.")

    async def confirm(self, request: Request, said: Stated) -> Response:
        """Decide a payment again that waited for a code, and carry it; once per key.

        Raises:
            Problem: not-found, invalid-state, otp-..., sca-binding-mismatch, quote-expired, or
                the key's own.
        """
        payment_id, owner = request.params["id"], request.who.sub
        key = key_of(self._core, request)
        replayed = await self._replays.find(*key)
        if replayed is not None:
            return replayed
        confirmed = await self._step_ups.check(owner, request.who.sid, payment_id, said)
        again = replace(request, method="POST", path="/v1/payments", body=confirmed.body)
        for _ in range(_DECISIONS_MAX):
            admission = await self._decide_again(again)
            payment = self._new_payment(admission, payment_id, confirmed.version + 1)
            if (payment.total_debit, payment.total_credit) != (
                confirmed.total_debit,
                confirmed.total_credit,
            ):
                self._core.release(admission)
                raise Problem("quote-expired", "The commission has changed; pay anew.")
            mark = self._lease.mark()
            opened = await self._open(
                payment, admission, *key, confirmed.confirmation_id, request.request_id
            )
            if isinstance(opened, Attempt):
                response = await self._carrier.carry(payment, [opened], key[0], mark)
                await self._step_ups.answered(confirmed.confirmation_id, response)
                return response
            if not isinstance(opened, CardChanged):
                return await self._replays.answer(*key)
            self._forget_cards(payment)
        raise Problem("invalid-state", "The payment has been confirmed, or its card has changed.")

    def _forget_cards(self, payment: Payment) -> None:
        for card_id in (payment.source_card_id, payment.destination_card_id):
            if card_id is not None:
                self._core.forget_card(card_id)

    async def _open(
        self,
        payment: Payment,
        admission: Admission,
        scope: bytes,
        fingerprint: bytes,
        object_id: str,
        request_id: str,
    ) -> Attempt | Replayed | CardChanged | Admission:
        """Make an intent durable with its first attempt; returns the attempt, or why not.

        Raises:
            RefusedByCore: what could be admitted no longer can.
        """
        try:
            await failpoints.hit("before_intent_commit")
            self._lease.check()
            sequence = await self._sequences.next()
        except BaseException:
            # What was admitted counts as used until it is written or let go.
            self._core.release(admission)
            raise
        attempt = outcomes.new_attempt(payment, 1, sequence, admission.at_ms)
        intent = Intent(payment, attempt, admission, scope, fingerprint, object_id)
        try:
            opened = await self._journal.open(intent)
        except QueueFull:
            self._core.release(admission)
            raise Problem("overloaded", "Too many payments are waiting; try again.") from None
        if isinstance(opened, Refusal):
            # The headroom may have gone to this very payment, asked for before at another worker.
            if await self._replays.find(scope, fingerprint) is not None:
                return REPLAYED
            raise await self._refusals.refused(opened, request_id)
        return attempt if isinstance(opened, Opened) else opened

    async def _decide_again(self, request: Request) -> Admission:
        """Ask the core about a payment whose stronger authentication was given."""
        decision: Admission | Refusal = await self._supply.decided(
            lambda fresh: self._core.admit(
                request.method,
                request.path,
                request.raw_headers,
                request.body,
                request.received_at_ms,
                fresh,
                is_stepped_up=True,
            ),
        )
        if isinstance(decision, Refusal):
            raise await self._refusals.refused(decision, request.request_id)
        return decision

    async def _decide(self, request: Request) -> Admission | Response:
        """Ask the core; an earlier answer under the same key comes before a refusal."""
        decision = await self._supply.decided(
            lambda fresh: self._core.admit(
                request.method,
                request.path,
                request.raw_headers,
                request.body,
                request.received_at_ms,
                fresh,
            ),
        )
        if isinstance(decision, Admission):
            return decision
        assert isinstance(decision, Refusal), "the core answers an admission or a refusal"
        if decision.idempotency is not None:
            replayed = await self._replays.find(*decision.idempotency)
            if replayed is not None:
                return replayed
        self._metrics.count("payments_refused", decision.slug)
        raise await self._refusals.refused(decision, request.request_id)

    def _waiting(self, admission: Admission) -> Payment:
        """Return a payment that waits for a stronger authentication."""
        payment = self._new_payment(admission)
        payment.status = REQUIRES_ACTION
        payment.record = admission.record
        return payment

    def _new_payment(
        self, admission: Admission, payment_id: str | None = None, version: int = 1
    ) -> Payment:
        now_ms = admission.at_ms
        commission = admission.commission
        payment_id = payment_id or new_id("pay_", now_ms, place_of(admission.sub))
        details: dict[str, object] = {"metadata": msgspec.Raw(admission.metadata)}
        for name, value in (
            ("description", admission.description),
            ("purpose", admission.purpose),
        ):
            if value is not None:
                details[name] = value
        destination_pan = None
        if admission.destination_pan is not None:
            pan = Pan(admission.destination_pan)
            destination_pan = self._instructions.seal_destination(payment_id, pan)
            details["destination_last4"] = pan.last4
        return Payment(
            id=payment_id,
            version=version,
            owner=admission.sub,
            client_id=admission.client_id,
            operation=admission.operation,
            status=PROCESSING,
            scheme=admission.scheme,
            amount_minor=admission.amount_minor,
            currency=admission.currency,
            total_debit=commission.total_debit,
            total_credit=commission.total_credit,
            source_card_id=admission.source_card,
            destination_card_id=admission.destination_card,
            destination_pan=destination_pan,
            merchant_id=admission.merchant,
            is_manual_capture=admission.is_manual_capture,
            commission_total=commission.total,
            commission_vat=commission.vat_total,
            commission_payer=commission.payer,
            commission_plan=commission.plan,
            commission_version=commission.version,
            commission_lines=commission.lines,
            legs=admission.legs,
            commission_split=commission.split,
            # Its decision is known once it is staged.
            record=b"",
            details=details,
            created_at_ms=now_ms,
        )

    async def _within_deadline(
        self, request: Request, payment: Payment, attempt: Attempt, scope: bytes, mark: int
    ) -> Response:
        """Carry a payment; when the caller's patience ends first, it goes on without the caller."""
        assert request.deadline_ms is not None, "the caller said how long it waits"
        task = asyncio.create_task(self._carrier.carry(payment, [attempt], scope, mark))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        spent_ms = self._clock() - request.received_at_ms
        patience_s = max(0, request.deadline_ms - spent_ms) / 1000
        done, _ = await asyncio.wait({task}, timeout=patience_s)
        return task.result() if done else accepted(payment, [attempt])

    async def drain(self) -> None:
        """Wait for what is being carried without its caller."""
        while self._carrying:
            await asyncio.wait(self._carrying)
