"""An open-loop load generator: every request has its time and is sent then, whatever was answered.

A process of its own. It reads one order a line on standard input; it answers each with one line
when the clock begins to run, and with one when all is over:

    {"port": 8080, "mix": {"visa": 1}, "phases": [{"rate": 500, "seconds": 10}],
     "connections": 256, "replays": 0.01, "refusals": 0.05, "bucket_s": 1, "late_ms": 10,
     "ids_file": "..."}
    {"settle": true, "within_s": 60}

A latency is counted from the moment at which its request was due, so that a stall is charged with
everything that should have been asked meanwhile. What each request is (who pays, with which card,
whether it is a replay or one that must be refused) is drawn before the clock runs, and tokens were
signed long before; when a request is due, its parts are put together and written, no more.

`settle` asks again, with its key, for every payment of the last order whose answer leaves open what
became of it.

Who it pays as comes from `loadtests/seed.py`:

    python loadtests/open_loop.py seeded.json
"""

import asyncio
import gc
import json
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from open_loop_requests import Requests, schedule
from open_loop_settle import settle
from open_loop_told import LOST, PAYMENT, REFUSAL, REPLAY, Records, told
from wire import Connection, Seeded, is_replay, payment_id

FINISH_WITHIN_S = 30.0
RECONNECT_S = 0.05
CONNECT_AT_ONCE = 64
TICK_S = 0.001
# Answered payments that a replay may ask for again.
ANSWERED_KEPT = 1_000
IDS_KEPT = 5_000


@dataclass(slots=True)
class Run:
    """One order under way: what is due next, who is free to send it, and what came back.

    Attributes:
        began_s: when the clock began, by `time.perf_counter`.
        waiting: due, and no connection was free.
        answered: payments answered not long ago, with the ids that they were given.
        replay_of: for each replay under way, the id that it must be answered with.
    """

    port: int
    requests: Requests
    records: Records
    ids_file: Path | None
    done: "asyncio.Future[None]"
    began_s: float = 0.0
    next: int = 0
    open: int = 0
    is_over: bool = False
    idle: "deque[Payer]" = field(default_factory=deque)
    all: "set[Payer]" = field(default_factory=set)
    waiting: "deque[int]" = field(default_factory=deque)
    answered: "deque[tuple[int, bytes]]" = field(
        default_factory=lambda: deque(maxlen=ANSWERED_KEPT)
    )
    replay_of: dict[int, bytes] = field(default_factory=dict)
    ids: list[bytes] = field(default_factory=list)

    # Connections ------------------------------------------------------------------------------

    async def connect(self, count: int) -> None:
        """Open the connections, some at a time, before the clock runs."""
        for first in range(0, count, CONNECT_AT_ONCE):
            await asyncio.gather(
                *(self._connect_one() for _ in range(min(CONNECT_AT_ONCE, count - first)))
            )

    async def _connect_one(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Payer(self), "127.0.0.1", self.port)

    def reconnect(self) -> None:
        """Open a connection in the place of one that was lost, as soon as the server listens."""
        if not self.is_over:
            asyncio.get_running_loop().call_later(RECONNECT_S, self._try_again)

    def _try_again(self) -> None:
        def opened(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and task.exception() is not None:
                self.reconnect()

        if not self.is_over:
            asyncio.ensure_future(self._connect_one()).add_done_callback(opened)

    def free(self, connection: "Payer") -> None:
        """Give a connection what waits longest, or keep it for what will be due."""
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    # The clock --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send what is due, and come again when more is."""
        if self.is_over:
            return
        records = self.records
        due, count = records.due_s, len(records.due_s)
        now_s = time.perf_counter() - self.began_s
        while self.next < count and due[self.next] <= now_s:
            number = self.next
            self.next += 1
            records.own_late_s.append(now_s - due[number])
            self.open += 1
            if self.idle:
                self.idle.popleft().send(number)
            else:
                records.waited += 1
                self.waiting.append(number)
        if self.next < count:
            now_s = time.perf_counter() - self.began_s
            wait_s = max(TICK_S, due[self.next] - now_s)
            asyncio.get_running_loop().call_later(wait_s, self.tick)
        elif self.open == 0:
            self.finish()

    def finish(self) -> None:
        """Say that nothing more is to come."""
        if not self.done.done():
            self.done.set_result(None)

    def end(self) -> None:
        """Close everything; what has no answer by now has none."""
        self.is_over = True
        for connection in tuple(self.all):
            connection.transport.abort()
        self.write_ids()

    # Answers ----------------------------------------------------------------------------------

    def bytes_of(self, number: int) -> bytes:
        """Return what is sent for a request; a replay is of a payment answered just before."""
        if self.records.kinds[number] == REPLAY:
            if self.answered:
                of, self.replay_of[number] = self.answered.popleft()
                return self.requests.request(of)
            # Nothing was answered yet: it is a payment like others.
            self.records.kinds[number] = PAYMENT
        return self.requests.request(number)

    def take(self, number: int, status: int, data: bytes, body_at: int) -> None:
        """Take one whole answer into account."""
        records = self.records
        records.answered_s[number] = time.perf_counter() - self.began_s
        records.statuses[number] = status
        kind = records.kinds[number]
        if kind == REFUSAL:
            if status != 422:
                records.refused_wrongly += status < 400
                self._complain(status, data, body_at)
        elif kind == REPLAY:
            is_same = payment_id(data, body_at) == self.replay_of.pop(number)
            if status <= 202 and not (is_same and is_replay(data, body_at)):
                records.replayed_wrongly += 1
        elif status in (201, 202):
            told_id = payment_id(data, body_at)
            self.ids.append(told_id)
            if status == 201:
                records.declined += b'"status":"succeeded"' not in data
                self.answered.append((number, told_id))
            if len(self.ids) > IDS_KEPT:
                self.write_ids()
        else:
            self._complain(status, data, body_at)
        self.count_one()

    def lose(self, number: int) -> None:
        """Count a request whose connection ended before its answer."""
        self.records.answered_s[number] = time.perf_counter() - self.began_s
        self.records.statuses[number] = LOST
        self.replay_of.pop(number, None)
        self.count_one()

    def count_one(self) -> None:
        """Count one request as over, whatever came of it."""
        self.open -= 1
        if self.open == 0 and self.next == len(self.records.due_s):
            self.finish()

    def _complain(self, status: int, data: bytes, body_at: int) -> None:
        # What sheds load is counted by its status, and is no surprise.
        if status not in (429, 503) and not self.records.problem:
            words = data[body_at:].decode(errors="replace")[:300]
            self.records.problem = f"{status}: {words}"

    def write_ids(self) -> None:
        """Append the ids of payments that answers named to the file of the books."""
        ids, self.ids = self.ids, []
        if self.ids_file is not None and ids:
            with self.ids_file.open("ab") as file:
                file.writelines(one + b"\n" for one in ids)


class Payer(Connection):
    """One connection, with one request under way at most."""

    __slots__ = ("number", "run")

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.run.is_over:
            transport.close()
            return
        self.run.all.add(self)
        self.run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        run = self.run
        run.all.discard(self)
        if run.is_over:
            return
        if self.number >= 0:
            run.lose(self.number)
            self.number = -1
        else:
            with suppress(ValueError):
                run.idle.remove(self)
        run.reconnect()

    def send(self, number: int) -> None:
        """Send a request."""
        self.number = number
        self.transport.write(self.run.bytes_of(number))

    def answered(self, status: int, data: bytes, body_at: int) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            self.run.take(number, status, data, body_at)
        self.run.free(self)

    def complain(self, problem: str) -> None:
        self.run.records.problem = problem


class Generator:
    """Carries out orders, one after another.

    Args:
        seeded: who pays.
    """

    def __init__(self, seeded: Seeded) -> None:
        self._seeded = seeded
        self._last: Run | None = None

    async def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order; returns what came of it."""
        if order.get("settle"):
            assert self._last is not None, "there is something to settle"
            return await _settle(self._last, order["within_s"])
        mix: dict[str, float] = order["mix"]
        due_s = schedule(order["phases"])
        records = Records(tuple(mix), due_s, skip_s=order.get("skip_s", 0.0))
        requests = Requests(
            self._seeded,
            records,
            replays=order["replays"],
            refusals=order["refusals"],
            mix=list(mix.values()),
        )
        ids_file = Path(order["ids_file"]) if order.get("ids_file") else None
        done = asyncio.get_running_loop().create_future()
        run = self._last = Run(order["port"], requests, records, ids_file, done)
        # Nothing here is in a cycle, and a collection would be a stall of our own making.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            await run.connect(order["connections"])
            return await _run_by_the_clock(run, order)
        finally:
            run.end()
            gc.enable()


async def _run_by_the_clock(run: Run, order: dict[str, Any]) -> dict[str, Any]:
    lasts_s = sum(phase["seconds"] for phase in order["phases"])
    cpu_before = time.process_time()
    run.began_s = time.perf_counter()
    print(json.dumps({"began_s": run.began_s}), flush=True)
    run.tick()
    within_s = lasts_s + order.get("finish_within_s", FINISH_WITHIN_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await run.done
    until_last_s = time.perf_counter() - run.began_s
    cpu_s = time.process_time() - cpu_before
    run.end()
    return told(run.records, bucket_s=order["bucket_s"], late_ms=order["late_ms"]) | {
        "seconds": lasts_s,
        "until_last_s": until_last_s,
        "cpu_s": cpu_s,
    }


async def _settle(run: Run, within_s: float) -> dict[str, Any]:
    settled = await settle(run.port, run.requests, run.records, within_s)
    run.ids = settled.ids
    run.write_ids()
    return {
        "unknown": settled.unknown,
        "still_unknown": settled.still_unknown,
        "seconds": settled.seconds,
    }


async def serve(seeded: Seeded) -> None:
    """Carry out orders until standard input ends; what is under way then ends with it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    generator = Generator(seeded)
    print(json.dumps({"users": len(seeded.tokens)}), flush=True)
    line = await reader.readline()
    while line:
        work = asyncio.ensure_future(generator.carry_out(json.loads(line)))
        following = asyncio.ensure_future(reader.readline())
        await asyncio.wait({work, following}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # Nobody waits for the end: whoever gave the order has gone.
            work.cancel()
            return
        print(json.dumps(work.result()), flush=True)
        line = await following


def main() -> None:
    """Carry out orders until standard input ends."""
    seeded = Seeded.read(Path(sys.argv[1]))
    with (
        suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve(seeded))


if __name__ == "__main__":
    main()
