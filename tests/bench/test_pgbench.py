"""pgbench: its report is read, and it leaves nothing behind."""

import asyncpg
import pytest

from gateway.bench import pgbench
from gateway.bench.rows import Block
from gateway.sandbox.errors import SandboxError
from tests.bench.measured import reading
from tests.services import Services

REPORT = """pgbench (18.6)
number of transactions actually processed: 13000
number of failed transactions: 0 (0.000%)
latency average = 18.640 ms
initial connection time = 120.1 ms
tps = 3250.000000 (without initial connection time)
"""


def test_pgbench_is_read() -> None:
    told = pgbench.read_report(REPORT)
    assert Block(told, reading(0), reading(1)).per_second == 3250
    with pytest.raises(SandboxError):
        pgbench.read_report(REPORT.replace("tps =", "rate ="))


async def test_pgbench_runs_in_a_database_of_its_own(services: Services) -> None:
    """It fills, loads and leaves nothing behind."""
    program = pgbench.program()
    assert program is not None
    async with pgbench.filled(program, services.database_url) as filled:
        # Its 64 clients connect within that time, too, on a busy machine.
        told = await filled.load(seconds=4)
        assert told["created"] > 0
    connection = await asyncpg.connect(services.database_url)
    try:
        names = [row["datname"] for row in await connection.fetch("SELECT * FROM pg_database")]
    finally:
        await connection.close()
    assert pgbench.DATABASE not in names
