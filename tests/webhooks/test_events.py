"""The stream of events: whose they are, where it goes on, and that none is missing or twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from tests.house import House, new_key, until
from tests.payments.books import fresh_amount
from tests.webhooks.receivers import Shop
from tests.webhooks.streams import Follower, following
from tests.webhooks.test_delivery import paid, pay_through

follow = asynccontextmanager(following)


def customer(house: House, number: int) -> Follower:
    return Follower(house, house.user(number)["access_token"])


# Refused ------------------------------------------------------------------------------------------


async def test_nobody_follows_without_a_token(house: House) -> None:
    assert (await house.call("GET", "/v1/events")).status == 401
    refused = await house.call(
        "GET", "/v1/events", token=house.description["operators"][0]["access_token"] + "x"
    )
    assert refused.code == "invalid-token"


@pytest.mark.parametrize("last_id", ["1", "0.0", "evt_1", "AAAA", "%00", "ü", "a" * 500])
async def test_a_place_that_was_not_given_is_refused(house: House, last_id: str) -> None:
    """A made-up Last-Event-ID, in the header or in the query."""
    token = house.user(0)["access_token"]
    headers = {"Last-Event-ID": last_id} if last_id.isascii() else {}
    reply = await house.call("GET", f"/v1/events?after={last_id}", token=token, headers=headers)
    assert (reply.status, reply.code) == (400, "invalid-cursor"), reply.raw
    assert (await house.call("GET", "/v1/events?since=1", token=token)).code == "invalid-query"


async def test_a_place_of_another_is_refused(house: House) -> None:
    """Where one customer goes on, another does not."""
    async with follow(customer(house, 5)) as follower:
        last_id = follower.last_id
    reply = await house.call(
        "GET",
        "/v1/events",
        token=house.user(6)["access_token"],
        headers={"Last-Event-ID": last_id},
    )
    assert (reply.status, reply.code) == (400, "invalid-cursor")


async def test_no_more_streams_than_a_few(house: House) -> None:
    """Five a worker; the next is refused, and taken again when one is closed."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        AsyncExitStack() as stack,
    ):
        one = customer(house, 7)
        replies = [await stack.enter_async_context(one.open(http)) for _ in range(11)]
        statuses = [reply.status for reply in replies]
        assert statuses.count(200) in range(5, 11), statuses
        refused = next(reply for reply in replies if reply.status != 200)
        assert refused.status == 429
        assert (await refused.json())["code"] == "rate-limited"
        assert "Retry-After" in refused.headers
        other = await stack.enter_async_context(customer(house, 8).open(http))
        assert other.status == 200, "another customer has places of its own"
    async with follow(customer(house, 7)) as again:

        def is_alive() -> bool:
            return again.blocks > 1

        await again.has(is_alive)


# Told ---------------------------------------------------------------------------------------------


async def test_each_is_told_of_its_own(house: House, shop: Shop) -> None:
    """A customer hears of its payments, the merchant of those with it, and nobody of others'."""
    async with (
        follow(customer(house, 10)) as payer,
        follow(customer(house, 11)) as other,
        follow(Follower(house, shop.token)) as merchant,
    ):
        payment = await paid(house, 10)
        sent = await house.pay(10, house.transfer(10, "humo", 11, "humo", fresh_amount()))
        assert sent.status == 201, sent.raw
        last = await paid(house, 11)
        await payer.has(lambda: len(payer.messages) == 2)
        await merchant.has(lambda: last["id"] in [one.what[0] for one in merchant.messages])
        await other.has(lambda: len(other.messages) == 1)
        assert [one.what[0] for one in payer.messages] == [payment["id"], sent.body["id"]]
        assert [one.what[0] for one in merchant.messages] == [payment["id"], last["id"]]
        assert [one.what[0] for one in other.messages] == [last["id"]]
        (event, _) = payer.messages
        assert event.type == event.body["type"] == "payment.succeeded"
        assert event.body["data"]["amount"] == payment["amount"]


async def test_it_goes_on_where_it_was_left(house: House, shop: Shop) -> None:
    """What happened while nobody followed is told first, once and in order."""
    for follower, user in ((customer(house, 12), 12), (Follower(house, shop.token), 13)):
        async with follow(follower):
            before = await paid(house, user)
            await follower.has(lambda: len(follower.messages) == 1)  # noqa: B023  # awaited here
        missed = [await paid(house, user, capture="manual") for _ in range(3)]
        elsewhere = await house.pay(18, house.transfer(18, "humo", 19, "humo", fresh_amount()))
        assert elsewhere.status == 201, elsewhere.raw
        for payment in missed:
            reply = await house.call(
                "POST",
                f"/v1/payments/{payment['id']}/capture",
                {},
                token=house.user(user)["access_token"],
                key=new_key(),
            )
            assert reply.status == 200, reply.raw
        async with follow(follower):
            after = await paid(house, user)
            await follower.has(lambda: len(follower.messages) >= 8)  # noqa: B023  # awaited here
        told = [payment_id for payment_id, _ in follower.told()]
        ids = [payment["id"] for payment in missed]
        assert told == [before["id"], *ids, *ids, after["id"]]
        assert len(set(follower.told())) == 8


async def test_signs_of_life_move_the_place(house: House) -> None:
    """Blocks without an event come, and with them a place that is good to go on from."""
    async with follow(customer(house, 14)) as follower:
        first = follower.last_id
        await paid(house, 15)
        await follower.has(lambda: follower.blocks >= 3 and follower.last_id != first)
        assert follower.messages == []
        quiet = follower.last_id
    resumed = Follower(house, follower.token, last_id=quiet)
    async with follow(resumed):
        payment = await paid(house, 14)
        await resumed.has(lambda: len(resumed.messages) == 1)
        assert resumed.messages[0].what[0] == payment["id"]


async def test_patience_ends_a_stream(house: House) -> None:
    """Deadline-Ms bounds it; the answer ends as it should."""
    follower = customer(house, 16)
    async with asyncio.timeout(3):
        await follower.once(**{"Deadline-Ms": "300"})
    assert follower.blocks >= 1


async def test_a_revoked_token_ends_its_stream(house: House, shop: Shop) -> None:
    """As soon as its worker knows that the token is not good any more; it cannot go on."""
    follower = Follower(house, await house.merchant_token())
    task = asyncio.create_task(follower.once())
    await follower.has(lambda: follower.blocks > 0)
    revoked = await house.call(
        "POST",
        "/oauth/revoke",
        data={
            "token": follower.token,
            "client_id": house.merchant["client_id"],
            "client_secret": house.merchant["client_secret"],
        },
    )
    assert revoked.status == 200
    async with asyncio.timeout(5):
        await task
    assert (await house.call("GET", "/v1/events", token=follower.token)).status == 401


async def test_no_gap_and_nothing_twice_when_workers_are_killed(house: House, shop: Shop) -> None:
    """kill -9 of both workers, twice, amid payments: merchant and customer miss and repeat none."""
    async with (
        follow(Follower(house, shop.token)) as merchant,
        follow(customer(house, 20)) as payer,
    ):
        start = (await house.rows("SELECT now() AS at"))[0]["at"]
        for _ in range(2):
            paying = asyncio.gather(*(pay_through(house, 20 + number % 4) for number in range(40)))
            seen = len(merchant.messages)
            await merchant.has(lambda: len(merchant.messages) > seen + 3)  # noqa: B023  # awaited
            await house.kill_workers()
            await until(house.is_ready, within_s=30)
            await paying
        rows = await house.rows(
            """
            SELECT o.payment_id, o.sequence, p.owner FROM outbox o
            JOIN payments p ON p.id = o.payment_id
            WHERE o.created_at >= $1 ORDER BY o.xid, o.id
            """,
            start,
        )
        wanted = [(row["payment_id"], row["sequence"]) for row in rows]
        own = [
            (row["payment_id"], row["sequence"])
            for row in rows
            if row["owner"] == house.user(20)["id"]
        ]
        assert len(wanted) >= 80
        assert own
        await merchant.has(lambda: len(merchant.messages) >= len(wanted), within_s=20)
        await payer.has(lambda: len(payer.messages) >= len(own), within_s=20)
        assert merchant.connections > 1, "the kill met no stream"
        assert merchant.told() == wanted
        assert payer.told() == own
