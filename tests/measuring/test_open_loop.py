"""The open-loop generator counts from when a request was due, and knows its own faults."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.measuring import open_loop
from gateway.measuring.helpers import Talker, talker
from gateway.measuring.open_loop import OpenGenerator, Order, Phase, at_rate, shed_cost_us
from gateway.measuring.stage import Stage

LOADTESTS = Path(__file__).resolve().parents[2] / "loadtests"
USERS = 20
KEY = re.compile(rb"Idempotency-Key: (\S+)")
TOKEN = re.compile(rb"Bearer (\S+)")
LIMIT = 1_000_000_000_000


@dataclass
class Gateway:
    """Answers payments as the gateway would, and remembers what it was asked.

    Attributes:
        before: called with the number of a request before it is answered.
        status: of the answer to a request of that number, instead of 201; None closes.
    """

    before: Callable[[int], None] = lambda number: None
    status: Callable[[int], int | None] = lambda number: 201
    ids: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[tuple[bytes, bytes, dict[str, Any]]] = field(default_factory=list)
    open: int = 0
    open_max: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                answer = self.answer(head, body)
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    def answer(self, head: bytes, body: dict[str, Any]) -> bytes | None:
        """Return the bytes of an answer, None for none."""
        key, token = (cast(re.Match[bytes], one.search(head))[1] for one in (KEY, TOKEN))
        number = len(self.asked)
        self.asked.append((key, token, body))
        self.before(number)
        status = self.status(number)
        if status is None:
            return None
        is_known, replayed = key in self.ids, b""
        if body["amount"] > LIMIT:
            status = 422
        elif is_known and status == 201:
            replayed = b"Idempotent-Replayed: true\r\n"
        payment_id = self.ids.get(key) or b"pay_%026d" % len(self.ids)
        if status == 201:
            self.ids[key] = payment_id
        text = b'{"id":"%b","status":"succeeded"}' % payment_id
        return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (
            status,
            replayed,
            len(text),
            text,
        )


@pytest.fixture(scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Talker]:
    """The generator's process, one for all that it is asked here."""
    async with talker(LOADTESTS / "open_loop.py", seeded(tmp_path_factory.mktemp("who"))) as one:
        assert await one.hear() == {"users": USERS}
        yield one


def seeded(folder: Path) -> Path:
    """Write who pays."""
    tokens = [f"token-{number}" for number in range(USERS)]
    cards = {
        scheme: [f"card_{scheme}_{number:02}" for number in range(USERS)]
        for scheme in ("visa", "humo")
    }
    path = folder / "seeded.json"
    path.write_text(json.dumps({"merchant": "mer_1", "tokens": tokens, "cards": cards}))
    return path


@asynccontextmanager
async def staged(gateway: Gateway, folder: Path) -> AsyncIterator[Stage]:
    """Serve a gateway and give what load is made on; nothing but it is there."""
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    nothing = cast(Any, None)
    try:
        yield Stage(
            sandbox={"base_url": f"http://127.0.0.1:{port}"},
            sandbox_file=folder / "sandbox.json",
            seeded=seeded(folder),
            work=folder,
            loadtests=LOADTESTS,
            connection=nothing,
            http=nothing,
            generator=nothing,
            meters=nothing,
        )
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def generating(
    gateway: Gateway, folder: Path, process: Talker
) -> AsyncIterator[OpenGenerator]:
    """Serve a gateway and give a generator that asks it."""
    async with staged(gateway, folder) as stage:
        yield OpenGenerator(stage, process)


def plain(*phases: Phase, **wanted: Any) -> Order:
    """Return an order over VISA without warm-up, replays and refusals unless they are wanted."""
    none = {"mix": {"visa": 1.0}, "replays": 0.0, "refusals": 0.0, "warm_up_s": 0.0}
    return Order(phases, **cast(Any, none | wanted))


async def test_a_stall_is_charged_with_all_that_was_due_meanwhile(tmp_path: Path) -> None:
    """A quarter of a second once, two connections: two requests met it, fifty were due in it."""

    def stall_once(number: int) -> None:
        if number == 200:
            time.sleep(0.25)

    async with staged(Gateway(before=stall_once), tmp_path) as stage:
        told = await at_rate(
            stage, rate=200, seconds=2, connections=2, replays=0, refusals=0, warm_up_s=0
        )
    assert told.payments.completed == 400
    assert told.p99_ms >= 200
    assert told.payments.max_ms >= 245
    assert told.p50_ms < 100
    assert told.waited >= 30
    assert max(row.p99_ms for row in told.rows) >= 200


async def test_every_request_is_its_own(tmp_path: Path, process: Talker) -> None:
    """Keys are unique but for replays, a card belongs to its token, and ids are kept."""
    gateway = Gateway()
    async with generating(gateway, tmp_path, process) as generator:
        told = await generator.run(plain(Phase(500, 2), replays=0.1, refusals=0.2))
    assert not told.void
    assert told.wrong == []
    assert told.payments.asked + told.replays.asked + told.refusals.asked == 1000
    assert 40 < told.replays.completed == told.replays.asked < 180
    assert 120 < told.refusals.completed == told.refusals.asked < 300
    assert told.refusals.statuses == {"422": told.refusals.asked}
    keys = [key for key, _, _ in gateway.asked]
    assert len(keys) - len(set(keys)) == told.replays.asked
    for _, token, body in gateway.asked:
        number = int(token.removeprefix(b"token-"))
        assert body["source"]["card"] == f"card_visa_{number:02}"
    ids = (tmp_path / "ids").read_bytes().split()
    assert sorted(ids) == sorted(gateway.ids.values())


async def test_some_pay_far_more_often_than_others(tmp_path: Path, process: Talker) -> None:
    gateway = Gateway()
    async with generating(gateway, tmp_path, process) as generator:
        await generator.run(plain(Phase(1000, 1)))
    tokens = [token for _, token, _ in gateway.asked]
    assert tokens.count(b"token-0") > 5 * tokens.count(b"token-19")
    assert len(set(tokens)) == USERS


async def test_a_warm_up_is_not_told_of(tmp_path: Path, process: Talker) -> None:
    gateway = Gateway(before=lambda number: time.sleep(0.1) if number == 10 else None)
    async with generating(gateway, tmp_path, process) as generator:
        told = await generator.run(plain(Phase(100, 1), warm_up_s=1.0))
    assert len(gateway.asked) == 200
    assert told.payments.asked == 100
    assert told.payments.max_ms < 100
    assert [row.at_s for row in told.rows] == [1.0]


async def test_what_is_shed_and_what_fails_are_told_apart(tmp_path: Path, process: Talker) -> None:
    """Connections that end are opened again, and when it went wrong is known."""

    def status(number: int) -> int | None:
        return {30: 503, 31: 429, 40: None, 41: 500}.get(number, 201)

    gateway = Gateway(status=status)
    async with generating(gateway, tmp_path, process) as generator:
        told = await generator.run(plain(Phase(100, 1), connections=1))
    payments = told.payments
    assert payments.statuses == {"lost": 1, "201": 96, "429": 1, "500": 1, "503": 1}
    assert (payments.completed, payments.shed, payments.failed) == (96, 2, 2)
    assert told.completed_per_s == 96
    assert told.first_failed_s == pytest.approx(0.30, abs=0.001)
    assert told.last_failed_s == pytest.approx(0.41, abs=0.001)
    assert len(told.wrong) == 1
    assert told.wrong[0].startswith("an answer that nobody expected: 500")


async def test_what_is_unknown_is_asked_for_again_with_its_key(
    tmp_path: Path, process: Talker
) -> None:
    gateway = Gateway(status=lambda number: None if 40 <= number < 50 else 201)
    async with generating(gateway, tmp_path, process) as generator:
        told = await generator.run(plain(Phase(100, 1), connections=1))
        settled = await generator.settle(10.0)
    assert told.payments.statuses == {"lost": 10, "201": 90}
    assert (settled["unknown"], settled["still_unknown"]) == (10, 0)
    lost = {key for key, _, _ in gateway.asked[40:50]}
    assert {key for key, _, _ in gateway.asked[100:]} == lost
    assert len((tmp_path / "ids").read_bytes().split()) == 100


async def test_phases_follow_each_other_over_a_mix_of_schemes(
    tmp_path: Path, process: Talker
) -> None:
    order = plain(Phase(100, 1), Phase(300, 1), mix={"visa": 1, "humo": 1})
    async with generating(Gateway(), tmp_path, process) as generator:
        told = await generator.run(order)
    asked = {at_s: sum(row.asked for row in told.rows if row.at_s == at_s) for at_s in (0.0, 1.0)}
    assert asked == {0.0: 100, 1.0: 300}
    assert told.rate == 200
    assert sum(one.asked for one in told.by_scheme.values()) == 400
    assert all(one.completed > 100 for one in told.by_scheme.values())


async def test_a_replay_that_is_another_payment_is_found(tmp_path: Path, process: Talker) -> None:
    class Forgetful(Gateway):
        def answer(self, head: bytes, body: dict[str, Any]) -> bytes | None:
            answer = super().answer(head, body)
            return answer and answer.replace(b"Idempotent-Replayed: true\r\n", b"")

    async with generating(Forgetful(), tmp_path, process) as generator:
        told = await generator.run(plain(Phase(200, 1), replays=0.5))
    assert told.wrong == [f"{told.replays.asked} replays were not the first answer"]


def told(**changes: Any) -> dict[str, Any]:
    """Return what a generator tells of a run in which all went well."""
    one = {"asked": 1, "completed": 1, "statuses": {"201": 1}} | {
        f"{name}_ms": 1.0 for name in ("p50", "p90", "p99", "p999", "max")
    }
    return {
        "payments": one, "replays": one, "refusals": one, "by_scheme": {}, "rows": [],
        "first_failed_s": None, "last_failed_s": None, "waited": 0, "late_p99_ms": 1.0,
        "late_max_ms": 1.0, "late_share": 0.0, "cpu_s": 1.0, "asked": 3, "sent": 3,
        "replayed_wrongly": 0, "refused_wrongly": 0, "declined": 0, "problem": "",
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "is_void"),
    [
        ({}, False),
        ({"late_share": 0.009}, False),
        ({"late_share": 0.02, "late_p99_ms": 15.0}, True),
        ({"sent": 2}, True),
    ],
)
def test_a_run_that_the_generator_did_not_keep_up_with_is_void(
    changes: dict[str, Any], is_void: bool
) -> None:
    order = Order([Phase(1, 3)], {"visa": 1.0})
    assert bool(open_loop.read(order, 0.0, told(**changes)).void) is is_void


@pytest.mark.parametrize("name", ["replayed_wrongly", "refused_wrongly", "declined"])
def test_what_no_load_excuses_is_told(name: str) -> None:
    order = Order([Phase(1, 3)], {"visa": 1.0})
    (sentence,) = open_loop.read(order, 0.0, told(**{name: 7})).wrong
    assert sentence.startswith("7 ")


def test_a_shed_request_costs_what_payments_leave() -> None:
    """100 payments of 200 us out of 30,000 us leave 10,000 for 50 that were shed."""
    payments = told()["payments"] | {"asked": 150, "completed": 100}
    order = Order([Phase(1, 3)], {"visa": 1.0})
    run = open_loop.read(order, 0.0, told(payments=payments | {"statuses": {"503": 50}}))
    assert shed_cost_us(run, 30_000, admitted_us=200) == 200
    assert shed_cost_us(run, 10_000, admitted_us=200) == 0
    none = open_loop.read(order, 0.0, told(payments=payments))
    assert shed_cost_us(none, 30_000, admitted_us=200) is None
