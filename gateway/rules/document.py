"""What one generation of rules holds, and what a change makes of it. Pure: no SQL, no clock.

At any moment the version of an id that is in force is the highest one whose time has come. So a
later version ends those before it at its own beginning, and one that had not begun by then never
comes into force.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from gateway.core import rfc3339

Kind = Literal["plan", "policy"]
KINDS: tuple[Kind, ...] = ("plan", "policy")
# The member of the document that lists a kind, which is also what its table is called.
LISTS: dict[Kind, str] = {"plan": "commission_plans", "policy": "limit_policies"}
OPERATIONS = ("purchase", "transfer", "payout")

Members = dict[str, msgspec.Raw]
Fault = tuple[str, str]
"""A JSON pointer and a sentence."""

RANGE_MEMBERS = ("effective_from", "effective_to")


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one rule, and when it is in force.

    Args:
        body: a JSON object with id and version, without the range.
        from_ms: Unix milliseconds; None: since ever. It ends before `to_ms`; None: never.
    """

    kind: Kind
    id: str
    version: int
    body: bytes
    from_ms: int | None
    to_ms: int | None

    def is_in_force(self, at_ms: int) -> bool:
        return (self.from_ms is None or self.from_ms <= at_ms) and not self.has_ended(at_ms)

    def has_ended(self, at_ms: int) -> bool:
        return self.to_ms is not None and self.to_ms <= at_ms

    def is_in_force_within(self, from_ms: int, to_ms: int) -> bool:
        """Whether it is in force at some moment of `[from_ms, to_ms)`."""
        return not self.has_ended(from_ms) and (self.from_ms is None or self.from_ms < to_ms)

    def ended_at(self, at_ms: int) -> "Entry | None":
        """Return it as it is when it ends at a moment; None when it never begins."""
        if self.from_ms is not None and self.from_ms >= at_ms:
            return None
        return self if self.has_ended(at_ms) else replace(self, to_ms=at_ms)

    def members(self) -> Members:
        """Return the body and the range, as the document has them."""
        members = msgspec.json.decode(self.body, type=Members)
        for name, at_ms in zip(RANGE_MEMBERS, (self.from_ms, self.to_ms), strict=True):
            if at_ms is not None:
                members[name] = raw(rfc3339(at_ms))
        return members


def raw(value: object) -> msgspec.Raw:
    """Return a value as it stands in JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def text_of(value: msgspec.Raw | None) -> str | None:
    """Return the text that a member is, or None when it is none."""
    found = None if value is None else msgspec.json.decode(value)
    return found if isinstance(found, str) else None


def bare_body(members: Members, *, version: int) -> bytes:
    """Return what is stored of a version: its members in order, without a range."""
    kept = {name: value for name, value in members.items() if name not in RANGE_MEMBERS}
    return msgspec.json.encode(kept | {"version": raw(version)}, order="deterministic")


def document(entries: Iterable[Entry], rates: Sequence[object]) -> bytes:
    """Return the JSON document that the core compiles, entries in the order given."""
    lists: dict[str, list[Members]] = {LISTS[kind]: [] for kind in KINDS}
    for entry in entries:
        lists[LISTS[entry.kind]].append(entry.members())
    return msgspec.json.encode(lists | {"rates": list(rates)})


def with_put(entries: Sequence[Entry], put: Entry, *, at_ms: int) -> list[Entry]:
    """Return the entries with one more version, the last; those before it end where it begins.

    Args:
        at_ms: when it begins.
    """
    return [*_ended(entries, put.kind, put.id, at_ms), replace(put, from_ms=at_ms)]


def with_delete(entries: Sequence[Entry], kind: Kind, id: str, *, at_ms: int) -> list[Entry]:
    """Return the entries with every version of an id ended at a moment."""
    return _ended(entries, kind, id, at_ms)


def _ended(entries: Sequence[Entry], kind: Kind, id: str, at_ms: int) -> list[Entry]:
    found = (
        entry.ended_at(at_ms) if (entry.kind, entry.id) == (kind, id) else entry
        for entry in entries
    )
    return [entry for entry in found if entry is not None]


def beside_draft(
    entries: Iterable[Entry], puts: Sequence[Entry], deletes: Iterable[tuple[Kind, str]]
) -> list[Entry]:
    """Return the entries that a draft leaves: those of ids that it neither has nor deletes."""
    gone = {(put.kind, put.id) for put in puts} | set(deletes)
    return [entry for entry in entries if (entry.kind, entry.id) not in gone]


def warnings(before: Sequence[Entry], after: Sequence[Entry], moments: Sequence[int]) -> list[str]:
    """Return what a change does that its proposer may not have meant.

    Args:
        moments: when it begins, and when it ends if it does.
    """
    told = []
    kept = {(entry.kind, entry.id, entry.version) for entry in after}
    for entry in before:
        if (entry.kind, entry.id, entry.version) not in kept:
            told.append(f"Version {entry.version}, scheduled, never comes into force.")
    for operation in OPERATIONS:
        for at_ms in moments:
            if _has_plan(before, operation, at_ms) and not _has_plan(after, operation, at_ms):
                told.append(f"From {rfc3339(at_ms)} no plan covers {operation}: it is refused.")
                break
    return told


def _has_plan(entries: Sequence[Entry], operation: str, at_ms: int) -> bool:
    return any(
        _may_cover(entry, operation)
        for entry in entries
        if entry.kind == "plan" and entry.is_in_force(at_ms)
    )


def _may_cover(entry: Entry, operation: str) -> bool:
    body: dict[str, Any] = msgspec.json.decode(entry.body)
    wanted = (body.get("match") or {}).get("operation")
    return not wanted or operation in wanted


def named_by(faults: Iterable[Fault], entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that faults of their own document lie at."""
    places: dict[str, Entry] = {}
    counts = dict.fromkeys(KINDS, 0)
    for entry in entries:
        places[f"/{LISTS[entry.kind]}/{counts[entry.kind]}"] = entry
        counts[entry.kind] += 1
    return [places[pointer] for pointer, _ in faults if pointer in places]


def relative(faults: Iterable[Fault], places: dict[str, str]) -> list[Fault]:
    """Return the faults that lie under some places of the document, each seen from there.

    Args:
        places: by pointer into the document: what its faults' pointers begin with instead.
    """
    found = []
    for pointer, detail in faults:
        root = "/".join(pointer.split("/")[:3])
        if root in places:
            found.append((places[root] + pointer[len(root) :], detail))
        else:
            found.append(("", f"{pointer}: {detail}"))
    return found
