"""What the tests of the public door share: how a refusal must look, and that it did nothing.

Nothing here imports the product.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.house import House, Reply, new_key

SCHEMES = ("uzcard", "humo", "visa")
# No refusal may take longer.
ANSWERED_WITHIN_S = 5.0
UNKNOWN = "01JZ8QK0Y3V5N6W7X8Z9A0B1C2"
NOWHERE = f"pay_{UNKNOWN}"
# Stands in every text that a refusal must not repeat.
MARK = "zq7mark"
# Every route that reads JSON.
JSON_DOORS = {
    "pay": "/v1/payments",
    "quote": "/v1/payments/quote",
    "capture": f"/v1/payments/{NOWHERE}/capture",
    "cancel": f"/v1/payments/{NOWHERE}/cancel",
    "refund": f"/v1/payments/{NOWHERE}/refunds",
    "add card": "/v1/cards",
    "verify card": f"/v1/cards/{NOWHERE.replace('pay_', 'card_')}/verify",
    "challenge": "/v1/auth/challenges",
}
_MEMBERS = {
    "type", "title", "status", "detail", "code", "request_id", "retryable", "errors",
    "decision_id", "error", "error_description",
}  # fmt: skip
_pans = itertools.count(1)


def assert_refused(reply: Reply | None, status: int, slug: str) -> dict[str, Any]:
    """Assert that an answer is this problem, whole and in the form that all have; return it."""
    assert reply is not None, f"closed without an answer instead of {slug}"
    assert reply.headers["content-type"] == "application/problem+json", (slug, reply)
    problem: dict[str, Any] = reply.body
    assert (reply.status, problem["code"]) == (status, slug), problem
    assert problem["status"] == status, problem
    assert problem["type"] == f"/problems/{slug}", problem
    assert problem["title"], problem
    assert problem["detail"], problem
    assert isinstance(problem["retryable"], bool), problem
    assert problem["request_id"] == reply.headers["x-request-id"], problem
    assert set(problem) <= _MEMBERS, problem
    for error in problem.get("errors", []):
        assert set(error) == {"pointer", "detail"}, problem
        assert error["pointer"] == "" or error["pointer"].startswith("/"), problem
    if status == 401:
        # RFC 9110, 15.5.2: a 401 says how to authenticate; a callback has nothing to say.
        assert "www-authenticate" in reply.headers or slug.startswith("callback-"), reply.headers
    if status in (429, 503):
        assert int(reply.headers["retry-after"]) >= 1, reply.headers
    return problem


def good(house: House, door: str) -> dict[str, Any]:
    """Return a body that the route would read."""
    if door in ("pay", "quote"):
        return house.purchase(0, "humo", 10_000, description=MARK)
    bodies: dict[str, dict[str, Any]] = {
        "capture": {"amount": 100},
        "cancel": {},
        "refund": {"amount": 100, "reason": MARK},
        "add card": {"pan": fresh_pan(), "expiry": "40-12"},
        "verify card": {"code": "A7K2Q9"},
        "challenge": {"phone": "+998901239999"},
    }
    return bodies[door]


async def call(house: House, method: str, path: str, body: Any = None, **options: Any) -> Reply:
    """Make one request that must be answered in time."""
    async with asyncio.timeout(ANSWERED_WITHIN_S):
        return await house.call(method, path, body, **options)


async def post_bytes(
    house: House, path: str, body: bytes, *, user: int = 0, headers: Mapping[str, str] | None = None
) -> Reply:
    """POST bytes as JSON as a seeded user, under a key never used."""
    sent = {"Content-Type": "application/json"} | dict(headers or {})
    token = house.user(user)["access_token"]
    return await call(house, "POST", path, token=token, key=new_key(), headers=sent, data=body)


def raw_post(
    house: House, path: str, body: bytes, *lines: bytes, token: str | None = None
) -> bytes:
    """Return the bytes of a POST of JSON as the first user, with further header lines."""
    return b"\r\n".join(
        [
            f"POST {path} HTTP/1.1".encode(),
            b"Host: oqim",
            f"Authorization: Bearer {token or house.user(0)['access_token']}".encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            *lines,
            b"",
            body,
        ]
    )


async def last_answer(house: House, raw: bytes) -> Reply:
    """Send bytes and return the one answer after which the server closed the connection."""
    address = urlsplit(house.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            writer.write(raw)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(":", 1) for line in lines]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    assert len(body) == int(headers["content-length"]), "something came after the answer"
    return Reply(int(first.split(" ")[1]), headers, body)


def fresh_pan(prefix: str = "86000900", length: int = 16) -> str:
    """Return a card's number that no other test adds, with a right check digit."""
    return with_check_digit(f"{prefix}{next(_pans):0{length - 1 - len(prefix)}}")


def with_check_digit(digits: str) -> str:
    """Return the digits and their Luhn check digit."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if position % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return digits + str(-total % 10)


class Books:
    """What would show that something was done: payments, and what processors were told."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._payments = 0
        self._entries: dict[str, int] = {}

    async def open(self) -> None:
        """Remember how things are."""
        self._payments = await self._count()
        for scheme in SCHEMES:
            self._entries[scheme] = len(await self.house.ledger(scheme))

    async def assert_untouched(self) -> None:
        """Assert that there is no payment and no entry that there was not."""
        assert await self._count() == self._payments, "a refusal left a payment"
        for scheme, known in self._entries.items():
            path = f"/_sim/ledger?offset={known}"
            told = await self.house.simulator("GET", scheme, path)
            assert told == [], f"a refusal reached {scheme}"

    async def _count(self) -> int:
        return int((await self.house.rows("SELECT count(*) FROM payments"))[0][0])
