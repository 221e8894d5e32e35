"""Servers once for a folder of tests, and for each test an empty database and an empty Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from gateway.kernel.db import migrate
from tests.identity.worker import Hand, Worker, running_worker
from tests.services import Services, database_url, execute, fresh_database, running_services

_TEMPLATE = "migrated"


@dataclass(frozen=True)
class Place:
    """An empty, migrated database and an empty Valkey."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@pytest.fixture(scope="package")
async def services() -> AsyncIterator[Services]:
    """PostgreSQL and Valkey, with a migrated database to copy."""
    async with running_services() as services:
        await execute(services, f"CREATE DATABASE {_TEMPLATE}")
        url = database_url(services, _TEMPLATE)
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        yield services


@pytest.fixture
async def place(services: Services) -> AsyncIterator[Place]:
    """Somewhere no other test has been."""
    async with fresh_database(services, template=_TEMPLATE) as url:
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
