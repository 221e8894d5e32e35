"""Measures the rows of load: blocks of peers and of ours in turns, then the books.

What the machine does meanwhile falls on both, so that neighbours can be compared. Owns nothing that
runs: it is given a sandbox and helpers, and starts the peers of a group for that group alone.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gateway.bench import pgbench, results
from gateway.bench.rows import (
    BARE,
    DIRECT,
    FASTAPI,
    GATEWAYS,
    PGBENCH,
    TUNED,
    USUAL,
    Block,
    LoadRow,
    Measured,
    Plan,
)
from gateway.measuring import books
from gateway.measuring.closed_loop import closed_loop, complaint
from gateway.measuring.helpers import talker
from gateway.measuring.stage import Stage
from gateway.sandbox.progress import Progress, Step

REPLAYS = 0.01
NO_PGBENCH = "the embedded PostgreSQL brings no pgbench"
NO_IMMEDIATE = "the sandbox that was given has no immediate connector"

# Takes `seconds`.
Load = Callable[..., Awaitable[Mapping[str, Any]]]
# And the processes that it loads, where those are not the sandbox's.
Loaded = tuple[Load, tuple[int, ...]]


class LoadBench:
    """Measures one group of rows after another."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage = stage
        self._plan = plan
        self._ids, self._usual_ids = stage.ids_file, stage.work / "usual-ids"
        self._usual_ids.touch()

    async def measure(self, rows: Sequence[LoadRow], progress: Progress) -> list[Measured]:
        """Measure rows that share blocks (`rows.groups`), then check the books."""
        every = [Measured(row, skipped=self._why_not(row)) for row in rows]
        for left_out in every:
            if left_out.skipped:
                progress.warn(f"{left_out.row.name} is left out: {left_out.skipped}.")
        measured = [one for one in every if not one.skipped]
        if not measured:
            return every
        with progress.step(", ".join(one.row.name for one in measured)) as step:
            step.note("preparing the peers")
            async with AsyncExitStack() as stack:
                await self._measure(await self._loads(measured, stack), measured, step)
            step.note("checking the books")
            await self._check(measured)
            step.note("; ".join(results.in_short(one) for one in measured))
        return every

    def _why_not(self, row: LoadRow) -> str:
        if row.against == PGBENCH and pgbench.program() is None:
            return NO_PGBENCH
        if row.scheme == DIRECT and not self._stage.has_immediate:
            return NO_IMMEDIATE
        return ""

    async def _measure(
        self, loads: Mapping[str, Loaded], measured: Sequence[Measured], step: Step
    ) -> None:
        plan = self._plan
        step.note("warming up")
        for load, _ in loads.values():
            await load(seconds=plan.warm_up_s)
        for number in range(1, plan.pairs + 1):
            step.note(f"round {number} of {plan.pairs}, {len(loads)} blocks each")
            blocks = {name: await self._block(*loaded) for name, loaded in loads.items()}
            for one in measured:
                one.peer.append(blocks[one.row.against])
                one.oqim.append(blocks[_ours_name(one.row)])

    async def _loads(
        self, measured: Sequence[Measured], stack: AsyncExitStack
    ) -> dict[str, Loaded]:
        """Return what is loaded in turns, each by a name: a row's peer, then what is compared."""
        loads: dict[str, Loaded] = {}
        for one in measured:
            row = one.row
            if row.against not in loads:
                loads[row.against] = await stack.enter_async_context(self._peer(row))
            loads.setdefault(_ours_name(row), (self._ours(row), ()))
        return loads

    async def _block(self, load: Load, peers: tuple[int, ...]) -> Block:
        meters = self._stage.meters
        await self._stage.connection.execute("CHECKPOINT")
        meters.watch("peer", *peers)
        before = await meters.read()
        told = await load(seconds=self._plan.seconds)
        block = Block(told, before, await meters.read())
        meters.watch("peer")
        return block

    # Who is loaded ------------------------------------------------------------------------

    def _ours(self, row: LoadRow) -> Load:
        port = self._stage.port
        return self._payments(row, port, replays=REPLAYS, ids_file=self._ids)

    def _payments(self, row: LoadRow, port: int, *, replays: float, ids_file: Path | None) -> Load:
        """Return what the generator is asked to do to a server of payments."""
        return partial(
            closed_loop,
            self._stage.generator,
            port=port,
            clients=row.clients,
            scheme=row.scheme,
            replays=replays,
            ids_file=ids_file,
        )

    @asynccontextmanager
    async def _peer(self, row: LoadRow) -> AsyncIterator[Loaded]:
        """Run a row's peer; gives how it is loaded, and the processes that it has of its own."""
        stage = self._stage
        if row.against == PGBENCH:
            path = pgbench.program()
            assert path is not None, "the row is left out without it"
            async with pgbench.filled(path, stage.sandbox["database_url"]) as loaded:
                yield loaded.load, ()
            return
        files = (stage.sandbox_file, stage.seeded)
        arguments: Mapping[str, tuple[str | Path, ...]] = {
            BARE: (stage.loadtests / "peers" / "bare_aiohttp.py",),
            USUAL: ("-m", "loadtests.peers.usual_gateway", *files),
            TUNED: ("-m", "loadtests.peers.usual_gateway", *files, "--tuned"),
            FASTAPI: ("-m", "loadtests.peers.fastapi_gateway", *files),
        }
        is_gateway = row.against in GATEWAYS
        async with talker(*arguments[row.against]) as peer:
            port = (await peer.hear())["port"]
            load = self._payments(
                row,
                port,
                replays=REPLAYS if is_gateway else 0.0,
                ids_file=self._usual_ids if is_gateway else None,
            )
            yield load, (peer.pid,)

    # The books ----------------------------------------------------------------------------

    async def _check(self, measured: Sequence[Measured]) -> None:
        """Find what does not hold: of the answers, of our books, of the peers'."""
        stage = self._stage
        found = await stage.broken(*(one.row.scheme for one in measured))
        if any(one.row.against in GATEWAYS for one in measured):
            found += await books.usual_broken(stage.connection, self._usual_ids)
        for one in measured:
            told = [*one.oqim, *(one.peer if one.row.against in GATEWAYS else ())]
            one.broken = [said for block in told if (said := complaint(block.told))] + found


def _ours_name(row: LoadRow) -> str:
    return f"oqim over {row.scheme}"
