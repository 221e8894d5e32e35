"""Rows of bodies: no JSON, JSON of the wrong form, another media type, another coding.

Each is sent at every route that reads JSON: none has a parser of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tests.house import House, Reply
from tests.http.doors import JSON_DOORS, good, post_bytes
from tests.http.rows import Everything, Row, Send

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


MEDIA_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-7",
    "application/json; charset=utf-16",
    "application/jsonp",
    "application/problem+json",
    "text/json",
    "",
]
CODINGS = ["gzip", "br", "zstd", "deflate", "identity", "gzip, gzip"]
ACCEPTS = ["text/html", "application/xml", "image/*"]


def _spoilt(door: str, spoil: Spoil) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        text = json.dumps(good(house, door)).encode()
        return await post_bytes(house, JSON_DOORS[door], spoil(text))

    return send


def _under(door: str, name: str, value: str) -> Send:
    async def send(house: House, books: Everything) -> Reply:
        text = json.dumps(good(house, door)).encode()
        return await post_bytes(house, JSON_DOORS[door], text, headers={name: value})

    return send


def rows() -> Iterator[Row]:
    """Return the rows of bodies."""
    for door in JSON_DOORS:
        for number, what, spoil, status, slug in SPOILT:
            yield Row(number, f"{what}, at {door}", _spoilt(door, spoil), status, slug)
        if door not in MAY_BE_EMPTY:
            send = _spoilt(door, lambda text: b"")
            yield Row(1, f"nothing, at {door}", send, 400, "malformed-json")
        for media in MEDIA_TYPES:
            send = _under(door, "Content-Type", media)
            yield Row(58, f"{media!r}, at {door}", send, 415, "unsupported-media-type")
        for coding in CODINGS:
            # Nothing is unpacked, so that nothing can unfold.
            send = _under(door, "Content-Encoding", coding)
            yield Row(61, f"{coding}, at {door}", send, 415, "unsupported-content-encoding")
    for door in ("pay", "add card"):
        for accept in ACCEPTS:
            send = _under(door, "Accept", accept)
            yield Row(59, f"{accept}, at {door}", send, 406, "not-acceptable")
