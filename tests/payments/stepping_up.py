"""Payments that wait for a code, as the customers of a house meet them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import asyncpg

from tests.house import House, Reply, changed_config, new_key
from tests.identity.hammer import Login, log_in_again

# A transfer over it waits.
LIMITS = """
[[limit_policies]]
id = "careful"
priority = 40
subject = "user"
match = { operation = ["transfer"] }
window = { kind = "calendar", unit = "year" }
max_amount = 1000000
currency = "UZS"
on_breach = "step_up"
"""
AMOUNT = 1_500_000
# The sandbox's own device: whoever logs in on it keeps the cards.
DEVICE = "sandbox"


def careful_config(**settings: str) -> AbstractContextManager[dict[str, str]]:
    """Give the environment of a house where transfers wait for a code."""
    return changed_config(limits={"": LIMITS}, settings=settings)


async def log_in(house: House, user: int, *, device: str = DEVICE) -> Login:
    """Log a seeded user in once more."""
    return await log_in_again(house, house.user(user)["phone"], device=device)


async def change(house: House, statement: str, *arguments: Any) -> str:
    """Change the database behind the product's back, as time or an intruder does."""
    connection = await asyncpg.connect(house.description["database_url"])
    try:
        done: str = await connection.execute(statement, *arguments)
        return done
    finally:
        await connection.close()


async def code_of(house: House, user: int) -> str:
    """Return the code that was sent last."""
    phone = house.user(user)["phone"].replace("+", "%2B")
    reply = await house.call("GET", f"/sandbox/v1/messages?to={phone}")
    return str(reply.body["data"][0]["code"])


async def waiting(house: House, user: int, *, token: str | None = None) -> dict[str, Any]:
    """Have a seeded user's transfer wait for its code."""
    body = house.transfer(user, "uzcard", (user + 1) % 50, "uzcard", AMOUNT)
    token = token or house.user(user)["access_token"]
    reply = await house.call("POST", "/v1/payments", body, token=token, key=new_key())
    assert (reply.status, reply.body["status"]) == (201, "requires_action"), reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def confirm(
    house: House,
    user: int,
    payment_id: str,
    code: str,
    *,
    key: str | None = None,
    token: str | None = None,
    **said: Any,
) -> Reply:
    """Confirm a payment, with what the app says beside the code."""
    return await house.call(
        "POST",
        f"/v1/payments/{payment_id}/confirm",
        {"code": code} | said,
        token=token or house.user(user)["access_token"],
        key=key or new_key(),
    )


async def status_of(house: House, payment_id: str) -> str:
    """Return what became of a payment, as it is stored."""
    (row,) = await house.rows("SELECT status FROM payments WHERE id = $1", payment_id)
    return str(row["status"])
