"""ANALYZE of the tables that every payment writes costs little: it reads what is searched by."""

from __future__ import annotations

import pytest

from tests.house import House
from tests.payments.books import fresh_amount, paid

# What the statements of payments, recovery, reconciliation and the ledger search by.
OUTBOX = {"id", "payment_id", "created_at", "xid"}
SEARCHED = {
    "payments": {"id", "created_at", "owner", "scheme", "status"},
    "attempts": {"id", "payment_id", "connector", "kind", "state", "worker", "next_try_at"},
    "idempotency_keys": {"scope", "object_id"},
    "limit_states": {"subject"},
    "entries": {"entry_id", "line", "currency", "posted_at"},
    "outbox": OUTBOX,
    "decision_log": {"shard", "seq", "at"},
}
ROWS_MAX = 3_000
ROWS_A_TARGET = 300  # that ANALYZE reads for each entry of the longest histogram it makes

TARGETS = """
SELECT max(coalesce(attstattarget, current_setting('default_statistics_target')::int))
FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""


@pytest.mark.parametrize("table", sorted(SEARCHED))
async def test_only_what_is_searched_by_is_sampled(house: House, table: str) -> None:
    await paid(house, 34, "visa", fresh_amount())
    await house.rows(f"ANALYZE {table}")
    sampled = await house.rows("SELECT attname FROM pg_stats WHERE tablename = $1", table)
    assert {row["attname"] for row in sampled} == SEARCHED[table]
    (target,) = await house.rows(TARGETS, table)
    assert target["max"] * ROWS_A_TARGET <= ROWS_MAX


async def test_a_day_of_events_is_sampled_alike(house: House) -> None:
    payment = await paid(house, 34, "visa", fresh_amount())
    (event,) = await house.rows(
        "SELECT tableoid::regclass::text AS day FROM outbox WHERE payment_id = $1", payment["id"]
    )
    assert event["day"] != "outbox_default"
    await house.rows(f"ANALYZE {event['day']}")
    sampled = await house.rows("SELECT attname FROM pg_stats WHERE tablename = $1", event["day"])
    assert {row["attname"] for row in sampled} == OUTBOX
    (target,) = await house.rows(TARGETS, event["day"])
    assert target["max"] * ROWS_A_TARGET <= ROWS_MAX
