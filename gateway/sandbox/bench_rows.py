"""The rows of the comparison: what each measures, against what, and what was aimed at.

Data alone. A goal is a ratio in one run, since times of a shared machine mean little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.sandbox.bench_meters import Reading
from gateway.sandbox.errors import SandboxError

BARE, PGBENCH, USUAL, TUNED = "bare", "pgbench", "usual", "usual-tuned"
AGAINST = {
    BARE: "bare aiohttp",
    PGBENCH: "pgbench",
    USUAL: "the usual way, idiomatic",
    TUNED: "the usual way, tuned",
}


@dataclass(frozen=True, slots=True)
class LoadRow:
    """Durable payments a second over one scheme, against a peer, block by block in turn.

    Args:
        goal: the least ratio to the peer's rate that was aimed at.
    """

    name: str
    scheme: str
    clients: int
    against: str
    goal: float


LOAD_ROWS = (
    LoadRow("visa-64", "visa", 64, BARE, 0.45),
    LoadRow("visa-256", "visa", 256, BARE, 0.45),
    LoadRow("uzcard-64", "uzcard", 64, BARE, 0.35),
    LoadRow("uzcard-256", "uzcard", 256, BARE, 0.35),
    LoadRow("humo-64", "humo", 64, BARE, 0.25),
    LoadRow("humo-256", "humo", 256, BARE, 0.25),
    LoadRow("pgbench-256", "visa", 256, PGBENCH, 1.0),
    LoadRow("usual-256", "uzcard", 256, USUAL, 8.0),
    LoadRow("usual-tuned-256", "uzcard", 256, TUNED, 8.0),
)
# One process, no service: bench_core and bench_laws.
MICRO_ROWS = ("iso8583", "token", "admit")
LAWS = ("law-policies", "law-revoked")
NAMES = (*(row.name for row in LOAD_ROWS), *MICRO_ROWS, *LAWS)


def select(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return the names that begin with one of these; all when none is given.

    Raises:
        SandboxError: a prefix that fits nothing.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in NAMES):
            raise SandboxError(f"no row begins with {prefix!r}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if not prefixes or name.startswith(tuple(prefixes)))


@dataclass(slots=True)
class Block:
    """One block of load: what the generator told, and what the meters moved by."""

    told: Mapping[str, Any]
    before: Reading
    after: Reading

    @property
    def per_second(self) -> float:
        """Answers a second until the last, replays not counted.

        Those that came after the time was up are counted, and their time with them: a slow server
        would else lose all that it had in work at the end.
        """
        return float((self.told["created"] + self.told["late"]) / self.told["until_last_s"])


@dataclass(slots=True)
class Measured:
    """What was measured of a row.

    Attributes:
        peer: blocks of what it is compared with; the nth is the neighbour of ours' nth.
        broken: what of the books does not hold.
        skipped: why nothing was measured, if so.
    """

    row: LoadRow
    peer: list[Block] = field(default_factory=list)
    oqim: list[Block] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A small thing that was timed against another, in turns.

    Attributes:
        ours_us, theirs_us: medians, microseconds a call.
        ratio: how many times theirs' time is ours'; the median of the rounds.
        limit_us: the most that ours was to take, if that was aimed at as well.
    """

    row: str
    what: str
    against: str
    ours_us: float
    theirs_us: float
    ratio: float
    least: float
    greatest: float
    goal: float
    limit_us: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the goal was reached."""
        return self.ratio >= self.goal and (self.limit_us is None or self.ours_us < self.limit_us)


@dataclass(frozen=True, slots=True)
class Law:
    """What a decision costs as something else grows.

    Attributes:
        points: (how much of it there is, microseconds a call, times the first's) each.
        goal: the most that the last may cost, times the first.
    """

    row: str
    what: str
    grows: str
    points: tuple[tuple[int, float, float], ...]
    goal: float
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether no point costs more than the goal."""
        return max(times for _, _, times in self.points) <= self.goal
