"""The rows at a fixed rate: latency at half the peak, and what is left of it at three times that.

Open loop: a latency is counted from when the request was due, so that no stall hides behind clients
that wait for it. The peak of both is found by a short closed loop first, on the same sandbox.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from gateway.bench.rows import DIRECT, Open
from gateway.measuring import books
from gateway.measuring.open_loop import LATE_MS_OF_COUNTS, OpenLoop, at_rate, find_peak
from gateway.measuring.stage import Stage
from gateway.sandbox.progress import Progress

VISA = "visa"
P50_MS, P99_MS = 10.0, 50.0
OVER, COMPLETED, SHED_COST = 3.0, 0.8, 0.1
# More than the server lets have work with: the rest wait in the generator, counted all the same.
CONNECTIONS_OVER = 3_000


async def latency(stage: Stage, progress: Progress, *, scheme: str, seconds: float) -> Open:
    """Measure latency at half the peak."""
    row = f"latency-{scheme}"
    with progress.step(row) as step:
        step.note("finding the peak")
        peak = await find_peak(stage, scheme=scheme, seconds=seconds / 2)
        step.note(f"{peak.per_second / 2:,.0f} requests a second")
        told = await at_rate(stage, rate=peak.per_second / 2, seconds=seconds, scheme=scheme)
        step.note("checking the books")
        broken = await _broken(stage, scheme, told)
        step.note(f"p50 {told.p50_ms:.1f} ms, p99 {told.p99_ms:.1f} ms")
    return Open(
        row=row,
        what=f"over {scheme}, at half the peak: {told.rate:,.0f} requests/s",
        figures={
            "peak_per_s": peak.per_second,
            "rate_per_s": told.rate,
            "p50_ms": told.p50_ms,
            "p99_ms": told.p99_ms,
            "p999_ms": told.payments.p999_ms,
            "max_ms": told.payments.max_ms,
        },
        cells=(
            (f"p50 under {P50_MS:g} ms", f"{told.p50_ms:.1f} ms", told.p50_ms < P50_MS),
            (f"p99 under {P99_MS:g} ms", f"{told.p99_ms:.1f} ms", told.p99_ms < P99_MS),
        ),
        broken=broken,
        skipped=told.void,
    )


async def overload(stage: Stage, progress: Progress, *, scheme: str, seconds: float) -> Open:
    """Measure what is completed at three times the peak, and what a shed request costs.

    The gateway's CPU above what the completed payments take, as measured at the peak, is charged to
    the shed requests.
    """
    row = f"overload-{scheme}"
    with progress.step(row) as step:
        step.note("finding the peak")
        peak = await find_peak(stage, scheme=scheme, seconds=seconds / 2)
        rate = peak.per_second * OVER
        step.note(f"{rate:,.0f} requests a second")
        before = await stage.meters.read()
        told = await at_rate(
            stage,
            rate=rate,
            seconds=seconds,
            scheme=scheme,
            connections=CONNECTIONS_OVER,
            replays=0.0,
            refusals=0.0,
            warm_up_s=0.0,
            late_ms=LATE_MS_OF_COUNTS,
        )
        after = await stage.meters.read()
        step.note("checking the books")
        broken = await _broken(stage, scheme, told)
        share = told.completed_per_s / peak.per_second
        cpu_us = (after.cpu_s["gateway"] - before.cpu_s["gateway"]) * 1e6
        left_us = max(0.0, cpu_us - told.payments.completed * peak.cpu_us)
        cost = left_us / max(1, told.payments.shed) / peak.cpu_us
        step.note(f"{share:.2f} of the peak, a shed request {cost:.3f} of an admitted one")
    return Open(
        row=row,
        what=f"over {scheme}, at three times the peak: {rate:,.0f} requests/s",
        figures={
            "peak_per_s": peak.per_second,
            "rate_per_s": told.rate,
            "completed_per_s": told.completed_per_s,
            "share_of_peak": share,
            "shed": told.payments.shed,
            "failed": told.payments.failed,
            "shed_cost": cost,
            "p99_ms": told.p99_ms,
        },
        cells=(
            (f"at least {COMPLETED:.0%} of the peak", f"{share:.0%}", share >= COMPLETED),
            (
                f"a shed request under {SHED_COST:.0%} of an admitted one",
                f"{cost:.1%}",
                cost < SHED_COST,
            ),
        ),
        broken=broken,
        skipped=told.void,
    )


async def _broken(stage: Stage, scheme: str, told: OpenLoop) -> tuple[str, ...]:
    simulator = None if scheme == DIRECT else stage.sandbox["simulators"][scheme]
    found = await books.any_broken(
        stage.connection,
        stage.http,
        simulators={scheme: simulator},
        ids_file=stage.ids_file,
    )
    return (*told.wrong, *found)


Measure = Callable[..., Awaitable[Open]]
OPEN: dict[str, Measure] = {
    "latency-direct": partial(latency, scheme=DIRECT),
    "latency-visa": partial(latency, scheme=VISA),
    "overload-visa": partial(overload, scheme=VISA),
}
