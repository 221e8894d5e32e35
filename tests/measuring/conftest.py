"""What the tests of measuring may use."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.measuring.helpers import one_payment
from tests.services import Services


@pytest.fixture
async def database(services: Services) -> AsyncIterator[Any]:
    """A connection to a migrated database with one good payment: pay_1."""
    async with one_payment(services) as connection:
        yield connection
