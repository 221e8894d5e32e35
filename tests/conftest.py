"""What every test may use: one sandbox for the whole run, started by its own command."""

from collections.abc import AsyncIterator

import pytest

from tests.house import House, running_house


@pytest.fixture(scope="session")
async def house() -> AsyncIterator[House]:
    """A sandbox of two workers: real PostgreSQL and Valkey, real simulators, real sockets."""
    async with running_house(workers=2) as house:
        yield house
