"""`oqim bench`: the comparison, all of it by one command, and its pages.

Durable payments a second through the whole path against a bare handler, pgbench and the usual way
to build a gateway; latency and overload at a fixed rate; small things against their peers; scaling
laws. Everything runs here: gateway, PostgreSQL, Valkey, the processors' simulators and the
generator. After each group of rows of load the books are checked: a run that breaks one has no
speed, and ends the program with 1.

It needs the repository's `loadtests/` folder beside the packages.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from gateway.bench import (
    core_laws,
    fixed_rate,
    limits_library,
    page,
    results,
    scale_laws,
    small_rows,
)
from gateway.bench.load import NO_IMMEDIATE, LoadBench
from gateway.bench.results import Report
from gateway.bench.rows import (
    DIRECT,
    LOAD_ROWS,
    OPEN_ROWS,
    SCALE_LAWS,
    Plan,
    groups,
    select,
)
from gateway.measuring.conditions import machine, servers
from gateway.measuring.helpers import ROOT
from gateway.measuring.stage import Stage, open_stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

# The books of ten million payments take their time.
BOOKS_WITHIN_S = 600.0


async def _measure_load(
    names: Sequence[str],
    plan: Plan,
    stage: Stage,
    report: Report,
    progress: Progress,
) -> bool:
    """Measure rows on a sandbox. Returns whether the books of all hold."""
    is_whole = True
    report.learn(await servers(stage.connection, stage.sandbox["redis_url"]))
    bench = LoadBench(stage, plan)
    for group in groups([row for row in LOAD_ROWS if row.name in names]):
        for measured in await bench.measure(group, progress):
            report.add(results.figures(measured))
            is_whole &= _is_whole(measured.row.name, measured.broken, progress)
    for name in OPEN_ROWS:
        if name in names and name.endswith(DIRECT) and not stage.has_immediate:
            progress.warn(f"{name} is left out: {NO_IMMEDIATE}.")
        elif name in names:
            one = await fixed_rate.OPEN[name](stage, progress, seconds=2 * plan.seconds)
            report.add(results.open_figures(one))
            is_whole &= _is_whole(name, one.broken, progress)
    for name in SCALE_LAWS:
        if name in names and not stage.has_immediate:
            progress.warn(f"{name} is left out: it needs a sandbox of the run's own.")
        elif name in names:
            law = await scale_laws.LAWS[name](stage, progress, plan.scale)
            report.add(results.small_figures(law))
            is_whole &= _is_whole(name, law.broken, progress)
    return is_whole


def _is_whole(name: str, broken: Sequence[str], progress: Progress) -> bool:
    for sentence in broken:
        progress.error(f"{name}: {sentence}")
    return not broken


def _measure_small(names: Sequence[str], plan: Plan, report: Report, progress: Progress) -> None:
    """Measure what needs no service."""
    for name, measure in (small_rows.MICRO | limits_library.MICRO).items():
        if name in names:
            for ratio in measure(rounds=plan.rounds, progress=progress):
                report.add(results.small_figures(ratio))
    for name, law in core_laws.LAWS.items():
        if name in names:
            grown = law(rounds=plan.rounds, progress=progress, scale=plan.scale)
            report.add(results.small_figures(grown))


async def _load(
    names: Sequence[str],
    plan: Plan,
    sandbox_file: Path | None,
    loadtests: Path,
    report: Report,
    progress: Progress,
) -> bool:
    if not {*(row.name for row in LOAD_ROWS), *OPEN_ROWS, *SCALE_LAWS} & set(names):
        return True
    async with open_stage(
        sandbox_file=sandbox_file,
        loadtests=loadtests,
        users=plan.users,
        progress=progress,
        workers=plan.workers,
        with_immediate=True,
        command_within_s=BOOKS_WITHIN_S,
    ) as stage:
        return await _measure_load(names, plan, stage, report, progress)


def _run(
    names: Sequence[str],
    plan: Plan,
    *,
    root: Path,
    sandbox_file: Path | None,
    is_written: bool,
    progress: Progress,
) -> int:
    loadtests = root / "loadtests"
    at = datetime.now(tz=UTC)
    conditions = machine() | {"at": f"{at:%Y-%m-%d %H:%M} UTC", "plan": asdict(plan)}
    report = Report(loadtests / "results", at, conditions)
    # The load first: what it leaves in this process must not grow while servers are measured.
    is_whole = asyncio.run(_load(names, plan, sandbox_file, loadtests, report, progress))
    _measure_small(names, plan, report, progress)
    text = page.page(report.conditions, report.rows)
    print(text)
    report.path.with_suffix(".md").write_text(text, encoding="utf-8")
    progress.say(f"Every figure is in {report.path}")
    if is_written and is_whole:
        for path in page.write(root, report.conditions, report.rows):
            progress.say(f"Written to {path}")
    elif is_written:
        progress.error("No page is written: a run that breaks books has no speed.")
    return 0 if is_whole else 1


def run(
    rows: Sequence[str],
    plan: Plan,
    *,
    sandbox_file: Path | None = None,
    is_written: bool = False,
) -> int:
    """Measure rows, print Markdown and keep it in `loadtests/results/`.

    Args:
        rows: names of rows, or what they begin with; none: all.
        sandbox_file: `sandbox.json` of a running sandbox that nobody else uses meanwhile; by
            default one is started for the run.
        is_written: into docs/performance.md and README.md as well.

    Returns:
        The exit code: 0, or 1 when an invariant was broken or nothing could be measured.
    """
    progress = Progress()
    if not (ROOT / "loadtests").is_dir():
        progress.error("The benchmark needs the repository: run `make bench` there.")
        return 1
    try:
        names = select(rows)
        return _run(
            names,
            plan,
            root=ROOT,
            # Helpers run in another folder.
            sandbox_file=sandbox_file.absolute() if sandbox_file else None,
            is_written=is_written,
            progress=progress,
        )
    except SandboxError as error:
        progress.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        progress.warn("Stopped; nothing more is measured.")
        return 130
