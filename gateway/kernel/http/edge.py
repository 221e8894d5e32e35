"""What every answer carries for browsers, and which pages may ask at all (CORS).

Knows texts of headers alone, and no server that carries them. Nothing here is authorization: that
is tokens, and no browser sends them by itself. What it stops is a page that makes a browser ask.
"""

from collections.abc import Sequence

from gateway.kernel.http.problems import Problem

HSTS_S = 31_536_000
PREFLIGHT_AGE_S = 600
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_VARY = ("Vary", "Origin")

# An answer that is data and is opened as a page shows nothing and is framed by nobody.
_EVERY_ANSWER = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # Instead of the library and its version.
    "Server": "oqim",
    "X-Content-Type-Options": "nosniff",
}
PAGE_HEADERS = (
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Permissions-Policy",
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    # For browsers that do not know frame-ancestors.
    ("X-Frame-Options", "DENY"),
)
"""What a page carries beside, and its own Content-Security-Policy."""

_READABLE = (
    "DPoP-Nonce, Idempotent-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, "
    "WWW-Authenticate, X-Request-Id"
)
_SENDABLE = (
    "Authorization, Content-Type, Deadline-Ms, DPoP, Idempotency-Key, If-Match, Last-Event-ID, "
    "X-Request-Id, traceparent"
)

Shared = tuple[tuple[str, str], ...]
"""Headers that let a page of another origin read an answer."""
NOT_SHARED: Shared = ()


class Edge:
    """The edge of one worker.

    Args:
        is_tls: browsers are told to come by TLS alone, for a year.
        origins: of pages that may ask, as browsers name them: `https://app.example`.
    """

    def __init__(self, *, is_tls: bool = False, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origins)
        self.headers = dict(_EVERY_ANSWER)
        if is_tls:
            self.headers["Strict-Transport-Security"] = f"max-age={HSTS_S}; includeSubDomains"
        if origins:
            # Whoever keeps an answer keeps one for each origin.
            self.headers["Vary"] = "Origin"

    def admit(self, method: str, origin: str, host: str | None) -> Shared:
        """Return what the answer to a page of `origin` carries, so that it may be read there.

        Reading without leave is answered, and the browser keeps the answer from the page; whatever
        may change something is not done.

        Args:
            host: of the request; its own pages may ask.

        Raises:
            Problem: `origin-not-allowed`.
        """
        if origin in self._origins:
            return (
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Expose-Headers", _READABLE),
                _VARY,
            )
        if method in _SAFE or (host and origin in (f"https://{host}", f"http://{host}")):
            return (_VARY,)
        raise _not_allowed()

    def preflight(self, origin: str, methods: Sequence[str]) -> Shared:
        """Return the answer to a browser that asks whether its page may ask.

        Args:
            methods: that the path answers.

        Raises:
            Problem: `origin-not-allowed`.
        """
        if origin not in self._origins:
            raise _not_allowed()
        return (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Methods", ", ".join(methods)),
            ("Access-Control-Allow-Headers", _SENDABLE),
            ("Access-Control-Max-Age", str(PREFLIGHT_AGE_S)),
            _VARY,
        )


def _not_allowed() -> Problem:
    detail = "Pages of this origin may not ask this."
    return Problem("origin-not-allowed", detail, headers=(_VARY,))
