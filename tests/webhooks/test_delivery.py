"""Events reach the merchant: signed, again while they are refused, and nobody else's."""

from __future__ import annotations

from typing import Any

from tests.house import House
from tests.payments.books import fresh_amount
from tests.webhooks.receivers import Receiver, Shop, assert_signed


async def paid(house: House, user: int = 0, **changes: Any) -> dict[str, Any]:
    """Pay the merchant once and return the payment."""
    reply = await house.pay(user, house.purchase(user, "humo", fresh_amount(), **changes))
    assert reply.status == 201, reply.raw
    body: dict[str, Any] = reply.body
    return body


async def test_an_event_is_delivered_signed(house: House, shop: Shop, receiver: Receiver) -> None:
    """A payment that succeeds is told to its merchant, in bytes that the reference accepts."""
    async with shop.endpoint(receiver.url) as endpoint:
        payment = await paid(house)
        (one,) = await receiver.heard(payment["id"])
        assert_signed(one, endpoint["secret"])
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
        assert delivery["event"] == one.id
