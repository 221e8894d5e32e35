"""Rows of members: what a payment, an action or a card says, one thing of it wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.house import House, Reply
from tests.http.doors import (
    JSON_DOORS,
    UNKNOWN,
    fresh_pan,
    good,
    post_bytes,
    with_check_digit,
)
from tests.http.rows import Everything, Row, Send

HUGE = int("9" * 400)
ABSENT: Any = object()

PAYMENT_MEMBERS: list[tuple[int, dict[str, Any], int, str]] = [
    (13, {"status": "succeeded"}, 422, "read-only-member"),
    (13, {"commission": 0}, 422, "read-only-member"),
    (13, {"id": "pay_1"}, 422, "read-only-member"),
    (13, {"amount_refunded": 0}, 422, "read-only-member"),
    (14, {"amount": ABSENT}, 422, "schema-violation"),
    (14, {"currency": ABSENT}, 422, "schema-violation"),
    (14, {"operation": ABSENT}, 422, "schema-violation"),
    (14, {"source": ABSENT}, 422, "schema-violation"),
    (14, {"destination": ABSENT}, 422, "schema-violation"),
    (14, {"amount": None}, 422, "schema-violation"),
    (14, {"source": {}}, 422, "schema-violation"),
    (14, {"destination": {}}, 422, "schema-violation"),
    (15, {"amount": "10000"}, 422, "schema-violation"),
    (15, {"amount": True}, 422, "schema-violation"),
    (15, {"amount": [10000]}, 422, "schema-violation"),
    (15, {"currency": 860}, 422, "schema-violation"),
    (15, {"source": "card_1"}, 422, "schema-violation"),
    (15, {"source": {"card": 1}}, 422, "schema-violation"),
    (15, {"destination": []}, 422, "schema-violation"),
    (15, {"destination": {"merchant": None}}, 422, "schema-violation"),
    (15, {"capture": "never"}, 422, "schema-violation"),
    (15, {"capture": True}, 422, "schema-violation"),
    (15, {"operation": "gift"}, 422, "schema-violation"),
    (15, {"operation": "PURCHASE"}, 422, "schema-violation"),
    (15, {"purpose": "7"}, 422, "schema-violation"),
    (15, {"purpose": "\u0660\u0667"}, 422, "schema-violation"),
    (15, {"metadata": []}, 422, "schema-violation"),
    (15, {"metadata": {"a": 1}}, 422, "schema-violation"),
    (15, {"metadata": {"a": {"b": "c"}}}, 422, "schema-violation"),
    (15, {"description": 7}, 422, "schema-violation"),
    (15, {"quote_id": 7}, 422, "schema-violation"),
    (16, {"amount": 0}, 422, "invalid-amount"),
    (17, {"amount": -1}, 422, "invalid-amount"),
    (17, {"amount": -(2**63)}, 422, "invalid-amount"),
    (19, {"amount": 10**15 + 1}, 422, "invalid-amount"),
    (19, {"amount": 2**53}, 422, "invalid-amount"),
    (19, {"amount": 2**63 - 1}, 422, "invalid-amount"),
    (19, {"amount": 2**63}, 422, "invalid-amount"),
    (19, {"amount": 2**64 + 10_000}, 422, "invalid-amount"),
    (19, {"amount": HUGE}, 422, "invalid-amount"),
    (21, {"currency": "uzs"}, 422, "invalid-currency"),
    (21, {"currency": "UZSX"}, 422, "invalid-currency"),
    (21, {"currency": "860"}, 422, "invalid-currency"),
    (21, {"currency": ""}, 422, "invalid-currency"),
    (21, {"currency": "U\u0405S"}, 422, "invalid-currency"),
    (22, {"currency": "USD"}, 422, "currency-not-supported"),
    (30, {"source": {"card": f"card_{UNKNOWN}"}}, 404, "not-found"),
    (30, {"destination": {"merchant": f"mer_{UNKNOWN}"}}, 404, "not-found"),
    (30, {"source": {"card": f"pay_{UNKNOWN}"}}, 404, "not-found"),
    (30, {"source": {"card": ""}}, 404, "not-found"),
    (30, {"source": {"card": "card_" + "a" * 1_000}}, 404, "not-found"),
    (30, {"source": {"card": "card_' OR 1=1 --"}}, 404, "not-found"),
    (55, {"source": {"card": "card_../../etc/passwd"}}, 404, "not-found"),
    (55, {"destination": {"merchant": "mer_%00"}}, 404, "not-found"),
    (69, {"description": "\u045e" * 256}, 422, "too-long"),
    (68, {"description": "e" + "\u0301" * 10_000}, 422, "too-long"),
    (69, {"metadata": {"a" * 41: "b"}}, 422, "too-long"),
    (69, {"metadata": {"a": "b" * 501}}, 422, "too-long"),
    (69, {"metadata": {str(number): "b" for number in range(51)}}, 422, "too-long"),
    (69, {"quote_id": "q" * 4_097}, 422, "too-long"),
    (69, {"purpose": "070"}, 422, "too-long"),
    (38, {"quote_id": "q"}, 422, "quote-invalid"),
]

NUMBERS: list[tuple[int, str]] = [
    (17, "-0"),
    (18, "1.5"),
    (18, "10000.0"),
    (18, "1e4"),
    (18, "1E4"),
    (18, "0.1e5"),
    (18, "1e400"),
    (18, "-1.5"),
]

ACTION_MEMBERS: list[tuple[int, str, dict[str, Any], int, str]] = [
    (15, "amount", {"amount": "100"}, 422, "schema-violation"),
    (15, "amount", {"amount": True}, 422, "schema-violation"),
    (16, "amount", {"amount": 0}, 422, "invalid-amount"),
    (17, "amount", {"amount": -1}, 422, "invalid-amount"),
    (18, "amount", {"amount": 1.5}, 422, "invalid-amount"),
    (19, "amount", {"amount": 10**15 + 1}, 422, "invalid-amount"),
    (19, "amount", {"amount": 2**63}, 422, "invalid-amount"),
    (19, "amount", {"amount": HUGE}, 422, "invalid-amount"),
    (12, "currency", {"amount": 100, "currency": "UZS"}, 422, "unknown-member"),
]

PANS: list[tuple[int, str, int, str]] = [
    (23, "8600090000000011", 422, "invalid-pan"),
    (24, "", 422, "invalid-pan"),
    (24, "8600", 422, "invalid-pan"),
    (24, with_check_digit("8600000000"), 422, "invalid-pan"),
    (24, with_check_digit("8600" + "0" * 15), 422, "invalid-pan"),
    (25, "8600 0900 0000 0010", 422, "invalid-pan"),
    (25, "8600-0900-0000-0010", 422, "invalid-pan"),
    (25, " 8600090000000010", 422, "invalid-pan"),
    (27, with_check_digit("550000000000001"), 422, "unsupported-scheme"),
    (27, with_check_digit("220000000000001"), 422, "unsupported-scheme"),
    (27, "0" * 16, 422, "unsupported-scheme"),
]

CARDS: list[tuple[int, dict[str, Any], int, str]] = [
    (14, {"pan": ABSENT}, 422, "schema-violation"),
    (14, {"expiry": ABSENT}, 422, "schema-violation"),
    (15, {"pan": 8600090000000010}, 422, "schema-violation"),
    (15, {"expiry": 2907}, 422, "schema-violation"),
    (28, {"expiry": "20-01"}, 422, "invalid-expiry"),
    (28, {"expiry": "40-00"}, 422, "invalid-expiry"),
    (28, {"expiry": "40-13"}, 422, "invalid-expiry"),
    (28, {"expiry": "4012"}, 422, "invalid-expiry"),
    (28, {"expiry": "12/40"}, 422, "invalid-expiry"),
    (28, {"expiry": "2040-12"}, 422, "invalid-expiry"),
    (28, {"expiry": "40-1"}, 422, "invalid-expiry"),
    (28, {"expiry": ""}, 422, "invalid-expiry"),
    (28, {"expiry": "\u0664\u0660-12"}, 422, "invalid-expiry"),
    (29, {"cvv": "123"}, 422, "invalid-cvv"),
    (29, {"cvv": None}, 422, "invalid-cvv"),
    (69, {"pan": "8" * 65}, 422, "too-long"),
    (69, {"expiry": "4" * 17}, 422, "too-long"),
]


# What `str.isdigit` believes is not believed here.
SCRIPTS = ["\uff18\uff16\uff10\uff10", "\u0668\u0666\u0660\u0660"]


def changed(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a body with other members; `ABSENT` takes one away."""
    return {name: value for name, value in (body | changes).items() if value is not ABSENT}


def _payment(path: str, changes: dict[str, Any]) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        body = changed(house.purchase(0, "humo", 10_000), changes)
        return await post_bytes(house, path, json.dumps(body).encode())

    return send


def _number(door: str, number: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        body = json.dumps(good(house, door) | {"amount": "AMOUNT"})
        text = body.replace('"AMOUNT"', number).encode()
        return await post_bytes(house, JSON_DOORS[door], text)

    return send


def _body(path: str, body: dict[str, Any]) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        return await post_bytes(house, path, json.dumps(body).encode())

    return send


def _card(changes: dict[str, Any]) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        body = changed({"pan": fresh_pan(), "expiry": "40-12"}, changes)
        reply = await post_bytes(house, "/v1/cards", json.dumps(body).encode())
        pan = str(body.get("pan", ""))
        assert not pan.strip() or pan.encode() not in reply.raw, "the number came back"
        return reply

    return send


def _destination(pan: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        body = house.transfer(0, "humo", 1, "humo", 10_000) | {"destination": {"pan": pan}}
        reply = await post_bytes(house, "/v1/payments", json.dumps(body).encode())
        assert not pan.strip() or pan.encode() not in reply.raw, "the number came back"
        return reply

    return send


def rows() -> Iterator[Row]:
    """Return the rows of members."""
    for path in ("/v1/payments", "/v1/payments/quote"):
        for number, changes, status, slug in PAYMENT_MEMBERS:
            name = next(iter(changes))
            points = slug not in ("currency-not-supported", "quote-invalid")
            yield Row(
                number,
                f"{str(changes)[:60]}, at {path}",
                _payment(path, changes),
                status,
                slug,
                f"/{name}" if points else None,
            )
    for door in ("pay", "quote", "capture", "refund"):
        for number, text in NUMBERS:
            # A number that a reader might round is refused, not rounded.
            send = _number(door, text)
            yield Row(number, f"{text}, at {door}", send, 422, "invalid-amount", "/amount")
    for door in ("capture", "refund"):
        for number, name, body, status, slug in ACTION_MEMBERS:
            send = _body(JSON_DOORS[door], body)
            yield Row(number, f"{str(body)[:60]}, at {door}", send, status, slug, f"/{name}")
    long_reason = _body(JSON_DOORS["refund"], {"reason": "r" * 256})
    yield Row(69, "a reason of 256", long_reason, 422, "too-long", "/reason")
    other_digits = [(26, digits + fresh_pan()[4:], 422, "invalid-pan") for digits in SCRIPTS]
    for number, pan, status, slug in [*PANS, *other_digits]:
        yield Row(number, f"{pan!r} added", _card({"pan": pan}), status, slug, "/pan")
        what, pointer = f"{pan!r} paid to", "/destination/pan"
        yield Row(number, what, _destination(pan), status, slug, pointer)
    for number, changes, status, slug in CARDS:
        yield Row(number, f"a card with {str(changes)[:40]}", _card(changes), status, slug)
