"""Answers under idempotency keys seen before."""

from gateway.kernel.http.messages import Response
from gateway.kernel.http.problems import Problem
from gateway.payments.journal import Journal

_REPLAYED = ("Idempotent-Replayed", "true")


class Replays:
    """Finds the stored answer of a key, byte for byte."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

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
        if stored.status is None or stored.body is None:
            raise Problem(
                "idempotency-in-progress", "Wait, then repeat the request with the same key."
            )
        headers: tuple[tuple[str, str], ...] = (_REPLAYED,)
        if stored.object_id.startswith("pay_"):
            headers = (_REPLAYED, ("Location", f"/v1/payments/{stored.object_id}"))
        return Response(stored.status, stored.body, headers)

    async def answer(self, scope: bytes, fingerprint: bytes) -> Response:
        """Return the stored answer of a key that is known to be in use."""
        found = await self.find(scope, fingerprint)
        if found is None:
            # Its owner failed before anything was sent and freed it again.
            raise Problem(
                "idempotency-in-progress", "Wait, then repeat the request with the same key."
            )
        return found
