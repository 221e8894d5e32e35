"""Webhook endpoints over HTTP: what is refused, what is shown, and to whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.house import House
from tests.payments.books import fresh_amount
from tests.webhooks.receivers import Receiver, Shop

URL = "https://shop.example.uz/hooks"
UNKNOWN = "whk_00000000000000000000000000"


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example.uz/hooks",
        "https://user:pass@shop.example.uz/",
        "https://shop.example.uz:22/",
        "https://127.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://2130706433/",
        "https://localhost./",
        "https://дўкон.uz/",
        "ftp://shop.example.uz/",
        "not a url",
    ],
)
async def test_a_url_that_leads_inside_is_refused(shop: Shop, url: str) -> None:
    """When it is added and when it is changed; nothing of it is repeated."""
    async with shop.endpoint(URL) as endpoint:
        for path in ("/webhook-endpoints", f"/webhook-endpoints/{endpoint['id']}"):
            reply = await shop.call("POST", path, {"url": url})
            assert (reply.status, reply.code) == (422, "url-not-allowed"), reply.raw
            assert reply.body["errors"][0]["pointer"] == "/url"
            assert url not in reply.raw.decode()
        shown = await shop.call("GET", f"/webhook-endpoints/{endpoint['id']}")
        assert shown.body["url"] == URL


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "schema-violation"),
        ({"url": 1}, "schema-violation"),
        ({"url": URL, "events": ["payment.exploded"]}, "schema-violation"),
        ({"url": URL, "events": "payment.failed"}, "schema-violation"),
        ({"url": URL, "secret": "whsec_mine"}, "unknown-member"),
        ({"url": URL, "owner": "mer_other"}, "unknown-member"),
        ({"url": URL, "description": "a" * 256}, "too-long"),
        ({"url": URL, "is_enabled": False}, "unknown-member"),
    ],
)
async def test_a_body_of_another_shape_is_refused(
    shop: Shop, body: dict[str, Any], code: str
) -> None:
    reply = await shop.call("POST", "/webhook-endpoints", body)
    assert (reply.status, reply.code) == (422, code), reply.raw


async def test_a_customer_has_no_endpoints(house: House) -> None:
    """Scopes are the merchant's; a token without them is refused."""
    token = house.user(0)["access_token"]
    for method, path in (
        ("GET", "/v1/webhook-endpoints"),
        ("POST", "/v1/webhook-endpoints"),
        ("POST", f"/v1/webhook-endpoints/{UNKNOWN}/rotate-secret"),
        ("DELETE", f"/v1/webhook-endpoints/{UNKNOWN}"),
    ):
        body = {"url": URL} if path.endswith("endpoints") and method == "POST" else None
        reply = await house.call(method, path, body, token=token)
        assert (reply.status, reply.code) == (403, "insufficient-scope")
    assert (await house.call("GET", "/v1/webhook-endpoints")).status == 401


@pytest.mark.parametrize(
    ("method", "rest", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"description": "mine now"}),
        ("POST", "", {"is_enabled": False}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", None),
        ("GET", "/deliveries", None),
        ("POST", "/deliveries/whd_1/redeliver", None),
    ],
)
async def test_what_is_not_there_is_not_found(
    shop: Shop, method: str, rest: str, body: dict[str, Any] | None
) -> None:
    reply = await shop.call(method, f"/webhook-endpoints/{UNKNOWN}{rest}", body)
    assert (reply.status, reply.code) == (404, "not-found")


async def test_the_secret_is_shown_once_and_kept_sealed(house: House, shop: Shop) -> None:
    """Not in any later answer, not in the database, not in a log."""
    async with shop.endpoint(URL, description="till 1") as endpoint:
        secret = endpoint["secret"]
        assert secret.startswith("whsec_")
        path = f"/webhook-endpoints/{endpoint['id']}"
        shown = (await shop.call("GET", path)).body
        assert shown == {name: value for name, value in endpoint.items() if name != "secret"}
        listed = await shop.call("GET", "/webhook-endpoints")
        assert shown in listed.body["data"]
        assert secret.encode() not in listed.raw
        (row,) = await house.rows(
            "SELECT t::text AS row, secret_sealed FROM webhook_endpoints t WHERE id = $1",
            endpoint["id"],
        )
        assert secret.removeprefix("whsec_") not in row["row"]
        assert secret.removeprefix("whsec_").encode() not in row["secret_sealed"]
        for log in house.data_dir.rglob("*.log"):
            assert secret not in log.read_text(errors="replace"), log.name


async def test_what_is_done_to_an_endpoint_is_recorded(house: House, shop: Shop) -> None:
    async with shop.endpoint(URL) as endpoint:
        await shop.call("POST", f"/webhook-endpoints/{endpoint['id']}/rotate-secret")
        await shop.call("POST", f"/webhook-endpoints/{endpoint['id']}", {"is_enabled": False})
    rows = await house.rows(
        "SELECT actor, action FROM audit_log WHERE object = $1 ORDER BY id", endpoint["id"]
    )
    assert [row["action"].partition(".")[2] for row in rows] == [
        "added", "secret_rotated", "changed", "deleted",
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {house.merchant["id"]}


async def test_no_more_than_so_many(shop: Shop) -> None:
    """Sixteen are the most, also when all are added at once."""
    replies = await asyncio.gather(
        *(shop.call("POST", "/webhook-endpoints", {"url": URL}) for _ in range(20))
    )
    added = [reply.body["id"] for reply in replies if reply.status == 201]
    assert len(added) == 16
    refused = [reply for reply in replies if reply.status != 201]
    assert {(one.status, one.code) for one in refused} == {(409, "webhook-limit-reached")}
    pages, cursor = [], ""
    while True:
        page = (await shop.call("GET", f"/webhook-endpoints?limit=5{cursor}")).body
        pages += [one["id"] for one in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert pages == sorted(added, reverse=True)
    for one in added:
        assert (await shop.call("DELETE", f"/webhook-endpoints/{one}")).status == 204
    assert (await shop.call("GET", "/webhook-endpoints")).body["data"] == []


async def test_deliveries_are_listed_by_page_and_status(
    house: House, shop: Shop, receiver: Receiver
) -> None:
    async with shop.endpoint(receiver.url) as endpoint:
        for user in range(3):
            reply = await house.pay(user, house.purchase(user, "humo", fresh_amount()))
            await shop.delivery(endpoint, reply.body["id"], "succeeded")
        path = f"/webhook-endpoints/{endpoint['id']}/deliveries"
        first = (await shop.call("GET", f"{path}?limit=2&status=succeeded")).body
        assert len(first["data"]) == 2
        cursor = first["next_cursor"]
        second = (await shop.call("GET", f"{path}?limit=2&status=succeeded&cursor={cursor}")).body
        assert len(second["data"]) == 1
        assert second["next_cursor"] is None
        ids = [one["id"] for one in first["data"] + second["data"]]
        assert ids == sorted(ids, reverse=True)
        # A cursor is good for its own filter.
        wrong = await shop.call("GET", f"{path}?limit=2&cursor={cursor}")
        assert wrong.code == "invalid-cursor"
        assert await shop.deliveries(endpoint, status="failed") == []
        assert (await shop.call("GET", f"{path}?status=lost")).code == "invalid-query"
