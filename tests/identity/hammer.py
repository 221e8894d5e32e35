"""Four workers asked without pause with a token, while it is revoked and one of them fails.

Judged by one monotonic clock, the client's: no request that began after the call that revokes had
returned may be accepted, by any worker.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from gateway.identity.model import GRANT_OTP
from tests.faults.proxy import WIRE, Proxy, Toxic
from tests.faults.wires import proxied
from tests.faults.world import worker_beside
from tests.house import House, Reply, changed_config, running_house, until

WORKERS = 4
HITTERS_PER_WORKER = 2
# A worker that is blind closes, and a call that revokes ends, sooner than in the product.
AGE_S_MAX = 1.0
CONFIG: dict[str, Mapping[str, str]] = {
    "settings": {"feed_age_s_max = 5.0": f"feed_age_s_max = {AGE_S_MAX}"}
}
FAULTS = ("none", "paused", "redis cut", "redis swallows", "database cut", "database swallows")
CUT, SWALLOWS = Toxic(is_closed=True), Toxic(is_black_hole=True)
# Refused as unknown, or as one that cannot be judged now; 0: no answer.
REFUSED = frozenset({0, 401, 503})


@dataclass(frozen=True, slots=True)
class Stand:
    """One worker, the door to it alone, and its wires."""

    pid: int
    door: House
    proxies: dict[str, Proxy]


@dataclass(frozen=True, slots=True)
class Field:
    """The workers; the first is the sandbox's own and never fails."""

    house: House
    stands: list[Stand]


@asynccontextmanager
async def running_field() -> AsyncIterator[Field]:
    """Run a sandbox and three workers beside it, all on one database and one Redis."""
    async with AsyncExitStack() as stack:
        environment = stack.enter_context(changed_config(**CONFIG))
        house = await stack.enter_async_context(running_house(workers=1, environment=environment))
        (pid,) = house.worker_pids()
        stands = [Stand(pid, house, {})]
        for _ in range(WORKERS - 1):
            wires = await stack.enter_async_context(proxied(house))
            beside = await stack.enter_async_context(
                worker_beside(house, environment=wires.environment)
            )
            stands.append(Stand(beside.process.pid, beside.door, wires.proxies))
        yield Field(house, stands)


@dataclass(slots=True)
class Login:
    """A customer logged in once."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    session_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One request with the token. Times are the monotonic clock's, in seconds."""

    worker: int
    started_s: float
    status: int

    @property
    def is_accepted(self) -> bool:
        return self.status not in REFUSED


@dataclass(slots=True)
class Hammer:
    """Asks every worker with one token until it is stopped."""

    field: Field
    token: str = field(repr=False)
    hits: list[Hit] = field(default_factory=list)

    async def hit_on(self, worker: int) -> None:
        """Ask one worker, a read and a quote in turn."""
        door = self.field.stands[worker].door
        quote = {"operation": "purchase", "amount": 1_000, "currency": "UZS"} | {
            "source": {"card": "card_none"},
            "destination": {"merchant": "mer_none"},
        }
        while True:
            for method, path, body in (
                ("GET", "/v1/sessions?limit=1", None),
                ("POST", "/v1/payments/quote", quote),
            ):
                started_s = time.monotonic()
                try:
                    status = (await door.call(method, path, body, token=self.token)).status
                except (aiohttp.ClientError, TimeoutError):
                    status = 0
                    # What refuses connections is not asked a million times.
                    await asyncio.sleep(0.01)
                self.hits.append(Hit(worker, started_s, status))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hit all workers meanwhile."""
        tasks = [
            asyncio.create_task(self.hit_on(worker))
            for worker in range(len(self.field.stands))
            for _ in range(HITTERS_PER_WORKER)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def is_accepted_by_all(self) -> None:
        """Wait until every worker has accepted the token."""
        everybody = set(range(len(self.field.stands)))
        await until(
            lambda: everybody <= {one.worker for one in self.hits if one.is_accepted}, within_s=10
        )

    async def is_refused_by_all(self, since_s: float) -> None:
        """Wait until every worker has said 401 to something asked since."""
        everybody = set(range(len(self.field.stands)))
        await until(
            lambda: (
                everybody
                <= {
                    one.worker for one in self.hits if one.status == 401 and one.started_s > since_s
                }
            ),
            within_s=15,
        )

    def accepted_since(self, since_s: float) -> list[Hit]:
        """Return what was accepted of what began later."""
        return [one for one in self.hits if one.started_s > since_s and one.is_accepted]


async def log_in(house: House, *, device: str = "phone") -> Login:
    """Log a customer in who was never there before."""
    phone = f"+99890{secrets.randbelow(10**7):07}"
    return await log_in_again(house, phone, device=device)


async def log_in_again(house: House, phone: str, *, device: str) -> Login:
    """Log in with a phone."""
    asked = await house.call("POST", "/v1/auth/challenges", {"phone": phone})
    assert asked.status == 201, asked.raw
    messages = await house.call("GET", f"/sandbox/v1/messages?to=%2B{phone[1:]}")
    form = {
        "grant_type": GRANT_OTP,
        "challenge_id": asked.body["challenge_id"],
        "code": messages.body["data"][0]["code"],
        "device_id": device,
    }
    reply = await house.call("POST", "/oauth/token", data=form)
    assert reply.status == 200, reply.raw
    session_id = reply.body["session_id"]
    (row,) = await house.rows("SELECT user_id FROM sessions WHERE id = $1", session_id)
    return Login(
        reply.body["access_token"], reply.body["refresh_token"], session_id, row["user_id"]
    )


# The calls that revoke; each returns once it has answered as it should.

Revoke = Callable[[House, Login], Awaitable[Reply]]


async def by_access_token(door: House, login: Login) -> Reply:
    reply = await door.call("POST", "/oauth/revoke", data={"token": login.access_token})
    assert reply.status == 200, reply.raw
    return reply


async def by_refresh_token(door: House, login: Login) -> Reply:
    reply = await door.call("POST", "/oauth/revoke", data={"token": login.refresh_token})
    assert reply.status == 200, reply.raw
    return reply


async def by_session(door: House, login: Login) -> Reply:
    path = f"/v1/sessions/{login.session_id}"
    reply = await door.call("DELETE", path, token=login.access_token)
    assert reply.status == 204, reply.raw
    return reply


async def by_reuse(door: House, login: Login) -> Reply:
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    reply = await door.call("POST", "/oauth/token", data=form | {"device_id": "another"})
    assert reply.code == "invalid-grant", reply.raw
    return reply


async def by_operator(door: House, login: Login) -> Reply:
    token = door.description["operators"][0]["access_token"]
    body = {"kind": "sub", "value": login.user_id}
    reply = await door.call("POST", "/admin/v1/revocations", body, token=token)
    assert reply.status == 201, reply.raw
    return reply


REVOKES: list[Revoke] = [by_access_token, by_refresh_token, by_session, by_reuse, by_operator]


@asynccontextmanager
async def failing(stand: Stand, fault: str) -> AsyncIterator[None]:
    """Have one worker fail meanwhile; afterwards it can work again."""
    name = fault.split(" ")[0]
    if fault == "none":
        yield
    elif fault == "paused":
        os.kill(stand.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(stand.pid, signal.SIGCONT)
    else:
        proxy = stand.proxies[name]
        proxy.toxic = CUT if fault.endswith("cut") else SWALLOWS
        if fault.endswith("cut"):
            proxy.reset_all()
        try:
            yield
        finally:
            proxy.toxic = WIRE
            # What was swallowed will not be answered any more.
            proxy.reset_all()


@dataclass(frozen=True, slots=True)
class Round:
    """What one round was, and came to."""

    fault: str
    revoke: str
    elapsed_s: float
    accepted: list[Hit]
    returned_s: float

    def __str__(self) -> str:
        late = [
            f"worker {one.worker} {one.started_s - self.returned_s:.4f} s" for one in self.accepted
        ]
        return f"{self.fault}, {self.revoke}: accepted after the call had returned: {late[:5]}"


async def one_round(field: Field, fault: str, random: Random) -> Round:
    """Revoke a token under the hammer while a worker fails."""
    login = await log_in(field.house)
    failed = random.randrange(1, WORKERS)
    door = field.stands[random.choice([one for one in range(WORKERS) if one != failed])].door
    revoke = random.choice(REVOKES)
    hammer = Hammer(field, login.access_token)
    async with hammer.running():
        await hammer.is_accepted_by_all()
        async with failing(field.stands[failed], fault):
            # The call may meet the fault at any moment, also when it has long been noticed.
            moments = [0.0, 0.01, 0.1, *([] if fault == "none" else [random.random() * AGE_S_MAX])]
            await asyncio.sleep(random.choice(moments))
            started_s = time.monotonic()
            await revoke(door, login)
            returned_s = time.monotonic()
        await hammer.is_refused_by_all(returned_s)
    return Round(
        fault,
        revoke.__name__,
        returned_s - started_s,
        hammer.accepted_since(returned_s),
        returned_s,
    )


async def rounds_of(field: Field, seed: int, count: int) -> list[Round]:
    """Play rounds, each fault at least once, most of them healthy, as life is.

    Raises:
        AssertionError: a token was accepted that had been revoked, or a call took too long.
    """
    random = Random(seed)
    more = random.choices(FAULTS, weights=[7, 1, 2, 2, 1, 1], k=count - len(FAULTS))
    rounds = []
    for number, fault in enumerate([*FAULTS, *more]):
        one = await one_round(field, fault, random)
        assert not one.accepted, f"seed {seed}, round {number}: {one}"
        # The bound after which a silent worker has closed, and what a busy machine adds.
        assert one.elapsed_s < AGE_S_MAX + 2.5, f"seed {seed}, round {number}: {one.elapsed_s}"
        rounds.append(one)
    return rounds


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * len(ordered)))]


def told(rounds: list[Round]) -> dict[str, Any]:
    """Return how long calls took, by fault, in milliseconds."""
    by_fault: dict[str, list[float]] = {}
    for one in rounds:
        by_fault.setdefault(one.fault, []).append(one.elapsed_s * 1_000)
    return {
        fault: {
            "calls": len(took),
            "p50_ms": round(percentile(took, 0.5), 1),
            "p99_ms": round(percentile(took, 0.99), 1),
        }
        for fault, took in by_fault.items()
    }
