"""A real Valkey, and workers' exchanges over it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.kernel.redis import BoundedRedis, open_redis
from tests.services import running_services


@pytest.fixture(scope="module")
async def redis_url() -> AsyncIterator[str]:
    async with running_services() as services:
        yield services.redis_url


@pytest.fixture(scope="module")
async def redis(redis_url: str) -> AsyncIterator[BoundedRedis]:
    client = open_redis(redis_url, timeout_s=5.0)
    try:
        yield client
    finally:
        await client.aclose()
