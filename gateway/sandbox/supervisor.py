"""Keeps a set of child processes running, in one data directory, and ends them in order.

Children are started in stages; each stage is ready before the next begins, and the stages are
stopped in the opposite order, the children of one together. A child that dies is started again, a
little later each time; one that keeps dying soon after its start ends the whole, with its last
words.

It knows nothing of what the children are for: everything about one is in its `ChildSpec`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.sandbox.datadir import DataDirectory
from gateway.sandbox.errors import ChildGaveUp, ChildNotReady, SandboxError
from gateway.sandbox.processes import (
    POLL_S,
    STOP_GENTLY,
    ChildProcess,
    StopPlan,
    SystemUser,
    cut,
    leftovers,
    spawn,
    stop_strangers,
)
from gateway.sandbox.progress import Progress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOG_CHECK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How a child that died is started again.

    The n-th death in a row within `quick_s` of the start is followed by a pause of
    `pause_s * 2 ** (n - 1)`, at most `pause_max_s`; the `quick_deaths_max`-th by none: it ends the
    sandbox. A child that lived longer begins anew.
    """

    quick_s: float = 10.0
    quick_deaths_max: int = 5
    pause_s: float = 0.2
    pause_max_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child process, as the supervisor needs to know it.

    Attributes:
        name: Unique; names its log and its record, so letters, digits, `-` and `_`.
        argv: The command; its first part an absolute path.
        env: The whole environment; None passes ours on.
        cwd: The working directory; None is `/`, reachable by everyone.
        prepare: Awaited before every start (removing an old ready file, say).
        ready: Awaited every 20 ms until it returns true; an exception it raises counts as not yet,
            and is shown when time is up. None: ready when started.
        ready_within_s: How long the child may take to be ready at its first start.
        restart: What to do when it dies after it was ready.
        stop: The signals that end it, each with the seconds to wait; the first is also sent by the
            kernel if we die (Linux).
        run_as: Another user to run as.
        advice: A sentence that ends the message when it cannot run: what its user can do.
    """

    name: str
    argv: Sequence[str | Path]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_within_s: float = 30.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop: StopPlan = STOP_GENTLY
    run_as: SystemUser | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a child's name names files: {self.name!r}")


class Supervisor:
    """Runs children in a data directory that it holds while it is open.

    `async with Supervisor(path, progress, handle_signals=True) as supervisor:` takes the directory,
    stops what a killed sandbox left in it, and at the end stops every child. With `handle_signals`,
    the first SIGINT, SIGTERM or SIGHUP cancels the block, whatever it waits for, and the block then
    ends without an exception; a second one kills the children that are still stopping.
    """

    def __init__(
        self,
        data_dir: Path,
        progress: Progress,
        *,
        handle_signals: bool = False,
        tied: bool = True,
    ) -> None:
        """Name what to use; nothing is touched before the block is entered.

        Args:
            data_dir: The data directory; made when it is not there.
            progress: Where to tell.
            handle_signals: Take SIGINT, SIGTERM and SIGHUP; only in a program's main task.
            tied: False lets children outlive us when we are killed (Linux); the next start stops
                them.
        """
        self.directory = DataDirectory(data_dir)
        self.progress = progress
        self._handle_signals = handle_signals
        self._tied = tied
        self._stages: list[list[_Watch]] = []
        self._hurry = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None
        self._main: asyncio.Task[object] | None = None
        self._stop_signals = 0
        self._log_keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.directory.lock()
        try:
            loop = asyncio.get_running_loop()
            self._failure = loop.create_future()
            self._failure.add_done_callback(_retrieve)
            if self._handle_signals:
                self._main = asyncio.current_task()
                for number in STOP_SIGNALS:
                    loop.add_signal_handler(number, self._on_signal)
            await self._stop_leftovers()
            self._log_keeper = asyncio.create_task(self._keep_logs())
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        was_asked = kind is asyncio.CancelledError and self._stop_signals > 0
        if was_asked and self._main is not None:
            self._main.uncancel()
        try:
            await self.stop()
        finally:
            self._close()
        return was_asked

    async def start(self, *specs: ChildSpec) -> None:
        """Start a stage: these children together; return when all of them are ready.

        Raises:
            ChildNotReady: one died or was not ready in time; the others keep running until `stop`.
            ChildGaveUp: a child of an earlier stage gave up meanwhile.
        """
        stage = [_Watch(self, spec) for spec in specs]
        self._stages.append(stage)
        await self._or_failure(asyncio.gather(*(watch.start() for watch in stage)))

    async def wait(self) -> None:
        """Wait until the block is cancelled (by a signal) or a child gives up.

        Raises:
            ChildGaveUp: its message has the child's last words.
        """
        if self._failure is None:
            raise RuntimeError("the supervisor is not open")
        await asyncio.shield(self._failure)

    def pid(self, name: str) -> int | None:
        """Return the process number of the child of that name, None while it does not run."""
        for watch in (watch for stage in self._stages for watch in stage):
            if watch.spec.name == name and watch.child is not None and watch.child.is_running:
                return watch.child.pid
        return None

    async def stop(self) -> None:
        """Stop all children, the last stage first; a second call does nothing.

        Not to be cancelled half way: a cancellation is raised after the children have ended.
        """
        stages, self._stages = self._stages, []
        if not any(watch.is_wanted for stage in stages for watch in stage):
            return
        stopping = asyncio.create_task(self._stop_stages(stages))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            self._hurry.set()
            await stopping
            raise

    async def _stop_stages(self, stages: list[list[_Watch]]) -> None:
        with self.progress.step("Stopping") as step:
            for stage in reversed(stages):
                step.note(", ".join(watch.spec.name for watch in stage))
                await asyncio.gather(*(watch.stop(self._hurry) for watch in stage))
            step.note("")

    async def _stop_leftovers(self) -> None:
        found = leftovers(self.directory)
        if not found:
            return
        names = ", ".join(name for name, _, _ in found)
        with self.progress.step(f"Stopping what an earlier run left behind: {names}"):
            await asyncio.gather(
                *(
                    stop_strangers([identity], ((stop, 10.0), (signal.SIGKILL, 5.0)))
                    for _, identity, stop in found
                )
            )
        for name, _, _ in found:
            self.directory.record(name).unlink(missing_ok=True)

    async def _or_failure(self, work: asyncio.Future[list[None]]) -> None:
        if self._failure is None:
            raise RuntimeError("the supervisor is not open")
        try:
            either: set[asyncio.Future[Any]] = {work, self._failure}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await work
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, SandboxError):
                await work

    async def _keep_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for log in sorted((self.directory.path / "logs").glob("*.log")):
                await asyncio.to_thread(cut, log)

    def _on_signal(self) -> None:
        self._stop_signals += 1
        if self._stop_signals == 1 and self._main is not None:
            self._main.cancel()
        elif self._stop_signals == 2:
            self.progress.warn("Killing what still runs.")
            self._hurry.set()

    def _close(self) -> None:
        if self._log_keeper is not None:
            self._log_keeper.cancel()
        if self._main is not None:
            loop = asyncio.get_running_loop()
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
        self.directory.unlock()

    def fail(self, error: SandboxError) -> None:
        """End the whole: `wait` and `start` raise the error. The first one counts."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def spawn(self, spec: ChildSpec) -> ChildProcess:
        """Start the child's process, without waiting for it to be ready."""
        if spec.prepare is not None:
            await spec.prepare()
        return await spawn(
            self.directory,
            spec.name,
            spec.argv,
            env=os.environ if spec.env is None else spec.env,
            cwd=Path("/") if spec.cwd is None else spec.cwd,
            run_as=spec.run_as,
            stop_signal=spec.stop[0][0],
            tied=self._tied,
        )


class _Watch:
    """One child of a supervisor, over all its lives."""

    def __init__(self, supervisor: Supervisor, spec: ChildSpec) -> None:
        self.spec = spec
        self.child: ChildProcess | None = None
        self.is_wanted = True
        self._supervisor = supervisor
        self._keeper: asyncio.Task[None] | None = None
        self._quick_deaths = 0

    async def start(self) -> None:
        """Start the first process and wait until it is ready; from then on keep it running."""
        started = asyncio.get_running_loop().time()
        self.child = await self._supervisor.spawn(self.spec)
        await self._until_ready(self.child)
        self._keeper = asyncio.create_task(self._keep(self.child, started))

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process, and start it no more."""
        self.is_wanted = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.child is None or not self.child.is_running:
            return
        was_willing = await self.child.stop(self.spec.stop, hurry)
        if not was_willing and not hurry.is_set():
            self._supervisor.progress.warn(
                f"{self.spec.name} did not stop in {self.spec.stop[0][1]:.0f} s and was made to."
            )

    async def _until_ready(self, child: ChildProcess) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.spec.ready_within_s
        if self.spec.ready is None:
            return
        ended = asyncio.create_task(child.wait())
        refusal: Exception | None = None
        try:
            while True:
                if ended.done():
                    raise ChildNotReady(self._obituary(child, ended.result(), "when it started"))
                try:
                    if await self.spec.ready():
                        return
                except Exception as error:  # whatever it is: the child may yet become ready
                    refusal = error
                if loop.time() >= deadline:
                    raise ChildNotReady(self._impatience(child)) from refusal
                await asyncio.wait({ended}, timeout=POLL_S)
        finally:
            ended.cancel()

    async def _keep(self, child: ChildProcess, started: float) -> None:
        loop = asyncio.get_running_loop()
        policy = self.spec.restart
        while True:
            status = await child.wait()
            lived_s = loop.time() - started
            self._quick_deaths = self._quick_deaths + 1 if lived_s < policy.quick_s else 1
            if self._quick_deaths >= policy.quick_deaths_max:
                times = f"{self._quick_deaths} times, within {policy.quick_s:.0f} s of its start"
                self._supervisor.fail(ChildGaveUp(self._obituary(child, status, times)))
                return
            pause_s = min(policy.pause_s * 2 ** (self._quick_deaths - 1), policy.pause_max_s)
            self._supervisor.progress.warn(
                f"{self.spec.name} {_cause(status)} after {lived_s:.1f} s; starting it again in "
                f"{pause_s:.1f} s. Its log: {child.log}"
            )
            await asyncio.sleep(pause_s)
            started = loop.time()
            child = self.child = await self._supervisor.spawn(self.spec)

    def _obituary(self, child: ChildProcess, status: int, when: str) -> str:
        return self._with_log(child, f"{self.spec.name} {_cause(status)} {when}.")

    def _impatience(self, child: ChildProcess) -> str:
        return self._with_log(
            child, f"{self.spec.name} was not ready within {self.spec.ready_within_s:.0f} s."
        )

    def _with_log(self, child: ChildProcess, sentence: str) -> str:
        words = child.last_lines()
        end = f"Its last lines:\n{words}" if words else "It printed nothing."
        advice = f"\n{self.spec.advice}" if self.spec.advice else ""
        return f"{sentence} {end}\nThe whole log: {child.log}{advice}"


def _cause(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def _retrieve(failure: asyncio.Future[None]) -> None:
    # Marks the exception as seen: when the block has ended for another reason, nobody waits for it.
    if not failure.cancelled():
        failure.exception()
