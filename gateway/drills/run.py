"""`oqim drill`: one kind of trouble under load, and whether everything holds.

Each drill starts a sandbox of its own (or is given one), seeds users, makes its trouble, tells what
became of it, and ends with the books checked. Figures of times are goals, and missed ones end the
program with 1 only when asked to (`--strict`); books that do not hold always do.

It needs the repository's `loadtests/` folder beside the packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from gateway.drills import report
from gateway.drills.drilling import Drilling, Plan, drilling
from gateway.drills.faults import failing_processor, failover
from gateway.drills.load import latency, overload, spike
from gateway.drills.report import Findings
from gateway.drills.soak import soak
from gateway.measuring.conditions import machine
from gateway.measuring.helpers import ROOT
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

DRILLS: Mapping[str, Callable[[Drilling], Awaitable[Findings]]] = {
    "latency": latency,
    "soak": soak,
    "spike": spike,
    "overload": overload,
    "failing-processor": failing_processor,
    "failover": failover,
}


async def drill(
    kind: str, plan: Plan, *, sandbox_file: Path | None, loadtests: Path, progress: Progress
) -> Findings:
    """Make one drill; everything that it started has ended afterwards."""
    async with drilling(
        plan, sandbox_file=sandbox_file, loadtests=loadtests, progress=progress
    ) as one:
        return await DRILLS[kind](one)


def run(kind: str, plan: Plan, *, sandbox_file: Path | None = None, is_strict: bool = False) -> int:
    """Make a drill, print its report and keep its figures in `loadtests/results/`.

    Args:
        kind: one of `DRILLS`.
        sandbox_file: `sandbox.json` of a running sandbox that nobody else uses meanwhile; by
            default one is started for the drill.
        is_strict: whether a goal that is missed, or a void figure, is a failure.

    Returns:
        The exit code: 0, or 1 when an invariant was broken, a goal asked for was missed, or there
        was nothing to drill on.
    """
    progress = Progress()
    loadtests = ROOT / "loadtests"
    if not loadtests.is_dir():
        progress.error("Drills need the repository: run `make drill` there.")
        return 1
    at = datetime.now(tz=UTC)
    conditions = machine() | {"at": f"{at:%Y-%m-%d %H:%M} UTC", "plan": asdict(plan)}
    try:
        found = asyncio.run(
            drill(
                kind,
                plan,
                # Helpers run in another folder.
                sandbox_file=sandbox_file.absolute() if sandbox_file else None,
                loadtests=loadtests,
                progress=progress,
            )
        )
    except SandboxError as error:
        progress.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        progress.warn("Stopped; nothing was found.")
        return 130
    print(report.text(found, conditions), end="")
    path = report.keep(loadtests / "results", at, found, conditions)
    progress.say(f"Every figure is in {path}")
    return 1 if found.fails(is_strict=is_strict) else 0
