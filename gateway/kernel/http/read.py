"""Reading what a request carries: bodies, forms and queries, each strictly and by type."""

import re
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
import msgspec.inspect

from gateway.core import Refusal, read_body
from gateway.kernel.http.messages import Request
from gateway.kernel.http.problems import Problem, RefusedByCore

Typed = TypeVar("Typed", bound=msgspec.Struct)

_AT = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_TOO_LONG = "Expected `str` of length <="
_FORM = "application/x-www-form-urlencoded"


def body_as(request: Request, type_: type[Typed]) -> Typed:
    """Return the JSON body as `type_`; its canonical bytes stay on the request.

    Raises:
        Problem: `schema-violation`, `too-long` or `unknown-member`, with a pointer.
        RefusedByCore: what the strict parser refuses.
    """
    canonical = read_body(request.raw_headers, request.body)
    if isinstance(canonical, Refusal):
        raise RefusedByCore(canonical)
    request.canonical = canonical
    try:
        return msgspec.json.decode(canonical, type=type_)
    except msgspec.ValidationError as error:
        raise _violation(str(error)) from None


def optional_body_as(request: Request, type_: type[Typed]) -> Typed:
    """Return the JSON body as `type_`; an absent one is an empty object, and the same request."""
    if request.body:
        return body_as(request, type_)
    request.canonical = b"{}"
    return msgspec.json.decode(b"{}", type=type_)


def no_body(request: Request) -> None:
    """Accept an absent body or an empty object, where a route needs nothing said."""
    optional_body_as(request, Nothing)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object."""


def _violation(message: str) -> Problem:
    found = _AT.search(message)
    pointer = ""
    if found:
        steps = _STEP.findall(found.group(1))
        pointer = "".join(f"/{name or index}" for name, index in steps)
        message = message[: found.start()]
    if message.startswith("Object contains unknown field"):
        name = message.split("`")[1]
        detail = "This member is not known."
        return Problem("unknown-member", detail, errors=((f"{pointer}/{name}", detail),))
    # The validator's words name expected types and bounds, never the value given.
    slug = "too-long" if message.startswith(_TOO_LONG) else "schema-violation"
    return Problem(slug, f"{message}.", errors=((pointer, f"{message}."),))


def form_as(request: Request, type_: type[Typed], *, blanks_count: bool = True) -> Typed:
    """Return an `application/x-www-form-urlencoded` body as `type_` (RFC 6749 appendix B).

    Args:
        blanks_count: False where a parameter without a value is as good as none (3.2).
    """
    media = (request.header("content-type") or "").split(";")[0].strip().lower()
    if media != _FORM:
        raise Problem("unsupported-media-type", f"Send Content-Type: {_FORM}.")
    try:
        text = request.body.decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise Problem("invalid-request", "The form cannot be read.") from None
    return _pairs_as(pairs, type_, "invalid-request", blanks_count=blanks_count)


def query_as(request: Request, type_: type[Typed]) -> Typed:
    """Return the query parameters as `type_`; unknown and repeated ones are refused."""
    try:
        pairs = parse_qsl(request.query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise Problem("invalid-query", "The query is not UTF-8.") from None
    return _pairs_as(pairs, type_, "invalid-query")


def _pairs_as(
    pairs: list[tuple[str, str]], type_: type[Typed], slug: str, *, blanks_count: bool = True
) -> Typed:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise Problem(slug, "A parameter may be given once.")
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise Problem(slug, "A parameter holds a control character.")
        values[name] = value
    if not blanks_count:
        values = {name: value for name, value in values.items() if value}
    for name in _integers(type_):
        text = values.get(name)
        if text is not None and _INTEGER.match(text):
            values[name] = int(text)
    try:
        # Strictly: a text that says null or true is that text.
        return msgspec.convert(values, type_)
    except msgspec.ValidationError as error:
        raise Problem(slug, f"{error}.") from None


@cache
def _integers(type_: type[msgspec.Struct]) -> frozenset[str]:
    """Return the parameters that are integers, where all others are texts."""
    info = msgspec.inspect.type_info(type_)
    assert isinstance(info, msgspec.inspect.StructType), "parameters are read as a struct"
    found = set()
    for field in info.fields:
        of = field.type
        choices = of.types if isinstance(of, msgspec.inspect.UnionType) else (of,)
        if any(isinstance(one, msgspec.inspect.IntType) for one in choices):
            found.add(field.encode_name)
    return frozenset(found)
