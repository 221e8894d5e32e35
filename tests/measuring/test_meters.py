"""The meters: CPU, writes and WAL between two readings."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp

from gateway.measuring.meters import Meters
from tests.measuring.helpers import PAYMENT


async def test_the_meters_count_cpu_writes_and_wal(database: Any, tmp_path: Path) -> None:
    """What a process burns and a transaction writes between two readings is in their difference."""
    async with aiohttp.ClientSession() as http:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import sys\nn = 0\nwhile n < 10**7: n += 1\nsys.stdin.read()"),
            stdin=asyncio.subprocess.PIPE,
        )
        meters = Meters(
            data_dir=tmp_path,
            base_url="",
            connection=database,
            http=http,
            others={"burner": process.pid},
        )
        before = await meters.read()
        for number in range(3):
            await database.execute(PAYMENT, f"pay_more_{number}", "failed")
        async with asyncio.timeout(20):
            after = before
            while after.cpu_s["burner"] - before.cpu_s["burner"] < 0.1:
                after = await meters.read()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert after.writes - before.writes == 3
    assert after.wal_bytes > before.wal_bytes
    assert (before.batches, meters.workers) == (None, 0)
    assert after.busy_s - before.busy_s >= 0.1
    assert after.idle_s >= before.idle_s
    assert after.cpu_s["bench"] > before.cpu_s["bench"]


async def test_processes_of_one_name_are_read_together(database: Any, tmp_path: Path) -> None:
    """And no longer when none is named."""
    async with aiohttp.ClientSession() as http:
        others = {"own": os.getpid()}
        meters = Meters(
            data_dir=tmp_path, base_url="", connection=database, http=http, others=others
        )
        one = (await meters.read()).cpu_s["own"]
        assert one > 0, "the tests took some to come here"
        meters.watch("own", os.getpid(), os.getpid())
        assert (await meters.read()).cpu_s["own"] >= 2 * one
        meters.watch("own")
        assert (await meters.read()).cpu_s["own"] == 0
