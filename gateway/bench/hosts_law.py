"""The law of hosts: a second gateway elsewhere, over the same PostgreSQL and Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any

from gateway.bench.beside import Neighbour, beside
from gateway.bench.crowd import complaints, crowd, until_capped
from gateway.bench.namespaces import Host, another_host
from gateway.bench.rows import Law, Scale
from gateway.measuring import config
from gateway.measuring.config import CAP, DIRECT, SHARED
from gateway.measuring.stage import Stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

# Sessions that are ended with one host paid through, and as many with two; how long it is paid.
REVOKED, PAID_S = 20, 4.0
OTHER_HOST = "The second is in a network namespace of its own, and all it hears goes over a wire"
NO_HOST = "Both are processes side by side, since namespaces are not permitted here"


async def hosts(stage: Stage, progress: Progress, scale: Scale) -> Law:
    """Two gateways over one PostgreSQL and one Redis: exact limits, and revocations kept at once.

    What is timed is the call that ends a session while one host is paid through, and while both
    are; when it has returned, neither may take the session's token.
    """
    broken: list[str] = []
    users = stage.sandbox["users"]
    first_url = str(stage.sandbox["base_url"])
    async with AsyncExitStack() as stack:
        step = stack.enter_context(progress.step("law-hosts"))
        host = await stack.enter_async_context(another_host())
        neighbour = await stack.enter_async_context(_beside_at(stage, host))
        both = await stack.enter_async_context(crowd(stage, neighbour))
        took: list[float] = []
        for count in (1, 2):
            step.note(f"ending sessions, {count} host(s) paid through")
            own = users[(count - 1) * REVOKED : count * REVOKED]
            loading = asyncio.ensure_future(both.load(count, scheme=DIRECT, seconds=PAID_S))
            try:
                us, told = await _end_sessions(stage, own, [first_url, neighbour.base_url])
            finally:
                broken += complaints(await loading)
            took.append(median(us))
            broken += told
        step.note("until the limit is reached")
        broken += await until_capped(stage, both, SHARED, scale.seconds)
        step.note("checking the books")
        broken += await stage.broken(DIRECT, SHARED)
    return Law(
        row="law-hosts",
        what="a call that ends a session",
        grows="hosts over one PostgreSQL and one Redis",
        points=((1, took[0], 1.0), (2, took[1], took[1] / took[0])),
        goal=None,
        note=(
            f"{2 * REVOKED} sessions were ended, and no host took a token of theirs afterwards; "
            f"of a limit of {CAP:,} payments, {CAP:,} were let through by two hosts together. "
            f"{OTHER_HOST if host else NO_HOST}. As many pay meanwhile, through one or through both"
        ),
        broken=tuple(dict.fromkeys(broken)),
    )


@asynccontextmanager
async def _beside_at(stage: Stage, host: Host | None) -> AsyncIterator[Neighbour]:
    """Run a gateway on another host; where there can be none, beside the first one."""
    environment = None
    if host is not None:
        own = stage.sandbox_file.parent / "config"
        environment = config.listen(own, stage.work / "host", host.address)
    async with beside(stage, environment, host) as neighbour:
        yield neighbour


async def _end_sessions(
    stage: Stage, users: Sequence[Mapping[str, Any]], urls: Sequence[str]
) -> tuple[list[float], list[str]]:
    """End each user's session at the first host; returns how long each call took, us, and what
    does not hold."""
    took_us, broken = [], []
    for user in users:
        bearer = {"Authorization": f"Bearer {user['access_token']}"}
        for url in urls:
            async with stage.http.get(f"{url}/v1/sessions", headers=bearer) as answer:
                listed = await answer.json()
                if answer.status != 200:
                    raise SandboxError(f"sessions cannot be listed: {answer.status} {listed}")
        session = next(one["id"] for one in listed["data"] if one["is_current"])
        started = time.perf_counter()
        async with stage.http.delete(f"{urls[0]}/v1/sessions/{session}", headers=bearer) as answer:
            if answer.status != 204:
                broken.append(f"a session could not be ended: {answer.status}")
        took_us.append((time.perf_counter() - started) * 1e6)
        for url in urls:
            async with stage.http.get(f"{url}/v1/sessions", headers=bearer) as answer:
                if answer.status != 401:
                    broken.append("a host took the token of a session that had ended")
    return took_us, broken
