"""What refusals are held to."""

from collections.abc import AsyncIterator

import pytest

from tests.house import House
from tests.http.doors import Books


@pytest.fixture
async def books(house: House) -> AsyncIterator[Books]:
    """For tests that pay nothing: nothing may have been paid after them."""
    books = Books(house)
    await books.open()
    yield books
    await books.assert_untouched()
