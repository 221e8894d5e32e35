"""SQL of payments outside the journal: reads for screens and recovery, and claims."""

import asyncio
from typing import Any

import asyncpg
import msgspec

from gateway.kernel.audit.chain import LINK
from gateway.kernel.ids import attempt_id
from gateway.payments.model import Action, Attempt, Payment

_PAYMENT_COLUMNS = """
id, version, owner, client_id, operation, status, scheme, amount_minor, currency, total_debit,
total_credit, source_card_id, destination_card_id, destination_pan, merchant_id,
is_manual_capture, commission_total, commission_vat, commission_payer, commission_plan,
commission_version, commission_lines, legs, record, details, amount_capturable,
amount_received, amount_refunded, amount_refunding, decline_code, commission_split,
commission_returned, commission_returning,
(extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
"""
_ATTEMPT_COLUMNS = """
id, payment_id, leg, connector, kind, state, sequence, created_at_ms, rrn, approval_code,
processor_code, processor_references, outcome_source, tries,
extract(epoch FROM now() - sent_at)::float8 AS age_s
"""
_ACTION_COLUMNS = """
id, payment_id, kind, state, amount_minor, commission_returned, reason, decline_code, sequence,
tries,
(extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
"""

GET_PAYMENT = f"SELECT {_PAYMENT_COLUMNS} FROM payments WHERE id = $1"
GET_ANSWERED = f"SELECT {_PAYMENT_COLUMNS}, response_body FROM payments WHERE id = $1"
# The owner, or the merchant the payment is with; anybody else's is not found.
GET_VISIBLE = f"""
SELECT {_PAYMENT_COLUMNS} FROM payments WHERE id = $1 AND (owner = $2 OR merchant_id = $2)
"""
GET_ATTEMPTS = f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE id = ANY($1::text[]) ORDER BY id"
LIST_PAYMENTS = f"""
SELECT {_PAYMENT_COLUMNS} FROM payments
WHERE owner = $1 AND id < $2 AND ($3::text IS NULL OR status = $3)
ORDER BY id DESC LIMIT $4
"""
GET_ACTION = f"SELECT {_ACTION_COLUMNS} FROM actions WHERE id = $1"
GET_ACTIONS = f"SELECT {_ACTION_COLUMNS} FROM actions WHERE id = ANY($1::text[])"
LIST_REFUNDS = f"""
SELECT {_ACTION_COLUMNS} FROM actions WHERE payment_id = $1 AND kind = 'refund' ORDER BY id
"""

# Claims of an action: the payment moves a version on, so that no other fact slips between.
CLAIM_KEY = """
INSERT INTO idempotency_keys (scope, fingerprint, object_id) VALUES ($1, $2, $3)
ON CONFLICT (scope) DO NOTHING RETURNING scope
"""
CLAIM_END = """
UPDATE payments SET version = version + 1, updated_at = now()
WHERE id = $1 AND status = 'requires_capture' AND amount_capturable >= $2
  AND NOT EXISTS (
    SELECT FROM actions WHERE payment_id = $1 AND kind IN ('capture', 'cancel')
      AND state <> 'failed')
RETURNING version
"""
CLAIM_REFUND = """
UPDATE payments SET version = version + 1, updated_at = now(),
    amount_refunding = amount_refunding + $2, commission_returning = commission_returning + $3
WHERE id = $1 AND status = 'succeeded' AND operation = 'purchase'
  AND amount_received - amount_refunding >= $2
  AND amount_refunding = $4 AND commission_returning = $5
RETURNING version
"""
INSERT_ACTION = """
INSERT INTO actions (
    id, payment_id, kind, state, amount_minor, commission_returned, reason, sequence, worker)
VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8)
"""

# Recovery: what is open, and whose worker is dead or whose time has come. The claimer becomes the
# worker, and nobody else looks again until its own time.
_CLAIMABLE = """
SELECT id FROM {table}
WHERE state IN ({states}) AND (
    next_try_at <= now()
    OR (worker <> $1 AND worker NOT IN (
        SELECT id FROM workers WHERE seen_at > now() - $3 * interval '1 second')))
ORDER BY next_try_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
CLAIM_ATTEMPTS = (
    "UPDATE attempts SET worker = $1, next_try_at = now() + interval '30 seconds',"
    " state = CASE state WHEN 'sent' THEN 'unknown' ELSE state END, tries = tries + 1"
    " WHERE id IN ("
    + _CLAIMABLE.format(table="attempts", states="'sent', 'unknown', 'reversing'")
    + f") RETURNING {_ATTEMPT_COLUMNS}"
)
CLAIM_ACTIONS = (
    "UPDATE actions SET worker = $1, next_try_at = now() + interval '30 seconds',"
    " state = 'unknown', tries = tries + 1 WHERE id IN ("
    + _CLAIMABLE.format(table="actions", states="'pending', 'unknown'")
    + f") RETURNING {_ACTION_COLUMNS}"
)
POSTPONE_ATTEMPT = """
UPDATE attempts SET next_try_at = now() + $2 * interval '1 second'
WHERE id = $1 AND state IN ('sent', 'unknown', 'reversing')
"""
POSTPONE_ACTION = """
UPDATE actions SET next_try_at = now() + $2 * interval '1 second'
WHERE id = $1 AND state IN ('pending', 'unknown')
"""
INSERT_STEP_UP = """
INSERT INTO step_ups (payment_id, owner, request_sealed, code_hash, expires_at, session_id, nonce,
    binding_hash, decision_id, record)
VALUES ($1, $2, $3, $4, to_timestamp($5::bigint / 1000.0), $6, $7, $8, $9, $10)
"""
INSERT_DECISION = LINK.format(shard="$1", seq="$2", record="$3", hash="$4")
# A customer's tries are counted one after another.
LOCK_CODES = "SELECT pg_advisory_xact_lock(hashtextextended($1, 7276545815))"
# Wrong codes of a customer's count together, so that another payment gives no more guesses; after
# the lock ($2, its beginning) they are forgotten, and those of a payment once it is confirmed.
WRONG_CODES = """
SELECT coalesce(sum(code_tries), 0) AS tries,
    (extract(epoch FROM max(expires_at) FILTER (WHERE code_tries > 0)) * 1000)::bigint
        AS expires_at_ms
FROM step_ups WHERE owner = $1 AND confirmation_id IS NULL AND expires_at > $2
"""
# One try of a code, counted before it is looked at.
TRY_CODE = """
UPDATE step_ups s SET code_tries = code_tries + 1
FROM payments p
WHERE s.payment_id = $1 AND s.owner = $2 AND s.confirmation_id IS NULL AND s.burnt_at IS NULL
  AND p.id = s.payment_id AND p.status = 'requires_action'
  AND s.code_tries + (
    SELECT coalesce(sum(o.code_tries), 0) FROM step_ups o
    WHERE o.owner = $2 AND o.payment_id <> $1 AND o.confirmation_id IS NULL
      AND o.expires_at > $4) < $3
RETURNING s.code_hash, s.binding_hash, s.nonce, s.session_id, s.request_sealed, p.version,
    p.total_debit, p.total_credit,
    (extract(epoch FROM s.expires_at) * 1000)::bigint AS expires_at_ms
"""
GIVE_TRY_BACK = """
UPDATE step_ups SET code_tries = code_tries - 1 WHERE payment_id = $1 AND code_tries > 0
"""
BURN_CODE = "UPDATE step_ups SET burnt_at = coalesce(burnt_at, now()) WHERE payment_id = $1"
GET_STEP_UP = """
SELECT p.status, s.code_hash, s.confirmation_id, s.burnt_at,
    (extract(epoch FROM s.expires_at) * 1000)::bigint AS expires_at_ms
FROM payments p LEFT JOIN step_ups s ON s.payment_id = p.id
WHERE p.id = $1 AND p.owner = $2
"""
# What of the same customer's waits as well: a code of one may be given for another.
OTHER_CODES = """
SELECT s.payment_id, s.code_hash FROM step_ups s JOIN payments p ON p.id = s.payment_id
WHERE s.owner = $1 AND s.payment_id <> $2 AND s.confirmation_id IS NULL
  AND p.status = 'requires_action'
ORDER BY s.expires_at DESC LIMIT 20
"""
STORE_CONFIRMATION = """
UPDATE step_ups SET response_status = $2, response_body = $3 WHERE confirmation_id = $1
"""
# What waits has taken nothing and is canceled; `{which}` says what of it. Locked in order of ids,
# so that two who cancel never wait for one another.
_CANCEL_WAITING = """
WITH waiting AS (
    SELECT p.id, s.session_id FROM step_ups s JOIN payments p ON p.id = s.payment_id
    WHERE {which} AND s.confirmation_id IS NULL AND s.ended_at IS NULL
      AND p.status = 'requires_action'
    ORDER BY p.id FOR UPDATE OF p
), over AS (
    UPDATE payments p SET status = 'canceled', version = p.version + 1, updated_at = now()
    FROM waiting w WHERE p.id = w.id AND p.status = 'requires_action'
    RETURNING p.id, w.session_id, p.version, p.amount_minor, p.currency
), ended AS (
    UPDATE step_ups s SET ended_at = now() FROM over o WHERE s.payment_id = o.id
), told AS (
    INSERT INTO outbox (payment_id, sequence, type, data)
    SELECT id, version, 'payment.canceled', json_build_object(
        'id', id, 'status', 'canceled', 'amount', amount_minor, 'currency', currency,
        'amount_received', 0, 'amount_refunded', 0)
    FROM over
)
SELECT id, session_id FROM over ORDER BY id
"""
EXPIRE_STEP_UPS = _CANCEL_WAITING.format(which="s.expires_at <= now()")
CANCEL_OF_SESSIONS = _CANCEL_WAITING.format(which="s.session_id = ANY($1::text[])")
NEXT_BLOCK = "SELECT nextval('attempt_blocks')"
OPEN_CONFLICT = """
WITH conflict AS (
    INSERT INTO conflicts (payment_id, attempt_id, detail) VALUES ($1, $2, $3)
    RETURNING id, payment_id, detail
)
INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status)
SELECT $4, payment_id, 'conflict', id::text, detail, 'open' FROM conflict
"""


def payment_of(row: asyncpg.Record | dict[str, Any]) -> Payment:
    """Return a payment from a row of `_PAYMENT_COLUMNS`."""
    values = dict(row)
    values["legs"] = [(one[0], one[1]) for one in msgspec.json.decode(values["legs"])]
    split = msgspec.json.decode(values["commission_split"])
    values["commission_split"] = [(one[0], one[1]) for one in split]
    values["details"] = msgspec.json.decode(values["details"])
    return Payment(**values)


def attempt_of(row: asyncpg.Record) -> Attempt:
    """Return an attempt from a row of `_ATTEMPT_COLUMNS`."""
    values = dict(row)
    references = values.pop("processor_references")
    return Attempt(**values, references=msgspec.json.decode(references) if references else {})


def action_of(row: asyncpg.Record) -> Action:
    """Return an action from a row of `_ACTION_COLUMNS`."""
    return Action(**dict(row))


class Sequences:
    """Numbers attempts, a block of a thousand at a time, unique over all workers."""

    BLOCK = 1000

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._next = 0
        self._end = 0
        self._reading: asyncio.Task[None] | None = None

    async def next(self) -> int:
        """Return the next number; reads a new block when this one is used up.

        Raises whatever the database does, at once for all who wait for the same block.
        """
        while self._next >= self._end:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
                # Nobody may be left to hear of it.
                self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._reading)
        number = self._next
        self._next += 1
        return number

    async def _read(self) -> None:
        try:
            block: int = await self._pool.fetchval(NEXT_BLOCK)
            self._next, self._end = block * self.BLOCK, (block + 1) * self.BLOCK
        finally:
            self._reading = None


async def read_whole(connection: Any, payment: Payment) -> list[Attempt]:
    """Return a payment's attempts in order."""
    ids = [attempt_id(payment.id, leg) for leg in range(1, len(payment.legs) + 1)]
    return [attempt_of(row) for row in await connection.fetch(GET_ATTEMPTS, ids)]
