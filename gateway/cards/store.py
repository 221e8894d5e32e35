"""SQL of cards. A deleted card is there for payments it made, and for nobody else."""

from datetime import UTC, datetime
from typing import Any

import asyncpg

from gateway.cards.model import Waiting, Wanted

_COLUMNS = """id, owner, scheme, bin, last4, expiry, pan_sealed, status, challenge, code_hash,
    code_tries, code_expires_at, code_sends, locked_until, created_at"""

# One customer's cards are added one after another, so that their number stays under its limit.
LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended($1, 7276545803))"
FIND = f"""
SELECT {_COLUMNS} FROM cards WHERE owner = $1 AND lookup = $2 AND status <> 'deleted'
"""
COUNT = "SELECT count(*) FROM cards WHERE owner = $1 AND status <> 'deleted'"
GET = f"SELECT {_COLUMNS} FROM cards WHERE id = $1 AND owner = $2 AND status <> 'deleted'"
LIST = f"""
SELECT {_COLUMNS} FROM cards
WHERE owner = $1 AND status <> 'deleted' AND ($2::text IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""
ADD = f"""
INSERT INTO cards (id, owner, scheme, bin, last4, expiry, lookup, pan_sealed, status,
    challenge, code_hash, code_expires_at, code_sends, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending_verification', $9, $10, $11, 1, $12)
RETURNING {_COLUMNS}
"""
# Tries are kept: asking for another code must not give more guesses. A lock that ended is over.
ASK_AGAIN = f"""
UPDATE cards SET expiry = $2, challenge = $3, code_hash = $4, code_expires_at = $5,
    code_sends = CASE WHEN locked_until IS NULL THEN code_sends + 1 ELSE 1 END,
    locked_until = NULL
WHERE id = $1 AND status = 'pending_verification' RETURNING {_COLUMNS}
"""
LOCK_SENDS = """
UPDATE cards SET locked_until = $2, code_tries = 0
WHERE id = $1 AND status = 'pending_verification'
"""
# A try is taken before the code is looked at, so that guesses made at once are counted too.
TAKE_TRY = f"""
UPDATE cards SET
    code_tries = CASE WHEN code_tries + 1 >= $2 THEN 0 ELSE code_tries + 1 END,
    code_sends = CASE WHEN locked_until IS NULL THEN code_sends ELSE 0 END,
    locked_until = CASE WHEN code_tries + 1 >= $2 THEN $3::timestamptz END
WHERE id = $1 AND status = 'pending_verification'
  AND (locked_until IS NULL OR locked_until <= $4)
RETURNING {_COLUMNS}
"""
GIVE_TRY_BACK = """
UPDATE cards SET
    code_tries = CASE WHEN locked_until = $3 THEN $2 - 1 ELSE greatest(code_tries - 1, 0) END,
    locked_until = nullif(locked_until, $3)
WHERE id = $1 AND status = 'pending_verification'
"""
ACTIVATE = f"""
UPDATE cards SET status = 'active', version = version + 1, token_sealed = $2, challenge = NULL,
    code_hash = NULL, code_expires_at = NULL, code_tries = 0, locked_until = NULL
WHERE id = $1 AND status = 'pending_verification' RETURNING {_COLUMNS}
"""
DELETE = """
UPDATE cards SET status = 'deleted', version = version + 1, deleted_at = $3, challenge = NULL,
    code_hash = NULL
WHERE id = $1 AND owner = $2 AND status <> 'deleted' RETURNING id
"""
DELETE_ALL = """
UPDATE cards SET status = 'deleted', version = version + 1, deleted_at = $2, challenge = NULL,
    code_hash = NULL
WHERE owner = $1 AND status <> 'deleted' RETURNING id
"""
PURGE = """
UPDATE cards SET pan_sealed = '', token_sealed = NULL, version = version + 1
WHERE status = 'deleted' AND pan_sealed <> '' AND deleted_at <= $1 RETURNING id
"""


def moment(at_ms: int) -> datetime:
    """Return Unix milliseconds as the database's time."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC)


def millis(at: datetime | None) -> int:
    """Return the database's time as Unix milliseconds; 0 for none."""
    return 0 if at is None else round(at.timestamp() * 1_000)


async def add(
    connection: Any,
    *,
    card_id: str,
    owner: str,
    wanted: Wanted,
    pan_sealed: bytes,
    waiting: Waiting,
    now_ms: int,
) -> asyncpg.Record:
    """Insert a card that waits for verification and return its row."""
    row: asyncpg.Record = await connection.fetchrow(
        ADD,
        card_id,
        owner,
        wanted.scheme,
        wanted.pan.first6,
        wanted.pan.last4,
        wanted.expiry,
        wanted.lookup,
        pan_sealed,
        waiting.challenge,
        waiting.code_hash,
        _until(waiting),
        moment(now_ms),
    )
    return row


async def ask_again(
    connection: Any, *, card_id: str, wanted: Wanted, waiting: Waiting
) -> asyncpg.Record:
    """Let a card wait for another code and return its row."""
    row: asyncpg.Record = await connection.fetchrow(
        ASK_AGAIN, card_id, wanted.expiry, waiting.challenge, waiting.code_hash, _until(waiting)
    )
    return row


def _until(waiting: Waiting) -> datetime | None:
    return None if waiting.expires_at_ms is None else moment(waiting.expires_at_ms)
