"""The life of a payment, top to bottom; everything below is a leaf that it calls.

`pay` is the whole path of a new payment. `settle` is how anything else that becomes known of an
attempt (an inquiry, a reversal, a callback) joins it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import structlog

from connectors.spi import Connector, Outcome, Pan, Result, SettleBy
from gateway.core import Admission, Core, Refusal
from gateway.kernel import failpoints
from gateway.kernel.clock import Clock
from gateway.kernel.db.batch import QueueFull
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id, place_of
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.payments import outcomes
from gateway.payments.entries import (
    ALL,
    REPLAYED,
    CardChanged,
    Fact,
    Intent,
    Opened,
    Replayed,
    VersionMoved,
)
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.kept import Kept
from gateway.payments.model import (
    FAILED,
    PROCESSING,
    REQUIRES_ACTION,
    Attempt,
    Payment,
    payment_json,
)
from gateway.payments.outcomes import Contradiction, Next
from gateway.payments.reads import Reads
from gateway.payments.refusals import Refusals
from gateway.payments.replays import Replays, key_of
from gateway.payments.step_up import Stated, StepUps
from gateway.payments.store import Sequences
from gateway.payments.supply import Supply

log = structlog.get_logger("payments")

# A card that changes under a decision is read again; it does not go on changing.
_DECISIONS_MAX = 3
# Facts about one payment that meet: each read again and decided again.
_SETTLE_TRIES_MAX = 10
_FINAL_REVERSALS = (Outcome.APPROVED, Outcome.ALREADY_REVERSED, Outcome.ORIGINAL_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment after a fact about it was recorded, and what follows.

    Args:
        body: the answer that was stored with the fact, if one was.
    """

    payment: Payment
    attempts: list[Attempt]
    following: Next
    body: bytes | None = None


class Payments:
    """Pays, and settles what was in doubt."""

    def __init__(
        self,
        *,
        core: Core,
        clock: Clock,
        supply: Supply,
        journal: Journal,
        reads: Reads,
        replays: Replays,
        instructions: Instructions,
        connectors: Mapping[str, Connector],
        refusals: Refusals,
        step_ups: StepUps,
        sequences: Sequences,
        metrics: Metrics,
        lease: Lease,
        kept: Kept,
    ) -> None:
        self._core = core
        self._clock = clock
        self._supply = supply
        self._journal = journal
        self._reads = reads
        self._replays = replays
        self._instructions = instructions
        self._connectors = connectors
        self._refusals = refusals
        self._step_ups = step_ups
        self._sequences = sequences
        self._metrics = metrics
        self._settled_s = metrics.histograms(
            "payment_seconds", "From request to outcome.", ("scheme", "outcome")
        )
        self._lease = lease
        self._kept = kept
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
                    return await self._carry(payment, [opened], scope, mark)
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
                response = await self._carry(payment, [opened], key[0], mark)
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
        task = asyncio.create_task(self._carry(payment, [attempt], scope, mark))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        spent_ms = self._clock() - request.received_at_ms
        patience_s = max(0, request.deadline_ms - spent_ms) / 1000
        done, _ = await asyncio.wait({task}, timeout=patience_s)
        return task.result() if done else _accepted(payment, [attempt])

    async def _carry(
        self, payment: Payment, attempts: list[Attempt], scope: bytes, mark: int
    ) -> Response:
        """Carry a payment as far as it goes now; what cannot be written yet is in doubt.

        Args:
            mark: of the lease, from before the attempt was made durable.
        """
        try:
            return await self._send_legs(payment, attempts, scope, mark)
        except Unavailable as error:
            log.warning("an outcome waits for recovery", payment=payment.id, reason=str(error))
            return _accepted(payment, attempts)

    async def _send_legs(
        self, payment: Payment, attempts: list[Attempt], scope: bytes, mark: int
    ) -> Response:
        """Send leg after leg until the payment has ended or nobody can say."""
        while True:
            attempt = attempts[-1]
            connector = self._connectors[attempt.connector]
            instruction = await self._instructions.of(payment, attempt)
            await failpoints.hit("before_send")
            # Held up for so long that others may have settled it: it must not be sent any more,
            # also when the lease was renewed since.
            self._lease.check(mark)
            result = await connector.authorize(instruction)
            await failpoints.hit("after_reply")
            self._metrics.count("attempts", f"{attempt.connector}_{result.outcome.code}")
            if not result.sent and len(attempts) == 1:
                return await self._not_sent(payment, attempt, scope)
            settled = await self._settle_reply(payment, attempts, attempt, result)
            payment, attempts = settled.payment, settled.attempts
            if settled.following is Next.REVERSE:
                payment, attempts = await self.reverse_open(payment, attempts)
                return _response(payment, payment_json(payment, attempts))
            if settled.following is Next.NOTHING:
                return await self._told(payment, attempts, settled.body, scope)

    async def _told(
        self, payment: Payment, attempts: list[Attempt], body: bytes | None, scope: bytes
    ) -> Response:
        """Answer what was stored: by this worker, or by whoever was first to know."""
        await failpoints.hit("before_answer")
        if body is None and scope:
            stored = await self._journal.find_answer(scope)
            body = stored.body if stored is not None else None
        return _response(payment, body or payment_json(payment, attempts))

    async def _not_sent(self, payment: Payment, attempt: Attempt, scope: bytes) -> Response:
        """Fail a payment of which provably no byte left; its key may be used again."""
        attempt.state = "declined"
        attempt.outcome_source = "not_sent"
        payment.decline_code = Outcome.SWITCH_UNAVAILABLE.code
        payment.become(FAILED)
        fact = Fact(
            payment,
            attempts=[(attempt, 0.0)],
            event="payment.failed",
            give_back=ALL,
            frees=scope,
        )
        await self._journal.record(fact)
        detail = "The processor cannot be reached. Nothing was sent; try again with the same key."
        raise Problem("processor-unavailable", detail)

    # Settling -------------------------------------------------------------------------------

    async def _settle_reply(
        self, payment: Payment, attempts: list[Attempt], attempt: Attempt, result: Result
    ) -> Settled:
        """Record a processor's reply; one that cannot be written now is kept until it can be."""
        try:
            return await self._settle(payment, attempts, attempt, result, source="reply")
        except Unavailable:
            self._kept.keep(attempt.id, partial(self._settle_kept, attempt, result))
            raise

    async def _settle_kept(self, attempt: Attempt, result: Result) -> None:
        """Record a reply that was kept, unless somebody has taken the attempt up meanwhile."""
        mark = self._lease.mark()
        payment, attempts = await self._reads.whole(attempt.payment_id)
        current = next(one for one in attempts if one.id == attempt.id)
        if current.is_open and current.tries == attempt.tries:
            settled = await self._settle(payment, attempts, current, result, source="reply")
            await self._follow(settled, mark)

    async def _settle(
        self,
        payment: Payment,
        attempts: list[Attempt],
        attempt: Attempt,
        result: Result,
        *,
        source: str,
        wait_s: float = outcomes.UNKNOWN_WAIT_S,
    ) -> Settled:
        """Record what a result makes of a payment, whatever else is becoming known of it."""
        for _ in range(_SETTLE_TRIES_MAX):
            following = None
            if result.outcome.is_approved and attempt.leg < len(payment.legs):
                sequence = await self._sequences.next()
                following = outcomes.new_attempt(payment, attempt.leg + 1, sequence, self._clock())
            try:
                concluded = outcomes.conclude(
                    payment,
                    attempts,
                    attempt,
                    result,
                    source=source,
                    following=following,
                    wait_s=wait_s,
                )
            except Contradiction as contradiction:
                log.error("two facts contradict", payment=payment.id, detail=str(contradiction))
                await self._reads.open_conflict(
                    payment.id, attempt.id, str(contradiction), at_ms=self._clock()
                )
                return Settled(payment, attempts, Next.NOTHING)
            if concluded is None:
                return Settled(payment, attempts, Next.NOTHING)
            fact, after, step = concluded
            try:
                await self._journal.record(fact)
            except VersionMoved:
                payment, attempts = await self._reads.whole(payment.id)
                continue
            fact.payment.version += 1
            self._metrics.count("payments", fact.payment.status)
            took_s = (self._clock() - fact.payment.created_at_ms) / 1_000
            self._settled_s.of(fact.payment.scheme, fact.payment.status).observe(took_s)
            body = fact.response[1] if fact.response else None
            return Settled(fact.payment, after, step, body)
        raise Unavailable("the payment is being settled elsewhere")

    async def settle(self, attempt: Attempt, result: Result, *, source: str, wait_s: float) -> None:
        """Apply what became known of an attempt, and do what follows from it."""
        mark = self._lease.mark()
        payment, attempts = await self._reads.whole(attempt.payment_id)
        settled = await self._settle(
            payment, attempts, attempt, result, source=source, wait_s=wait_s
        )
        await self._follow(settled, mark)

    async def _follow(self, settled: Settled, mark: int) -> None:
        """Do what follows from a fact that nobody waits for, recorded since the lease's `mark`."""
        if settled.following is Next.SEND:
            await self._carry(settled.payment, settled.attempts, b"", mark)
        elif settled.following is Next.REVERSE:
            await self.reverse_open(settled.payment, settled.attempts)

    async def reverse_open(
        self, payment: Payment, attempts: list[Attempt]
    ) -> tuple[Payment, list[Attempt]]:
        """Ask for the reversal of every attempt that awaits one; what is not acknowledged waits."""
        for attempt in attempts:
            if attempt.state == "reversing":
                payment, attempts = await self.reverse(payment, attempts, attempt)
        return payment, attempts

    async def _to_reverse(
        self, payment: Payment, attempts: list[Attempt], attempt: Attempt
    ) -> tuple[Payment, list[Attempt], Attempt]:
        """Record that an attempt is about to be reversed, unless it has ended already."""
        for _ in range(_SETTLE_TRIES_MAX):
            attempt = next(one for one in attempts if one.id == attempt.id)
            if attempt.state != "unknown":
                return payment, attempts, attempt
            fact, after = outcomes.reversing(payment, attempts, attempt)
            try:
                await self._journal.record(fact)
            except VersionMoved:
                payment, attempts = await self._reads.whole(payment.id)
                continue
            fact.payment.version += 1
            payment, attempts = fact.payment, after
        raise Unavailable("the payment is being settled elsewhere")

    async def reverse(
        self, payment: Payment, attempts: list[Attempt], attempt: Attempt
    ) -> tuple[Payment, list[Attempt]]:
        """Ask once for a reversal, and record it when it is acknowledged."""
        connector = self._connectors[attempt.connector]
        instruction = await self._instructions.of(payment, attempt)
        await failpoints.hit("before_reversal")
        result = await connector.reverse(instruction)
        await failpoints.hit("after_reversal")
        if result.outcome not in _FINAL_REVERSALS:
            return payment, attempts
        return await self.reversed(payment, attempts, attempt)

    async def reversed(
        self, payment: Payment, attempts: list[Attempt], attempt: Attempt
    ) -> tuple[Payment, list[Attempt]]:
        """Record that a reversal is done, unless the attempt has ended already."""
        for _ in range(_SETTLE_TRIES_MAX):
            current = next(one for one in attempts if one.id == attempt.id)
            if not current.is_open:
                return payment, attempts
            fact, after, following = outcomes.reversed_(payment, attempts, current)
            try:
                await self._journal.record(fact)
            except VersionMoved:
                payment, attempts = await self._reads.whole(payment.id)
                continue
            fact.payment.version += 1
            payment, attempts = fact.payment, after
            if following is Next.REVERSE:
                return await self.reverse_open(payment, attempts)
            return payment, attempts
        raise Unavailable("the payment is being settled elsewhere")

    async def resolve(self, attempt: Attempt, *, wait_s: float, not_found_final_s: float) -> None:
        """Take up an attempt in doubt: inquire or reverse, as its processor is settled."""
        payment, attempts = await self._reads.whole(attempt.payment_id)
        connector = self._connectors[attempt.connector]
        if attempt.state == "reversing" or connector.settle_by is SettleBy.REVERSAL:
            payment, attempts, attempt = await self._to_reverse(payment, attempts, attempt)
            if attempt.state == "reversing":
                await self.reverse(payment, attempts, attempt)
                await self._reads.postpone(attempt.id, wait_s)
            return
        instruction = await self._instructions.of(payment, attempt)
        result = await connector.inquire(instruction)
        if result.outcome is Outcome.ORIGINAL_NOT_FOUND and attempt.age_s < not_found_final_s:
            # It may still be on its way.
            result = Result(outcome=Outcome.PENDING)
        await self.settle(attempt, result, source="inquiry", wait_s=wait_s)

    async def drain(self) -> None:
        """Wait for what is being carried without its caller."""
        while self._carrying:
            await asyncio.wait(self._carrying)


def _accepted(payment: Payment, attempts: list[Attempt]) -> Response:
    body = payment_json(payment, attempts)
    return Response(202, body, (("Location", f"/v1/payments/{payment.id}"),))


def _response(payment: Payment, body: bytes) -> Response:
    """Answer 201 with a final status, 202 while nobody can say."""
    status = 202 if outcomes.is_in_doubt(payment) else 201
    return Response(status, body, (("Location", f"/v1/payments/{payment.id}"),))
