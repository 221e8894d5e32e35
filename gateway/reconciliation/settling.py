"""What a report knows is told to payments, by the path everything else is settled by.

An attempt in doubt is settled; one that has ended otherwise becomes a conflict, and nothing is
overwritten. Whoever imports tells at once; a worker looks for what an import from a file, or a
worker that died, has left.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import date

import asyncpg
import structlog

from connectors.spi import Outcome, Result
from connectors.spi.reports import Reports
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.errors import Unavailable
from gateway.kernel.ids import attempt_id
from gateway.kernel.metrics import Metrics
from gateway.payments.actions import Actions
from gateway.payments.carrying import Carrier
from gateway.payments.outcomes import UNKNOWN_WAIT_S
from gateway.payments.reads import Reads
from gateway.reconciliation import store
from gateway.reconciliation.imports import Imports
from gateway.reconciliation.model import KINDS, Untold, untold

log = structlog.get_logger("reconciliation")

PERIOD_S = 5.0
_AT_ONCE_MAX = 500
# Longer than matching a large day again takes.
_WAIT_S = 300.0
_SOURCE = "reconciliation"


class Settling:
    """Tells payments what reports say, and matches again what has become known since."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        imports: Imports,
        reports: Mapping[str, Reports],
        carrier: Carrier,
        actions: Actions,
        reads: Reads,
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._imports = imports
        self._reports = reports
        self._carrier = carrier
        self._actions = actions
        self._reads = reads
        self._open: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        for kind in KINDS:
            metrics.gauge(
                f"reconciliation_breaks_{kind}",
                f"Open breaks: {kind.replace('_', ' ')}.",
                lambda kind=kind: float(self._open.get(kind, 0)),  # type: ignore[misc]  # bound
            )

    def start(self) -> None:
        """Begin to look in the background."""
        self._task = asyncio.create_task(self._run(), name="reconciliation-settling")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
                # By every worker, whoever sweeps: any of them may be asked.
                counted = await self._pool.fetch(store.OPEN_BY_KIND)
                self._open = {row["kind"]: row["count"] for row in counted}
            except (*CONNECTION_LOST, asyncpg.PostgresError, Unavailable) as error:
                log.warning("reports wait for the database", error=repr(error))
            await asyncio.sleep(PERIOD_S)

    async def sweep(self, *, wait: bool = False) -> None:
        """Tell what is not told, then match again where doubts have ended.

        Args:
            wait: for whoever does so now; otherwise that one is left to it.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            if wait:
                await connection.execute(store.SWEEP_ALONE, timeout=_WAIT_S)
            elif not await connection.fetchval(store.ONE_SWEEPS):
                return
            rows = await self._pool.fetch(store.UNTOLD, _AT_ONCE_MAX)
            for row in rows:
                try:
                    await self._tell(untold(row))
                except Exception:
                    # It is looked at again; one fault must not keep the others from being told.
                    log.exception("a payment could not be told", id=row["id"])
                    continue
                await self._pool.execute(store.TOLD, row["id"])
            if len(rows) < _AT_ONCE_MAX:
                # Once all is told: a day is matched as a whole.
                for row in await self._pool.fetch(store.TO_MATCH):
                    await self.match_again(row["connector"], row["day"])

    async def match_again(self, connector: str, day: date) -> None:
        """Match a day anew, where its connector is still switched on."""
        reports = self._reports.get(connector)
        if reports is not None:
            await self._imports.match_again(connector, reports, day)

    async def _tell(self, told: Untold) -> None:
        if told.subject.startswith("att_"):
            await self._tell_attempt(told, told.subject)
        elif told.ours.status == "unknown":
            action = await self._reads.action(told.subject)
            await self._actions.settle(action, _result(told))
        elif told.side == "payment" or _is_undone(told):
            # A capture that stands, and a report that says otherwise: a conflict of its attempt.
            await self._tell_attempt(told, attempt_id(told.payment, 1))

    async def _tell_attempt(self, told: Untold, attempt: str) -> None:
        found = await self._reads.attempt(attempt)
        if found is None or (found.is_open and not _agrees(told)):
            # Of another amount: nobody may say that it is what was asked for.
            return
        if told.ours.status == "held" and found.is_open:
            return
        result = _result(told)
        await self._carrier.settle(found, result, source=_SOURCE, wait_s=UNKNOWN_WAIT_S)


def _is_undone(told: Untold) -> bool:
    """Whether they gave back what stands here."""
    return told.side == "refund" and told.ours.status == "approved"


def _agrees(told: Untold) -> bool:
    ours, theirs = told.ours, told.theirs
    return (ours.amount, ours.currency) == (theirs.amount, theirs.currency)


def _result(told: Untold) -> Result:
    """What the report says, in the words of a connector."""
    theirs = told.theirs
    if theirs.status != "approved":
        return Result(outcome=Outcome.DO_NOT_HONOR, processor_code="report")
    if told.side == "refund" and told.subject.startswith(("att_", "cap_")):
        return Result(outcome=Outcome.ALREADY_REVERSED, processor_code="report")
    return Result(outcome=Outcome.APPROVED, processor_code="report", rrn=theirs.processor_reference)
