"""Bodies, forms and queries are read strictly, and what is wrong is pointed at and never echoed."""

import json

import pytest

from tests.kernel.front import Front, assert_problem

SECRET = "4111111111111111"


@pytest.mark.parametrize(
    ("body", "slug", "pointer"),
    [
        (b"", "malformed-json", None),
        (b"{", "malformed-json", None),
        (b'{"text":"a"} {}', "malformed-json", None),
        (b'{"text":"a",}', "malformed-json", None),
        (b"{'text':'a'}", "malformed-json", None),
        (b'{"text":"a","amount":NaN}', "malformed-json", None),
        (b'{"text":"a","amount":Infinity}', "malformed-json", None),
        (b'{"text":"a","amount":01}', "malformed-json", None),
        (b'{"text":"a" /* why not */}', "malformed-json", None),
        (b'\xef\xbb\xbf{"text":"a"}', "invalid-encoding", None),
        (b'{"text":"\xff"}', "invalid-encoding", None),
        (b'{"text":"a","text":"b"}', "duplicate-member", "/text"),
        (b'{"text":"a","tags":' + b"[" * 40 + b"]" * 40 + b"}", "too-deep", None),
        (b'{"text":"\\ud800"}', "invalid-encoding", None),
        (b'{"text":"a\\u0000b"}', "invalid-character", "/text"),
        (b'{"text":"a\\u202eb"}', "invalid-character", "/text"),
        (b"[]", "schema-violation", ""),
        (b"null", "schema-violation", ""),
        (b"{}", "schema-violation", ""),
        (b'{"text":1}', "schema-violation", "/text"),
        (b'{"text":null}', "schema-violation", "/text"),
        (b'{"text":"a","amount":"1"}', "schema-violation", "/amount"),
        (b'{"text":"a","amount":true}', "schema-violation", "/amount"),
        (b'{"text":"a","amount":1.5}', "invalid-amount", "/amount"),
        (b'{"text":"a","amount":0}', "schema-violation", "/amount"),
        (b'{"text":"a","amount":1001}', "schema-violation", "/amount"),
        (b'{"text":"a","amount":100000000000000000000}', "schema-violation", "/amount"),
        (b'{"text":"a","tags":["x",2]}', "schema-violation", "/tags/1"),
        (b'{"text":"a","secret":"1"}', "unknown-member", "/secret"),
        (json.dumps({"text": SECRET * 2}).encode(), "too-long", "/text"),
    ],
)
async def test_a_body_is_read_strictly(
    front: Front, body: bytes, slug: str, pointer: str | None
) -> None:
    """Each fault has one slug and points at the member (RFC 6901); the value is not repeated."""
    if body == b"":
        answer = await front.call("POST", "/v1/echo", [("Content-Type", "application/json")])
    else:
        answer = await front.post_json("/v1/echo", body)
    assert_problem(answer, slug)
    if pointer is not None:
        assert pointer == answer.body["errors"][0]["pointer"]
    assert SECRET.encode() not in answer.raw


@pytest.mark.parametrize("target", ["/v1/any-token?a=1", "/livez?a", "/v1/things/1?%00"])
async def test_a_query_is_refused_where_none_is_read(front: Front, target: str) -> None:
    """What would be ignored is refused, so that a misplaced parameter is noticed."""
    assert_problem(await front.call("GET", target), "invalid-query")


async def test_a_good_body_is_read(front: Front) -> None:
    body = {"tags": ["пул", "ёқ 漢"], "text": "so'm", "amount": 1000}
    answer = await front.post_json("/v1/echo", body)
    assert answer.status == 200
    assert body == answer.body["body"]


@pytest.mark.parametrize(
    ("media_type", "is_taken"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json; charset=utf-8", True),
        ('application/json;charset="UTF-8"', True),
        ("application/json; charset=utf-16", False),
        ("application/json-patch+json", False),
        ("text/plain", False),
        ("", False),
        (None, False),
    ],
)
async def test_a_body_says_that_it_is_json(
    front: Front, media_type: str | None, is_taken: bool
) -> None:
    headers = [] if media_type is None else [("Content-Type", media_type)]
    answer = await front.call("POST", "/v1/echo", headers, b'{"text":"a"}')
    if is_taken:
        assert answer.status == 200
    else:
        assert_problem(answer, "unsupported-media-type")


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("media_type", "body", "expected"),
    [
        (FORM, b"grant_type=otp", {"grant_type": "otp", "ttl": 60}),
        (FORM + "; charset=UTF-8", b"grant_type=o%20p&ttl=5", {"grant_type": "o p", "ttl": 5}),
        (FORM, b"grant_type=a+b", {"grant_type": "a b", "ttl": 60}),
        (FORM, b"grant_type=", {"grant_type": "", "ttl": 60}),
        ("application/json", b'{"grant_type":"otp"}', "unsupported-media-type"),
        ("", b"grant_type=otp", "unsupported-media-type"),
        (FORM, b"", "invalid-request"),
        (FORM, b"grant_type", "invalid-request"),
        (FORM, b"grant_type=a&grant_type=b", "invalid-request"),
        (FORM, b"grant_type=a&surprise=b", "invalid-request"),
        (FORM, b"grant_type=a&ttl=0", "invalid-request"),
        (FORM, b"grant_type=a&ttl=soon", "invalid-request"),
        (FORM, b"grant_type=\xff", "invalid-request"),
        (FORM, b"grant_type=%FF", "invalid-request"),
        (FORM, b"grant_type=a%00b", "invalid-request"),
        (FORM, b"grant_type=a%0Ab", "invalid-request"),
    ],
)
async def test_a_form_is_read_strictly(
    front: Front, media_type: str, body: bytes, expected: object
) -> None:
    answer = await front.call("POST", "/v1/form", [("Content-Type", media_type)], body)
    if isinstance(expected, str):
        assert_problem(answer, expected)
    else:
        assert answer.status == 200
        assert expected == answer.body["body"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"limit": 20, "cursor": None}),
        ("limit=1", {"limit": 1, "cursor": None}),
        ("limit=100&cursor=a%2Fb", {"limit": 100, "cursor": "a/b"}),
        ("cursor=", {"limit": 20, "cursor": ""}),
        ("limit=0", None),
        ("limit=101", None),
        ("limit=", None),
        ("limit=1.5", None),
        ("limit=true", None),
        ("limit=1&limit=1", None),
        ("limt=1", None),
        ("cursor=a%00", None),
        ("cursor=a%0d%0ab", None),
        ("cursor=%FF", None),
    ],
)
async def test_a_query_is_read_strictly(
    front: Front, query: str, expected: dict[str, object] | None
) -> None:
    """What is unknown, repeated, out of range or not UTF-8 is refused rather than guessed."""
    answer = await front.call("GET", f"/v1/echo?{query}")
    if expected is None:
        assert_problem(answer, "invalid-query")
    else:
        assert answer.status == 200
        assert expected == answer.body["body"]
