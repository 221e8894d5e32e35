"""`oqim profile`: a flame graph of the gateway under load, and the functions its time goes to.

Two looks of py-spy, one after the other, at one worker of a sandbox of its own while the generator
pays: the first draws the graph, the second is counted by function. Samples are of whoever holds the
interpreter, taken from outside: no instrument runs inside the gateway.
"""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.measuring.closed_loop import closed_loop
from gateway.measuring.helpers import ROOT
from gateway.measuring.meters import worker_pids
from gateway.measuring.stage import open_stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

USERS = 4_000
WARM_UP_S, REPLAYS = 2.0, 0.01
RATE_HZ = 200
FINISH_WITHIN_S = 60.0
FUNCTIONS_SHOWN = 30
NOT_PERMITTED = (
    "py-spy may not look into the gateway: that needs the right to trace processes (ptrace). "
    "Run it as root; in a container start that with --cap-add=SYS_PTRACE; or, where "
    "/proc/sys/kernel/yama/ptrace_scope is 1 or 2: sudo sysctl kernel.yama.ptrace_scope=0"
)


@dataclass(frozen=True, slots=True)
class Order:
    """What is looked at.

    Args:
        seconds: of each look.
        out: the SVG.
    """

    seconds: int
    scheme: str
    clients: int
    out: Path


class Spent(NamedTuple):
    """A function and its share of all samples: itself on top, and anywhere in the stack."""

    function: str
    own: float
    total: float


def by_function(lines: Iterable[str]) -> list[Spent]:
    """Count collapsed stacks (`outer;inner 12`) by function, the most of its own first.

    A function that is in a stack twice is counted once in its total.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    whole = 0
    for line in lines:
        stack, _, number = line.rstrip("\n").rpartition(" ")
        if not stack or not number.isdecimal():
            continue
        # Samples differ in the line that was running; functions do not.
        frames = [_without_line(frame) for frame in stack.split(";")]
        count = int(number)
        whole += count
        own[frames[-1]] += count
        for frame in set(frames):
            total[frame] += count
    return [
        Spent(function, own[function] / whole, total[function] / whole)
        for function, _ in sorted(total.items(), key=lambda item: (-own[item[0]], item[0]))
    ]


def _without_line(frame: str) -> str:
    """Return `name (file)` of py-spy's `name (file:12)`."""
    head, colon, tail = frame.rpartition(":")
    return f"{head})" if colon and tail.rstrip(")").isdecimal() else frame


def program() -> Path:
    """Return py-spy. Raises SandboxError when it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = beside if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise SandboxError("py-spy is not installed: pip install 'oqim[load]', or make build")
    return Path(found)


async def look(pid: int, out: Path, form: str, seconds: int) -> None:
    """Have py-spy look at a process, and write what it saw.

    Args:
        form: `flamegraph` (SVG) or `raw` (collapsed stacks).

    Raises:
        SandboxError: it failed, or was not permitted to look; says what to do then.
    """
    process = await asyncio.create_subprocess_exec(
        *(program(), "record", "--pid", str(pid), "--duration", str(seconds)),
        *("--rate", str(RATE_HZ), "--format", form, "--output", str(out)),
        # Otherwise threads that wait for work would be counted as busy.
        "--gil",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + FINISH_WITHIN_S):
            words = (await process.communicate())[0].decode(errors="replace")
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0 or not os.access(out, os.R_OK):
        is_forbidden = any(one in words.lower() for one in ("permission", "not permitted"))
        raise SandboxError(NOT_PERMITTED if is_forbidden else f"py-spy failed:\n{words[-1000:]}")


async def _profile(order: Order, loadtests: Path, progress: Progress) -> str:
    async with open_stage(
        sandbox_file=None, loadtests=loadtests, users=USERS, progress=progress
    ) as stage:
        (worker,) = worker_pids(stage.sandbox_file.parent)
        stacks = stage.work / "stacks"
        load = partial(
            closed_loop,
            stage.generator,
            port=stage.port,
            clients=order.clients,
            scheme=order.scheme,
            replays=REPLAYS,
            ids_file=None,
        )
        with progress.step("Warming up"):
            await load(seconds=WARM_UP_S)
        order.out.parent.mkdir(parents=True, exist_ok=True)
        paid = 0
        for title, path, form in (
            ("Drawing the flame graph", order.out, "flamegraph"),
            ("Counting by function", stacks, "raw"),
        ):
            with progress.step(f"{title}, {order.seconds} s under load") as step:
                told, _ = await asyncio.gather(
                    # py-spy takes a moment to begin and to end: the load must not end before it.
                    load(seconds=order.seconds + WARM_UP_S),
                    look(worker, path, form, order.seconds),
                )
                if told["problem"]:
                    raise SandboxError(f"the load went wrong: {told['problem']}")
                paid += told["created"]
                step.note(f"{told['created'] / told['seconds']:,.0f} payments/s")
        with stacks.open(encoding="utf-8") as lines:
            spent = by_function(lines)
    if not spent:
        raise SandboxError(f"py-spy saw nothing while {paid} payments were made")
    return table(spent)


def table(spent: list[Spent]) -> str:
    """Return the functions that most time goes to, as text."""
    lines = ["   own   total  function"]
    lines += [
        f"{one.own:6.1%}  {one.total:6.1%}  {one.function}" for one in spent[:FUNCTIONS_SHOWN]
    ]
    return "\n".join(lines)


def run(order: Order) -> int:
    """Profile; print the functions and write the graph. Returns the exit code."""
    progress = Progress()
    loadtests = ROOT / "loadtests"
    if not loadtests.is_dir():
        progress.error("Profiling needs the repository: run `make profile` there.")
        return 1
    try:
        print(asyncio.run(_profile(order, loadtests, progress)))
    except SandboxError as error:
        progress.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        progress.warn("Stopped.")
        return 130
    progress.say(f"The flame graph is {os.path.relpath(order.out)}; open it in a browser.")
    return 0
