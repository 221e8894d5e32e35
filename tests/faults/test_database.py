"""The database failing in ways of its own: deadlocks, a full disk, a clock that is not ours, and a
worker that was taken for dead.

Faults are raised by triggers where the server itself would raise them, and by a real full disk.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all
from tests.faults.proxy import WIRE, Toxic
from tests.faults.wires import proxied
from tests.faults.world import CONFIG, Clients, ask, ask_through, worker_beside
from tests.house import House, Reply, changed_config, running_house, until
from tests.payments.books import SCHEMES, fresh_amount, payments_count

DEADLOCK, SERIALIZATION, DISK_FULL = "40P01", "40001", "53100"
TRIES_MAX = 3
FOREVER = 1_000_000


@asynccontextmanager
async def failing(house: House, moment: str, sqlstate: str, *, times: int) -> AsyncIterator[None]:
    """Have a statement about payments fail so many times, with an error of the server's own.

    Args:
        moment: INSERT (an intent) or UPDATE (a fact).
    """
    await house.rows("CREATE SEQUENCE faults_met")
    # What a sequence has given stays given when its transaction is undone.
    await house.rows(
        "CREATE FUNCTION fail_on_purpose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('faults_met') <= {times} THEN"
        f" RAISE EXCEPTION 'on purpose' USING ERRCODE = '{sqlstate}'; END IF;"
        " RETURN NULL; END $$"
    )
    await house.rows(
        f"CREATE TRIGGER on_purpose AFTER {moment} ON payments"
        " FOR EACH ROW EXECUTE FUNCTION fail_on_purpose()"
    )
    try:
        yield
    finally:
        await house.rows("DROP TRIGGER on_purpose ON payments")
        await house.rows("DROP FUNCTION fail_on_purpose")
        await house.rows("DROP SEQUENCE faults_met")


async def sent_count(house: House) -> int:
    """Return how many money operations the processors know of."""
    return sum([len(await house.ledger(scheme)) for scheme in SCHEMES])


@pytest.mark.fault(rows=[38], what="deadlocks and serialization failures, passing")
@pytest.mark.parametrize("sqlstate", [DEADLOCK, SERIALIZATION])
@pytest.mark.parametrize("moment", ["INSERT", "UPDATE"])
async def test_what_passes_is_tried_again(
    sandbox: House, clients: Clients, sqlstate: str, moment: str
) -> None:
    """Row 38: an intent or a fact that the database undoes for another's sake is written again."""
    one = clients.want(11, sandbox.purchase(11, "humo", fresh_amount()))
    async with failing(sandbox, moment, sqlstate, times=TRIES_MAX - 1):
        reply = await ask(sandbox, one)
    assert reply is not None, "the worker lives"
    assert reply.status == 201, reply.raw
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[38, 40], what="intents that cannot be written")
@pytest.mark.parametrize("sqlstate", [DEADLOCK, SERIALIZATION, DISK_FULL])
async def test_an_intent_that_cannot_be_written_is_not_sent(
    sandbox: House, clients: Clients, sqlstate: str
) -> None:
    """Rows 38, 40: 503 and nothing has happened; the key is as good as new."""
    one = clients.want(12, sandbox.purchase(12, "uzcard", fresh_amount()))
    before = await payments_count(sandbox), await sent_count(sandbox)
    async with failing(sandbox, "INSERT", sqlstate, times=FOREVER):
        reply = await ask(sandbox, one)
        assert reply is not None, "the worker lives"
        assert (reply.status, reply.code) == (503, "unavailable"), reply.raw
        assert "retry-after" in reply.headers
    assert (await payments_count(sandbox), await sent_count(sandbox)) == before
    assert (await ask_through(sandbox, one)).status == 201
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[38, 40], what="outcomes that cannot be written")
@pytest.mark.parametrize("sqlstate", [DEADLOCK, DISK_FULL])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_outcome_that_cannot_be_written_is_kept_until_it_can_be(
    sandbox: House, clients: Clients, sqlstate: str, scheme: str
) -> None:
    """Rows 38, 40: 202 while it is not durable; what the processor said stands, VISA's too."""
    one = clients.want(13, sandbox.purchase(13, scheme, fresh_amount()))
    async with failing(sandbox, "UPDATE", sqlstate, times=FOREVER):
        reply = await ask(sandbox, one)
        assert reply is not None, "the worker lives"
        assert reply.status == 202, reply.raw
    payment = await sandbox.settled(13, reply.body["id"], within_s=5)
    assert payment["status"] == "succeeded", payment
    await hold_all(sandbox, clients)


async def held_up(
    house: House, clients: Clients, user: int, scheme: str, *, mistake: str | None = None
) -> Reply:
    """Stop a worker between intent and send until others have settled it; returns its answer."""
    one = clients.want(user, house.purchase(user, scheme, fresh_amount()))
    slow = {"before_send": {"action": "delay", "seconds": 1.0, "count": 1}}
    before = await payments_count(house)
    async with worker_beside(house, failpoints=slow, mistake=mistake) as beside:
        asking = asyncio.create_task(ask(beside.door, one))

        async def is_opened() -> bool:
            return await payments_count(house) == before + 1

        await until(is_opened, within_s=10)
        os.kill(beside.process.pid, signal.SIGSTOP)
        (row,) = await house.rows("SELECT id FROM payments ORDER BY id DESC LIMIT 1")
        payment = await house.settled(user, row["id"])
        assert payment["status"] == "failed", f"{scheme}: {payment}"
        os.kill(beside.process.pid, signal.SIGCONT)
        reply = await asking
    assert reply is not None, "the worker lives"
    return reply


@pytest.mark.fault(rows=[41], what="a worker that was taken for dead")
async def test_a_worker_taken_for_dead_sends_nothing(
    sandbox: House, clients: Clients, seed: int
) -> None:
    """Row 41: stopped between intent and send until others have settled it, it sends no more."""
    scheme = SCHEMES[seed % len(SCHEMES)]
    reply = await held_up(sandbox, clients, (seed + 14) % 50, scheme)
    assert reply.status in (202, 503), f"seed {seed}, {scheme}: {reply.raw!r}"
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[41], what="a worker cut off from the database for longer than its lease")
async def test_a_worker_cut_off_gives_back_what_it_did_not_write(
    sandbox: House, clients: Clients
) -> None:
    """Row 41: it refuses at once, and shows the same headroom as others when it is back."""
    async with proxied(sandbox) as wires, wires.worker_beside() as beside:
        one = clients.want(16, sandbox.purchase(16, "humo", fresh_amount()))
        wires.proxies["database"].toxic = Toxic(is_black_hole=True)

        async def is_out() -> bool:
            metrics = (await beside.door.call("GET", "/metrics")).raw.decode()
            return "\noqim_lease_held 0.0" in metrics

        await until(is_out, within_s=10)
        for _ in range(3):
            reply = await ask(beside.door, one)
            assert reply is not None, "the worker lives"
            assert reply.status == 503, reply.raw
        wires.proxies["database"].toxic = WIRE
        wires.proxies["database"].reset_all()
        await until(beside.door.is_ready, within_s=20)
        assert (await ask_through(beside.door, one)).status == 201
        await hold_all(sandbox, clients, [beside.door])


@pytest.mark.fault(rows=[50], what="a worker whose clock is ten minutes off")
@pytest.mark.parametrize("shift_s", [600, -600])
async def test_a_clock_that_is_wrong(
    sandbox: House, clients: Clients, shift_s: int, seed: int
) -> None:
    """Row 50: it is told of, it dates nothing others believe, and doubt is as old as it is."""
    user = (seed + 15) % 50
    environment = {"OQIM_CLOCK_SHIFT_S": str(shift_s)}
    async with worker_beside(sandbox, environment=environment) as beside:
        metrics = (await beside.door.call("GET", "/metrics")).raw.decode()
        (line,) = [one for one in metrics.splitlines() if one.startswith("oqim_clock_skew_seconds")]
        assert abs(float(line.split()[1]) - shift_s) < 2, line
        granted = {
            "grant_type": "client_credentials",
            "client_id": sandbox.merchant["client_id"],
            "client_secret": sandbox.merchant["client_secret"],
        }
        dated = await beside.door.call("POST", "/oauth/token", data=granted)
        assert (dated.status, dated.code) == (503, "unavailable"), dated.raw
        asked = clients.want(user, sandbox.purchase(user, "uzcard", fresh_amount()))
        # The request arrives late: while it may still be on its way, nobody takes it for lost.
        slow = {"kind": "delay", "count": 1, "seconds": 1.5, "method": "trans.pay.purpose"}
        async with sandbox.fault("uzcard", **slow):
            reply = await ask(beside.door, asked)
            assert reply is not None, "the worker lives"
            if shift_s > 0:
                assert reply.status == 202, reply.raw
                payment = await sandbox.settled(user, reply.body["id"])
                assert payment["status"] == "succeeded", payment
            else:
                # Tokens made by right clocks are not valid yet by its own.
                assert reply.status == 401, reply.raw
                clients.asked.remove(asked)
    await hold_all(sandbox, clients)


def mounted(folder: Path, megabytes: int) -> bool:
    """Mount a disk of its own on a folder; False where that is not permitted."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return False
    command = [mount, "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.fault(rows=[40], what="a disk that is full")
@pytest.mark.skipif(SEEDS < 2, reason="`make faults` runs it: it has a sandbox of its own")
async def test_a_full_disk() -> None:
    """Row 40: what cannot be written is not sent; with room again everything goes on."""
    folder = Path("/tmp") / f"oqim-small-disk-{os.getpid()}"
    folder.mkdir(mode=0o755)
    if not mounted(folder, 256):
        folder.rmdir()
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        with changed_config(**CONFIG) as environment:
            data = folder / "data"
            data.mkdir(mode=0o711)
            async with running_house(environment=environment, folder=data) as house:
                await _fill_and_free(house, folder)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(folder)], check=True)
        folder.rmdir()


async def _fill_and_free(house: House, folder: Path) -> None:
    clients = Clients()
    first = clients.want(1, house.purchase(1, "humo", fresh_amount()))
    assert (await ask_through(house, first)).status == 201
    filler = folder / "filler"
    room = shutil.disk_usage(folder).free
    # Down to what the next pages of the tables need.
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, room - 16_384)
    refused = 0
    for number in range(120):
        user, scheme = number % 50, SCHEMES[number % 3]
        one = clients.want(user, house.purchase(user, scheme, fresh_amount()))
        reply = await ask(house, one)
        if reply is not None and reply.status == 503:
            refused += 1
            if refused == 5:
                break
    assert refused == 5, "the disk was never full"
    filler.unlink()
    await until(house.is_ready, within_s=60)
    for one in clients.asked:
        assert (await ask_through(house, one)).status in (201, 202)
    await hold_all(house, clients)
