"""Operating-system processes: start them, know them again, stop them.

Owns how a child of the sandbox is started (tied to our life, in a session of its own, its output
in a file), the record that lets a later sandbox recognise what a killed one left behind, and the
stopping of both. A process is only ever signalled after it was recognised by its number *and* the
moment it started: numbers are used again.

It knows nothing of what the processes do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.sandbox.datadir import DataDirectory, write_private

WRAPPER = Path(__file__).with_name("die_with_parent.py")
POLL_S = 0.02
TAIL_BYTES = 16_384
TAIL_LINES = 15
LOG_BYTES_MAX = 64 * 1024 * 1024

# One step: the signal to send, and how many seconds to wait for the end before the next.
StopPlan = tuple[tuple[signal.Signals, float], ...]
STOP_GENTLY: StopPlan = ((signal.SIGTERM, 25.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of this machine, without supplementary groups."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from any other that had or will have its number.

    `started` is the kernel's own mark of the start, opaque; it includes the boot on Linux.
    """

    pid: int
    started: str

    def is_running(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return identify(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.is_running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process, None when there is none or it is a zombie."""
    if sys.platform.startswith("linux"):
        return _identify_from_proc(pid)
    return _identify_from_ps(pid)


def _identify_from_proc(pid: int) -> ProcessIdentity | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # proc(5): the name, in parentheses, may hold anything; the fields after its last parenthesis
    # are counted from 3, the state; 22 is the start in clock ticks since the boot.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else ProcessIdentity(pid, f"{boot}:{fields[19]}")


def _identify_from_ps(pid: int) -> ProcessIdentity | None:
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = answer.stdout.strip().partition(" ")
    if answer.returncode != 0 or not started or state.startswith("Z"):
        return None
    return ProcessIdentity(pid, " ".join(started.split()))


def processes_working_in(directory: Path, program: str) -> list[ProcessIdentity]:
    """Return the running processes of `program` whose working directory is `directory`.

    Linux only (empty elsewhere), and only those that we may look at. PostgreSQL and Valkey both
    work in their data directory: this finds them, and the orphaned children of a killed
    PostgreSQL, when every record of them is lost.
    """
    if not sys.platform.startswith("linux"):
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            name = os.readlink(entry / "exe").removesuffix(" (deleted)")
            if Path(name).name != program or Path(os.readlink(entry / "cwd")) != directory:
                continue
            identity = identify(int(entry.name))
            if identity is not None:
                found.append(identity)
    return found


async def stop_strangers(identities: Sequence[ProcessIdentity], plan: StopPlan) -> None:
    """Stop processes that are not our children: step by step, until all of them have ended.

    Nothing tells us of their end, so it is looked for every 20 ms.
    """
    loop = asyncio.get_running_loop()
    for number, wait_s in plan:
        remaining = [identity for identity in identities if identity.is_running()]
        for identity in remaining:
            identity.send(number)
        deadline = loop.time() + wait_s
        while any(identity.is_running() for identity in remaining):
            if loop.time() >= deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return


class ChildProcess:
    """A running child of ours, recorded in the data directory until its end was seen."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, record: Path, log: Path, log_from: int
    ) -> None:
        """Hold what `spawn` made; call that instead."""
        self.name = name
        self.log = log
        self._process = process
        self._record = record
        self._log_from = log_from

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its end was not seen yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the end; return the exit status, or minus the signal that ended it."""
        status = await self._process.wait()
        self._record.unlink(missing_ok=True)
        return status

    async def stop(self, plan: StopPlan, hurry: asyncio.Event | None = None) -> bool:
        """Stop it by the plan's signals in turn; once `hurry` is set, kill it with its children.

        Returns whether the first signal was enough.
        """
        for step, (number, wait_s) in enumerate(plan):
            if hurry is not None and hurry.is_set():
                break
            self._send(number)
            if await self._ended_within(wait_s, hurry):
                return step == 0
        self._send(signal.SIGKILL)
        await self.wait()
        return False

    def last_lines(self) -> str:
        """Return the end of what this run wrote, indented; at most 15 lines."""
        return tail(self.log, self._log_from)

    async def _ended_within(self, wait_s: float, hurry: asyncio.Event | None) -> bool:
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self.wait())]
        if hurry is not None:
            waits.append(asyncio.create_task(hurry.wait()))
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return not self.is_running

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)  # it leads its session, so this takes its children too
            else:
                self._process.send_signal(number)


async def spawn(
    directory: DataDirectory,
    name: str,
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    run_as: SystemUser | None,
    stop_signal: signal.Signals,
    tied: bool = True,
) -> ChildProcess:
    """Start a command whose output goes to the directory's `logs/<name>.log`, and record it.

    Call it from the thread that runs the event loop, and let that thread live as long as the child:
    Linux ends the child when the *thread* that started it ends.

    Args:
        directory: The locked data directory.
        name: Unique among the running children.
        argv: The command; its first part an absolute path.
        env: The whole environment.
        cwd: The working directory, reachable by us (the child may go where we cannot).
        run_as: Another user to run as; only root can.
        stop_signal: What the kernel sends the child if we die, where it can.
        tied: False leaves the child running if we die.
    """
    log = directory.log(name)
    rotate(log)
    user = ("-1", "-1") if run_as is None else (str(run_as.uid), str(run_as.gid))
    number = str(int(stop_signal)) if tied else "0"
    wrapper = [
        sys.executable,
        "-I",
        "-S",
        str(WRAPPER),
        str(os.getpid()),
        number,
        *user,
        "077",
        "--",
    ]
    with log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        log_from = output.tell()
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            *(str(part) for part in argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone: we stop them in order
        )
    record = directory.record(name)
    identity = identify(process.pid)
    if identity is not None:
        stop = [int(stop_signal)]
        content = {"name": name, "directory": directory.mark, "stop": stop, **asdict(identity)}
        write_private(record, json.dumps(content))
    return ChildProcess(name, process, record, log, log_from)


def leftovers(directory: DataDirectory) -> list[tuple[str, ProcessIdentity, signal.Signals]]:
    """Return what an earlier sandbox of this very directory left running: name, identity, stop
    signal.

    Records of processes that have ended, or that came with a copied directory, are removed.
    """
    found = []
    for record in directory.records():
        try:
            content = json.loads(record.read_text())
            identity = ProcessIdentity(int(content["pid"]), str(content["started"]))
            stop = signal.Signals(content["stop"][0])
            is_ours = content["directory"] == directory.mark and identity.is_running()
        except (ValueError, KeyError, TypeError, IndexError):
            is_ours = False  # cut short when the machine stopped: no process survived that
        if is_ours:
            found.append((record.stem, identity, stop))
        else:
            record.unlink(missing_ok=True)
    return found


def tail(log: Path, start: int = 0) -> str:
    """Return the last lines (at most 15) of a log from byte `start` on, indented by four."""
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        # A log that was cut since is shorter than where this run began.
        file.seek(max(start if start <= size else 0, size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines)
    return ""


def rotate(log: Path) -> None:
    """Move a log that has reached its bound (64 MiB) to `<log>.1`, over the one that was there."""
    with suppress(FileNotFoundError):
        if log.stat().st_size >= LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def cut(log: Path) -> bool:
    """Do what `rotate` does to a log that its process holds open: copy it, then empty it.

    Lines written between the two are lost; the bound matters more in a sandbox. The log is opened
    for appending, so that its process goes on at the new end. Returns whether it was cut.
    """
    try:
        if log.stat().st_size < LOG_BYTES_MAX:
            return False
        with log.open("rb") as source, log.with_name(log.name + ".1").open("wb") as target:
            os.fchmod(target.fileno(), 0o600)
            while block := source.read(1 << 20):
                target.write(block)
        os.truncate(log, 0)
    except FileNotFoundError:
        return False
    return True
