"""Customers, found by phone."""

from datetime import UTC, datetime

import asyncpg

from gateway.kernel.clock import Clock
from gateway.kernel.ids import new_id

ADD_USER = """
INSERT INTO users (id, phone, tier, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (phone) DO NOTHING
"""
FIND_USER = "SELECT id FROM users WHERE phone = $1"
GET_PHONE = "SELECT phone FROM users WHERE id = $1"


class Users:
    """Reads and makes customers.

    Args:
        new_user_tier: identification level of a phone seen for the first time.
    """

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock, new_user_tier: str) -> None:
        self._pool = pool
        self._clock = clock
        self._new_user_tier = new_user_tier

    async def of_phone(self, phone: str) -> str:
        """Return the id of the customer with a phone (E.164), made when it is new."""
        async with self._pool.acquire() as connection:
            found: str | None = await connection.fetchval(FIND_USER, phone)
            if found is not None:
                return found
            now_ms = self._clock()
            created_at = datetime.fromtimestamp(now_ms / 1_000, UTC)
            user_id = new_id("usr_", now_ms)
            await connection.execute(ADD_USER, user_id, phone, self._new_user_tier, created_at)
            # Another worker may have been first.
            made: str = await connection.fetchval(FIND_USER, phone)
            return made

    async def phone_of(self, user_id: str) -> str:
        """Return a customer's phone (E.164). Raises LookupError when there is no such customer."""
        phone: str | None = await self._pool.fetchval(GET_PHONE, user_id)
        if phone is None:
            raise LookupError(user_id)
        return phone
