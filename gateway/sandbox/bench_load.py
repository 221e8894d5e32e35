"""Measures the rows of load: blocks of a peer and of ours in turns, then the books.

What the machine does meanwhile falls on both, so that neighbours can be compared. Owns nothing that
runs: it is given a sandbox and helpers, and starts the peer of a row for that row alone.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.sandbox import bench_books, bench_pgbench, bench_report
from gateway.sandbox.bench_meters import Meters
from gateway.sandbox.bench_processes import Talker, talker
from gateway.sandbox.bench_rows import BARE, PGBENCH, TUNED, USUAL, Block, LoadRow, Measured
from gateway.sandbox.progress import Progress

REPLAYS = 0.01
NO_PGBENCH = "the embedded PostgreSQL brings no pgbench"

Load = Callable[[float], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """How long things are measured.

    Args:
        pairs: blocks of each kind a row.
        seconds: of one block.
        warm_up_s: of each kind, before a row.
    """

    pairs: int
    seconds: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """What rows are measured on, open.

    Args:
        connection: to the sandbox's database, used by nobody else meanwhile.
        work: a folder for what helpers write.
        sandbox_file, seeded: the sandbox's own, and who pays.
        loadtests: the repository's folder.
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


class LoadBench:
    """Measures one row after another."""

    def __init__(self, stage: Stage, stretch: Stretch) -> None:
        self._stage = stage
        self._stretch = stretch
        self._ids, self._usual_ids = stage.work / "ids", stage.work / "usual-ids"
        self._ids.touch()
        self._usual_ids.touch()

    async def measure(self, row: LoadRow, progress: Progress) -> Measured:
        """Measure one row, then check the books."""
        measured = Measured(row)
        if row.against == PGBENCH and bench_pgbench.program() is None:
            measured.skipped = NO_PGBENCH
            progress.warn(f"{row.name} is left out: {NO_PGBENCH}.")
            return measured
        stretch = self._stretch
        ours = self._ours(row)
        with progress.step(row.name) as step:
            step.note("preparing the peer")
            async with self._peer(row) as theirs:
                step.note("warming up")
                for load in (ours, theirs):
                    await load(stretch.warm_up_s)
                for number in range(1, stretch.pairs + 1):
                    step.note(f"pair {number} of {stretch.pairs}")
                    measured.peer.append(await self._block(theirs))
                    measured.oqim.append(await self._block(ours))
            step.note("checking the books")
            measured.broken = await self._broken(measured)
            step.note(bench_report.in_short(measured))
        return measured

    async def _block(self, load: Load) -> Block:
        await self._stage.connection.execute("CHECKPOINT")
        before = await self._stage.meters.read()
        told = await load(self._stretch.seconds)
        return Block(told, before, await self._stage.meters.read())

    # Who is loaded ------------------------------------------------------------------------

    def _ours(self, row: LoadRow) -> Load:
        port = int(self._stage.sandbox["base_url"].rpartition(":")[2])
        return self._payments(row, port, replays=REPLAYS, ids_file=self._ids)

    def _payments(self, row: LoadRow, port: int, *, replays: float, ids_file: Path | None) -> Load:
        """Return what the generator is asked to do to a server of payments."""

        async def load(seconds: float) -> Mapping[str, Any]:
            told: Mapping[str, Any] = await self._stage.generator.ask(
                {
                    "port": port,
                    "path": "/v1/payments",
                    "clients": row.clients,
                    "seconds": seconds,
                    "scheme": row.scheme,
                    "replays": replays,
                    "ids_file": str(ids_file) if ids_file else None,
                }
            )
            return told

        return load

    @asynccontextmanager
    async def _peer(self, row: LoadRow) -> AsyncIterator[Load]:
        """Run a row's peer; gives how it is loaded."""
        stage = self._stage
        peers = stage.loadtests / "peers"
        if row.against == PGBENCH:
            path = bench_pgbench.program()
            assert path is not None, "the row is left out without it"
            async with bench_pgbench.filled(path, stage.sandbox["database_url"]) as pgbench:
                yield pgbench.load
            return
        assert row.against in (BARE, USUAL, TUNED)
        is_bare = row.against == BARE
        files = (stage.sandbox_file, stage.seeded)
        if is_bare:
            arguments: tuple[str | Path, ...] = (peers / "bare_aiohttp.py",)
        else:
            arguments = ("-m", "loadtests.peers.usual_gateway", *files)
        if row.against == TUNED:
            arguments = (*arguments, "--tuned")
        async with talker(*arguments) as peer:
            port = (await peer.hear())["port"]
            stage.meters.watch("peer", peer.pid)
            try:
                yield self._payments(
                    row,
                    port,
                    replays=0.0 if is_bare else REPLAYS,
                    ids_file=None if is_bare else self._usual_ids,
                )
            finally:
                stage.meters.watch("peer", None)

    # The books ----------------------------------------------------------------------------

    async def _broken(self, measured: Measured) -> list[str]:
        """Return what does not hold: of the answers, of our books, of the peer's."""
        row, stage = measured.row, self._stage
        told = [*measured.oqim]
        if row.against in (USUAL, TUNED):
            told += measured.peer
        found = [one for block in told if (one := complaint(block.told))]
        found += await bench_books.broken(
            stage.connection,
            stage.http,
            scheme=row.scheme,
            simulator=stage.sandbox["simulators"][row.scheme],
            ids_file=self._ids,
        )
        if row.against in (USUAL, TUNED):
            found += await bench_books.usual_broken(stage.connection, self._usual_ids)
        return found


def complaint(told: Mapping[str, Any]) -> str:
    """Return what is wrong with the generator's answers, or nothing."""
    unexpected = {status: n for status, n in told["statuses"].items() if int(status) > 202}
    if unexpected or told["problem"]:
        return f"unexpected answers {unexpected}: {told['problem']}"
    if told["replayed_wrongly"]:
        return f"{told['replayed_wrongly']} replays were not the first answer"
    if told["declined"]:
        return f"{told['declined']} payments were declined"
    return ""
