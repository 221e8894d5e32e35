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

It knows the few bytes of HTTP/1.1 that our own servers answer (a Content-Length, no chunks), and
must never be pointed at anything else. Who it pays as comes from `loadtests/seed.py`:

    python loadtests/open_loop.py seeded.json
"""

import asyncio
import gc
import json
import random
import secrets
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop
from generator import ID_AT, ID_LENGTH, LENGTH, Seeded
from open_loop_told import LOST, PAYMENT, REFUSAL, REPLAY, Records, told

FINISH_WITHIN_S = 30.0
RECONNECT_S = 0.05
CONNECT_AT_ONCE = 64
TICK_S = 0.001
# Answered payments that a replay may ask for again.
ANSWERED_KEPT = 1_000
IDS_KEPT = 5_000
SETTLING_AT_ONCE = 32
SETTLE_AGAIN_S = 0.25
AMOUNT = 10_000
# More than any policy of the sandbox lets through: refused by a limit, nothing written.
AMOUNT_REFUSED = 900_000_000_000_000

_REQUEST = (
    b"POST /v1/payments HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: oqim-open-loop\r\n"
    b"Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer %b\r\n"
    b"Idempotency-Key: %b-%d\r\nContent-Length: %d\r\n\r\n%b%b%b"
)


def _body(amount: int, merchant: bytes) -> tuple[bytes, bytes]:
    """Return what is before a card's id in a payment's body, and what is after it."""
    return (
        b'{"operation":"purchase","amount":%d,"currency":"UZS","source":{"card":"' % amount,
        b'"},"destination":{"merchant":"%b"},"capture":"automatic","description":"load",'
        b'"metadata":{"order":"1001"}}' % merchant,
    )


class Requests:
    """What is asked, by number: drawn once, and had again as often as needed.

    Args:
        records: told what kind each request is, and over which scheme.
    """

    def __init__(
        self, seeded: Seeded, records: Records, *, replays: float, refusals: float, mix: list[float]
    ) -> None:
        self._tokens = seeded.tokens
        self._cards = [seeded.cards[scheme] for scheme in records.schemes]
        self._bodies = {
            PAYMENT: _body(AMOUNT, seeded.merchant),
            REFUSAL: _body(AMOUNT_REFUSED, seeded.merchant),
        }
        self._prefix = secrets.token_hex(6).encode()
        self._records = records
        count, chance, users = len(records.due_s), random.random, len(seeded.tokens)
        # Some users pay far more often than others.
        self._who = array("L", (int(users * chance() ** 3) for _ in range(count)))
        kinds = random.choices(
            (PAYMENT, REPLAY, REFUSAL), (1 - replays - refusals, replays, refusals), k=count
        )
        records.kinds.extend(kinds)
        records.scheme_of.extend(random.choices(range(len(mix)), mix, k=count))

    def request(self, number: int) -> bytes:
        """Return the bytes of a request; a replay's are those of what it asks for again."""
        who, card = self._who[number], self._cards[self._records.scheme_of[number]]
        kind = self._records.kinds[number]
        before, after = self._bodies[REFUSAL if kind == REFUSAL else PAYMENT]
        paying = card[who]
        return _REQUEST % (
            self._tokens[who],
            self._prefix,
            number,
            len(before) + len(paying) + len(after),
            before,
            paying,
            after,
        )


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
    idle: "deque[Connection]" = field(default_factory=deque)
    all: "set[Connection]" = field(default_factory=set)
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
        await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)

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

    def free(self, connection: "Connection") -> None:
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
            payment_id = self.replay_of.pop(number)
            is_same = data[body_at + ID_AT : body_at + ID_AT + ID_LENGTH] == payment_id
            if status <= 202 and not (is_same and b"Idempotent-Replayed: true" in data[:body_at]):
                records.replayed_wrongly += 1
        elif status in (201, 202):
            payment_id = data[body_at + ID_AT : body_at + ID_AT + ID_LENGTH]
            self.ids.append(payment_id)
            if status == 201:
                records.declined += b'"status":"succeeded"' not in data
                self.answered.append((number, payment_id))
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
                file.writelines(payment_id + b"\n" for payment_id in ids)


class Connection(asyncio.Protocol):
    """One connection, with one request under way at most."""

    __slots__ = ("number", "received", "run", "transport")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: asyncio.Transport
        self.received = b""
        self.number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, and are used like them.
        self.transport = cast(asyncio.Transport, transport)
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

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end >= 0:
            length = LENGTH.search(data, 0, head_end)
            if length is None:
                self.run.records.problem = "an answer has no Content-Length"
                self.transport.abort()
                return
            if len(data) >= head_end + 4 + int(length[1]):
                self.received = b""
                number, self.number = self.number, -1
                if number >= 0:
                    self.run.take(number, int(data[9:12]), data, head_end + 4)
                self.run.free(self)
                return
        self.received = data


def schedule(phases: Sequence[dict[str, float]]) -> "array[float]":
    """Return when each request is due, in seconds since the clock began.

    Args:
        phases: requests a second, and for how many seconds, one after another.
    """
    due = array("d")
    begins_s = 0.0
    for phase in phases:
        count = round(phase["rate"] * phase["seconds"])
        due.extend(begins_s + number / phase["rate"] for number in range(count))
        begins_s += phase["seconds"]
    return due


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
            return await settle(self._last, order["within_s"])
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


def is_unknown(status: int) -> bool:
    """Return whether an answer leaves open what became of a payment.

    A 503 does not: nothing was sent.
    """
    return not (200 <= status < 300 or 400 <= status < 500 or status == 503)


async def settle(run: Run, within_s: float) -> dict[str, Any]:
    """Ask again for payments of which nothing is known, each with its key, until all are.

    Returns:
        How many there were, how many have none after `within_s`, and the seconds it took.
    """
    began_s, records = time.perf_counter(), run.records
    unknown = [
        number
        for number, status in enumerate(records.statuses)
        if records.kinds[number] == PAYMENT and is_unknown(status)
    ]
    waiting, ids, slots = set(unknown), [], asyncio.Semaphore(SETTLING_AT_ONCE)

    async def one(number: int) -> None:
        while True:
            async with slots:
                status, payment_id = await _ask_once(run.port, run.requests.request(number))
            if status in (200, 201, 202):
                ids.append(payment_id)
            if 200 <= status < 300 or (400 <= status < 500 and status not in (409, 429)):
                waiting.discard(number)
                return
            await asyncio.sleep(SETTLE_AGAIN_S)

    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(one(number) for number in unknown))
    run.ids = ids
    run.write_ids()
    return {
        "unknown": len(unknown),
        "still_unknown": len(waiting),
        "seconds": time.perf_counter() - began_s,
    }


async def _ask_once(port: int, request: bytes) -> tuple[int, bytes]:
    """Send a request on a connection of its own; returns status (0: no answer) and payment id."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, b""
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        return int(head[9:12]), body[ID_AT : ID_AT + ID_LENGTH]
    except (OSError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        writer.transport.abort()


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
