"""Stored payments: copies that a law pays among."""

from gateway.bench import stored_law
from gateway.measuring import books
from gateway.sandbox.progress import Step
from tests.measuring.helpers import one_payment
from tests.services import Services


async def test_stored_payments_are_whole_copies(services: Services) -> None:
    """As many as are asked for, owned by the users that there are, their entries balanced."""
    async with one_payment(services) as database:
        for number in (1, 2):
            await database.execute(
                "INSERT INTO users (id, phone, tier) VALUES ($1, $1, 'basic')", f"usr_{number}"
            )
        await database.execute(
            "INSERT INTO attempts (id, payment_id, leg, connector, kind, state, sequence,"
            " created_at_ms, worker)"
            " VALUES ('att_1', 'pay_1', 1, 'visa', 'purchase', 'sent', 1, 0, 1)"
        )
        await database.execute("INSERT INTO idempotency_keys VALUES ('x', 'y', 'pay_1')")
        step = Step("")
        await stored_law.fill(database, 5, step)
        await stored_law.fill(database, 12, step)
        counted = await database.fetchrow(
            "SELECT (SELECT count(*) FROM payments) AS payments,"
            " (SELECT count(*) FROM attempts) AS attempts,"
            " (SELECT count(*) FROM idempotency_keys) AS keys,"
            " (SELECT count(*) FROM postings) AS postings,"
            " (SELECT count(DISTINCT owner) FROM payments WHERE scheme = 'stored') AS owners"
        )
        assert tuple(counted) == (13, 13, 13, 26, 2)
        assert await database.fetchval(books.UNBALANCED) == 0
        assert await database.fetchval("SELECT max(id) FROM payments") == "pay_1", "the newest"
