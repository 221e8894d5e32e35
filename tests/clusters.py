"""A PostgreSQL cluster, migrated and empty, made once a run and copied for each sandbox.

Owns the folder that the processes of one run share. A sandbox that finds its cluster made and
migrated starts as one that is started again does; making one from nothing is what the run's own
sandbox (`house`) and `tests/sandbox` do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.kernel.db import migrate
from gateway.sandbox import state
from gateway.sandbox.datadir import DataDirectory
from gateway.sandbox.embedded import EmbeddedServices
from gateway.sandbox.progress import SilentProgress
from tests.services import open_folder

# Where the folder is, told to the processes that run tests by the one that starts them.
VARIABLE = "OQIM_TESTS_SHARED"


@contextmanager
def shared_folder() -> Iterator[None]:
    """Make the folder of this run, and remove it at the end."""
    with open_folder("oqim-shared-") as folder:
        os.environ[VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[VARIABLE]


async def furnish(data_dir: Path) -> None:
    """Put a migrated cluster into an empty data directory that will be a sandbox's."""
    shared = Path(os.environ[VARIABLE])
    cluster = shared / "cluster"
    with (shared / "lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not cluster.exists():
            draft = shared / "draft"
            await _make(draft)
            draft.rename(cluster)
    # `cp` keeps the owner, who is not us when the tests are run by root.
    copy = ["cp", "-a", f"{cluster}/.", str(data_dir)]
    await asyncio.to_thread(subprocess.run, copy, check=True)


async def _make(data_dir: Path) -> None:
    async with EmbeddedServices(data_dir, SilentProgress()) as services:
        await asyncio.to_thread(migrate.apply, services.database_url, lambda _: None)
    directory = DataDirectory(data_dir)
    known = state.load(directory)
    assert known.postgres.home is None, "the cluster is in the directory that is copied"
    # Each copy finds ports of its own.
    known.postgres = msgspec.structs.replace(known.postgres, port=None)
    known.valkey = msgspec.structs.replace(known.valkey, port=None)
    state.save(directory, known)
    for left in ("logs", "run", "valkey"):
        shutil.rmtree(data_dir / left)
