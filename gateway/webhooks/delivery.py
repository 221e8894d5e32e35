"""Delivery: sends what is due, tells what came of it, and tries again on schedule.

Promised: at least once. A delivery is claimed for a little longer than a try may take; a worker
that dies leaves it to the next. Every try has the same id, so that a receiver can tell a second
one. The events of a payment reach an endpoint in order as long as it answers 2xx; one that failed
can be overtaken by later ones, and `sequence` says which is the latest.

One endpoint cannot slow another: each has a few tries at once, and one alone while it fails.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import structlog
from cryptography.exceptions import InvalidTag

from gateway.identity.keys import Sealer
from gateway.kernel.clock import Clock
from gateway.kernel.db.batch import Entry, GroupCommit
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.metrics import Metrics
from gateway.settings import Webhooks as WebhookSettings
from gateway.webhooks import signing, store
from gateway.webhooks.client import Client
from gateway.webhooks.days import EventDays
from gateway.webhooks.fanout import FanOut
from gateway.webhooks.model import Delivery, Outcome, wait_s

log = structlog.get_logger("webhooks")

# Beyond a try's own time: for the claim to be told and the outcome to be written.
_LEASE_MARGIN_S = 5.0
# How long a worker that stops waits for tries that run.
_DRAIN_S = 5.0
_MEASURE_S = 5.0
_PRUNE_S = 60.0
GONE = "the receiver answered 410"
NOT_SIGNED = "it could not be signed"
SWITCHED_OFF = "the endpoint was switched off"


@dataclass(frozen=True, slots=True)
class _Taken:
    delivery: Delivery
    http_status: int


_TakenEntry = Entry[_Taken, None]


def binding(endpoint_id: str) -> str:
    """Return what an endpoint's secret is sealed to."""
    return f"webhook_endpoints|secret|{endpoint_id}"


class Deliverer:
    """One worker's share of deliveries, and of making them from events."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        fan_out: FanOut,
        days: EventDays,
        client: Client,
        vault: Sealer,
        clock: Clock,
        metrics: Metrics,
        settings: WebhookSettings,
    ) -> None:
        self._pool = pool
        self._fan_out = fan_out
        self._days = days
        self._client = client
        self._vault = vault
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._lease_s = settings.timeout_s + _LEASE_MARGIN_S
        self._sending: Counter[str] = Counter()
        self._running: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        # Each waits for its own, so that there are never more than may be in flight.
        size_max = settings.in_flight_max
        self._taken: GroupCommit[_Taken, None] = GroupCommit(self._write_taken, size_max, size_max)
        self._queue_age_s = 0.0
        metrics.gauge("webhooks_in_flight", "Tries that run.", lambda: float(len(self._running)))
        metrics.gauge(
            "webhooks_queue_age_seconds",
            "For how long the oldest event that is due has been.",
            lambda: self._queue_age_s,
        )

    def start(self) -> None:
        """Begin to look; returns at once."""
        poll_s = self._settings.poll_s
        self._tasks = [
            asyncio.create_task(self._forever(self._make, poll_s)),
            asyncio.create_task(self._forever(self._take_up, poll_s)),
            asyncio.create_task(self._forever(self._measure, _MEASURE_S)),
            asyncio.create_task(self._forever(self._prune, _PRUNE_S)),
            asyncio.create_task(self._forever(self._days.keep, _PRUNE_S)),
        ]

    async def close(self) -> None:
        """Stop looking and give what still runs a moment; what does not end is given back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=_DRAIN_S)
        left = [*self._running]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _forever(self, act: Callable[[], Awaitable[None]], period_s: float) -> None:
        while True:
            try:
                await act()
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("webhooks wait for the database", error=repr(error))
            except Exception:
                # One fault must not end the loop; what was claimed is taken up again.
                log.exception("webhooks met a fault")
            await asyncio.sleep(period_s)

    async def _make(self) -> None:
        if await self._fan_out.run():
            self._changed.set()

    async def _take_up(self) -> None:
        """Claim what is due: again whenever a delivery was made or a try ends, and now and then."""
        while True:
            self._changed.clear()
            free = self._settings.in_flight_max - len(self._running)
            claimed = await self._claim(free) if free > 0 else []
            for one in claimed:
                self._sending[one.endpoint_id] += 1
                task = asyncio.create_task(self._deliver(one))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._settings.poll_s)

    async def _claim(self, free: int) -> list[Delivery]:
        rows = await self._pool.fetch(
            store.CLAIM_DELIVERIES,
            list(self._sending.keys()),
            list(self._sending.values()),
            self._settings.in_flight_per_endpoint_max,
            free,
            self._lease_s,
        )
        return [self._delivery_of(row) for row in rows]

    def _delivery_of(self, row: asyncpg.Record) -> Delivery:
        return Delivery(
            id=row["id"],
            endpoint_id=row["endpoint_id"],
            event_id=row["event_id"],
            type=row["type"],
            tries=row["tries"],
            url=row["url"],
            body=row["body"].encode(),
            keys=self._keys_of(row),
        )

    def _keys_of(self, row: asyncpg.Record) -> list[str]:
        """Return the secrets that sign; none when the vault's key for them is not here."""
        endpoint_id = row["endpoint_id"]
        sealed = (row["secret_sealed"], row["previous_sealed"])
        try:
            return [
                self._vault.open(one, bound_to=binding(endpoint_id))
                for one in sealed
                if one is not None
            ]
        except (InvalidTag, KeyError):
            log.error("an endpoint's secret cannot be opened", endpoint=endpoint_id)
            return []

    async def _deliver(self, one: Delivery) -> None:
        try:
            outcome = await self._send(one)
            await self._tell(one, outcome)
        except asyncio.CancelledError:
            await self._pool.execute(store.GIVE_BACK, one.id, one.tries)
            raise
        except CONNECTION_LOST as error:
            # Here and below, its lease runs out and somebody takes it up again.
            log.warning("a delivery could not be told of", delivery=one.id, error=repr(error))
        except Exception:
            log.exception("a delivery met a fault", delivery=one.id)
        finally:
            self._sending[one.endpoint_id] -= 1
            if not self._sending[one.endpoint_id]:
                del self._sending[one.endpoint_id]
            self._changed.set()

    async def _send(self, one: Delivery) -> Outcome:
        if not one.keys:
            return Outcome(error=NOT_SIGNED)
        headers = signing.headers(
            one.keys,
            message_id=one.event_id,
            timestamp_s=self._clock() // 1_000,
            body=one.body,
        )
        return await self._client.send(one.url, one.body, headers)

    async def _tell(self, one: Delivery, outcome: Outcome) -> None:
        """Write what came of a try, of the delivery and of its endpoint, together."""
        if outcome.is_success:
            assert outcome.http_status is not None, "it was answered"
            await self._taken.submit(_Taken(one, outcome.http_status))
            return
        wait = wait_s(self._settings.schedule_s, outcome, one.tries)
        error = outcome.error or "the answer is not 2xx"
        told = (one.id, one.tries, outcome.http_status, error)
        is_off = False
        async with self._pool.acquire() as connection, connection.transaction():
            pause_s = outcome.pause_s(self._settings.throttle_s)
            if outcome.is_gone:
                is_off = await connection.fetchval(store.SWITCH_OFF, one.endpoint_id, GONE)
            else:
                await connection.execute(store.IS_FAILING, one.endpoint_id, pause_s)
            if outcome.is_gone or wait is None:
                await connection.execute(store.FAIL, *told)
            else:
                await connection.execute(store.TRY_AGAIN, *told, wait)
            if is_off:
                await connection.execute(store.FAIL_PENDING, one.endpoint_id, SWITCHED_OFF)
        is_last = outcome.is_gone or wait is None
        self._metrics.count("webhooks", "failed" if is_last else "retried")
        if is_off:
            self._metrics.count("webhooks", "disabled")
        log.info(
            "a delivery failed",
            delivery=one.id,
            endpoint=one.endpoint_id,
            tries=one.tries,
            http_status=outcome.http_status,
            error=error,
            is_last=is_last,
        )

    async def _write_taken(self, batch: list[_TakenEntry]) -> list[_TakenEntry]:
        """Write a batch of those that were taken, in one commit."""
        taken = [entry.item for entry in batch]
        async with self._pool.acquire() as connection, connection.transaction():
            # The endpoints first, as everybody locks them.
            endpoints = sorted({one.delivery.endpoint_id for one in taken})
            await connection.execute(store.IS_WELL, endpoints)
            await connection.execute(
                store.SUCCEED,
                [one.delivery.id for one in taken],
                [one.delivery.tries for one in taken],
                [one.http_status for one in taken],
            )
        self._metrics.count("webhooks", "delivered", len(taken))
        for entry in batch:
            entry.resolve(None)
        return []

    async def _measure(self) -> None:
        self._queue_age_s = await self._pool.fetchval(store.OLDEST_DUE)

    async def _prune(self) -> None:
        await self._fan_out.prune()
