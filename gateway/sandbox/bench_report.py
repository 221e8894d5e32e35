"""A benchmark's numbers as people and programs read them: a Markdown table and lines of JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import redis.asyncio

if TYPE_CHECKING:
    from gateway.sandbox.bench import Block, Plan, Row

_PROCESSES = ("gateway", "postgres", "valkey", "simulators", "generator")
_LIBRARIES = ("aiohttp", "uvloop", "asyncpg", "msgspec")
_POSTGRES_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
)
_COLUMNS = (
    "scheme",
    "clients",
    "bare aiohttp /s",
    "payments /s",
    "ratio (spread)",
    "p50 / p99 ms",
    *(f"{name} us" for name in _PROCESSES),
    "commits",
    "WAL bytes",
    "batch",
    "books",
)


async def conditions(connection: Any, redis_url: str, plan: Plan) -> dict[str, Any]:
    """Return under which conditions a run was made."""
    settings = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in _POSTGRES_SETTINGS
    }
    client = redis.asyncio.Redis.from_url(redis_url)
    try:
        server = await client.info("server")
    finally:
        await client.aclose()
    return {
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "oqim": version("oqim"),
        "postgresql": settings,
        "valkey": server.get("valkey_version", server.get("redis_version")),
        "plan": asdict(plan),
    }


def _sum(blocks: list[Block], read: Callable[[Block], float]) -> float:
    return sum(read(block) for block in blocks)


def _payments(block: Block) -> float:
    """Payments that a block made, the ones answered after its time included."""
    return float(block.told["created"] + block.told["late"])


def ratios(row: Row) -> list[float]:
    """Return Oqim's rate by its neighbour's, one a pair."""
    return [
        ours.per_second / bare.per_second
        for bare, ours in zip(row.bare, row.oqim, strict=True)
        if bare.per_second
    ]


def in_short(row: Row) -> str:
    """Return a row in a few words."""
    rate = median(block.per_second for block in row.oqim)
    books = "books hold" if not row.broken else "BOOKS BROKEN"
    return f"{rate:,.0f} payments/s, {median(ratios(row)):.3f} of bare aiohttp, {books}"


def figures(row: Row) -> dict[str, Any]:
    """Return everything a row says, ready for JSON.

    CPU is in microseconds a payment; `ratio` is the median of the pairs.
    """
    blocks = row.oqim
    payments = _sum(blocks, _payments) or 1.0
    every = ratios(row)

    def cpu_us(name: str) -> float:
        return (
            _sum(blocks, lambda block: block.after.cpu_s[name] - block.before.cpu_s[name])
            / payments
            * 1e6
        )

    batches = _sum(blocks, lambda block: (block.after.batches or 0) - (block.before.batches or 0))
    entries = _sum(blocks, lambda block: (block.after.entries or 0) - (block.before.entries or 0))
    return {
        "scheme": row.scheme,
        "clients": row.clients,
        "bare_per_s": median(block.per_second for block in row.bare),
        "payments_per_s": median(block.per_second for block in blocks),
        "ratio": median(every),
        "ratio_least": min(every),
        "ratio_greatest": max(every),
        "p50_ms": median(block.told["p50_ms"] for block in blocks),
        "p99_ms": median(block.told["p99_ms"] for block in blocks),
        "cpu_us": {
            name: round(cpu_us(name), 1) for name in _PROCESSES if name in blocks[0].before.cpu_s
        },
        "writing_transactions_per_payment": _sum(
            blocks, lambda block: block.after.writes - block.before.writes
        )
        / payments,
        "commits_counted_per_payment": _sum(
            blocks, lambda block: block.after.commits - block.before.commits
        )
        / payments,
        "wal_bytes_per_payment": _sum(
            blocks, lambda block: block.after.wal_bytes - block.before.wal_bytes
        )
        / payments,
        "batch_size_mean": entries / batches if batches else None,
        "payments": payments,
        "replayed": _sum(blocks, lambda block: block.told["replayed"]),
        "broken": row.broken,
    }


class Report:
    """Rows as they come: each is on disk before the next is measured."""

    def __init__(self, folder: Path, at: datetime, conditions: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"bench-{at:%Y%m%dT%H%M%SZ}.jsonl"
        self._conditions = conditions
        self._rows: list[dict[str, Any]] = []
        self._write({"conditions": conditions})

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add(self, row: Row) -> None:
        """Keep a row."""
        shown = figures(row)
        self._rows.append(shown)
        self._write(shown)

    def finish(self) -> str:
        """Write the table beside the lines; returns it."""
        text = f"{_conditions_text(self._conditions)}\n\n{_table(self._rows)}\n"
        self._path.with_suffix(".md").write_text(text, encoding="utf-8")
        return text


def _conditions_text(found: dict[str, Any]) -> str:
    postgres, plan = found["postgresql"], found["plan"]
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    return "\n".join(
        [
            f"Oqim {found['oqim']}, {plan['workers']} worker(s), {found['cores']} cores "
            f"({found['machine']}), everything on this machine. "
            f"Python {found['python']}, {libraries}.",
            f"PostgreSQL {postgres['server_version']}: fsync={postgres['fsync']}, "
            f"synchronous_commit={postgres['synchronous_commit']}, "
            f"full_page_writes={postgres['full_page_writes']}; Valkey {found['valkey']}.",
            f"{plan['pairs']} pairs of {plan['seconds']:g} s a row, interleaved, CHECKPOINT before "
            f"each block; {plan['users']} users with three cards each, a few pay most; 1% replays; "
            "closed loop. CPU, commits (writing transactions) and WAL (with the whole pages that "
            "follow a CHECKPOINT) are per payment; a batch is "
            "a flush of the journal, two of which make a payment.",
        ]
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
    ]
    for row in rows:
        batch = row["batch_size_mean"]
        cells = [
            row["scheme"],
            row["clients"],
            f"{row['bare_per_s']:,.0f}",
            f"{row['payments_per_s']:,.0f}",
            f"{row['ratio']:.3f} ({row['ratio_least']:.3f} to {row['ratio_greatest']:.3f})",
            f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}",
            *(f"{row['cpu_us'].get(name, 0):.0f}" for name in _PROCESSES),
            f"{row['writing_transactions_per_payment']:.3f}",
            f"{row['wal_bytes_per_payment']:,.0f}",
            "-" if batch is None else f"{batch:.1f}",
            "hold" if not row["broken"] else "**broken**",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
