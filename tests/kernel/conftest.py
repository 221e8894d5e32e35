"""One front for the module's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.kernel.front import Front, running_front


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    """A front over a socket; tests do not change its state."""
    async with running_front() as front:
        yield front
