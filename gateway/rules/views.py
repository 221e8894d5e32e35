"""Rules as operators read them: straight from the newest generation, and by the clock.

What was approved for later becomes active here by itself, as it does in the core.
"""

from typing import Any

import asyncpg
import msgspec

from gateway.core import rfc3339
from gateway.kernel.clock import Clock
from gateway.rules import store
from gateway.rules.document import Entry, Kind
from gateway.rules.times import millis, millis_or_none, moment

View = dict[str, Any]


def _shown(at: Any) -> str | None:
    at_ms = millis_or_none(at)
    return None if at_ms is None else rfc3339(at_ms)


def _range_of(entry: Entry) -> View:
    return {
        "effective_from": None if entry.from_ms is None else rfc3339(entry.from_ms),
        "effective_to": None if entry.to_ms is None else rfc3339(entry.to_ms),
    }


def _rule(versions: list[Entry], at_ms: int) -> View:
    """Return the view of one id from its versions in the newest generation, in order."""
    active = next((one for one in versions if one.is_in_force(at_ms)), None)
    scheduled = [one for one in versions if one.from_ms is not None and one.from_ms > at_ms]
    shown = active or (scheduled[0] if scheduled else versions[-1])
    body: View = msgspec.json.decode(shown.body)
    del body["version"]
    return (
        {"id": shown.id, "active_version": active.version if active else None}
        | _range_of(shown)
        | {"scheduled": [{"version": one.version} | _range_of(one) for one in scheduled]}
        | body
    )


def _version(row: Any, at_ms: int) -> View:
    """Return the view of a version from a row of `store.LIST_VERSIONS`."""
    from_ms, to_ms = millis_or_none(row["effective_from"]), millis_or_none(row["effective_to"])
    if not row["is_kept"]:
        status = "superseded"
    elif to_ms is not None and to_ms <= at_ms:
        status = "ended"
    else:
        status = "scheduled" if from_ms is not None and from_ms > at_ms else "active"
    return {
        "version": row["version"],
        "status": status,
        "effective_from": _shown(row["effective_from"]),
        "effective_to": _shown(row["effective_to"]),
        "generation": row["generation_from"],
        "proposal": row["proposal_id"],
        "proposed_by": row["proposed_by"],
        "proposed_at": _shown(row["proposed_at"]),
        # Nobody approved what the first files brought: who read them stands here.
        "approved_by": row["decided_by"] or row["actor"],
        "approved_at": rfc3339(millis(row["decided_at"] or row["created_at"])),
    }


def _proposal(row: Any) -> View:
    what_if = None
    if row["what_if_status"] is not None:
        what_if = {
            "status": row["what_if_status"],
            "from": _shown(row["from_at"]),
            "to": _shown(row["to_at"]),
            "report": store.decoded(row["report"]),
            "error": row["error"],
            "notes": row["notes"],
        }
    return {
        "action": row["action"],
        "target": row["target_id"],
        "body": store.decoded(row["body"]),
        "based_on_version": row["based_on_version"],
        "effective_from": _shown(row["effective_from"]),
        "warnings": row["warnings"],
        "generation": row["generation"],
        "version": row["version"],
        "what_if": what_if,
    }


class Rulebook:
    """The reads."""

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def rules(self, kind: Kind, *, after: str, limit: int) -> list[View]:
        """Return what is in force or scheduled, by id, from the first id after `after`."""
        at_ms = self._clock()
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(store.LIST_IDS, kind, after, moment(at_ms), limit)
            ids = [row["id"] for row in rows]
            rows = await connection.fetch(store.GET_NEWEST_OF_IDS, kind, ids)
        versions: dict[str, list[Entry]] = {id: [] for id in ids}
        for row in rows:
            versions[row["id"]].append(store.entry_of(row))
        return [_rule(versions[id], at_ms) for id in ids]

    async def rule(self, kind: Kind, id: str) -> View | None:
        """Return a rule with all versions that were ever approved, or None.

        One that has ended is shown by its last version.
        """
        at_ms = self._clock()
        async with self._pool.acquire() as connection:
            made = await connection.fetch(store.LIST_VERSIONS[kind], kind, id)
            rows = await connection.fetch(store.GET_NEWEST_OF_IDS, kind, [id])
        if not made:
            return None
        entries = [store.entry_of(row) for row in rows]
        # None is kept of an id whose only version was deleted before it began.
        entries = entries or [_entry(kind, id, made[-1])]
        return _rule(entries, at_ms) | {"versions": [_version(row, at_ms) for row in made]}

    async def version_view(self, kind: Kind, id: str, version: int) -> View | None:
        """Return one version with its body, or None."""
        at_ms = self._clock()
        for row in await self._pool.fetch(store.LIST_VERSIONS[kind], kind, id):
            if row["version"] == version:
                return _version(row, at_ms) | {"body": store.decoded(row["body"])}
        return None

    async def version(self, kind: Kind, id: str, version: int) -> Entry | None:
        """Return one version as it was approved, or None."""
        for row in await self._pool.fetch(store.LIST_VERSIONS[kind], kind, id):
            if row["version"] == version:
                return _entry(kind, id, row)
        return None

    async def proposals(self, ids: list[str]) -> dict[str, View]:
        """Return what proposals of rules are told beside what every proposal is, by id."""
        rows = await self._pool.fetch(store.GET_PROPOSALS, ids)
        return {row["id"]: _proposal(row) for row in rows}


def _entry(kind: Kind, id: str, row: Any) -> Entry:
    """Return a version from a row of `store.LIST_VERSIONS`, its range as it is by now."""
    from_ms, to_ms = millis_or_none(row["effective_from"]), millis_or_none(row["effective_to"])
    return Entry(kind, id, row["version"], row["body"].encode(), from_ms, to_ms)
