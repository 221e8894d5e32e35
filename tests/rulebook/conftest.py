"""A house of its own for the tests of rules, as they change what every payment is decided by."""

from collections.abc import AsyncIterator

import pytest

from tests.house import running_house
from tests.identity.fixtures import place
from tests.rulebook.office import Office

__all__ = ["place"]


@pytest.fixture(scope="package")
async def office() -> AsyncIterator[Office]:
    """Two operators of a house of two workers."""
    async with running_house(workers=2) as house:
        yield Office(house)
