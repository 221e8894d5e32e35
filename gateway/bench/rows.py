"""The rows of the comparison: what each measures, how much of it, and what was aimed at.

Data alone. A goal is a ratio in one run, since times of a shared machine mean little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.measuring.closed_loop import per_second
from gateway.measuring.meters import Reading
from gateway.sandbox.errors import SandboxError

BARE, PGBENCH, USUAL, TUNED, FASTAPI = "bare", "pgbench", "usual", "usual-tuned", "fastapi"
AGAINST = {
    BARE: "bare aiohttp",
    PGBENCH: "pgbench",
    USUAL: "the usual way, idiomatic",
    TUNED: "the usual way, tuned",
    FASTAPI: "FastAPI and SQLAlchemy",
}
# Peers that make payments and keep books.
GATEWAYS = (USUAL, TUNED, FASTAPI)
# The scheme that the immediate connector pays over, in a sandbox that has it (`measuring.config`).
DIRECT = "direct"


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
    LoadRow("direct-64", DIRECT, 64, BARE, 0.70),
    LoadRow("direct-256", DIRECT, 256, BARE, 0.70),
    LoadRow("pgbench-256", "visa", 256, PGBENCH, 1.0),
    LoadRow("usual-256", "uzcard", 256, USUAL, 8.0),
    LoadRow("usual-tuned-256", "uzcard", 256, TUNED, 8.0),
    LoadRow("fastapi-256", "uzcard", 256, FASTAPI, 8.0),
)
# Open loop: fixed_rate.
OPEN_ROWS = ("latency-direct", "latency-visa", "overload-visa")
# One process, no service: small_rows and limits_library, then core_laws.
MICRO_ROWS = ("iso8583", "token", "admit", "limits")
LAWS = ("law-policies", "law-revoked", "law-subjects")
# On the sandbox: scale_laws. The last leaves millions of payments behind.
SCALE_LAWS = ("law-in-flight", "law-workers", "law-hot", "law-hosts", "law-stored")
NAMES = (*(row.name for row in LOAD_ROWS), *OPEN_ROWS, *SCALE_LAWS, *MICRO_ROWS, *LAWS)


def groups(rows: Sequence[LoadRow]) -> list[tuple[LoadRow, ...]]:
    """Return rows together that share blocks, in order: of one peer, or of one load of ours.

    Rows of a group are measured in turns, all in each round, so that a block serves every row that
    it belongs to and is close in time to the blocks that it is compared with.
    """
    found: dict[tuple[object, ...], list[LoadRow]] = {}
    for row in rows:
        shared = row.scheme if row.against in GATEWAYS else row.against
        found.setdefault((row.clients, shared), []).append(row)
    return [tuple(group) for group in found.values()]


def select(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return the names that begin with one of these; all when none is given.

    Raises:
        SandboxError: a prefix that fits nothing.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in NAMES):
            raise SandboxError(f"no row begins with {prefix!r}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if not prefixes or name.startswith(tuple(prefixes)))


@dataclass(frozen=True, slots=True)
class Scale:
    """How far the laws go: how much of it there is at each point.

    Args:
        policies: and plans as well, that cannot match.
        subjects: that limits are counted for, cached.
        revoked: tokens, alive.
        in_flight: payments that wait for a processor, and how long each does, seconds.
        stored: payments, postings and all.
        seconds: of a block of load.
    """

    policies: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    subjects: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    revoked: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    in_flight: tuple[tuple[int, float], ...] = ((10, 0.02), (100, 0.1), (1_000, 1.0), (10_000, 8.0))
    stored: tuple[int, ...] = (100_000, 400_000)
    seconds: float = 2.5


DEFAULT = Scale()
MOST = 10_000_000
FULL = replace(
    DEFAULT,
    subjects=(*DEFAULT.subjects, MOST),
    stored=(*DEFAULT.stored, 1_000_000, MOST),
)
SMALL = Scale(
    policies=(10, 100, 1_000),
    subjects=(1_000, 10_000),
    revoked=(1_000, 10_000),
    in_flight=((10, 0.02), (100, 0.1)),
    stored=(1_000, 10_000),
    seconds=1.0,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Args:
        pairs: blocks of each kind a row.
        seconds: of one block.
        warm_up_s: of each kind, before a row.
        users: seeded; each has a card of every scheme and a token.
        workers: gateway processes.
        rounds: of small things and laws.
        scale: how far the laws go.
    """

    pairs: int = 5
    seconds: float = 5.0
    warm_up_s: float = 2.0
    users: int = 34_000
    workers: int = 1
    rounds: int = 11
    scale: Scale = DEFAULT


QUICK = Plan(pairs=2, seconds=2.0, warm_up_s=1.0, users=4_000, rounds=3, scale=SMALL)


@dataclass(slots=True)
class Block:
    """One block of load: what the generator told, and what the meters moved by."""

    told: Mapping[str, Any]
    before: Reading
    after: Reading

    @property
    def per_second(self) -> float:
        """Answers a second until the last, replays not counted (`closed_loop.answers`)."""
        return per_second(self.told)


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
    """What something costs as something else grows.

    Attributes:
        what: whose cost; microseconds.
        points: (how much of it there is, microseconds, times the first's) each.
        goal: the most that any may cost, times the first; below 1 the last must be cheaper. None:
            what is aimed at is that nothing breaks.
        labels: what the points are called where a number says too little; one each.
        broken: what did not hold meanwhile, in sentences: then nothing is met.
        cpu_us: CPU microseconds of one by process, where several share the cores; a figure a point.
    """

    row: str
    what: str
    grows: str
    points: tuple[tuple[int, float, float], ...]
    goal: float | None
    note: str = ""
    labels: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    cpu_us: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether nothing broke and no point after the first costs more than the goal."""
        if self.broken:
            return False
        return self.goal is None or max(times for _, _, times in self.points[1:]) <= self.goal


@dataclass(frozen=True, slots=True)
class Open:
    """What was measured at a fixed rate, from when each request was due.

    Attributes:
        figures: numbers by name, for programs.
        cells: what is aimed at, what was found, whether it was met.
        broken: what of the answers or the books does not hold.
        skipped: why nothing can be said, if so.
    """

    row: str
    what: str
    figures: Mapping[str, float]
    cells: tuple[tuple[str, str, bool], ...]
    broken: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def is_met(self) -> bool:
        """Whether every goal was reached, and nothing broke."""
        return not self.broken and not self.skipped and all(met for _, _, met in self.cells)
