"""Reading what an operator drafts: complete, or every fault of it at once, and nothing written.

The core alone knows the rules of rules (`gateway.core.read_rules`): a draft is put into the whole
document and the document is compiled. Added here is only what a draft may not say, or not now.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from gateway.core import RuleSet, read_rules
from gateway.kernel.http.problems import Problem
from gateway.rules.document import (
    LISTS,
    RANGE_MEMBERS,
    Entry,
    Fault,
    Kind,
    Members,
    bare_body,
    beside_draft,
    document,
    named_by,
    raw,
    relative,
    text_of,
    with_put,
)
from gateway.rules.times import parsed

FAULTS_MAX = 100
_UNKNOWN = "This member is not known."


@dataclass(frozen=True, slots=True)
class Draft:
    """One rule as it was sent.

    Args:
        members: without a version, and without members that are null.
        id: "" when it has none that can be used; the core says so.
        from_ms: None: at approval.
    """

    kind: Kind
    id: str
    members: Members
    from_ms: int | None
    to_ms: int | None

    def entry(self, version: int) -> Entry:
        """Return it as the next version of its id."""
        body = bare_body(self.members, version=version)
        return Entry(self.kind, self.id, version, body, self.from_ms, self.to_ms)


def read_draft(kind: Kind, body: bytes, *, at: str = "") -> tuple[Draft, list[Fault]]:
    """Return a canonical JSON body as a draft, and what is wrong with it that the core allows.

    Args:
        at: where the body is in what was sent; pointers begin with it.

    Raises:
        Problem: `rules-invalid` when it is no object at all.
    """
    try:
        sent = msgspec.json.decode(body, type=Members)
    except msgspec.ValidationError:
        raise invalid([(at, "Must be an object.")]) from None
    faults = [(f"{at}/version", _UNKNOWN)] if "version" in sent else []
    members = {
        name: value for name, value in sent.items() if name != "version" and bytes(value) != b"null"
    }
    moments = {}
    for name in RANGE_MEMBERS:
        text = text_of(members.get(name))
        moments[name] = None if text is None else parsed(text)
        if name in members and moments[name] is None:
            faults.append((f"{at}/{name}", "Must be an RFC 3339 time with an offset."))
    id = text_of(members.get("id")) or ""
    return Draft(kind, id, members, *moments.values()), faults


def of_version(entry: Entry, *, effective_from: str | None) -> tuple[Draft, list[Fault]]:
    """Return the draft that brings a version back, and what is wrong with when it is to begin."""
    members = msgspec.json.decode(entry.body, type=Members)
    del members["version"]
    if effective_from is not None:
        members["effective_from"] = raw(effective_from)
    return read_draft(entry.kind, msgspec.json.encode(members))


async def compiled(entries: Sequence[Entry], rates: Sequence[object]) -> RuleSet | list[Fault]:
    """Return the set that the entries and rates are, or everything wrong with the document."""
    return await asyncio.to_thread(read_rules, document(entries, rates))


async def faults_of(
    draft: Draft, entries: Sequence[Entry], rates: Sequence[object], *, version: int, at_ms: int
) -> list[Fault]:
    """Return what is wrong with a draft put into a document, with pointers into the draft.

    Args:
        at_ms: the moment it is looked at, at which it begins when it does not say.
    """
    faults: list[Fault] = []
    if draft.from_ms is not None and draft.from_ms < at_ms:
        detail = "Must not be in the past; leave it out to begin at approval."
        faults.append(("/effective_from", detail))
    begins_ms = at_ms if draft.from_ms is None else draft.from_ms
    after = with_put(entries, draft.entry(version), at_ms=begins_ms)
    read = await compiled(after, rates)
    if isinstance(read, RuleSet):
        return faults
    last = sum(entry.kind == draft.kind for entry in after) - 1
    return [*faults, *relative(read, {f"/{LISTS[draft.kind]}/{last}": ""})]


# What the core says of a member that it does not know.
_UNKNOWN_MEMBER = "This member is not known."


def invalid(faults: Sequence[Fault]) -> Problem:
    """Return the refusal of a body with everything that is wrong with it, each place once."""
    places: dict[str, str] = {}
    for pointer, detail in faults:
        places.setdefault(pointer, detail)
    shown = tuple(places.items())[:FAULTS_MAX]
    is_unknown = bool(shown) and all(detail == _UNKNOWN_MEMBER for _, detail in shown)
    slug = "unknown-member" if is_unknown else "rules-invalid"
    return Problem(slug, "The rules cannot be used as they are.", errors=shown)


@dataclass(frozen=True, slots=True)
class Wish:
    """Drafts and deletions together, as a simulation has them.

    Args:
        puts: versions that are counted as in force for ever.
        deletes: what is counted as never having been.
    """

    puts: list[Entry]
    deletes: list[tuple[Kind, str]]

    def stored(self) -> str:
        """Return the JSON that `restored` reads."""
        puts = [
            {"kind": one.kind, "id": one.id, "version": one.version, "body": msgspec.Raw(one.body)}
            for one in self.puts
        ]
        return msgspec.json.encode({"puts": puts, "deletes": self.deletes}).decode()


class _StoredPut(msgspec.Struct):
    kind: Kind
    id: str
    version: int
    body: msgspec.Raw


class _StoredWish(msgspec.Struct):
    puts: list[_StoredPut]
    deletes: list[tuple[Kind, str]]


def restored(text: str) -> Wish:
    """Return a wish from its stored JSON."""
    stored = msgspec.json.decode(text, type=_StoredWish)
    puts = [
        Entry(one.kind, one.id, one.version, bytes(one.body), None, None) for one in stored.puts
    ]
    return Wish(puts, stored.deletes)


def wish_of(draft: Draft, version: int) -> Wish:
    """Return the wish for one draft, its dates left out."""
    return Wish([replace(draft.entry(version), from_ms=None, to_ms=None)], [])


async def drafted(
    wish: Wish, entries: Sequence[Entry], rates: Sequence[object]
) -> tuple[RuleSet, list[Entry]]:
    """Return the rules of a document with a wish in them, and the plans that gave way to it.

    A plan of then may stand where a draft would: no payment may match two of equal priority.

    Raises:
        ValueError: the wish cannot be used beside anything.
    """
    kept = beside_draft(entries, wish.puts, wish.deletes)
    # The later of two plans that meet is the one that is named: the draft comes first.
    read = await compiled([*wish.puts, *kept], rates)
    if isinstance(read, RuleSet):
        return read, []
    gave_way = named_by(read, [*wish.puts, *kept])
    read = await compiled([*wish.puts, *(one for one in kept if one not in gave_way)], rates)
    if isinstance(read, RuleSet):
        return read, gave_way
    raise ValueError(f"the draft cannot be used: {read[0][0]}: {read[0][1]}")


async def faults_of_wish(
    wish: Wish,
    places: Sequence[str],
    entries: Sequence[Entry],
    rates: Sequence[object],
    *,
    at_ms: int,
) -> list[Fault]:
    """Return what is wrong with a wish put beside what is in force at a moment.

    Args:
        places: of each put: the pointer to where it was sent.
    """
    in_force = [entry for entry in entries if entry.is_in_force(at_ms)]
    after = [*beside_draft(in_force, wish.puts, wish.deletes), *wish.puts]
    read = await compiled(after, rates)
    if isinstance(read, RuleSet):
        return []
    # Puts are the last of their kind, in their own order.
    left = {kind: sum(one.kind == kind for one in after) for kind in LISTS}
    roots = {}
    for put, place in reversed(list(zip(wish.puts, places, strict=True))):
        left[put.kind] -= 1
        roots[f"/{LISTS[put.kind]}/{left[put.kind]}"] = place
    return relative(read, roots)
