"""What a drill found: sentences for a person, a line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.measuring.open_loop import Answers, OpenLoop, Peak


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that was aimed at.

    Attributes:
        found: what it came to; None when that cannot be said.
        goal: the least or the most, in the same unit.
        is_least: whether `goal` is the least.
    """

    what: str
    found: float | None
    goal: float
    unit: str
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it was reached; what cannot be said was not."""
        if self.found is None:
            return False
        return self.found >= self.goal if self.is_least else self.found < self.goal

    def words(self) -> str:
        """Return it as a line."""
        found = "not known" if self.found is None else f"{self.found:,.1f} {self.unit}"
        side = "at least" if self.is_least else "under"
        return f"{self.what}: {found}; goal {side} {self.goal:,g} {self.unit}; met: " + (
            "yes" if self.is_met else "NO"
        )


@dataclass(slots=True)
class Findings:
    """What a drill found.

    Attributes:
        lines: sentences.
        figures: the same for programs.
        void: why the figures do not count; the books count nevertheless.
        broken: what does not hold, whatever the load was.
        picture: an SVG of how it went; "" when there is none.
    """

    kind: str
    lines: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    void: str = ""
    broken: list[str] = field(default_factory=list)
    picture: str = ""

    def say(self, line: str, **figures: Any) -> None:
        """Add a sentence, with its figures."""
        self.lines.append(line)
        self.figures |= figures

    def add_peak(self, peak: Peak | None, scheme: str) -> None:
        """Add what the peak was, where it was measured."""
        if peak is not None:
            self.say(
                f"Peak: {peak.per_second:,.0f} payments/s over {scheme}, "
                f"{peak.cpu_us:,.0f} us of the gateway's CPU each",
                peak=asdict(peak),
            )

    def add_run(self, name: str, run: OpenLoop) -> None:
        """Add what came of a run: its payments, and apart from them replays and refusals."""
        self.say(
            f"{name}: {run.rate:,.0f} requests/s for {run.seconds:g} s; "
            f"{run.completed_per_s:,.0f} payments/s taken"
        )
        for what, answers in (
            ("payments", run.payments),
            ("replays", run.replays),
            ("refusals", run.refusals),
        ):
            if answers.asked:
                self.lines.append(f"  {what}: {words(answers)}")
        self.lines.append(
            f"  {run.waited:,} requests waited for a connection; the generator itself was late by "
            f"{run.late_p99_ms:.1f} ms at the 99th percentile, {run.late_max_ms:.1f} ms at most"
        )
        self.figures[name.lower()] = asdict(run)
        self.void = self.void or (f"{name}: {run.void}" if run.void else "")

    def fails(self, *, is_strict: bool) -> bool:
        """Whether the drill ends with 1: something does not hold, or a bar asked for is missed."""
        is_missed = bool(self.void) or not all(bar.is_met for bar in self.bars)
        return bool(self.broken) or (is_strict and is_missed)


def words(answers: Answers) -> str:
    """Return counts and latencies of answers as a phrase."""
    counts = ", ".join(f"{count:,} x {status}" for status, count in answers.statuses.items())
    return (
        f"p50 {answers.p50_ms:.1f}, p90 {answers.p90_ms:.1f}, p99 {answers.p99_ms:.1f}, "
        f"p99.9 {answers.p999_ms:.1f}, max {answers.max_ms:.1f} ms since due ({counts})"
    )


def text(findings: Findings, conditions: Mapping[str, Any]) -> str:
    """Return the report that a person reads."""
    plan = conditions["plan"]
    shown = [
        f"Drill: {findings.kind}",
        f"{conditions['at']}, {conditions['cores']} cores, {plan['workers']} gateway process(es), "
        f"{plan['users']:,} users, load average {conditions['load_average']:.1f} before",
        "",
        *findings.lines,
        "",
    ]
    if findings.void:
        shown.append(f"VOID: {findings.void}. The times above say nothing about the gateway.")
    shown += [bar.words() for bar in findings.bars]
    shown += [f"BROKEN: {sentence}" for sentence in findings.broken]
    shown.append("The books do not hold." if findings.broken else "The books hold.")
    return "\n".join(shown) + "\n"


def keep(folder: Path, at: datetime, findings: Findings, conditions: Mapping[str, Any]) -> Path:
    """Write a drill as one line of JSON into a file of its own, its picture beside it.

    Returns:
        Where the JSON is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"drill-{findings.kind}-{at:%Y%m%dT%H%M%SZ}.jsonl"
    line = {
        "drill": findings.kind,
        "conditions": dict(conditions),
        "figures": findings.figures,
        "bars": [asdict(bar) | {"is_met": bar.is_met} for bar in findings.bars],
        "void": findings.void,
        "broken": findings.broken,
    }
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    if findings.picture:
        path.with_suffix(".svg").write_text(findings.picture, encoding="utf-8")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of columns, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  " + "  ".join([first, *others])

    return [line(head), *(line(row) for row in rows)]
