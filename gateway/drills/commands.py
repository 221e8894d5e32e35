"""The command line of the drills; what they need is imported when one is made."""

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts.validators import Number

_POSITIVE, _ONE_OR_MORE = Number(gt=0), Number(gte=1)


def drill(
    kind: Annotated[
        Literal["latency", "soak", "spike", "overload", "failing-processor", "failover"],
        cyclopts.Parameter(help="What trouble is made; docs/load-testing.md tells of each."),
    ],
    /,
    *,
    scheme: Annotated[
        Literal["visa", "humo", "uzcard"],
        cyclopts.Parameter(help="Over which is paid; of failing-processor, whose fails."),
    ] = "visa",
    rate: Annotated[
        float | None,
        cyclopts.Parameter(
            help="Requests a second; else a share of the peak, measured first.",
            validator=_ONE_OR_MORE,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        cyclopts.Parameter(
            help="Of what is measured, instead of the usual.", validator=_ONE_OR_MORE
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        cyclopts.Parameter(help="The same in minutes; a soak takes 30.", validator=_POSITIVE),
    ] = None,
    users: Annotated[
        int,
        cyclopts.Parameter(
            help="Seeded, each with three cards and a token.", validator=_ONE_OR_MORE
        ),
    ] = 100_000,
    workers: Annotated[
        int, cyclopts.Parameter(help="Gateway processes.", validator=_ONE_OR_MORE)
    ] = 1,
    strict: Annotated[
        bool, cyclopts.Parameter(help="A goal that is missed ends with status 1 as well.")
    ] = False,
    sandbox_file: Annotated[
        Path | None, cyclopts.Parameter(help="Use this running sandbox (its sandbox.json).")
    ] = None,
) -> None:
    """Make trouble under load, in a sandbox of its own, and tell whether everything holds.

    latency: half the peak, counted from when each request was due. soak: half an hour at a flat
    rate; memory, descriptors and latency must not grow. spike: five times a flat rate for a while.
    overload: three times the peak. failing-processor: one processor falls silent. failover:
    PostgreSQL is killed. Status 1: the books do not hold.
    """
    from gateway.drills import run as drills
    from gateway.drills.drilling import Plan

    plan = Plan(
        scheme=scheme,
        rate=rate,
        seconds=minutes * 60 if minutes is not None else seconds,
        users=users,
        workers=workers,
    )
    raise SystemExit(drills.run(kind, plan, sandbox_file=sandbox_file, is_strict=strict))
