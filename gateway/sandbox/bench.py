"""`oqim bench`: durable payments a second through the whole path, against a bare aiohttp handler.

Blocks are interleaved (bare, Oqim, bare, Oqim, ...) so that what the machine does meanwhile falls
on both; what is reported is the median of the ratios of neighbours. Everything runs here: gateway,
PostgreSQL, Valkey, the processors' simulators and the generator. After each row the books are
checked: a run that breaks one has no speed, and ends the program with 1.

It needs the repository's `loadtests/` folder beside the packages.
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
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from gateway.sandbox import bench_books, bench_report
from gateway.sandbox.bench_meters import Meters, Reading
from gateway.sandbox.datadir import free_port
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.processes import tail
from gateway.sandbox.progress import Progress

SCHEMES = ("visa", "uzcard", "humo")
CLIENTS = (64, 256)
REPLAYS = 0.01
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0
LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        pairs: blocks of each kind a row.
        seconds: of one block.
        warm_up_s: of each kind, before a row.
        users: seeded; each has a card of every scheme and a token.
        workers: gateway processes.
    """

    schemes: tuple[str, ...] = SCHEMES
    clients: tuple[int, ...] = CLIENTS
    pairs: int = 5
    seconds: float = 5.0
    warm_up_s: float = 2.0
    users: int = 34_000
    workers: int = 1


QUICK = Plan(pairs=2, seconds=2.0, warm_up_s=1.0, users=4_000)


@dataclass(slots=True)
class Block:
    """One block of load: what the generator told, and what the meters moved by."""

    told: Mapping[str, Any]
    before: Reading
    after: Reading

    @property
    def per_second(self) -> float:
        """Answers a second, replays not counted."""
        return float(self.told["created"] / self.told["seconds"])


@dataclass(slots=True)
class Row:
    """One scheme at one number of clients.

    Attributes:
        broken: what of the books does not hold.
    """

    scheme: str
    clients: int
    bare: list[Block] = field(default_factory=list)
    oqim: list[Block] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


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
async def _talker(script: Path, *arguments: str | Path) -> AsyncIterator[Talker]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield Talker(process)
    finally:
        assert process.stdin is not None
        # Both helpers end when their input does.
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _sandbox(plan: Plan, progress: Progress) -> AsyncIterator[Path]:
    """Run a sandbox of our own in a new folder, removed at the end; gives its sandbox.json."""
    folder = _new_folder()
    told, log = folder / "sandbox.json", folder / "sandbox.log"
    environment = os.environ | {
        "OQIM_DATA_DIR": str(folder),
        "OQIM_PORT": str(free_port()),
        "OQIM_WORKERS": str(plan.workers),
    }
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
            await _stop(process)
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


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


class Bench:
    """One run over everything it needs, open."""

    def __init__(
        self,
        *,
        plan: Plan,
        sandbox: Mapping[str, Any],
        connection: Any,
        http: aiohttp.ClientSession,
        generator: Talker,
        meters: Meters,
        ports: Mapping[str, int],
        ids_file: Path,
    ) -> None:
        self._plan = plan
        self._sandbox = sandbox
        self._connection = connection
        self._http = http
        self._generator = generator
        self._meters = meters
        self._ports = ports
        self._ids_file = ids_file

    async def row(self, scheme: str, clients: int, progress: Progress) -> Row:
        """Measure one row, then check the books."""
        row = Row(scheme, clients)
        plan = self._plan
        with progress.step(f"{scheme}, {clients} clients") as step:
            step.note("warming up")
            for target in ("oqim", "bare"):
                await self._load(target, scheme, clients, plan.warm_up_s)
            for number in range(1, plan.pairs + 1):
                step.note(f"pair {number} of {plan.pairs}")
                row.bare.append(await self._block("bare", scheme, clients))
                row.oqim.append(await self._block("oqim", scheme, clients))
            step.note("checking the books")
            row.broken = [one for block in row.oqim if (one := _complaint(block.told))]
            row.broken += await bench_books.broken(
                self._connection,
                self._http,
                scheme=scheme,
                simulator=self._sandbox["simulators"][scheme],
                ids_file=self._ids_file,
            )
            step.note(bench_report.in_short(row))
        return row

    async def _block(self, target: str, scheme: str, clients: int) -> Block:
        await self._connection.execute("CHECKPOINT")
        before = await self._meters.read()
        told = await self._load(target, scheme, clients, self._plan.seconds)
        return Block(told, before, await self._meters.read())

    async def _load(self, target: str, scheme: str, clients: int, seconds: float) -> Any:
        is_ours = target == "oqim"
        return await self._generator.ask(
            {
                "port": self._ports[target],
                "path": "/v1/payments",
                "clients": clients,
                "seconds": seconds,
                "scheme": scheme,
                "replays": REPLAYS if is_ours else 0.0,
                "ids_file": str(self._ids_file) if is_ours else None,
            }
        )


def _complaint(told: Mapping[str, Any]) -> str:
    """Return what is wrong with the generator's answers, or nothing."""
    unexpected = {status: n for status, n in told["statuses"].items() if int(status) > 202}
    if unexpected or told["problem"]:
        return f"unexpected answers {unexpected}: {told['problem']}"
    if told["replayed_wrongly"]:
        return f"{told['replayed_wrongly']} replays were not the first answer"
    if told["declined"]:
        return f"{told['declined']} payments were declined"
    return ""


async def _measure(plan: Plan, sandbox_file: Path, loadtests: Path, progress: Progress) -> int:
    sandbox = _read(sandbox_file)
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oqim-bench-")))
        seeded, ids_file = work / "seeded.json", work / "ids"
        ids_file.touch()
        with progress.step(f"Seeding {plan.users} users and {plan.users * 3} cards"):
            await _seed(loadtests, sandbox_file, plan.users, seeded)
        bare = await stack.enter_async_context(_talker(loadtests / "peers" / "bare_aiohttp.py"))
        generator = await stack.enter_async_context(_talker(loadtests / "generator.py", seeded))
        bare_port = (await bare.hear())["port"]
        await generator.hear()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        connection = await asyncpg.connect(sandbox["database_url"], command_timeout=60.0)
        stack.push_async_callback(connection.close)
        meters = Meters(
            data_dir=sandbox_file.parent,
            base_url=sandbox["base_url"],
            connection=connection,
            http=http,
            others={"bare": bare.pid, "generator": generator.pid},
        )
        bench = Bench(
            plan=plan,
            sandbox=sandbox,
            connection=connection,
            http=http,
            generator=generator,
            meters=meters,
            ports={"oqim": int(sandbox["base_url"].rpartition(":")[2]), "bare": bare_port},
            ids_file=ids_file,
        )
        conditions = await bench_report.conditions(connection, sandbox["redis_url"], plan)
        report = bench_report.Report(loadtests / "results", datetime.now(tz=UTC), conditions)
        is_broken = False
        for scheme in plan.schemes:
            for clients in plan.clients:
                row = await bench.row(scheme, clients, progress)
                report.add(row)
                is_broken |= bool(row.broken)
                for sentence in row.broken:
                    progress.error(f"{scheme}, {clients} clients: {sentence}")
        print(report.finish())
    return 1 if is_broken else 0


def _read(sandbox_file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(sandbox_file.read_text())
    except OSError as error:
        raise SandboxError(f"{sandbox_file} cannot be read: {error.strerror}") from error
    return found


async def _seed(loadtests: Path, sandbox_file: Path, users: int, out: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, loadtests / "seed.py", sandbox_file, str(users), out),
        stdout=sys.stderr,
    )
    if await process.wait() != 0:
        raise SandboxError("the users could not be seeded; what was said is above")


async def _run(plan: Plan, sandbox_file: Path | None, loadtests: Path, progress: Progress) -> int:
    if sandbox_file is not None:
        return await _measure(plan, sandbox_file, loadtests, progress)
    async with _sandbox(plan, progress) as own:
        return await _measure(plan, own, loadtests, progress)


def run(plan: Plan, *, sandbox_file: Path | None = None) -> int:
    """Measure, print a Markdown table and write it to `loadtests/results/`.

    Args:
        sandbox_file: `sandbox.json` of a running sandbox that nobody else uses meanwhile; by
            default one is started for the run.

    Returns:
        The exit code: 0, or 1 when an invariant was broken or nothing could be measured.
    """
    progress = Progress()
    loadtests = Path(__file__).resolve().parents[2] / "loadtests"
    if not loadtests.is_dir():
        progress.error("The benchmark needs the repository: run `make bench` there.")
        return 1
    try:
        return asyncio.run(_run(plan, sandbox_file, loadtests, progress))
    except SandboxError as error:
        progress.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        progress.warn("Stopped; nothing more is measured.")
        return 130
