"""A standby takes over while the old primary still runs, with a worker that still speaks to it.

Commits wait for the standby (`synchronous_standby_names`), as production is told to have it. The
old primary then acknowledges nothing more, and whoever is left with it must do nothing more.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from gateway.kernel.db import pool as pools
from gateway.sandbox.datadir import free_port
from gateway.sandbox.installs import common_places, find_postgres, reachable_install, run_as
from gateway.sandbox.postgres import SETTINGS
from gateway.sandbox.processes import SystemUser
from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all
from tests.faults.proxy import Proxy
from tests.faults.wires import proxied
from tests.faults.world import CONFIG, Clients, ask, ask_through
from tests.house import House, changed_config, running_house, until
from tests.payments.books import SCHEMES, fresh_amount
from tests.services import open_folder

pytestmark = [
    pytest.mark.skipif(SEEDS < 2, reason="`make faults` runs it: it needs a second PostgreSQL"),
    pytest.mark.fault(rows=[41], what="a standby promoted while the old primary still runs"),
]
PAYMENTS = 40
IMPATIENT = CONFIG | {
    "settings": {**CONFIG["settings"], "command_timeout_s = 10.0": "command_timeout_s = 2.0"},
}


@dataclass(frozen=True, slots=True)
class Standby:
    """A second PostgreSQL that follows the sandbox's."""

    port: int
    url: str

    async def promote(self) -> None:
        """Make it a primary; the old one is told nothing."""
        connection = await asyncpg.connect(self.url)
        try:
            assert await connection.fetchval("SELECT pg_promote(true, 30)")
        finally:
            await connection.close()


@asynccontextmanager
async def standby_of(house: House) -> AsyncIterator[Standby]:
    """Copy the sandbox's PostgreSQL, have the copy follow it, and commits wait for it."""
    (home,) = {path.parent for path in house.data_dir.glob("postgres/data")}
    status = (home / "data").stat()
    user = SystemUser(pwd.getpwuid(status.st_uid).pw_name, status.st_uid, status.st_gid)
    install = await reachable_install(find_postgres(), user, common_places())
    url = urlsplit(house.description["database_url"])
    with open_folder("oqim-standby-") as folder:
        data = folder / "data"
        os.chown(folder, status.st_uid, status.st_gid)
        copy = [install.bin / "pg_basebackup", "-d", url.geturl(), "-D", data, "-R", "-c", "fast"]
        code, words = await run_as(user, copy)
        assert code == 0, words
        port = free_port()
        start = [install.bin / "pg_ctl", "start", "-w", "-D", data, "-l", folder / "log"]
        room = f"--max_connections={SETTINGS['max_connections']}"
        options = f"--port={port} --listen_addresses=127.0.0.1 --unix_socket_directories= {room}"
        code, words = await run_as(user, [*start, "-o", options], tied=False)
        assert code == 0, words + (folder / "log").read_text()
        try:
            await house.rows("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await house.rows("SELECT pg_reload_conf()")

            async def is_followed() -> bool:
                rows = await house.rows("SELECT sync_state FROM pg_stat_replication")
                return [row["sync_state"] for row in rows] == ["sync"]

            await until(is_followed, within_s=20)
            netloc = f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
            yield Standby(port, urlunsplit(url._replace(netloc=netloc)))
        finally:
            stop = [install.bin / "pg_ctl", "stop", "-D", data, "-m", "immediate"]
            await run_as(user, stop)


async def test_a_standby_takes_over(seed: int) -> None:
    """Row 41: what was told stands, the old primary's worker sends nothing, nothing is charged
    twice."""
    clients = Clients()
    with changed_config(**IMPATIENT) as environment:
        async with (
            running_house(environment=environment) as house,
            standby_of(house) as standby,
            proxied(house) as wires,
        ):
            proxy = wires.proxies["database"]
            old_port = proxy.port
            async with wires.worker_beside() as beside:
                await _fail_over(house, beside.door, standby, proxy, clients, seed)
                door = replace(
                    beside.door,
                    description=beside.door.description | {"database_url": standby.url},
                )
                for one in clients.asked:
                    reply = await ask_through(door, one)
                    assert reply.status in (201, 202), f"seed {seed}: {reply.raw!r}"
                await hold_all(door, clients)
                through = wires.environment["OQIM_DATABASE_URL"]
                await _old_one_is_refused(proxy, through, old_port)


async def _fail_over(
    house: House, door: House, standby: Standby, proxy: Proxy, clients: Clients, seed: int
) -> None:
    """Pay through both workers, and promote the standby amid it."""
    for scheme in SCHEMES:
        slow = {"kind": "delay", "rate": 1.0, "seconds": 0.05}
        await house.simulator("POST", scheme, "/_sim/faults", slow)
    slots, third = asyncio.Semaphore(10), asyncio.Event()

    async def pay(count: int) -> None:
        user, scheme = (seed * PAYMENTS + count) % 50, SCHEMES[count % 3]
        one = clients.want(user, house.purchase(user, scheme, fresh_amount()))
        async with slots:
            # Every other client speaks to the worker that is left behind.
            await ask(house if count % 2 else door, one)
        if count == PAYMENTS // 3:
            third.set()

    paying = asyncio.gather(*(pay(count) for count in range(PAYMENTS)))
    await third.wait()
    await standby.promote()
    proxy.port = standby.port
    proxy.reset_all()
    await paying
    for scheme in SCHEMES:
        await house.simulator("DELETE", scheme, "/_sim/faults")
    await until(door.is_ready, within_s=30)


async def _old_one_is_refused(proxy: Proxy, through: str, old_port: int) -> None:
    """A process that has met the new primary does not go back to the old one."""
    pool = await pools.create(through, size_max=1, command_timeout_s=5.0)
    try:
        assert await pool.fetchval("SELECT true")
        proxy.port = old_port
        await pool.expire_connections()
        with pytest.raises(ConnectionRefusedError):
            await pool.fetchval("SELECT true")
    finally:
        pool.terminate()
