"""Webhook endpoints: where a merchant wants to be told, and what became of what it was told.

A merchant sees its own alone. A secret is shown once and kept sealed; a new one signs beside the
old one until receivers have had time to learn it.
"""

from typing import Any

import asyncpg

from gateway.core import rfc3339
from gateway.identity.keys import Sealer
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.settings import Webhooks as WebhookSettings
from gateway.webhooks import store
from gateway.webhooks.addresses import Policy, why_not
from gateway.webhooks.delivery import SWITCHED_OFF, binding
from gateway.webhooks.model import (
    Status,
    WebhookDeliveryView,
    WebhookEndpointBody,
    WebhookEndpointChange,
    WebhookEndpointView,
    WebhookEndpointWithSecret,
)
from gateway.webhooks.signing import new_secret


class Endpoints:
    """The endpoints of every owner; each call names whose."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        vault: Sealer,
        clock: Clock,
        policy: Policy,
        settings: WebhookSettings,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._clock = clock
        self._policy = policy
        self._settings = settings

    async def add(self, owner: str, body: WebhookEndpointBody) -> WebhookEndpointWithSecret:
        """Add an endpoint; from now on it is told of what happens.

        Raises:
            Problem: `url-not-allowed`, `webhook-limit-reached`.
        """
        self._check_url(body.url)
        endpoint_id, secret = new_id("whk_", self._clock()), new_secret()
        sealed = self._vault.seal(secret, bound_to=binding(endpoint_id))
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.LOCK_OWNER, owner)
            if (
                await connection.fetchval(store.COUNT_ENDPOINTS, owner)
                >= self._settings.endpoints_per_owner_max
            ):
                detail = f"{self._settings.endpoints_per_owner_max} endpoints are the most."
                raise Problem("webhook-limit-reached", detail)
            row = await connection.fetchrow(
                store.ADD_ENDPOINT,
                endpoint_id,
                owner,
                body.url,
                sorted(set(body.events)),
                body.description,
                sealed,
            )
            await self._record(connection, owner, "added", endpoint_id)
        return _with_secret(_found(row), secret)

    async def get(self, owner: str, endpoint_id: str) -> WebhookEndpointView:
        """Return an endpoint. Raises Problem `not-found`."""
        return view_of(_found(await self._pool.fetchrow(store.GET_ENDPOINT, endpoint_id, owner)))

    async def page(self, owner: str, *, before: str, limit: int) -> list[WebhookEndpointView]:
        """Return up to `limit` endpoints, the newest first."""
        rows = await self._pool.fetch(store.LIST_ENDPOINTS, owner, before, limit)
        return [view_of(row) for row in rows]

    async def change(
        self, owner: str, endpoint_id: str, body: WebhookEndpointChange
    ) -> WebhookEndpointView:
        """Change what is given; what is pending when an endpoint is switched off has failed.

        Raises:
            Problem: `not-found`, `url-not-allowed`.
        """
        if body.url is not None:
            self._check_url(body.url)
        async with self._pool.acquire() as connection, connection.transaction():
            row = _found(
                await connection.fetchrow(
                    store.CHANGE_ENDPOINT,
                    endpoint_id,
                    owner,
                    body.url,
                    None if body.events is None else sorted(set(body.events)),
                    body.description,
                    body.is_enabled,
                )
            )
            if body.is_enabled is False:
                await connection.execute(store.FAIL_PENDING, endpoint_id, SWITCHED_OFF)
            await self._record(connection, owner, "changed", endpoint_id)
        return view_of(row)

    async def delete(self, owner: str, endpoint_id: str) -> None:
        """Remove an endpoint and its deliveries. Raises Problem `not-found`."""
        async with self._pool.acquire() as connection, connection.transaction():
            _found(await connection.fetchrow(store.DELETE_ENDPOINT, endpoint_id, owner))
            await self._record(connection, owner, "deleted", endpoint_id)

    async def rotate(self, owner: str, endpoint_id: str) -> WebhookEndpointWithSecret:
        """Make a new secret; the one before signs as well for a day, and any older no more.

        Raises:
            Problem: `not-found`.
        """
        secret = new_secret()
        sealed = self._vault.seal(secret, bound_to=binding(endpoint_id))
        async with self._pool.acquire() as connection, connection.transaction():
            row = _found(
                await connection.fetchrow(
                    store.ROTATE_SECRET,
                    endpoint_id,
                    owner,
                    sealed,
                    self._settings.old_secret_signs_s,
                )
            )
            await self._record(connection, owner, "secret_rotated", endpoint_id)
        return _with_secret(row, secret)

    async def deliveries(
        self, owner: str, endpoint_id: str, *, before: str, status: Status | None, limit: int
    ) -> list[WebhookDeliveryView]:
        """Return up to `limit` deliveries of an endpoint, the newest first.

        Raises:
            Problem: `not-found`.
        """
        await self.get(owner, endpoint_id)
        rows = await self._pool.fetch(store.LIST_DELIVERIES, endpoint_id, before, status, limit)
        return [delivery_view_of(row) for row in rows]

    async def redeliver(
        self, owner: str, endpoint_id: str, delivery_id: str
    ) -> WebhookDeliveryView:
        """Send a delivery again, at once and with the whole schedule before it; the same id.

        Raises:
            Problem: `not-found`, `webhook-disabled`.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            endpoint = _found(await connection.fetchrow(store.SHARE_ENDPOINT, endpoint_id, owner))
            row = _found(await connection.fetchrow(store.REDELIVER, endpoint_id, delivery_id))
            if not endpoint["is_enabled"]:
                raise Problem("webhook-disabled", "Switch the endpoint on first.")
        return delivery_view_of(row)

    def _check_url(self, url: str) -> None:
        detail = why_not(url, self._policy)
        if detail is not None:
            raise Problem("url-not-allowed", detail, errors=(("/url", detail),))

    async def _record(self, connection: Any, owner: str, done: str, endpoint_id: str) -> None:
        await audit.record(
            connection,
            at_ms=self._clock(),
            actor=owner,
            action=f"webhook_endpoint.{done}",
            object=endpoint_id,
            detail={},
        )


def _found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise Problem("not-found", "There is no such webhook endpoint or delivery.")
    return row


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "url": row["url"],
        "events": row["events"],
        "description": row["description"],
        "is_enabled": row["is_enabled"],
        "disabled_reason": row["disabled_reason"],
        "failing_since": _time(row["failing_since_ms"]),
        "created_at": rfc3339(row["created_at_ms"]),
    }


def view_of(row: asyncpg.Record) -> WebhookEndpointView:
    """Return an endpoint as it is shown."""
    return WebhookEndpointView(**_shown(row))


def _with_secret(row: asyncpg.Record, secret: str) -> WebhookEndpointWithSecret:
    return WebhookEndpointWithSecret(**_shown(row), secret=secret)


def delivery_view_of(row: asyncpg.Record) -> WebhookDeliveryView:
    """Return a delivery as it is shown."""
    return WebhookDeliveryView(
        id=row["id"],
        endpoint=row["endpoint_id"],
        event=row["event_id"],
        type=row["type"],
        payment=row["payment_id"],
        sequence=row["sequence"],
        status=row["status"],
        tries=row["tries"],
        next_try_at=_time(row["next_try_at_ms"]),
        tried_at=_time(row["tried_at_ms"]),
        http_status=row["http_status"],
        error=row["error"],
        created_at=rfc3339(row["created_at_ms"]),
    )
