"""Laws of scale on the sandbox: payments that wait, one hot limit; the others are named here too.

What a payment takes is its gateway's and PostgreSQL's CPU; where the question is what several
processes do together, it is time by the clock, over both cores, with the generators on them as
well. Each law checks the books after it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any

from gateway.bench.beside import NAME, Neighbour, beside
from gateway.bench.crowd import complaints, rate_of, two_gateways, until_capped
from gateway.bench.hosts_law import hosts
from gateway.bench.rows import Law, Scale
from gateway.bench.stored_law import stored
from gateway.bench.workers_law import workers
from gateway.measuring import config
from gateway.measuring.closed_loop import closed_loop
from gateway.measuring.config import CAP, CAPPED, DIRECT, HOT
from gateway.measuring.stage import Stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress, Step

SCHEME = "visa"
ROUNDS = 3
# As many payments a second are let in while all that shall wait come.
RAMP_PER_S, POLL_S = 1_000.0, 0.1
NEARLY_ALL = 0.95


def _us(per_second: float) -> float:
    return 1e6 / per_second


# Payments in flight ---------------------------------------------------------------------------


async def in_flight(stage: Stage, progress: Progress, scale: Scale) -> Law:
    """Let more and more payments wait for VISA, in a gateway with room for them.

    As many are asked for a second at each size, as far as that goes: the more wait, the longer each
    does.
    """
    own = stage.sandbox_file.parent / "config"
    environment = config.widen(own, stage.work / "wide")
    costs, broken = [], []
    with progress.step("law-in-flight") as step:
        async with beside(stage, environment) as neighbour:
            await _wait_in_flight(stage, neighbour, 10, 0.0, scale.seconds, step)
            idle_kb = neighbour.pss_kb()
            most_kb = idle_kb
            for count, wait_s in scale.in_flight:
                us, pss_kb, told = await _wait_in_flight(
                    stage, neighbour, count, wait_s, scale.seconds, step
                )
                costs.append((count, us))
                most_kb = max(most_kb, pss_kb)
                broken += complaints([told])
        step.note("checking the books")
        broken += await stage.broken(SCHEME)
    first = costs[0][1]
    most = scale.in_flight[-1][0]
    return Law(
        row="law-in-flight",
        what="CPU of gateway and PostgreSQL",
        grows="payments in flight, waiting on a slow processor",
        points=tuple((count, us, us / first) for count, us in costs),
        goal=1.3,
        note=(
            f"{(most_kb - idle_kb) / most:.1f} kB of the gateway's memory (PSS) a payment at "
            f"{most:,}, its client's connection included. Few that wait share small batches, and "
            "are dear for it"
        ),
        broken=tuple(broken),
    )


async def _wait_in_flight(
    stage: Stage, neighbour: Neighbour, count: int, wait_s: float, seconds: float, step: Step
) -> tuple[float, int, Mapping[str, Any]]:
    """Have so many payments wait so long each; returns CPU us a payment, PSS, what was told."""
    window_s = max(seconds, wait_s)
    ramp_s = 1.0 + count / RAMP_PER_S
    step.note(f"{count:,} in flight")
    if wait_s:
        await stage.fault(SCHEME, kind="delay", rate=1.0, seconds=wait_s)
    try:
        load = closed_loop(
            stage.generator,
            port=neighbour.port,
            clients=count,
            seconds=ramp_s + window_s,
            scheme=SCHEME,
            ids_file=stage.ids_file,
        )
        loading = asyncio.ensure_future(load)
        try:
            if wait_s:
                await _until_in_flight(stage, neighbour, count, ramp_s)
            us, pss_kb = await _window(stage, neighbour, window_s)
        finally:
            told = await loading
    finally:
        await stage.heal(SCHEME)
    return us, pss_kb, told


async def _until_in_flight(stage: Stage, neighbour: Neighbour, count: int, within_s: float) -> None:
    name = f'oqim_connector_in_flight{{connector="{SCHEME}"}}'
    deadline = time.monotonic() + within_s
    while await neighbour.gauge(stage.http, name) < count * NEARLY_ALL:
        if time.monotonic() > deadline:
            # The window is measured all the same; how many waited is a matter of the rate.
            return
        await asyncio.sleep(POLL_S)


async def _window(stage: Stage, neighbour: Neighbour, seconds: float) -> tuple[float, int]:
    """Measure for a while; returns CPU us a payment, and the memory in use at its end."""
    entries = await neighbour.gauge(stage.http, "oqim_journal_entries")
    before = await stage.meters.read()
    await asyncio.sleep(seconds)
    after = await stage.meters.read()
    # An intent and an outcome each.
    payments = (await neighbour.gauge(stage.http, "oqim_journal_entries") - entries) / 2
    spent_s = sum(after.cpu_s[name] - before.cpu_s[name] for name in (NAME, "postgres"))
    if not payments:
        raise SandboxError("no payment was made while many waited")
    return spent_s * 1e6 / payments, neighbour.pss_kb()


# One hot limit --------------------------------------------------------------------------------


async def hot(stage: Stage, progress: Progress, scale: Scale) -> Law:
    """Pay one merchant by two workers, without a limit of its own and with one that all share."""
    rates: dict[str, list[float]] = {DIRECT: [], HOT: []}
    broken: list[str] = []
    async with two_gateways(stage, progress, "law-hot") as (step, both):
        for number in range(ROUNDS + 1):
            for scheme in (DIRECT, HOT):
                step.note(f"round {number} of {ROUNDS}, {scheme}")
                told = await both.load(2, scheme=scheme, seconds=scale.seconds)
                broken += complaints(told)
                if number:
                    rates[scheme].append(rate_of(told))
        step.note("until the limit is reached")
        broken += await until_capped(stage, both, CAPPED, scale.seconds)
        step.note("checking the books")
        broken += await stage.broken(DIRECT, HOT, CAPPED)
    times = median(cold / one for cold, one in zip(rates[DIRECT], rates[HOT], strict=True))
    return Law(
        row="law-hot",
        what="time by the clock between two payments",
        grows="one merchant's limit that every payment takes from, by 2 workers",
        points=((1, _us(median(rates[DIRECT])), 1.0), (2, _us(median(rates[HOT])), times)),
        goal=1.5,
        note=(
            f"{median(rates[DIRECT]):,.0f} and {median(rates[HOT]):,.0f} payments/s; of a limit of "
            f"{CAP:,} payments, {CAP:,} were let through"
        ),
        labels=("none", "one"),
        broken=tuple(dict.fromkeys(broken)),
    )


Measure = Callable[[Stage, Progress, Scale], Awaitable[Law]]
LAWS: dict[str, Measure] = {
    "law-in-flight": in_flight,
    "law-workers": workers,
    "law-hot": hot,
    "law-hosts": hosts,
    "law-stored": stored,
}
