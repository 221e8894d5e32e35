"""The first generation: the files of a new database, read once by whoever starts first."""

from typing import Any

import asyncpg
import msgspec
import structlog

from gateway.core import RuleSet
from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.rules import store
from gateway.rules.document import KINDS, LISTS, Entry, Kind
from gateway.rules.drafts import compiled, read_draft
from gateway.rules.rates import Rate, add_rates, as_document
from gateway.settings import SettingsError

log = structlog.get_logger("rules")

ACTOR = "config"


class _Files(msgspec.Struct, forbid_unknown_fields=True):
    commission_plans: list[dict[str, Any]] = []
    limit_policies: list[dict[str, Any]] = []
    rates: list[Rate] = []


async def ensure_first(pool: asyncpg.Pool, files: bytes, clock: Clock) -> None:
    """Make generation 1 of the files unless there is one.

    Args:
        files: JSON of the three files together, each rule without a version or with version 1.

    Raises:
        SettingsError: the files cannot be used; names everything that is wrong.
    """
    entries, rates = _read(files)
    async with pool.acquire() as connection, connection.transaction():
        if await store.newest(connection) == 0:
            await connection.execute(store.LOCK)
            if await store.newest(connection) == 0:
                await _make_first(connection, entries, rates, clock())
                return
        changed = await _changed(connection, entries)
    if changed:
        log.warning(
            "the files of rules differ from the first generation; the database's rules are used",
            changed=changed,
        )


def _read(files: bytes) -> tuple[list[Entry], list[Rate]]:
    try:
        read = msgspec.json.decode(files, type=_Files)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the files of rules: {error}") from error
    rules: dict[Kind, list[dict[str, Any]]] = {
        "plan": read.commission_plans,
        "policy": read.limit_policies,
    }
    return [_entry(kind, rule) for kind in KINDS for rule in rules[kind]], read.rates


def _entry(kind: Kind, rule: dict[str, Any]) -> Entry:
    if rule.get("version", 1) != 1:
        raise SettingsError(f"{LISTS[kind]}: the first version of a rule is version 1")
    kept = {name: value for name, value in rule.items() if name != "version"}
    draft, faults = read_draft(kind, msgspec.json.encode(kept))
    if faults:
        raise SettingsError(f"{LISTS[kind]}: {faults[0][0]}: {faults[0][1]}")
    return draft.entry(1)


async def _make_first(connection: Any, entries: list[Entry], rates: list[Rate], at_ms: int) -> None:
    read = await compiled(entries, as_document(rates))
    if not isinstance(read, RuleSet):
        told = "\n".join(f"{pointer}: {detail}" for pointer, detail in read)
        raise SettingsError(f"the files of rules cannot be used:\n{told}")
    seq = await store.add_generation(
        connection, at_ms=at_ms, actor=ACTOR, proposal_id=None, before=[], after=entries
    )
    await add_rates(connection, rates, seq)
    await audit.record(
        connection,
        at_ms=at_ms,
        actor=ACTOR,
        action="rules.seed",
        object=f"generation:{seq}",
        detail={"rules": len(entries), "rates": len(rates)},
    )
    log.info("the first rules were read from the files", rules=len(entries), rates=len(rates))


async def _changed(connection: Any, entries: list[Entry]) -> list[str]:
    """Return what the files have otherwise than the first generation, or have not."""
    given = {(one.kind, one.id): msgspec.json.decode(one.body) for one in entries}
    stored = {
        (kind, row["id"]): msgspec.json.decode(row["body"])
        for kind in KINDS
        for row in await connection.fetch(store.GET_FIRST_BODIES[kind])
    }
    keys = sorted(given.keys() | stored.keys())
    return [f"{kind} {id}" for kind, id in keys if given.get((kind, id)) != stored.get((kind, id))]
