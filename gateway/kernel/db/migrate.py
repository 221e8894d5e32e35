"""Migrations: plain SQL files, up and down, each in a transaction, under a lock (yoyo)."""

from collections.abc import Callable
from pathlib import Path

import yoyo

FOLDER = Path(__file__).resolve().parent.parent.parent / "migrations"
_LOCK_TIMEOUT_S = 60
# Tables of days to come: made here too, for a database that no worker has run on for long.
_MAKE_DAYS = "SELECT make_event_days()"


def _backend(database_url: str) -> yoyo.backends.DatabaseBackend:
    return yoyo.get_backend(database_url.replace("postgresql://", "postgresql+psycopg://", 1))


def apply(database_url: str, tell: Callable[[str], None]) -> int:
    """Apply what is not applied yet; blocks. Returns how many were."""
    with _backend(database_url) as backend:
        migrations = yoyo.read_migrations(str(FOLDER))
        with backend.lock(_LOCK_TIMEOUT_S):
            pending = backend.to_apply(migrations)
            for migration in pending:
                tell(migration.id)
            backend.apply_migrations(pending)
            with backend.transaction():
                backend.execute(_MAKE_DAYS)
            return len(pending)


def roll_back(database_url: str, tell: Callable[[str], None]) -> int:
    """Undo the last applied migration; blocks. Returns how many were undone."""
    with _backend(database_url) as backend:
        migrations = yoyo.read_migrations(str(FOLDER))
        with backend.lock(_LOCK_TIMEOUT_S):
            applied = backend.to_rollback(migrations)[:1]
            for migration in applied:
                tell(migration.id)
            backend.rollback_migrations(applied)
            return len(applied)
