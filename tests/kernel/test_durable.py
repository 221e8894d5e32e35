"""A database that may forget what it acknowledged is refused, and the refusal says what to do."""

from __future__ import annotations

import asyncpg
import pytest

from gateway.kernel.db import pool as pools
from gateway.settings import SettingsError
from tests.services import Services, fresh_database


async def test_a_database_that_keeps_what_it_acknowledged_is_taken(services: Services) -> None:
    """The sandbox's own is one."""
    async with fresh_database(services) as url:
        pool = await pools.create(url, size_max=1, command_timeout_s=10.0)
        try:
            await pools.check_durable(pool)
        finally:
            await pool.close()


async def test_synchronous_commit_off_is_refused_by_name(services: Services) -> None:
    """It is named, with how to turn it on."""
    async with fresh_database(services) as url:
        connection = await asyncpg.connect(url)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        await connection.close()
        pool = await pools.create(url, size_max=1, command_timeout_s=10.0)
        try:
            with pytest.raises(SettingsError, match="synchronous_commit off"):
                await pools.check_durable(pool)
        finally:
            await pool.close()
