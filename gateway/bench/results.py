"""A benchmark's numbers as programs read them: figures of a row, lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from gateway.bench.rows import AGAINST, Block, Law, Measured, Open, Ratio
from gateway.measuring.closed_loop import answers

PROCESSES = ("gateway", "postgres", "valkey", "simulators", "generator")


def _sum(blocks: list[Block], read: Callable[[Block], float]) -> float:
    return sum(read(block) for block in blocks)


def _payments(block: Block) -> float:
    """Payments that a block made, the ones answered after its time included."""
    return float(answers(block.told))


def ratios(measured: Measured) -> list[float]:
    """Return Oqim's rate by its neighbour's, one a pair."""
    return [
        ours.per_second / theirs.per_second
        for theirs, ours in zip(measured.peer, measured.oqim, strict=True)
        if theirs.per_second
    ]


def in_short(measured: Measured) -> str:
    """Return a row in a few words."""
    rate = median(block.per_second for block in measured.oqim)
    books = "books hold" if not measured.broken else "BOOKS BROKEN"
    against = AGAINST[measured.row.against]
    return f"{rate:,.0f} payments/s, {median(ratios(measured)):.3f} of {against}, {books}"


def _cpu_us(blocks: list[Block]) -> dict[str, float]:
    """Return CPU microseconds of a payment by process, of those that used any."""
    payments = _sum(blocks, _payments) or 1.0
    names = [name for name in (*PROCESSES, "peer") if name in blocks[0].before.cpu_s]

    def one(name: str) -> float:
        spent = _sum(blocks, lambda block: block.after.cpu_s[name] - block.before.cpu_s[name])
        return round(spent / payments * 1e6, 1)

    return {name: one(name) for name in names}


def figures(measured: Measured) -> dict[str, Any]:
    """Return everything a row says, ready for JSON.

    CPU is in microseconds a payment; `ratio` is the median of the pairs.
    """
    row, blocks = measured.row, measured.oqim
    shown: dict[str, Any] = {"row": row.name, "kind": "load"} | asdict(row)
    if measured.skipped:
        return shown | {"skipped": measured.skipped}
    payments = _sum(blocks, _payments) or 1.0
    every = ratios(measured)

    def counted(read: Callable[[Any], float | None]) -> float:
        return _sum(blocks, lambda block: (read(block.after) or 0) - (read(block.before) or 0))

    batches, entries = counted(lambda one: one.batches), counted(lambda one: one.entries)
    writes = counted(lambda one: one.writes)
    return shown | {
        "peer_per_s": median(block.per_second for block in measured.peer),
        "payments_per_s": median(block.per_second for block in blocks),
        "ratio": median(every),
        "ratio_least": min(every),
        "ratio_greatest": max(every),
        "is_met": median(every) >= row.goal,
        "p50_ms": median(block.told["p50_ms"] for block in blocks),
        "p99_ms": median(block.told["p99_ms"] for block in blocks),
        "cpu_us": _cpu_us(blocks),
        "peer_cpu_us": _cpu_us(measured.peer),
        "writing_transactions_per_payment": writes / payments,
        "commits_counted_per_payment": counted(lambda one: one.commits) / payments,
        "wal_bytes_per_payment": counted(lambda one: one.wal_bytes) / payments,
        "batch_size_mean": entries / batches if batches else None,
        "payments": payments,
        "replayed": _sum(blocks, lambda block: block.told["replayed"]),
        "broken": measured.broken,
    }


def small_figures(one: Ratio | Law) -> dict[str, Any]:
    """Return everything a small row or a law says, ready for JSON."""
    kind = "law" if isinstance(one, Law) else "micro"
    return {"kind": kind} | asdict(one) | {"is_met": one.is_met}


def open_figures(one: Open) -> dict[str, Any]:
    """Return everything a row at a fixed rate says, ready for JSON."""
    return {"kind": "open"} | asdict(one) | {"is_met": one.is_met}


class Report:
    """Rows as they come: each is on disk before the next is measured."""

    def __init__(self, folder: Path, at: datetime, conditions: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"bench-{at:%Y%m%dT%H%M%SZ}.jsonl"
        self.conditions = dict(conditions)
        self.rows: list[dict[str, Any]] = []
        self._write({"conditions": self.conditions})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def learn(self, conditions: Mapping[str, Any]) -> None:
        """Keep further conditions."""
        self.conditions |= conditions
        self._write({"conditions": dict(conditions)})

    def add(self, figures: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(figures)
        self._write(figures)
