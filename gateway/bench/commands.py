"""The command line of the benchmark; what it needs is imported when it is run."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts


def bench(
    rows: Annotated[
        list[str] | None, cyclopts.Parameter(help="Rows, or what their names begin with.")
    ] = None,
    /,
    *,
    quick: Annotated[
        bool, cyclopts.Parameter(help="Two short pairs a row instead of five.")
    ] = False,
    workers: Annotated[int, cyclopts.Parameter(help="Gateway processes.")] = 1,
    full: Annotated[
        bool,
        cyclopts.Parameter(help="Laws up to ten million: an hour, 60 GB of disk, 10 of memory."),
    ] = False,
    core: Annotated[
        bool, cyclopts.Parameter(help="Only what needs no service: decisions, tokens, messages.")
    ] = False,
    write: Annotated[
        bool, cyclopts.Parameter(help="Write the pages though not all rows were run.")
    ] = False,
    sandbox_file: Annotated[
        Path | None, cyclopts.Parameter(help="Use this running sandbox (its sandbox.json).")
    ] = None,
) -> None:
    """Measure payments, decisions and messages against their peers, and how costs grow.

    All rows take less than fifteen minutes, and are then written to docs/performance.md and
    README.md.
    """
    from gateway.bench import run as benchmark
    from gateway.bench.rows import FULL, LAWS, MICRO_ROWS, QUICK, Plan

    chosen = [*(rows or ()), *((*MICRO_ROWS, *LAWS) if core else ())]
    plan = QUICK if quick else Plan()
    if full:
        plan = replace(plan, scale=FULL)
    status = benchmark.run(
        chosen,
        replace(plan, workers=workers),
        sandbox_file=sandbox_file,
        is_written=write or not (chosen or quick),
    )
    raise SystemExit(status)


def profile(
    *,
    seconds: Annotated[int, cyclopts.Parameter(help="How long each of two looks takes.")] = 20,
    scheme: Annotated[str, cyclopts.Parameter(help="Over which the load pays.")] = "visa",
    clients: Annotated[int, cyclopts.Parameter(help="How many pay at once.")] = 64,
    out: Annotated[Path, cyclopts.Parameter(help="The flame graph.")] = Path("dist/profile.svg"),
) -> None:
    """Draw where the gateway's time goes under load, and list the functions it goes to."""
    from gateway.bench import profiling

    order = profiling.Order(seconds=seconds, scheme=scheme, clients=clients, out=out)
    raise SystemExit(profiling.run(order))
