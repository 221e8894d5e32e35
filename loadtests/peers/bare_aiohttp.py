"""The yardstick of a payment: aiohttp that reads a JSON body and answers a constant.

Nothing is checked, stored or sent: this is the front alone, tuned as the gateway's own is (uvloop,
no access log). The answer has the size of a payment's.

    python loadtests/peers/bare_aiohttp.py
"""

import asyncio
import gc
import json
import sys

import uvloop
from aiohttp import web

ANSWER = json.dumps({"id": "pay_" + "0" * 26, "status": "succeeded", "padding": "0" * 680}).encode()


async def pay(request: web.Request) -> web.Response:
    """Read the body as JSON, and answer."""
    await request.json()
    return web.Response(body=ANSWER, content_type="application/json")


async def serve() -> None:
    """Serve on a port of the machine's choice until standard input ends; print the port."""
    app = web.Application()
    app.router.add_post("/v1/payments", pay)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    gc.collect()
    gc.freeze()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve())
