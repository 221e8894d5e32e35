"""The soak: a flat rate for a long time, and whether anything grows.

Memory, descriptors and latency are looked at every few seconds; a straight line is laid through
what was seen after the warm-up, and its slope is told by the hour. What grows without end shows
here long before it falls over.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.drills.drilling import Drilling
from gateway.drills.report import Bar, Findings, table
from gateway.measuring.curves import Axis, Panel, Points, draw
from gateway.measuring.meters import memory_of, pids_by_name, with_children
from gateway.measuring.open_loop import LATE_MS_OF_COUNTS, OpenLoop, Order, Phase

SHARE = 0.3
SECONDS = 30 * 60.0
LOOK_EVERY_S = 10.0
LOOKS_LEAST = 12
# Caches fill and pools open at first.
WARM_UP_PART = 0.25
# What an hour may add to the level that it started from before it is called growth: a part of it,
# or so much where it is small. As far as the line is sure of it.
GROWTH_PERCENT = 10.0
GROWTH_SLACK = {"MB": 16.0, "descriptors": 32.0, "ms": 10.0}
UNSURE_TIMES = 2.0
# Of an axis of the picture.
STEPS = 4
# The simulators keep every operation they ever carried out: their growth is their purpose.
JUDGED = ("gateway", "postgres", "valkey")


@dataclass(frozen=True, slots=True)
class Use:
    """What the processes of one name use."""

    rss_kb: int
    pss_kb: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment, seconds since the clock began."""

    at_s: float
    uses: Mapping[str, Use]
    database_bytes: int


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line by least squares.

    Attributes:
        level: at the first point.
        per_hour: its slope.
        unsure_per_hour: the slope's standard error.
    """

    level: float
    per_hour: float
    unsure_per_hour: float

    @property
    def growth(self) -> float:
        """What an hour adds, as far as the line is sure of it."""
        return max(0.0, self.per_hour - UNSURE_TIMES * self.unsure_per_hour)

    def growth_max(self, unit: str) -> float:
        """Return what an hour may add."""
        return max(self.level * GROWTH_PERCENT / 100, GROWTH_SLACK[unit])

    def is_flat(self, unit: str) -> bool:
        """Whether an hour adds no more than it may."""
        return self.growth <= self.growth_max(unit)


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """Lay a line through (seconds, value) points, three or more at different times."""
    count = len(points)
    mean_at = sum(at for at, _ in points) / count
    mean = sum(value for _, value in points) / count
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    slope = sum((at - mean_at) * (value - mean) for at, value in points) / spread
    left = sum((value - mean - slope * (at - mean_at)) ** 2 for at, value in points)
    error = math.sqrt(left / (count - 2) / spread)
    return Line(mean + slope * (points[0][0] - mean_at), slope * 3600, error * 3600)


def _use(pids: Sequence[int]) -> Use:
    rss_kb = pss_kb = descriptors = 0
    for pid in with_children(pids):
        with suppress(OSError):
            memory = memory_of(pid)
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            rss_kb += memory.rss_kb
            pss_kb += memory.pss_kb
    return Use(rss_kb, pss_kb, descriptors)


def look(data_dir: Path) -> dict[str, Use]:
    """Return what the sandbox's processes use now, children included; Linux tells it."""
    return {name: _use(pids) for name, pids in pids_by_name(data_dir).items()}


async def soak(drill: Drilling) -> Findings:
    """A flat rate for half an hour: memory, descriptors and latency must stay where they are."""
    found = Findings("soak")
    rate, peak = await drill.rate(SHARE)
    found.add_peak(peak, drill.plan.scheme)
    seconds = drill.plan.seconds or SECONDS
    every_s = min(LOOK_EVERY_S, seconds / (2 * LOOKS_LEAST))
    order = Order(
        [Phase(rate, seconds)],
        {drill.plan.scheme: 1.0},
        bucket_s=every_s,
        warm_up_s=0.0,
        late_ms=LATE_MS_OF_COUNTS,
    )
    with drill.progress.step(f"Asking {rate:,.0f} times a second for {seconds / 60:g} min") as step:
        looks: list[Look] = []
        async with drill.under_load(order) as (running, ending):
            while not (await asyncio.wait({ending}, timeout=every_s))[0]:
                looks.append(await _look(drill, running.began_s))
                memory = looks[-1].uses["gateway"].pss_kb // 1024
                step.note(f"{looks[-1].at_s:.0f} s, gateway {memory:,} MB")
            run = await ending
    found.add_run("Soak", run)
    looks = [one for one in looks if one.at_s <= seconds]
    found.picture = _picture(run, looks) if looks else ""
    _judge(found, run, looks, seconds)
    await drill.settled()
    found.broken = await drill.broken(run)
    return found


async def _look(drill: Drilling, began_s: float) -> Look:
    uses = await asyncio.to_thread(look, drill.stage.sandbox_file.parent)
    size = await drill.stage.connection.fetchval("SELECT pg_database_size(current_database())")
    return Look(time.perf_counter() - began_s, uses, size)


def _picture(run: OpenLoop, looks: Sequence[Look]) -> str:
    """Draw memory and latency over time."""
    memory = [
        (name, [(one.at_s, one.uses[name].pss_kb / 1024) for one in looks if name in one.uses])
        for name in looks[0].uses
    ]
    latency = [
        ("p50", [(row.at_s, row.p50_ms) for row in run.rows]),
        ("p99", [(row.at_s, row.p99_ms) for row in run.rows]),
    ]
    return picture({"memory (PSS), MB": memory, "latency since due, ms": latency})


def picture(panels: Mapping[str, Sequence[tuple[str, Points]]]) -> str:
    """Return an SVG of panels over the same time.

    Args:
        panels: titles with named (seconds, value) points; one at least, values 0 or more.
    """
    last_s = _highest(0, *panels.values())
    across = _axis(last_s, lambda at_s: f"{at_s / 60:.1f} min")
    shown = [
        Panel(title, curves, across, _axis(_highest(1, curves), lambda value: f"{value:,.0f}"))
        for title, curves in panels.items()
    ]
    return draw(", ".join(panels), shown)


def _highest(place: int, *panels: Sequence[tuple[str, Points]]) -> float:
    """Return the greatest of what stands at a place of all points, 1 when nothing is above 0."""
    return max(at[place] for curves in panels for _, points in curves for at in points) or 1.0


def _axis(last: float, words: Callable[[float], str]) -> Axis:
    """Return an axis from zero with a few marks, evenly apart."""
    marks = [last * step / STEPS for step in range(STEPS + 1)]
    return Axis(0, last, [(at, words(at)) for at in marks])


def _judge(found: Findings, run: OpenLoop, looks: Sequence[Look], seconds: float) -> None:
    """Lay lines through what was seen after the warm-up, and say what grows."""
    from_s = seconds * WARM_UP_PART
    looks = [one for one in looks if one.at_s >= from_s]
    if len(looks) < LOOKS_LEAST // 2:
        found.void = found.void or f"{len(looks)} looks are too few to see what grows"
        return
    lines: dict[str, Line] = {}
    for name in looks[0].uses:
        seen = [(one.at_s, one.uses[name]) for one in looks if name in one.uses]
        lines[f"{name}, PSS MB"] = fit([(at, use.pss_kb / 1024) for at, use in seen])
        lines[f"{name}, RSS MB"] = fit([(at, use.rss_kb / 1024) for at, use in seen])
        lines[f"{name}, descriptors"] = fit([(at, use.descriptors) for at, use in seen])
    rows = [row for row in run.rows if row.at_s >= from_s and row.completed]
    lines["p50 ms"] = fit([(row.at_s, row.p50_ms) for row in rows])
    lines["p99 ms"] = fit([(row.at_s, row.p99_ms) for row in rows])
    judged = {
        name: line
        for name, line in lines.items()
        if (name.startswith(JUDGED) and "RSS" not in name) or name == "p99 ms"
    }
    found.lines.append(f"From {from_s:.0f} s on, a line through {len(looks)} looks:")
    found.lines += table(
        ("what", "level", "an hour adds", "give or take", "flat"),
        [
            (
                name,
                f"{line.level:,.1f}",
                f"{line.per_hour:+,.1f}",
                f"{line.unsure_per_hour:,.1f}",
                ("yes" if line.is_flat(_unit(name)) else "NO") if name in judged else "-",
            )
            for name, line in lines.items()
        ],
    )
    payments = run.payments.completed / run.seconds * 3600
    gateway = lines["gateway, PSS MB"].per_hour * 1024 * 1024 / payments if payments else 0.0
    stored = fit([(one.at_s, float(one.database_bytes)) for one in looks]).per_hour / payments
    found.say(
        f"That is {gateway:,.0f} bytes of the gateway's memory a payment; "
        f"the database grows by {stored:,.0f} bytes a payment",
        lines={name: asdict(line) for name, line in lines.items()},
        looks=[asdict(one) for one in looks],
        gateway_bytes_per_payment=gateway,
        database_bytes_per_payment=stored,
    )
    for name, line in judged.items():
        unit = _unit(name)
        most = round(line.growth_max(unit), 1)
        found.bars.append(Bar(f"{name}: an hour adds for sure", line.growth, most, unit))


def _unit(name: str) -> str:
    """Return the unit that a line's name ends with."""
    return name.rpartition(" ")[2]
