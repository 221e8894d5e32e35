"""Pages for people: the API's reference and one page a problem, rendered here and self-contained.

Nothing is fetched from elsewhere and nothing is scripted; the policy that goes with every page
holds browsers to it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from gateway.kernel.http.advice import ADVICE
from gateway.kernel.http.messages import JSON, PROBLEM_JSON
from gateway.kernel.http.openapi import EVERYWHERE, FORM, problem_example
from gateway.kernel.http.problems import KINDS, Kind
from gateway.kernel.http.samples import id_of, sample

__all__ = ["ADVICE", "POLICY", "docs", "problem", "problems"]

_STYLE = files("gateway.kernel.http").joinpath("pages.css").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_AGAIN = ' <em class="again">again</em>'
_METHODS = ("get", "post", "put", "patch", "delete")
_BODY_TITLES = {JSON: "Body", FORM: "Form"}


def _shell(title: str, nav: str, main: str, kind: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{_STYLE}</style></head><body class="{kind}">{nav}<main>{main}</main></body></html>'
    )


def _prose(text: str) -> str:
    """Return paragraphs and lists; `code` between backticks."""
    blocks = []
    for block in text.split("\n\n"):
        lines = [_inline(line) for line in block.splitlines() if line.strip()]
        if lines and all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{line[2:]}</li>" for line in lines) + "</ul>")
        elif lines:
            blocks.append(f"<p>{' '.join(lines)}</p>")
    return "".join(blocks)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False), quote=False)}</pre>"


# The reference ------------------------------------------------------------------------------


def docs(document: Mapping[str, Any]) -> str:
    """Return the reference as one HTML page, made from the OpenAPI document alone."""
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
        tag["name"]: [] for tag in document["tags"]
    }
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                by_tag[operation["tags"][0]].append((method, path, operation))
    schemas = document["components"]["schemas"]
    sections = "".join(
        f'<section id="tag-{escape(tag)}"><h2>{escape(_title(tag))}</h2>'
        + "".join(_operation(*one, document) for one in operations)
        + "</section>"
        for tag, operations in by_tag.items()
    )
    shown = "".join(_schema(name, schemas[name]) for name in sorted(schemas))
    info = document["info"]
    main = (
        f"<header><h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
        f"{_prose(info['description'])}"
        '<p><a href="/openapi.json">OpenAPI 3.1 document</a> · <a href="/problems">Problems</a></p>'
        f'</header>{sections}<section id="schemas"><h2>Schemas</h2>{shown}</section>'
    )
    return _shell(f"{info['title']} API", _navigation(info, by_tag), main, "reference")


def _title(tag: str) -> str:
    return tag[:1].upper() + tag[1:].replace("-", " ")


def _navigation(
    info: Mapping[str, Any], by_tag: Mapping[str, list[tuple[str, str, dict[str, Any]]]]
) -> str:
    groups = []
    for tag, operations in by_tag.items():
        links = "".join(
            f'<li><a href="#{operation["operationId"]}" title="{escape(operation["summary"])}">'
            f"{_badge(method)}<span>{_breakable(path)}</span></a></li>"
            for method, path, operation in operations
        )
        groups.append(
            f'<h3><a href="#tag-{escape(tag)}">{escape(_title(tag))}</a></h3><ul>{links}</ul>'
        )
    return (
        f'<nav aria-label="Contents"><a class="brand" href="#">{escape(info["title"])}</a>'
        + "".join(groups)
        + '<h3><a href="#schemas">Schemas</a></h3><h3><a href="/problems">Problems</a></h3></nav>'
    )


def _badge(method: str) -> str:
    return f'<b class="method {method}">{method.upper()}</b>'


def _breakable(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")


def _operation(
    method: str, path: str, operation: dict[str, Any], document: Mapping[str, Any]
) -> str:
    anchor = operation["operationId"]
    parts = [
        f'<article id="{anchor}"><h3>{escape(operation["summary"])}</h3>'
        f'<p class="line">{_badge(method)} <code class="path">{_breakable(path)}</code> '
        f"{_scope(operation['security'])}</p><div class='columns'><div>",
        _parameters(operation["parameters"], document),
        _request_body(operation, document),
        _responses(operation["responses"]),
        "</div><div class='example'>",
        f"<h4>Request</h4><pre>{escape(_curl(method, path, operation, document))}</pre>",
        _example_answer(operation["responses"], document),
        "</div></div></article>",
    ]
    return "".join(parts)


def _scope(security: list[dict[str, list[str]]]) -> str:
    if not security:
        return '<span class="chip open">public</span>'
    scopes = [scope for one in security for scope in one.get("oauth", ())]
    text = " ".join(scopes) if scopes else "any token"
    return f'<span class="chip">{escape(text)}</span>'


def _parameters(parameters: list[dict[str, Any]], document: Mapping[str, Any]) -> str:
    rows = []
    for one in parameters:
        if "$ref" in one:
            one = document["components"]["parameters"][one["$ref"].rpartition("/")[2]]
        rows.append(
            f"<tr><th><code>{escape(one['name'])}</code>{_required(one['required'])}</th>"
            f"<td><span class='place'>{one['in']}</span> {_type(one['schema'])}"
            f"{_prose(one.get('description', ''))}</td></tr>"
        )
    return f"<h4>Parameters</h4><table>{''.join(rows)}</table>" if rows else ""


def _required(is_required: bool) -> str:
    return '<em class="required">required</em>' if is_required else ""


def _request_body(operation: dict[str, Any], document: Mapping[str, Any]) -> str:
    body = operation.get("requestBody")
    if body is None:
        return ""
    shown = []
    for media_type, content in body["content"].items():
        schema = _resolved(content["schema"], document)
        title = _BODY_TITLES.get(media_type, "Body")
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        link = f'<a class="name" href="#schema-{name}">{escape(name)}</a>' if name else ""
        optional = "" if body["required"] else " <small>optional</small>"
        shown.append(f"<h4>{title} {link}{optional}</h4>{_members(schema)}")
    return "".join(shown)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _members(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><th><code>{escape(name)}</code>{_required(name in required)}</th>"
        f"<td>{_type(one)}{_prose(one.get('description', ''))}</td></tr>"
        for name, one in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"


def _type(schema: Mapping[str, Any]) -> str:
    """Return the schema in one line: its type, its bounds, its default."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a class="name" href="#schema-{name}">{escape(name)}</a>'
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(_type(one) for one in choices) + _bounds(schema)
    if "enum" in schema:
        shown = [f"<code>{escape(str(one))}</code>" for one in schema["enum"]]
        is_long = len(shown) > 12
        if is_long:
            return f"<details><summary>one of {len(shown)}</summary>{' '.join(shown)}</details>"
        return "one of " + " ".join(shown) + _bounds(schema)
    type_ = schema.get("type", "any value")
    if type_ == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if type_ == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return f'<span class="type">{escape(str(type_))}</span>{_bounds(schema)}'


def _bounds(schema: Mapping[str, Any]) -> str:
    parts = []
    if "minimum" in schema or "maximum" in schema:
        parts.append(f"{schema.get('minimum', '…')} to {schema.get('maximum', '…')}")
    if "minLength" in schema or "maxLength" in schema:
        parts.append(f"{schema.get('minLength', 0)} to {schema.get('maxLength', '…')} characters")
    if "pattern" in schema:
        parts.append(f"<code>{escape(schema['pattern'])}</code>")
    if schema.get("default") is not None:
        parts.append(f"default <code>{escape(str(schema['default']))}</code>")
    return f' <span class="bounds">{", ".join(parts)}</span>' if parts else ""


def _responses(responses: Mapping[str, Any]) -> str:
    own: list[str] = []
    shared: list[str] = []
    for status, answer in responses.items():
        content = answer.get("content", {})
        codes = content.get(PROBLEM_JSON, {}).get("examples", {})
        shown = _answer_types(content)
        if codes:
            links = " ".join(_problem_link(slug) for slug in codes)
            shown.append(f'<div class="codes">{links}</div>')
        row = (
            f'<tr><th><b class="status s{status[0]}">{status}</b></th>'
            f"<td>{'<br>'.join(shown) or 'no body'}</td></tr>"
        )
        is_shared = bool(codes) and set(codes) <= set(EVERYWHERE) and len(shown) == 1
        (shared if is_shared else own).append(row)
    return (
        f"<h4>Answers</h4><table>{''.join(own)}</table><details><summary>and what every route may "
        f"answer</summary><table>{''.join(shared)}</table></details>"
    )


def _answer_types(content: Mapping[str, Any]) -> list[str]:
    return [
        _type(one["schema"]) if media_type == JSON else escape(media_type)
        for media_type, one in content.items()
        if media_type != PROBLEM_JSON
    ]


def _problem_link(slug: str) -> str:
    return f'<a href="/problems/{slug}" title="{escape(KINDS[slug].title)}">{slug}</a>'


def _curl(method: str, path: str, operation: dict[str, Any], document: Mapping[str, Any]) -> str:
    schemas = document["components"]["schemas"]
    shown_path = _filled(path)
    query = "&".join(
        f"{one['name']}={sample(one['schema'], schemas, one['name'])}"
        for one in operation["parameters"]
        if one.get("in") == "query" and one["required"]
    )
    content = operation.get("requestBody", {}).get("content", {})
    # curl makes a POST of whatever has a body, and a GET of the rest.
    verb = "" if method == ("post" if content else "get") else f" -X {method.upper()}"
    lines = [f'curl{verb} "$OQIM{shown_path}{"?" + query if query else ""}"']
    if operation["security"]:
        lines.append('-H "Authorization: Bearer $TOKEN"')
    if any(one.get("$ref", "").endswith("/IdempotencyKey") for one in operation["parameters"]):
        lines.append('-H "Idempotency-Key: $(uuidgen)"')
    for media_type, one in content.items():
        value = sample(one["schema"], schemas)
        if media_type == JSON:
            lines.append("-H 'Content-Type: application/json'")
            lines.append("-d '" + json.dumps(_without_nulls(value), indent=2) + "'")
        else:
            lines.extend(f"-d {name}={text}" for name, text in _without_nulls(value).items())
    return " \\\n  ".join(lines)


def _filled(path: str) -> str:
    segments = path.split("/")
    for place, segment in enumerate(segments):
        if segment == "{id}":
            segments[place] = id_of(segments[place - 1])
        elif segment.startswith("{"):
            segments[place] = sample({"type": "string"}, {}, segment[1:-1])
    return "/".join(segments)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: one for name, one in value.items() if one is not None}
    return value


def _example_answer(responses: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    for status, answer in responses.items():
        content = answer.get("content", {}).get(JSON)
        if content and status.startswith("2"):
            schema = content["schema"]
            if _resolved(schema, document).get("properties"):
                value = sample(schema, document["components"]["schemas"])
                return f"<h4>Answer {status}</h4>{_json(value)}"
    return ""


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    return (
        f'<article class="schema" id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
        f"{_prose(schema.get('description', ''))}{_members(schema)}</article>"
    )


# Problems -----------------------------------------------------------------------------------


def problem(kind: Kind) -> str:
    """Return the page that a problem's `type` leads to."""
    retry = (
        "<b>Yes.</b> The same request may succeed later, unchanged."
        if kind.retryable
        else "<b>No.</b> The same request will be refused again."
    )
    main = (
        f'<p class="crumbs"><a href="/docs">API</a> / <a href="/problems">Problems</a></p>'
        f"<h1>{escape(kind.title)}</h1>"
        f'<p class="line"><b class="status s{str(kind.status)[0]}">{kind.status}</b> '
        f"<code>{kind.slug}</code></p>"
        f"<h2>What to do</h2><p>{_inline(ADVICE[kind.slug])}</p>"
        f"<h2>Is it worth repeating?</h2><p>{retry}</p>"
        f"<h2>How it looks</h2>{_json(problem_example(kind))}"
    )
    return _shell(f"{kind.slug} · Oqim problems", "", main, "leaf")


def problems() -> str:
    """Return the index of problems, by status."""
    by_status: dict[int, list[Kind]] = {}
    for kind in KINDS.values():
        by_status.setdefault(kind.status, []).append(kind)
    sections = "".join(
        f'<h2><b class="status s{str(status)[0]}">{status}</b></h2><table>{_rows(kinds)}</table>'
        for status, kinds in sorted(by_status.items())
    )
    main = (
        '<p class="crumbs"><a href="/docs">API</a></p><h1>Problems</h1>'
        "<p>Every error is one of these (RFC 9457). Decide by the code; it never changes its "
        f"meaning. <em>Again</em> marks what may succeed later, unchanged.</p>{sections}"
    )
    return _shell("Oqim problems", "", main, "leaf")


def _rows(kinds: Iterable[Kind]) -> str:
    return "".join(
        f'<tr><th><a href="/problems/{kind.slug}"><code>{kind.slug}</code></a></th>'
        f"<td>{escape(kind.title)}{_AGAIN if kind.retryable else ''}</td></tr>"
        for kind in kinds
    )
