"""Rows of what surrounds a body: paths, methods, queries, keys, deadlines, and HTTP's own framing.

Sent as bytes where a client library would not send it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tests.house import House, Reply, new_key
from tests.http.doors import (
    JSON_DOORS,
    NOWHERE,
    UNKNOWN,
    call,
    good,
    last_answer,
    raw_post,
)
from tests.http.rows import Everything, Row, Send

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


PATHS = ["/", "/v1", "/v1/payment", "/v1/payments/", "/v2/payments", "/admin", "//v1/payments"]
METHODS = ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND"]
ALLOWED = {
    "/v1/payments": "GET, POST",
    "/v1/payments/quote": "POST",
    f"/v1/payments/{NOWHERE}": "GET",
    "/v1/limits": "GET",
    "/oauth/token": "POST",
}
# Routes that take no query at all.
NO_QUERIES = [
    ("POST", "/v1/payments?limit=1"),
    ("POST", "/v1/payments/quote?a=1"),
    ("GET", f"/v1/payments/{NOWHERE}?expand=1"),
    ("POST", "/v1/cards?a=1"),
    ("GET", "/livez?a=1"),
]


def _named(method: str, path: str) -> Send:
    """Return a request about an object, as bytes: a library would write its name anew."""

    async def send(house: House, books: Everything) -> Reply | None:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: oqim",
            f"Authorization: Bearer {house.user(0)['access_token']}",
            *([f"Idempotency-Key: {new_key()}"] if method == "POST" else []),
            "",
            "",
        ]
        return await house.send("\r\n".join(lines).encode(), within_s=5.0)

    return send


def _method(method: str, path: str, allowed: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        reply = await call(house, method, path, token=house.user(0)["access_token"])
        assert reply.headers["allow"] == allowed
        return reply

    return send


def _queried(method: str, path: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        body = house.purchase(0, "humo", 10_000) if method == "POST" else None
        key = new_key() if method == "POST" else None
        return await call(house, method, path, body, token=house.user(0)["access_token"], key=key)

    return send


def _headed(door: str, *lines: bytes) -> Send:
    async def send(house: House, books: Everything) -> Reply | None:
        body = json.dumps(good(house, door)).encode()
        return await house.send(raw_post(house, JSON_DOORS[door], body, *lines))

    return send


def _framed(make: Callable[[bytes], tuple[list[bytes], bytes]]) -> Send:
    """Return a payment of a doubtful frame; nothing comes after the answer."""

    async def send(house: House, books: Everything) -> Reply:
        body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
        lines, content = make(body)
        return await last_answer(house, framed(house, *lines, body=content))

    return send


async def _bare_newlines(house: House, books: Everything) -> Reply | None:
    body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
    length = b"Content-Length: %d" % len(body)
    return await house.send(framed(house, length, body=body, line_end=b"\n"))


async def _long_header(house: House, books: Everything) -> Reply | None:
    lines = (b"Content-Length: 0", b"X-A: " + b"a" * 9_000)
    return await house.send(framed(house, *lines, body=b""))


async def _many_headers(house: House, books: Everything) -> Reply | None:
    lines = [b"X-%d: a" % number for number in range(5_000)]
    return await house.send(framed(house, b"Content-Length: 0", *lines, body=b""))


async def _long_url(house: House, books: Everything) -> Reply | None:
    raw = b"GET /v1/payments?cursor=" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: oqim\r\n\r\n"
    return await house.send(raw)


async def _slow_head(house: House, books: Everything) -> Reply:
    """Never ends; the house of the catalogue waits a second."""
    return await last_answer(house, b"GET /v1/payments HTTP/1.1\r\nHost: oq")


async def _slow_body(house: House, books: Everything) -> Reply:
    raw = framed(house, b"Content-Length: 1000", body=b'{"amount":')
    return await last_answer(house, raw)


def rows() -> Iterator[Row]:
    """Return the rows of what surrounds a body."""
    for method, path in OBJECTS:
        for name in NAMES:
            # Whatever its form, it is the same 404 as an id that nobody has.
            send = _named(method, path.format(id=name))
            yield Row(55, f"{method} {path} {name[:40]}", send, 404, "not-found")
        send = _named(method, path.format(id="pay_%00"))
        yield Row(55, f"{method} {path} NUL", send, 400, "invalid-request")
    for path in PATHS:
        yield Row(56, path, _named("GET", path), 404, "not-found")
    for method in METHODS:
        for path, allowed in ALLOWED.items():
            send = _method(method, path, allowed)
            yield Row(57, f"{method} {path}", send, 405, "method-not-allowed")
    for number, path, status, slug in QUERIES:
        yield Row(number, path[:60], _named("GET", path), status, slug)
    for method, path in NO_QUERIES:
        yield Row(72, f"{method} {path}", _queried(method, path), 400, "invalid-query")
    for door in MONEY_DOORS:
        for number, keys, slug in KEYS:
            lines = [b"Idempotency-Key: " + key for key in keys]
            yield Row(number, f"{str(keys)[:40]}, at {door}", _headed(door, *lines), 400, slug)
        for text, status, slug in DEADLINES:
            headers = (b"Idempotency-Key: " + new_key().encode(), b"Deadline-Ms: " + text)
            yield Row(82, f"{text!r}, at {door}", _headed(door, *headers), status, slug)
    yield from _frame_rows()


def _frame_rows() -> Iterator[Row]:
    for what, make in FRAMES:
        yield Row(62, what, _framed(make), 400, "malformed-request")
    yield Row(62, "bare newlines", _bare_newlines, 400, "malformed-request")
    yield Row(63, "a long header", _long_header, 431, "header-too-large")
    yield Row(63, "5,000 headers", _many_headers, 431, "header-too-large")
    yield Row(64, "a long URL", _long_url, 414, "uri-too-long")
    yield Row(65, "a head that does not end", _slow_head, 408, "request-timeout")
    yield Row(65, "a body that does not end", _slow_body, 408, "request-timeout")
