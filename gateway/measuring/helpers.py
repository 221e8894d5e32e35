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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
POLL_S = 0.1
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


@dataclass(frozen=True, slots=True)
class Server:
    """A program that serves until it is interrupted; what it says is in a file."""

    name: str
    log: Path
    process: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path, *, name: str
    ) -> "Server":
        """Start one; whoever does stops it, whatever happens.

        Args:
            name: what it is called in a sentence.
        """
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdout=out,
                stderr=out,
                # A Ctrl-C reaches it through us alone, after the load has ended.
                start_new_session=True,
            )
        return cls(name, log, process)

    async def until_ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it is. Raises SandboxError when it ends instead, or is not in time."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not await is_ready():
            if self.process.returncode is not None or time.monotonic() > deadline:
                last_words = tail(self.log)
                raise SandboxError(f"{self.name} did not start; its last words:\n{last_words}")
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Interrupt it and wait for its end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        await _end(self.process)


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
    sandbox = await Server.start(
        (sys.executable, "-m", "gateway", "sandbox"), environment, log, name="the sandbox"
    )

    async def is_told() -> bool:
        return os.access(told, os.R_OK)

    try:
        with progress.step("Starting a sandbox"):
            await sandbox.until_ready(is_told)
        yield told
    finally:
        with progress.step("Stopping the sandbox"):
            await sandbox.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    parent = Path("var").absolute()
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    # PostgreSQL runs as another user when we are root, and must be able to pass through.
    folder.chmod(0o711)
    return folder


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
