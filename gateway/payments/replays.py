"""Answers under idempotency keys seen before."""

from gateway.core import Core, Refusal, idempotency
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.payments.journal import Journal
from gateway.payments.reads import Reads

_REPLAYED = ("Idempotent-Replayed", "true")


def key_of(core: Core, request: Request) -> tuple[bytes, bytes]:
    """Return the scope and the fingerprint of what moves money under a key, while it may move.

    Raises:
        RefusedByCore: revocations were not read lately, or the key is missing or cannot be one.
    """
    feed = core.check_feed(request.received_at_ms)
    if feed is not None:
        raise RefusedByCore(feed)
    key = idempotency(
        request.who, request.method, request.path, request.raw_headers, request.canonical
    )
    if isinstance(key, Refusal):
        raise RefusedByCore(key)
    return key


class Replays:
    """Finds the stored answer of a key, byte for byte."""

    def __init__(self, journal: Journal, reads: Reads) -> None:
        self._journal = journal
        self._reads = reads

    async def find(self, scope: bytes, fingerprint: bytes) -> Response | None:
        """Return the stored answer, or None when the key was never used.

        Raises:
            Problem: `idempotency-key-reused` for another request under the key,
                `idempotency-in-progress` while the first is running.
        """
        stored = await self._journal.find_answer(scope)
        if stored is None:
            return None
        if stored.fingerprint != fingerprint:
            raise Problem("idempotency-key-reused", "Use a new key for a new request.")
        if stored.status is None:
            raise Problem(
                "idempotency-in-progress", "Wait, then repeat the request with the same key."
            )
        headers: tuple[tuple[str, str], ...] = (_REPLAYED,)
        if stored.object_id.startswith("pay_"):
            headers = (_REPLAYED, ("Location", f"/v1/payments/{stored.object_id}"))
        body = stored.body or await self._reads.answered(stored.object_id)
        return Response(stored.status, body, headers)

    async def answer(self, scope: bytes, fingerprint: bytes) -> Response:
        """Return the stored answer of a key that is known to be in use."""
        found = await self.find(scope, fingerprint)
        if found is None:
            # Its owner failed before anything was sent and freed it again.
            raise Problem(
                "idempotency-in-progress", "Wait, then repeat the request with the same key."
            )
        return found
