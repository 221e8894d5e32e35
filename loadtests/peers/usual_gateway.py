"""The usual way to build a payment gateway, to be measured against: aiohttp, asyncpg, redis-py.

One worker pays purchases over the UZCARD simulator through aiohttp's client.

The same as the gateway that it is compared with: `POST /v1/payments` with its request, the main
fields of its answer, its idempotency (same key and body: the same bytes; another body: 422; first
still running: 409); signature, times, audience, issuer and scope of the token; session, owner and
state of the card; the three limit policies that match, counted so that no interleaving passes one;
commission and VAT; the processor's token sealed with AES-256-GCM. The intent is committed before
the processor is asked and the outcome, with postings that sum to zero, before the answer.

Not the same, and all in this one's favour: no audit log, no record of why a payment was decided
so, no revocation feed, no recovery of payments in doubt, no reservation that survives the loss of
Redis, no rules that change while it runs, no overload control, no metrics, one operation alone.

Row by row: Redis is asked for the session, then for the counters in a MULTI; PostgreSQL has two
transactions a payment, of a statement each row. `--tuned` (usual_tuned.py) keeps that shape, with
everything that a careful team would do to it.

    python -m loadtests.peers.usual_gateway var/sandbox.json seeded.json [--tuned]
"""

import asyncio
import gc
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import jwt
import redis.asyncio
import uvloop
from aiohttp import web

from gateway.sandbox.run import LOGIN, PASSWORD
from loadtests.peers.usual_flow import Gateway, Ground
from loadtests.peers.usual_ground import connect, prepare
from loadtests.peers.usual_tuned import TunedGateway

PROCESSOR_TIMEOUT_S = 10.0


async def _keep(connection: Any) -> None:
    """Give a connection back as it is: nothing here changes a session's settings."""


async def open_ground(
    sandbox: dict[str, Any],
    seeded: dict[str, Any],
    stack: AsyncExitStack,
    *,
    is_tuned: bool = False,
) -> Ground:
    """Make schema, cards and sessions, and open everything but the pool of the database."""
    client = redis.asyncio.Redis.from_url(sandbox["redis_url"])
    stack.push_async_callback(client.aclose)
    connection = await connect(sandbox["database_url"])
    seal = await prepare(connection, client, seeded, sandbox["database_url"])
    await connection.close()
    http = await stack.enter_async_context(
        aiohttp.ClientSession(
            headers={
                "Authorization": aiohttp.encode_basic_auth(LOGIN, PASSWORD),
                "Content-Type": "application/json",
            },
            timeout=aiohttp.ClientTimeout(total=PROCESSOR_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0 if is_tuned else 100),
        )
    )
    async with http.get(f"{sandbox['base_url']}/.well-known/jwks.json") as answer:
        found = jwt.PyJWKSet.from_dict(await answer.json())
    keys = {one.key_id: one.key for one in found.keys}
    return Ground(None, client, http, sandbox["simulators"]["uzcard"], keys, seal)


async def serve(sandbox: dict[str, Any], seeded: dict[str, Any], *, is_tuned: bool) -> None:
    """Serve on a port of the machine's choice until standard input ends; print the port."""
    async with AsyncExitStack() as stack:
        ground = await open_ground(sandbox, seeded, stack, is_tuned=is_tuned)
        size, reset = (64, _keep) if is_tuned else (20, None)
        ground.pool = await stack.enter_async_context(
            asyncpg.create_pool(sandbox["database_url"], min_size=size, max_size=size, reset=reset)
        )
        gateway = TunedGateway(ground) if is_tuned else Gateway(ground)
        app = web.Application()
        app.router.add_post("/v1/payments", gateway.pay)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        gc.collect()
        gc.freeze()
        print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve; the tuned one on uvloop."""
    sandbox, seeded = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
    is_tuned = "--tuned" in sys.argv[3:]
    factory = uvloop.new_event_loop if is_tuned else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(sandbox, seeded, is_tuned=is_tuned))


if __name__ == "__main__":
    main()
