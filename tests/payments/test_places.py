"""Everything that belongs to a payment lies where its customer does."""

from __future__ import annotations

from gateway.kernel.ids import place_of
from tests.house import House
from tests.payments.books import fresh_amount, paid, post

# Where the rows of one payment, and of what was done to it, say that they lie.
PLACES = """
WITH mine AS (
    SELECT $1::text AS id UNION SELECT id FROM actions WHERE payment_id = $1
)
SELECT 'payments' AS in_table, place FROM payments WHERE id = $1
UNION ALL SELECT 'attempts', place FROM attempts WHERE payment_id = $1
UNION ALL SELECT 'actions', place FROM actions WHERE payment_id = $1
UNION ALL SELECT 'entries', place FROM entries WHERE entry_id IN (SELECT id FROM mine)
UNION ALL SELECT 'outbox', place FROM outbox WHERE payment_id = $1
UNION ALL
SELECT 'idempotency_keys', place FROM idempotency_keys WHERE object_id IN (SELECT id FROM mine)
"""


async def test_a_payment_and_its_refund_lie_in_the_customers_place(house: House) -> None:
    payment = await paid(house, 33, "visa", fresh_amount())
    reply = await post(house, 33, f"/v1/payments/{payment['id']}/refunds", {"amount": 1_000})
    assert reply.status == 201, reply.raw
    rows = await house.rows(PLACES, payment["id"])
    (owner,) = await house.rows("SELECT owner FROM payments WHERE id = $1", payment["id"])
    assert {row["place"] for row in rows} == {place_of(owner["owner"])}
    counted = [row["in_table"] for row in rows]
    assert {name: counted.count(name) for name in counted} == {
        "payments": 1,
        "attempts": 1,
        "actions": 1,
        "entries": 2,
        "outbox": 2,
        "idempotency_keys": 2,
    }
