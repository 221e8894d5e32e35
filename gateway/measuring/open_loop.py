"""Load at a fixed rate: what is asked of the open-loop generator, and what it told.

A latency is counted from when a request was due, whatever the server did meanwhile. A run that the
generator itself could not keep up with is void, and says so: its figures are nobody's.

It owns the generator's process (`loadtests/open_loop.py`) and nothing else; the sandbox is given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.measuring.closed_loop import answers, closed_loop, per_second
from gateway.measuring.helpers import Talker, talker
from gateway.measuring.stage import Stage

CONNECTIONS = 256
REPLAYS = 0.01
REFUSALS = 0.05
WARM_UP_S = 2.0
# A hundredth of the sends may be later than this for the generator's own reasons: latencies are
# wrong by no more. Where counts are all that is told, it is enough that the rate was kept.
LATE_MS, LATE_MS_OF_COUNTS = 10.0, 250.0
LATE_SHARE_MAX = 0.01
PEAK_CLIENTS = 256
PEAK_WARM_UP_S = 3.0
SHED = ("429", "503")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load: requests a second, for so many seconds."""

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of requests of one kind, or over one scheme.

    Attributes:
        completed: answers that were hoped for: 200, 201, 202; 422 of what must be refused.
        statuses: counts by status; `lost` when the connection ended first, `unanswered` when
            nothing came before the end.
        p50_ms: and the others: of the completed, since each was due.
    """

    asked: int
    completed: int
    statuses: Mapping[str, int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @property
    def shed(self) -> int:
        """How many were turned away (429, 503), nothing done."""
        return sum(self.statuses.get(status, 0) for status in SHED)

    @property
    def failed(self) -> int:
        """How many had any other answer than was hoped for, or none."""
        return self.asked - self.completed - self.shed


@dataclass(frozen=True, slots=True)
class Row:
    """Payments that were due in one stretch of time, over one scheme."""

    at_s: float
    scheme: str
    asked: int
    completed: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """What came of a run.

    Attributes:
        rate: requests a second that were due, replays and refusals included.
        seconds: that the figures are of; warming up is not among them.
        payments, replays, refusals: apart, since replays and refusals are far cheaper.
        by_scheme: payments.
        rows: payments as they went, in order.
        first_failed_s, last_failed_s: when the first and the last payment that was not taken was
            due, seconds since the clock began; None: all were taken.
        waited: requests that found no connection free; they count from when they were due.
        late_p99_ms, late_max_ms: how late the generator itself was.
        began_s: when the clock began, by `time.perf_counter` of any process of this machine.
        cpu_s: the generator's.
        wrong: what must not be, in sentences: replays that are not the first answer, and the like.
        void: why the figures do not count; "" when they do.
    """

    rate: float
    seconds: float
    payments: Answers
    replays: Answers
    refusals: Answers
    by_scheme: Mapping[str, Answers]
    rows: Sequence[Row]
    first_failed_s: float | None
    last_failed_s: float | None
    waited: int
    late_p99_ms: float
    late_max_ms: float
    began_s: float
    cpu_s: float
    wrong: Sequence[str]
    void: str

    @property
    def completed_per_s(self) -> float:
        """Payments taken a second, of those that were due in the time."""
        return self.payments.completed / self.seconds

    @property
    def shed(self) -> int:
        """How many requests of any kind were turned away."""
        return self.payments.shed + self.replays.shed + self.refusals.shed

    @property
    def p50_ms(self) -> float:
        """Median latency of payments."""
        return self.payments.p50_ms

    @property
    def p99_ms(self) -> float:
        """99th percentile of payments' latency."""
        return self.payments.p99_ms


@dataclass(frozen=True, slots=True)
class Order:
    """What the generator is to do.

    Args:
        phases: one after another.
        mix: schemes with their weights.
        connections: the most requests under way at once.
        replays, refusals: shares of the requests.
        bucket_s: seconds of a row.
        warm_up_s: at the first phase's rate, before; not told of.
        late_ms: how late a hundredth of the sends may be for the generator's own reasons.
    """

    phases: Sequence[Phase]
    mix: Mapping[str, float]
    connections: int = CONNECTIONS
    replays: float = REPLAYS
    refusals: float = REFUSALS
    bucket_s: float = 1.0
    warm_up_s: float = WARM_UP_S
    late_ms: float = LATE_MS

    @property
    def seconds(self) -> float:
        """How long the phases take, without the warm-up."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(slots=True)
class Running:
    """A run under way: its clock runs already."""

    order: Order
    began_s: float
    _talker: Talker

    async def finish(self) -> OpenLoop:
        """Wait for its end and return what came of it."""
        return read(self.order, self.began_s, await self._talker.hear())


class OpenGenerator:
    """The generator's process, ready to be told what to do."""

    def __init__(self, stage: Stage, process: Talker) -> None:
        self._stage = stage
        self._talker = process

    @property
    def pid(self) -> int:
        return self._talker.pid

    async def begin(self, order: Order) -> Running:
        """Begin a run; returns as soon as the clock runs."""
        first = order.phases[0]
        warm_up = [Phase(first.rate, order.warm_up_s)] if order.warm_up_s else []
        told = await self._talker.ask(
            {
                "port": self._stage.port,
                "mix": dict(order.mix),
                "phases": [
                    {"rate": phase.rate, "seconds": phase.seconds}
                    for phase in (*warm_up, *order.phases)
                ],
                "skip_s": order.warm_up_s,
                "connections": order.connections,
                "replays": order.replays,
                "refusals": order.refusals,
                "bucket_s": order.bucket_s,
                "late_ms": order.late_ms,
                "ids_file": str(self._stage.ids_file),
            }
        )
        return Running(order, told["began_s"], self._talker)

    async def run(self, order: Order) -> OpenLoop:
        """Carry out a run."""
        return await (await self.begin(order)).finish()

    async def settle(self, within_s: float) -> Mapping[str, Any]:
        """Ask again, with its key, for every payment of the last run of which nothing is known.

        Returns:
            `unknown` (how many there were), `still_unknown`, `seconds`.
        """
        told: Mapping[str, Any] = await self._talker.ask({"settle": True, "within_s": within_s})
        return told


@asynccontextmanager
async def open_generator(stage: Stage) -> AsyncIterator[OpenGenerator]:
    """Run the generator's process for the users that the stage has."""
    async with talker(stage.loadtests / "open_loop.py", stage.seeded) as process:
        await process.hear()
        yield OpenGenerator(stage, process)


async def at_rate(
    stage: Stage,
    *,
    rate: float,
    seconds: float,
    scheme: str = "visa",
    connections: int = CONNECTIONS,
    replays: float = REPLAYS,
    refusals: float = REFUSALS,
    warm_up_s: float = WARM_UP_S,
    late_ms: float = LATE_MS,
) -> OpenLoop:
    """Ask for payments at a fixed rate, and tell how long after they were due they were answered.

    The ids of what was paid are added to `stage.ids_file`, for the books.

    Args:
        rate: requests a second, replays and refusals included.
        seconds: of what is told; the warm-up comes before it.
        connections: the most requests under way at once. Far above the peak take as many as the
            server may have work with, or it is never asked for more than it can do.
        late_ms: how late a hundredth of the sends may be before the run is void; where only counts
            are told, `LATE_MS_OF_COUNTS`.
    """
    order = Order(
        phases=[Phase(rate, seconds)],
        mix={scheme: 1.0},
        connections=connections,
        replays=replays,
        refusals=refusals,
        warm_up_s=warm_up_s,
        late_ms=late_ms,
    )
    async with open_generator(stage) as generator:
        return await generator.run(order)


@dataclass(frozen=True, slots=True)
class Peak:
    """The most payments a second that a closed loop gets.

    Attributes:
        per_second: payments.
        cpu_us: of the gateway's processes, a payment.
    """

    per_second: float
    cpu_us: float


async def find_peak(
    stage: Stage, *, scheme: str = "visa", seconds: float = 5.0, clients: int = PEAK_CLIENTS
) -> Peak:
    """Measure the peak by a short closed loop, after warming up."""
    load = partial(
        closed_loop,
        stage.generator,
        port=stage.port,
        clients=clients,
        scheme=scheme,
        replays=REPLAYS,
        ids_file=stage.ids_file,
    )
    await load(seconds=min(PEAK_WARM_UP_S, seconds))
    before = await stage.meters.read()
    told = await load(seconds=seconds)
    after = await stage.meters.read()
    cpu_s = after.cpu_s["gateway"] - before.cpu_s["gateway"]
    return Peak(per_second(told), cpu_s / (answers(told) or 1) * 1e6)


def shed_cost_us(run: OpenLoop, cpu_us: float, *, admitted_us: float) -> float | None:
    """Return what is left of the gateway's CPU for a shed request when payments took their part.

    It is an estimate: payments are taken to cost what they do at the peak. None when nothing was
    shed.

    Args:
        cpu_us: of the whole run.
        admitted_us: CPU of a payment at the peak.
    """
    if not run.shed:
        return None
    return max(0.0, cpu_us - run.payments.completed * admitted_us) / run.shed


def read(order: Order, began_s: float, told: Mapping[str, Any]) -> OpenLoop:
    """Return what the generator told, judged."""
    seconds = order.seconds
    due = sum(phase.rate * phase.seconds for phase in order.phases)
    return OpenLoop(
        rate=due / seconds,
        seconds=seconds,
        payments=Answers(**told["payments"]),
        replays=Answers(**told["replays"]),
        refusals=Answers(**told["refusals"]),
        by_scheme={scheme: Answers(**one) for scheme, one in told["by_scheme"].items()},
        rows=[Row(**row) for row in told["rows"]],
        first_failed_s=told["first_failed_s"],
        last_failed_s=told["last_failed_s"],
        waited=told["waited"],
        late_p99_ms=told["late_p99_ms"],
        late_max_ms=told["late_max_ms"],
        began_s=began_s,
        cpu_s=told["cpu_s"],
        wrong=_wrong(told),
        void=_void(told),
    )


def _wrong(told: Mapping[str, Any]) -> list[str]:
    """Return what no load excuses."""
    found = []
    if told["replayed_wrongly"]:
        found.append(f"{told['replayed_wrongly']} replays were not the first answer")
    if told["refused_wrongly"]:
        found.append(f"{told['refused_wrongly']} payments were made that a limit forbids")
    if told["declined"]:
        found.append(f"{told['declined']} payments were declined")
    if told["problem"]:
        found.append(f"an answer that nobody expected: {told['problem']}")
    return found


def _void(told: Mapping[str, Any]) -> str:
    """Return why a run says nothing about the server, or nothing."""
    if told["sent"] < told["asked"]:
        return f"the generator sent {told['sent']:,} of {told['asked']:,} requests"
    if told["late_share"] > LATE_SHARE_MAX:
        return (
            f"the generator did not keep up: {told['late_share']:.1%} of its sends were late, "
            f"a hundredth by {told['late_p99_ms']:.0f} ms or more"
        )
    return ""
