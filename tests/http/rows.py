"""What a row of the catalogue of bad input is, and what is looked at after it.

A row says what is sent, and by which problem it is refused. Nothing here imports the product.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.house import House, Reply
from tests.http.doors import MARK, Books

Send = Callable[[House, "Everything"], Awaitable[Reply | None]]


@dataclass(frozen=True, slots=True)
class Row:
    """One bad input.

    Args:
        number: of the catalogue.
        send: sends it; what it had to arrange first it declares done with `Everything.open`.
        pointer: where the first of the problem's errors points, or begins to.
        is_arranged: whether something had to be arranged.
    """

    number: int
    what: str
    send: Send
    status: int
    slug: str
    pointer: str | None = None
    is_arranged: bool = False


# What changes by itself, or tells of a refusal on purpose.
_MOVING = {
    "_yoyo_log": "the migration tool's",
    "_yoyo_migration": "the migration tool's",
    "_yoyo_version": "the migration tool's",
    "yoyo_lock": "the migration tool's",
    "audit_roots": "signed by the minute",
    "decision_log": "a refused decision is kept",
    "refusals": "a refused decision is kept",
    "event_positions": "what was read of the outbox",
    "ledger_hours": "rolled up by the hour",
    "ledger_sums": "rolled up by the hour",
    "revocation_acks": "what workers have read",
    "revocation_followers": "the workers",
    "workers": "the workers",
}
_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


class Everything(Books):
    """Every row of every table, and everything that processors were told."""

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._rows: dict[str, int] = {}

    async def open(self) -> None:
        """Remember how things are."""
        await super().open()
        self._rows = await self._count_rows()

    async def assert_untouched(self) -> None:
        """Assert that nothing was written, and no processor told anything."""
        await super().assert_untouched()
        now = await self._count_rows()
        written = {
            name: (before, now[name]) for name, before in self._rows.items() if now[name] != before
        }
        assert written == {}, f"a refusal was written: {written}"

    async def _count_rows(self) -> dict[str, int]:
        found = await self.house.rows(_TABLES)
        names = sorted(row["relname"] for row in found if row["relname"] not in _MOVING)
        counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)
        (row,) = await self.house.rows(f"SELECT {counts}")
        return dict(zip(names, row.values(), strict=True))


def logs_of(house: House) -> list[Path]:
    """Return the workers' logs."""
    return sorted((house.data_dir / "logs").glob("worker-*.log"))


def assert_not_logged(house: House) -> None:
    """Assert that nothing of what was sent stands in any worker's log."""
    paths = logs_of(house)
    assert paths, "the workers log"
    for path in paths:
        assert MARK not in path.read_text(), f"{path.name} holds what was sent"
