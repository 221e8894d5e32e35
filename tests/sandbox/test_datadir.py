"""The data directory and its ports: one sandbox each, and messages that say what to do."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.sandbox import processes
from gateway.sandbox.datadir import (
    DataDirectory,
    free_port,
    make_directory,
    require_port,
    write_private,
)
from gateway.sandbox.errors import DirectoryInUse, PortInUse, SandboxError

LOCKED_BY_ANOTHER = """
import sys
from pathlib import Path
from gateway.sandbox.datadir import DataDirectory
DataDirectory(Path(sys.argv[1])).lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    """A killed holder leaves the directory free, with nothing to clean by hand."""
    directory = DataDirectory(tmp_path / "data")
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED_BY_ANOTHER, str(directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(DirectoryInUse, match=rf"process {holder.pid}\).*{directory.path}"):
            directory.lock()
        holder.kill()
    directory.lock()
    directory.unlock()
    directory.unlock()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the way is told with the path and the variable."""
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match=r"file/data cannot be used.*OQIM_DATA_DIR"):
        DataDirectory(tmp_path / "file" / "data").lock()


def test_folders_made_are_open_and_folders_found_are_left(tmp_path: Path) -> None:
    """A narrow umask does not close what we make; what was there keeps its mode."""
    found = tmp_path / "found"
    found.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        make_directory(found / "made" / "inner", mode=0o711)
    finally:
        os.umask(before)
    make_directory(found, mode=0o755)
    modes = [
        stat.S_IMODE(path.stat().st_mode)
        for path in (found, found / "made", found / "made" / "inner")
    ]
    assert modes == [0o700, 0o755, 0o711]


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, and no draft is left."""
    target = tmp_path / "secret"
    write_private(target, "one")
    write_private(target, "two")
    assert target.read_text() == "two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_port_in_use_is_named_with_its_variable() -> None:
    """The message has port, address, variable and an example."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse) as raised:
            require_port(port, variable="OQIM_PORT")
        assert f"Port {port} of 127.0.0.1 is in use" in str(raised.value)
        assert "OQIM_PORT=" in str(raised.value)
        assert free_port(port) != port
    require_port(port, variable="OQIM_PORT")
    assert free_port(port) == port


def test_a_port_shared_by_workers_of_another_gateway_is_in_use() -> None:
    """SO_REUSEPORT lets a second gateway bind silently; the check does not."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse):
            require_port(other.getsockname()[1], variable="OQIM_PORT")


def test_a_log_at_its_bound_is_cut_while_its_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old lines go to `.1`, and the writer goes on at the new end."""
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 10)
    log = tmp_path / "worker.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"short\n")
        assert not processes.cut(log)
        writer.write(b"and now longer\n")
        assert processes.cut(log)
        writer.write(b"next\n")
    assert log.read_bytes() == b"next\n"
    assert (tmp_path / "worker.log.1").read_bytes() == b"short\nand now longer\n"
    assert stat.S_IMODE((tmp_path / "worker.log.1").stat().st_mode) == 0o600


def test_last_lines_are_those_of_this_run(tmp_path: Path) -> None:
    """What an earlier run wrote is not shown as this one's words; at most fifteen lines are."""
    log = tmp_path / "worker.log"
    log.write_text("of the run before\n")
    start = log.stat().st_size
    with log.open("a") as writer:
        writer.writelines(f"line {number}\n" for number in range(20))
    assert processes.tail(log, start).splitlines() == [f"    line {n}" for n in range(5, 20)]
    assert processes.tail(tmp_path / "absent") == ""


def test_a_free_port_is_none_that_an_outgoing_connection_is_given() -> None:
    """Another program's connection would take it before the server that it was found for."""
    with socket.socket() as outgoing:
        outgoing.bind(("127.0.0.1", 0))
        given = outgoing.getsockname()[1]
    found = [free_port() for _ in range(50)]
    assert max(found) < 32_768 <= given
    assert len(set(found)) > 40
