"""`oqim clients limit`: a client's limits, changed from the command line."""

import asyncio

import asyncpg
import msgspec

from gateway.kernel.clock import system_clock
from gateway.kernel.http.problems import Problem
from gateway.quotas.limits import ClientLimits
from gateway.quotas.model import LimitsBody, LimitsView


class LimitError(Exception):
    """Limits that cannot be set; the text says why."""


def run(url: str, client_id: str, body: LimitsBody, *, actor: str) -> LimitsView:
    """Change a client's limits, whole. Raises LimitError."""
    try:
        # As a body of HTTP is, so that bounds are said once.
        body = msgspec.convert(msgspec.to_builtins(body), LimitsBody)
        return asyncio.run(_put(url, client_id, body, actor))
    except msgspec.ValidationError as error:
        raise LimitError(str(error)) from None
    except Problem as problem:
        raise LimitError(problem.detail) from None


async def _put(url: str, client_id: str, body: LimitsBody, actor: str) -> LimitsView:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        limits = ClientLimits(pool=pool, clock=system_clock)
        return await limits.put(client_id, body, actor=actor, revision=None)
