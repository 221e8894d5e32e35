"""The journal: what makes payments durable, many at a time.

Two lanes, each a group commit over a connection of its own. Intents: payments with their first
attempt, their idempotency key and what they take from limits, in one commit. Facts: outcomes with
postings, events and headroom given back, in one commit. A batch is written by the versions the
core believes in; when another worker moved them, it is read again under locks taken in key order,
evaluated again, and written. A batch that fails is bisected, so that one bad row cannot fail its
neighbours. A commit whose outcome is not known is looked up before anybody is told.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec
import structlog

from gateway.core import Admission, Core, Refusal, Staged
from gateway.kernel.db.batch import Entry, GroupCommit
from gateway.kernel.db.pool import Lane
from gateway.kernel.errors import Unavailable
from gateway.limits.store import lock_states, read_states
from gateway.payments.ledger import Posting
from gateway.payments.model import Action, Attempt, Payment
from gateway.payments.statements import (
    FIND_ANSWERS,
    FIND_OPENED,
    FIND_VERSIONS,
    OPEN_PAYMENTS,
    RECORD_FACTS,
)

log = structlog.get_logger("journal")

_ABORTED = "OQ001"
_CONNECTION_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Opened:
    """The intent is durable: bytes may leave."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The key was used before: the stored answer, or a refusal, is the answer."""


@dataclass(frozen=True, slots=True)
class CardChanged:
    """The source card is not what the core believed: decide again."""


OPENED, REPLAYED, CARD_CHANGED = Opened(), Replayed(), CardChanged()
OpenAnswer = Opened | Replayed | CardChanged | Refusal


class VersionMoved(Exception):
    """Another fact about the payment was recorded first: read it and decide again."""


@dataclass(slots=True)
class Intent:
    """A payment about to be opened. `scope` and `fingerprint` are its idempotency key's."""

    payment: Payment
    attempt: Attempt
    admission: Admission
    scope: bytes
    fingerprint: bytes


@dataclass(slots=True)
class ActionFact:
    """What became of a capture, a cancel or a refund."""

    action: Action
    wait_s: float = 0.0
    response: tuple[int, bytes] | None = None


@dataclass(slots=True)
class Fact:
    """What became of a payment, all of which is recorded in one commit.

    Args:
        payment: as it is now; `version` is the one it was read at.
        response: the answer to keep under its key, unless one is kept already.
        attempts: those that changed, each with the seconds until recovery may look at it.
        sent: attempts about to be sent.
        postings: journal lines.
        event: the outbox event's type, if somebody should be told.
        give_back: headroom returned: None nothing, -1 all of it, else minor units.
        frees: the scope of a key to forget, because nothing was sent under it.
        action: what became of an action on it.
    """

    payment: Payment
    response: tuple[int, bytes] | None = None
    attempts: list[tuple[Attempt, float]] = field(default_factory=list)
    sent: list[Attempt] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)
    event: str | None = None
    give_back: int | None = None
    frees: bytes | None = None
    action: ActionFact | None = None
    with_commission_lines: bool = False


ALL = -1


@dataclass(frozen=True, slots=True)
class Answer:
    """What is stored under an idempotency key. No status: the first is still running."""

    fingerprint: bytes
    object_id: str
    status: int | None
    body: bytes | None


class Journal:
    """Makes intents and facts durable.

    Args:
        worker: this process's number in `workers`.
        hot_subject_s: how long a subject found stale is locked up front.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        core: Core,
        *,
        worker: int,
        batch_size_max: int,
        queue_size_max: int,
        hot_subject_s: float,
    ) -> None:
        self._pool = pool
        self._core = core
        self._worker = worker
        self._hot_subject_s = hot_subject_s
        self._hot: dict[str, float] = {}
        self._intents_lane = Lane(pool)
        self._facts_lane = Lane(pool)
        self.intents: GroupCommit[Intent, OpenAnswer] = GroupCommit(
            self._flush_intents, batch_size_max, queue_size_max
        )
        self.facts: GroupCommit[Fact, None] = GroupCommit(
            self._flush_facts, batch_size_max, queue_size_max
        )
        self._replays: GroupCommit[bytes, Answer | None] = GroupCommit(
            self._find_answers, batch_size_max, queue_size_max
        )

    async def open(self, intent: Intent) -> OpenAnswer:
        """Make an intent durable, or say why not; nothing may be sent before it answers Opened."""
        return await self.intents.submit(intent)

    async def record(self, fact: Fact) -> None:
        """Make a fact durable. Raises VersionMoved when the payment is not as it was read."""
        await self.facts.submit(fact)

    async def find_answer(self, scope: bytes) -> Answer | None:
        """Return what is stored under a key, or None when it was never used."""
        return await self._replays.submit(scope)

    async def close(self) -> None:
        """Wait until everything submitted is durable or refused, and give back the connections."""
        await self.intents.drain()
        await self.facts.drain()
        await self._intents_lane.close()
        await self._facts_lane.close()

    # Intents ----------------------------------------------------------------------------------

    async def _flush_intents(
        self, batch: list[Entry[Intent, OpenAnswer]]
    ) -> list[Entry[Intent, OpenAnswer]]:
        batch = self._without_twins(batch)
        staged = self._core.stage([entry.item.admission for entry in batch])
        for index, refusal in staged.refused:
            batch[index].resolve(refusal)
        deferred = [batch[index] for index in staged.deferred]
        admitted = [batch[index] for index in staged.admitted]
        if admitted:
            again = await self._write_intents(admitted, staged)
            if again:
                self.intents.notify_moved()
            deferred = again + deferred
        if staged.missing:
            async with self._pool.acquire() as connection:
                await read_states(connection, self._core, staged.missing)
            self.intents.notify_moved()
        self.facts.notify_moved()
        return deferred

    def _without_twins(
        self, batch: list[Entry[Intent, OpenAnswer]]
    ) -> list[Entry[Intent, OpenAnswer]]:
        """Keep the first of each key; the others are replays of one that is running."""
        seen: set[bytes] = set()
        kept = []
        for entry in batch:
            if entry.item.scope in seen:
                self._refuse(entry, REPLAYED)
            else:
                seen.add(entry.item.scope)
                kept.append(entry)
        return kept

    def _refuse(self, entry: Entry[Intent, OpenAnswer], answer: OpenAnswer) -> None:
        self._core.release(entry.item.admission)
        entry.resolve(answer)

    async def _write_intents(
        self, entries: list[Entry[Intent, OpenAnswer]], staged: Staged
    ) -> list[Entry[Intent, OpenAnswer]]:
        """Write a staged batch; returns what must be staged again."""
        if self._is_hot(staged.subjects):
            self._core.unstage(staged)
            return await self._write_intents_locked(entries, staged)
        try:
            async with self._intents_lane.connection() as connection:
                row = await connection.fetchrow(
                    OPEN_PAYMENTS, *_intent_rows(entries), *_states(staged), self._worker
                )
        except asyncpg.PostgresError as error:
            self._core.roll_back(staged)
            if error.sqlstate == _ABORTED and str(error) == "stale":
                return await self._write_intents_locked(entries, staged)
            if error.sqlstate == _ABORTED:
                return entries
            return await self._intents_failed(entries, error)
        except _CONNECTION_LOST as error:
            self._core.roll_back(staged)
            await self._look_up_intents(entries, error)
            return []
        except Exception as error:
            # A fault of ours must not leave its subjects in flight for ever.
            self._core.roll_back(staged)
            self._give_up(entries, error)
            return []
        return self._intents_written(entries, staged, row)

    def _intents_written(
        self, entries: list[Entry[Intent, OpenAnswer]], staged: Staged, row: asyncpg.Record | None
    ) -> list[Entry[Intent, OpenAnswer]]:
        assert row is not None, "the statement answers one row"
        if row["is_fit"]:
            self._core.commit(staged)
            for entry in entries:
                entry.resolve(OPENED)
            return []
        self._core.unstage(staged)
        replayed, gone = set(row["replayed"] or ()), set(row["gone"] or ())
        again = []
        for entry in entries:
            if entry.item.scope in replayed:
                self._refuse(entry, REPLAYED)
            elif entry.item.payment.id in gone:
                self._refuse(entry, CARD_CHANGED)
            else:
                again.append(entry)
        return again

    async def _write_intents_locked(
        self, entries: list[Entry[Intent, OpenAnswer]], before: Staged
    ) -> list[Entry[Intent, OpenAnswer]]:
        """Write a batch whose states are locked first, so that they cannot be stale."""
        staged: Staged | None = None
        deferred: list[Entry[Intent, OpenAnswer]] = []
        try:
            async with (
                self._intents_lane.connection() as connection,
                connection.transaction(),
            ):
                await self._lock(connection, before)
                staged = self._core.stage([entry.item.admission for entry in entries])
                for index, refusal in staged.refused:
                    entries[index].resolve(refusal)
                deferred = [entries[index] for index in staged.deferred]
                entries = [entries[index] for index in staged.admitted]
                row = await connection.fetchrow(
                    OPEN_PAYMENTS, *_intent_rows(entries), *_states(staged), self._worker
                )
        except asyncpg.PostgresError as error:
            if staged is not None:
                self._core.roll_back(staged)
            if error.sqlstate == _ABORTED:
                return entries + deferred
            return await self._intents_failed(entries, error) + deferred
        except _CONNECTION_LOST as error:
            if staged is not None:
                self._core.roll_back(staged)
            await self._look_up_intents(entries, error)
            return deferred
        except Exception as error:
            if staged is not None:
                self._core.roll_back(staged)
            self._give_up(entries, error)
            return deferred
        return self._intents_written(entries, staged, row) + deferred

    def _give_up(self, entries: list[Entry[Intent, OpenAnswer]], error: Exception) -> None:
        for entry in entries:
            self._core.release(entry.item.admission)
            entry.fail(error)

    async def _intents_failed(
        self, entries: list[Entry[Intent, OpenAnswer]], error: asyncpg.PostgresError
    ) -> list[Entry[Intent, OpenAnswer]]:
        """Bisect: whoever is alone with the error has caused it."""
        if isinstance(error, asyncpg.DeadlockDetectedError):
            return entries
        if len(entries) == 1:
            log.error("an intent was refused by the database", sqlstate=error.sqlstate)
            self._give_up(entries, error)
            return []
        for half in _halves(entries):
            pending = half
            while pending:
                pending = await self._flush_intents(pending)
                await asyncio.sleep(0)
        return []

    async def _look_up_intents(
        self, entries: list[Entry[Intent, OpenAnswer]], error: BaseException
    ) -> None:
        """The connection was lost in the commit: ask, on a new one, what became of it."""
        log.warning("a commit's outcome was looked up", intents=len(entries), error=str(error))
        ids = [entry.item.payment.id for entry in entries]
        try:
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(FIND_OPENED, ids)
        except (*_CONNECTION_LOST, asyncpg.PostgresError, TimeoutError) as again:
            for entry in entries:
                self._core.release(entry.item.admission)
                entry.fail(Unavailable("the database cannot be reached"))
            log.error("the database cannot be reached", error=str(again))
            return
        written = {row["id"] for row in rows}
        for entry in entries:
            self._core.release(entry.item.admission)
            if entry.item.payment.id in written:
                entry.resolve(OPENED)
            else:
                entry.fail(Unavailable("the payment could not be written; nothing was sent"))

    # Facts ------------------------------------------------------------------------------------

    async def _flush_facts(self, batch: list[Entry[Fact, None]]) -> list[Entry[Fact, None]]:
        """Facts about one payment go one after another: the second waits for the next batch."""
        first: list[Entry[Fact, None]] = []
        twins: list[Entry[Fact, None]] = []
        seen: set[str] = set()
        for entry in batch:
            payment_id = entry.item.payment.id
            (twins if payment_id in seen else first).append(entry)
            seen.add(payment_id)
        again = await self._write_facts(first, is_locked=False)
        self.intents.notify_moved()
        return again + twins

    async def _write_facts(
        self, entries: list[Entry[Fact, None]], *, is_locked: bool
    ) -> list[Entry[Fact, None]]:
        returning = [entry for entry in entries if entry.item.give_back is not None]
        staged: Staged | None = None
        ready: list[Entry[Fact, None]] = entries
        deferred: list[Entry[Fact, None]] = []
        try:
            async with (
                self._facts_lane.connection() as connection,
                _maybe(connection, is_locked),
            ):
                if returning:
                    staged, ready, deferred = await self._stage_returns(
                        connection, entries, returning, is_locked=is_locked
                    )
                if not ready:
                    return deferred
                row = await connection.fetchrow(RECORD_FACTS, *self._fact_rows(ready, staged))
        except asyncpg.PostgresError as error:
            if staged is not None:
                self._core.roll_back(staged)
            return await self._facts_failed(ready, error, is_locked=is_locked) + deferred
        except _CONNECTION_LOST as error:
            if staged is not None:
                self._core.roll_back(staged)
            await self._look_up_facts(ready, error)
            return deferred
        except Exception as error:
            # A fault of ours must not leave its subjects in flight for ever.
            if staged is not None:
                self._core.roll_back(staged)
            for entry in ready:
                entry.fail(error)
            return deferred
        assert row is not None, "the statement answers one row"
        if row["is_fit"]:
            if staged is not None:
                self._core.commit(staged)
            for entry in ready:
                entry.resolve(None)
            return deferred
        if staged is not None:
            self._core.unstage(staged)
        moved = set(row["moved"])
        again = []
        for entry in ready:
            if entry.item.payment.id in moved:
                entry.fail(VersionMoved(entry.item.payment.id))
            else:
                again.append(entry)
        if again:
            self.facts.notify_moved()
        return again + deferred

    async def _stage_returns(
        self,
        connection: Any,
        entries: list[Entry[Fact, None]],
        returning: list[Entry[Fact, None]],
        *,
        is_locked: bool,
    ) -> tuple[Staged, list[Entry[Fact, None]], list[Entry[Fact, None]]]:
        """Stage the headroom a batch gives back; what another lane holds waits."""
        parts = [
            (
                entry.item.payment.reservation,
                None if entry.item.give_back == ALL else entry.item.give_back,
            )
            for entry in returning
        ]
        staged = self._core.stage_give_back(parts)
        if staged.missing:
            self._core.unstage(staged)
            await read_states(connection, self._core, staged.missing)
            staged = self._core.stage_give_back(parts)
        if is_locked:
            self._core.unstage(staged)
            await self._lock(connection, staged)
            staged = self._core.stage_give_back(parts)
        waiting = {id(returning[index]) for index in staged.deferred}
        ready = [entry for entry in entries if id(entry) not in waiting]
        return staged, ready, [entry for entry in entries if id(entry) in waiting]

    async def _facts_failed(
        self, entries: list[Entry[Fact, None]], error: asyncpg.PostgresError, *, is_locked: bool
    ) -> list[Entry[Fact, None]]:
        if error.sqlstate == _ABORTED and str(error) == "stale":
            return await self._write_facts(entries, is_locked=True)
        if error.sqlstate == _ABORTED or isinstance(error, asyncpg.DeadlockDetectedError):
            self.facts.notify_moved()
            return entries
        if len(entries) == 1:
            log.error("a fact was refused by the database", sqlstate=error.sqlstate)
            entries[0].fail(error)
            return []
        again = []
        for half in _halves(entries):
            again += await self._write_facts(half, is_locked=is_locked)
        return again

    async def _look_up_facts(self, entries: list[Entry[Fact, None]], error: BaseException) -> None:
        """A fact is written when its payment's version is the next one, or a later."""
        log.warning("a commit's outcome was looked up", facts=len(entries), error=str(error))
        ids = [entry.item.payment.id for entry in entries]
        try:
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(FIND_VERSIONS, ids)
        except (*_CONNECTION_LOST, asyncpg.PostgresError, TimeoutError):
            for entry in entries:
                entry.fail(Unavailable("the outcome could not be written yet"))
            return
        versions = {row["id"]: row["version"] for row in rows}
        for entry in entries:
            payment = entry.item.payment
            if versions.get(payment.id) == payment.version:
                entry.fail(Unavailable("the outcome could not be written yet"))
            else:
                entry.fail(VersionMoved(payment.id))

    def _fact_rows(self, entries: list[Entry[Fact, None]], staged: Staged | None) -> list[Any]:
        facts = [entry.item for entry in entries]
        return [
            _rows(_payment_row(fact) for fact in facts),
            _rows(_attempt_row(*pair) for fact in facts for pair in fact.attempts),
            _rows(attempt for fact in facts for attempt in fact.sent),
            _rows(posting for fact in facts for posting in fact.postings),
            _rows(_event_row(fact) for fact in facts if fact.event is not None),
            _rows(_action_row(fact.action) for fact in facts if fact.action is not None),
            [fact.frees for fact in facts if fact.frees is not None],
            *(_states(staged) if staged is not None else ([], [], [])),
            self._worker,
        ]

    # Both -------------------------------------------------------------------------------------

    async def _find_answers(
        self, batch: list[Entry[bytes, Answer | None]]
    ) -> list[Entry[bytes, Answer | None]]:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(FIND_ANSWERS, [entry.item for entry in batch])
        found = {
            row["scope"]: Answer(
                row["fingerprint"],
                row["object_id"],
                row["response_status"],
                _bytes(row["response_body"]),
            )
            for row in rows
        }
        for entry in batch:
            entry.resolve(found.get(entry.item))
        return []

    def _is_hot(self, subjects: Sequence[str]) -> bool:
        if not self._hot:
            return False
        now = time.monotonic()
        self._hot = {subject: until for subject, until in self._hot.items() if until > now}
        return any(subject in self._hot for subject in subjects)

    async def _lock(self, connection: Any, staged: Staged) -> None:
        """Lock a batch's subjects in key order; those that had moved are hot for a while."""
        versions = await lock_states(connection, self._core, staged.subjects)
        until = time.monotonic() + self._hot_subject_s
        for subject, expected in zip(staged.subjects, staged.versions, strict=True):
            if versions[subject] != expected:
                self._hot[subject] = until


def _maybe(connection: Any, is_locked: bool) -> Any:
    return connection.transaction() if is_locked else nullcontext()


def _halves(entries: list[Any]) -> tuple[list[Any], list[Any]]:
    middle = len(entries) // 2
    return entries[:middle], entries[middle:]


def _states(staged: Staged) -> tuple[list[str], list[int], list[bytes]]:
    return staged.subjects, staged.versions, staged.states


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _rows(rows: Iterable[object]) -> str:
    """Return rows as a JSON array; bytes in base64."""
    return _encode(list(rows)).decode()


def _intent_rows(entries: list[Entry[Intent, OpenAnswer]]) -> tuple[str, str, str]:
    intents = [entry.item for entry in entries]
    return (
        _rows(intent.payment for intent in intents),
        _rows(
            {
                "scope": intent.scope,
                "fingerprint": intent.fingerprint,
                "payment_id": intent.payment.id,
                "source_card_id": intent.payment.source_card_id,
                "source_version": intent.admission.source_version,
            }
            for intent in intents
        ),
        _rows(intent.attempt for intent in intents),
    )


def _payment_row(fact: Fact) -> dict[str, object]:
    payment = fact.payment
    status, body = fact.response or (None, None)
    return {
        "id": payment.id,
        "version": payment.version,
        "status": payment.status,
        "total_debit": payment.total_debit,
        "total_credit": payment.total_credit,
        "commission_total": payment.commission_total,
        "commission_vat": payment.commission_vat,
        "commission_lines": payment.commission_lines if fact.with_commission_lines else None,
        "amount_capturable": payment.amount_capturable,
        "amount_received": payment.amount_received,
        "amount_refunded": payment.amount_refunded,
        "amount_refunding": payment.amount_refunding,
        "decline_code": payment.decline_code,
        "response_status": status,
        "response_body": None if body is None else body.decode(),
    }


def _attempt_row(attempt: Attempt, wait_s: float) -> dict[str, object]:
    return {
        "id": attempt.id,
        "state": attempt.state,
        "rrn": attempt.rrn,
        "approval_code": attempt.approval_code,
        "processor_code": attempt.processor_code,
        "processor_references": attempt.references,
        "outcome_source": attempt.outcome_source,
        "tries": attempt.tries,
        "wait_s": wait_s,
    }


def _event_row(fact: Fact) -> dict[str, object]:
    payment = fact.payment
    data = {
        "id": payment.id,
        "status": payment.status,
        "amount": payment.amount_minor,
        "currency": payment.currency,
        "amount_received": payment.amount_received,
        "amount_refunded": payment.amount_refunded,
    }
    return {
        "payment_id": payment.id,
        "sequence": payment.version + 1,
        "type": fact.event,
        "data": data,
    }


def _action_row(fact: ActionFact) -> dict[str, object]:
    status, body = fact.response or (None, None)
    return {
        "id": fact.action.id,
        "state": fact.action.state,
        "decline_code": fact.action.decline_code,
        "tries": fact.action.tries,
        "wait_s": fact.wait_s,
        "response_status": status,
        "response_body": None if body is None else body.decode(),
    }
