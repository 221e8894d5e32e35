"""The table of faults: every row has tests that show it, or a reason why it has none.

Tests name rows by `@pytest.mark.fault(rows=[...], what="...")`; a row that is neither marked nor
excused, or both, fails `test_rows`. As a plugin (`-p tests.faults.rows`, as `make faults` does) it
prints, at the end of a run, what was tried, how often, and with what result, and writes it into
the document that OQIM_FAULTS_TABLE names, between its marks.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FAULTS = {
    1: "the client leaves before its body is whole",
    2: "the client leaves after the intent's commit",
    3: "one key, many copies at once",
    4: "one key, another body",
    5: "a worker killed before the intent",
    6: "a worker killed before the intent's commit",
    7: "a worker killed after the intent's commit",
    8: "a worker killed before the send",
    9: "a worker killed while a processor is waited for",
    10: "a worker killed after the reply, before its commit",
    11: "a worker killed after the outcome's commit",
    12: "the worker that recovers killed, again and again",
    13: "a connection refused",
    14: "a TLS handshake that fails",
    15: "a reset after some bytes of a request",
    16: "a request delivered, no answer ever",
    17: "an answer after the deadline",
    18: "an answer after the reversal was sent",
    19: "reversals that nobody acknowledges",
    20: "a reversal whose original is said not to be known",
    21: "a reversal declined, or answered with an unknown code",
    22: "an answer twice",
    23: "two answers that disagree",
    24: "an answer that is another's",
    25: "an answer with a wrong amount",
    26: "an answer cut, garbled, too large or dripping",
    27: "HTTP 5xx, or F39 91 and 96",
    28: "one processor slower and slower",
    29: "one processor black-holed",
    30: "a callback many times",
    31: "callbacks in every order",
    32: "a callback before our own answer",
    33: "a callback before its payment",
    34: "a callback forged, old or replayed",
    35: "a burst of callbacks",
    36: "PostgreSQL stopped at once, or killed",
    37: "a connection lost in a commit",
    38: "deadlocks and serialization failures",
    39: "the pool exhausted by a slow query",
    40: "a full disk",
    41: "a standby takes over; a worker taken for dead",
    42: "Valkey killed, and back empty",
    43: "Valkey stopped for a while",
    44: "Valkey failing over without its last second",
    45: "a revocation's message dropped",
    46: "a worker cut off from the revocations",
    47: "a refresh token twice at once",
    48: "a refresh token used again later",
    49: "5,000 clients that refresh in one second",
    50: "a worker whose clock is wrong",
    51: "midnight and the month's end in Tashkent",
    52: "headroom for one, many at once",
    53: "many refunds at once",
    54: "captures racing with a cancel",
    55: "a commission plan changed under traffic",
    56: "an operator who approves the own proposal",
    57: "an audit row edited, deleted or moved",
    58: "a webhook's receiver that fails, redirects or is gone",
    59: "a webhook's address that turns inwards",
    60: "the key-encryption key rotated under load",
    61: "workers restarted in turn under load",
    62: "no memory or no descriptors left",
    63: "a panic in the core",
    64: "an event loop held up for seconds",
    65: "a processor's report that differs",
    66: "faults of every kind at once",
}
EXCUSED = {
    49: "not measured yet",
    62: "not tried yet",
}
_PROPERTY = "fault"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(slots=True)
class Tried:
    """What a run has shown of one row."""

    whats: dict[str, None] = field(default_factory=dict)
    held: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    @property
    def result(self) -> str:
        if self.failed:
            return f"**failed {self.failed} of {self.held + self.failed}**"
        if self.held:
            return "held"
        return "skipped here" if self.skipped else "not in this run"


def rows_of(item: pytest.Item) -> Iterator[tuple[int, str]]:
    """Return the rows a test shows, each with what it does."""
    for mark in item.iter_markers("fault"):
        for row in mark.kwargs["rows"]:
            yield row, mark.kwargs["what"]


class Table:
    """Gathers a run's results by row."""

    def __init__(self) -> None:
        self.tried = {row: Tried() for row in FAULTS}

    def take(self, report: pytest.TestReport) -> None:
        """Count one test's result; what fails around it counts as well."""
        if report.when != "call" and report.passed:
            return
        for row, what in (told for name, told in report.user_properties if name == _PROPERTY):
            one = self.tried[row]
            one.whats[what] = None
            one.seconds += report.duration
            one.held += report.passed
            one.failed += report.failed
            one.skipped += report.skipped

    def markdown(self) -> str:
        """Return the table, with the conditions of the run."""
        lines = [
            f"Python {platform.python_version()}, {os.cpu_count()} cores, seeds: "
            f"{os.environ.get('OQIM_SEEDS', '1')}. A try is one test with one seed and one choice "
            "of its parameters, followed by all invariants where it moved money.",
            "",
            "| row | fault | how it was tried | tries | result |",
            "|---|---|---|---|---|",
        ]
        for row, fault in FAULTS.items():
            one = self.tried[row]
            how, result = "; ".join(one.whats), one.result
            if row in EXCUSED:
                how, result = f"({EXCUSED[row]})", "not tried"
            lines.append(f"| {row} | {fault} | {how} | {one.held + one.failed} | {result} |")
        return "\n".join(lines) + "\n"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()
    _tables.append(config.stash[_TABLE])


def pytest_itemcollected(item: pytest.Item) -> None:
    # A report carries it to the process that gathers, when several run tests.
    item.user_properties += [(_PROPERTY, told) for told in rows_of(item)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for table in _tables:
        table.take(report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash[_TABLE].markdown()
    terminalreporter.write_sep("=", "faults")
    terminalreporter.write_line(table)
    where = os.environ.get("OQIM_FAULTS_TABLE")
    if where:
        _write_between(Path(where), table)


def _write_between(document: Path, table: str) -> None:
    before, _, rest = document.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise pytest.UsageError(f"{document} has no {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


_TABLE = pytest.StashKey[Table]()
# A report does not say of which session it is; there is one.
_tables: list[Table] = []
