"""The processes that a benchmark starts: its sandbox, and helpers that it talks to in lines.

Each ends when its block does, whatever happened in it.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.measuring import config
from gateway.sandbox.datadir import free_port
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.processes import tail
from gateway.sandbox.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0
LINE_BYTES_MAX = 1 << 20


class Talker:
    """A helper process that answers each line with a line of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def hear(self) -> Any:
        """Return the next line. Raises SandboxError when the process has ended."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise SandboxError("a helper of the benchmark ended; what it said is above")
        return json.loads(line)

    async def ask(self, order: Mapping[str, Any]) -> Any:
        """Send a line and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()
        return await self.hear()


@asynccontextmanager
async def talker(*arguments: str | Path) -> AsyncIterator[Talker]:
    """Run a Python program that ends when its standard input does; its script comes first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        # Where `-m loadtests...` is found.
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield Talker(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await _end(process)


@asynccontextmanager
async def own_sandbox(
    workers: int, progress: Progress, *, loadtests: Path | None = None
) -> AsyncIterator[Path]:
    """Run a sandbox of our own in a new folder, removed at the end; gives its sandbox.json.

    Args:
        loadtests: the repository's folder, when the immediate connector is wanted as well.
    """
    folder = _new_folder()
    told, log = folder / "sandbox.json", folder / "sandbox.log"
    environment = os.environ | {
        "OQIM_DATA_DIR": str(folder),
        "OQIM_PORT": str(free_port()),
        "OQIM_WORKERS": str(workers),
    }
    if loadtests is not None:
        environment |= config.write(folder / "config", loadtests)
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "sandbox"),
            env=environment,
            stdout=out,
            stderr=out,
            # A Ctrl-C reaches it through us alone, after the load has ended.
            start_new_session=True,
        )
    try:
        with progress.step("Starting a sandbox"):
            await _until_told(process, told, log)
        yield told
    finally:
        with progress.step("Stopping the sandbox"):
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await _end(process)
            shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    parent = Path("var").absolute()
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    # PostgreSQL runs as another user when we are root, and must be able to pass through.
    folder.chmod(0o711)
    return folder


async def _until_told(process: asyncio.subprocess.Process, told: Path, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not os.access(told, os.R_OK):
        has_ended = process.returncode is not None
        if has_ended or time.monotonic() > deadline:
            raise SandboxError(f"the sandbox did not start; its last words:\n{tail(log)}")
        await asyncio.sleep(0.1)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was told to end; kill one that does not."""
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def seed(loadtests: Path, sandbox_file: Path, users: int, out: Path) -> None:
    """Make users with cards and tokens; who they are is in `out`. Raises SandboxError."""
    await _run(sandbox_file, loadtests / "seed.py", sandbox_file, str(users), out)


async def seed_immediate(loadtests: Path, sandbox_file: Path, out: Path) -> None:
    """Give those users cards that the immediate connector pays with. Raises SandboxError."""
    script = loadtests / config.CONNECTOR / "seed_cards.py"
    await _run(sandbox_file, script, sandbox_file, out, *config.SCHEMES)


async def _run(sandbox_file: Path, *arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=os.environ | config.used_by(sandbox_file),
        stdout=sys.stderr,
    )
    if await process.wait() != 0:
        raise SandboxError("the users could not be seeded; what was said is above")


def read(sandbox_file: Path) -> dict[str, Any]:
    """Return what a sandbox told of itself. Raises SandboxError."""
    try:
        found: dict[str, Any] = json.loads(sandbox_file.read_text())
    except OSError as error:
        raise SandboxError(f"{sandbox_file} cannot be read: {error.strerror}") from error
    return found
