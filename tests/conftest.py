"""What every test may use: one sandbox for the whole run, started by its own command.

Also the order in which the files are run, and one PostgreSQL and Valkey for each process that runs
tests.
"""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import clusters
from tests.house import House, running_house
from tests.schedule import Schedule, in_order
from tests.services import Services, migrate_template, running_services

# How a file says it of its tests.
ALONE = "pytest.mark.alone"


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that the processes of this run share, unless one of them made it."""
    if clusters.VARIABLE not in os.environ:
        stack = ExitStack()
        stack.enter_context(clusters.shared_folder())
        config.add_cleanup(stack.close)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only what may hold a test that runs alone, when these alone are asked for."""
    if config.getoption("markexpr") != "alone" or collection_path.suffix != ".py":
        return None
    return True if ALONE not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and keep together what shares a house."""
    items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Schedule | None:
    """Give each process a file, or all that share a house, where files are asked for."""
    return Schedule(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
async def house() -> AsyncIterator[House]:
    """A sandbox of two workers: real PostgreSQL and Valkey, real simulators, real sockets."""
    async with running_house(workers=2, is_bare=True) as house:
        yield house


@pytest.fixture(scope="session")
async def services() -> AsyncIterator[Services]:
    """PostgreSQL and Valkey, with a migrated database to copy."""
    async with running_services() as services:
        await migrate_template(services)
        yield services
