"""A migrated database for each test, on servers of this folder's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.kernel.db import migrate
from gateway.kernel.db import pool as pools
from tests.services import Services, database_url, execute, fresh_database, running_services


@pytest.fixture(scope="session")
async def services() -> AsyncIterator[Services]:
    """The servers of these tests, with one migrated database to copy."""
    async with running_services() as services:
        await execute(services, "CREATE DATABASE migrated")
        url = database_url(services, "migrated")
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        yield services


@pytest.fixture
async def pool(services: Services) -> AsyncIterator[asyncpg.Pool]:
    """A migrated database, empty, behind a pool set up as the gateway's."""
    async with fresh_database(services, template="migrated") as url:
        pool = await pools.create(url, size_max=3, command_timeout_s=10.0)
        yield pool
        await pool.close()
