"""Drills in which something breaks under a flat rate: a processor, or the database itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.drills.drilling import SETTLED_WITHIN_S, Drilling
from gateway.drills.report import Bar, Findings, table, words
from gateway.measuring.open_loop import LATE_MS_OF_COUNTS, Order, Phase, Row
from gateway.sandbox.errors import SandboxError

SCHEMES = ("visa", "humo", "uzcard")
# HUMO's payments are the dearest: a share of its peak is one of the mix as well.
DEAREST = "humo"
SHARE = 0.3
PART_S = 20.0
# How much of the others' rate and latency may suffer.
OTHERS_COMPLETE_PERCENT = 99.0
OTHERS_P99_TIMES, OTHERS_SLACK_MS = 2.0, 25.0
BREAKER_EVERY_S = 0.2
CLOSES_WITHIN_S = 60.0

FAILOVER_BEFORE_S = 5.0
FAILOVER_S = 25.0
OUTAGE_GOAL_S = 10.0
DATABASE = "postgres"
# Requests that wait for the database hold connections, and the rate must be kept meanwhile.
CONNECTIONS = 2_000


@dataclass(slots=True)
class Watch:
    """When a circuit breaker was seen to open and to close, by `time.perf_counter`."""

    opened_s: float | None = None
    closed_s: float | None = None

    def see(self, is_open: bool) -> None:
        """Take one look into account; half-open counts as open."""
        now_s = time.perf_counter()
        if is_open:
            self.closed_s = None
            if self.opened_s is None:
                self.opened_s = now_s
        elif self.opened_s is not None and self.closed_s is None:
            self.closed_s = now_s


async def failing_processor(drill: Drilling) -> Findings:
    """One processor falls silent under a flat rate over all three: the others must not notice."""
    found, failing = Findings("failing-processor"), drill.plan.scheme
    rate, peak = await drill.rate(SHARE, scheme=DEAREST)
    found.add_peak(peak, DEAREST)
    part_s = drill.plan.seconds or PART_S
    order = Order([Phase(rate, 3 * part_s)], dict.fromkeys(SCHEMES, 1.0), connections=CONNECTIONS)
    watch = Watch()
    with drill.progress.step(f"Asking {rate:,.0f} times a second over all three") as step:
        async with drill.under_load(order) as (running, ending):
            fails_s = running.began_s + order.warm_up_s + part_s
            step.note("all is well")
            await _until(fails_s, ending)
            step.note(f"{failing} is silent")
            try:
                await drill.stage.fault(failing, kind="drop_request", rate=1.0)
                await _watch(drill, failing, watch, fails_s + part_s, ending)
            finally:
                await drill.stage.heal(failing)
            healed_s = time.perf_counter()
            step.note(f"{failing} answers again")
            await _watch(drill, failing, watch, healed_s + CLOSES_WITHIN_S, ending, until_shut=True)
            run = await ending
    found.add_run("All three", run)
    from_s, to_s = order.warm_up_s + part_s, order.warm_up_s + 2 * part_s
    _others(found, [row for row in run.rows if row.scheme != failing], from_s, to_s)
    found.lines.append(f"  {failing} over all of it: {words(run.by_scheme[failing])}")
    _breaker(found, watch, fails_s=fails_s, healed_s=healed_s)
    _doubt(found, run.payments.statuses.get("202", 0), await drill.settled())
    found.broken = await drill.broken(run, schemes=SCHEMES)
    return found


async def _until(at_s: float, ending: asyncio.Task[object]) -> None:
    """Wait until a moment of `time.perf_counter`, or until the run ends."""
    await asyncio.wait({ending}, timeout=max(0.0, at_s - time.perf_counter()))


async def _watch(
    drill: Drilling,
    scheme: str,
    watch: Watch,
    until_s: float,
    ending: asyncio.Task[object],
    *,
    until_shut: bool = False,
) -> None:
    """Look at a breaker again and again.

    Args:
        until_shut: stop as soon as it is seen closed again.
    """
    while time.perf_counter() < until_s and not (until_shut and ending.done()):
        watch.see(await drill.is_breaker_open(scheme))
        if until_shut and (watch.opened_s is None or watch.closed_s is not None):
            return
        await asyncio.sleep(BREAKER_EVERY_S)


def _others(found: Findings, rows: list[Row], from_s: float, to_s: float) -> None:
    """Compare the other schemes while one fails with themselves before."""
    shown = []
    for scheme in sorted({row.scheme for row in rows}):
        mine = [row for row in rows if row.scheme == scheme]
        calm, amid = (
            [row for row in mine if first <= row.at_s < last]
            for first, last in ((0.0, from_s), (from_s, to_s))
        )
        before_ms, amid_ms = (
            sorted(row.p99_ms for row in part)[len(part) // 2] for part in (calm, amid)
        )
        share = sum(row.completed for row in amid) / (sum(row.asked for row in amid) or 1) * 100
        shown.append((scheme, f"{before_ms:.1f}", f"{amid_ms:.1f}", f"{share:.2f}"))
        limit_ms = before_ms * OTHERS_P99_TIMES + OTHERS_SLACK_MS
        found.bars += [
            Bar(f"{scheme}: taken meanwhile", share, OTHERS_COMPLETE_PERCENT, "%", is_least=True),
            Bar(f"{scheme}: p99 meanwhile", amid_ms, round(limit_ms, 1), "ms"),
        ]
        found.figures[f"{scheme}_others"] = {
            "p99_before_ms": before_ms, "p99_meanwhile_ms": amid_ms, "taken_percent": share,
        }  # fmt: skip
    found.lines += table(("others", "p99 before, ms", "meanwhile, ms", "taken, %"), shown)


def _breaker(found: Findings, watch: Watch, *, fails_s: float, healed_s: float) -> None:
    opened_s = None if watch.opened_s is None else watch.opened_s - fails_s
    closed_s = None if watch.closed_s is None else watch.closed_s - healed_s
    found.say(
        "Its circuit breaker "
        + (
            "was never seen open"
            if opened_s is None
            else f"opened {opened_s:.1f} s after it fell silent, and "
            + (
                "was not seen closed again"
                if closed_s is None
                else f"was closed {max(0.0, closed_s):.1f} s after it answered again"
            )
        ),
        breaker_opened_s=opened_s,
        breaker_closed_s=closed_s,
    )
    found.bars.append(Bar("the breaker closes again", closed_s, CLOSES_WITHIN_S, "s"))


def _doubt(found: Findings, in_doubt: int, settled_s: float | None) -> None:
    """Tell how many payments were answered 202, and whether all of them ended."""
    ends = "some of them never ended" if settled_s is None else "none was in doubt"
    after = "" if settled_s is None else f" {settled_s:.1f} s after the last answer"
    found.say(
        f"{in_doubt:,} payments were answered 202; {ends}{after}",
        answered_202=in_doubt,
        settled_s=settled_s,
    )


# The database -----------------------------------------------------------------------------------


async def failover(drill: Drilling) -> Findings:
    """PostgreSQL is killed under a flat rate and started again: for how long do payments fail?"""
    found = Findings("failover")
    rate, peak = await drill.rate(SHARE)
    found.add_peak(peak, drill.plan.scheme)
    seconds = drill.plan.seconds or FAILOVER_S
    before_s = min(FAILOVER_BEFORE_S, seconds / 2)
    order = Order(
        [Phase(rate, before_s + seconds)],
        {drill.plan.scheme: 1.0},
        connections=CONNECTIONS,
        warm_up_s=drill.plan.warm_up_s,
        late_ms=LATE_MS_OF_COUNTS,
    )
    with drill.progress.step(f"Asking {rate:,.0f} times a second") as step:
        async with drill.under_load(order) as (running, ending):
            await _until(running.began_s + order.warm_up_s + before_s, ending)
            # The sandbox starts it again, and it recovers from its log.
            os.kill(database_pid(drill.stage.sandbox_file.parent), signal.SIGKILL)
            killed_s = time.perf_counter() - running.began_s
            step.note("PostgreSQL was killed")
            run = await ending
    found.add_run("Through the failover", run)
    if run.first_failed_s is None or run.last_failed_s is None:
        outage_s = 0.0
        found.say("No payment failed", outage_s=0.0)
    else:
        outage_s = run.last_failed_s - run.first_failed_s
        found.say(
            f"The first payment that was not taken was due {run.first_failed_s - killed_s:+.2f} s "
            f"from the kill, the last {outage_s:.2f} s later",
            killed_s=killed_s,
            outage_s=outage_s,
        )
    found.bars.append(Bar("first to last error", outage_s, OUTAGE_GOAL_S, "s"))
    with drill.progress.step("Asking again for what nobody answered") as step:
        settled = await drill.open_loop.settle(SETTLED_WITHIN_S)
        step.note(f"{settled['unknown'] - settled['still_unknown']} of {settled['unknown']} known")
    found.say(_settled_words(settled), settled=dict(settled))
    await drill.reconnect()
    _doubt(found, run.payments.statuses.get("202", 0), await drill.settled())
    found.broken = await drill.broken(run)
    if settled["still_unknown"]:
        found.broken.append(f"{settled['still_unknown']} payments never had an answer")
    return found


def _settled_words(settled: Mapping[str, Any]) -> str:
    if not settled["unknown"]:
        return "Every answer said what became of its payment"
    known = settled["unknown"] - settled["still_unknown"]
    return (
        f"{settled['unknown']:,} payments had an answer that leaves all open, or none; asked for "
        f"again with their keys, {known:,} of them were known within {settled['seconds']:.1f} s"
    )


def database_pid(data_dir: Path) -> int:
    """Return the number of the sandbox's own PostgreSQL.

    Raises:
        SandboxError: it has none of its own.
    """
    path = data_dir / "run" / f"{DATABASE}.json"
    try:
        pid: int = json.loads(path.read_text())["pid"]
    except OSError as error:
        raise SandboxError("this sandbox has no PostgreSQL of its own to kill") from error
    return pid
