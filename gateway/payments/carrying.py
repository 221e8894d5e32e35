"""What processors are asked for a payment, and what becomes of it: leg after leg, or back.

`carry` sends what was made durable. `settle` is how anything else that becomes known of an attempt
(an inquiry, a callback, an operator's word) joins it, and `resolve` takes up what is in doubt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from connectors.spi import Connector, Outcome, Result, SettleBy
from gateway.kernel import failpoints
from gateway.kernel.clock import Clock
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.messages import Response
from gateway.kernel.http.problems import Problem
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.payments import outcomes
from gateway.payments.entries import ALL, Fact, VersionMoved
from gateway.payments.instructions import Instructions
from gateway.payments.journal import Journal
from gateway.payments.kept import Kept
from gateway.payments.model import FAILED, Attempt, Payment
from gateway.payments.outcomes import Contradiction, Next
from gateway.payments.reads import Reads
from gateway.payments.store import Sequences
from gateway.payments.views import payment_json

log = structlog.get_logger("payments")

# Facts about one payment that meet: each read again and decided again.
_SETTLE_TRIES_MAX = 10
_FINAL_REVERSALS = (Outcome.APPROVED, Outcome.ALREADY_REVERSED, Outcome.ORIGINAL_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment after a fact about it was recorded, and what follows.

    Args:
        is_answer: whether the payment as it is now is the answer to whoever made it.
    """

    payment: Payment
    attempts: list[Attempt]
    following: Next
    is_answer: bool = False


class Carrier:
    """Sends payments, and settles what was in doubt."""

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        reads: Reads,
        instructions: Instructions,
        connectors: Mapping[str, Connector],
        sequences: Sequences,
        metrics: Metrics,
        lease: Lease,
        kept: Kept,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._reads = reads
        self._instructions = instructions
        self._connectors = connectors
        self._sequences = sequences
        self._metrics = metrics
        self._settled_s = metrics.histograms(
            "payment_seconds", "From request to outcome.", ("scheme", "outcome")
        )
        self._lease = lease
        self._kept = kept

    async def carry(
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
            return accepted(payment, attempts)

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
                return _told(payment, attempts)
            if settled.following is Next.NOTHING:
                await failpoints.hit("before_answer")
                return await self._answer(settled, scope)

    async def _answer(self, settled: Settled, scope: bytes) -> Response:
        """Answer what was stored: by this worker, or by whoever was first to know."""
        payment = settled.payment
        if scope and not settled.is_answer:
            stored = await self._journal.find_answer(scope)
            if stored is not None and stored.status is not None:
                body = stored.body or await self._reads.answered(payment.id)
                return _response(payment, stored.status, body)
        return _told(payment, settled.attempts)

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
            return Settled(fact.payment, after, step, is_answer=fact.response is not None)
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
            await self.carry(settled.payment, settled.attempts, b"", mark)
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


def accepted(payment: Payment, attempts: list[Attempt]) -> Response:
    """Answer 202: the payment goes on, and nobody can say yet how it ends."""
    return _response(payment, 202, payment_json(payment, attempts))


def _told(payment: Payment, attempts: list[Attempt]) -> Response:
    """Answer 201 with a final status, 202 while nobody can say."""
    status = 202 if outcomes.is_in_doubt(payment) else 201
    return _response(payment, status, payment_json(payment, attempts))


def _response(payment: Payment, status: int, body: bytes) -> Response:
    return Response(status, body, (("Location", f"/v1/payments/{payment.id}"),))
