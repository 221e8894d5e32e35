"""Reads of payments for screens, recovery and settling, and the small writes beside the journal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from gateway.kernel.ids import attempt_id, new_id
from gateway.payments import store
from gateway.payments.model import Action, Attempt, Payment
from gateway.payments.views import payment_json


class Reads:
    """Reads payments straight from SQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def whole(self, payment_id: str) -> tuple[Payment, list[Attempt]]:
        """Return a payment and its attempts as of one moment. Raises LookupError."""
        found = await self._whole(store.GET_PAYMENT, payment_id)
        if found is None:
            raise LookupError(payment_id)
        return found

    async def visible(
        self, payment_id: str, who: str | None
    ) -> tuple[Payment, list[Attempt]] | None:
        """Return a payment that `who` may see, or None; where `who` is None, any."""
        if who is None:
            return await self._whole(store.GET_PAYMENT, payment_id)
        return await self._whole(store.GET_VISIBLE, payment_id, who)

    async def answered(self, payment_id: str) -> bytes:
        """Return the body that a payment was answered with: as it is told, until that is kept.

        Raises LookupError.
        """
        async with self._moment() as connection:
            row = await connection.fetchrow(store.GET_ANSWERED, payment_id)
            if row is None:
                raise LookupError(payment_id)
            columns = dict(row)
            kept: str | None = columns.pop("response_body")
            if kept is not None:
                return kept.encode()
            payment = store.payment_of(columns)
            return payment_json(payment, await store.read_whole(connection, payment))

    async def _whole(self, statement: str, *arguments: str) -> tuple[Payment, list[Attempt]] | None:
        async with self._moment() as connection:
            row = await connection.fetchrow(statement, *arguments)
            if row is None:
                return None
            payment = store.payment_of(row)
            return payment, await store.read_whole(connection, payment)

    @asynccontextmanager
    async def _moment(self) -> AsyncIterator[Any]:
        """Read as of one moment."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def page(
        self, owner: str, *, before: str, status: str | None, limit: int
    ) -> list[tuple[Payment, list[Attempt]]]:
        """Return up to `limit` of an owner's payments older than `before`, newest first."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(store.LIST_PAYMENTS, owner, before, status, limit)
            payments = [store.payment_of(row) for row in rows]
            ids = [
                attempt_id(one.id, leg) for one in payments for leg in range(1, len(one.legs) + 1)
            ]
            attempts: dict[str, list[Attempt]] = {}
            for row in await connection.fetch(store.GET_ATTEMPTS, ids):
                attempt = store.attempt_of(row)
                attempts.setdefault(attempt.payment_id, []).append(attempt)
        return [(payment, attempts.get(payment.id, [])) for payment in payments]

    async def refunds(self, payment_id: str) -> list[Action]:
        """Return a payment's refunds, oldest first."""
        rows = await self._pool.fetch(store.LIST_REFUNDS, payment_id)
        return [store.action_of(row) for row in rows]

    async def attempt(self, attempt_id: str) -> Attempt | None:
        """Return one attempt, or None."""
        rows = await self._pool.fetch(store.GET_ATTEMPTS, [attempt_id])
        return store.attempt_of(rows[0]) if rows else None

    async def action(self, action_id: str) -> Action:
        """Return one action. Raises LookupError."""
        row = await self._pool.fetchrow(store.GET_ACTION, action_id)
        if row is None:
            raise LookupError(action_id)
        return store.action_of(row)

    async def actions(self, action_ids: list[str]) -> dict[str, Action]:
        """Return actions by id; those that are not there are left out."""
        rows = await self._pool.fetch(store.GET_ACTIONS, action_ids)
        return {row["id"]: store.action_of(row) for row in rows}

    async def postpone(self, attempt_id: str, wait_s: float) -> None:
        """Let recovery look at an open attempt again after `wait_s`."""
        await self._pool.execute(store.POSTPONE_ATTEMPT, attempt_id, wait_s)

    async def postpone_action(self, action_id: str, wait_s: float) -> None:
        """Let recovery look at an open action again after `wait_s`."""
        await self._pool.execute(store.POSTPONE_ACTION, action_id, wait_s)

    async def open_conflict(
        self, payment_id: str, attempt_id: str | None, detail: str, *, at_ms: int
    ) -> None:
        """Keep two facts that contradict, for an operator."""
        review_id = new_id("rev_", at_ms)
        await self._pool.execute(store.OPEN_CONFLICT, payment_id, attempt_id, detail, review_id)
