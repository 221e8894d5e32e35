"""Counts the instructions of the core's work, under valgrind: the one measure that other work on
the machine does not change.

`python -m tests.core.instructions` prints the counts beside those stored; with `--store` it stores
them, which belongs into the commit that changes them, with the reason.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "core_rs" / "engine" / "tests" / "instructions.toml"
# Grown by more than this, a count is worth a question.
GROWTH_MAX = 0.10
# The difference of two runs is the work alone, without what prepares it.
_TIMES = (20, 420)
_BUILD_TIMEOUT_S = 600
_RUN_TIMEOUT_S = 120
_COLLECTED = re.compile(r"Collected : (\d+)")
_HEADER = """\
# Instructions of one piece of the core's work, by the cases of benches/instructions.rs.
# Written by `python -m tests.core.instructions --store`.
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions by case, and what they depend on: the compiler and the processor's features."""

    rustc: str
    machine: str
    by_case: dict[str, int]


def missing_tool() -> str | None:
    """Return the name of a program that counting needs and that is not here."""
    return next((tool for tool in ("cargo", "rustc", "valgrind") if not shutil.which(tool)), None)


def conditions() -> tuple[str, str]:
    """Return the compiler's version, and the machine as far as it chooses between routines."""
    rustc = _output("rustc", "--version")
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    features = [name for name in ("avx2", "avx512f", "sha_ni") if name in flags]
    return rustc, " ".join([platform.machine(), *features])


def stored() -> Counts:
    """Return the counts that are stored."""
    form = tomllib.loads(STORED.read_text())
    return Counts(rustc=form["rustc"], machine=form["machine"], by_case=form["counts"])


def count() -> Counts:
    """Build the core as it is released, and count. Takes a build and some seconds.

    Raises:
        subprocess.CalledProcessError: the build or a case failed.
    """
    program = _build()
    rustc, machine = conditions()
    by_case = {}
    for case in _output(program).split():
        few, many = (_run(program, case, times) for times in _TIMES)
        by_case[case] = (many - few) // (_TIMES[1] - _TIMES[0])
    return Counts(rustc=rustc, machine=machine, by_case=by_case)


def store(counts: Counts) -> None:
    """Put the counts in the place of those stored."""
    lines = [f"{case} = {number}\n" for case, number in counts.by_case.items()]
    conditions = f'rustc = "{counts.rustc}"\nmachine = "{counts.machine}"\n'
    STORED.write_text(_HEADER + conditions + "\n[counts]\n" + "".join(lines))


def _build() -> str:
    command = ["cargo", "bench", "--quiet", "--package", "oqim-engine", "--bench", "instructions"]
    messages = subprocess.run(
        [*command, "--no-run", "--message-format=json"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
    ).stdout
    built = [json.loads(line) for line in messages.splitlines()]
    programs: list[str] = [one["executable"] for one in built if one.get("executable")]
    return programs[-1]


def _run(program: str, case: str, times: int) -> int:
    told = subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            program,
            case,
            str(times),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT_S,
    ).stderr
    found = _COLLECTED.search(told)
    assert found is not None, told
    return int(found[1])


def _output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S
    ).stdout.strip()


def main() -> None:
    """Print the counts, and store them when asked to."""
    before = stored().by_case if STORED.exists() else {}
    counts = count()
    print(counts.rustc, counts.machine, sep=", ")
    for case, number in counts.by_case.items():
        was = before.get(case)
        change = "" if was is None else f"  {100 * (number - was) / was:+.1f}% of {was}"
        print(f"{case:<14}{number:>9}{change}")
    if "--store" in sys.argv[1:]:
        store(counts)


if __name__ == "__main__":
    main()
