"""What cannot be accepted is refused: by the right problem, at once, and nothing was done.

One table a kind of fault. Every row is sent to a running sandbox over its own socket; after each,
there is no payment and no processor's entry that there was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.house import House
from tests.http.doors import (
    JSON_DOORS,
    MARK,
    UNKNOWN,
    assert_refused,
    fresh_pan,
    good,
    post_bytes,
    with_check_digit,
)

pytestmark = pytest.mark.usefixtures("books")


# Bodies that are no JSON, at every route that reads JSON ------------------------------------------

# They need nothing said, so that they take an empty body.
MAY_BE_EMPTY = {"capture", "cancel", "refund"}


Spoil = Callable[[bytes], bytes]


def with_member(text: bytes, member: bytes) -> bytes:
    """Return an object's text with one more member at its end."""
    comma = b"," if len(text) > 2 else b""
    return text[:-1] + comma + member + b"}"


def member(raw: bytes) -> Spoil:
    return lambda text: with_member(text, raw)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> Spoil:
    return lambda text: with_member(text, b'"a":' + opening * depth + b"1" + closing * depth)


SPOILT: list[tuple[int, str, Spoil, int, str]] = [
    (1, "only space", lambda text: b"  \n", 400, "malformed-json"),
    (2, "truncated by one", lambda text: text[:-1], 400, "malformed-json"),
    (2, "truncated in a text", lambda text: text[:-1] + b',"a":"b', 400, "malformed-json"),
    (3, "two documents", lambda text: text + text, 400, "malformed-json"),
    (3, "trailing garbage", lambda text: text + b" x", 400, "malformed-json"),
    (3, "trailing NUL", lambda text: text + b"\x00", 400, "malformed-json"),
    (4, "single quotes", lambda text: b"{'a':1}", 400, "malformed-json"),
    (4, "a bare name", member(b"a:1"), 400, "malformed-json"),
    (4, "a comment", lambda text: b"/* hello */" + text, 400, "malformed-json"),
    (4, "a comment at the end", lambda text: text + b" // bye", 400, "malformed-json"),
    (4, "a trailing comma", member(b'"a":1,'), 400, "malformed-json"),
    (4, "a leading zero", member(b'"a":01'), 400, "malformed-json"),
    (4, "a plus sign", member(b'"a":+1'), 400, "malformed-json"),
    (4, "hexadecimal", member(b'"a":0x10'), 400, "malformed-json"),
    (4, "a bare newline in a text", member(b'"a":"\n"'), 400, "malformed-json"),
    (5, "NaN", member(b'"a":NaN'), 400, "malformed-json"),
    (5, "Infinity", member(b'"a":Infinity'), 400, "malformed-json"),
    (5, "-Infinity", member(b'"a":-Infinity'), 400, "malformed-json"),
    (6, "a duplicate", member(b'"a":1,"a":1'), 400, "duplicate-member"),
    (6, "an escaped duplicate", member(b'"amount":1,"\\u0061mount":1'), 400, "duplicate-member"),
    (6, "a nested duplicate", member(b'"a":[{"b":{"c":1,"c":2}}]'), 400, "duplicate-member"),
    (7, "a byte that is no UTF-8", member(b'"a":"\xff"'), 400, "invalid-encoding"),
    (7, "an overlong slash", member(b'"a":"\xc0\xaf"'), 400, "invalid-encoding"),
    (7, "a surrogate in UTF-8", member(b'"a":"\xed\xa0\x80"'), 400, "invalid-encoding"),
    (7, "UTF-16", lambda text: text.decode().encode("utf-16"), 400, "invalid-encoding"),
    (7, "a byte order mark", lambda text: b"\xef\xbb\xbf" + text, 400, "invalid-encoding"),
    (8, "a lone surrogate", member(b'"a":"\\ud800"'), 400, "invalid-encoding"),
    (8, "a surrogate pair reversed", member(b'"a":"\\udc00\\ud800"'), 400, "invalid-encoding"),
    (9, "NUL in a text", member(b'"a":"\\u0000"'), 422, "invalid-character"),
    (9, "NUL in a name", member(b'"\\u0000":1'), 422, "invalid-character"),
    (10, "nested 33 deep", nested(33), 400, "too-deep"),
    (10, "nested 500 deep", nested(500, b'{"a":', b"}"), 400, "too-deep"),
    (10, "nested 30,000 deep", nested(30_000), 400, "too-deep"),
    (10, "opened 60,000 times", lambda text: b"[" * 60_000, 400, "too-deep"),
    (11, "an array", lambda text: b"[]", 422, "schema-violation"),
    (11, "a text", lambda text: b'"amount"', 422, "schema-violation"),
    (11, "a number", lambda text: b"1", 422, "schema-violation"),
    (11, "null", lambda text: b"null", 422, "schema-violation"),
    (11, "true", lambda text: b"true", 422, "schema-violation"),
    (12, "an unknown member", member(b'"surprise":1'), 422, "unknown-member"),
    (12, "a name in another case", member(b'"Amount":1'), 422, "unknown-member"),
    (60, "over 64 KiB", member(b'"a":"' + b"a" * 65_536 + b'"'), 413, "payload-too-large"),
    (66, "a carriage return", member(b'"a":"\\r\\nX-Evil: 1"'), 422, "invalid-character"),
    (66, "an ANSI escape", member(b'"a":"\\u001b[31m"'), 422, "invalid-character"),
    (66, "a C1 control", member(b'"a":"\xc2\x85"'), 422, "invalid-character"),
    (68, "a bidi override", member('"a":"\u202e"'.encode()), 422, "invalid-character"),
    (68, "a bidi isolate", member('"a":"\u2066"'.encode()), 422, "invalid-character"),
    (68, "a zero-width space", member('"a":"\u200b"'.encode()), 422, "invalid-character"),
    (68, "a BOM within a text", member('"a":"x\ufeff"'.encode()), 422, "invalid-character"),
]


@pytest.mark.parametrize("door", JSON_DOORS)
async def test_every_route_that_reads_json_reads_it_strictly(house: House, door: str) -> None:
    """The same refusals everywhere: no route has a parser of its own."""
    text = json.dumps(good(house, door)).encode()
    for row, what, spoil, status, slug in SPOILT:
        reply = await post_bytes(house, JSON_DOORS[door], spoil(text))
        try:
            assert_refused(reply, status, slug)
        except AssertionError as wrong:
            raise AssertionError(f"row {row}, {what}: {wrong}") from wrong
        assert MARK.encode() not in reply.raw, f"row {row}, {what}: the input came back"


@pytest.mark.parametrize("door", sorted(set(JSON_DOORS) - MAY_BE_EMPTY))
async def test_an_empty_body_is_no_json(house: House, door: str) -> None:
    """Row 1, where something must be said."""
    assert_refused(await post_bytes(house, JSON_DOORS[door], b""), 400, "malformed-json")


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "application/jsonp",
        "application/problem+json",
        "text/json",
        "",
    ],
)
async def test_another_media_type_is_refused(house: House, door: str, media: str) -> None:
    """Row 58. What is no JSON by its own account is not read as JSON."""
    text = json.dumps(good(house, door)).encode()
    reply = await post_bytes(house, JSON_DOORS[door], text, headers={"Content-Type": media})
    assert_refused(reply, 415, "unsupported-media-type")


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "identity", "gzip, gzip"])
async def test_a_compressed_body_is_refused(house: House, door: str, coding: str) -> None:
    """Row 61. Nothing is unpacked, so that nothing can unfold."""
    text = json.dumps(good(house, door)).encode()
    reply = await post_bytes(house, JSON_DOORS[door], text, headers={"Content-Encoding": coding})
    assert_refused(reply, 415, "unsupported-content-encoding")


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/*"])
@pytest.mark.parametrize("door", ["pay", "add card"])
async def test_an_accept_without_json_is_refused(house: House, door: str, accept: str) -> None:
    """Row 59. Before anything is done, not after."""
    text = json.dumps(good(house, door)).encode()
    reply = await post_bytes(house, JSON_DOORS[door], text, headers={"Accept": accept})
    assert_refused(reply, 406, "not-acceptable")


# A payment's members ------------------------------------------------------------------------------

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


def changed(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a body with other members; `ABSENT` takes one away."""
    return {name: value for name, value in (body | changes).items() if value is not ABSENT}


@pytest.mark.parametrize("path", ["/v1/payments", "/v1/payments/quote"])
async def test_a_payments_members_are_checked(house: House, path: str) -> None:
    """Rows 13 to 22, 30, 55, 69: the same for what is paid and what is only quoted."""
    for row, changes, status, slug in PAYMENT_MEMBERS:
        body = json.dumps(changed(house.purchase(0, "humo", 10_000), changes)).encode()
        reply = await post_bytes(house, path, body)
        try:
            problem = assert_refused(reply, status, slug)
        except AssertionError as wrong:
            raise AssertionError(f"row {row}, {str(changes)[:80]}: {wrong}") from wrong
        if slug not in ("currency-not-supported", "quote-invalid"):
            pointed = problem["errors"][0]["pointer"]
            assert pointed.startswith(f"/{next(iter(changes))}"), f"row {row}: {problem}"


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


@pytest.mark.parametrize(("row", "number"), NUMBERS)
@pytest.mark.parametrize("door", ["pay", "quote", "capture", "refund"])
async def test_an_amount_is_an_integer_and_nothing_else(
    house: House, door: str, row: int, number: str
) -> None:
    """Rows 17 and 18: a number that a reader might round is refused, not rounded."""
    body = json.dumps(good(house, door) | {"amount": "AMOUNT"})
    text = body.replace('"AMOUNT"', number).encode()
    problem = assert_refused(await post_bytes(house, JSON_DOORS[door], text), 422, "invalid-amount")
    assert problem["errors"][0]["pointer"] == "/amount", f"row {row}: {problem}"


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


@pytest.mark.parametrize("door", ["capture", "refund"])
@pytest.mark.parametrize(("row", "name", "body", "status", "slug"), ACTION_MEMBERS)
async def test_an_actions_members_are_checked(
    house: House, door: str, row: int, name: str, body: dict[str, Any], status: int, slug: str
) -> None:
    """An amount is the same thing wherever it is said."""
    reply = await post_bytes(house, JSON_DOORS[door], json.dumps(body).encode())
    problem = assert_refused(reply, status, slug)
    assert problem["errors"][0]["pointer"] == f"/{name}", f"row {row}: {problem}"


async def test_a_refunds_reason_has_a_bound(house: House) -> None:
    """Row 69."""
    body = json.dumps({"reason": "r" * 256}).encode()
    reply = await post_bytes(house, JSON_DOORS["refund"], body)
    assert_refused(reply, 422, "too-long")


@pytest.mark.parametrize("digits", ["\uff18\uff16\uff10\uff10", "\u0668\u0666\u0660\u0660"])
@pytest.mark.parametrize("door", ["transfer", "add card"])
async def test_digits_of_other_scripts_are_no_digits(house: House, door: str, digits: str) -> None:
    """Row 26: what `str.isdigit` believes is not believed here."""
    pan = digits + fresh_pan()[4:]
    assert pan.isdigit(), "it is what deceives"
    assert_refused(await send_pan(house, door, pan), 422, "invalid-pan")


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


async def send_pan(house: House, door: str, pan: str) -> Any:
    """Say a card's number where one may be said: as a transfer's destination, or to add it."""
    if door == "add card":
        body: dict[str, Any] = {"pan": pan, "expiry": "40-12"}
        return await post_bytes(house, "/v1/cards", json.dumps(body).encode())
    body = house.transfer(0, "humo", 1, "humo", 10_000) | {"destination": {"pan": pan}}
    return await post_bytes(house, "/v1/payments", json.dumps(body).encode())


@pytest.mark.parametrize(("row", "pan", "status", "slug"), PANS)
@pytest.mark.parametrize("door", ["transfer", "add card"])
async def test_a_card_number_is_checked(
    house: House, door: str, row: int, pan: str, status: int, slug: str
) -> None:
    """Rows 23 to 27; the number is not in the answer."""
    reply = await send_pan(house, door, pan)
    problem = assert_refused(reply, status, slug)
    pointer = "/pan" if door == "add card" else "/destination/pan"
    assert problem["errors"][0]["pointer"] == pointer, f"row {row}: {problem}"
    assert not pan.strip() or pan.encode() not in reply.raw, f"row {row}: the number came back"


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


@pytest.mark.parametrize(("row", "changes", "status", "slug"), CARDS)
async def test_a_card_is_checked_before_its_issuer_is_asked(
    house: House, row: int, changes: dict[str, Any], status: int, slug: str
) -> None:
    """Rows 14, 15, 28, 29 and 69."""
    body = changed({"pan": fresh_pan(), "expiry": "40-12"}, changes)
    reply = await post_bytes(house, "/v1/cards", json.dumps(body).encode())
    problem = assert_refused(reply, status, slug)
    assert body.get("pan") is None or str(body["pan"]).encode() not in reply.raw, f"row {row}"
    assert problem["errors"], f"row {row}"
