"""The document is made of the routes, is valid OpenAPI 3.1, and is what the server answers."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from schemathesis.core.result import Ok

from gateway.kernel.http.advice import ADVICE
from gateway.kernel.http.openapi import document
from gateway.kernel.http.pages import POLICY
from gateway.kernel.http.problems import KINDS
from tests.kernel.front import Front, Handlers, assert_problem, room, running_front


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(room(Handlers()), "1.2.3")


# The document -------------------------------------------------------------------------------


async def test_every_route_is_in_the_document(front: Front) -> None:
    """The served document has each route of the table, the system's own included."""
    paths = (await front.call("GET", "/openapi.json")).body["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(route.method, route.path) for route in front.routes} == described
    assert ("GET", "/livez") in described


async def test_the_document_can_be_read_by_others(front: Front) -> None:
    """Schemathesis resolves every reference and builds every operation."""
    served = (await front.call("GET", "/openapi.json")).body
    schema = schemathesis.openapi.from_dict(served)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(front.routes) == len(operations)
    for operation in operations:
        for answer in operation.definition.raw["responses"].values():
            for content in answer.get("content", {}).values():
                rooted = content["schema"] | {"components": served["components"]}
                jsonschema_rs.Draft202012Validator(rooted)


def _operation(described: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = described["paths"][path][method]
    return found


def test_operations_have_names_of_their_own(described: dict[str, Any]) -> None:
    names = [one["operationId"] for path in described["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))
    assert "get_v1_things_id" in names


def test_what_a_token_must_permit_is_named(described: dict[str, Any]) -> None:
    assert _operation(described, "get", "/v1/echo")["security"] == []
    assert _operation(described, "get", "/v1/any-token")["security"] == [
        {"bearer": []},
        {"oauth": []},
    ]
    assert _operation(described, "get", "/v1/scoped")["security"] == [
        {"bearer": []},
        {"oauth": ["things:read"]},
    ]
    flow = described["components"]["securitySchemes"]["oauth"]["flows"]["clientCredentials"]
    assert list(flow["scopes"]) == ["things:read"]


def test_a_template_has_its_parameters(described: dict[str, Any]) -> None:
    first = _operation(described, "get", "/v1/things/{id}")["parameters"][0]
    assert (first["name"], first["in"], first["required"]) == ("id", "path", True)
    assert first["schema"]["pattern"]


def test_a_query_is_described_without_null(described: dict[str, Any]) -> None:
    """A parameter can be left out; it cannot be null."""
    parameters = _operation(described, "get", "/v1/echo")["parameters"]
    by_name = {one["name"]: one for one in parameters if "name" in one}
    assert by_name["limit"]["schema"] == {
        "type": "integer", "minimum": 1, "maximum": 100, "default": 20,
    }  # fmt: skip
    assert by_name["cursor"]["schema"] == {"type": "string"}
    assert not by_name["limit"]["required"]


def test_what_moves_money_needs_a_key(described: dict[str, Any]) -> None:
    key = {"$ref": "#/components/parameters/IdempotencyKey"}
    assert key in _operation(described, "post", "/v1/echo")["parameters"]
    assert key not in _operation(described, "post", "/v1/form")["parameters"]
    assert described["components"]["parameters"]["IdempotencyKey"]["required"] is True


def test_bodies_are_json_or_forms(described: dict[str, Any]) -> None:
    json_body = _operation(described, "post", "/v1/echo")["requestBody"]
    form = _operation(described, "post", "/v1/form")["requestBody"]
    assert list(json_body["content"]) == ["application/json"]
    assert list(form["content"]) == ["application/x-www-form-urlencoded"]
    assert json_body["required"]
    schema = described["components"]["schemas"]["EchoBody"]
    assert schema["required"] == ["text"]
    assert schema["additionalProperties"] is False


def test_answers_have_no_members_that_are_not_named(described: dict[str, Any]) -> None:
    view = described["components"]["schemas"]["EchoView"]
    assert view["additionalProperties"] is False
    assert view["required"] == ["body", "request_id", "deadline_ms", "params", "sub"]
    assert view["properties"]["params"]["additionalProperties"] == {"type": "string"}


def test_an_answer_without_a_body_has_no_content(described: dict[str, Any]) -> None:
    answer = _operation(described, "delete", "/v1/things/{id}")["responses"]["204"]
    assert "content" not in answer


def _codes(operation: dict[str, Any], status: int) -> set[str]:
    content = operation["responses"].get(str(status), {}).get("content", {})
    return set(content.get("application/problem+json", {}).get("examples", {}))


def test_every_problem_a_route_may_answer_is_named(described: dict[str, Any]) -> None:
    """The frame's by what the route is: a template, a body, a scope, a key."""
    echo = _operation(described, "post", "/v1/echo")
    assert {"malformed-json", "idempotency-key-missing", "malformed-request"} <= _codes(echo, 400)
    assert {"unknown-member", "idempotency-key-reused"} <= _codes(echo, 422)
    assert _codes(echo, 409) == {"idempotency-in-progress"}
    assert _codes(echo, 413) == {"payload-too-large"}
    assert _codes(echo, 401) == set()
    assert _codes(_operation(described, "get", "/v1/scoped"), 401) == {
        "unauthenticated", "invalid-token",
    }  # fmt: skip
    assert _codes(_operation(described, "get", "/v1/scoped"), 403) == {"insufficient-scope"}
    assert _codes(_operation(described, "get", "/v1/any-token"), 403) == set()
    assert _codes(_operation(described, "get", "/v1/things/{id}"), 404) == {"not-found"}
    for path in described["paths"].values():
        for operation in path.values():
            for status in (406, 414, 429, 431, 500, 503, 504):
                assert _codes(operation, status)


def test_headers_are_named_where_they_come(described: dict[str, Any]) -> None:
    echo = _operation(described, "post", "/v1/echo")["responses"]
    assert "Idempotent-Replayed" in echo["200"]["headers"]
    assert "Retry-After" in echo["503"]["headers"]
    assert "Retry-After" in echo["409"]["headers"]
    assert "Retry-After" not in echo["400"]["headers"]
    scoped = _operation(described, "get", "/v1/scoped")["responses"]
    assert "WWW-Authenticate" in scoped["401"]["headers"]
    assert "WWW-Authenticate" in scoped["403"]["headers"]


async def test_problems_are_as_the_document_says(front: Front) -> None:
    """Refusals of every kind of maker (server, reader, core) fit the one schema."""
    served = (await front.call("GET", "/openapi.json")).body
    rooted = {"$ref": "#/components/schemas/Problem", "components": served["components"]}
    validator = jsonschema_rs.Draft202012Validator(rooted)
    answers = [
        await front.send(b"nonsense\r\n\r\n"),
        await front.call("GET", "/v1/nothing"),
        await front.call("GET", "/v1/scoped"),
        await front.post_json("/v1/echo", b"{"),
        await front.post_json("/v1/echo", {"surprise": 1}),
        await front.call("POST", "/v1/crash"),
    ]
    for answer in answers:
        validator.validate(answer.body)
    assert served["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(KINDS)


# The pages ----------------------------------------------------------------------------------


def test_every_problem_has_advice() -> None:
    assert set(KINDS) == set(ADVICE)


async def test_every_problem_has_a_page(front: Front) -> None:
    """Its `type` leads somewhere, for a person and for a program."""
    for slug, kind in KINDS.items():
        page = await front.call("GET", f"/problems/{slug}", [("Accept", "text/html,*/*;q=0.8")])
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert f"<code>{slug}</code>".encode() in page.raw
        told = await front.call("GET", f"/problems/{slug}", [("Accept", "application/json")])
        assert told.headers["content-type"] == "application/json"
        assert (told.body["status"], told.body["retryable"]) == (kind.status, kind.retryable)


async def test_an_unknown_problem_is_not_found(front: Front) -> None:
    answer = await front.call("GET", "/problems/%3Cscript%3E")
    assert_problem(answer, "not-found")
    assert b"script" not in answer.raw


async def test_the_index_names_every_problem(front: Front) -> None:
    page = (await front.call("GET", "/problems")).raw.decode()
    listed = (await front.call("GET", "/problems", [("Accept", "application/json")])).body["data"]
    assert [one["code"] for one in listed] == list(KINDS)
    assert all(f'href="/problems/{slug}"' in page for slug in KINDS)


async def test_the_reference_shows_every_route_and_fetches_nothing(front: Front) -> None:
    """One page, whole: no script, no style, font or picture from elsewhere, and a policy."""
    answer = await front.call("GET", "/docs")
    page = answer.raw.decode()
    for route in front.routes:
        assert route.summary.replace("'", "&#x27;") in page
    assert answer.headers["content-security-policy"] == POLICY
    assert "<script" not in page
    assert "src=" not in page
    assert "http://" not in page
    assert "https://" not in page


# Health -------------------------------------------------------------------------------------


async def test_a_process_that_answers_is_alive(front: Front) -> None:
    answer = await front.call("GET", "/livez")
    assert (answer.status, answer.body) == (200, {"status": "alive"})


async def _usable() -> bool:
    return True


async def _away() -> bool:
    return False


async def _broken() -> bool:
    raise OSError("no route to host")


async def test_ready_says_what_was_looked_at() -> None:
    async with running_front(checks={"database": _usable, "redis": _usable}) as front:
        answer = await front.call("GET", "/readyz")
        assert answer.status == 200
        assert answer.body == {"status": "ready", "checks": {"database": "ok", "redis": "ok"}}


async def test_not_ready_names_what_is_away() -> None:
    """A check that says no and one that raises are the same to a balancer."""
    checks = {"database": _usable, "redis": _away, "revocations": _broken}
    async with running_front(checks=checks) as front:
        answer = await front.call("GET", "/readyz")
        assert_problem(answer, "unavailable")
        assert answer.status == 503
        assert answer.body["detail"] == "Away: redis, revocations."
        assert b"route to host" not in answer.raw


async def test_metrics_are_prometheus_text(front: Front) -> None:
    answer = await front.call("GET", "/metrics", [("Accept", "text/plain;version=0.0.4")])
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE oqim_http_requests_total counter" in answer.raw


def test_the_document_is_made_of_plain_values(described: dict[str, Any]) -> None:
    assert described == msgspec.json.decode(msgspec.json.encode(described))
