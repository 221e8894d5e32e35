"""Redis killed, stopped, and replaced by one that is behind: payments go on all the while.

What was revoked stays refused, sessions are listed as before, what needs Redis is refused at once
rather than kept waiting, and everything opens again by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from gateway.sandbox.datadir import free_port
from gateway.sandbox.installs import find_valkey
from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all
from tests.faults.proxy import Toxic, proxy_before
from tests.faults.services import pid_of
from tests.faults.wires import proxied
from tests.faults.world import CONFIG, Clients, ask, ask_through
from tests.house import House, changed_config, running_house, until
from tests.identity.hammer import Login, log_in, rounds_of, running_field, told
from tests.payments.books import SCHEMES, fresh_amount
from tests.services import open_folder

# What needs Redis is refused within this, and what does not need it is answered.
ANSWERED_WITHIN_S = 1.0
# As many for each seed of `make faults`; `tests/identity` plays twenty of them.
ROUNDS = 40
STOPPED_S = 10.0 if SEEDS > 1 else 3.0
PAYERS = 3


@pytest.fixture(scope="module")
async def grounded() -> AsyncIterator[House]:
    """Two workers of a sandbox of its own."""
    with changed_config(**CONFIG) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


@dataclass
class Paying:
    """Customers who pay all the while.

    Attributes:
        paid: payments answered as they should be.
        slowest_s: the longest that anybody waited.
    """

    house: House
    clients: Clients = field(default_factory=Clients)
    paid: int = 0
    slowest_s: float = 0.0
    problems: list[bytes] = field(default_factory=list)

    async def pay_on(self, payer: int) -> None:
        """Pay one payment after another as one customer."""
        count = 0
        while True:
            scheme = SCHEMES[count % len(SCHEMES)]
            count += 1
            body = self.house.purchase(payer, scheme, fresh_amount(20_000))
            one = self.clients.want(payer, body)
            started_s = time.monotonic()
            reply = await ask(self.house, one)
            self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
            if reply is not None and reply.status == 201:
                self.paid += 1
            else:
                self.problems.append(b"no answer" if reply is None else reply.raw)
            # Enough to meet every moment of a fault; each is asked again at the end.
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Pay meanwhile; what was asked last is answered first."""
        tasks = [asyncio.create_task(self.pay_on(payer)) for payer in range(PAYERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def hold(self) -> None:
        """Nobody was refused, and everything that must hold holds."""
        assert not self.problems, self.problems[:3]
        assert self.paid > PAYERS, "they paid"
        for one in self.clients.asked:
            # One that was cut off by the end of the test has no answer yet.
            assert (await ask_through(self.house, one)).status == 201
        await hold_all(self.house, self.clients)


async def status_of(house: House, login: Login) -> int:
    """Ask for a customer's sessions, in time."""
    started_s = time.monotonic()
    reply = await house.call("GET", "/v1/sessions", token=login.access_token)
    assert time.monotonic() - started_s < ANSWERED_WITHIN_S
    return reply.status


async def ask_code(house: House) -> int:
    """Ask for a one-time code, which lives in Redis alone; answered in time, either way."""
    phone = f"+99890{time.time_ns() % 10**7:07}"
    started_s = time.monotonic()
    reply = await house.call("POST", "/v1/auth/challenges", {"phone": phone})
    assert time.monotonic() - started_s < ANSWERED_WITHIN_S
    assert reply.status in (201, 503), reply.raw
    assert reply.status == 201 or reply.headers["retry-after"]
    return reply.status


async def can_log_in(house: House) -> bool:
    """Whether a login goes through: one answer too late for Redis is still a 503."""
    try:
        await log_in(house)
    except AssertionError:
        return False
    return True


async def is_open(house: House) -> bool:
    """Whether both workers reach Redis again: connections go to either."""
    return {await ask_code(house) for _ in range(8)} == {201}


async def revoke(house: House, login: Login) -> None:
    """Revoke an access token; afterwards nobody accepts it."""
    reply = await house.call("POST", "/oauth/revoke", data={"token": login.access_token})
    assert reply.status == 200, reply.raw
    for _ in range(8):
        assert await status_of(house, login) == 401


def live(house: House) -> redis.asyncio.Redis:
    """Return a client of the sandbox's Redis."""
    return redis.asyncio.Redis.from_url(house.description["redis_url"])


def key_of(login: Login) -> str:
    return f"session:{{{login.user_id}}}:{login.session_id}"


async def shown(house: House, login: Login) -> dict[str, str]:
    """Return the one session of a customer as it is listed."""
    reply = await house.call("GET", "/v1/sessions", token=login.access_token)
    assert reply.status == 200, reply.raw
    (one,) = reply.body["data"]
    assert one["id"] == login.session_id
    return dict(one)


@pytest.mark.fault(rows=[42], what="Redis killed and started again with nothing in it")
async def test_redis_killed(grounded: House) -> None:
    """It is back empty within seconds; sessions are written to it again from the database."""
    revoked, kept, late = [await log_in(grounded) for _ in range(3)]
    await revoke(grounded, revoked)
    before = await shown(grounded, kept)
    paying = Paying(grounded)
    async with paying.running():
        pid = pid_of(grounded, "valkey")
        os.kill(pid, signal.SIGKILL)
        # It may be back at any moment from here on.
        statuses = [await ask_code(grounded) for _ in range(5)]
        assert await status_of(grounded, revoked) == 401
        assert (await shown(grounded, kept))["device_id"] == before["device_id"]
        await revoke(grounded, late)

        await until(lambda: is_open(grounded), within_s=20)
    assert 503 in statuses
    async with live(grounded) as client:
        # Another server, in which nothing is left but what was written since.
        assert pid_of(grounded, "valkey") != pid
        after = await shown(grounded, kept)
        assert (after["address"], after["level"]) == ("127.0.0.1", "otp")
        assert after["last_seen_at"] >= before["last_seen_at"]
        await until(lambda: client.exists(key_of(kept)), within_s=5)
    for login in (revoked, late):
        assert await status_of(grounded, login) == 401
    await until(lambda: can_log_in(grounded), within_s=5)
    await paying.hold()


@pytest.mark.fault(rows=[43], what="Redis stopped, for 3 s or 10 s")
async def test_redis_stopped(grounded: House) -> None:
    """It accepts connections and answers nothing: nobody waits for it longer than a moment."""
    revoked, kept, late = [await log_in(grounded) for _ in range(3)]
    await revoke(grounded, revoked)
    paying = Paying(grounded)
    pid = pid_of(grounded, "valkey")
    async with paying.running():
        os.kill(pid, signal.SIGSTOP)
        try:
            ends_s = time.monotonic() + STOPPED_S
            await revoke(grounded, late)
            while time.monotonic() < ends_s:
                assert await ask_code(grounded) == 503
                assert await status_of(grounded, revoked) == 401
                assert await status_of(grounded, kept) == 200
        finally:
            os.kill(pid, signal.SIGCONT)

        await until(lambda: is_open(grounded), within_s=5)
    for login in (revoked, late):
        assert await status_of(grounded, login) == 401
    assert (await shown(grounded, kept))["address"] == "127.0.0.1"
    await until(lambda: can_log_in(grounded), within_s=5)
    await paying.hold()


@dataclass(frozen=True, slots=True)
class Replica:
    """A second server that follows the sandbox's, over a link that can be cut."""

    port: int
    client: redis.asyncio.Redis

    async def is_in_step(self) -> bool:
        """Whether the first copy has been made and the link is up."""
        info = await self.client.info("replication")
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")


@asynccontextmanager
async def replica_of(house: House, through: int) -> AsyncIterator[Replica]:
    """Run a replica whose link to the sandbox's Redis is a port of this machine."""
    password = str(urlsplit(house.description["redis_url"]).password)
    port = free_port()
    with open_folder("oqim-replica-") as folder:
        configuration = folder / "valkey.conf"
        configuration.touch(mode=0o600)
        lines = [
            f'bind 127.0.0.1\nport {port}\ndir {folder}\nsave ""\nappendonly no',
            f"requirepass {password}\nmasterauth {password}\nreplicaof 127.0.0.1 {through}",
        ]
        configuration.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            [find_valkey(), configuration],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        client = redis.asyncio.Redis(port=port, password=password)
        replica = Replica(port, client)

        async def is_in_step() -> bool:
            try:
                return await replica.is_in_step()
            except redis.exceptions.ConnectionError:
                return False

        try:
            await until(is_in_step, within_s=15)
            yield replica
        finally:
            await client.aclose()
            process.kill()
            await asyncio.to_thread(process.wait, 10)


@pytest.mark.fault(rows=[44], what="a replica promoted without the last writes")
async def test_failover_that_loses_what_was_written_last(grounded: House) -> None:
    """Revocations that it never had are refused; sessions that it never saw are listed."""
    url = urlsplit(grounded.description["redis_url"])
    address = (str(url.hostname), int(url.port or 0))
    old = await log_in(grounded)
    async with live(grounded) as client:
        # By default a first copy waits for other replicas to join.
        await client.config_set("repl-diskless-sync-delay", 0)
    async with (
        proxy_before(*address) as link,
        replica_of(grounded, link.listening_port) as replica,
        proxied(grounded) as wires,
        wires.worker_beside() as beside,
    ):
        paying = Paying(beside.door)
        # From here on the replica hears nothing.
        link.toxic = Toxic(is_closed=True)
        link.reset_all()
        revoked, kept = await log_in(beside.door), await log_in(beside.door)
        await revoke(beside.door, revoked)
        await until(lambda: _exists(grounded, kept), within_s=5)
        lost = await beside.door.call("POST", "/v1/auth/challenges", {"phone": "+998905550044"})
        async with paying.running():
            assert await status_of(beside.door, old) == 200
            await replica.client.execute_command("REPLICAOF", "NO", "ONE")
            wires.proxies["redis"].port = replica.port
            wires.proxies["redis"].reset_all()
            await until(lambda: is_open(beside.door), within_s=10)
            assert not await replica.client.exists(key_of(kept)), "it was lost"
            assert await status_of(beside.door, revoked) == 401
            assert (await shown(beside.door, kept))["address"] == "127.0.0.1"
            await until(lambda: replica.client.exists(key_of(kept)), within_s=5)
            # Told to the old server, which this worker hears no more.
            late = await log_in(grounded)
            assert await status_of(beside.door, late) == 200
            await revoke(grounded, late)
            assert await status_of(beside.door, late) == 401
        form = {"grant_type": "urn:oqim:params:oauth:grant-type:otp", "code": "x"}
        form |= {"challenge_id": lost.body["challenge_id"], "device_id": "phone"}
        answer = await beside.door.call("POST", "/oauth/token", data=form)
        assert answer.code == "invalid-grant", "a code that was lost is asked for again"
        await paying.hold()


async def _exists(house: House, login: Login) -> bool:
    async with live(house) as client:
        return bool(await client.exists(key_of(login)))


@pytest.mark.skipif(SEEDS < 2, reason="`make faults` plays it at length: it takes half a minute")
@pytest.mark.fault(rows=[44, 46], what="a worker stopped, or cut off, again and again")
async def test_a_revoked_token_is_accepted_by_nobody_at_length(seed: int) -> None:
    """Forty rounds a seed: calls that revoke, on four workers of which one fails."""
    async with running_field() as field:
        print(told(await rounds_of(field, seed, ROUNDS)))
