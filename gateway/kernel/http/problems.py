"""Problems (RFC 9457): the one place where a fault or a refusal becomes an HTTP answer.

The table of slugs, statuses and titles is the core's (`gateway.core.problem_kinds`), so that an
answer made in Rust and one made here cannot differ. Nothing of the input is echoed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gateway.core import Refusal, problem_kinds
from gateway.kernel.http.messages import PROBLEM_JSON, Response


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. `retryable`: the same request may succeed later, unchanged."""

    slug: str
    status: int
    retryable: bool
    title: str


KINDS: dict[str, Kind] = {row[0]: Kind(*row) for row in problem_kinds()}

RETRY_AFTER_S = "1"
# What a proof of a key may be signed by.
_ALGS = 'algs="EdDSA ES256"'
_CHALLENGES = {
    "unauthenticated": "Bearer",
    "invalid-token": 'Bearer error="invalid_token"',
    "invalid-client": 'Basic realm="oqim"',
    "insufficient-scope": 'Bearer error="insufficient_scope"',
    "invalid-dpop-proof": f'DPoP error="invalid_dpop_proof", {_ALGS}',
    "use-dpop-nonce": f'DPoP error="use_dpop_nonce", {_ALGS}',
}
# Instead, for who came with a token of that scheme (RFC 9449, 7.1).
_DPOP_CHALLENGES = {
    "invalid-token": f'DPoP error="invalid_token", {_ALGS}',
    "insufficient-scope": f'DPoP error="insufficient_scope", {_ALGS}',
}


class Problem(Exception):
    """A refusal on its way out. Safe to log: it holds no input.

    Args:
        slug: one of `KINDS`.
        detail: a sentence that says what to do.
        errors: `(pointer, detail)` pairs for bad input.
        headers: further response headers.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        errors: tuple[tuple[str, str], ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{slug}: {detail}")
        self.kind = KINDS[slug]
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self, request_id: str) -> Response:
        """Return the `application/problem+json` answer."""
        kind = self.kind
        body: dict[str, object] = {
            "type": f"/problems/{kind.slug}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "code": kind.slug,
            "request_id": request_id,
            "retryable": kind.retryable,
        }
        if self.errors:
            body["errors"] = [
                {"pointer": pointer, "detail": detail} for pointer, detail in self.errors
            ]
        return Response(
            kind.status,
            msgspec.json.encode(body),
            (*headers_of(kind), *self.headers),
            content_type=PROBLEM_JSON,
        )


def headers_of(kind: Kind) -> tuple[tuple[str, str], ...]:
    """Return the headers that every answer of this kind carries."""
    if kind.slug in _CHALLENGES:
        return (("WWW-Authenticate", _CHALLENGES[kind.slug]),)
    if kind.retryable and kind.status in (409, 429, 503):
        return (("Retry-After", RETRY_AFTER_S),)
    return ()


def response_of(refused: "RefusedByCore", request_id: str) -> Response:
    """Return the answer of a refusal whose bytes the core makes."""
    refusal = refused.refusal
    return Response(
        refusal.status,
        refusal.body(request_id, refused.decision_id),
        (*headers_of(KINDS[refusal.slug]), *refused.headers),
        content_type=PROBLEM_JSON,
    )


class RefusedByCore(Exception):
    """Carries a core's refusal to the server, which answers its bytes.

    Args:
        decision_id: names the stored decision, when one is kept.

    Attributes:
        headers: further response headers.
    """

    def __init__(self, refusal: Refusal, decision_id: str | None = None) -> None:
        super().__init__(refusal.slug)
        self.refusal = refusal
        self.decision_id = decision_id
        self.headers: tuple[tuple[str, str], ...] = ()


def refused_by_core(refusal: Refusal, raw_headers: Sequence[tuple[bytes, bytes]]) -> RefusedByCore:
    """Return a refusal on its way out that challenges by the scheme its request came with."""
    refused = RefusedByCore(refusal)
    challenge = _DPOP_CHALLENGES.get(refusal.slug)
    if challenge is not None and any(
        name.lower() == b"authorization" and value[:5].lower() == b"dpop "
        for name, value in raw_headers
    ):
        refused.headers = (("WWW-Authenticate", challenge),)
    return refused
