"""The law of workers: quotes a second of one gateway and of two, on cores that all share.

A quote is admission alone: nothing is written, and nobody else is asked. Who takes the time of the
cores meanwhile is told by process, since two workers never have them to themselves.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gateway.bench.beside import NAME
from gateway.bench.crowd import answers_of, complaints, rate_of, two_gateways
from gateway.bench.rows import Law, Scale
from gateway.measuring.config import DIRECT
from gateway.measuring.meters import Reading
from gateway.measuring.stage import Stage
from gateway.sandbox.progress import Progress

ROUNDS = 3
GOAL = 1.7
WORKERS, WAITING, GENERATORS = "the workers asked", "the worker not asked", "the generators"
OTHERS, IDLE = "all other programs", "nobody: idle"
# What a process of the meters is called; the one beside, by how many workers are asked.
NAMED = {
    "gateway": WORKERS,
    "generator": GENERATORS,
    "postgres": "PostgreSQL",
    "valkey": "Valkey",
    "simulators": "the simulators",
    "bench": "the benchmark itself",
}
BESIDE = {1: WAITING, 2: WORKERS}


@dataclass(slots=True)
class Spent:
    """What was asked of so many workers, and who took the cores meanwhile.

    Attributes:
        rates: quotes a second, one a block.
        quotes: of all blocks.
        seconds: of a core, by who took them.
    """

    workers: int
    rates: list[float] = field(default_factory=list)
    quotes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, told: Sequence[Mapping[str, Any]], before: Reading, after: Reading) -> None:
        """Count a block."""
        self.rates.append(rate_of(told))
        self.quotes += answers_of(told)
        named = NAMED | {NAME: BESIDE[self.workers]}
        known = 0.0
        for name, until in after.cpu_s.items():
            used_s = until - before.cpu_s[name]
            known += used_s
            self._take(named.get(name, name), used_s)
        self._take(OTHERS, max(0.0, after.busy_s - before.busy_s - known))
        self._take(IDLE, after.idle_s - before.idle_s)

    def _take(self, name: str, used_s: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + used_s

    @property
    def rate(self) -> float:
        """Quotes a second by the clock, the median of the rounds."""
        return median(self.rates)

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds of a core that a quote took, by who took them."""
        return {name: used_s * 1e6 / self.quotes for name, used_s in self.seconds.items()}

    @property
    def ours_us(self) -> float:
        """Microseconds of a core that a quote took of everything that was run for it."""
        return sum(us for name, us in self.cpu_us.items() if name not in (OTHERS, IDLE))


async def workers(stage: Stage, progress: Progress, scale: Scale) -> Law:
    """Ask for quotes of one worker and of two, each by as many clients.

    Each has seen every user once before: what is compared is not what the second has yet to learn.
    """
    spent = {1: Spent(1), 2: Spent(2)}
    broken: list[str] = []
    async with two_gateways(stage, progress, "law-workers") as (step, both):
        step.note("every user asks both")
        broken += complaints(await both.quote(2, scheme=DIRECT, seconds=None))
        for number in range(ROUNDS + 1):
            for count in (1, 2):
                step.note(f"round {number} of {ROUNDS}, {count} worker(s)")
                before = await stage.meters.read()
                told = await both.quote(count, scheme=DIRECT, seconds=scale.seconds)
                after = await stage.meters.read()
                broken += complaints(told)
                if number:
                    spent[count].add(told, before, after)
    return law_of(spent[1], spent[2], tuple(dict.fromkeys(broken)))


def law_of(one: Spent, two: Spent, broken: tuple[str, ...]) -> Law:
    """Return what one worker and two have shown."""
    alone_us, both_us = one.cpu_us, two.cpu_us
    times = median(few / many for few, many in zip(one.rates, two.rates, strict=True))
    cores = os.cpu_count() or 2
    apart = 2 * alone_us[WORKERS] / both_us[WORKERS]
    here = min(apart, cores * alone_us[WORKERS] / two.ours_us)
    shown = {
        name: (round(alone_us.get(name, 0.0), 1), round(both_us.get(name, 0.0), 1))
        for name in dict.fromkeys((*alone_us, *both_us))
    }
    return Law(
        row="law-workers",
        what="time by the clock between two quotes",
        grows="workers, quoting (admission alone)",
        points=((1, 1e6 / one.rate, 1.0), (2, 1e6 / two.rate, times)),
        goal=1 / GOAL,
        note=(
            f"{one.rate:,.0f} and {two.rate:,.0f} quotes/s. By their CPU two workers with a core "
            f"each would do {apart:.2f}x; on {cores} cores that everything here shares, and "
            f"nobody else, without an idle moment, {here:.2f}x"
        ),
        broken=broken,
        cpu_us={name: each for name, each in shown.items() if any(each)},
    )
