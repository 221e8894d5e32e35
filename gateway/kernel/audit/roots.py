"""Roots: how far every chain has come, signed, once a minute.

A root names the last number and hash of each chain that grew, and the root before it. Its key is
not in the database: whoever can write there can make new chains, but not have them signed. Each
root is logged as well, so that it is known where nobody of the database can reach.
"""

import asyncio
import base64
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.kernel.audit.chain import canonical, genesis, linked
from gateway.kernel.clock import Clock
from gateway.kernel.db.pool import CONNECTION_LOST

log = structlog.get_logger("audit")

ACTS = "acts"
"""The chain of what operators do."""
ROOTS = "roots"
"""The chain of the roots themselves."""
_LOCK = "SELECT pg_try_advisory_xact_lock(7276545811)"
_LAST = "SELECT seq, at, hash FROM audit_roots ORDER BY seq DESC LIMIT 1"
# A record is stamped as its transaction begins: one that committed late is still seen next time.
_HEADS = """
SELECT DISTINCT ON (shard) shard, seq, hash FROM decision_log
WHERE at > $1::timestamptz - interval '10 minutes' ORDER BY shard, seq DESC
"""
_ACTS_HEAD = "SELECT seq, hash FROM audit_log WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1"
_ADD = "INSERT INTO audit_roots (seq, at, record, hash, signature) VALUES ($1, $2, $3, $4, $5)"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_LOOKS_PER_ROOT = 4


class Roots:
    """Signs roots; of all workers one at a time.

    Args:
        seed: of the Ed25519 key, 32 bytes.
        period_s: between two roots.
    """

    def __init__(self, pool: asyncpg.Pool, clock: Clock, *, seed: bytes, period_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sign; returns at once."""
        self._task = asyncio.create_task(self._run(), name="audit-roots")

    async def close(self) -> None:
        """Stop signing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.sign()
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("no root could be signed", error=type(error).__name__)
            await asyncio.sleep(self._period_s / _LOOKS_PER_ROOT)

    async def sign(self) -> bool:
        """Sign a root when one is due and nobody else does; returns whether one was."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(_LOCK):
                return False
            last = await connection.fetchrow(_LAST)
            now = datetime.fromtimestamp(self._clock() / 1000, UTC)
            if last is not None and (now - last["at"]).total_seconds() < self._period_s:
                return False
            seq, before = (0, genesis(ROOTS)) if last is None else (last["seq"], last["hash"])
            since = _BEGINNING if last is None else last["at"]
            record = canonical(
                {
                    "at": self._clock(),
                    "heads": await self._heads(connection, since),
                    "seq": seq + 1,
                }
            )
            linked_hash = linked(before, record)
            signature = self._key.sign(linked_hash)
            await connection.execute(_ADD, seq + 1, now, record, linked_hash, signature)
        log.info(
            "audit root",
            seq=seq + 1,
            hash=linked_hash.hex(),
            signature=base64.b64encode(signature).decode(),
        )
        return True

    async def _heads(self, connection: Any, since: datetime) -> dict[str, list[object]]:
        rows = await connection.fetch(_HEADS, since)
        heads: dict[str, list[object]] = {
            row["shard"]: [row["seq"], row["hash"].hex()] for row in rows
        }
        acts = await connection.fetchrow(_ACTS_HEAD)
        if acts is not None:
            heads[ACTS] = [acts["seq"], acts["hash"].hex()]
        return heads


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a root's record says. `at` is Unix milliseconds."""

    at: int
    heads: dict[str, tuple[int, str]]
    seq: int
