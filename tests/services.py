"""A running PostgreSQL and Valkey for tests, and empty databases in it.

Start them once for a whole run, then give every test that needs one an empty database of its own.
They are the real servers that the sandbox starts, with durability on.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from gateway.kernel.db import migrate
from gateway.sandbox.embedded import EmbeddedServices
from gateway.sandbox.progress import SilentProgress

# The database to copy for whoever needs a migrated one.
MIGRATED = "migrated"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Services:
    """Where the servers of this run are; the URLs carry passwords of this run alone."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    data_dir: Path


@contextmanager
def open_folder(prefix: str = "oqim-tests-") -> Iterator[Path]:
    """Give an empty folder that other users can pass through, and remove it afterwards.

    pytest's own temporary folders are closed (0700), and PostgreSQL runs as another user when the
    tests are run by root.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_open_parent()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _open_parent() -> str:
    chosen = tempfile.gettempdir()
    is_open = all(path.stat().st_mode & 0o001 for path in (Path(chosen), *Path(chosen).parents))
    return chosen if is_open or os.geteuid() != 0 else "/tmp"


@asynccontextmanager
async def running_services() -> AsyncIterator[Services]:
    """Start PostgreSQL and Valkey in a folder of their own; stop both and remove it at the end.

    Enter it in a loop that lives as long as the servers, in the main thread.
    """
    with open_folder() as folder:
        data_dir = folder / "services"
        async with EmbeddedServices(data_dir, SilentProgress()) as services:
            yield Services(services.database_url, services.redis_url, data_dir)


@asynccontextmanager
async def fresh_database(services: Services, *, template: str = "") -> AsyncIterator[str]:
    """Give the URL of a new database, dropped at the end with whoever is still connected.

    Args:
        services: The running servers.
        template: The name of a database to copy, migrated once for the run, say; nobody may be
            connected to it. By default an empty one.
    """
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await copy_database(services, name, template=template or "template1")
    try:
        yield database_url(services, name)
    finally:
        await execute(services, f"DROP DATABASE {name} WITH (FORCE)")


async def copy_database(services: Services, name: str, *, template: str) -> None:
    """Make a database, a copy of another to which nobody is connected."""
    # All of a copy goes through the log; to compress it takes as long again.
    await execute(
        services, "SET wal_compression = off", f"CREATE DATABASE {name} TEMPLATE {template}"
    )


async def migrate_template(services: Services) -> None:
    """Make the database `MIGRATED`."""
    await execute(services, f"CREATE DATABASE {MIGRATED}")
    url = database_url(services, MIGRATED)
    await asyncio.to_thread(migrate.apply, url, lambda _: None)


def database_url(services: Services, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}"))


async def execute(services: Services, *statements: str) -> None:
    """Run statements as the server's owner, each outside of a transaction."""
    connection = await asyncpg.connect(services.database_url, timeout=10.0)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
