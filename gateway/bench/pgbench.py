"""pgbench, as the comparison asks it: `-N -M prepared -c 64 -j 2`, in a database of its own.

The same server with the same settings: a transaction of pgbench's is an update, a select and an
insert in one durable commit, with nothing around it.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from gateway.sandbox.errors import SandboxError
from gateway.sandbox.installs import bare_environment, find_postgres

DATABASE = "oqim_pgbench"
CLIENTS, THREADS = 64, 2
# A million accounts: without updates of branches and tellers (-N) clients seldom meet in a row.
SCALE = 10
FINISH_WITHIN_S = 60.0

_DONE = re.compile(r"transactions actually processed: (\d+)")
_RATE = re.compile(r"^tps = ([0-9.]+) \(without", re.MULTILINE)


def program() -> Path | None:
    """Return pgbench of the embedded PostgreSQL, or None when it brings none."""
    path = find_postgres().bin / "pgbench"
    return path if os.access(path, os.X_OK) else None


def read_report(text: str) -> dict[str, Any]:
    """Return pgbench's report as a block is told. Raises SandboxError."""
    done, rate = _DONE.search(text), _RATE.search(text)
    if done is None or rate is None or float(rate[1]) <= 0:
        raise SandboxError(f"pgbench reported something else:\n{text}")
    return {
        "created": int(done[1]),
        "late": 0,
        "replayed": 0,
        "until_last_s": int(done[1]) / float(rate[1]),
    }


class Pgbench:
    """A database that pgbench filled."""

    def __init__(self, program: Path, url: str) -> None:
        parts = urlsplit(url)
        self._program = program
        self._where = (
            f"--host={parts.hostname}",
            f"--port={parts.port}",
            f"--username={parts.username}",
        )
        # On the command line everybody would see it.
        self._environment: Mapping[str, str] = bare_environment() | {
            "PGPASSWORD": parts.password or ""
        }

    async def fill(self) -> None:
        """Make its tables anew."""
        await self._run("--initialize", "--quiet", f"--scale={SCALE}", within_s=120.0)

    async def load(self, *, seconds: float) -> dict[str, Any]:
        """Run for so long, in whole seconds; returns what a block is told."""
        whole = max(1, round(seconds))
        text = await self._run(
            *("--skip-some-updates", "--protocol=prepared", "--no-vacuum"),
            *(f"--client={CLIENTS}", f"--jobs={THREADS}", f"--time={whole}"),
            within_s=whole + FINISH_WITHIN_S,
        )
        return read_report(text)

    async def _run(self, *arguments: str, within_s: float) -> str:
        process = await asyncio.create_subprocess_exec(
            self._program,
            *self._where,
            *arguments,
            DATABASE,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(within_s):
                out, words = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise SandboxError(f"pgbench failed: {words.decode(errors='replace')[-500:]}")
        return out.decode()


@asynccontextmanager
async def filled(path: Path, database_url: str) -> AsyncIterator[Pgbench]:
    """Make pgbench's database beside the sandbox's, fill it, and drop it at the end."""
    connection: Any = await asyncpg.connect(database_url, command_timeout=60.0)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        try:
            url = urlunsplit(urlsplit(database_url)._replace(path=f"/{DATABASE}"))
            pgbench = Pgbench(path, url)
            await pgbench.fill()
            yield pgbench
        finally:
            await connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    finally:
        await connection.close()
