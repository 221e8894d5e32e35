"""`oqim vault`: what the commands do and say."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from gateway.custody import rotation
from gateway.kernel.progress import Counter
from gateway.kernel.vault.providers import Provider

Result = TypeVar("Result")


def _connected(database_url: str, act: Callable[[Any], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        connection = await asyncpg.connect(database_url)
        try:
            return await act(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def rotate(database_url: str, provider: Provider, *, feed_age_s_max: float) -> None:
    """Seal everything by a new data key, with progress."""
    with Counter("values", sys.stderr) as counter:

        async def act(connection: Any) -> int:
            return await rotation.rotate(
                connection,
                provider,
                seen_after_s=feed_age_s_max + rotation.MARGIN_S,
                tell=counter.print,
                advance=lambda column, done, total: counter.advance(done, total),
            )

        count = _connected(database_url, act)
    print(f"{count} values are sealed anew")


def rewrap(database_url: str, provider: Provider, successor: Provider) -> None:
    """Wrap every data key by another key-encryption key."""

    async def act(connection: Any) -> int:
        return await rotation.rewrap(connection, provider, successor)

    count = _connected(database_url, act)
    print(f"{count} data keys are wrapped by {successor.kek}; start the workers with it")


def status(database_url: str) -> None:
    """Say which data keys there are and what is sealed by each."""
    for one in _connected(database_url, rotation.states):
        print(
            f"data key {one.number:3}  {one.state:9}  {one.values:10} values  wrapped by {one.kek}"
        )
