"""Recovery: takes up what is in doubt, on start, after a worker died, and when its time comes.

Every open attempt and action has a time before which only its own worker may touch it. One that
is due, or whose worker has not been heard of, is claimed by one worker at a time and inquired
after, reversed, or sent again under its reference, as its processor is settled.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from gateway.kernel import failpoints
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.lease import Lease
from gateway.kernel.metrics import Metrics
from gateway.payments import store
from gateway.payments.actions import Actions
from gateway.payments.callbacks import Callbacks
from gateway.payments.carrying import Carrier
from gateway.payments.model import Action, Attempt
from gateway.payments.reviews import Reviews
from gateway.payments.step_up import StepUps
from gateway.settings import Recovery as RecoverySettings

log = structlog.get_logger("recovery")

_CONCURRENT_MAX = 32
# Between two looks at callbacks that were left.
SWEEP_S = 2.0


class Recovery:
    """One worker's share of what is in doubt, and its heartbeat."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        carrier: Carrier,
        actions: Actions,
        step_ups: StepUps,
        reviews: Reviews,
        callbacks: Callbacks,
        metrics: Metrics,
        settings: RecoverySettings,
        lease: Lease,
    ) -> None:
        self._pool = pool
        self._carrier = carrier
        self._actions = actions
        self._step_ups = step_ups
        self._reviews = reviews
        self._callbacks = callbacks
        self._metrics = metrics
        self._settings = settings
        self._lease = lease
        self._slots = asyncio.Semaphore(_CONCURRENT_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to beat and to look; returns at once."""
        self._tasks = [
            asyncio.create_task(self._forever(self._lease.renew, self._lease.period_s)),
            asyncio.create_task(self._forever(self._callbacks.sweep, SWEEP_S)),
            asyncio.create_task(self._forever(self._look, self._settings.poll_s)),
        ]

    async def close(self) -> None:
        """Stop looking; what was claimed is left to the next, at once."""
        for task in [*self._tasks, *self._running]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running, return_exceptions=True)
        await self._lease.retire()

    async def _forever(self, act: Callable[[], Awaitable[None]], period_s: float) -> None:
        while True:
            try:
                await act()
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("recovery waits for the database", error=repr(error))
            await asyncio.sleep(period_s)

    async def _look(self) -> None:
        await self._step_ups.expire()
        await self._reviews.sweep()
        free = self._settings.batch_size_max - len(self._running)
        if free <= 0:
            return
        arguments = (self._lease.worker, free, self._settings.worker_lease_s)
        for row in await self._pool.fetch(store.CLAIM_ATTEMPTS, *arguments):
            self._take_up(store.attempt_of(row))
        for row in await self._pool.fetch(store.CLAIM_ACTIONS, *arguments):
            self._take_up(store.action_of(row))

    def _take_up(self, one: Attempt | Action) -> None:
        task = asyncio.create_task(self._resolve(one))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _resolve(self, one: Attempt | Action) -> None:
        wait_s = self._wait_s(one.tries)
        kind = "attempt" if isinstance(one, Attempt) else "action"
        self._metrics.count("recoveries", kind)
        async with self._slots:
            try:
                await failpoints.hit("after_recovery_claim")
                if one.tries > self._settings.tries_max:
                    reason = f"not settled after {self._settings.tries_max} tries"
                    await self._reviews.open(one, reason)
                if isinstance(one, Attempt):
                    await self._carrier.resolve(
                        one, wait_s=wait_s, not_found_final_s=self._settings.not_found_final_s
                    )
                else:
                    await self._actions.resolve(one, wait_s=wait_s)
            except Exception:
                # Its lease runs out and somebody looks again; one fault must not end the loop.
                log.exception("could not be settled yet", kind=kind, id=one.id, tries=one.tries)

    def _wait_s(self, tries: int) -> float:
        settings = self._settings
        full = min(settings.retry_last_s, settings.retry_first_s * 2.0 ** min(tries, 10))
        return full * random.uniform(0.5, 1.0)
