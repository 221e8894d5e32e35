"""What a drill is made on: a stage, both generators, a plan; how processors are made to fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from gateway.measuring import books
from gateway.measuring.open_loop import (
    WARM_UP_S,
    OpenGenerator,
    OpenLoop,
    Order,
    Peak,
    Running,
    find_peak,
    open_generator,
)
from gateway.measuring.stage import Stage, connect, open_stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

# A processor that answered nothing is believed to know nothing after a while, and then only: many
# payments in doubt take their time, and the books are no one's before.
SETTLED_WITHIN_S = 300.0
POLL_S = 0.1
BREAKER = "oqim_connector_breaker_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done; None: what the drill does by default.

    Args:
        scheme: over which is paid, or whose processor fails.
        seconds: of the part that is measured.
        rate: requests a second; by default a share of the peak, which is then measured first.
        users: seeded; each has a card of every scheme and a token.
        workers: gateway processes of a sandbox of our own.
        peak_s: how long the peak is measured.
        warm_up_s: at the first rate, before anything is told of.
    """

    scheme: str = "visa"
    seconds: float | None = None
    rate: float | None = None
    users: int = 100_000
    workers: int = 1
    peak_s: float = 8.0
    warm_up_s: float = WARM_UP_S


@dataclass(slots=True)
class Drilling:
    """A drill under way.

    Attributes:
        open_loop: the generator at a fixed rate; `stage.generator` is the closed one.
    """

    stage: Stage
    open_loop: OpenGenerator
    plan: Plan
    progress: Progress

    async def rate(self, share: float, *, scheme: str | None = None) -> tuple[float, Peak | None]:
        """Return the rate to drill at: what was asked for, or a share of the peak, measured now."""
        if self.plan.rate is not None:
            return self.plan.rate, None
        peak = await self.peak(scheme=scheme)
        return peak.per_second * share, peak

    async def peak(self, *, scheme: str | None = None) -> Peak:
        """Measure the peak by a short closed loop."""
        with self.progress.step("Finding the peak") as step:
            peak = await find_peak(
                self.stage, scheme=scheme or self.plan.scheme, seconds=self.plan.peak_s
            )
            step.note(f"{peak.per_second:,.0f} payments/s")
        return peak

    @asynccontextmanager
    async def under_load(
        self, order: Order
    ) -> AsyncIterator[tuple[Running, asyncio.Task[OpenLoop]]]:
        """Ask at a fixed rate while the block makes its trouble; gives the run and its end."""
        running = await self.open_loop.begin(order)
        ending = asyncio.create_task(running.finish())
        try:
            yield running, ending
        finally:
            ending.cancel()

    async def settled(self) -> float | None:
        """Wait until no payment is in doubt; returns the seconds it took, None when some stay."""
        began_s = time.monotonic()
        with self.progress.step("Waiting until no payment is in doubt") as step:
            if await books.until_settled(
                self.stage.connection,
                SETTLED_WITHIN_S,
                lambda count: step.note(f"{count} are" if count else "none is"),
            ):
                return None
        return time.monotonic() - began_s

    async def broken(self, *runs: OpenLoop, schemes: tuple[str, ...] = ()) -> list[str]:
        """Return what of the answers and of the books does not hold, in sentences.

        Args:
            schemes: that were paid over; the plan's by default.
        """
        found = [sentence for run in runs for sentence in run.wrong]
        with self.progress.step("Checking the books") as step:
            found += await self.stage.broken(*(schemes or (self.plan.scheme,)))
            step.note("they hold" if not found else "THEY DO NOT HOLD")
        return found

    async def reconnect(self) -> None:
        """Open the connection to the database anew, the meters' as well, once the server is back.

        Raises:
            SandboxError: it is not back in time.
        """
        self.stage.connection.terminate()
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while True:
            try:
                connection = await connect(self.stage.sandbox)
            except (OSError, asyncpg.PostgresError) as error:
                if time.monotonic() > deadline:
                    raise SandboxError(f"PostgreSQL is not back: {error}") from error
                await asyncio.sleep(POLL_S)
            else:
                self.stage = replace(self.stage, connection=connection)
                self.stage.meters.read_over(connection)
                return

    async def is_breaker_open(self, scheme: str) -> bool:
        """Whether a worker keeps away from a scheme's processor; one of several, chance says which.

        Raises:
            SandboxError: the gateway tells no metrics.
        """
        async with self.stage.http.get(f"{self.stage.sandbox['base_url']}/metrics") as answer:
            text = await answer.text()
        label = f'connector="{scheme}"'
        found = [
            line for line in text.splitlines() if line.startswith(f"{BREAKER}{{") and label in line
        ]
        if not found:
            raise SandboxError(f"/metrics tells nothing of {scheme}'s circuit breaker")
        return any(float(line.rpartition(" ")[2]) > 0 for line in found)


@asynccontextmanager
async def drilling(
    plan: Plan, *, sandbox_file: Path | None, loadtests: Path, progress: Progress
) -> AsyncIterator[Drilling]:
    """Seed a sandbox and open what a drill needs; everything of ours is gone afterwards.

    Args:
        sandbox_file: of a running sandbox; by default one is started.
        loadtests: the repository's folder of that name.
    """
    async with (
        open_stage(
            sandbox_file=sandbox_file,
            loadtests=loadtests,
            users=plan.users,
            progress=progress,
            workers=plan.workers,
        ) as stage,
        open_generator(stage) as generator,
    ):
        drill = Drilling(stage, generator, plan, progress)
        try:
            yield drill
        finally:
            # Not the stage's own, when the server was gone meanwhile.
            drill.stage.connection.terminate()
