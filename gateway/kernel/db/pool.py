"""The connection pool: what every connection of ours is set to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from gateway.kernel.db.patience import Patience, PatientPool
from gateway.settings import SettingsError

ABORTED = "OQ001"
"""The SQLSTATE with which our statements end themselves (`oqim_abort`)."""

CONNECTION_LOST = (
    OSError,
    asyncpg.InterfaceError,
    # The driver's own word for a connection that died under what was being asked.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)
"""After which a statement's outcome is unknown: the network, a time-out (an OSError), a server that
is stopping, crashed or full. Tried before PostgresError, of which some are kinds."""

UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""After which nothing was done, and the same may well succeed when tried again."""

_MUST_BE_ON = ("fsync", "full_page_writes", "synchronous_commit")


async def _keep_as_it_is(connection: Any) -> None:
    """Leave a returned connection alone: nothing of ours changes a session's settings."""


# The timeline is the first eight digits of a log file's name: it grows with every promotion.
_WHO_ARE_YOU = """
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
    ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END
"""


class _Primaries:
    """Knows the newest primary a process has met, and refuses the ones before it."""

    def __init__(self) -> None:
        self._timeline = 0

    async def check(self, connection: Any) -> None:
        """Refuse a new connection to a server that does not decide any more.

        Raises:
            ConnectionRefusedError: it is a standby, or a primary that was replaced.
        """
        timeline: int | None = await connection.fetchval(_WHO_ARE_YOU)
        if timeline is None:
            raise ConnectionRefusedError("the database is a standby; connect to the primary")
        if timeline < self._timeline:
            raise ConnectionRefusedError("the database is a primary that was replaced by another")
        self._timeline = timeline


async def create(
    url: str, *, size_max: int, command_timeout_s: float, patience: Patience | None = None
) -> asyncpg.Pool:
    """Open a pool.

    Args:
        size_max: connections at most.
        command_timeout_s: after which a statement's outcome is unknown.
        patience: how long a caller waits for a connection; without it, as long as it takes.
    """
    settings: dict[str, Any] = {
        "command_timeout": command_timeout_s,
        "init": _Primaries().check,
        "reset": _keep_as_it_is,
        "server_settings": {
            "application_name": "oqim",
            "timezone": "UTC",
            "jit": "off",
            # Every statement of ours is the same for any arguments: planned once a connection.
            "plan_cache_mode": "force_generic_plan",
            # And every one looks rows up by an index, a batch at most: a plan made while a table
            # was empty must still be right when it is full.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        },
    }
    if patience is not None:
        return await PatientPool(url, size_max=size_max, patience=patience, **settings)
    return await asyncpg.create_pool(url, min_size=min(3, size_max), max_size=size_max, **settings)


async def read_durable(connection: Any, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """Read, and wait until everything that was read is as durable as a commit that is answered.

    A server that waits for a standby shows what was committed to others when the wait was cut
    short, although no standby has it. What is written to the log afterwards, and acknowledged, is
    behind all of it.
    """
    async with connection.transaction():
        found: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        await connection.execute("SELECT pg_logical_emit_message(true, 'oqim', '')")
    return found


async def check_durable(pool: asyncpg.Pool) -> None:
    """Refuse a database that may forget what it has acknowledged.

    Raises:
        SettingsError: names the settings that are off, and how to turn them on.
    """
    found = await pool.fetch(
        "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS t (name)",
        list(_MUST_BE_ON),
    )
    off = [row["name"] for row in found if row["value"] == "off"]
    if off:
        raise SettingsError(
            f"the database has {' and '.join(off)} off, and could lose payments that were "
            "acknowledged; turn it on (ALTER SYSTEM SET ... = on, then restart PostgreSQL)"
        )


class Lane:
    """One connection of a pool, kept by one user who uses it for one thing at a time.

    What it prepared stays prepared. One that was lost is replaced when it is next asked for.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._held: Any = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend the connection; one that fails in a way that leaves it in doubt is given up."""
        if not self._is_usable():
            await self.close()
            self._held = await self._pool.acquire()
        try:
            yield self._held
        except CONNECTION_LOST:
            await self._give_up()
            raise
        except asyncpg.PostgresError:
            # The server answered: the connection is sound.
            raise
        except BaseException:
            await self._give_up()
            raise

    def _is_usable(self) -> bool:
        try:
            return self._held is not None and not self._held.is_closed()
        except asyncpg.InterfaceError:
            # It was lost, and the pool took it back by itself.
            return False

    async def _give_up(self) -> None:
        if self._is_usable():
            self._held.terminate()
        await self.close()

    async def close(self) -> None:
        """Give the connection back."""
        held, self._held = self._held, None
        if held is not None:
            with suppress(asyncpg.InterfaceError):
                await self._pool.release(held)
