"""For each test an empty database and an empty Valkey, and a worker over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from tests.identity.worker import Hand, Worker, running_worker
from tests.services import MIGRATED, Services, fresh_database


@dataclass(frozen=True)
class Place:
    """An empty, migrated database and an empty Valkey."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@pytest.fixture
async def place(services: Services) -> AsyncIterator[Place]:
    """Somewhere no other test has been."""
    async with fresh_database(services, template=MIGRATED) as url:
        client = redis.asyncio.Redis.from_url(services.redis_url)
        await client.flushall()
        await client.aclose()
        yield Place(url, services.redis_url)


@pytest.fixture
def clock() -> Hand:
    """A clock that stands still."""
    return Hand()


@pytest.fixture
async def worker(place: Place, clock: Hand) -> AsyncIterator[Worker]:
    """One worker."""
    async with running_worker(place.database_url, place.redis_url, clock=clock) as worker:
        yield worker
