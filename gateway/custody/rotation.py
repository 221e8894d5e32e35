"""A new data key, and everything sealed anew by it, while payments run; and a new KEK.

Goes on where it was left: what was done is in `data_keys` and in the first byte of what is sealed.
Each step waits until every worker that may act has seen the one before: a worker reads the keys
with the revocations, and accepts nothing once that reading is `feed_age_s_max` old.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.custody.columns import COLUMNS, SealedColumn
from gateway.kernel.secrets import KeysError
from gateway.kernel.vault.keyring import ADD, LOCK, binding, new_key
from gateway.kernel.vault.providers import Provider
from gateway.kernel.vault.vault import Vault

BATCH_SIZE_MAX = 500
NUMBER_MAX = 255
# Beyond the age at which a worker stops by itself.
MARGIN_S = 1.0

_ALL = "SELECT id, state, kek, wrapped FROM data_keys ORDER BY id"
_STATE = "UPDATE data_keys SET state = $2, changed_at = now() WHERE id = $1"
_DESTROY = """
UPDATE data_keys SET state = 'destroyed', wrapped = NULL, changed_at = now() WHERE id = $1
"""
_REWRAP = "UPDATE data_keys SET kek = $2, wrapped = $3, changed_at = now() WHERE id = $1"

Tell = Callable[[str], None]
Advance = Callable[[str, int, int], None]
"""Told of which column how many values of how many are sealed anew."""


async def rotate(
    connection: Any, provider: Provider, *, seen_after_s: float, tell: Tell, advance: Advance
) -> int:
    """Seal everything by a new data key and destroy the others.

    Args:
        connection: of asyncpg, to nothing else.
        seen_after_s: after which every worker that may act knows of a change.
        tell: what is being done, in words.

    Returns:
        How many values were sealed anew.

    Raises:
        KeysError: a key cannot be unwrapped, or all 255 numbers are used.
    """
    number = await _ensure_new(connection, provider, tell)
    if number is not None:
        tell(f"waiting {seen_after_s:.0f} s until every worker can open what it seals")
        await asyncio.sleep(seen_after_s)
        await _begin_sealing(connection, number)
        tell(f"data key {number} seals")
        tell(f"waiting {seen_after_s:.0f} s until every worker seals by it")
        await asyncio.sleep(seen_after_s)
    vault, others = await _open(connection, provider)
    count = 0
    for column in COLUMNS:
        count += await reseal(connection, column, vault, advance)
    for left in [await sealed_by(connection, column, vault.sealing) for column in COLUMNS]:
        if left:
            raise KeysError(f"{left} values are not sealed anew yet; run it again")
    for other in others:
        await connection.execute(_DESTROY, other)
        tell(f"data key {other} is destroyed: nothing is sealed by it any more")
    return count


async def _ensure_new(connection: Any, provider: Provider, tell: Tell) -> int | None:
    """Return the key that is to seal; None when one was begun with and only resealing is left."""
    async with connection.transaction():
        await connection.execute(LOCK)
        rows = await connection.fetch(_ALL)
        states = {row["id"]: row["state"] for row in rows}
        begun: list[int] = [number for number, state in states.items() if state == "new"]
        if begun:
            tell(f"going on with data key {begun[0]}")
            return begun[0]
        if "opening" in states.values():
            tell("going on with what is sealed by older keys")
            return None
        number: int = max(states, default=0) + 1
        if number > NUMBER_MAX:
            raise KeysError(f"all {NUMBER_MAX} numbers of data keys are used")
        wrapped = provider.wrap(new_key(), bound_to=binding(number))
        await connection.execute(ADD, number, "new", provider.kek, wrapped)
        tell(f"data key {number} is made")
        return number


async def _begin_sealing(connection: Any, number: int) -> None:
    async with connection.transaction():
        await connection.execute(LOCK)
        for row in await connection.fetch(_ALL):
            if row["state"] == "sealing":
                await connection.execute(_STATE, row["id"], "opening")
        await connection.execute(_STATE, number, "sealing")


async def _open(connection: Any, provider: Provider) -> tuple[Vault, list[int]]:
    rows = [row for row in await connection.fetch(_ALL) if row["state"] != "destroyed"]
    keys = {row["id"]: provider.unwrap(row["wrapped"], bound_to=binding(row["id"])) for row in rows}
    (sealing,) = [row["id"] for row in rows if row["state"] == "sealing"]
    return Vault(keys, sealing), [number for number in keys if number != sealing]


async def sealed_by(connection: Any, column: SealedColumn, number: int) -> int:
    """Return how many values of a column are not sealed by a key."""
    count: int = await connection.fetchval(
        f"SELECT count(*) FROM {column.table}"
        f" WHERE {column.column} IS NOT NULL AND get_byte({column.column}, 0) <> $1",
        number,
    )
    return count


async def reseal(connection: Any, column: SealedColumn, vault: Vault, advance: Advance) -> int:
    """Seal a column's values anew, a batch a commit; what changes meanwhile is left as it is."""
    total = await sealed_by(connection, column, vault.sealing)
    read = (
        f"SELECT {column.key} AS key, {column.column} AS sealed FROM {column.table}"
        f" WHERE {column.column} IS NOT NULL AND get_byte({column.column}, 0) <> $1"
        f" AND ($2::{column.key_type} IS NULL OR {column.key} > $2)"
        f" ORDER BY {column.key} LIMIT {BATCH_SIZE_MAX}"
    )
    write = (
        f"UPDATE {column.table} t SET {column.column} = n.after"
        f" FROM unnest($1::{column.key_type}[], $2::bytea[], $3::bytea[]) AS n (key, before, after)"
        f" WHERE t.{column.key} = n.key AND t.{column.column} = n.before"
    )
    done, last = 0, None
    while rows := await connection.fetch(read, vault.sealing, last):
        anew = []
        for row in rows:
            bound_to = column.binding(row["key"])
            text = vault.open(row["sealed"], bound_to=bound_to)
            anew.append(vault.seal(text, bound_to=bound_to))
        await connection.execute(
            write, [row["key"] for row in rows], [row["sealed"] for row in rows], anew
        )
        done, last = done + len(rows), rows[-1]["key"]
        advance(column.name, done, max(done, total))
    return done


async def rewrap(connection: Any, provider: Provider, successor: Provider) -> int:
    """Wrap every data key by another key-encryption key; nothing is sealed anew.

    Workers go on with the keys they have, and must be started again with the new shares before
    another data key is made.

    Returns:
        How many keys were wrapped anew.

    Raises:
        KeysError: one is wrapped by neither.
    """
    count = 0
    async with connection.transaction():
        await connection.execute(LOCK)
        for row in await connection.fetch(_ALL):
            if row["state"] == "destroyed" or row["kek"] == successor.kek:
                continue
            key = provider.unwrap(row["wrapped"], bound_to=binding(row["id"]))
            wrapped = successor.wrap(key, bound_to=binding(row["id"]))
            await connection.execute(_REWRAP, row["id"], successor.kek, wrapped)
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class KeyState:
    """One data key, and how many values are sealed by it."""

    number: int
    state: str
    kek: str
    values: int


async def states(connection: Any) -> list[KeyState]:
    """Return every data key there ever was."""
    counts: Counter[int] = Counter()
    for column in COLUMNS:
        rows = await connection.fetch(
            f"SELECT get_byte({column.column}, 0) AS number, count(*) AS count FROM {column.table}"
            f" WHERE {column.column} IS NOT NULL GROUP BY 1"
        )
        counts.update({row["number"]: row["count"] for row in rows})
    return [
        KeyState(row["id"], row["state"], row["kek"], counts[row["id"]])
        for row in await connection.fetch(_ALL)
    ]
