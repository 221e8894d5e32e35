"""Everything at once: random faults of every kind, drawn by a seed, while many clients pay.

First safety: whatever is broken, no book may be wrong. Then the faults end, and everything that was
ever asked must settle, and be told the same way by everybody.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all, unsafe
from tests.faults.proxy import WIRE, Toxic
from tests.faults.services import pid_of
from tests.faults.wires import Wires, proxied
from tests.faults.world import CONFIG, Asked, Beside, Clients, ask, ask_through
from tests.house import House, changed_config, running_house, until
from tests.payments.books import SCHEMES, fresh_amount

# `make faults` goes on for longer, and breaks the services themselves.
IS_LONG = SEEDS > 1
FAULTS_S = 40.0 if IS_LONG else 10.0
CLIENTS = 12
PATIENCE_S = 8.0
# About ten payments a customer and month: limits are met amid faults too.
TIGHT = CONFIG | {
    "limits": {"max_amount = 50000000000000": "max_amount = 11000000"},
    "settings": {**CONFIG["settings"], "command_timeout_s = 10.0": "command_timeout_s = 3.0"},
}
TOXICS = (
    Toxic(latency_s=0.05),
    Toxic(latency_s=0.4),
    Toxic(reset_after=0),
    Toxic(reset_after=60),
    Toxic(reset_after=100_000),
    Toxic(slice_bytes=11),
    Toxic(is_half_closed=True),
    Toxic(is_black_hole=True),
    Toxic(is_closed=True),
)
# To a processor also what PostgreSQL and Valkey, whose connections are theirs, need not bear.
HOSTILE = (*TOXICS, Toxic(is_duplicated=True), Toxic(is_corrupted=True))
SIMULATED: tuple[dict[str, Any], ...] = (
    {"kind": "delay", "seconds": 0.3},
    {"kind": "drop_reply_after_commit"},
    {"kind": "drop_request"},
    {"kind": "duplicate_reply"},
    {"kind": "garbage"},
    {"kind": "wrong_amount"},
    {"kind": "decline"},
)
FAILPOINTS = (
    "before_intent_commit",
    "after_intent_commit",
    "before_send",
    "after_reply",
    "before_fact_commit",
    "after_fact_commit",
    "before_answer",
    "before_reversal",
    "after_reversal",
    "after_recovery_claim",
    "after_action_claim",
    "after_action_reply",
    "after_callback_stored",
)


@dataclass(slots=True)
class Worker:
    """One worker behind wires of its own, started again when it dies."""

    wires: Wires
    beside: Beside
    stack: AsyncExitStack
    environment: dict[str, str]

    async def start_again(self, failpoints: dict[str, Any]) -> None:
        """Run another process where the dead one was."""
        await self.stack.aclose()
        self.stack = AsyncExitStack()
        with suppress(AssertionError):
            # It may not get ready while its wires are broken: then it is tried again later.
            self.beside = await self.stack.enter_async_context(
                self.wires.worker_beside(failpoints=failpoints, environment=self.environment)
            )


@dataclass(slots=True)
class Swizzle:
    """A seed's faults, and what they did.

    Attributes:
        told: every fault, with the second in which it came: printed when the seed fails.
    """

    house: House
    workers: list[Worker]
    clients: Clients
    random: Random
    began: float = field(default_factory=time.monotonic)
    told: list[str] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)

    def tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self.began:6.2f} s {what}")

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.began > FAULTS_S

    # Faults, each whole: what it breaks, it mends.

    async def spoil_a_wire(self) -> None:
        number = self.random.randrange(len(self.workers))
        name, proxy = self.random.choice(sorted(self.workers[number].wires.proxies.items()))
        toxic = self.random.choice(HOSTILE if name in SCHEMES else TOXICS)
        seconds = self.random.uniform(0.2, 2.0)
        self.tell(f"worker {number}, wire to {name}, for {seconds:.1f} s: {toxic}")
        proxy.toxic = toxic
        await asyncio.sleep(seconds)
        proxy.toxic = WIRE

    async def cut_wires(self) -> None:
        number = self.random.randrange(len(self.workers))
        name, proxy = self.random.choice(sorted(self.workers[number].wires.proxies.items()))
        self.tell(f"worker {number}, wires to {name} cut: {proxy.reset_all()}")

    async def misbehave(self) -> None:
        scheme, fault = self.random.choice(SCHEMES), dict(self.random.choice(SIMULATED))
        fault["rate"] = self.random.choice((0.1, 0.5, 1.0))
        seconds = self.random.uniform(0.3, 2.0)
        self.tell(f"{scheme} for {seconds:.1f} s: {fault}")
        await self.house.simulator("POST", scheme, "/_sim/faults", fault)
        await asyncio.sleep(seconds)
        await self.house.simulator("DELETE", scheme, "/_sim/faults")

    async def kill_a_worker(self) -> None:
        number = self.random.randrange(len(self.workers))
        worker = self.workers[number]
        if worker.beside.process.pid in self.stopped:
            return
        self.tell(f"worker {number} killed")
        worker.beside.process.kill()
        await worker.start_again(self.failpoints())

    async def hold_a_worker_up(self) -> None:
        number = self.random.randrange(len(self.workers))
        process = self.workers[number].beside.process
        if process.poll() is not None or process.pid in self.stopped:
            return
        seconds = self.random.uniform(0.3, 4.0)
        self.tell(f"worker {number} stopped for {seconds:.1f} s")
        self.stopped.add(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)
        self.stopped.discard(process.pid)

    async def kill_postgres(self) -> None:
        number = self.random.choice((signal.SIGQUIT, signal.SIGKILL))
        self.tell(f"PostgreSQL: {number.name}")
        os.kill(pid_of(self.house, "postgres"), number)

    async def kill_valkey(self) -> None:
        self.tell("Valkey killed")
        os.kill(pid_of(self.house, "valkey"), signal.SIGKILL)

    async def stop_valkey(self) -> None:
        seconds = self.random.uniform(0.5, 4.0)
        self.tell(f"Valkey stopped for {seconds:.1f} s")
        pid = pid_of(self.house, "valkey")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def failpoints(self) -> dict[str, Any]:
        """Draw the points at which a new worker fails now and then."""
        seed = self.random.randrange(1_000_000)
        armed = {
            name: [
                {"action": "error", "probability": 0.02, "seed": seed},
                {"action": "delay", "probability": 0.02, "seed": seed + 1, "seconds": 0.8},
                {"action": "kill", "probability": 0.004, "seed": seed + 2},
            ]
            for name in FAILPOINTS
            if self.random.random() < 0.25
        }
        self.tell(f"a worker fails at {', '.join(armed) or 'no point'}")
        return armed

    async def mend(self) -> None:
        """End every fault there still is."""
        for worker in self.workers:
            for proxy in worker.wires.proxies.values():
                proxy.toxic = WIRE
        for scheme in SCHEMES:
            await self.house.simulator("DELETE", scheme, "/_sim/faults")
        await until(self.house.is_ready, within_s=60)


async def breaking(swizzle: Swizzle) -> None:
    """Draw faults until the time is over, several at once."""
    random = swizzle.random
    kinds: list[Callable[[], Awaitable[None]]] = [
        *[swizzle.spoil_a_wire] * 6,
        *[swizzle.misbehave] * 6,
        *[swizzle.cut_wires] * 2,
        *[swizzle.kill_a_worker] * 2,
        *[swizzle.hold_a_worker_up] * 2,
    ]
    services = [swizzle.kill_postgres, swizzle.kill_valkey, swizzle.stop_valkey] if IS_LONG else []
    for number, service in enumerate(services):
        # Each once, apart from one another: PostgreSQL needs seconds to be back.
        kinds.insert(random.randrange(len(kinds)), service)
        services[number] = service
    going = []
    while not swizzle.is_over:
        kind = random.choice(kinds)
        if kind in services:
            kinds.remove(kind)
        going.append(asyncio.ensure_future(kind()))
        await asyncio.sleep(random.uniform(0.1, 0.8))
    await asyncio.gather(*going)


async def paying(swizzle: Swizzle, number: int) -> None:
    """Be one client: pay, hold, transfer, capture, cancel, refund, and ask again at other doors."""
    random = Random(f"{number} {swizzle.random.random()}")
    while not swizzle.is_over:
        user, scheme = random.randrange(50), random.choice(SCHEMES)
        amount = fresh_amount()
        what = random.choice(("purchase", "purchase", "hold", "transfer"))
        body = swizzle.house.purchase(user, scheme, amount)
        if what == "hold":
            body["capture"] = "manual"
        elif what == "transfer":
            body = swizzle.house.transfer(user, scheme, (user + 1) % 50, scheme, amount)
        one = swizzle.clients.want(user, body)
        told = await persist(swizzle, random, one)
        if told is None or random.random() < 0.3:
            continue
        path = f"/v1/payments/{told['id']}"
        if told["status"] == "requires_capture":
            part = {"amount": random.randrange(1, amount)} if random.random() < 0.5 else {}
            kind = random.choice(("capture", "cancel"))
            body = part if kind == "capture" else {}
            await persist(swizzle, random, swizzle.clients.want(user, body, f"{path}/{kind}"))
        elif told["status"] == "succeeded" and told["operation"] == "purchase":
            for _ in range(random.randrange(3)):
                part = {"amount": random.randrange(1, amount)}
                await persist(swizzle, random, swizzle.clients.want(user, part, f"{path}/refunds"))


async def persist(swizzle: Swizzle, random: Random, one: Asked) -> dict[str, Any] | None:
    """Ask a few times under one key, each time at any door; what was told, if anything was."""
    told = None
    for _ in range(random.randrange(1, 4)):
        doors = [swizzle.house, *(worker.beside.door for worker in swizzle.workers)]
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                reply = await ask(random.choice(doors), one)
            if reply is not None and reply.status in (200, 201, 202):
                told = reply.body
    return told


async def asked_again(swizzle: Swizzle) -> None:
    """Ask for everything once more, until each is answered with what it asked for."""
    slots = asyncio.Semaphore(8)

    async def one_again(one: Asked) -> None:
        async with slots:
            await ask_through(swizzle.house, one)

    await asyncio.gather(*(one_again(one) for one in swizzle.clients.asked))


@asynccontextmanager
async def swizzled(seed: int) -> AsyncIterator[Swizzle]:
    """Run a sandbox with two workers beside its own, each on wires of its own."""
    with changed_config(**TIGHT) as environment:
        async with running_house(environment=environment) as house, AsyncExitStack() as stack:
            swizzle = Swizzle(house, [], Clients(), Random(seed))
            for shift_s in (-20.0, 20.0):
                wires = await stack.enter_async_context(proxied(house))
                inner = AsyncExitStack()
                clock = {"OQIM_CLOCK_SHIFT_S": str(swizzle.random.uniform(0, shift_s))}
                beside = await inner.enter_async_context(
                    wires.worker_beside(failpoints=swizzle.failpoints(), environment=clock)
                )
                worker = Worker(wires, beside, inner, clock)
                stack.push_async_callback(lambda worker=worker: worker.stack.aclose())
                swizzle.workers.append(worker)
            yield swizzle


@pytest.mark.fault(rows=[66], what="random faults of every kind at once")
@pytest.mark.timeout(300)
async def test_swizzle(seed: int, record_property: Callable[[str, object], None]) -> None:
    """Row 66: no book is wrong amid faults; after them everything settles."""
    async with swizzled(seed) as swizzle:
        swizzle.began = time.monotonic()
        try:
            await asyncio.gather(
                breaking(swizzle), *(paying(swizzle, number) for number in range(CLIENTS))
            )
            wrong = await unsafe(swizzle.house, swizzle.clients)
            assert not wrong, "\n".join(wrong)
            await swizzle.mend()
            await asked_again(swizzle)
            doors = [worker.beside.door for worker in swizzle.workers if not worker.beside.is_dead]
            await hold_all(swizzle.house, swizzle.clients, doors)
        except BaseException:
            print(f"seed {seed}:", *swizzle.told, sep="\n")  # how it came to it
            raise
        record_property("asked", len(swizzle.clients.asked))
        record_property("faults", len(swizzle.told))
        answered = sum(bool(one.answers) for one in swizzle.clients.asked)
        assert answered > 20, f"seed {seed}: hardly anything was asked: {answered}"
