"""Requests and responses as handlers see them. They do not know the server that carries them."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from gateway.core import Claims

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

Body = TypeVar("Body")


@dataclass(slots=True)
class Request:
    """One request, read whole.

    Args:
        method: upper case.
        path: without the query, percent-decoded.
        raw_headers: names and values as received.
        query: the raw query string.
        body: at most the server's limit.
        request_id: the client's, or ours.
        received_at_ms: Unix milliseconds.
        params: what the route's template matched.
        claims: who asks; None on public routes, and on hot ones, which authorize by themselves.
        canonical: canonical JSON of the body once it was read.
        deadline_ms: the caller's patience from `received_at_ms`, if it said.
    """

    method: str
    path: str
    raw_headers: Sequence[tuple[bytes, bytes]]
    query: str
    body: bytes
    request_id: str
    received_at_ms: int
    params: dict[str, str] = field(default_factory=dict)
    claims: Claims | None = None
    canonical: bytes = b""
    deadline_ms: int | None = None

    @property
    def who(self) -> Claims:
        """The claims of an authorized route."""
        assert self.claims is not None, "the route has no scope"
        return self.claims

    def header(self, name: str) -> str | None:
        """Return the first header of that name, or None."""
        wanted = name.lower().encode()
        for seen, value in self.raw_headers:
            if seen.lower() == wanted:
                return value.decode("latin-1").strip()
        return None


@dataclass(slots=True)
class Response:
    """One answer. `headers` come beside Content-Type, Content-Length and X-Request-Id."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON


@dataclass(slots=True)
class Stream:
    """An answer without an end of its own: 200, and then each chunk as it comes.

    Args:
        chunks: closed by the server when the client goes away or does not read, or when the
            process stops.
        on_end: called once the stream is over, even if it never began.
    """

    chunks: AsyncGenerator[bytes, None]
    content_type: str
    on_end: Callable[[], None]


def json_response(
    status: int, value: object, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Return `value` as JSON."""
    return Response(status, msgspec.json.encode(value), headers)
