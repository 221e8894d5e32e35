"""One sandbox for all faults of a worker and of a processor, and everybody who asked it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.world import CONFIG, Clients
from tests.house import House, changed_config, running_house

SEEDS = int(os.environ.get("OQIM_SEEDS", "1"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a seed once a seed: one by default, OQIM_SEEDS of them in `make faults`."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, SEEDS + 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have `make faults`, which runs what is marked, run all that is here."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("fault") is None:
            item.add_marker(pytest.mark.fault(rows=[], what=""))


@pytest.fixture(scope="package")
async def sandbox() -> AsyncIterator[House]:
    """One worker that stays alive, and whose processors are given up early."""
    with changed_config(**CONFIG) as environment:
        async with running_house(workers=1, environment=environment) as house:
            yield house


@pytest.fixture(scope="package")
async def doomed() -> AsyncIterator[House]:
    """A sandbox whose books will be wrong."""
    with changed_config(**CONFIG) as environment:
        async with running_house(workers=1, environment=environment) as house:
            yield house


@pytest.fixture(scope="package")
def clients() -> Clients:
    """Everybody who asked: what any test was told must hold after every other."""
    return Clients()
