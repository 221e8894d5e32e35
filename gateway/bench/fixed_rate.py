"""The rows at a fixed rate: latency at half the peak, and what is left of it at three times that.

Open loop: a latency is counted from when the request was due, so that no stall hides behind clients
that wait for it. The peak of both is found by a short closed loop first, on the same sandbox.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.bench.rows import DIRECT, Open
from gateway.measuring.open_loop import (
    LATE_MS_OF_COUNTS,
    OpenLoop,
    Peak,
    at_rate,
    find_peak,
    shed_cost_us,
)
from gateway.measuring.stage import Stage
from gateway.sandbox.progress import Progress

VISA = "visa"
HALF, P50_MS, P99_MS = 0.5, 10.0, 50.0
OVER, COMPLETED, SHED_COST = 3.0, 0.8, 0.1
# More than the server lets have work with: the rest wait in the generator, counted all the same.
CONNECTIONS_OVER = 3_000


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a run at a rate that is so many times the peak.

    Attributes:
        cpu_us: of the gateway's processes, all of the run.
        broken: what of the answers or the books does not hold.
    """

    peak: Peak
    told: OpenLoop
    cpu_us: float
    broken: tuple[str, ...]

    @property
    def share(self) -> float:
        """Payments taken a second, of the peak."""
        return self.told.completed_per_s / self.peak.per_second

    @property
    def shed_cost(self) -> float | None:
        """What a shed request costs, of an admitted one; None when nothing was shed."""
        cost_us = shed_cost_us(self.told, self.cpu_us, admitted_us=self.peak.cpu_us)
        return None if cost_us is None else cost_us / self.peak.cpu_us


async def _at_times_the_peak(
    times: float,
    row: str,
    stage: Stage,
    progress: Progress,
    *,
    scheme: str,
    seconds: float,
    words: Callable[[Found], str],
    **how: Any,
) -> Found:
    """Find the peak, ask at a rate that is so many times it, and check the books.

    Args:
        words: what is told of it in a few words.
        how: further arguments of `at_rate`.
    """
    with progress.step(row) as step:
        step.note("finding the peak")
        peak = await find_peak(stage, scheme=scheme, seconds=seconds / 2)
        rate = peak.per_second * times
        step.note(f"{rate:,.0f} requests a second")
        before = await stage.meters.read()
        told = await at_rate(stage, rate=rate, seconds=seconds, scheme=scheme, **how)
        after = await stage.meters.read()
        step.note("checking the books")
        broken = (*told.wrong, *await stage.broken(scheme))
        cpu_us = (after.cpu_s["gateway"] - before.cpu_s["gateway"]) * 1e6
        found = Found(peak, told, cpu_us, broken)
        step.note(words(found))
    return found


async def latency(stage: Stage, progress: Progress, *, scheme: str, seconds: float) -> Open:
    """Measure latency at half the peak."""
    row = f"latency-{scheme}"
    found = await _at_times_the_peak(
        HALF,
        row,
        stage,
        progress,
        scheme=scheme,
        seconds=seconds,
        words=lambda one: f"p50 {one.told.p50_ms:.1f} ms, p99 {one.told.p99_ms:.1f} ms",
    )
    told = found.told
    return Open(
        row=row,
        what=f"over {scheme}, at half the peak: {told.rate:,.0f} requests/s",
        figures={
            "peak_per_s": found.peak.per_second,
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
        broken=found.broken,
        skipped=told.void,
    )


async def overload(stage: Stage, progress: Progress, *, scheme: str, seconds: float) -> Open:
    """Measure what is completed at three times the peak, and what a shed request costs.

    The gateway's CPU above what the completed payments take, as measured at the peak, is charged to
    the shed requests.
    """
    row = f"overload-{scheme}"
    found = await _at_times_the_peak(
        OVER,
        row,
        stage,
        progress,
        scheme=scheme,
        seconds=seconds,
        words=lambda one: (
            f"{one.share:.2f} of the peak; a shed request, of an admitted one: "
            f"{_part(one.shed_cost)}"
        ),
        connections=CONNECTIONS_OVER,
        replays=0.0,
        refusals=0.0,
        warm_up_s=0.0,
        late_ms=LATE_MS_OF_COUNTS,
    )
    told, share, cost = found.told, found.share, found.shed_cost
    return Open(
        row=row,
        what=f"over {scheme}, at three times the peak: {told.rate:,.0f} requests/s",
        figures={
            "peak_per_s": found.peak.per_second,
            "rate_per_s": told.rate,
            "completed_per_s": told.completed_per_s,
            "share_of_peak": share,
            "shed": told.shed,
            "failed": told.payments.failed,
            "p99_ms": told.p99_ms,
        }
        | ({} if cost is None else {"shed_cost": cost}),
        cells=(
            (f"at least {COMPLETED:.0%} of the peak", f"{share:.0%}", share >= COMPLETED),
            (
                f"a shed request under {SHED_COST:.0%} of an admitted one",
                _part(cost),
                cost is not None and cost < SHED_COST,
            ),
        ),
        broken=found.broken,
        skipped=told.void,
    )


def _part(share: float | None) -> str:
    return "none was shed" if share is None else f"{share:.1%}"


Measure = Callable[..., Awaitable[Open]]
OPEN: dict[str, Measure] = {
    "latency-direct": partial(latency, scheme=DIRECT),
    "latency-visa": partial(latency, scheme=VISA),
    "overload-visa": partial(overload, scheme=VISA),
}
