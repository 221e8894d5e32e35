"""The stage: a seeded sandbox, and what a run holds open on it.

A sandbox of its own is started and removed again, unless one that runs is named; that one keeps the
users and payments that it was given.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from gateway.measuring import books, config
from gateway.measuring.helpers import Talker, own_sandbox, read, seed, seed_immediate, talker
from gateway.measuring.meters import Meters
from gateway.sandbox.progress import Progress

COMMAND_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What is measured on, open.

    Args:
        connection: to the sandbox's database, used by nobody else meanwhile.
        work: a folder for what helpers write.
        sandbox_file, seeded: the sandbox's own, and who pays.
        loadtests: the repository's folder.
        has_immediate: whether it pays over the immediate connector, too (`config`).
    """

    sandbox: Mapping[str, Any]
    sandbox_file: Path
    seeded: Path
    work: Path
    loadtests: Path
    connection: Any
    http: aiohttp.ClientSession
    generator: Talker
    meters: Meters
    has_immediate: bool = False

    @property
    def port(self) -> int:
        """Where the sandbox's gateway listens."""
        return int(self.sandbox["base_url"].rpartition(":")[2])

    @property
    def ids_file(self) -> Path:
        """Where the ids of what was paid are, one a line."""
        return self.work / "ids"

    async def broken(self, *schemes: str) -> list[str]:
        """Return what of the books of these schemes does not hold, in sentences."""
        simulators = {
            scheme: None if scheme in config.SCHEMES else self.sandbox["simulators"][scheme]
            for scheme in schemes
        }
        return await books.broken(
            self.connection, self.http, simulators=simulators, ids_file=self.ids_file
        )

    async def fault(self, scheme: str, **order: Any) -> None:
        """Have a processor misbehave, as its simulator's `POST /_sim/faults` says."""
        async with self.http.post(self._faults(scheme), json=order) as answer:
            answer.raise_for_status()

    async def heal(self, scheme: str) -> None:
        """Have a processor behave again."""
        async with self.http.delete(self._faults(scheme)) as answer:
            answer.raise_for_status()

    def _faults(self, scheme: str) -> str:
        return f"{self.sandbox['simulators'][scheme]}/_sim/faults"


@asynccontextmanager
async def open_stage(
    *,
    sandbox_file: Path | None,
    loadtests: Path,
    users: int,
    progress: Progress,
    workers: int = 1,
    with_immediate: bool = False,
    command_within_s: float = COMMAND_WITHIN_S,
) -> AsyncIterator[Stage]:
    """Seed a sandbox and open what a run needs; everything of ours is gone afterwards.

    Args:
        sandbox_file: of a running sandbox; by default one is started.
        loadtests: the repository's folder of that name.
        users: seeded; each has a card of every scheme and a token.
        workers: gateway processes of a sandbox of our own.
        with_immediate: pay over the immediate connector as well; a sandbox that is given must have
            been started with it, or goes without.
        command_within_s: what a statement on the connection may take.

    Raises:
        SandboxError: the sandbox does not start or cannot be read, or users cannot be seeded.
    """
    async with AsyncExitStack() as stack:
        if sandbox_file is None:
            own = own_sandbox(workers, progress, loadtests=loadtests if with_immediate else None)
            sandbox_file = await stack.enter_async_context(own)
        sandbox = read(sandbox_file)
        has_immediate = with_immediate and bool(config.used_by(sandbox_file))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oqim-stage-")))
        (work / "ids").touch()
        seeded = work / "seeded.json"
        with progress.step(f"Seeding {users:,} users with a card of each scheme"):
            await seed(loadtests, sandbox_file, users, seeded)
            if has_immediate:
                await seed_immediate(loadtests, sandbox_file, seeded)
        generator = await stack.enter_async_context(talker(loadtests / "generator.py", seeded))
        await generator.hear()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        connection = await connect(sandbox, command_within_s)
        stack.push_async_callback(connection.close)
        meters = Meters(
            data_dir=sandbox_file.parent,
            base_url=sandbox["base_url"],
            connection=connection,
            http=http,
            others={"generator": generator.pid},
        )
        yield Stage(
            sandbox=sandbox,
            sandbox_file=sandbox_file,
            seeded=seeded,
            work=work,
            loadtests=loadtests,
            connection=connection,
            http=http,
            generator=generator,
            meters=meters,
            has_immediate=has_immediate,
        )


async def connect(sandbox: Mapping[str, Any], command_within_s: float = COMMAND_WITHIN_S) -> Any:
    """Open a connection to a sandbox's database."""
    return await asyncpg.connect(sandbox["database_url"], command_timeout=command_within_s)
