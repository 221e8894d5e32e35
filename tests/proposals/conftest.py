"""A house where operators may give back little alone."""

from collections.abc import AsyncIterator

import pytest

from tests.house import changed_config, running_house
from tests.rulebook.office import Office

ALONE_MAX = 500_000


@pytest.fixture(scope="package")
async def office() -> AsyncIterator[Office]:
    """Two operators of a house of two workers."""
    alone = {"alone_max = { UZS = 100000000 }": f"alone_max = {{ UZS = {ALONE_MAX} }}"}
    with changed_config(settings=alone) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield Office(house)
