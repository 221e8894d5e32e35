"""The front answers every request, and every refusal as a problem, over a real socket."""

import asyncio

import pytest

from tests.kernel.front import (
    BODY_BYTES_MAX,
    LEAK,
    Front,
    assert_problem,
    read_answer,
    running_front,
)

JSON = ("Content-Type", "application/json")
OK = b'{"text":"a"}'


def post(*headers: bytes, body: bytes = OK, target: bytes = b"/v1/echo") -> bytes:
    """Return a POST of which every header but Host is given."""
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: oqim", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# Reading HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "slug"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed-request"),
        (b"what is this\r\n\r\n", "malformed-request"),
        (b"BREW /livez HTTP/1.1\r\nHost: oqim\r\n\r\n", "malformed-request"),
        (b"get /livez HTTP/1.1\r\nHost: oqim\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/9.9\r\nHost: oqim\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/1.1\r\nHost: oqim\r\nBroken\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/1.1\r\nHost: oqim\r\nX-A : spaced\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/1.1\r\nHost: oqim\r\nX-A: n\x00ul\r\n\r\n", "malformed-request"),
        (
            post(JSON[0].encode() + b": application/json", b"Content-Length: 12, 12"),
            "malformed-request",
        ),
        (post(b"Content-Length: 12", b"Content-Length: 11"), "malformed-request"),
        (post(b"Content-Length: 12", b"Content-Length: 12"), "malformed-request"),
        (post(b"Content-Length: -1"), "malformed-request"),
        (post(b"Content-Length: 12", b"Transfer-Encoding: chunked"), "malformed-request"),
        (post(b"Transfer-Encoding: gzip"), "malformed-request"),
        (post(b"Transfer-Encoding: chunked", body=b"zz\r\nab\r\n0\r\n\r\n"), "malformed-request"),
        (b"GET /livez?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: oqim\r\n\r\n", "uri-too-long"),
        (
            b"GET /livez HTTP/1.1\r\nHost: oqim\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n",
            "header-too-large",
        ),
        (
            b"GET /livez HTTP/1.1\r\nHost: oqim\r\n" + b"a" * 9000 + b": 1\r\n\r\n",
            "header-too-large",
        ),
    ],
)
async def test_what_is_not_http_is_a_problem(front: Front, raw: bytes, slug: str) -> None:
    """A request that cannot be read is refused as a problem, and the connection is closed."""
    assert_problem(await front.send(raw, until_closed=True), slug)


async def test_too_many_headers_are_refused(front: Front) -> None:
    """Thousands of small headers do not get by the bound on one."""
    lines = b"".join(b"X-%d: a\r\n" % number for number in range(5000))
    answer = await front.send(b"GET /livez HTTP/1.1\r\nHost: oqim\r\n" + lines + b"\r\n")
    assert answer.status in (400, 431)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_next_request_of_a_connection_is_answered(front: Front) -> None:
    """Requests that come together are answered one after another."""
    one = b"GET /v1/things/%d HTTP/1.1\r\nHost: oqim\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(one % 1 + one % 2)
    first, second = await read_answer(reader), await read_answer(reader)
    writer.close()
    await writer.wait_closed()
    assert [first.body["params"], second.body["params"]] == [{"id": "1"}, {"id": "2"}]


# Finding a route ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1/echo/"),
        ("GET", "//v1/echo"),
        ("GET", "/v1/things/"),
        ("GET", "/v1/things/1/2"),
        ("GET", "/v1/things/a%2Fb"),
        ("OPTIONS", "*"),
    ],
)
async def test_an_unknown_path_is_not_found(front: Front, method: str, target: str) -> None:
    assert_problem(await front.call(method, target), "not-found")


@pytest.mark.parametrize("method", ["PUT", "TRACE", "HEAD", "OPTIONS", "PROPFIND"])
async def test_a_wrong_method_names_those_allowed(front: Front, method: str) -> None:
    """405 with Allow, for every method that is one."""
    answer = await front.call(method, "/v1/echo")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"
    if method != "HEAD":
        assert_problem(answer, "method-not-allowed")


@pytest.mark.parametrize("target", ["/v1/things/a%00b", "/v1/things/%00"])
async def test_a_nul_in_the_path_is_refused(front: Front, target: str) -> None:
    assert_problem(await front.call("GET", target), "invalid-request")


# What a body may be -------------------------------------------------------------------------


async def test_a_body_at_the_bound_is_read(front: Front) -> None:
    """The bound is the last size that is taken: the handler's own refusal answers."""
    body = b'{"text":"' + b"a" * (BODY_BYTES_MAX - 11) + b'"}'
    assert len(body) == BODY_BYTES_MAX
    assert_problem(await front.post_json("/v1/echo", body), "too-long")


async def test_a_larger_body_is_refused_before_it_is_sent(front: Front) -> None:
    """Content-Length alone is enough: the answer comes while nothing of the body was sent."""
    head = post(b"Content-Type: application/json", b"Content-Length: 1000000", body=b"")
    assert_problem(await front.send(head), "payload-too-large")


async def test_a_chunked_body_is_counted_as_it_comes(front: Front) -> None:
    chunk = b"400\r\n" + b"a" * 0x400 + b"\r\n"
    raw = post(
        b"Content-Type: application/json",
        b"Transfer-Encoding: chunked",
        body=chunk * 3 + b"0\r\n\r\n",
    )
    assert_problem(await front.send(raw), "payload-too-large")


async def test_a_chunked_body_within_the_bound_is_read(front: Front) -> None:
    raw = post(
        b"Content-Type: application/json",
        b"Transfer-Encoding: chunked",
        body=b"6\r\n" + OK[:6] + b"\r\n6\r\n" + OK[6:] + b"\r\n0\r\n\r\n",
    )
    answer = await front.send(raw)
    assert answer.status == 200
    assert answer.body["body"] == {"text": "a", "amount": 1, "tags": []}


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """A slow peer loses its place in flight: 408, and its connection ends."""
    async with running_front(in_flight_max=1, body_timeout_s=0.2) as front:
        head = post(b"Content-Type: application/json", b"Content-Length: 30", body=b'{"text":')
        answer = await front.send(head)
        assert_problem(answer, "request-timeout")
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert (await front.call("GET", "/v1/echo")).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity", "made-up"])
async def test_a_content_encoding_is_refused(front: Front, coding: str) -> None:
    """No body is decompressed, so none can unfold into a larger one."""
    answer = await front.call("POST", "/v1/echo", [JSON, ("Content-Encoding", coding)], OK)
    assert_problem(answer, "unsupported-content-encoding")


# What the caller accepts --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("application/problem+json", 200),
        ("application/*;q=0.5", 200),
        ("*/*", 200),
        ("text/html, application/json;q=0.9", 200),
        ("Application/JSON", 200),
        ("text/html", 406),
        ("application/xml", 406),
        ("image/*", 406),
    ],
)
async def test_accept_is_honoured(front: Front, accept: str, status: int) -> None:
    answer = await front.call("GET", "/v1/echo", [("Accept", accept)])
    assert status == answer.status
    if status == 406:
        assert_problem(answer, "not-acceptable")


# Deadlines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "soon", "1.5", "1e3", "0x10", "+5", "-1", "\u0665", "12345678901"]
)
async def test_a_deadline_that_is_no_number_is_refused(front: Front, text: str) -> None:
    raw = b"GET /v1/echo HTTP/1.1\r\nHost: oqim\r\nDeadline-Ms: " + text.encode() + b"\r\n\r\n"
    assert_problem(await front.send(raw), "invalid-deadline")


async def test_a_deadline_past_is_not_begun(front: Front) -> None:
    answer = await front.call("GET", "/v1/echo", [("Deadline-Ms", "0")])
    assert_problem(answer, "deadline-exceeded")


async def test_a_deadline_reaches_the_handler(front: Front) -> None:
    answer = await front.call("GET", "/v1/echo", [("Deadline-Ms", "1500")])
    assert answer.body["deadline_ms"] == 1500


# Request ids --------------------------------------------------------------------------------


async def test_a_request_id_comes_back(front: Front) -> None:
    answer = await front.call("GET", "/v1/echo", [("X-Request-Id", "order-1001.a_B")])
    assert answer.headers["x-request-id"] == "order-1001.a_B"
    assert answer.body["request_id"] == "order-1001.a_B"


@pytest.mark.parametrize("sent", [None, "", "a b", "<script>", "a" * 65, "a\xff"])
async def test_another_request_id_is_replaced_by_ours(front: Front, sent: str | None) -> None:
    """What could be mistaken for markup or another log line never comes back."""
    headers = [] if sent is None else [("X-Request-Id", sent)]
    answer = await front.call("GET", "/v1/nothing", headers)
    assert_problem(answer, "not-found")
    assert answer.headers["x-request-id"].startswith("req_")
    assert len(answer.headers["x-request-id"]) == 30


# Who asks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "authorization", "slug", "challenge"),
    [
        ("/v1/scoped", None, "unauthenticated", "Bearer"),
        ("/v1/scoped", "Basic YTpi", "invalid-token", 'Bearer error="invalid_token"'),
        ("/v1/scoped", "Bearer a.b.c", "invalid-token", 'Bearer error="invalid_token"'),
        ("/v1/any-token", None, "unauthenticated", "Bearer"),
    ],
)
async def test_who_does_not_say_who_it_is_is_challenged(
    front: Front, path: str, authorization: str | None, slug: str, challenge: str
) -> None:
    headers = [("Authorization", authorization)] if authorization else []
    answer = await front.call("GET", path, headers)
    assert_problem(answer, slug)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == challenge


async def test_a_token_opens_what_its_scope_permits(front: Front) -> None:
    permitted = [("Authorization", f"Bearer {front.issuer.token('things:read other')}")]
    other = [("Authorization", f"Bearer {front.issuer.token('other')}")]
    assert (await front.call("GET", "/v1/scoped", permitted)).body["sub"] == "usr_1"
    assert (await front.call("GET", "/v1/any-token", other)).body["sub"] == "usr_1"
    refused = await front.call("GET", "/v1/scoped", other)
    assert_problem(refused, "insufficient-scope")
    assert refused.status == 403


async def test_an_expired_token_is_refused(front: Front) -> None:
    headers = [("Authorization", f"Bearer {front.issuer.token('things:read', ttl_s=-1)}")]
    assert_problem(await front.call("GET", "/v1/scoped", headers), "invalid-token")


# Faults -------------------------------------------------------------------------------------


async def test_a_fault_of_ours_tells_nothing(
    front: Front, capfd: pytest.CaptureFixture[str]
) -> None:
    """The answer has the request's id and nothing of the exception; the log has the cause."""
    answer = await front.call("POST", "/v1/crash", [("X-Request-Id", "crash-1")])
    assert_problem(answer, "internal-error")
    assert answer.body["request_id"] == "crash-1"
    assert LEAK.encode() not in answer.raw
    assert b"ValueError" not in answer.raw
    logged = "".join(capfd.readouterr())
    assert "crash-1" in logged


async def test_what_is_away_is_retryable(front: Front) -> None:
    answer = await front.call("POST", "/v1/away")
    assert_problem(answer, "unavailable")
    assert answer.body["retryable"] is True
    assert answer.headers["retry-after"] == "1"
    assert LEAK.encode() not in answer.raw


async def test_load_over_the_bound_is_shed_and_then_taken_again() -> None:
    """One request fills the front: the next is refused at once, and the first is still answered."""
    async with running_front(in_flight_max=1) as front:
        first = asyncio.create_task(front.call("GET", "/v1/wait"))
        await front.handlers.entered.wait()
        shed = await front.call("GET", "/v1/echo")
        assert_problem(shed, "overloaded")
        assert shed.headers["retry-after"] == "1"
        front.handlers.release.set()
        assert (await first).status == 200
        assert (await front.call("GET", "/v1/echo")).status == 200


# Every answer -------------------------------------------------------------------------------


async def test_every_answer_is_kept_out_of_caches_and_sniffers(front: Front) -> None:
    for target in ("/v1/echo", "/v1/nothing", "/docs"):
        headers = (await front.call("GET", target)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["server"] == "oqim"


async def test_metrics_count_templates_and_not_paths() -> None:
    """A caller cannot make the metrics grow by asking for paths of its own invention."""
    async with running_front() as front:
        for number in range(3):
            await front.call("GET", f"/v1/things/{number}")
            await front.call("GET", f"/made/up/{number}")
            await front.call("BREW", f"/made/up/{number}")
        text = (await front.call("GET", "/metrics")).raw.decode()
        assert (
            'oqim_http_requests_total{method="GET",route="/v1/things/{id}",status="200"} 3.0'
            in text
        )
        assert 'oqim_http_requests_total{method="GET",route="none",status="404"} 3.0' in text
        assert "made" not in text
        assert "BREW" not in text
