"""Limit states as the database holds them: one row a subject, opaque to all but the core.

What limits offer to the room that commits them with its payments: reading states, and locking them
when a worker's memory of a subject was found to be out of date. Nobody else writes them.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.core import Core, Staged

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


async def _lock_states(connection: Any, core: Core, subjects: list[str]) -> dict[str, int]:
    """Lock the rows of `subjects` until the transaction ends and give the core what they hold.

    Returns:
        The version of each.
    """
    await connection.execute(PLACE_STATES, subjects)
    rows = await connection.fetch(LOCK_STATES, subjects)
    for row in rows:
        core.load_state(row["subject"], row["version"], row["state"])
    return {row["subject"]: row["version"] for row in rows}


class Locks:
    """Locks subjects in key order, and remembers which are hot.

    Args:
        hot_s: how long a subject that another worker had moved is locked up front.
    """

    def __init__(self, core: Core, *, hot_s: float) -> None:
        self._core = core
        self._hot_s = hot_s
        self._hot: dict[str, float] = {}

    def is_hot(self, subjects: Sequence[str]) -> bool:
        """Whether any of them is to be locked before it is written."""
        if not self._hot:
            return False
        now = time.monotonic()
        self._hot = {subject: until for subject, until in self._hot.items() if until > now}
        return any(subject in self._hot for subject in subjects)

    async def lock(self, connection: Any, staged: Staged) -> None:
        """Lock a batch's subjects until the transaction ends; the core learns what they hold."""
        versions = await _lock_states(connection, self._core, staged.subjects)
        until = time.monotonic() + self._hot_s
        for subject, expected in zip(staged.subjects, staged.versions, strict=True):
            if versions[subject] != expected:
                self._hot[subject] = until
