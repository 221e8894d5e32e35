"""A real Valkey, and workers' exchanges over it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.kernel.redis import BoundedRedis, open_redis
from tests.services import Services


@pytest.fixture(scope="module")
async def redis(services: Services) -> AsyncIterator[BoundedRedis]:
    client = open_redis(services.redis_url, timeout_s=5.0)
    await client.flushall()
    try:
        yield client
    finally:
        await client.aclose()
