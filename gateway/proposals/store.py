"""SQL of proposals. What is decided is never changed again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from gateway.proposals.model import Proposal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# $1 the moment as of which their status is told.
_COLUMNS = """
p.id, p.kind, p.subject, p.diff, p.base_version, p.note, p.status, p.proposed_by, p.proposed_at,
p.expires_at, p.decided_by, p.decided_at, p.reason, p.outcome,
proposal_status(p, $1) AS shown_status
"""
ADD = """
INSERT INTO proposals (id, kind, subject, diff, base_version, note, status, proposed_by,
    proposed_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, 'proposed', $7, $8, $9)
"""
# One later proposal stands instead of those that are open.
REPLACE = """
UPDATE proposals SET status = 'replaced', decided_by = $3, decided_at = $4
WHERE kind = $1 AND subject = $2 AND status = 'proposed'
"""
STORE_ANSWER = "UPDATE proposals SET answer = $2 WHERE id = $1"
LOCK = f"SELECT {_COLUMNS} FROM proposals p WHERE p.id = $2 FOR UPDATE"
GET = f"SELECT {_COLUMNS} FROM proposals p WHERE p.id = $2"
GET_OPEN = """
SELECT id FROM proposals WHERE kind = $1 AND subject = $2 AND status = 'proposed'
ORDER BY id DESC LIMIT 1
"""
LIST = f"""
SELECT {_COLUMNS} FROM proposals p
WHERE p.id < $2 AND p.kind = ANY($3::text[])
  AND ($4::text IS NULL OR proposal_status(p, $1) = $4)
ORDER BY p.id DESC LIMIT $5
"""
DECIDE = """
UPDATE proposals SET status = $2, decided_by = $3, decided_at = $4, reason = $5, outcome = $6
WHERE id = $1
"""


def moment(at_ms: int) -> datetime:
    """Return Unix milliseconds as the database's time."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def _millis(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def encoded(value: object) -> str:
    """Return a value for a column of JSON."""
    return msgspec.json.encode(value).decode()


def proposal_of(row: Any) -> Proposal:
    """Return a proposal from a row of `_COLUMNS`."""
    outcome, decided_at = row["outcome"], row["decided_at"]
    return Proposal(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        diff=msgspec.json.decode(row["diff"]),
        base_version=row["base_version"],
        note=row["note"],
        status=row["status"],
        proposed_by=row["proposed_by"],
        proposed_at_ms=_millis(row["proposed_at"]),
        expires_at_ms=_millis(row["expires_at"]),
        decided_by=row["decided_by"],
        decided_at_ms=None if decided_at is None else _millis(decided_at),
        reason=row["reason"],
        outcome=None if outcome is None else msgspec.json.decode(outcome),
        shown_status=row["shown_status"],
    )
