"""The supervisor keeps children running, and ends them in order."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sandbox.errors import ChildGaveUp, ChildNotReady, DirectoryInUse
from gateway.sandbox.processes import identify
from gateway.sandbox.progress import Progress
from gateway.sandbox.supervisor import ChildSpec, RestartPolicy, Supervisor
from tests.sandbox.helpers import python_child, running, until

FOREVER = "import signal; signal.pause()"
# Appends its name and its number to a file, and lives until it is told to end, which it tells too.
DIARIST = """
import os, signal, sys
def tell(what):
    with open(sys.argv[1], "a") as diary:
        diary.write(f"{what} {sys.argv[2]}\\n")
def end(*_):
    tell("ends")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
tell("begins")
while True:
    signal.pause()
"""


@pytest.fixture
def words() -> Iterator[io.StringIO]:
    """What the supervisor tells."""
    with io.StringIO() as stream:
        yield stream


@pytest.fixture
def supervisor(tmp_path: Path, words: io.StringIO) -> Supervisor:
    """A supervisor that is not open yet."""
    return Supervisor(tmp_path / "data", Progress(words, is_terminal=False))


def diarist(name: str, diary: Path) -> ChildSpec:
    """Return a child that keeps a diary, and is ready when it has begun it."""

    def reads() -> str:
        return diary.read_text()

    async def has_begun() -> bool:
        return f"begins {name}" in reads()

    return dataclasses.replace(python_child(name, DIARIST, diary, name), ready=has_begun)


async def test_children_that_die_are_started_again(
    supervisor: Supervisor, words: io.StringIO
) -> None:
    """A killed child has a successor with another number, and the reader is told."""
    async with supervisor:
        await supervisor.start(python_child("steady", FOREVER))
        first = supervisor.pid("steady")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pid("steady") not in (None, first))
    assert "steady was killed by SIGKILL" in words.getvalue()


async def test_a_child_that_keeps_dying_ends_the_sandbox_with_its_last_words(
    supervisor: Supervisor,
) -> None:
    """After the agreed number of quick deaths `wait` raises, with log, cause and advice."""
    policy = RestartPolicy(quick_s=60.0, quick_deaths_max=3, pause_s=0.01)
    dying = python_child("dying", "print('no such table: x'); raise SystemExit(3)", restart=policy)
    async with supervisor:
        await supervisor.start(dying)
        with pytest.raises(ChildGaveUp) as raised:
            async with asyncio.timeout(20):
                await supervisor.wait()
    message = str(raised.value)
    assert "dying exited with status 3 3 times" in message
    assert "    no such table: x" in message
    assert str(supervisor.directory.log("dying")) in message
    assert message.endswith("Mend the test.")


async def test_the_pause_grows_and_has_a_bound(supervisor: Supervisor, words: io.StringIO) -> None:
    """Pauses double up to the maximum."""
    policy = RestartPolicy(quick_s=60.0, quick_deaths_max=5, pause_s=0.1, pause_max_s=0.3)
    async with supervisor:
        await supervisor.start(python_child("dying", "raise SystemExit(1)", restart=policy))
        with pytest.raises(ChildGaveUp):
            async with asyncio.timeout(20):
                await supervisor.wait()
    pauses = [line.split(" s. Its")[0].split()[-1] for line in words.getvalue().splitlines()[:4]]
    assert pauses == ["0.1", "0.2", "0.3", "0.3"]


async def test_long_lives_do_not_count_towards_giving_up(
    supervisor: Supervisor, words: io.StringIO
) -> None:
    """A child whose lives are longer than `quick_s` is started again without end."""
    policy = RestartPolicy(quick_s=0.0, quick_deaths_max=2, pause_s=0.01)
    async with supervisor:
        await supervisor.start(python_child("mortal", "raise SystemExit(0)", restart=policy))
        await until(lambda: words.getvalue().count("starting it again") >= 4)


async def test_a_child_that_dies_before_it_is_ready_fails_the_start(
    supervisor: Supervisor,
) -> None:
    """The first start is not repeated: its cause is shown at once."""

    async def never() -> bool:
        return False

    spec = dataclasses.replace(python_child("broken", "raise SystemExit('bad flag')"), ready=never)
    async with supervisor:
        with pytest.raises(ChildNotReady, match=r"(?s)exited with status 1 when it .*bad flag"):
            await supervisor.start(spec)


async def test_a_child_that_is_never_ready_fails_the_start(supervisor: Supervisor) -> None:
    """The wait has an end, and the last refusal is the error's cause."""

    async def refuses() -> bool:
        raise ConnectionRefusedError("nobody there")

    spec = dataclasses.replace(python_child("mute", FOREVER), ready=refuses, ready_within_s=0.1)
    async with supervisor:
        with pytest.raises(ChildNotReady, match="was not ready within") as raised:
            await supervisor.start(spec)
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)


async def test_missing_programs_are_named(supervisor: Supervisor) -> None:
    """A command that cannot be run says so in its last words."""

    async def never() -> bool:
        return False

    async with supervisor:
        with pytest.raises(ChildNotReady, match=r"status 127(?s:.*)/no/such/program: No such file"):
            await supervisor.start(ChildSpec(name="absent", argv=["/no/such/program"], ready=never))


async def test_stages_stop_in_the_opposite_order(supervisor: Supervisor, tmp_path: Path) -> None:
    """The stage started last is stopped first, whole, before the next."""
    diary = tmp_path / "diary"
    diary.touch()
    async with supervisor:
        await supervisor.start(diarist("database", diary))
        await supervisor.start(diarist("worker-1", diary), diarist("worker-2", diary))
    lines = diary.read_text().splitlines()
    assert lines[0] == "begins database"
    assert sorted(lines[1:3]) == ["begins worker-1", "begins worker-2"]
    assert sorted(lines[3:5]) == ["ends worker-1", "ends worker-2"]
    assert lines[5] == "ends database"


async def test_a_deaf_child_is_killed_after_its_deadline(
    supervisor: Supervisor, words: io.StringIO, tmp_path: Path
) -> None:
    """A child that ignores its signal does not keep the sandbox from ending."""
    deaf = diarist("deaf", tmp_path / "diary")
    (tmp_path / "diary").touch()
    source = DIARIST.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    argv = [*deaf.argv[:4], source, *deaf.argv[5:]]
    stop = ((signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0))
    async with supervisor:
        await supervisor.start(dataclasses.replace(deaf, argv=argv, stop=stop))
        pid = supervisor.pid("deaf")
    assert pid is not None
    assert identify(pid) is None
    assert "deaf did not stop" in words.getvalue()


async def test_two_supervisors_cannot_share_a_directory(supervisor: Supervisor) -> None:
    """The second is refused, with the first's number and the way out."""
    async with supervisor:
        second = Supervisor(supervisor.directory.path, supervisor.progress)
        with pytest.raises(DirectoryInUse) as raised:
            await second.__aenter__()
    assert str(os.getpid()) in str(raised.value)
    assert "OQIM_DATA_DIR=" in str(raised.value)
    assert "OQIM_PORT=" in str(raised.value)
    async with second:
        assert second.pid("anything") is None


async def test_leftovers_are_stopped_before_anything_starts(
    supervisor: Supervisor, words: io.StringIO
) -> None:
    """A process that an earlier sandbox recorded, and that outlived it, is stopped."""
    async with supervisor:
        await supervisor.start(python_child("orphan", FOREVER))
        record = supervisor.directory.record("orphan")
        content = json.loads(record.read_text())
    orphan = start_stranger()
    content |= dataclasses.asdict(running(orphan.pid))
    supervisor.directory.record("old-worker").write_text(json.dumps(content))
    async with Supervisor(supervisor.directory.path, supervisor.progress):
        assert orphan.wait(timeout=5) == -signal.SIGTERM
    assert "left behind: old-worker" in words.getvalue()
    assert supervisor.directory.records() == []


async def test_a_number_used_again_is_left_alone(supervisor: Supervisor) -> None:
    """A record whose number belongs to another process by now is dropped, not acted upon."""
    async with supervisor:
        await supervisor.start(python_child("past", FOREVER))
        content = json.loads(supervisor.directory.record("past").read_text())
    stranger = start_stranger()
    content |= {"pid": stranger.pid, "started": running(os.getpid()).started}
    supervisor.directory.record("past").write_text(json.dumps(content))
    try:
        async with Supervisor(supervisor.directory.path, supervisor.progress):
            assert stranger.poll() is None
        assert supervisor.directory.records() == []
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_copied_directory_does_not_reach_for_the_first_ones_children(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """A record that came along with a copy names a process of the original: it is left alone."""
    copy = Supervisor(tmp_path / "copy", supervisor.progress)
    async with supervisor:
        await supervisor.start(python_child("worker", FOREVER))
        pid = supervisor.pid("worker")
        async with copy:
            record = supervisor.directory.record("worker").read_text()
        copy.directory.record("worker").write_text(record)
        async with copy:
            assert pid == supervisor.pid("worker")
            assert copy.directory.records() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_block_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """The first signal stops the children gently, and the program ends with status 0."""
    program = start_program(tmp_path)
    child = int((tmp_path / "child").read_text())
    program.send_signal(number)
    assert program.wait(timeout=20) == 0
    assert identify(child) is None
    assert (tmp_path / "diary").read_text().splitlines() == ["begins polite", "ends polite"]


async def test_a_second_signal_kills(tmp_path: Path) -> None:
    """Children that take their time are killed by the second Ctrl-C."""
    program = start_program(tmp_path, slow=True)
    child = int((tmp_path / "child").read_text())
    program.send_signal(signal.SIGINT)
    await until(lambda: "dawdles" in (tmp_path / "diary").read_text())
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=10) == 0
    assert identify(child) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's own")
async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """kill -9 of the supervisor leaves no child behind."""
    program = start_program(tmp_path)
    child = running(int((tmp_path / "child").read_text()))
    program.kill()
    program.wait()
    await until(lambda: not child.is_running())


PROGRAM = """
import asyncio, dataclasses, sys
from pathlib import Path
from gateway.sandbox.progress import SilentProgress
from gateway.sandbox.supervisor import Supervisor
from tests.sandbox.test_supervisor import SLOW, DIARIST, diarist, python_child

async def main():
    folder, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
    diary = folder / "diary"
    spec = diarist("polite", diary)
    if slow:
        argv = [*spec.argv[:4], SLOW, *spec.argv[5:]]
        spec = dataclasses.replace(spec, argv=argv)
    async with Supervisor(folder / "data", SilentProgress(), handle_signals=True) as supervisor:
        await supervisor.start(spec)
        (folder / "child").write_text(str(supervisor.pid("polite")))
        print("ready", flush=True)
        await supervisor.wait()

asyncio.run(main())
"""
SLOW = DIARIST.replace(
    "    raise SystemExit(0)", textwrap.indent('tell("dawdles")\nsignal.pause()', "    ")
)


def start_stranger() -> subprocess.Popen[bytes]:
    """Start a process that no supervisor knows."""
    return subprocess.Popen([sys.executable, "-c", FOREVER])


def start_program(folder: Path, *, slow: bool = False) -> subprocess.Popen[str]:
    """Start a program that supervises one child, and wait until that is ready."""
    (folder / "diary").touch()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), "slow" if slow else "quick"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program.stdout as answer:
        assert answer.readline() == "ready\n"
    return program
