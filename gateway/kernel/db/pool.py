"""The connection pool: what every connection of ours is set to."""

from typing import Any

import asyncpg


async def _keep_as_it_is(connection: Any) -> None:
    """Leave a returned connection alone: nothing of ours changes a session's settings."""


async def create(url: str, *, size_max: int, command_timeout_s: float) -> asyncpg.Pool:
    """Open a pool.

    Args:
        size_max: connections at most.
        command_timeout_s: after which a statement's outcome is unknown.
    """
    return await asyncpg.create_pool(
        url,
        min_size=min(3, size_max),
        max_size=size_max,
        command_timeout=command_timeout_s,
        reset=_keep_as_it_is,
        server_settings={"application_name": "oqim", "timezone": "UTC", "jit": "off"},
    )
