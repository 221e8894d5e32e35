"""Card numbers that went through every flow are searched for where they must not be."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from tests.faults.world import CONFIG
from tests.house import House, changed_config, new_key, running_house
from tests.payments.books import SCHEMES, fresh_amount, pan, post

CVV = "canary-cvv-7741"
USERS = range(2)


@pytest.fixture(scope="module")
async def used() -> AsyncIterator[House]:
    """A house where numbers went every way there is."""
    with changed_config(**CONFIG) as environment:
        async with running_house(environment=environment) as house:
            for user in USERS:
                for scheme in SCHEMES:
                    await use(house, user, scheme)
            await misuse(house)
            yield house


async def use(house: House, user: int, scheme: str) -> None:
    """Pay, hold, refund, and send to a number that is given in the open."""
    paid = await house.pay(user, house.purchase(user, scheme, fresh_amount()))
    assert paid.status == 201, paid.raw
    await post(house, user, f"/v1/payments/{paid.body['id']}/refunds", {})
    held = await house.pay(user, house.purchase(user, scheme, fresh_amount(), capture="manual"))
    await post(house, user, f"/v1/payments/{held.body['id']}/cancel", {})
    body = house.transfer(user, scheme, user, scheme, fresh_amount())
    body["destination"] = {"pan": pan(scheme, user + 10)}
    sent = await house.pay(user, body)
    assert sent.status == 201, sent.raw
    async with house.fault(scheme, kind="drop_reply_after_commit", count=1):
        await house.pay(user, house.purchase(user, scheme, fresh_amount()))


async def misuse(house: House) -> None:
    """Give numbers and a CVV where they do not belong."""
    token = house.user(0)["access_token"]
    number = pan("visa", 0)
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    for body in (
        {"pan": wrong, "expiry": "30-12"},
        {"pan": number, "expiry": "30-12", "cvv": CVV},
        {"pan": number, "expiry": "1999-01"},
        {"pan": number, "expiry": "30-12"},
    ):
        await house.call("POST", "/v1/cards", body, token=token, key=new_key())
    await house.call("GET", f"/v1/cards/{number}", token=token)
    await house.call("GET", f"/v1/cards?cursor={number}", token=token)
    await house.call("POST", "/v1/payments", {"pan": number}, token=token, key=new_key())
    await house.call("GET", "/v1/cards", token=number)


def disguises(text: str) -> Iterator[bytes]:
    """Return how a text may stand in a file: as it is, packed digits, hexadecimal, base64."""
    raw = text.encode()
    yield raw
    yield raw.hex().encode()
    if text.isdigit() and len(text) % 2 == 0:
        yield bytes.fromhex(text)
    for shift in range(3):
        # Its base64 depends on how many bytes stand before it; the ends are cut to be sure.
        yield base64.b64encode(bytes(shift) + raw)[4:-4]


def canaries() -> list[tuple[str, bytes]]:
    numbers = [pan(scheme, user + more) for scheme in SCHEMES for user in USERS for more in (0, 10)]
    return [(text[:6], form) for text in [*numbers, CVV] for form in disguises(text)]


def searched(house: House) -> list[Path]:
    """Return every file of the house but what the processors keep: they know the numbers."""
    theirs = house.data_dir / "simulators"
    return [
        path for path in house.data_dir.rglob("*") if path.is_file() and theirs not in path.parents
    ]


async def test_no_number_is_anywhere(used: House) -> None:
    """I14: not in PostgreSQL's tables and log, not in Valkey, not in logs or metrics."""
    await used.rows("CHECKPOINT")
    client = redis.asyncio.Redis.from_url(used.description["redis_url"])
    await client.save()
    await client.aclose()
    files = searched(used)
    names = {path.name for path in files}
    assert any("dump" in name or name.endswith(".rdb") for name in names), "Valkey has saved"
    assert any("pg_wal" in str(path) for path in files), "PostgreSQL's log is searched"
    metrics = (await used.call("GET", "/metrics")).raw
    wanted = canaries()
    found = []
    for path in files:
        content = path.read_bytes()
        found += [f"{name} in {path}" for name, form in wanted if form in content]
    found += [f"{name} in metrics" for name, form in wanted if form in metrics]
    assert not found, found


async def test_the_search_can_find(used: House) -> None:
    """What may be shown, the first six and the last four, is found where it is kept."""
    await used.rows("CHECKPOINT")
    user = used.user(0)
    content = b"".join(path.read_bytes() for path in searched(used))
    assert user["id"].encode() in content
    assert pan("visa", 0)[:6].encode() in content
