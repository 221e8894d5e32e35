"""What a benchmark reads beside its clock: CPU by process, commits, WAL bytes and batches.

Counts survive a machine that is shared; times do not. Nothing here changes what it measures: two
statements and one request before and after a block.
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_GAUGE = re.compile(r"^(oqim_journal_(?:batches|entries)) ([0-9.e+]+)$", re.MULTILINE)
# Fields of /proc/PID/stat after the command's closing parenthesis (proc(5) counts from 1).
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14

# The next transaction id counts every transaction that wrote, at once and exactly; the statistics
# collector's commits count readers too, and lag by up to a second.
COUNTERS = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS writes,
       pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal_bytes,
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment; differences of two are what happened between.

    Attributes:
        cpu_s: CPU seconds by process name; `bench` is this very process.
        busy_s, idle_s: seconds of all cores together, whoever used them or nobody.
        writes: transactions that wrote.
        commits: every commit that the statistics know of.
        batches: flushes of the journal; None when there are several workers to ask.
        entries: what was in them.
    """

    cpu_s: Mapping[str, float]
    busy_s: float
    idle_s: float
    writes: int
    commits: int
    wal_bytes: int
    batches: float | None
    entries: float | None


def worker_pids(data_dir: Path) -> list[int]:
    """Return the gateway processes of a sandbox."""
    return pids_by_name(data_dir).get("gateway", [])


def pids_by_name(data_dir: Path) -> dict[str, list[int]]:
    """Return the processes that a sandbox runs; workers, however many, are `gateway`."""
    found: dict[str, list[int]] = {}
    for path in sorted((data_dir / "run").glob("*.json")):
        record = json.loads(path.read_text())
        name = "gateway" if record["name"].startswith("worker-") else record["name"]
        found.setdefault(name, []).append(record["pid"])
    return found


def with_children(pids: Sequence[int]) -> list[int]:
    """Return processes and all that came of them and lives."""
    children, found = _children(), list(pids)
    for pid in found:
        found += children.get(pid, ())
    return found


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process has in memory, in kB; of PSS, pages that it shares are divided among those."""

    rss_kb: int
    pss_kb: int


def memory_of(pid: int) -> Memory:
    """Return a process's memory (proc(5), smaps_rollup). Raises OSError when it has ended."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(int(sizes["Rss"][0]), int(sizes["Pss"][0]))


class Meters:
    """Reads the counters of one sandbox.

    Args:
        data_dir: the sandbox's; `run/` in it names the processes.
        connection: to its database, used by nobody else meanwhile.
        others: further processes by name.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        base_url: str,
        connection: Any,
        http: aiohttp.ClientSession,
        others: Mapping[str, int],
    ) -> None:
        self._groups = {name: [pid] for name, pid in others.items()} | pids_by_name(data_dir)
        self._base_url = base_url
        self._connection = connection
        self._http = http

    def watch(self, name: str, *pids: int) -> None:
        """Read these processes from now on under this name, or none."""
        self._groups[name] = list(pids)

    def read_over(self, connection: Any) -> None:
        """Ask the database over another connection from now on, to which the same rule applies."""
        self._connection = connection

    @property
    def workers(self) -> int:
        """How many gateway processes there are."""
        return len(self._groups.get("gateway", ()))

    async def read(self) -> Reading:
        """Return the counters as they are now."""
        counters = await self._connection.fetchrow(COUNTERS)
        gauges: dict[str, float] = {}
        if self.workers == 1:
            async with self._http.get(f"{self._base_url}/metrics") as answer:
                gauges = {name: float(value) for name, value in _GAUGE.findall(await answer.text())}
        children = _children()
        busy_s, idle_s = _cores()
        return Reading(
            cpu_s={
                name: sum(_cpu_s(pid, children) for pid in pids)
                for name, pids in self._groups.items()
            }
            | {"bench": time.process_time()},
            busy_s=busy_s,
            idle_s=idle_s,
            writes=counters["writes"],
            commits=counters["commits"],
            wal_bytes=int(counters["wal_bytes"]),
            batches=gauges.get("oqim_journal_batches"),
            entries=gauges.get("oqim_journal_entries"),
        )


def _cores() -> tuple[float, float]:
    """Return the seconds that all cores worked, and that they had nothing to do (proc(5), stat)."""
    with Path("/proc/stat").open() as lines:
        ticks = [int(field) for field in lines.readline().split()[1:]]
    # What guests took is in user and nice already.
    user, nice, system, idle, waiting, *others = ticks[:8]
    return (
        (user + nice + system + sum(others)) / _TICKS_PER_S,
        (idle + waiting) / _TICKS_PER_S,
    )


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command; empty when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _children() -> dict[int, list[int]]:
    """Return the children of every process."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            stat = _stat(int(entry))
            if stat:
                found.setdefault(int(stat[_PARENT]), []).append(int(entry))
    return found


def _cpu_s(pid: int, children: Mapping[int, list[int]]) -> float:
    """Return the CPU seconds of a process, its children that ended, and those that live."""
    stat = _stat(pid)
    if not stat:
        return 0.0
    own = (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM)
    ticks = sum(int(stat[place]) for place in own)
    return ticks / _TICKS_PER_S + sum(_cpu_s(child, children) for child in children.get(pid, ()))
