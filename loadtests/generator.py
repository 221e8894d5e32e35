"""A closed-loop load generator that costs as little CPU as it can: raw protocols, made-up bytes.

A process of its own. It reads one order a line on standard input and answers each with one line:

    {"port": 8080, "clients": 64, "seconds": 5, "scheme": "visa", "path": "/v1/payments",
     "replays": 0.01, "ids_file": "..."}

It knows the few bytes of HTTP/1.1 that our own servers answer (a Content-Length, no chunks), and
must never be pointed at anything else. Latencies are closed-loop: a stall hides what would have
been asked meanwhile, so they compare runs and promise nothing.

    python loadtests/generator.py seeded.json
"""

import asyncio
import json
import random
import re
import secrets
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]+)")
ID_AT, ID_LENGTH = len(b'{"id":"'), 30
FINISH_WITHIN_S = 30.0


@dataclass(slots=True)
class Seeded:
    """Who pays: access tokens, and each user's card of a scheme, by the same index."""

    tokens: list[bytes]
    cards: dict[str, list[bytes]]
    merchant: bytes

    @classmethod
    def read(cls, path: Path) -> "Seeded":
        """Read what `loadtests/seed.py` wrote."""
        raw = json.loads(path.read_text())
        return cls(
            [token.encode() for token in raw["tokens"]],
            {scheme: [card.encode() for card in cards] for scheme, cards in raw["cards"].items()},
            raw["merchant"].encode(),
        )


@dataclass(slots=True)
class Run:
    """One order under way, and what came of it.

    Attributes:
        created: 201 and 200 answers in time, replays not counted.
        late: answers after the time was up; they happened, and are not in `created`.
        latencies_s: one a counted answer.
        ids: payments that a 201 or 202 named.
    """

    seeded: Seeded
    scheme: str
    path: bytes
    seconds: float
    clients: int
    replays: float
    done: "asyncio.Future[None]"
    is_over: bool = False
    open: int = 0
    created: int = 0
    declined: int = 0
    replayed: int = 0
    replayed_wrongly: int = 0
    late: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    ids: list[bytes] = field(default_factory=list)
    problem: str = ""
    _prefix: bytes = field(default_factory=lambda: secrets.token_hex(6).encode())
    _number: int = 0
    _ends: list[bytes] = field(default_factory=list)
    _starts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        for card in self.seeded.cards[self.scheme]:
            body = (
                b'{"operation":"purchase","amount":10000,"currency":"UZS","source":{"card":"'
                + card
                + b'"},"destination":{"merchant":"'
                + self.seeded.merchant
                + b'"},"capture":"automatic","description":"load","metadata":{"order":"1001"}}'
            )
            self._ends.append(
                b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )
        head = (
            b"POST " + self.path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: oqim-bench\r\n"
            b"Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer "
        )
        self._starts = [head + token + b"\r\nIdempotency-Key: " for token in self.seeded.tokens]

    def next_request(self) -> bytes:
        """Return a payment never asked for before; some users pay far more often than others."""
        self._number += 1
        who = int(len(self._starts) * random.random() ** 3)
        return b"%b%b-%d%b" % (self._starts[who], self._prefix, self._number, self._ends[who])

    def close_one(self) -> None:
        """Count a connection as finished."""
        self.open -= 1
        if self.open == 0 and not self.done.done():
            self.done.set_result(None)


class Client(asyncio.Protocol):
    """One connection that always has one request under way."""

    __slots__ = ("expected_id", "is_replay", "received", "request", "run", "sent_at", "transport")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: asyncio.Transport
        self.received = b""
        self.request = b""
        self.is_replay = False
        self.expected_id = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, and are used like them.
        self.transport = cast(asyncio.Transport, transport)
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.request:
            self.run.problem = f"the server closed a connection: {exc!r}"
        self.run.close_one()

    def send_next(self) -> None:
        """Send the next request, or close when the time is up."""
        run = self.run
        if run.is_over:
            self.request = b""
            self.transport.close()
            return
        if not self.is_replay:
            self.request = run.next_request()
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end >= 0:
            length = LENGTH.search(data, 0, head_end)
            if length is None:
                self.run.problem = "an answer has no Content-Length"
                self.transport.abort()
                return
            if len(data) >= head_end + 4 + int(length[1]):
                self.received = b""
                self.answered(data, head_end + 4)
                return
        self.received = data

    def answered(self, data: bytes, body_at: int) -> None:
        """Take one whole answer into account and go on."""
        run = self.run
        status = int(data[9:12])
        run.statuses[status] = run.statuses.get(status, 0) + 1
        if status > 202:
            if not run.problem:
                run.problem = f"{status}: {data[body_at:].decode(errors='replace')[:300]}"
            self.is_replay = False
            self.send_next()
            return
        payment_id = b""
        if status > 200:
            payment_id = data[body_at + ID_AT : body_at + ID_AT + ID_LENGTH]
        if self.is_replay:
            self.is_replay = False
            run.replayed += 1
            # Names of headers are written in either case.
            is_marked = b"idempotent-replayed: true" in data[:body_at].lower()
            if payment_id != self.expected_id or not is_marked:
                run.replayed_wrongly += 1
        else:
            self.answered_first(status, payment_id, data)
        self.send_next()

    def answered_first(self, status: int, payment_id: bytes, data: bytes) -> None:
        """Count the answer to a new payment, and sometimes ask for it once more."""
        run = self.run
        if payment_id:
            run.ids.append(payment_id)
        if run.is_over:
            run.late += 1
            return
        run.created += 1
        if status == 201 and b'"status":"succeeded"' not in data:
            run.declined += 1
        run.latencies_s.append(time.perf_counter() - self.sent_at)
        if run.replays and random.random() < run.replays:
            self.is_replay, self.expected_id = True, payment_id


async def run_order(seeded: Seeded, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order; returns its counts."""
    loop = asyncio.get_running_loop()
    run = Run(
        seeded,
        order["scheme"],
        order["path"].encode(),
        order["seconds"],
        order["clients"],
        order["replays"],
        loop.create_future(),
    )
    cpu_before = time.process_time()
    started = time.perf_counter()

    def end() -> None:
        run.is_over = True
        run.seconds = time.perf_counter() - started

    loop.call_later(order["seconds"], end)
    run.open = run.clients
    for _ in range(run.clients):
        await loop.create_connection(lambda: Client(run), "127.0.0.1", order["port"])
    async with asyncio.timeout(order["seconds"] + FINISH_WITHIN_S):
        await run.done
    cpu_s = time.process_time() - cpu_before
    until_last_s = time.perf_counter() - started
    if order.get("ids_file"):
        _append(Path(order["ids_file"]), run.ids)
    return _told(run, cpu_s) | {"until_last_s": until_last_s}


def _append(path: Path, payment_ids: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(payment_id + b"\n" for payment_id in payment_ids)


def _told(run: Run, cpu_s: float) -> dict[str, Any]:
    ordered = sorted(run.latencies_s)

    def quantile_ms(share: float) -> float:
        return round(ordered[int(share * (len(ordered) - 1))] * 1000, 3) if ordered else 0.0

    return {
        "seconds": run.seconds,
        "created": run.created,
        "declined": run.declined,
        "late": run.late,
        "replayed": run.replayed,
        "replayed_wrongly": run.replayed_wrongly,
        "statuses": run.statuses,
        "p50_ms": quantile_ms(0.5),
        "p99_ms": quantile_ms(0.99),
        "cpu_s": cpu_s,
        "problem": run.problem,
    }


def main() -> None:
    """Carry out orders until standard input ends."""
    seeded = Seeded.read(Path(sys.argv[1]))
    with (
        suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        print(json.dumps({"users": len(seeded.tokens)}), flush=True)
        for line in sys.stdin:
            print(json.dumps(runner.run(run_order(seeded, json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
