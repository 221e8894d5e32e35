"""The OpenAPI 3.1 document, generated from the routes and from msgspec's JSON Schemas.

It owns what the document says and nothing of what is served: a route that is not in the table
cannot be in the document, and a type that a handler reads or answers is described as it is
written. Problems come from the core's table, so that the document names every slug there is.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from gateway.kernel.http.messages import JSON, PROBLEM_JSON
from gateway.kernel.http.problems import KINDS, Kind, headers_of
from gateway.kernel.http.routes import Route

Schema = dict[str, Any]

FORM = "application/x-www-form-urlencoded"
_REF = "#/components/schemas/{name}"
_DESCRIPTION = """\
JSON in UTF-8. Amounts are integers of minor units beside a `currency`; times are RFC 3339.

Every error is `application/problem+json` (RFC 9457). Decide by `code`, never by the texts, and
send the same request again only when `retryable` is true. Repeat a POST that moves money with
the same `Idempotency-Key`: it is answered, never done twice. 202 means that the outcome is not
known yet: read the payment again later; it is never a failure."""

# What every route may answer, in the order in which a request meets it.
EVERYWHERE = (
    "malformed-request",
    "invalid-request",
    "not-acceptable",
    "request-timeout",
    "uri-too-long",
    "header-too-large",
    "rate-limited",
    "invalid-deadline",
    "deadline-exceeded",
    "invalid-query",
    "overloaded",
    "unavailable",
    "internal-error",
)
_WITH_BODY = ("payload-too-large", "unsupported-media-type", "unsupported-content-encoding")
_WITH_JSON = (
    "malformed-json",
    "invalid-encoding",
    "duplicate-member",
    "too-deep",
    "schema-violation",
    "unknown-member",
    "invalid-character",
    "too-long",
)
_WITH_TOKEN = ("unauthenticated", "invalid-token")
_WITH_KEY = (
    "idempotency-key-missing",
    "idempotency-key-invalid",
    "idempotency-key-reused",
    "idempotency-in-progress",
)
# A segment is matched whole and looked up: whatever has another form is the same 404.
_PATTERNS = {"slug": "^[a-z]+(-[a-z]+)*$", "connector": "^[a-z][a-z0-9_]{0,31}$"}
_PATTERN = "^[A-Za-z0-9_-]{1,64}$"


class FieldError(msgspec.Struct, forbid_unknown_fields=True):
    """What is wrong with one member of the request."""

    pointer: str
    detail: str


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes, in their order.

    Args:
        version: of the product, for `info.version`.
    """
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, None] = {}
    for route in routes:
        tags[route.tag] = None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Oqim", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components | {"Problem": _problem_schema()},
            "parameters": _shared_parameters(),
            "headers": _shared_headers(),
            "securitySchemes": _security_schemes(routes),
        },
    }


class _Schemas:
    """Every type of the routes as a JSON Schema, named once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        asked = [
            type_
            for route in routes
            for type_ in (route.body, route.form, route.query, *route.answers.values())
            if type_ is not None
        ]
        schemas, self.components = msgspec.json.schema_components(
            [*asked, FieldError], ref_template=_REF
        )
        # Types need not be hashable; their identity is enough while `routes` holds them.
        self._by_type = {id(type_): one for type_, one in zip(asked, schemas[:-1], strict=True)}
        for route in routes:
            if route.form is not None:
                members = self.resolved(route.form)["properties"]
                members.update({name: _without_null(one) for name, one in members.items()})
            for type_ in route.answers.values():
                if type_ is not None:
                    self._close(self.of(type_))

    def of(self, type_: object) -> Schema:
        """Return the schema of one of the routes' types."""
        return self._by_type[id(type_)]

    def resolved(self, type_: object) -> Schema:
        """Return the schema itself where `of` may give a reference."""
        schema = self.of(type_)
        while "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        return schema

    def _close(self, schema: Schema) -> None:
        """Say of every object reachable from an answer that it has no further members."""
        waiting: list[Any] = [schema]
        seen: set[str] = set()
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                waiting.extend(one)
            elif isinstance(one, dict):
                if isinstance(one.get("$ref"), str):
                    name = one["$ref"].rpartition("/")[2]
                    if name not in seen:
                        seen.add(name)
                        waiting.append(self.components[name])
                if one.get("type") == "object" and "properties" in one:
                    one.setdefault("additionalProperties", False)
                waiting.extend(one.values())


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    parameters = [*_path_parameters(route.path), *_query_parameters(route, schemas)]
    if route.is_idempotent:
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if route.is_conditional:
        parameters.append({"$ref": "#/components/parameters/IfMatch"})
    parameters.append({"$ref": "#/components/parameters/DeadlineMs"})
    parameters.append({"$ref": "#/components/parameters/XRequestId"})
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "security": _security(route.scope),
        "parameters": parameters,
    }
    for media_type, type_ in ((JSON, route.body), (FORM, route.form)):
        if type_ is not None:
            operation["requestBody"] = {
                # A body whose members may all be absent may be absent as well.
                "required": bool(schemas.resolved(type_).get("required")),
                "content": {media_type: {"schema": schemas.of(type_)}},
            }
    answers = {
        str(status): _answer(route, status, type_, schemas)
        for status, type_ in sorted(route.answers.items())
    }
    for status, kinds in _problems(route).items():
        if str(status) in answers:
            answers[str(status)]["content"] |= _problem_content(kinds)
        else:
            answers[str(status)] = _problem_answer(status, kinds)
    operation["responses"] = answers
    return operation


def _operation_id(route: Route) -> str:
    words = [word.strip("{}").replace("-", "_").replace(".", "_") for word in route.path.split("/")]
    return "_".join([route.method.lower(), *filter(None, words)])


def _path_parameters(path: str) -> Iterable[Schema]:
    for segment in path.split("/"):
        if segment.startswith("{"):
            name = segment[1:-1]
            pattern = _PATTERNS.get(name, _PATTERN)
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": pattern},
            }


def _query_parameters(route: Route, schemas: _Schemas) -> Iterable[Schema]:
    if route.query is None:
        return
    type_schema = schemas.resolved(route.query)
    required = type_schema.get("required", [])
    for name, schema in type_schema["properties"].items():
        yield {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": _without_null(schema),
        }


def _without_null(schema: Schema) -> Schema:
    """Return the schema of a parameter or of a form's member: null is not sent, but left out."""
    choices = schema.get("anyOf")
    if choices is None:
        return schema
    kept = [one for one in choices if one != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    return rest | (kept[0] if len(kept) == 1 else {"anyOf": kept})


def _answer(route: Route, status: int, type_: Any, schemas: _Schemas) -> dict[str, Any]:
    headers = {"X-Request-Id": _header("XRequestId")}
    if status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
        headers["Location"] = _header("Location")
    if route.scope is not None:
        headers["RateLimit-Policy"] = _header("RateLimitPolicy")
        headers["RateLimit"] = _header("RateLimit")
    if route.is_idempotent:
        headers["Idempotent-Replayed"] = _header("IdempotentReplayed")
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
    content: dict[str, Any] = {}
    if type_ is not None:
        content[JSON] = {"schema": schemas.of(type_)}
    if route.media_type != JSON and status < HTTPStatus.BAD_REQUEST:
        content[route.media_type] = {"schema": {"type": "string"}}
    return answer | {"content": content} if content else answer


def _problems(route: Route) -> dict[int, list[Kind]]:
    """Return every problem the route can answer by status, statuses in order."""
    slugs = [*EVERYWHERE, *route.problems]
    if "{" in route.path:
        slugs.append("not-found")
    # A POST may carry bytes that its handler reads raw, so it meets what bodies meet.
    if route.body or route.form or route.method in ("POST", "PUT", "PATCH"):
        slugs.extend(_WITH_BODY)
    if route.body:
        slugs.extend(_WITH_JSON)
    if route.scope is not None:
        slugs.extend(_WITH_TOKEN)
    if route.scope:
        slugs.append("insufficient-scope")
    if route.is_idempotent:
        slugs.extend(_WITH_KEY)
    by_status: dict[int, list[Kind]] = {}
    # In the core's order, which is the order of precedence, each once.
    for slug in sorted(set(slugs), key=list(KINDS).index):
        by_status.setdefault(KINDS[slug].status, []).append(KINDS[slug])
    return dict(sorted(by_status.items()))


def _problem_answer(status: int, kinds: list[Kind]) -> dict[str, Any]:
    headers = {"X-Request-Id": _header("XRequestId")}
    for name in ("Retry-After", "WWW-Authenticate"):
        having = [any(header == name for header, _ in headers_of(kind)) for kind in kinds]
        if any(having):
            headers[name] = _header(name.replace("-", ""))
    lines = "\n".join(f"- `{kind.slug}`: {kind.title}" for kind in kinds)
    return {
        "description": f"{HTTPStatus(status).phrase}.\n\n{lines}",
        "headers": headers,
        "content": _problem_content(kinds),
    }


def _problem_content(kinds: list[Kind]) -> dict[str, Any]:
    examples = {kind.slug: {"value": problem_example(kind)} for kind in kinds}
    schema = {"$ref": _REF.format(name="Problem")}
    return {PROBLEM_JSON: {"schema": schema, "examples": examples}}


def problem_example(kind: Kind) -> dict[str, Any]:
    """Return a problem of this kind as it is answered."""
    return {
        "type": f"/problems/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": f"{kind.title}.",
        "code": kind.slug,
        "request_id": "req_01JZ8QK0Y3V5N6W7X8Z9A0B1C2",
        "retryable": kind.retryable,
    }


def _problem_schema() -> Schema:
    types: dict[str, Schema] = {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What to do; its words may change."},
        "code": {"type": "string", "enum": list(KINDS), "description": "Decide by this."},
        "request_id": {"type": "string", "description": "Name it when you ask us."},
        "retryable": {
            "type": "boolean",
            "description": "Whether the same request may succeed later, unchanged.",
        },
    }
    errors = {"type": "array", "items": {"$ref": _REF.format(name="FieldError")}}
    oauth: dict[str, Schema] = {
        "error": {"type": "string", "description": "At the OAuth endpoints: RFC 6749's name."},
        "error_description": {"type": "string", "description": "There too: the detail again."},
    }
    return {
        "title": "Problem",
        "description": "An error (RFC 9457). Nothing of the input is echoed in it.",
        "type": "object",
        "properties": {**types, "errors": errors, **oauth},
        "required": list(types),
        "additionalProperties": False,
    }


def _shared_parameters() -> dict[str, Schema]:
    return {
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "description": "Of your own making, one a payment or action; the same when you retry. "
            "Quoted (RFC 8941) or bare.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,255}$"},
        },
        "IfMatch": {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "description": "The `ETag` of what you have read and are changing (RFC 9110, 13.1.1).",
            "schema": {"type": "string", "pattern": '^"[0-9]{1,18}"$'},
        },
        "DeadlineMs": {
            "name": "Deadline-Ms",
            "in": "header",
            "required": False,
            "description": "Your patience in milliseconds: past it, nothing new is begun.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        },
        "XRequestId": {
            "name": "X-Request-Id",
            "in": "header",
            "required": False,
            "description": "Comes back in the answer and stands in our records; "
            "one that is not 1 to 64 of `A-Za-z0-9_.-` is replaced by ours.",
            "schema": {"type": "string"},
        },
    }


def _header(name: str) -> Mapping[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _shared_headers() -> dict[str, Schema]:
    texts = {
        "XRequestId": "The request's id.",
        "Location": "Where the object is.",
        "IdempotentReplayed": "`true` when this is the stored answer of an earlier request.",
        "RateLimitPolicy": "Of a limited client: requests at once (`q`), all back in `w` seconds.",
        "RateLimit": "Of a limited client: requests left now (`r`), all back in `t` seconds.",
        "RetryAfter": "Seconds to wait before the same request is sent again.",
        "WWWAuthenticate": "What would authenticate the caller (RFC 9110, 11.6.1).",
    }
    return {
        name: {"description": text, "required": name == "XRequestId", "schema": {"type": "string"}}
        for name, text in texts.items()
    }


def _security(scope: str | None) -> list[dict[str, list[str]]]:
    if scope is None:
        return []
    scopes = [scope] if scope else []
    return [{"bearer": []}, {"oauth": scopes}]


def _security_schemes(routes: Sequence[Route]) -> dict[str, Schema]:
    scopes = sorted({route.scope for route in routes if route.scope})
    summaries = {
        scope: "; ".join(route.summary for route in routes if route.scope == scope)
        for scope in scopes
    }
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token of `POST /oauth/token`. One that is bound to a key "
            "(`token_type` DPoP) is sent as `Authorization: DPoP`, with a `DPoP` header that "
            "proves the key (RFC 9449).",
        },
        "oauth": {
            "type": "oauth2",
            "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": summaries}},
        },
    }
