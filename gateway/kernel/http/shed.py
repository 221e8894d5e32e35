"""The answer of whoever is turned away: made ahead, so that only the request's id is put in."""

from itertools import cycle

from gateway.kernel.http.messages import Response
from gateway.kernel.http.problems import Problem

DETAIL = "This worker has too much to do. Nothing was done; try again, with the same key."
# Not everybody who is turned away together comes back together.
RETRY_AFTER_S = (1, 2, 1, 3)

_MARK = "0123456789"


class ShedAnswer:
    """Makes 503 `overloaded`, as bytes for a socket or as a response.

    Args:
        headers: what every answer of the server carries beside its content's type and length.
    """

    def __init__(self, headers: dict[str, str]) -> None:
        self._problem = Problem("overloaded", DETAIL)
        answer = self._problem.response(_MARK)
        self._type = answer.content_type
        mark = _MARK.encode()
        self._body_start, self._body_end = answer.body.split(mark)
        self._body_length = len(answer.body) - len(mark)
        fixed = {"Content-Type": answer.content_type} | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        head = f"HTTP/1.1 503 Service Unavailable\r\n{lines}Retry-After: %d\r\n"
        self._heads = cycle(
            [(head % wait_s).encode() + b"X-Request-Id: " for wait_s in RETRY_AFTER_S]
        )
        self._waits_s = cycle(RETRY_AFTER_S)

    def raw(self, request_id: bytes) -> bytes:
        """Return the whole answer in HTTP/1.1; the connection stays open."""
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b%b%b" % (
            next(self._heads),
            request_id,
            self._body_length + len(request_id),
            self._body_start,
            request_id,
            self._body_end,
        )

    def response(self, request_id: str) -> Response:
        """Return the same answer for a request that HTTP was parsed of."""
        body = b"%b%b%b" % (self._body_start, request_id.encode(), self._body_end)
        waits = (("Retry-After", str(next(self._waits_s))),)
        return Response(503, body, waits, content_type=self._type)
