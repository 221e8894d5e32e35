"""A closed-loop load generator that costs as little CPU as it can: raw protocols, made-up bytes.

A process of its own. It reads one order a line on standard input and answers each with one line:

    {"port": 8080, "clients": 64, "seconds": 5, "scheme": "visa", "path": "/v1/payments",
     "replays": 0.01, "ids_file": "..."}
    {"port": 8080, "clients": 64, "seconds": null, "scheme": "visa",
     "path": "/v1/payments/quote", "is_prepared": true}

The second is of what is asked and changes nothing: a user's request is the same bytes each time,
made whole before the clock runs, and of an answer its status and its length are looked at, no more.
Without seconds each user asks once.

Latencies are closed-loop: a stall hides what would have been asked meanwhile, so they compare runs
and promise nothing.

    python loadtests/generator.py seeded.json
"""

import asyncio
import gc
import json
import random
import secrets
import sys
import time
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import uvloop
from wire import Connection, Seeded, is_replay, payment_id, request

FINISH_WITHIN_S = 30.0
# Where each user is to ask once: how long that may take.
EACH_WITHIN_S = 300.0
# Users are drawn so often before the clock runs, and then over again.
DRAWN = 1 << 17
# Stands where a key will be.
_KEY = b"\0"


def draw(users: int) -> int:
    """Return which user asks next; some ask far more often than others."""
    return int(users * random.random() ** 3)


@dataclass(slots=True)
class Run:
    """One order under way, and what came of it.

    Attributes:
        seconds: that were asked for, then those that it took until the time was up.
        created: 201 and 200 answers in time, replays not counted.
        late: answers after the time was up; they happened, and are not in `created`.
        latencies_s: one a counted answer.
        ids: payments that a 201 or 202 named.
    """

    seconds: float
    open: int
    done: "asyncio.Future[None]"
    is_over: bool = False
    created: int = 0
    declined: int = 0
    replayed: int = 0
    replayed_wrongly: int = 0
    late: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    ids: list[bytes] = field(default_factory=list)
    problem: str = ""

    def is_hoped_for(self, status: int, data: bytes, body_at: int) -> bool:
        """Count an answer by its status; returns whether it is one that was hoped for."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status <= 202:
            return True
        if not self.problem:
            self.problem = f"{status}: {data[body_at:].decode(errors='replace')[:300]}"
        return False

    def is_in_time(self, sent_at: float) -> bool:
        """Count an answer that was hoped for; returns whether it came before the time was up."""
        if self.is_over:
            self.late += 1
            return False
        self.created += 1
        self.latencies_s.append(time.perf_counter() - sent_at)
        return True

    def close_one(self) -> None:
        """Count a connection as finished."""
        self.open -= 1
        if self.open == 0 and not self.done.done():
            self.done.set_result(None)


class Client(Connection):
    """One connection that always has one request under way."""

    __slots__ = ("is_asking", "run", "sent_at")

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.is_asking = True
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_asking:
            self.complain(f"the server closed a connection: {exc!r}")
        self.run.close_one()

    def complain(self, problem: str) -> None:
        self.run.problem = problem

    def send_next(self) -> None:
        """Send the next request, or close when the time is up or nothing is left to ask."""
        asked = b"" if self.run.is_over else self.next_request()
        if not asked:
            self.is_asking = False
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(asked)

    @abstractmethod
    def next_request(self) -> bytes:
        """Return the next request; no bytes when there is nothing left to ask."""


class Prepared:
    """Requests made whole, one a user; how they follow one another is drawn as well."""

    def __init__(self, seeded: Seeded, scheme: str, path: bytes) -> None:
        around, key = seeded.around_card(), secrets.token_hex(6).encode()
        self._each = [
            request(token, key, card, around, path)
            for token, card in zip(seeded.tokens, seeded.cards[scheme], strict=True)
        ]
        self._drawn = [self._each[draw(len(self._each))] for _ in range(DRAWN)]

    def requests(self, *, is_once: bool) -> Iterator[bytes]:
        """Return what is asked: of each user once, or as it was drawn, without an end."""
        return iter(self._each) if is_once else cycle(self._drawn)


class Asker(Client):
    """A client that asks for what changes nothing, by requests made before."""

    __slots__ = ("requests",)

    def __init__(self, run: Run, requests: Iterator[bytes]) -> None:
        super().__init__(run)
        self.requests = requests

    def next_request(self) -> bytes:
        return next(self.requests, b"")

    def answered(self, status: int, data: bytes, body_at: int) -> None:
        if self.run.is_hoped_for(status, data, body_at):
            self.run.is_in_time(self.sent_at)
        self.send_next()


class Payments:
    """Payments never asked for before.

    Args:
        path: of the request; what is there need not make payments.
    """

    def __init__(self, seeded: Seeded, scheme: str, path: bytes) -> None:
        around = seeded.around_card()
        parts = [
            request(token, _KEY, card, around, path).partition(_KEY)
            for token, card in zip(seeded.tokens, seeded.cards[scheme], strict=True)
        ]
        self._starts = [start for start, _, _ in parts]
        self._ends = [end for _, _, end in parts]
        self._prefix = secrets.token_hex(6).encode()
        self._number = 0

    def next(self) -> bytes:
        """Return the next one."""
        self._number += 1
        who = draw(len(self._starts))
        return b"%b%b-%d%b" % (self._starts[who], self._prefix, self._number, self._ends[who])


class Payer(Client):
    """A client that pays, and sometimes asks for a payment once more.

    Args:
        replays: share of the payments.
    """

    __slots__ = ("expected_id", "is_replay", "payments", "replays", "request")

    def __init__(self, run: Run, payments: Payments, replays: float) -> None:
        super().__init__(run)
        self.payments = payments
        self.replays = replays
        self.request = b""
        self.is_replay = False
        self.expected_id = b""

    def next_request(self) -> bytes:
        if not self.is_replay:
            self.request = self.payments.next()
        return self.request

    def answered(self, status: int, data: bytes, body_at: int) -> None:
        run, was_replay = self.run, self.is_replay
        self.is_replay = False
        if run.is_hoped_for(status, data, body_at):
            told_id = payment_id(data, body_at) if status > 200 else b""
            if was_replay:
                run.replayed += 1
                if told_id != self.expected_id or not is_replay(data, body_at):
                    run.replayed_wrongly += 1
            else:
                self.answered_first(status, told_id, data)
        self.send_next()

    def answered_first(self, status: int, told_id: bytes, data: bytes) -> None:
        """Count the answer to a new payment, and sometimes ask for it once more."""
        run = self.run
        if told_id:
            run.ids.append(told_id)
        if not run.is_in_time(self.sent_at):
            return
        if status == 201 and b'"status":"succeeded"' not in data:
            run.declined += 1
        if self.replays and random.random() < self.replays:
            self.is_replay, self.expected_id = True, told_id


class Generator:
    """Carries out orders, one after another.

    Args:
        seeded: who asks.
    """

    def __init__(self, seeded: Seeded) -> None:
        self._seeded = seeded
        # Made once each, by scheme and path: an order is not to wait for what another had made.
        self._payments: dict[tuple[str, bytes], Payments] = {}
        self._prepared: dict[tuple[str, bytes], Prepared] = {}

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self._seeded.tokens)

    async def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order; returns its counts."""
        loop = asyncio.get_running_loop()
        seconds: float | None = order["seconds"]
        run = Run(seconds or 0.0, order["clients"], loop.create_future())
        client = self._client(run, order)
        # Nothing here is in a cycle, and a collection would be a stall of our own making.
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu_before = time.process_time()
        started = time.perf_counter()

        def end() -> None:
            run.is_over = True
            run.seconds = time.perf_counter() - started

        if seconds is not None:
            loop.call_later(seconds, end)
        try:
            for _ in range(order["clients"]):
                await loop.create_connection(client, "127.0.0.1", order["port"])
            within_s = EACH_WITHIN_S if seconds is None else seconds + FINISH_WITHIN_S
            async with asyncio.timeout(within_s):
                await run.done
        finally:
            gc.enable()
        cpu_s = time.process_time() - cpu_before
        until_last_s = time.perf_counter() - started
        if seconds is None:
            run.seconds = until_last_s
        if order.get("ids_file"):
            _append(Path(order["ids_file"]), run.ids)
        return _told(run, cpu_s) | {"until_last_s": until_last_s}

    def _client(self, run: Run, order: dict[str, Any]) -> Callable[[], Client]:
        """Return what makes the clients of an order."""
        what = order["scheme"], order["path"].encode()
        if order.get("is_prepared"):
            if what not in self._prepared:
                self._prepared[what] = Prepared(self._seeded, *what)
            requests = self._prepared[what].requests(is_once=order["seconds"] is None)
            return lambda: Asker(run, requests)
        if what not in self._payments:
            self._payments[what] = Payments(self._seeded, *what)
        payments, replays = self._payments[what], order["replays"]
        return lambda: Payer(run, payments, replays)


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
    generator = Generator(Seeded.read(Path(sys.argv[1])))
    with (
        suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        print(json.dumps({"users": generator.users}), flush=True)
        for line in sys.stdin:
            print(json.dumps(runner.run(generator.carry_out(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
