"""A migrated database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.kernel.db import pool as pools
from tests.services import MIGRATED, Services, fresh_database


@pytest.fixture
async def pool(services: Services) -> AsyncIterator[asyncpg.Pool]:
    """A migrated database, empty, behind a pool set up as the gateway's."""
    async with fresh_database(services, template=MIGRATED) as url:
        pool = await pools.create(url, size_max=3, command_timeout_s=10.0)
        yield pool
        await pool.close()
