"""Problems of the OAuth endpoints: the same body, and in it the names that RFC 6749 gives.

A problem of the house (RFC 9457) has `code`; a library that knows OAuth looks for `error` and
`error_description` (RFC 6749, 5.2). Here one answer has all of them.
"""

import msgspec

from gateway.kernel.http.messages import Response
from gateway.kernel.http.problems import Problem

# Errors of OAuth are not cached, nor is any answer with a token (RFC 6749, 5.1).
NO_STORE = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))

ERRORS = {
    "invalid-request": "invalid_request",
    "unsupported-media-type": "invalid_request",
    "invalid-client": "invalid_client",
    "client-network-not-allowed": "unauthorized_client",
    "invalid-grant": "invalid_grant",
    "unauthorized-client": "unauthorized_client",
    "unsupported-grant-type": "unsupported_grant_type",
    "invalid-scope": "invalid_scope",
    "invalid-dpop-proof": "invalid_dpop_proof",
    "use-dpop-nonce": "use_dpop_nonce",
    "rate-limited": "slow_down",
    "device-limit-reached": "invalid_grant",
    "otp-invalid": "invalid_grant",
    "otp-expired": "invalid_grant",
    "otp-already-used": "invalid_grant",
    "otp-locked": "invalid_grant",
    "revocation-feed-stale": "temporarily_unavailable",
    "overloaded": "temporarily_unavailable",
    "unavailable": "temporarily_unavailable",
}
_BAD_REQUEST = 400


class OAuthProblem(Problem):
    """A problem as an OAuth endpoint answers it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(
            problem.kind.slug, problem.detail, errors=problem.errors, headers=problem.headers
        )

    def response(self, request_id: str) -> Response:
        """Return the `application/problem+json` answer."""
        slug = self.kind.slug
        response = super().response(request_id)
        body = msgspec.json.decode(response.body)
        headers = response.headers
        if slug in ("invalid-dpop-proof", "use-dpop-nonce"):
            # Nobody's token was refused: it is a bad request here (RFC 9449, 5 and 8).
            body["status"] = _BAD_REQUEST
            headers = tuple(one for one in headers if one[0] != "WWW-Authenticate")
        if slug in ERRORS:
            body |= {"error": ERRORS[slug], "error_description": _plain(self.detail)}
        return Response(
            body["status"],
            msgspec.json.encode(body),
            (*headers, *NO_STORE),
            content_type=response.content_type,
        )


def _plain(text: str) -> str:
    """Return a text in the characters that RFC 6749 allows (5.2)."""
    return text.replace("\\", "/").replace('"', "'").encode("ascii", "replace").decode()
