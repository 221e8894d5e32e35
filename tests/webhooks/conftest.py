"""One house whose webhooks hurry: their schedule is the bank's, a thousand times as fast."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.house import House, changed_config, running_house
from tests.webhooks.receivers import Receiver, Shop, receiving

# Four tries; a try takes a second at most.
SETTINGS = {
    "schedule_s = [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]": (
        "schedule_s = [0, 0.3, 0.6, 1.2]"
    ),
    "timeout_s = 15.0\npoll_s = 0.25": "timeout_s = 1.0\npoll_s = 0.05",
    "old_secret_signs_s = 86400": "old_secret_signs_s = 3",
    "throttle_s = 5.0": "throttle_s = 1.0",
    "poll_s = 0.2\n": "poll_s = 0.05\n",
    "heartbeat_s = 15.0": "heartbeat_s = 0.5",
}


@pytest.fixture(scope="package")
async def house() -> AsyncIterator[House]:
    """Two workers. All tests together may kill them four times: at the fifth it would give up."""
    with changed_config(settings=SETTINGS) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@pytest.fixture(scope="package")
async def shop(house: House) -> Shop:
    """The seeded merchant."""
    return Shop(house, await house.merchant_token())


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that takes everything until it is told otherwise."""
    async with receiving() as receiver:
        yield receiver
