"""Reconciliation: a processor's report of a day beside what was done here.

`fetch` is the whole of it: the report is asked for, imported, and what it knows is told. What a
file brings (`oqim reconcile`) is imported the same way, and told by a worker.
"""

import asyncio
from collections.abc import Mapping
from datetime import date

import structlog

from connectors.spi import Connector
from connectors.spi.reports import ReportError, Reports, ReportUnavailable
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.reconciliation.breaks import Breaks
from gateway.reconciliation.days import can_be_reported
from gateway.reconciliation.imports import Imports, Origin
from gateway.reconciliation.model import ImportView
from gateway.reconciliation.settling import Settling

log = structlog.get_logger("reconciliation")

_AFTER_ALL = "~"


def reports_of(connectors: Mapping[str, Connector]) -> dict[str, Reports]:
    """Return the reports of those connectors that have any."""
    found = {name: getattr(one, "reports", None) for name, one in connectors.items()}
    return {name: reports for name, reports in found.items() if reports is not None}


class Reconciliation:
    """Fetches reports and imports them."""

    def __init__(
        self,
        imports: Imports,
        settling: Settling,
        breaks: Breaks,
        reports: Mapping[str, Reports],
        clock: Clock,
    ) -> None:
        self._imports = imports
        self._settling = settling
        self._breaks = breaks
        self._reports = reports
        self._clock = clock
        # An import holds connections of the worker's for as long as it takes: one at a time.
        self._alone = asyncio.Lock()

    async def fetch(self, connector: str, day: date, actor: str) -> tuple[ImportView, bool]:
        """Fetch a day's report from its processor and import it.

        Returns:
            The report as it stands, and whether it changed anything.

        Raises:
            Problem: schema-violation (no such connector or day, or a report that cannot be used),
                processor-unavailable.
        """
        reports = self._reports.get(connector)
        if reports is None:
            raise _wrong("/connector", "Must be a connector that has reports.")
        if not can_be_reported(day, self._clock()):
            raise _wrong("/business_day", "Must be from 2020 on, and not a day to come.")
        async with self._alone:
            is_new = await self._take(connector, reports, day, actor)
            if is_new:
                await self._settling.sweep(wait=True)
        return await self._shown(connector, day), is_new

    async def _take(self, connector: str, reports: Reports, day: date, actor: str) -> bool:
        """Import a report; returns whether it changed anything."""
        try:
            imported = await self._imports.take(
                connector, reports, day, reports.fetch(day), Origin("processor", actor)
            )
        except ReportUnavailable as error:
            log.warning("a report could not be fetched", connector=connector, reason=str(error))
            raise Problem("processor-unavailable", f"The report cannot be had: {error}.") from None
        except ReportError as error:
            log.error("a report cannot be used", connector=connector, reason=str(error))
            raise _wrong("", f"The report cannot be used: {error}.") from None
        return imported.is_new

    async def _shown(self, connector: str, day: date) -> ImportView:
        found = await self._breaks.days(
            connector=connector, day=day, before=(date.max, _AFTER_ALL), limit=1
        )
        return found[0]


def _wrong(pointer: str, detail: str) -> Problem:
    return Problem("schema-violation", detail, errors=((pointer, detail),))
