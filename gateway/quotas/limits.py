"""Which limits a client has: its own, or its channel's. Read by every worker within a second."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.quotas import store
from gateway.quotas.gcra import Pace, pace_of
from gateway.quotas.model import (
    Limit,
    LimitsBody,
    LimitsView,
    Network,
    is_within,
    policy_of,
    read_networks,
)
from gateway.settings import ChannelQuota, Quotas

NETWORK = "client-network-not-allowed"


class Limits:
    """What every client is held to, as last read.

    Args:
        settings: what each channel may.
        are_defaults_on: whether a client without limits of its own has its channel's.
    """

    def __init__(self, settings: Quotas, *, are_defaults_on: bool) -> None:
        self._channels: dict[str, ChannelQuota] = {
            "mobile": settings.mobile,
            "api": settings.api,
            "console": settings.console,
        }
        self._are_defaults_on = are_defaults_on
        self._defaults = {
            name: _limit(one, pace_of(one.rate_per_s, one.burst), one.concurrency_max, ())
            for name, one in self._channels.items()
            if are_defaults_on
        }
        self._own: dict[str, Limit] = {}
        self._read_seq = 0

    @property
    def read_seq(self) -> int:
        """The last change that was read."""
        return self._read_seq

    @property
    def are_there_any(self) -> bool:
        """Whether anybody is limited."""
        return bool(self._own or self._defaults)

    def of(self, client_id: str, channel: str) -> Limit | None:
        """Return what a client is held to; None: nothing."""
        return self._own.get(client_id) or self._defaults.get(channel)

    def check_network(self, client_id: str, channel: str, address: str) -> None:
        """Refuse a client that asks from where it may not.

        Args:
            address: the peer's; "" when it is not known.

        Raises:
            Problem: `client-network-not-allowed`.
        """
        limit = self.of(client_id, channel)
        if limit is not None and limit.networks and not is_within(address, limit.networks):
            raise Problem(NETWORK, "This client may not ask from this address.")

    async def read(self, connection: Any) -> None:
        """Read what has changed, on whatever connection reads revocations."""
        for row in await connection.fetch(store.READ, self._read_seq):
            limits = (row["rate_per_s"], row["burst"], row["concurrency_max"])
            if limits == (None, None, None) and not row["networks"]:
                # As its channel again.
                self._own.pop(row["client_id"], None)
            else:
                self._own[row["client_id"]] = self._own_limit(row)
            self._read_seq = row["seq"]

    def _own_limit(self, row: Any) -> Limit:
        # A channel that settings do not name is a server's.
        channel = self._channels.get(row["channel"], self._channels["api"])
        rate, burst, concurrency_max = row["rate_per_s"], row["burst"], row["concurrency_max"]
        pace = None
        if self._are_defaults_on or rate is not None or burst is not None:
            pace = pace_of(rate or channel.rate_per_s, burst or channel.burst)
        if concurrency_max is None:
            concurrency_max = channel.concurrency_max if self._are_defaults_on else 0
        networks = read_networks(row["networks"])
        return _limit(channel, pace, concurrency_max, networks)


def _limit(
    channel: ChannelQuota, pace: Pace | None, concurrency_max: int, networks: tuple[Network, ...]
) -> Limit:
    is_per_customer = channel.counts == "customer"
    policy = "" if pace is None else policy_of(pace, is_per_customer=is_per_customer)
    return Limit(pace, concurrency_max, is_per_customer, networks, policy)


class ClientLimits:
    """Changes clients' limits, for operators and for the command line."""

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def get(self, client_id: str) -> LimitsView:
        """Return a client's limits. Raises Problem `not-found`."""
        async with self._pool.acquire() as connection:
            return await self._get(connection, client_id)

    async def put(
        self, client_id: str, body: LimitsBody, *, actor: str, revision: int | None
    ) -> LimitsView:
        """Change a client's limits, whole.

        Args:
            revision: what the change was made of; None: whatever is there.

        Raises:
            Problem: `not-found`, `precondition-failed`, `schema-violation`.
        """
        networks = _networks(body)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.LOCK)
            before = await self._get(connection, client_id)
            if revision is not None and revision != before.revision:
                raise Problem("precondition-failed", "The limits have been changed; read them.")
            at_ms = self._clock()
            await connection.execute(
                store.PUT,
                client_id,
                body.rate_per_s,
                body.burst,
                body.concurrency_max,
                networks,
                datetime.fromtimestamp(at_ms / 1_000, UTC),
                actor,
            )
            after = await self._get(connection, client_id)
            await audit.record(
                connection,
                at_ms=at_ms,
                actor=actor,
                action="client.limit",
                object=client_id,
                detail={"before": _detail(before), "after": _detail(after)},
            )
        return after

    async def _get(self, connection: Any, client_id: str) -> LimitsView:
        channel = await connection.fetchval(store.GET_CLIENT, client_id)
        if channel is None:
            raise Problem("not-found", "There is no such client.")
        row = await connection.fetchrow(store.GET, client_id)
        if row is None:
            return LimitsView(client_id, channel, None, None, None, [], 0)
        return LimitsView(
            client_id,
            channel,
            row["rate_per_s"],
            row["burst"],
            row["concurrency_max"],
            row["networks"],
            row["seq"],
        )


def _networks(body: LimitsBody) -> list[str]:
    try:
        return [str(one) for one in read_networks(body.networks)]
    except ValueError as error:
        detail = "Give a network as its first address and a prefix, 203.0.113.0/24, or an address."
        errors = ((f"/networks/{error}", detail),)
        raise Problem("schema-violation", detail, errors=errors) from None


def _detail(view: LimitsView) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(view)
    return {name: value for name, value in shown.items() if name not in ("client_id", "channel")}
