"""One front for the module's tests, behind each of the two doors."""

from collections.abc import AsyncIterator

import pytest

from tests.kernel.front import Front, running_front


@pytest.fixture(scope="module", params=[False, True], ids=["parsed", "plain"])
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    """A front over a socket; tests do not change its state."""
    async with running_front(is_plain=request.param) as front:
        yield front
