"""`oqim reconcile`: imports the file of a report, with progress; a worker tells what it knows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from connectors.spi import Connector
from connectors.spi.reports import ReportError
from gateway.kernel.clock import system_clock
from gateway.kernel.db import pool as pools
from gateway.payments import connectors as loading
from gateway.reconciliation import store
from gateway.reconciliation.days import can_be_reported
from gateway.reconciliation.imports import Imports, Origin
from gateway.reconciliation.service import reports_of
from gateway.settings import Settings

_PART_BYTES = 1 << 18
_COMMAND_TIMEOUT_S = 60.0


class ReconcileError(Exception):
    """A file that was not imported; the text says why, and nothing of what is in it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to say once a file was imported."""

    is_new: bool
    revision: int
    lines: int
    matched: int
    breaks: dict[str, int]


async def import_file(
    settings: Settings,
    connector: str,
    day: date,
    file: Path,
    *,
    actor: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_read: Callable[[], None] = lambda: None,
) -> Told:
    """Import the file of a business day's report into the database of the settings.

    Args:
        on_progress: told how many bytes of how many were read.
        on_read: told that the whole file was read, and is matched from then on.

    Raises:
        ReconcileError: no such connector, or a file that cannot be read or used.
        SettingsError: the connector's settings are wrong.
    """
    if not can_be_reported(day, system_clock()):
        raise ReconcileError(f"{day} is a day to come, or before 2020")
    reports = reports_of(_loaded(settings, connector)).get(connector)
    if reports is None:
        raise ReconcileError(f"connector {connector} has no reports")
    pool = await pools.create(
        settings.database.url, size_max=2, command_timeout_s=_COMMAND_TIMEOUT_S
    )
    try:
        imports = Imports(pool, system_clock)
        imported = await imports.take(
            connector, reports, day, _parts(file, on_progress, on_read), Origin("file", actor)
        )
        row = await pool.fetchrow(store.GET_IMPORT, imported.id)
        counted = await pool.fetch(store.OPEN_OF_DAY, connector, day)
    except (ReportError, OSError) as error:
        raise ReconcileError(f"{file.name}: {error}") from None
    finally:
        await pool.close()
    assert row is not None, "it was imported"
    breaks = {one["kind"]: one["count"] for one in counted}
    return Told(imported.is_new, row["revision"], row["lines"], row["matched"], breaks)


def _loaded(settings: Settings, connector: str) -> dict[str, Connector]:
    """Make the connector for what it can read; it is never started."""

    async def nobody(name: str, event: object) -> None:
        """A connector that is not started hears nothing."""

    return loading.load([connector], settings.connector_settings, {}, nobody)


async def _parts(
    file: Path, on_progress: Callable[[int, int], None], on_read: Callable[[], None]
) -> AsyncIterator[bytes]:
    total, done = (await asyncio.to_thread(file.stat)).st_size, 0
    with file.open("rb") as opened:
        while part := await asyncio.to_thread(opened.read, _PART_BYTES):
            done += len(part)
            yield part
            on_progress(done, total)
    on_read()
