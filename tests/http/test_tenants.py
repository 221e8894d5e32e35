"""Two customers and two merchants: what is one's is nowhere for the other.

Every route that names an object is asked for another's, and answers as for one that does not exist,
byte by byte but for the request's id. Every list is searched for anything of the other's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from tests.house import House, Reply, new_key, running_house
from tests.http.test_openapi import OPERATIONS

OWNER, STRANGER = 3, 4
SHOP = "stranger-shop"
SCOPES = ("payments:read", "payments:write", "payments:refund", "webhooks:read", "webhooks:write")
# Nobody's: of the right form, made at no time.
NOBODYS = "00000000000000000000000000"
_REQUEST_ID = re.compile(rb"req_[0-9A-Z]{26}")

# Whose objects each route names, and what it is asked with.
CUSTOMERS: dict[str, Any] = {
    "GET /v1/payments/{id}": None,
    "GET /v1/payments/{id}/trace": None,
    "GET /v1/payments/{id}/refunds": None,
    "POST /v1/payments/{id}/capture": {},
    "POST /v1/payments/{id}/cancel": {},
    "POST /v1/payments/{id}/refunds": {},
    "POST /v1/payments/{id}/confirm": {"code": "A1B2C3"},
    "GET /v1/cards/{id}": None,
    "DELETE /v1/cards/{id}": None,
    "POST /v1/cards/{id}/verify": {"code": "123456"},
    "DELETE /v1/sessions/{id}": None,
}
MERCHANTS: dict[str, Any] = {
    "GET /v1/payments/{id}": None,
    "GET /v1/payments/{id}/refunds": None,
    "POST /v1/payments/{id}/refunds": {},
    "GET /v1/webhook-endpoints/{id}": None,
    "POST /v1/webhook-endpoints/{id}": {"is_enabled": False},
    "DELETE /v1/webhook-endpoints/{id}": None,
    "GET /v1/webhook-endpoints/{id}/deliveries": None,
    "POST /v1/webhook-endpoints/{id}/deliveries/{delivery_id}/redeliver": {},
    "POST /v1/webhook-endpoints/{id}/rotate-secret": {},
}
LISTS = ("/v1/payments", "/v1/cards", "/v1/sessions", "/v1/webhook-endpoints")


@dataclass(slots=True)
class Tenants:
    """A house, what its owner has, and two strangers to it."""

    house: House
    owner: str
    merchant: str
    stranger: str
    other_merchant: str
    things: dict[str, str] = field(default_factory=dict)

    def path(self, template: str, *, is_known: bool) -> str:
        """Return a route's path to the owner's object, or to nobody's of the same form."""
        kind = template.split("/")[2]
        ids = {"{id}": self.things[kind], "{delivery_id}": self.things["deliveries"]}
        for name, value in ids.items():
            prefix = value.partition("_")[0]
            template = template.replace(name, value if is_known else f"{prefix}_{NOBODYS}")
        return template


async def _second_merchant(house: House) -> str:
    """Add a merchant and its server, and return the server's token."""
    connection = await asyncpg.connect(house.description["database_url"])
    try:
        await connection.execute(
            "INSERT INTO merchants (id, name, city, country, mcc, acceptor_id, terminal_id)"
            " SELECT 'mer_stranger', name, city, country, mcc, 'STRANGER', terminal_id"
            " FROM merchants LIMIT 1"
        )
    finally:
        await connection.close()
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    kind = ("--kind", "server", "--merchant", "mer_stranger")
    made = await asyncio.to_thread(house.oqim, "clients", "add", SHOP, *kind, *scopes)
    assert made.returncode == 0, made.stderr
    (secret,) = re.findall(r"[A-Za-z0-9_-]{43}", made.stdout)
    reply = await house.call(
        "POST",
        "/oauth/token",
        data={
            "grant_type": "client_credentials",
            "client_id": SHOP,
            "client_secret": secret,
        },
    )
    assert reply.status == 200, reply.raw
    return str(reply.body["access_token"])


@pytest.fixture(scope="module")
async def tenants() -> AsyncIterator[Tenants]:
    """A payment held, a card, a session and an endpoint with a delivery."""
    async with running_house() as house:
        made = Tenants(
            house,
            owner=house.user(OWNER)["access_token"],
            merchant=await house.merchant_token(),
            stranger=house.user(STRANGER)["access_token"],
            other_merchant=await _second_merchant(house),
        )
        endpoint = await house.call(
            "POST",
            "/v1/webhook-endpoints",
            {"url": "https://example.com/hooks", "events": ["payment.succeeded"]},
            token=made.merchant,
            key=new_key(),
        )
        assert endpoint.status == 201, endpoint.raw
        paid = await house.pay(OWNER, house.purchase(OWNER, "uzcard", 150_000))
        assert paid.status == 201, paid.raw
        sessions = await house.call("GET", "/v1/sessions", token=made.owner)
        made.things = {
            "payments": paid.body["id"],
            "cards": house.user(OWNER)["cards"]["uzcard"],
            "sessions": sessions.body["data"][0]["id"],
            "webhook-endpoints": endpoint.body["id"],
            "deliveries": f"evt_{NOBODYS}",
        }
        yield made


def plain(reply: Reply) -> tuple[int, bytes]:
    """Return an answer without what differs between any two."""
    return reply.status, _REQUEST_ID.sub(b"", reply.raw)


def test_every_route_that_names_an_object_is_here() -> None:
    """One that is added is asked for another's object too."""
    named = {one for one in OPERATIONS if "/v1/" in one and "{id}" in one and "/admin/" not in one}
    assert named == CUSTOMERS.keys() | MERCHANTS.keys()


async def asked(tenants: Tenants, label: str, body: Any, token: str) -> None:
    """Ask for the owner's object and for nobody's: one answer."""
    method, template = label.split(" ")
    replies = []
    for is_known in (True, False):
        path = tenants.path(template, is_known=is_known)
        key = new_key() if body is not None else None
        replies.append(await tenants.house.call(method, path, body, token=token, key=key))
    assert plain(replies[0]) == plain(replies[1]), label
    assert (replies[0].status, replies[0].code) == (404, "not-found"), replies[0].raw


@pytest.mark.parametrize("label", CUSTOMERS)
async def test_a_customers_object_is_nowhere_for_another(tenants: Tenants, label: str) -> None:
    """The same 404 as for what does not exist."""
    await asked(tenants, label, CUSTOMERS[label], tenants.stranger)


@pytest.mark.parametrize("label", MERCHANTS)
async def test_a_merchants_object_is_nowhere_for_another(tenants: Tenants, label: str) -> None:
    """The same 404 as for what does not exist."""
    await asked(tenants, label, MERCHANTS[label], tenants.other_merchant)


@pytest.mark.parametrize("path", LISTS)
async def test_no_list_shows_anothers(tenants: Tenants, path: str) -> None:
    """Nothing that the owner has is in what a stranger sees, on any page."""
    house = tenants.house
    hidden = [*tenants.things.values(), house.user(OWNER)["phone"], house.user(OWNER)["id"]]
    for token in (tenants.stranger, tenants.other_merchant):
        cursor = ""
        for _ in range(10):
            reply = await house.call("GET", f"{path}?limit=100{cursor}", token=token)
            if reply.status == 403:
                break
            assert reply.status == 200, reply.raw
            assert not [one for one in hidden if one.encode() in reply.raw]
            if reply.body["next_cursor"] is None:
                break
            cursor = f"&cursor={reply.body['next_cursor']}"


async def test_anothers_card_pays_for_nobody(tenants: Tenants) -> None:
    """As a source or in a limit's question it is as unknown as one that does not exist."""
    house, card = tenants.house, tenants.things["cards"]
    for mine, path in ((card, "known"), (f"card_{NOBODYS}", "nobody's")):
        for call in ("/v1/payments", "/v1/payments/quote"):
            body = house.purchase(STRANGER, "uzcard", 5_000) | {"source": {"card": mine}}
            reply = await house.call("POST", call, body, token=tenants.stranger, key=new_key())
            assert (reply.status, reply.code) == (404, "not-found"), (path, reply.raw)
        reply = await house.call("GET", f"/v1/limits?card={mine}", token=tenants.stranger)
        assert (reply.status, reply.code) == (404, "not-found"), (path, reply.raw)


async def test_a_stranger_changed_nothing(tenants: Tenants) -> None:
    """After all of it the owner's objects are as they were."""
    house, things = tenants.house, tenants.things
    payment = await house.call("GET", f"/v1/payments/{things['payments']}", token=tenants.owner)
    assert (payment.body["status"], payment.body["amount_refunded"]) == ("succeeded", 0)
    card = await house.call("GET", f"/v1/cards/{things['cards']}", token=tenants.owner)
    assert card.body["status"] == "active"
    endpoint = await house.call(
        "GET", f"/v1/webhook-endpoints/{things['webhook-endpoints']}", token=tenants.merchant
    )
    assert endpoint.status == 200
