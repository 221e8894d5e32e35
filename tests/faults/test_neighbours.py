"""Too much to do, and neighbours that fail: the others are served as ever, and it ends by itself.

Loads come from a crowd in a process of its own. Two cores are shared by everything here, so that
what is compared are blocks that alternate; a comparison that noise has spoilt is made again, up to
a bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from gateway.measuring import books
from tests.faults.crowd import KEY
from tests.faults.invariants import drained, hold_all
from tests.faults.proxy import WIRE, Proxy, Toxic, proxy_before
from tests.faults.world import CONFIG, ROOT, Beside, Clients, ask, worker_beside, worker_environment
from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.http.test_callbacks import event, signed
from tests.payments.books import SCHEMES, fresh_amount

pytestmark = pytest.mark.alone
IS_LONG = int(os.environ.get("OQIM_SEEDS", "1")) > 1
# Little silence opens a breaker, and as little later it is tried again; few calls at once.
LINKS: dict[str, Any] = {
    "timeout_ms": 600,
    "breaker_failures_max": 5,
    "breaker_open_ms": 600,
    "in_flight_max": 32,
}
# A neighbour's median and ninetieth percentile may change by so much.
CHANGE_MAX = 1.2
PAIRS_MIN, PAIRS_MAX = 3, 9
FAIL_FAST_WITHIN_S = HEALS_WITHIN_S = 30.0

# A door for few: a crowd that is too large for it leaves the machine some time.
SMALL_DOOR = {
    "inside_first = 512": "inside_first = 16",
    "inside_max = 2048": "inside_max = 16",
    "inside_min = 64": "inside_min = 16",
}

Order = dict[str, dict[str, Any]]


def raw(
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Return a request as the crowd sends it."""
    data = body.decode() if isinstance(body, bytes) else json.dumps(body) if body else ""
    lines = {"Host": "127.0.0.1"} | dict(headers or {})
    if token is not None:
        lines["Authorization"] = f"Bearer {token}"
    if key is not None:
        lines["Idempotency-Key"] = key
    if data:
        lines.setdefault("Content-Type", "application/json")
        lines["Content-Length"] = str(len(data.encode()))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n{data}"


def payments_of(house: House, scheme: str) -> list[str]:
    """Return a purchase of each seeded user, whose key is the crowd's."""
    return [
        raw(
            "POST",
            "/v1/payments",
            token=house.user(number)["access_token"],
            body=house.purchase(number, scheme, fresh_amount()),
            key=KEY.decode(),
        )
        for number in range(50)
    ]


class Crowd:
    """A crowd and its orders."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port

    async def ask(self, seconds: float, **streams: Mapping[str, Any]) -> Order:
        """Have every stream asked for so long; returns what came of each."""
        order = {"port": self._port, "seconds": seconds, "streams": streams}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        told: Order = json.loads(await self._process.stdout.readline())
        assert not any(stream["lost"] for stream in told.values()), "a connection was lost"
        return told


@asynccontextmanager
async def crowd(door: House, requests: Mapping[str, list[str]]) -> AsyncIterator[Crowd]:
    """Run a crowd at a door, and end it."""
    file = door.data_dir / f"crowd-{new_key()}.json"
    file.write_text(json.dumps(requests))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.crowd", str(file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield Crowd(process, int(door.base_url.rpartition(":")[2]))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        file.unlink()


async def neighbours(
    house: House, stack: AsyncExitStack, links: Mapping[str, Any] = LINKS
) -> tuple[Beside, dict[str, Proxy]]:
    """Start a worker with a proxy before each processor."""
    settings = json.loads(worker_environment(house)["OQIM_CONNECTORS"])
    proxies, changed = {}, {}
    for scheme in SCHEMES:
        base_url = settings[scheme].get("base_url")
        url = urlsplit(base_url or f"//{settings[scheme]['host']}:{settings[scheme]['port']}")
        proxy = await stack.enter_async_context(proxy_before(str(url.hostname), int(url.port or 0)))
        port = proxy.listening_port
        place = {"host": "127.0.0.1", "port": port}
        if base_url:
            place = {"base_url": urlunsplit(url._replace(netloc=f"127.0.0.1:{port}"))}
        proxies[scheme], changed[scheme] = proxy, {**links, **place}
    return await stack.enter_async_context(worker_beside(house, connectors=changed)), proxies


async def is_changed_little(
    blocks: Any, *, quantiles: tuple[str, ...] = ("p50_ms", "p90_ms")
) -> dict[str, list[float]]:
    """Compare pairs of blocks until the median ratio of every quantile is small enough.

    Args:
        blocks: makes one pair: the quantiles of a healthy block, and of one with the fault.

    Returns:
        The ratios. Fails when they stay too large for as many pairs as there may be.
    """
    ratios: dict[str, list[float]] = {name: [] for name in quantiles}
    for number in range(1, PAIRS_MAX + 1):
        healthy, spoilt = await blocks()
        for name in quantiles:
            ratios[name].append(spoilt[name] / healthy[name])
        if number >= PAIRS_MIN and all(median(one) < CHANGE_MAX for one in ratios.values()):
            return ratios
    pytest.fail(f"the neighbours are {ratios} times as slow")


def of_others(told: Order, scheme: str) -> dict[str, float]:
    """Return the neighbours' quantiles; every one of their payments was made."""
    others = [told[one] for one in SCHEMES if one != scheme]
    for one in others:
        assert set(one["statuses"]) == {"201"}, one
    return {name: max(one["good"][name] for one in others) for name in ("p50_ms", "p90_ms")}


async def fails_fast(door: House, clients: Clients, scheme: str, user: int) -> None:
    """Wait until a payment of this processor is refused at once, with nothing sent."""

    async def is_refused() -> bool:
        one = clients.want(user, door.purchase(user, scheme, fresh_amount()))
        started = time.monotonic()
        reply = await ask(door, one)
        assert reply is not None, "the worker lives"
        return reply.code == "processor-unavailable" and time.monotonic() - started < 0.5

    async def all_are() -> bool:
        return all(await asyncio.gather(*(is_refused() for _ in range(5))))

    # A breaker that is half open lets one through now and then.
    await until(all_are, within_s=FAIL_FAST_WITHIN_S)


async def heals(door: House, clients: Clients, scheme: str, user: int) -> None:
    """Wait until payments of this processor are made again, without anybody's help."""

    async def paid() -> bool:
        one = clients.want(user, door.purchase(user, scheme, fresh_amount()))
        reply = await ask(door, one)
        assert reply is not None, "the worker lives"
        return reply.status == 201

    await until(paid, within_s=HEALS_WITHIN_S)


async def never_elsewhere(house: House) -> None:
    """No attempt in doubt was tried at another processor: a purchase has the one it was for."""
    (row,) = await house.rows(
        "SELECT count(*) FROM attempts a JOIN payments p ON p.id = a.payment_id "
        "WHERE p.operation = 'purchase' AND (a.connector <> p.scheme OR a.leg <> 1)"
    )
    assert row[0] == 0


# Neighbours ---------------------------------------------------------------------------------


@pytest.mark.fault(
    rows=[29], what="one silent, the two others as ever; fails fast, heals by itself"
)
async def test_a_silent_processor(sandbox: House, clients: Clients, seed: int) -> None:
    """Its calls fail fast; its neighbours' latencies stay; when it speaks again it is paid."""
    scheme = SCHEMES[seed % 3]
    async with AsyncExitStack() as stack:
        beside, proxies = await neighbours(sandbox, stack)
        door = beside.door
        requests = {one: payments_of(sandbox, one) for one in SCHEMES}
        crowding = await stack.enter_async_context(crowd(door, requests))
        streams = {one: {"per_second": 25, "connections": 60} for one in SCHEMES}
        await crowding.ask(1.0, **streams)

        async def blocks() -> tuple[dict[str, float], dict[str, float]]:
            healthy = of_others(await crowding.ask(1.0, **streams), scheme)
            proxies[scheme].toxic = Toxic(is_black_hole=True)
            await fails_fast(door, clients, scheme, seed % 50)
            told = await crowding.ask(1.0, **streams)
            metrics = (await door.call("GET", "/metrics")).raw.decode()
            assert f'oqim_connector_breaker_state{{connector="{scheme}"}} 0.0' not in metrics
            assert metrics.count("oqim_connector_breaker_state{") == 3
            # What probed is in doubt; nothing else was sent.
            assert set(told[scheme]["statuses"]) <= {"202", "503"}, told[scheme]
            assert told[scheme]["hints"] == told[scheme]["statuses"]["503"]
            assert told[scheme]["shed"]["p50_ms"] < 500
            spoilt = of_others(told, scheme)
            proxies[scheme].toxic = WIRE
            await heals(door, clients, scheme, seed % 50)
            return healthy, spoilt

        await is_changed_little(blocks)
        assert proxies[scheme].met, "the processor was silent"
    await never_elsewhere(sandbox)
    await hold_all(sandbox, clients)


@pytest.mark.fault(
    rows=[28], what="one slower and slower up to three deadlines, the two others as ever"
)
async def test_a_processor_that_slows_down(sandbox: House, clients: Clients, seed: int) -> None:
    """From at once to three deadlines: it fills its own places, and none of its neighbours'."""
    scheme = SCHEMES[(seed + 1) % 3]
    async with AsyncExitStack() as stack:
        beside, _ = await neighbours(sandbox, stack, LINKS | {"timeout_ms": 1_000})
        requests = {one: payments_of(sandbox, one) for one in SCHEMES}
        crowding = await stack.enter_async_context(crowd(beside.door, requests))
        streams = {one: {"per_second": 25, "connections": 120} for one in SCHEMES}
        await crowding.ask(1.0, **streams)

        async def ramp() -> None:
            for seconds in (0.2, 0.4, 0.8, 1.6, 2.2):
                slow = {"kind": "delay", "rate": 1.0, "seconds": seconds}
                await sandbox.simulator("POST", scheme, "/_sim/faults", slow)
                await asyncio.sleep(0.2)

        async def blocks() -> tuple[dict[str, float], dict[str, float]]:
            healthy = of_others(await crowding.ask(1.2, **streams), scheme)
            told, _ = await asyncio.gather(crowding.ask(1.2, **streams), ramp())
            await sandbox.simulator("DELETE", scheme, "/_sim/faults")
            assert set(told[scheme]["statuses"]) <= {"201", "202", "503"}, told[scheme]
            spoilt = of_others(told, scheme)
            await heals(beside.door, clients, scheme, seed % 50)
            return healthy, spoilt

        await is_changed_little(blocks)
    await never_elsewhere(sandbox)
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[29], what="doubt ends while new payments are refused")
async def test_doubt_ends_while_payments_are_refused(
    sandbox: House, clients: Clients, seed: int
) -> None:
    """A processor that answers questions and nothing else is asked, and sent no new payments."""
    scheme = ("uzcard", "humo")[seed % 2]
    async with AsyncExitStack() as stack:
        # No payment may probe before the test is over: only what settles gets through.
        links = LINKS | {"breaker_open_ms": 600_000, "breaker_failures_max": 3}
        beside, _ = await neighbours(sandbox, stack, links)
        door = beside.door
        await stack.enter_async_context(sandbox.fault(scheme, kind="drop_request", rate=1.0))
        wanted = [
            clients.want(user, sandbox.purchase(user, scheme, fresh_amount())) for user in range(3)
        ]
        replies = await asyncio.gather(*(ask(door, one) for one in wanted))
        doubtful = [reply for reply in replies if reply is not None]
        assert [reply.status for reply in doubtful] == [202] * 3
        await fails_fast(door, clients, scheme, 4)
        for user, reply in enumerate(doubtful):
            payment = await sandbox.settled(user, reply.body["id"])
            assert payment["status"] == "failed", payment
    await hold_all(sandbox, clients)


# The pool -----------------------------------------------------------------------------------


@pytest.mark.fault(rows=[39], what="every connection held by slow reads; the rest shed at once")
async def test_a_pool_that_is_exhausted(sandbox: House, clients: Clients) -> None:
    """What finds no connection is refused soon, nothing piles up, payments go on meanwhile."""
    token = await sandbox.merchant_token()
    spent: list[tuple[Reply, float]] = []

    async def read() -> None:
        started = time.monotonic()
        reply = await sandbox.call("GET", "/v1/webhook-endpoints", token=token)
        spent.append((reply, time.monotonic() - started))

    async def pay(user: int) -> None:
        reply = await ask(
            sandbox, clients.want(user, sandbox.purchase(user, "visa", fresh_amount()))
        )
        assert reply is not None, "the worker lives"
        assert reply.status == 201, reply.raw

    await pay(0)
    lock = await asyncpg.connect(sandbox.description["database_url"])
    try:
        async with lock.transaction():
            await lock.execute("LOCK TABLE webhook_endpoints IN ACCESS EXCLUSIVE MODE")
            first = [asyncio.create_task(read()) for _ in range(30)]
            await until(lambda: len(spent) > 0, within_s=5)
            await asyncio.gather(*(read() for _ in range(50)))
            shed = [seconds for reply, seconds in spent if reply.code == "unavailable"]
            assert len(shed) == len(spent), "nothing was read"
            assert median(shed) < 0.25
            assert max(shed) < 2.0, "a busy machine may stand still for a moment"
            assert all("retry-after" in reply.headers for reply, _ in spent)
            for _ in range(5):
                await pay(0)
            assert (await sandbox.call("GET", "/livez")).status == 200
        await asyncio.gather(*first)
    finally:
        await lock.close()
    waited = [reply for reply, _ in spent if reply.status == 200]
    assert 0 < len(waited) <= 20, "those that had a connection were answered"
    await until(sandbox.is_ready, within_s=5)
    await hold_all(sandbox, clients)


# Callbacks ----------------------------------------------------------------------------------

CALLBACKS = 600


@pytest.mark.fault(
    rows=[35], what="600 callbacks at once at a door for 16; none lost after retries"
)
async def test_a_burst_of_callbacks(sandbox: House, clients: Clients) -> None:
    """Each is stored, or told to come again; who comes again is stored once."""
    paid = []
    for user in range(6):
        one = clients.want(user, sandbox.purchase(user, "uzcard", fresh_amount()))
        reply = await ask(sandbox, one)
        assert reply is not None
        paid.append(reply.body)
    told = []
    for number in range(CALLBACKS):
        payment = paid[number % len(paid)]
        body = event(payment["attempts"][0]["id"], payment["total_debit"])
        headers = signed(sandbox, "uzcard", body)
        told.append((headers, body))
    statuses: dict[int, int] = {}

    async def deliver(door: House, headers: dict[str, str], body: bytes) -> None:
        async def stored() -> bool:
            reply = await door.call("POST", "/v1/callbacks/uzcard", data=body, headers=headers)
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            assert reply.status == 200 or "retry-after" in reply.headers, reply.raw
            return reply.status == 200

        await until(stored, within_s=30)

    settings = {**CONFIG["settings"], **SMALL_DOOR}
    with changed_config(**(CONFIG | {"settings": settings})) as environment:
        async with worker_beside(sandbox, environment=environment) as beside:
            await asyncio.gather(*(deliver(beside.door, *one) for one in told))
            metrics = (await beside.door.call("GET", "/metrics")).raw.decode()
    assert statuses[200] == CALLBACKS
    assert statuses[503] > 0, "some were turned away"
    assert 'oqim_door_shed_total{priority="settling"} 0.0' not in metrics
    names = [headers["webhook-id"] for headers, _ in told]
    (row,) = await sandbox.rows(
        "SELECT count(*) FROM callbacks WHERE event_id = ANY($1) AND state = 'ignored'", names
    )
    assert row[0] == CALLBACKS, "each is kept once, and says nothing new"
    await hold_all(sandbox, clients)


# Three times the peak -----------------------------------------------------------------------

SECONDS = 5.0 if IS_LONG else 1.2
GOOD_MIN, SETTLED_MIN = 0.8, 0.8
# Nine a second, and twice as many callbacks.
CANCELS = round(9 * SECONDS)


async def held(house: House, count: int, scheme: str) -> list[str]:
    """Return requests that cancel holds just made, each of its own."""

    slots = asyncio.Semaphore(8)

    async def hold(number: int) -> str:
        body = house.purchase(number % 50, scheme, fresh_amount(), capture="manual")
        async with slots:
            reply = await house.pay(number % 50, body)
        assert reply.status == 201, reply.raw
        return raw(
            "POST",
            f"/v1/payments/{reply.body['id']}/cancel",
            token=house.user(number % 50)["access_token"],
            key=new_key(),
        )

    return list(await asyncio.gather(*(hold(number) for number in range(count))))


async def advised(house: House, count: int, scheme: str) -> list[str]:
    """Return callbacks about a payment just made, each under a name of its own."""
    reply = await house.pay(0, house.purchase(0, scheme, fresh_amount()))
    body = event(reply.body["attempts"][0]["id"], reply.body["total_debit"])
    path = f"/v1/callbacks/{scheme}"
    return [raw("POST", path, body=body, headers=signed(house, scheme, body)) for _ in range(count)]


# OQIM_MEASURE=1 measures with the limits as they come: a machine that has nothing else to do.
MEASURED = [("uzcard", False), ("humo", False)] if os.environ.get("OQIM_MEASURE") else []


@pytest.mark.parametrize(("scheme", "is_small"), [("visa", True), *MEASURED])
async def test_three_times_the_peak(scheme: str, is_small: bool) -> None:
    """Four fifths of the peak are still paid; what settles gets through; reads and reports do not
    take the payments' places."""
    pairs = PAIRS_MAX
    # As many as a small door lets in: the most that is paid when nobody is turned away.
    clients = 13 if is_small else 256
    changes = {"settings": SMALL_DOOR} if is_small else {}
    async with AsyncExitStack() as stack:
        environment = stack.enter_context(changed_config(**changes))
        house = await stack.enter_async_context(running_house(environment=environment))
        tokens = [house.user(number)["access_token"] for number in range(50)]
        operator = house.description["operators"][0]["access_token"]
        settles = await held(house, CANCELS * pairs, scheme)
        notices = await advised(house, 2 * CANCELS * pairs, scheme)
        requests = {
            "payments": payments_of(house, scheme),
            "reads": [raw("GET", "/v1/payments?limit=10", token=token) for token in tokens],
            "reports": [raw("GET", "/admin/v1/ledger/trial-balance", token=operator)],
            **{f"cancels{n}": settles[n::pairs] for n in range(pairs)},
            **{f"callbacks{n}": notices[n::pairs] for n in range(pairs)},
        }
        crowding = await stack.enter_async_context(crowd(house, requests))
        await crowding.ask(1.5, payments={"per_second": None, "connections": clients})
        shares: list[float] = []
        for number in range(pairs):
            alone = await crowding.ask(
                SECONDS, payments={"per_second": None, "connections": clients}
            )
            peak = alone["payments"]["good_per_second"]
            told = await crowding.ask(
                SECONDS,
                payments={"per_second": 3 * peak, "connections": 300 if is_small else 1_500},
                reads={"per_second": 60, "connections": 100},
                reports={"per_second": 10, "connections": 20},
                **{f"cancels{number}": {"per_second": 9, "connections": 20, "is_once": True}},
                **{f"callbacks{number}": {"per_second": 18, "connections": 40, "is_once": True}},
            )
            _check_classes(told, number, is_small=is_small)
            shares.append(told["payments"]["good_per_second"] / peak)
            if len(shares) >= PAIRS_MIN and median(shares) >= GOOD_MIN:
                break
        assert median(shares) >= GOOD_MIN, f"of the peak were paid: {shares}"
        await drained(house)
        await _books_hold(house, scheme)


def _check_classes(told: Order, number: int, *, is_small: bool) -> None:
    """What settles got through; payments were turned away, and where it was the door that was full
    and no processor, reads and reports before them."""

    def share(name: str) -> float:
        statuses = told[name]["statuses"]
        return float(statuses.get("200", 0) / sum(statuses.values()))

    for name, stream in told.items():
        assert set(stream["statuses"]) <= {"200", "201", "202", "503"}, f"{name}: {stream}"
        assert stream["hints"] == stream["statuses"].get("503", 0), f"{name}: {stream}"
    for name in (f"cancels{number}", f"callbacks{number}"):
        assert share(name) >= SETTLED_MIN, f"{name}: {told[name]}"
    assert told["payments"]["statuses"].get("503", 0) > 0, "more was asked than can be paid"
    if is_small:
        assert share("reads") <= 0.5, told["reads"]
        assert share("reports") <= 0.5, told["reports"]


async def _books_hold(house: House, scheme: str) -> None:
    connection = await asyncpg.connect(house.description["database_url"])
    try:
        found = await books.broken(
            connection,
            house.http,
            simulators={scheme: house.description["simulators"][scheme]},
            ids_file=Path(os.devnull),
        )
    finally:
        await connection.close()
    assert not found, "\n".join(found)
