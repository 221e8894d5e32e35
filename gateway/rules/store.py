"""SQL of rules: generations and what they hold, proposals, rates. Written out, one statement each.

A generation is written in one transaction that holds `LOCK`; afterwards nothing of it changes but
where the next one ends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.rules.document import LISTS, Entry, Kind
from gateway.rules.times import millis, millis_or_none, moment, moment_or_none

# Held by whoever makes a generation, until its transaction ends.
LOCK = "SELECT pg_advisory_xact_lock(7276545803)"
NEWEST = "SELECT seq FROM rule_generations ORDER BY seq DESC LIMIT 1"
GET_GENERATION = "SELECT seq, created_at FROM rule_generations WHERE seq = $1"
ADD_GENERATION = """
INSERT INTO rule_generations (seq, created_at, actor, proposal_id)
SELECT coalesce(max(seq), 0) + 1, $1, $2, $3 FROM rule_generations RETURNING seq
"""
# Those a decision of the span may name: from the one that was newest when it began.
GENERATIONS_OF_SPAN = """
SELECT seq, created_at FROM rule_generations
WHERE seq >= coalesce((SELECT max(seq) FROM rule_generations WHERE created_at <= $1), 1)
  AND created_at < $2
ORDER BY seq
"""
_BODIES = """
LEFT JOIN commission_plans p ON r.kind = 'plan' AND p.id = r.id AND p.version = r.version
LEFT JOIN limit_policies l ON r.kind = 'policy' AND l.id = r.id AND l.version = r.version
"""
_ENTRY_COLUMNS = """
r.kind, r.id, r.version, r.effective_from, r.effective_to, coalesce(p.body, l.body) AS body
"""
GET_ENTRIES = f"""
SELECT {_ENTRY_COLUMNS} FROM rule_ranges r {_BODIES}
WHERE r.generation_from <= $1 AND (r.generation_to IS NULL OR r.generation_to > $1)
ORDER BY r.kind, r.id, r.version
"""
# Ids that are in force or will be, and their versions that have not ended.
LIST_IDS = """
SELECT DISTINCT id FROM rule_ranges
WHERE kind = $1 AND generation_to IS NULL AND id > $2
  AND (effective_to IS NULL OR effective_to > $3)
ORDER BY id LIMIT $4
"""
GET_NEWEST_OF_IDS = f"""
SELECT {_ENTRY_COLUMNS} FROM rule_ranges r {_BODIES}
WHERE r.kind = $1 AND r.id = ANY($2::text[]) AND r.generation_to IS NULL
ORDER BY r.id, r.version
"""
GET_RATES = """
SELECT currency, date::text AS date, rate, nominal FROM exchange_rates
WHERE generation_from <= $1 AND date >= $2 ORDER BY currency, date
"""
CLOSE_RANGE = """
UPDATE rule_ranges SET generation_to = $4
WHERE kind = $1 AND id = $2 AND version = $3 AND generation_to IS NULL
"""
OPEN_RANGE = """
INSERT INTO rule_ranges (kind, id, version, generation_from, effective_from, effective_to)
VALUES ($1, $2, $3, $4, $5, $6)
"""
ADD_VERSION = {
    kind: f"""
    INSERT INTO {table} (id, version, body, generation_from, created_at)
    VALUES ($1, $2, $3, $4, $5)
    """
    for kind, table in LISTS.items()
}
NEXT_VERSION = {
    kind: f"SELECT coalesce(max(version), 0) + 1 FROM {table} WHERE id = $1"
    for kind, table in LISTS.items()
}
GET_FIRST_BODIES = {
    kind: f"SELECT id, body FROM {table} WHERE version = 1 AND generation_from = 1 ORDER BY id"
    for kind, table in LISTS.items()
}
_MADE = """
FROM {table} v
JOIN rule_generations g ON g.seq = v.generation_from
LEFT JOIN rule_proposals o ON o.id = g.proposal_id
LEFT JOIN rule_ranges r ON r.kind = $1 AND r.id = v.id AND r.version = v.version
    AND r.generation_to IS NULL
"""
_MADE_COLUMNS = """
v.version, v.body, v.created_at, v.generation_from, g.actor, g.proposal_id, o.proposed_by,
o.proposed_at, o.decided_by, o.decided_at, r.version IS NOT NULL AS is_kept, r.effective_from,
r.effective_to
"""
LIST_VERSIONS = {
    kind: f"SELECT {_MADE_COLUMNS} {_MADE.format(table=table)} WHERE v.id = $2 ORDER BY v.version"
    for kind, table in LISTS.items()
}
# The last generation that changed anything of an id; 0 when none did.
TOUCHED = """
SELECT coalesce(max(greatest(generation_from, coalesce(generation_to, 0))), 0)
FROM rule_ranges WHERE kind = $1 AND id = $2
"""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as it is stored.

    Args:
        rates: rows of `{"currency", "date", "rate", "nominal"}`.
    """

    seq: int
    created_ms: int
    entries: list[Entry]
    rates: list[dict[str, Any]]


# How far back a generation's rates go; the core uses none older than 14 days.
_RATES_KEPT_DAYS = 31
_DAY_MS = 86_400_000


def entry_of(row: Any) -> Entry:
    """Return an entry from a row of `_ENTRY_COLUMNS`."""
    return Entry(
        kind=row["kind"],
        id=row["id"],
        version=row["version"],
        body=row["body"].encode(),
        from_ms=millis_or_none(row["effective_from"]),
        to_ms=millis_or_none(row["effective_to"]),
    )


async def read_generation(connection: Any, seq: int) -> Generation:
    """Return what a generation holds; one that was committed is the same for ever."""
    found = await connection.fetchrow(GET_GENERATION, seq)
    assert found is not None, "generations have no gaps"
    entries = [entry_of(row) for row in await connection.fetch(GET_ENTRIES, seq)]
    created_ms = millis(found["created_at"])
    return Generation(seq, created_ms, entries, await read_rates(connection, seq, created_ms))


async def read_rates(connection: Any, seq: int, at_ms: int) -> list[dict[str, Any]]:
    """Return the rates that decisions from a moment on may need."""
    since = moment(at_ms - _RATES_KEPT_DAYS * _DAY_MS).date()
    return [dict(row) for row in await connection.fetch(GET_RATES, seq, since)]


async def newest(connection: Any) -> int:
    """Return the newest generation's number; 0 when there is none."""
    seq: int | None = await connection.fetchval(NEWEST)
    return seq or 0


async def next_version(connection: Any, kind: Kind, id: str) -> int:
    """Return the number that the next version of an id will have."""
    version: int = await connection.fetchval(NEXT_VERSION[kind], id)
    return version


async def add_generation(
    connection: Any,
    *,
    at_ms: int,
    actor: str,
    proposal_id: str | None,
    before: Sequence[Entry],
    after: Sequence[Entry],
) -> int:
    """Write the next generation in the open transaction, which holds `LOCK`.

    Args:
        before: what the newest generation holds.
        after: what the next one holds; versions that are not in `before` are new.

    Returns:
        Its number.
    """
    seq: int = await connection.fetchval(ADD_GENERATION, moment(at_ms), actor, proposal_id)
    known = {(entry.kind, entry.id, entry.version): entry for entry in before}
    kept = {(entry.kind, entry.id, entry.version): entry for entry in after}
    closed = [(*key, seq) for key, entry in known.items() if kept.get(key) != entry]
    opened = [entry for key, entry in kept.items() if known.get(key) != entry]
    for entry in opened:
        if (entry.kind, entry.id, entry.version) not in known:
            await connection.execute(
                ADD_VERSION[entry.kind],
                entry.id,
                entry.version,
                entry.body.decode(),
                seq,
                moment(at_ms),
            )
    await connection.executemany(CLOSE_RANGE, closed)
    await connection.executemany(
        OPEN_RANGE,
        [
            (
                entry.kind,
                entry.id,
                entry.version,
                seq,
                moment_or_none(entry.from_ms),
                moment_or_none(entry.to_ms),
            )
            for entry in opened
        ],
    )
    return seq


# What rules add to the view of a proposal.
GET_PROPOSALS = """
SELECT o.id, o.action, o.target_id, o.body, o.based_on_version, o.effective_from, o.warnings,
    o.generation, o.version, s.status AS what_if_status, s.from_at, s.to_at, s.report, s.error,
    s.notes
FROM rule_proposals o LEFT JOIN simulations s ON s.proposal_id = o.id
WHERE o.id = ANY($1::text[])
"""

ADD_RATE = """
INSERT INTO exchange_rates (currency, date, rate, nominal, generation_from)
VALUES ($1, $2, $3, $4, $5)
"""
GET_RATES_OF = """
SELECT currency, date, rate, nominal FROM exchange_rates
WHERE (currency, date) IN (SELECT * FROM unnest($1::text[], $2::date[]))
"""


def decoded(text: str | None) -> Any:
    """Return what a column of JSON holds."""
    return None if text is None else msgspec.json.decode(text)


def encoded(value: object) -> str:
    """Return a value for a column of JSON."""
    return msgspec.json.encode(value).decode()
