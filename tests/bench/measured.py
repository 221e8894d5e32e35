"""Figures that the tests of the benchmark tell of."""

from typing import Any

from gateway.bench.rows import LOAD_ROWS, Block, Law, Measured
from gateway.measuring.conditions import machine
from gateway.measuring.meters import Reading


def reading(at: float) -> Reading:
    """Return counters that stand at `at` times something round."""
    return Reading(
        cpu_s={"gateway": at * 0.02, "postgres": at * 0.01},
        busy_s=at * 0.04,
        idle_s=at * 0.01,
        writes=int(at * 10),
        commits=int(at * 20),
        wal_bytes=int(at * 200_000),
        batches=at * 10,
        entries=at * 200,
    )


def block(created: int, at: float, *, late: int = 0) -> Block:
    told = {
        "created": created, "late": late, "until_last_s": 1.0, "replayed": 1, "p50_ms": 5.0,
        "p99_ms": 9.0,
    }  # fmt: skip
    return Block(told, reading(at), reading(at + 1))


def measured() -> Measured:
    """Return three pairs of VISA at 64 clients."""
    peer = [block(1000, 0), block(500, 2), block(1000, 4)]
    return Measured(
        LOAD_ROWS[0], peer=peer, oqim=[block(90, 1, late=10), block(100, 3), block(100, 5)]
    )


def law(worst: float) -> Law:
    return Law("law-policies", "`core.admit`", "policies", ((10, 5.0, 1.0), (99, 6.0, worst)), 1.5)


def conditions() -> dict[str, Any]:
    """Return what a run was made on, as its report keeps it."""
    plan = {"workers": 1, "pairs": 5, "seconds": 5.0, "warm_up_s": 2.0, "users": 9}
    servers = {"postgresql": {"server_version": "18", "fsync": "on"}, "valkey": "9"}
    return machine() | {"at": "now", "plan": plan, "load_average": 0.0} | servers
