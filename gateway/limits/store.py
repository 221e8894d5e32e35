"""SQL of limit states: one row a subject, an opaque state of the core, and its version."""

from collections.abc import Iterable
from typing import Any

from gateway.core import Core

STATES = "SELECT subject, version, state FROM limit_states WHERE subject = ANY($1::text[])"

# A subject without a row cannot be locked: it gets an empty one first.
PLACE_STATES = """
INSERT INTO limit_states (subject, version, state)
SELECT subject, 0, '' FROM unnest($1::text[]) AS given (subject) ORDER BY subject
ON CONFLICT (subject) DO NOTHING
"""
# In key order, everywhere, so that two workers never wait for one another.
LOCK_STATES = """
SELECT subject, version, state FROM limit_states WHERE subject = ANY($1::text[])
ORDER BY subject FOR UPDATE
"""


async def read_states(connection: Any, core: Core, subjects: Iterable[str]) -> None:
    """Give the core the states of `subjects`; one without a row is at version 0."""
    unknown = set(subjects)
    for row in await connection.fetch(STATES, list(unknown)):
        unknown.discard(row["subject"])
        core.load_state(row["subject"], row["version"], row["state"])
    for subject in unknown:
        core.load_state(subject, 0, b"")


async def lock_states(connection: Any, core: Core, subjects: list[str]) -> dict[str, int]:
    """Lock the rows of `subjects` until the transaction ends and give the core what they hold.

    Returns:
        The version of each.
    """
    await connection.execute(PLACE_STATES, subjects)
    rows = await connection.fetch(LOCK_STATES, subjects)
    for row in rows:
        core.load_state(row["subject"], row["version"], row["state"])
    return {row["subject"]: row["version"] for row in rows}
