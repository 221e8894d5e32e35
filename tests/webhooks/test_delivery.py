"""Events reach the merchant: signed, again while they are refused, in order, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tests.house import House, new_key, until
from tests.payments.books import fresh_amount
from tests.webhooks.receivers import Answer, Receiver, Shop, assert_signed, ok, receiving

TRIES = 4
WAITS_S = (0.3, 0.6, 1.2)


async def paid(house: House, user: int = 0, **changes: Any) -> dict[str, Any]:
    """Pay the merchant once and return the payment."""
    reply = await house.pay(user, house.purchase(user, "humo", fresh_amount(), **changes))
    assert reply.status == 201, reply.raw
    body: dict[str, Any] = reply.body
    return body


def status(code: int, **headers: str) -> Answer:
    """Answer a status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(number: int) -> web.Response:
        return web.Response(status=code, headers=named)

    return answer


async def never(number: int) -> web.Response:
    """Answer nothing."""
    await asyncio.Event().wait()
    raise AssertionError("never")


async def endless(number: int) -> web.Response:
    """Answer a body that does not end, of a status that is a refusal."""
    return web.Response(status=500, body=drip())


async def drip() -> Any:
    while True:
        yield b"x" * 1_000
        await asyncio.sleep(0.01)


# Refused ------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Answer, int | None, str]] = {
    "a fault": (status(500), 500, "the answer is not 2xx"),
    "a refusal": (status(404), 404, "the answer is not 2xx"),
    "a redirect": (status(302, Location="/elsewhere"), 302, "the answer is not 2xx"),
    "a redirect that keeps the method": (
        status(308, Location="/elsewhere"), 308, "the answer is not 2xx",
    ),
    "not modified": (status(304), 304, "the answer is not 2xx"),
    "silence": (never, None, "no answer in time"),
    "no end": (endless, 500, "the answer is not 2xx"),
}  # fmt: skip


@pytest.mark.fault(rows=[58], what="refused, redirected, slow")
async def test_what_is_not_taken_is_tried_again_and_given_up(house: House, shop: Shop) -> None:
    """Each by the schedule, under one id, at a new time; then failed, and seen to be."""
    async with AsyncExitStack() as stack:
        receivers, endpoints = {}, {}
        for name, (answer, _, _) in REFUSALS.items():
            receivers[name] = await stack.enter_async_context(receiving(answer))
            endpoints[name] = await stack.enter_async_context(shop.endpoint(receivers[name].url))
        payment = await paid(house)
        for name, (_, http_status, error) in REFUSALS.items():
            delivery = await shop.delivery(endpoints[name], payment["id"], "failed", within_s=15)
            assert delivery["tries"] == TRIES, name
            assert (delivery["http_status"], delivery["error"]) == (http_status, error), name
            assert delivery["next_try_at"] is None
        for name, receiver in receivers.items():
            tries = receiver.about(payment["id"])
            assert len(tries) == TRIES, f"{name}: nothing is followed or sent beside the schedule"
            assert len({one.id for one in tries}) == 1, name
            assert len({one.raw for one in tries}) == 1, name
            assert tries[-1].timestamp > tries[0].timestamp, name
            assert len({one.headers["webhook-signature"] for one in tries}) > 1, name
            for one in tries:
                assert_signed(one, endpoints[name]["secret"])
                assert one.headers["host"] == f"127.0.0.1:{receiver.port}"
            for before, after, wait_s in zip(tries, tries[1:], WAITS_S, strict=False):
                assert after.at - before.at >= wait_s, f"{name} hurried"
        ids = {receiver.got[0].id for receiver in receivers.values()}
        assert len(ids) == 1, "the event is the same to all"


async def test_nobody_listens(house: House, shop: Shop) -> None:
    """A port that is closed is a try that failed; the first that is taken ends it."""
    async with receiving() as gone:
        url = gone.url
    async with shop.endpoint(url) as endpoint:
        payment = await paid(house)

        async def tried() -> bool:
            found = await shop.deliveries(endpoint)
            return any(one["error"] == "no connection" for one in found)

        await until(tried, within_s=5)
        changed = await shop.call(
            "POST", f"/webhook-endpoints/{endpoint['id']}", {"description": "moved"}
        )
        assert changed.body["failing_since"] is not None
        async with receiving() as found:
            moved = await shop.call(
                "POST", f"/webhook-endpoints/{endpoint['id']}", {"url": found.url}
            )
            assert moved.status == 200
            (one,) = await found.heard(payment["id"])
            assert_signed(one, endpoint["secret"])
            delivery = await shop.delivery(endpoint, payment["id"], "succeeded")
            assert (delivery["http_status"], delivery["error"]) == (204, None)


@pytest.mark.fault(rows=[58], what="gone")
async def test_gone_switches_the_endpoint_off(house: House, shop: Shop) -> None:
    """410: nothing more is sent, what waits has failed, and switching on starts anew."""
    async with receiving(status(410)) as receiver, shop.endpoint(receiver.url) as endpoint:
        path = f"/webhook-endpoints/{endpoint['id']}"
        payment = await paid(house)
        delivery = await shop.delivery(endpoint, payment["id"], "failed")
        assert (delivery["tries"], delivery["http_status"]) == (1, 410)
        shown = (await shop.call("GET", path)).body
        assert (shown["is_enabled"], shown["disabled_reason"]) == (
            False,
            "the receiver answered 410",
        )
        refused = await shop.call("POST", f"{path}/deliveries/{delivery['id']}/redeliver")
        assert refused.code == "webhook-disabled"
        async with receiving() as other, shop.endpoint(other.url):
            unheard = await paid(house)
            await other.heard(unheard["id"])
        receiver.answer = ok
        switched = await shop.call("POST", path, {"is_enabled": True})
        assert (switched.body["is_enabled"], switched.body["disabled_reason"]) == (True, None)
        heard = await paid(house)
        await receiver.heard(heard["id"])
        assert not receiver.about(unheard["id"]), "it was off"
        again = await shop.call("POST", f"{path}/deliveries/{delivery['id']}/redeliver")
        assert again.status == 202
        assert len(await receiver.heard(payment["id"], 2)) == 2


async def test_what_waits_when_it_is_switched_off_has_failed(house: House, shop: Shop) -> None:
    async with receiving(status(500)) as receiver, shop.endpoint(receiver.url) as endpoint:
        payment = await paid(house)
        await receiver.heard(payment["id"])
        switched = await shop.call(
            "POST", f"/webhook-endpoints/{endpoint['id']}", {"is_enabled": False}
        )
        assert switched.body["is_enabled"] is False
        delivery = await shop.delivery(endpoint, payment["id"], "failed")
        assert delivery["error"] == "the endpoint was switched off"
        tries = len(receiver.got)
        async with receiving() as other, shop.endpoint(other.url):
            await other.heard((await paid(house))["id"])
        assert len(receiver.got) <= tries + 1, "one may have been on its way"


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [(status(429, Retry_After="2"), 2.0), (status(503, Retry_After="2"), 2.0), (status(502), 1.0)],
    ids=["429 with Retry-After", "503 with Retry-After", "502"],
)
async def test_a_receiver_that_asks_for_time_is_given_it(
    house: House, shop: Shop, receiver: Receiver, answer: Answer, wait_s: float
) -> None:
    """Nothing at all is sent to it meanwhile, other events neither."""
    async with shop.endpoint(receiver.url):
        receiver.answer = answer
        first = await paid(house)
        (asked,) = await receiver.heard(first["id"])
        receiver.answer = ok
        second = await paid(house)
        # What was claimed before the answer was written may still come.
        (other,) = await receiver.heard(second["id"])
        _, again = await receiver.heard(first["id"], 2)
        assert again.at - asked.at >= wait_s
        assert other.at - asked.at >= wait_s


async def test_an_endpoint_that_hangs_does_not_slow_another(house: House, shop: Shop) -> None:
    """Forty events to each of two: one answers nothing, the other has all of them at once."""
    async with (
        receiving(never) as dead,
        receiving() as alive,
        shop.endpoint(dead.url),
        shop.endpoint(alive.url),
    ):
        payments = await asyncio.gather(*(paid(house, number % 50) for number in range(40)))
        began = asyncio.get_running_loop().time()
        for payment in payments:
            await alive.heard(payment["id"])
        took_s = asyncio.get_running_loop().time() - began
        assert took_s < 2.0, f"it took {took_s:.1f} s"
        assert dead.at_once_max <= 2 * 8, "two workers, eight each"
        assert len(alive.got) == len(payments), "each once: nothing was refused"


# Taken --------------------------------------------------------------------------------------------


async def test_an_event_is_delivered_signed(house: House, shop: Shop, receiver: Receiver) -> None:
    """A payment that succeeds is told to its merchant, in bytes that the reference accepts."""
    async with shop.endpoint(receiver.url) as endpoint:
        payment = await paid(house)
        (one,) = await receiver.heard(payment["id"])
        assert_signed(one, endpoint["secret"])
        assert set(one.body) == {"type", "timestamp", "data"}
        assert one.body["type"] == "payment.succeeded"
        assert one.body["data"] == {
            "id": payment["id"],
            "status": "succeeded",
            "amount": payment["amount"],
            "currency": "UZS",
            "amount_received": payment["amount_received"],
            "amount_refunded": 0,
            "sequence": one.sequence,
        }
        delivery = await shop.delivery(endpoint, payment["id"], "succeeded")
        assert (delivery["tries"], delivery["http_status"]) == (1, 204)
        assert (delivery["event"], delivery["sequence"]) == (one.id, one.sequence)
        assert one.id.startswith("evt_")


async def test_the_events_of_a_payment_come_in_order(
    house: House, shop: Shop, receiver: Receiver
) -> None:
    """Held, captured and refunded in a hurry: told in that order, by growing sequence."""
    token = house.user(1)["access_token"]

    async def do(payment_id: str, action: str) -> None:
        reply = await house.call(
            "POST", f"/v1/payments/{payment_id}/{action}", {}, token=token, key=new_key()
        )
        assert reply.status in (200, 201), reply.raw

    async def one() -> str:
        payment = await paid(house, 1, capture="manual")
        await do(payment["id"], "capture")
        await do(payment["id"], "refunds")
        return str(payment["id"])

    async with shop.endpoint(receiver.url):
        for payment_id in await asyncio.gather(*(one() for _ in range(5))):
            told = await receiver.heard(payment_id, 3)
            assert [one.body["type"] for one in told] == [
                "payment.requires_capture",
                "payment.succeeded",
                "refund.succeeded",
            ]
            sequences = [one.sequence for one in told]
            assert sequences == sorted(set(sequences))


async def test_only_the_types_asked_for(house: House, shop: Shop, receiver: Receiver) -> None:
    """An endpoint that wants failures is not told of success."""
    async with (
        receiving() as all_types,
        shop.endpoint(all_types.url),
        shop.endpoint(receiver.url, events=["payment.failed"]),
    ):
        good = await paid(house)
        async with house.fault("humo", kind="decline", count=1):
            bad = await paid(house)
        assert bad["status"] == "failed", "the decline was armed"
        (one,) = await receiver.heard(bad["id"])
        assert one.body["type"] == "payment.failed"
        await all_types.heard(good["id"])
        assert not receiver.about(good["id"])


async def test_a_transfer_between_customers_is_not_the_merchants(
    house: House, shop: Shop, receiver: Receiver
) -> None:
    """A payout of the merchant is; what customers send one another is nobody else's business."""
    async with shop.endpoint(receiver.url):
        sent = await house.pay(2, house.transfer(2, "humo", 3, "humo", fresh_amount()))
        assert sent.status == 201, sent.raw
        body = {
            "operation": "payout",
            "amount": fresh_amount(),
            "currency": "UZS",
            "destination": {"card": house.user(4)["cards"]["humo"]},
        }
        payout = await house.call("POST", "/v1/payments", body, token=shop.token, key=new_key())
        assert payout.status == 201, payout.raw
        await receiver.heard(payout.body["id"])
        assert not receiver.about(sent.body["id"])


async def test_a_delivery_that_failed_is_sent_again_by_hand(house: House, shop: Shop) -> None:
    """Under the same id, with a new signature."""
    async with receiving(status(500)) as receiver, shop.endpoint(receiver.url) as endpoint:
        payment = await paid(house)
        delivery = await shop.delivery(endpoint, payment["id"], "failed")
        receiver.answer = ok
        path = f"/webhook-endpoints/{endpoint['id']}/deliveries/{delivery['id']}/redeliver"
        again = await shop.call("POST", path)
        assert (again.status, again.body["status"]) == (202, "pending")
        told = await receiver.heard(payment["id"], TRIES + 1)
        assert len({one.id for one in told}) == 1
        assert_signed(told[-1], endpoint["secret"])
        done = await shop.delivery(endpoint, payment["id"], "succeeded")
        assert (done["id"], done["tries"]) == (delivery["id"], 1)


async def test_a_new_secret_signs_beside_the_old_one(
    house: House, shop: Shop, receiver: Receiver
) -> None:
    """Two signatures while receivers learn the new secret, then one; a third rotation ends two."""
    async with shop.endpoint(receiver.url) as endpoint:
        path = f"/webhook-endpoints/{endpoint['id']}/rotate-secret"
        rotated = (await shop.call("POST", path)).body
        assert rotated["secret"] not in ("", endpoint["secret"])
        (one,) = await receiver.heard((await paid(house))["id"])
        assert len(one.signatures) == 2
        assert_signed(one, endpoint["secret"])
        assert_signed(one, rotated["secret"])
        again = (await shop.call("POST", path)).body
        (one,) = await receiver.heard((await paid(house))["id"])
        assert_signed(one, again["secret"])
        assert_signed(one, rotated["secret"])
        with pytest.raises(WebhookVerificationError):
            Webhook(endpoint["secret"]).verify(one.raw, one.headers)

        async def only_one() -> bool:
            (one,) = await receiver.heard((await paid(house))["id"])
            assert_signed(one, again["secret"])
            return len(one.signatures) == 1

        await until(only_one, within_s=10)


# Killed -------------------------------------------------------------------------------------------


async def test_none_is_lost_when_workers_are_killed(house: House, shop: Shop) -> None:
    """kill -9 of both workers while events are made and sent: each comes at least once."""

    async def slow(number: int) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=204)

    async with receiving(slow) as receiver, shop.endpoint(receiver.url) as endpoint:
        paying = asyncio.gather(*(pay_through(house, number) for number in range(80)))
        await until(lambda: len(receiver.got) > 3, within_s=10)
        await house.kill_workers()
        await until(house.is_ready, within_s=30)
        await paying
        rows = await house.rows(
            """
            SELECT o.payment_id, o.sequence FROM outbox o JOIN payments p ON p.id = o.payment_id
            WHERE p.merchant_id = $1 AND o.created_at >= $2::text::timestamptz
            """,
            house.merchant["id"],
            endpoint["created_at"],
        )
        wanted = {(row["payment_id"], row["sequence"]) for row in rows}
        assert len(wanted) >= 80

        def all_told() -> bool:
            return wanted <= {(one.payment, one.sequence) for one in receiver.got}

        await until(all_told, within_s=30)
        assert len({one.id for one in receiver.got}) == len(wanted), "one id an event, no more"

        async def all_told_of() -> bool:
            return not await shop.deliveries(endpoint, status="pending")

        await until(all_told_of, within_s=30)


async def pay_through(house: House, number: int) -> None:
    """Pay until it is answered, under one key."""
    number %= 50
    body, key = house.purchase(number, "humo", fresh_amount()), new_key()

    async def answered() -> bool:
        try:
            reply = await house.pay(number, body, key=key)
        except aiohttp.ClientError:
            return False
        # Only what may be repeated: a worker that is only starting, or the first still runs.
        assert reply.status in (201, 202) or reply.body["retryable"], reply.raw
        return reply.status in (201, 202)

    await until(answered, within_s=30)


async def test_what_a_dead_worker_was_sending_is_sent_again(house: House, shop: Shop) -> None:
    """Killed after the request left and before its answer: the next worker sends it again."""

    def hang_once(number: int) -> Any:
        return never(number) if number == 1 else ok(number)

    async with receiving(hang_once) as receiver, shop.endpoint(receiver.url) as endpoint:
        payment = await paid(house)
        await receiver.heard(payment["id"])
        for pid in house.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await until(house.is_ready, within_s=30)
        first, second = await receiver.heard(payment["id"], 2, within_s=20)
        assert (first.id, first.raw) == (second.id, second.raw)
        delivery = await shop.delivery(endpoint, payment["id"], "succeeded")
        assert delivery["tries"] == 2


async def test_what_becomes_of_tries_is_counted(
    house: House, shop: Shop, receiver: Receiver
) -> None:
    """A scrape tells what was taken, what is tried again, and for how long the oldest waits."""
    async with shop.endpoint(receiver.url):
        receiver.answer = lambda number: status(204 if number % 2 else 500)(number)

        async def counted() -> bool:
            await paid(house)
            text = (await house.call("GET", "/metrics")).raw.decode()
            for name in ("webhooks_queue_age_seconds", "webhooks_in_flight", "event_streams"):
                assert f"\noqim_{name}{{worker=" in text
            kinds = ("delivered", "retried")
            return all(f'oqim_webhooks_total{{kind="{kind}",worker=' in text for kind in kinds)

        await until(counted, within_s=10)
