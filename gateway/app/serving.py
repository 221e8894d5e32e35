"""One worker on a port, until it is told to stop."""

import asyncio
import gc
import signal
import socket

import structlog
from aiohttp import web

from gateway.app.worker import gateway
from gateway.kernel.http.server import make_server
from gateway.kernel.secrets import Keys
from gateway.settings import Settings

log = structlog.get_logger("app")
DRAIN_TIMEOUT_S = 25.0
GC_ALLOCATIONS = 50_000


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that shares its port with the other workers'."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    return listening


async def serve(settings: Settings, keys: Keys, *, ready: asyncio.Event | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT, then finish what is in flight within 25 s."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with gateway(settings, keys) as front:
        runner = web.ServerRunner(make_server(front), shutdown_timeout=DRAIN_TIMEOUT_S)
        await runner.setup()
        site = web.SockSite(
            runner, listening_socket(settings.http.host, settings.http.port), backlog=4096
        )
        await site.start()
        # What is alive now stays alive: the collector need not look at it again. What comes dies
        # young and without cycles: looking seldom costs nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 20)
        log.info("serving", port=settings.http.port)
        if ready is not None:
            ready.set()
        await stopping.wait()
        log.info("stopping")
        front.end_streams()
        await runner.cleanup()
