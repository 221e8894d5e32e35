"""A pool whose callers wait for a connection no longer than they have patience.

When slow statements hold every connection, whoever comes next is refused soon instead of piling up
behind them. Must never cut short a wait of what was sent already: who has no bound waits.
"""

from collections.abc import Callable
from typing import Any

import asyncpg

Patience = Callable[[], float | None]
"""How many seconds the current task waits for a connection; None: for as long as it takes."""


class PatientPool(asyncpg.Pool):
    """Every connection is opened at the start and kept, so that none has to be waited for.

    `acquire`, and whatever acquires by itself, raises TimeoutError when the patience ends.
    """

    def __init__(self, url: str, *, size_max: int, patience: Patience, **settings: Any) -> None:
        super().__init__(
            url,
            min_size=size_max,
            max_size=size_max,
            max_queries=50_000,
            max_inactive_connection_lifetime=0.0,
            loop=None,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
            **settings,
        )
        self._patience = patience

    def acquire(self, *, timeout: float | None = None) -> Any:
        """Take a connection. A free one is taken without a timer."""
        if timeout is None and not self.get_idle_size():
            timeout = self._patience()
        return super().acquire(timeout=timeout)
