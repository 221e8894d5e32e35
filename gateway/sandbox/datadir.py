"""The sandbox's data directory: who may use it (one sandbox at a time), and what lies where in it.

    lock             flock'ed by the sandbox that uses the directory; holds its process number
    services.json    ports and passwords of the embedded services (0600)
    run/NAME.json    one record per running child, by which a later sandbox knows leftovers again
    logs/NAME.log    what each child printed
    postgres/ valkey/    the services' own

Everything is made private or made here; permissions of a folder that was there before are never
changed. Also here: ports, the other thing that two sandboxes can fight over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import secrets
import socket
from pathlib import Path

from gateway.sandbox.errors import DirectoryInUse, PortInUse, SandboxError

LOOPBACK = "127.0.0.1"
# Systems give outgoing connections higher ones (from 32768 on Linux, from 49152 elsewhere): what is
# found free here is still free when a server that takes seconds to start takes it.
_OWN_PORTS = range(20_000, 32_768)
_PORT_TRIES = 100


class DataDirectory:
    """A data directory, once locked ours alone."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is touched before `lock`."""
        self.path = Path(os.path.abspath(path.expanduser()))
        self._lock_file: int | None = None

    @property
    def mark(self) -> str:
        """What tells this directory from a copy of it: path and inode."""
        status = self.path.stat()
        return f"{self.path}:{status.st_dev}:{status.st_ino}"

    @property
    def services_file(self) -> Path:
        """Ports and passwords of the embedded services."""
        return self.path / "services.json"

    def log(self, name: str) -> Path:
        """Return the log of the child of that name."""
        return self.path / "logs" / f"{name}.log"

    def record(self, name: str) -> Path:
        """Return the record of the running child of that name."""
        return self.path / "run" / f"{name}.json"

    def records(self) -> list[Path]:
        """Return the records there are."""
        return sorted((self.path / "run").glob("*.json"))

    def lock(self) -> None:
        """Make the directory where there is none, and take it.

        The lock goes with our process, however it ends, and is not inherited by its children.

        Raises:
            DirectoryInUse: another sandbox has it.
            SandboxError: it cannot be made or written.
        """
        try:
            make_directory(self.path)
            make_directory(self.path / "logs", mode=0o700)
            make_directory(self.path / "run", mode=0o700)
            lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SandboxError(
                f"The data directory {self.path} cannot be used: {error.strerror}. "
                "Name another one with OQIM_DATA_DIR."
            ) from error
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock_file, 32, 0).decode(errors="replace").strip()
            os.close(lock_file)
            raise DirectoryInUse(
                f"Another sandbox (process {holder or 'unknown'}) uses {self.path}. Stop it, or "
                "give this one a directory and a port of its own: "
                "OQIM_DATA_DIR=/some/other/folder OQIM_PORT=8081 make run"
            ) from error
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, f"{os.getpid()}\n".encode(), 0)
        self._lock_file = lock_file

    def unlock(self) -> None:
        """Give the directory up; a second call does nothing."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory and the missing ones above it, those with mode 755 whatever the umask.

    PostgreSQL runs as another user when we are root, and must get through. A directory that exists
    keeps its permissions.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for index, folder in reversed(list(enumerate(missing))):
        folder.mkdir()
        folder.chmod(mode if index == 0 else 0o755)


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def require_port(port: int, *, variable: str, host: str = LOOPBACK) -> None:
    """Make sure that nothing listens on a port.

    Args:
        port: 1 to 65535; 0 is always free.
        variable: The environment variable that chooses the port, for the message.
        host: The address to listen on.

    Raises:
        PortInUse: something listens, or the port needs rights that we lack; the message names both.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            reason = {
                errno.EADDRINUSE: "is in use by another program",
                errno.EACCES: "needs rights that you do not have (try one above 1023)",
            }.get(error.errno or 0, f"cannot be listened on: {error.strerror}")
            raise PortInUse(
                f"Port {port} of {host} {reason}. Stop that program, or choose another port with "
                f"{variable}, for example: {variable}={port + 1 if 1023 < port < 65535 else 8081} "
                "make run"
            ) from error


def free_port(preferred: int | None = None) -> int:
    """Return a port of the loopback address that is free now: the preferred one if it is.

    Another is one that no outgoing connection is given meanwhile.
    """
    others = random.SystemRandom().sample(_OWN_PORTS, _PORT_TRIES)
    for port in (*((preferred,) if preferred else ()), *others, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SandboxError(f"No port of {LOOPBACK} is free.")
