"""`oqim serve` with several workers: keeps them running on one port, and replaces them in turn.

The crew is a process that serves nothing itself: it knows no room, opens no database, and shares no
state between its workers. A worker that dies is started again, a little later each time. What a
signal does:

* SIGTERM, SIGINT: every worker finishes what it has begun, then the crew ends.
* SIGHUP: every worker reads its certificate again.
* SIGUSR2: every worker is replaced, one after another; each begins to stop when its successor is
  ready, so that somebody always listens.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from gateway.kernel.crew import ALIVE_FD, FOLDER, READY_FD

log = structlog.get_logger("crew")

READY_WITHIN_S = 60.0
# Workers finish what they have begun within 25 s and the draining of their connections.
STOP_WITHIN_S = 35.0
# A worker that dies is started again after the first, and after twice as long each time that it has
# lived for less than the last.
PAUSE_S = 0.2
PAUSE_MAX_S = 5.0
LIVED_S = 10.0


class CrewError(Exception):
    """A worker does not start; the message says what to look at."""


@dataclass(slots=True, eq=False)
class _Worker:
    """One process. `alive` is the end of a pipe that closes when the crew is gone."""

    process: asyncio.subprocess.Process
    alive: int

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self) -> int:
        status = await self.process.wait()
        if self.alive >= 0:
            os.close(self.alive)
            self.alive = -1
        return status

    async def stop(self) -> None:
        """Have it finish what it has begun; it is killed when that takes too long."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await self.ended()
        except TimeoutError:
            log.error("a worker did not stop and is killed", pid=self.process.pid)
            self.send(signal.SIGKILL)
            await self.ended()


class Crew:
    """Keeps workers running.

    Args:
        size: how many.
        command: what one is started with.
        environment: of each, to which its number and the crew's are added.
    """

    def __init__(
        self,
        size: int,
        command: tuple[str, ...] = (sys.executable, "-m", "gateway", "serve"),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._size = size
        self._command = command
        self._environment = environment
        self._folder = ""
        self._workers: dict[int, _Worker] = {}
        # Those whose successors are ready: their end is no death.
        self._retired: set[_Worker] = set()
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            CrewError: a worker was not ready at the first start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._hand_on, signal.SIGHUP)
        loop.add_signal_handler(signal.SIGUSR2, self._begin, self._replace_all)
        self._folder = tempfile.mkdtemp(prefix="oqim-crew-")
        try:
            await asyncio.gather(*(self._start(slot) for slot in range(1, self._size + 1)))
            self._serving.set()
            log.info("every worker serves", workers=self._size)
            await self._stopping.wait()
        finally:
            self._stopping.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            living = {*self._workers.values(), *self._retired}
            await asyncio.gather(*(worker.stop() for worker in living))
            shutil.rmtree(self._folder, ignore_errors=True)

    def _hand_on(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.send(number)

    def _begin(self, work: object, *arguments: object) -> None:
        assert callable(work), "a coroutine function is begun"
        task: asyncio.Task[None] = asyncio.create_task(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, slot: int) -> None:
        """Start a worker in a slot and wait until it serves; from then on it is kept."""
        self._workers[slot] = worker = await self._ready_worker(slot)
        self._begin(self._keep, slot, worker)

    async def _ready_worker(self, slot: int) -> _Worker:
        ready_read, ready_write = os.pipe()
        alive_read, alive_write = os.pipe()
        added = {
            "OQIM_WORKERS": "1",
            "OQIM_WORKER": str(slot),
            FOLDER: self._folder,
            READY_FD: str(ready_write),
            ALIVE_FD: str(alive_read),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**self._environment, **added},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(ready_write, alive_read),
            )
        finally:
            os.close(ready_write)
            os.close(alive_read)
        worker = _Worker(process, alive_write)
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                is_ready = await _first_byte(ready_read)
        except TimeoutError:
            is_ready = False
        except BaseException:
            await worker.stop()
            raise
        finally:
            os.close(ready_read)
        if not is_ready:
            await worker.stop()
            raise CrewError(f"worker {slot} did not start; its log says why")
        return worker

    async def _keep(self, slot: int, worker: _Worker) -> None:
        """Wait for a worker's end, and start another unless it was meant to end."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S
        while True:
            since = loop.time()
            status = await worker.ended()
            if worker in self._retired or self._stopping.is_set():
                self._retired.discard(worker)
                return
            log.error("a worker died and is started again", worker=slot, status=status)
            pause_s = PAUSE_S if loop.time() - since > LIVED_S else pause_s
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
                try:
                    self._workers[slot] = worker = await self._ready_worker(slot)
                    break
                except CrewError as error:
                    log.error("a worker does not start", reason=str(error))

    async def _replace_all(self) -> None:
        """Replace every worker, one after another; one that has no successor is left."""
        await self._serving.wait()
        async with self._replacing:
            for slot in range(1, self._size + 1):
                before = self._workers[slot]
                try:
                    after = await self._ready_worker(slot)
                except CrewError as error:
                    log.error("a worker was not replaced", worker=slot, reason=str(error))
                    return
                if self._workers[slot] is not before:
                    # It died meanwhile, and was started again: that one is new enough.
                    await after.stop()
                    continue
                self._retired.add(before)
                self._workers[slot] = after
                self._begin(self._keep, slot, after)
                before.send(signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_WITHIN_S):
                        await before.process.wait()
                if before.process.returncode is None:
                    before.send(signal.SIGKILL)
                log.info("a worker was replaced", worker=slot)


async def _first_byte(fd: int) -> bool:
    """Wait until a pipe has a byte; False when its other end is closed first."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return bool(os.read(fd, 1))
