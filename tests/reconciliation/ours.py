"""Payments put into an empty database as the gateway would have left them, to be matched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import asyncpg

from gateway.kernel.ids import attempt_id, new_id

_PAYMENT = """
INSERT INTO payments (
    id, created_at, owner, client_id, operation, scheme, amount_minor, currency,
    is_manual_capture, commission_payer, commission_plan, commission_version, legs, record,
    details, commission_lines, version, status, total_debit, total_credit, commission_total,
    commission_vat, amount_received, updated_at)
SELECT t.id, $2, 'usr_1', 'mobile', $3, $4, $5, 'UZS', $6, 'sender', 'plan', 1,
    json_build_array(json_build_array($4::text, $7::text)), '', '{}', '[]', 1, 'succeeded', $8, $9,
    0, 0, $5, $2
FROM unnest($1::text[]) AS t (id)
"""
_ATTEMPT = """
INSERT INTO attempts (id, payment_id, leg, connector, kind, state, sequence, created_at_ms, rrn,
    worker, processor_references)
SELECT 'att_' || substr(t.id, 5) || '1', t.id, 1, $2, $3, $4, t.sequence, $5, t.rrn, 1, '{}'
FROM unnest($1::text[], $6::bigint[], $7::text[]) AS t (id, sequence, rrn)
"""
_ACTION = """
INSERT INTO actions (id, payment_id, kind, state, amount_minor, sequence, worker, created_at)
VALUES ($1, $2, $3, $4, $5, $6, 1, $7)
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A payment, its first attempt, and what VISA knows it by."""

    payment: str
    attempt: str
    rrn: str
    sequence: int
    at_ms: int


def noon_ms(day: date) -> int:
    """The middle of a business day in Tashkent, Unix milliseconds."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) - timedelta(hours=5)
    return round(noon.timestamp() * 1000)


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def rrn_of(at_ms: int, sequence: int) -> str:
    """F37 as the protocol makes it: YDDDHH in UTC, then F11."""
    at = moment(at_ms)
    day = at.timetuple().tm_yday
    return f"{at.year % 10}{day:03d}{at.hour:02d}{1 + sequence % 999_999:06d}"


async def make(
    pool: asyncpg.Pool,
    connector: str,
    at_ms: int,
    *,
    count: int = 1,
    amount: int = 1_000,
    credit: int | None = None,
    kind: str = "purchase",
    state: str = "captured",
    first: int = 0,
) -> list[Made]:
    """Make payments of one attempt each.

    Args:
        at_ms: when; several are a millisecond apart at most, in no order.
        amount: debited. credit: credited, where that is another.
        first: number of the first, so that numbers differ.
    """
    made = []
    for number in range(first, first + count):
        payment = new_id("pay_", at_ms)
        sequence = number + 1
        rrn = rrn_of(at_ms, sequence)
        made.append(Made(payment, attempt_id(payment, 1), rrn, sequence, at_ms))
    ids = [one.payment for one in made]
    operation = {"transfer": "transfer", "credit": "payout"}.get(kind, "purchase")
    await pool.execute(
        _PAYMENT,
        ids,
        moment(at_ms),
        operation,
        connector,
        amount,
        kind == "hold",
        kind,
        amount,
        amount if credit is None else credit,
        timeout=120,
    )
    is_known = state not in ("sent", "unknown")
    rrns = [one.rrn if is_known else None for one in made]
    await pool.execute(
        _ATTEMPT,
        ids,
        connector,
        kind,
        state,
        at_ms,
        [one.sequence for one in made],
        rrns,
        timeout=120,
    )
    return made


async def act(
    pool: asyncpg.Pool,
    one: Made,
    kind: str,
    amount: int,
    *,
    at_ms: int,
    state: str = "succeeded",
    sequence: int = 500_000,
) -> str:
    """Make a capture or a refund of a payment; returns its id."""
    action = new_id({"capture": "cap_", "refund": "rfd_"}[kind], at_ms)
    await pool.execute(_ACTION, action, one.payment, kind, state, amount, sequence, moment(at_ms))
    return action
