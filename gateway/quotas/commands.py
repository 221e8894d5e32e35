"""`oqim clients limit`, as it is typed and what it prints.

What it does is imported when it is done: no other command waits for it.
"""

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gateway import settings as settings_module
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from gateway.quotas.model import LimitsBody, LimitsView


class LimitError(Exception):
    """Limits that cannot be set; the text says why."""


def limit(
    client_id: str,
    *,
    rate: Annotated[int | None, Parameter(help="Requests a second.")] = None,
    burst: Annotated[
        int | None, Parameter(help="Requests that may come at once, ahead of the rate.")
    ] = None,
    concurrency: Annotated[
        int | None, Parameter(help="Requests under way at once; 0: as many as come.")
    ] = None,
    network: Annotated[
        list[str] | None,
        Parameter(help="Where it may ask from: 203.0.113.0/24; give it again for each."),
    ] = None,
) -> None:
    """Set what a client may ask for, whole: what is not given is as its channel has it.

    `oqim clients limit shop --rate 100 --burst 300 --network 203.0.113.0/24`

    Every worker holds it to that within a second. Without options it is as any other of its
    channel (config/settings.toml), from anywhere. Writes the database of OQIM_DATABASE_URL, and the
    audit log.
    """
    from gateway.quotas.model import LimitsBody

    body = LimitsBody(rate, burst, concurrency, network or [])
    try:
        url = settings_module.load().database.url
        if not url:
            raise SettingsError("OQIM_DATABASE_URL is not set")
        view = run(url, client_id, body, actor=f"cli:{getpass.getuser()}")
    except (LimitError, SettingsError) as error:
        print(f"oqim: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name in ("rate_per_s", "burst", "concurrency_max"):
        value = getattr(view, name)
        print(f"{name:<16} {'as its channel' if value is None else value}")
    print(f"{'networks':<16} {' '.join(view.networks) or 'any'}")


def run(url: str, client_id: str, body: "LimitsBody", *, actor: str) -> "LimitsView":
    """Change a client's limits, whole. Raises LimitError."""
    import msgspec

    from gateway.kernel.http.problems import Problem
    from gateway.quotas.model import LimitsBody

    try:
        # As a body of HTTP is, so that bounds are said once.
        checked = msgspec.convert(msgspec.to_builtins(body), LimitsBody)
        return asyncio.run(_put(url, client_id, checked, actor))
    except msgspec.ValidationError as error:
        raise LimitError(str(error)) from None
    except Problem as problem:
        raise LimitError(problem.detail) from None


async def _put(url: str, client_id: str, body: "LimitsBody", actor: str) -> "LimitsView":
    import asyncpg

    from gateway.kernel.clock import system_clock
    from gateway.quotas.limits import ClientLimits

    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        limits = ClientLimits(pool=pool, clock=system_clock)
        return await limits.put(client_id, body, actor=actor, revision=None)
