"""Callbacks and advices: believed on their raw bytes, stored before they are acknowledged, applied.

Unique by (connector, event id). Applied in any order with the same end: a fact about an attempt
that has ended already is ignored when it agrees, and kept as a conflict when it does not.
"""

import hashlib
from collections.abc import Mapping

import asyncpg
import msgspec
import structlog

from connectors.spi import CallbackEvent, CallbackRefused, Connector, Outcome, Result
from gateway.kernel import failpoints
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import payment_of_attempt
from gateway.kernel.metrics import Metrics
from gateway.payments.carrying import Carrier
from gateway.payments.outcomes import UNKNOWN_WAIT_S
from gateway.payments.reads import Reads

log = structlog.get_logger("callbacks")

STORE = """
INSERT INTO callbacks (connector, event_id, body_hash, body, state, attempt_id, event)
VALUES ($1, $2, $3, $4, 'received', $5, $6)
ON CONFLICT (connector, event_id) DO NOTHING RETURNING event_id
"""
# One stored a while ago and never concluded was left by a worker that failed at applying it. What
# was parked may be about something by now.
STORED = """
SELECT body_hash, state = 'parked' OR state = 'received'
    AND received_at < now() - make_interval(secs => $3) AS is_left
FROM callbacks WHERE connector = $1 AND event_id = $2
"""
# Longer than applying takes, so that copies that come together are not applied together.
LEFT_AFTER_S = 5.0
CONCLUDE = """
UPDATE callbacks SET state = $3
WHERE connector = $1 AND event_id = $2 AND state IN ('received', 'parked')
"""
# Left by a worker that died at it, or parked and now about something we know.
LEFT = """
SELECT c.connector, c.event FROM callbacks c
WHERE c.state IN ('received', 'parked') AND c.event IS NOT NULL
  AND c.received_at > now() - interval '24 hours'
  AND (c.state = 'received' AND c.received_at < now() - make_interval(secs => $1)
    OR c.state = 'parked' AND EXISTS (
        SELECT FROM attempts a WHERE a.id = c.attempt_id AND a.connector = c.connector))
ORDER BY c.received_at LIMIT 100
"""


class Callbacks:
    """Takes what processors tell unasked."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        carrier: Carrier,
        reads: Reads,
        connectors: Mapping[str, Connector],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._carrier = carrier
        self._reads = reads
        self._connectors = connectors
        self._clock = clock
        self._metrics = metrics

    async def receive(self, name: str, headers: Mapping[str, str], body: bytes) -> None:
        """Verify, store and apply one callback.

        Args:
            name: the connector's.
            headers: names in lower case.
            body: as received.

        Raises:
            Problem: not-found (no such connector), callback-*; nothing was stored.
        """
        connector = self._connectors.get(name)
        if connector is None:
            raise Problem("not-found", "There is no such connector.")
        try:
            event = connector.verify_callback(headers, body, now_ms=self._clock())
        except CallbackRefused as refused:
            self._metrics.count("callbacks_refused", name)
            raise Problem(refused.code, refused.detail) from None
        if await self._store(name, event, body):
            await self._apply(name, event)

    async def advise(self, name: str, event: CallbackEvent) -> None:
        """Store and apply an advice that came on a connector's own socket."""
        if await self._store(name, event, event.event_id.encode()):
            await self._apply(name, event)

    async def _store(self, name: str, event: CallbackEvent, body: bytes) -> bool:
        """Return whether the event is to be applied: it is new, or was left unapplied."""
        digest = hashlib.sha256(body).digest()
        stored = await self._pool.fetchval(
            STORE, name, event.event_id, digest, body, event.reference, _written(event)
        )
        if stored is not None:
            return True
        earlier = await self._pool.fetchrow(STORED, name, event.event_id, LEFT_AFTER_S)
        assert earlier is not None, "it was in the way, and is never deleted"
        if earlier["body_hash"] != digest:
            log.error("another callback came with the same id", connector=name)
            raise Problem("callback-conflict", "Another callback came with this id.")
        return bool(earlier["is_left"])

    async def sweep(self) -> None:
        """Apply what was left unapplied; the same event applied twice has the same end."""
        for row in await self._pool.fetch(LEFT, LEFT_AFTER_S):
            await self._apply(row["connector"], _read(row["event"]))

    async def _apply(self, name: str, event: CallbackEvent) -> None:
        await failpoints.hit("after_callback_stored")
        state = await self._applied(name, event)
        self._metrics.count("callbacks", state)
        await self._pool.execute(CONCLUDE, name, event.event_id, state)

    async def _applied(self, name: str, event: CallbackEvent) -> str:
        attempt = await self._reads.attempt(event.reference) if event.reference else None
        if attempt is None or attempt.connector != name:
            return "parked"
        payment, _ = await self._reads.whole(payment_of_attempt(attempt.id))
        told = event.amount_minor
        expected = payment.total_credit if attempt.kind == "credit" else payment.total_debit
        if (told is not None and told not in (expected, payment.total_credit)) or (
            event.currency is not None and event.currency != payment.currency
        ):
            detail = f"{attempt.id}: a callback tells another amount or currency"
            await self._reads.open_conflict(payment.id, attempt.id, detail, at_ms=self._clock())
            return "conflict"
        if event.reversed and not attempt.is_open:
            detail = f"{attempt.id} is {attempt.state} and is now told to be reversed"
            if attempt.state not in ("reversed", "voided", "declined"):
                await self._reads.open_conflict(payment.id, attempt.id, detail, at_ms=self._clock())
                return "conflict"
            return "ignored"
        was_open = attempt.is_open
        await self._carrier.settle(attempt, event.result, source="callback", wait_s=UNKNOWN_WAIT_S)
        return "applied" if was_open else "ignored"


class _Event(msgspec.Struct):
    """A verified event, as it is kept. `outcome` is the name in the common taxonomy."""

    event_id: str
    outcome: str
    processor_code: str | None
    rrn: str | None
    approval_code: str | None
    references: dict[str, str]
    reference: str | None
    lookup: dict[str, str]
    amount_minor: int | None
    currency: str | None
    reversed: bool


def _written(event: CallbackEvent) -> str:
    result = event.result
    kept = _Event(
        event_id=event.event_id,
        outcome=result.outcome.name,
        processor_code=result.processor_code,
        rrn=result.rrn,
        approval_code=result.approval_code,
        references=dict(result.references),
        reference=event.reference,
        lookup=dict(event.lookup),
        amount_minor=event.amount_minor,
        currency=event.currency,
        reversed=event.reversed,
    )
    return msgspec.json.encode(kept).decode()


def _read(text: str) -> CallbackEvent:
    kept = msgspec.json.decode(text, type=_Event)
    return CallbackEvent(
        event_id=kept.event_id,
        result=Result(
            outcome=Outcome[kept.outcome],
            processor_code=kept.processor_code,
            rrn=kept.rrn,
            approval_code=kept.approval_code,
            references=kept.references,
        ),
        reference=kept.reference,
        lookup=kept.lookup,
        amount_minor=kept.amount_minor,
        currency=kept.currency,
        reversed=kept.reversed,
    )
