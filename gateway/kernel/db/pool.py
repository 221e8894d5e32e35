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
        server_settings={
            "application_name": "oqim",
            "timezone": "UTC",
            "jit": "off",
            # Every statement of ours is the same for any arguments: planned once a connection.
            "plan_cache_mode": "force_generic_plan",
            # And every one looks rows up by an index, a batch at most: a plan made while a table
            # was empty must still be right when it is full.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        },
    )
