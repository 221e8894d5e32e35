"""Drills of load alone: latency at half the peak, a spike, three times the peak."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.drills.drilling import Drilling
from gateway.drills.report import Bar, Findings
from gateway.measuring.open_loop import LATE_MS_OF_COUNTS, Order, Phase, Row, shed_cost_us

LATENCY_SHARE = 0.5
P50_GOAL_MS, P99_GOAL_MS = 10.0, 50.0
LATENCY_S = 20.0

OVERLOAD_TIMES = 3.0
COMPLETES_GOAL_PERCENT = 80.0
SHED_COST_GOAL_PERCENT = 10.0
OVERLOAD_S = 15.0
# More than one worker has work with at once, so that it is the gateway that turns away.
OVERLOAD_CONNECTIONS = 4_000

SPIKE_SHARE, SPIKE_TIMES = 0.3, 5.0
SPIKE_S = 10.0
SPIKE_ROW_S = 0.5
SPIKE_CONNECTIONS = 2_000
# Latency is back when it is within this of what it was, to the end.
BACK_TIMES, BACK_SLACK_MS = 2.0, 10.0


async def latency(drill: Drilling) -> Findings:
    """Half the peak in an open loop: how long payments take when nothing is short."""
    found = Findings("latency")
    rate, peak = await drill.rate(LATENCY_SHARE)
    found.add_peak(peak, drill.plan.scheme)
    seconds = drill.plan.seconds or LATENCY_S
    order = Order([Phase(rate, seconds)], {drill.plan.scheme: 1.0}, warm_up_s=drill.plan.warm_up_s)
    with drill.progress.step(f"Asking {rate:,.0f} times a second for {seconds:g} s"):
        run = await drill.open_loop.run(order)
    found.add_run("Half the peak" if peak else "Fixed rate", run)
    found.bars += [
        Bar("p50", run.p50_ms, P50_GOAL_MS, "ms"),
        Bar("p99", run.p99_ms, P99_GOAL_MS, "ms"),
    ]
    found.broken = await drill.broken(run)
    return found


async def overload(drill: Drilling) -> Findings:
    """Three times the peak: how much still completes, and what it costs to turn away the rest."""
    found = Findings("overload")
    peak = await drill.peak()
    found.add_peak(peak, drill.plan.scheme)
    rate = drill.plan.rate or peak.per_second * OVERLOAD_TIMES
    seconds = drill.plan.seconds or OVERLOAD_S
    order = Order(
        [Phase(rate, seconds)],
        {drill.plan.scheme: 1.0},
        connections=OVERLOAD_CONNECTIONS,
        # Before the meters are read there is no load, so that all they count is of the order.
        warm_up_s=0.0,
        late_ms=LATE_MS_OF_COUNTS,
    )
    with drill.progress.step(f"Asking {rate:,.0f} times a second for {seconds:g} s"):
        before = await drill.stage.meters.read()
        run = await drill.open_loop.run(order)
        after = await drill.stage.meters.read()
    found.add_run("Overload", run)
    cpu_us = (after.cpu_s["gateway"] - before.cpu_s["gateway"]) * 1e6
    cost = shed_cost_us(run, cpu_us, admitted_us=peak.cpu_us)
    share = run.completed_per_s / peak.per_second * 100
    found.say(
        f"{share:.0f}% of the peak completed; {run.shed:,} requests were shed"
        + (f", at {cost:,.0f} us of the gateway's CPU each" if cost is not None else ""),
        completed_percent_of_peak=share,
        shed=run.shed,
        shed_cost_us=cost,
    )
    of_admitted = None if cost is None else cost / peak.cpu_us * 100
    found.bars += [
        Bar("completes, of the peak", share, COMPLETES_GOAL_PERCENT, "%", is_least=True),
        Bar(
            "a shed request's cost, of an admitted one's", of_admitted, SHED_COST_GOAL_PERCENT, "%"
        ),
    ]
    await drill.settled()
    found.broken = await drill.broken(run)
    return found


async def spike(drill: Drilling) -> Findings:
    """A flat rate, five times as much for some seconds, and flat again: when is it over?"""
    found = Findings("spike")
    base, peak = await drill.rate(SPIKE_SHARE)
    found.add_peak(peak, drill.plan.scheme)
    seconds = drill.plan.seconds or SPIKE_S
    phases = [Phase(base, seconds), Phase(base * SPIKE_TIMES, seconds), Phase(base, 3 * seconds)]
    order = Order(
        phases,
        {drill.plan.scheme: 1.0},
        connections=SPIKE_CONNECTIONS,
        bucket_s=SPIKE_ROW_S,
        warm_up_s=drill.plan.warm_up_s,
    )
    with drill.progress.step(
        f"Asking {base:,.0f}, {base * SPIKE_TIMES:,.0f} and {base:,.0f} times a second"
    ):
        run = await drill.open_loop.run(order)
    found.add_run("Spike", run)
    begins_s = order.warm_up_s + seconds
    before, within, after = (
        [row for row in run.rows if first <= row.at_s < last]
        for first, last in (
            (0.0, begins_s),
            (begins_s, begins_s + seconds),
            (begins_s + seconds, float("inf")),
        )
    )
    calm_ms = sorted(row.p99_ms for row in before)[len(before) // 2]
    limit_ms = calm_ms * BACK_TIMES + BACK_SLACK_MS
    back_s = back_after(after, limit_ms)
    found.say(
        f"p99 was {calm_ms:.1f} ms before, {max(row.p99_ms for row in within):.1f} ms at most "
        f"within the spike, where {sum(row.asked - row.completed for row in within):,} payments "
        "were not taken",
        calm_p99_ms=calm_ms,
        spike_p99_ms=max(row.p99_ms for row in within),
        back_s=back_s,
    )
    found.say(
        "It was not back at the end of the drill"
        if back_s is None
        else f"Within {limit_ms:.0f} ms again, and all taken, {back_s:g} s after the spike's end"
    )
    found.bars.append(Bar("back after the spike", back_s, 2 * seconds, "s"))
    await drill.settled()
    found.broken = await drill.broken(run)
    return found


def back_after(rows: Sequence[Row], limit_ms: float) -> float | None:
    """Return the seconds until every later row is within a limit and was taken whole.

    Args:
        rows: of `SPIKE_ROW_S` each, one after another.

    Returns:
        0.0 when all are; None when the last is not.
    """
    bad = [
        number
        for number, row in enumerate(rows, start=1)
        if row.p99_ms > limit_ms or row.completed < row.asked
    ]
    if bad and bad[-1] == len(rows):
        return None
    return SPIKE_ROW_S * (bad[-1] if bad else 0)
