"""What browsers are told, and which pages may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.kernel.http.edge import Edge
from gateway.kernel.http.shed import ShedAnswer
from tests.kernel.front import Front, assert_problem, running_front

OURS = "https://app.bank.example"
FOREIGN = "https://evil.example"
JSON = ("Content-Type", "application/json")
OK = b'{"text":"a"}'


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    """A front that pages of one origin may ask."""
    async with running_front(edge=Edge(origins=[OURS])) as front:
        yield front


# Headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v1/echo", "/v1/nothing", "/docs", "/problems", "/metrics"])
async def test_every_answer_is_framed_by_nobody_and_tells_no_referrer(
    front: Front, target: str
) -> None:
    headers = (await front.call("GET", target)).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "oqim"
    assert "strict-transport-security" not in headers, "without TLS it means nothing"


@pytest.mark.parametrize("target", ["/docs", "/problems", "/problems/not-found"])
async def test_a_page_may_use_nothing_and_runs_no_script(front: Front, target: str) -> None:
    headers = (await front.call("GET", target)).headers
    assert headers["content-type"].startswith("text/html")
    assert headers["x-frame-options"] == "DENY"
    assert "script-src" not in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cross-origin-opener-policy"] == "same-origin"
    for feature in ("camera", "geolocation", "microphone", "payment"):
        assert f"{feature}=()" in headers["permissions-policy"]


async def test_under_tls_browsers_are_told_to_come_by_tls_alone() -> None:
    """RFC 6797, 6.1: for a year, on every answer, also on the one that is made ahead."""
    edge = Edge(is_tls=True)
    async with running_front(edge=edge) as front:
        for target in ("/v1/echo", "/v1/nothing", "/docs"):
            headers = (await front.call("GET", target)).headers
            assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert b"Strict-Transport-Security: max-age=31536000" in ShedAnswer(edge.headers).raw(b"a")


# Which pages may ask -----------------------------------------------------------------------------


async def test_a_page_that_may_ask_may_read_the_answer(front: Front) -> None:
    for method, body in (("GET", b""), ("POST", OK)):
        answer = await front.call(method, "/v1/echo", [JSON, ("Origin", OURS)], body)
        assert answer.status == 200, answer
        assert answer.headers["access-control-allow-origin"] == OURS
        assert answer.headers["vary"] == "Origin"
        assert "Idempotent-Replayed" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers, "no cookies are used"


async def test_a_page_that_may_ask_may_read_why_it_was_refused(front: Front) -> None:
    answer = await front.call("POST", "/v1/echo", [JSON, ("Origin", OURS)], b"{")
    assert_problem(answer, "malformed-json")
    assert answer.headers["access-control-allow-origin"] == OURS


@pytest.mark.parametrize(
    "origin",
    [
        FOREIGN,
        "null",
        "",
        "https://app.bank.example.evil.example",
        "https://evil.example/https://app.bank.example",
        "http://app.bank.example",
        "https://app.bank.example:444",
        "https://APP.bank.example",
        "https://app.bank.example, https://evil.example",
        "file://",
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_foreign_page_changes_nothing(front: Front, method: str, origin: str) -> None:
    """Refused before the token, the body or the route is looked at."""
    target = "/v1/echo" if method == "POST" else "/v1/things/1"
    answer = await front.call(method, target, [JSON, ("Origin", origin)], OK)
    assert_problem(answer, "origin-not-allowed")
    assert answer.status == 403
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in answer.headers


async def test_a_foreign_page_may_not_read(front: Front) -> None:
    """It is answered as anybody is, and its browser keeps the answer from it."""
    answer = await front.call("GET", "/v1/echo", [("Origin", FOREIGN)])
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


async def test_a_page_of_the_gateways_own_may_ask(front: Front) -> None:
    """Browsers send Origin with every POST, also to where the page came from."""
    answer = await front.call("POST", "/v1/echo", [JSON, ("Origin", "http://oqim")], OK)
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_a_server_that_sends_no_origin_is_asked_nothing(front: Front) -> None:
    answer = await front.call("POST", "/v1/echo", [JSON], OK)
    assert answer.status == 200


async def test_a_browser_is_told_what_its_page_may_send(front: Front) -> None:
    """The CORS protocol's preflight (Fetch Standard, 3.2.2); no token is needed for it."""
    asked = [
        ("Origin", OURS),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,idempotency-key"),
    ]
    answer = await front.call("OPTIONS", "/v1/echo", asked)
    assert (answer.status, answer.raw) == (204, b"")
    headers = answer.headers
    assert headers["access-control-allow-origin"] == OURS
    assert headers["access-control-allow-methods"] == "GET, POST"
    sendable = headers["access-control-allow-headers"].lower()
    for name in ("authorization", "content-type", "idempotency-key", "deadline-ms", "if-match"):
        assert name in sendable
    assert int(headers["access-control-max-age"]) <= 7200


@pytest.mark.parametrize("origin", [FOREIGN, "null"])
async def test_a_foreign_page_is_told_no(front: Front, origin: str) -> None:
    asked = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
    answer = await front.call("OPTIONS", "/v1/echo", asked)
    assert_problem(answer, "origin-not-allowed")


async def test_options_without_a_question_is_a_method_like_others(front: Front) -> None:
    answer = await front.call("OPTIONS", "/v1/echo")
    assert_problem(answer, "method-not-allowed")


async def test_a_question_about_no_path_is_not_found(front: Front) -> None:
    asked = [("Origin", OURS), ("Access-Control-Request-Method", "POST")]
    assert_problem(await front.call("OPTIONS", "/v1/nothing", asked), "not-found")


async def test_by_default_no_page_may_ask() -> None:
    async with running_front() as front:
        answer = await front.call("POST", "/v1/echo", [JSON, ("Origin", OURS)], OK)
        assert_problem(answer, "origin-not-allowed")
        answer = await front.call("GET", "/v1/echo")
        assert "vary" not in answer.headers
