"""Decisions that made no payment, kept so that they can be explained and replayed.

A refusal is kept before it is told, a batch a commit; when it cannot be kept it is told all the
same, without an id: refusing is always safe.
"""

from dataclasses import dataclass

import asyncpg
import structlog

from gateway.core import Refusal
from gateway.kernel.audit.chain import LINK, Shard, refusal_document
from gateway.kernel.clock import Clock
from gateway.kernel.db.batch import Entry, GroupCommit, QueueFull
from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.http.problems import RefusedByCore
from gateway.kernel.ids import new_id

log = structlog.get_logger("payments")

_BATCH_SIZE_MAX = 256
_QUEUE_SIZE_MAX = 8192

INSERT_REFUSALS = (
    "WITH audited AS ("
    + LINK.format(shard="$8", seq="$9", record="$10", hash="$11")
    + """)
INSERT INTO refusals (id, created_at, owner, merchant_id, code, record, request_id)
SELECT id, to_timestamp(at_ms / 1000.0), owner, merchant_id, code, record, request_id
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[])
     AS t (id, at_ms, owner, merchant_id, code, record, request_id)
"""
)
GET_REFUSAL = """
SELECT id, owner, merchant_id, record FROM refusals
WHERE (id = $1 OR request_id = $1) AND ($2::text IS NULL OR $2 IN (owner, merchant_id))
ORDER BY id DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class StoredRefusal:
    """A refusal as it is stored. `record` is the decision, in the core's layout."""

    id: str
    at_ms: int
    owner: str
    merchant_id: str | None
    code: str
    record: bytes
    request_id: str

    def document(self) -> str:
        """Return its audit document."""
        return refusal_document(
            id=self.id,
            owner=self.owner,
            merchant=self.merchant_id,
            code=self.code,
            decision=self.record,
        )


class Refusals:
    """Keeps refusals.

    Args:
        worker: this process's number in `workers`.
    """

    def __init__(self, pool: asyncpg.Pool, clock: Clock, *, worker: int) -> None:
        self._pool = pool
        self._chain = Shard(f"worker-{worker}.refusals")
        self._clock = clock
        self._lane: GroupCommit[StoredRefusal, None] = GroupCommit(
            self._flush, _BATCH_SIZE_MAX, _QUEUE_SIZE_MAX
        )

    async def refused(self, refusal: Refusal, request_id: str) -> RefusedByCore:
        """Keep a refusal that is a decision, and return what carries it to the caller."""
        decision = refusal.decision
        if decision is None:
            return RefusedByCore(refusal)
        owner, merchant_id, record = decision
        at_ms = self._clock()
        kept = StoredRefusal(
            new_id("dec_", at_ms), at_ms, owner, merchant_id, refusal.slug, record, request_id
        )
        try:
            await self._lane.submit(kept)
        except (QueueFull, asyncpg.PostgresError, *CONNECTION_LOST) as error:
            log.warning("a refusal could not be kept", reason=type(error).__name__)
            return RefusedByCore(refusal)
        return RefusedByCore(refusal, kept.id)

    async def visible(self, refusal_id: str, who: str | None) -> tuple[str, bytes] | None:
        """Return a refusal's id and its stored decision, or None.

        Args:
            refusal_id: its own, or that of the request it answered.
            who: whose it is, or the merchant it was with; None sees all.
        """
        row = await self._pool.fetchrow(GET_REFUSAL, refusal_id, who)
        return None if row is None else (row["id"], row["record"])

    async def close(self) -> None:
        """Wait until everything submitted is kept."""
        await self._lane.drain()

    async def _flush(
        self, batch: list[Entry[StoredRefusal, None]]
    ) -> list[Entry[StoredRefusal, None]]:
        kept = [entry.item for entry in batch]
        link = self._chain.link(
            at_ms=kept[-1].at_ms, decisions=[(one.id, one.document()) for one in kept]
        )
        try:
            await self._pool.execute(INSERT_REFUSALS, *_arrays(kept), *link.arguments)
        except BaseException:
            # It may have been written all the same.
            self._chain.renew()
            raise
        self._chain.written(link)
        for entry in batch:
            entry.resolve(None)
        return []


def _arrays(kept: list[StoredRefusal]) -> list[list[object]]:
    """Return the statement's columns."""
    return [
        [one.id for one in kept],
        [one.at_ms for one in kept],
        [one.owner for one in kept],
        [one.merchant_id for one in kept],
        [one.code for one in kept],
        [one.record for one in kept],
        [one.request_id for one in kept],
    ]
