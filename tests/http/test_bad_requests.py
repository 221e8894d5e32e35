"""What surrounds a body: paths, methods, queries, keys, deadlines, and the framing of HTTP itself.

Sent as bytes where a client library would not send it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.house import House, new_key
from tests.http.doors import (
    JSON_DOORS,
    NOWHERE,
    UNKNOWN,
    assert_refused,
    call,
    good,
    last_answer,
    raw_post,
)

pytestmark = pytest.mark.usefixtures("books")

# Names and places ---------------------------------------------------------------------------------

OBJECTS = [
    ("GET", "/v1/payments/{id}"),
    ("GET", "/v1/payments/{id}/refunds"),
    ("POST", "/v1/payments/{id}/capture"),
    ("POST", "/v1/payments/{id}/cancel"),
    ("POST", "/v1/payments/{id}/refunds"),
    ("GET", "/v1/cards/{id}"),
    ("DELETE", "/v1/cards/{id}"),
    ("DELETE", "/v1/sessions/{id}"),
]
NAMES = [
    "pay_" + UNKNOWN,
    "card_" + UNKNOWN,
    "1",
    "null",
    "pay_",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "pay_%F0%9F%92%B3",
    "%27%20OR%201%3D1--",
    "a" * 1_000,
    "%ff",
    "%u0041",
]


@pytest.mark.parametrize(("method", "path"), OBJECTS)
async def test_an_id_that_is_not_one_is_not_found(house: House, method: str, path: str) -> None:
    """Row 55. Whatever its form, it is the same 404 as an id that nobody has."""
    token = house.user(0)["access_token"]
    key = new_key() if method == "POST" else None
    for name in NAMES:
        raw = b"\r\n".join(
            [
                f"{method} {path.format(id=name)} HTTP/1.1".encode(),
                b"Host: oqim",
                f"Authorization: Bearer {token}".encode(),
                *([f"Idempotency-Key: {key}-{len(name)}".encode()] if key else []),
                b"\r\n",
            ]
        )
        reply = await house.send(raw, within_s=5.0)
        try:
            assert_refused(reply, 404, "not-found")
        except AssertionError as wrong:
            raise AssertionError(f"{name[:40]}: {wrong}") from wrong


@pytest.mark.parametrize(("method", "path"), OBJECTS)
async def test_a_nul_in_a_path_is_refused(house: House, method: str, path: str) -> None:
    """Row 55: PostgreSQL knows no NUL, so that none gets so far."""
    token = house.user(0)["access_token"]
    key = new_key() if method == "POST" else None
    reply = await call(house, method, path.format(id="pay_%00"), token=token, key=key)
    assert_refused(reply, 400, "invalid-request")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/payment", "/v1/payments/", "/v2/payments", "/admin", "//v1/payments"]
)
async def test_an_unknown_path_is_not_found(house: House, path: str) -> None:
    """Row 56, with a token and without."""
    raw = f"GET {path} HTTP/1.1\r\nHost: oqim\r\n\r\n".encode()
    assert_refused(await house.send(raw), 404, "not-found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/payments", "GET, POST"),
        ("/v1/payments/quote", "POST"),
        (f"/v1/payments/{NOWHERE}", "GET"),
        ("/v1/limits", "GET"),
        ("/oauth/token", "POST"),
    ],
)
async def test_another_method_is_refused(
    house: House, method: str, path: str, allowed: str
) -> None:
    """Row 57: 405, and what is allowed."""
    reply = await call(house, method, path, token=house.user(0)["access_token"])
    assert_refused(reply, 405, "method-not-allowed")
    assert reply.headers["allow"] == allowed


QUERIES: list[tuple[int, str, int, str]] = [
    (71, "/v1/payments?cursor=abc", 400, "invalid-cursor"),
    (71, "/v1/payments?cursor=", 400, "invalid-cursor"),
    (71, "/v1/payments?cursor=%C3%A9", 400, "invalid-cursor"),
    (71, "/v1/payments?cursor=" + "A" * 4_000, 400, "invalid-cursor"),
    (71, "/v1/payments?limit=0", 400, "invalid-query"),
    (71, "/v1/payments?limit=-1", 400, "invalid-query"),
    (71, "/v1/payments?limit=101", 400, "invalid-query"),
    (71, "/v1/payments?limit=99999999999999999999", 400, "invalid-query"),
    (71, "/v1/payments?limit=1.5", 400, "invalid-query"),
    (71, "/v1/payments?limit=ten", 400, "invalid-query"),
    (71, "/v1/payments?limit=", 400, "invalid-query"),
    (72, "/v1/payments?limit=1&limit=2", 400, "invalid-query"),
    (72, "/v1/payments?limit=1&limit=1", 400, "invalid-query"),
    (72, "/v1/payments?page=1", 400, "invalid-query"),
    (72, "/v1/payments?limit=10&%00=1", 400, "invalid-query"),
    (72, "/v1/payments?status=%00", 400, "invalid-query"),
    (72, "/v1/payments?status=paid", 400, "invalid-query"),
    (72, "/v1/payments?status=null", 400, "invalid-query"),
    (71, "/v1/payments?cursor=null", 400, "invalid-cursor"),
    (71, "/v1/payments?limit=null", 400, "invalid-query"),
    (71, "/v1/payments?limit=true", 400, "invalid-query"),
    (71, "/v1/payments?limit=%2B5", 400, "invalid-query"),
    (71, "/v1/payments?limit=%205", 400, "invalid-query"),
    (71, "/v1/payments?limit=5.0", 400, "invalid-query"),
    (71, "/v1/payments?limit=1e1", 400, "invalid-query"),
    (71, "/v1/payments?limit=%D9%A5", 400, "invalid-query"),
    (72, "/v1/payments?status=%FF", 400, "invalid-query"),
    (72, "/v1/cards?limit=0", 400, "invalid-query"),
    (71, "/v1/cards?cursor=abc", 400, "invalid-cursor"),
    (72, "/v1/cards?status=active", 400, "invalid-query"),
    (72, "/v1/sessions?limit=x", 400, "invalid-query"),
    (71, "/v1/sessions?cursor=abc", 400, "invalid-cursor"),
    (72, "/v1/limits", 400, "invalid-query"),
    (72, "/v1/limits?operation=purchase", 400, "invalid-query"),
    (72, "/v1/limits?card=card_1&operation=gift", 400, "invalid-query"),
    (72, "/v1/limits?card=card_1&card=card_2", 400, "invalid-query"),
    (30, f"/v1/limits?card=card_{UNKNOWN}", 404, "not-found"),
    (55, "/v1/limits?card=card_..%2f", 404, "not-found"),
    (55, "/v1/limits?card=" + "a" * 5_000, 404, "not-found"),
    (55, "/v1/limits?card=%F0%9F%92%B3", 404, "not-found"),
]


@pytest.mark.parametrize(("row", "path", "status", "slug"), QUERIES)
async def test_a_query_is_read_strictly(
    house: House, row: int, path: str, status: int, slug: str
) -> None:
    """Rows 71 and 72."""
    raw = f"GET {path} HTTP/1.1\r\nHost: oqim\r\nAuthorization: Bearer "
    raw += house.user(0)["access_token"] + "\r\n\r\n"
    reply = await house.send(raw.encode())
    assert_refused(reply, status, slug), f"row {row}"


async def test_a_query_is_not_read_where_none_is_known(house: House) -> None:
    """Row 72 at routes that take no query at all."""
    token = house.user(0)["access_token"]
    for method, path in (
        ("POST", "/v1/payments?limit=1"),
        ("POST", "/v1/payments/quote?a=1"),
        ("GET", f"/v1/payments/{NOWHERE}?expand=1"),
        ("POST", "/v1/cards?a=1"),
        ("GET", "/livez?a=1"),
    ):
        body = house.purchase(0, "humo", 10_000) if method == "POST" else None
        key = new_key() if method == "POST" else None
        reply = await call(house, method, path, body, token=token, key=key)
        assert_refused(reply, 400, "invalid-query")


# Keys and deadlines -------------------------------------------------------------------------------

MONEY_DOORS = ["pay", "capture", "cancel", "refund"]
KEYS: list[tuple[int, list[bytes], str]] = [
    (35, [], "idempotency-key-missing"),
    (36, [b""], "idempotency-key-invalid"),
    (36, [b'""'], "idempotency-key-invalid"),
    (36, [b"k" * 256], "idempotency-key-invalid"),
    (36, [b"a\tb"], "idempotency-key-invalid"),
    # A control character is no part of a header at all (RFC 9110, 5.5).
    (36, [b"a\x7fb"], "malformed-request"),
    (36, [b"\xc3\xa9"], "idempotency-key-invalid"),
    (36, [b'"open'], "idempotency-key-invalid"),
    (36, [b'shut"'], "idempotency-key-invalid"),
    (36, [b'"a"b"'], "idempotency-key-invalid"),
    (36, [b'"a\\"'], "idempotency-key-invalid"),
    (37, [b"one", b"two"], "idempotency-key-invalid"),
    (37, [b"one", b"one"], "idempotency-key-invalid"),
]


@pytest.mark.parametrize("door", MONEY_DOORS)
async def test_a_key_is_needed_wherever_money_moves(house: House, door: str) -> None:
    """Rows 35 to 37."""
    body = json.dumps(good(house, door)).encode()
    for row, keys, slug in KEYS:
        lines = [b"Idempotency-Key: " + key for key in keys]
        reply = await house.send(raw_post(house, JSON_DOORS[door], body, *lines))
        try:
            assert_refused(reply, 400, slug)
        except AssertionError as wrong:
            raise AssertionError(f"row {row}, {keys}: {wrong}") from wrong


DEADLINES: list[tuple[bytes, int, str]] = [
    (b"soon", 400, "invalid-deadline"),
    (b"", 400, "invalid-deadline"),
    (b"1.5", 400, "invalid-deadline"),
    (b"1e3", 400, "invalid-deadline"),
    (b"+100", 400, "invalid-deadline"),
    (b"12345678901", 400, "invalid-deadline"),
    (b"0", 504, "deadline-exceeded"),
    (b"-1", 400, "invalid-deadline"),
]


@pytest.mark.parametrize(("text", "status", "slug"), DEADLINES)
@pytest.mark.parametrize("door", MONEY_DOORS)
async def test_a_deadline_is_checked_before_anything_is_done(
    house: House, door: str, text: bytes, status: int, slug: str
) -> None:
    """Row 82."""
    body = json.dumps(good(house, door)).encode()
    lines = (b"Idempotency-Key: " + new_key().encode(), b"Deadline-Ms: " + text)
    reply = await house.send(raw_post(house, JSON_DOORS[door], body, *lines))
    assert_refused(reply, status, slug)


# Framing ------------------------------------------------------------------------------------------


def framed(house: House, *lines: bytes, body: bytes, line_end: bytes = b"\r\n") -> bytes:
    """Return a payment whose framing is said by `lines`."""
    return line_end.join(
        [
            b"POST /v1/payments HTTP/1.1",
            b"Host: oqim",
            f"Authorization: Bearer {house.user(0)['access_token']}".encode(),
            b"Content-Type: application/json",
            b"Idempotency-Key: " + new_key().encode(),
            *lines,
            b"",
            body,
        ]
    )


FRAMES: list[tuple[str, Callable[[bytes], tuple[list[bytes], bytes]]]] = [
    ("a negative length", lambda body: ([b"Content-Length: -1"], body)),
    ("a length with a sign", lambda body: ([b"Content-Length: +%d" % len(body)], body)),
    ("a length that is no number", lambda body: ([b"Content-Length: ten"], body)),
    (
        "two lengths",
        lambda body: ([b"Content-Length: %d" % len(body), b"Content-Length: 0"], body),
    ),
    (
        "a length and chunks",
        lambda body: (
            [b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"],
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ),
    ),
    (
        "an unknown coding",
        lambda body: ([b"Transfer-Encoding: gzip"], body),
    ),
    (
        "chunked twice",
        lambda body: (
            [b"Transfer-Encoding: chunked, chunked"],
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ),
    ),
    (
        "a chunk size that overflows",
        lambda body: ([b"Transfer-Encoding: chunked"], b"f" * 17 + b"\r\n" + body),
    ),
    (
        "a chunk size that is no number",
        lambda body: ([b"Transfer-Encoding: chunked"], b"xyz\r\n" + body),
    ),
    (
        "a chunk size with a sign",
        lambda body: ([b"Transfer-Encoding: chunked"], b"-1\r\n" + body),
    ),
    (
        "a folded header",
        lambda body: ([b"Content-Length: %d" % len(body), b"X-A: a", b" b"], body),
    ),
    (
        "a space before the colon",
        lambda body: ([b"Content-Length : %d" % len(body)], body),
    ),
    ("a NUL in a header", lambda body: ([b"X-A: a\x00b"], body)),
]


@pytest.mark.parametrize("make", [make for _, make in FRAMES], ids=[what for what, _ in FRAMES])
async def test_a_frame_of_two_meanings_is_refused(
    house: House, make: Callable[[bytes], tuple[list[bytes], bytes]]
) -> None:
    """Row 62: where a proxy and we might disagree on where a request ends, there is no request."""
    body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
    lines, content = make(body)
    raw = framed(house, *lines, body=content)
    assert_refused(await last_answer(house, raw), 400, "malformed-request")


async def test_bare_newlines_are_no_lines(house: House) -> None:
    """Row 62."""
    body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
    raw = framed(house, b"Content-Length: %d" % len(body), body=body, line_end=b"\n")
    assert_refused(await house.send(raw), 400, "malformed-request")


async def test_a_long_header_is_refused(house: House) -> None:
    """Row 63."""
    raw = framed(house, b"Content-Length: 0", b"X-A: " + b"a" * 9_000, body=b"")
    assert_refused(await house.send(raw), 431, "header-too-large")


async def test_many_headers_are_refused(house: House) -> None:
    """Row 63: small ones, thousands of them."""
    lines = [b"X-%d: a" % number for number in range(5_000)]
    reply = await house.send(framed(house, b"Content-Length: 0", *lines, body=b""))
    assert reply is not None
    assert reply.status in (400, 431), reply
    assert reply.headers["content-type"] == "application/problem+json"


async def test_a_long_url_is_refused(house: House) -> None:
    """Row 64."""
    raw = b"GET /v1/payments?cursor=" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: oqim\r\n\r\n"
    assert_refused(await house.send(raw), 414, "uri-too-long")
