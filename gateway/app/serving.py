"""One worker on a port, until it is told to stop."""

import asyncio
import gc
import os
import signal
import socket
import ssl
from pathlib import Path

import structlog
from aiohttp import web

from gateway.app.worker import gateway
from gateway.kernel.crew import Crew
from gateway.kernel.http.server import ConnectionLimits, HttpServer, make_server
from gateway.kernel.http.tls import TlsError, TlsFiles, open_context, reload
from gateway.kernel.metrics import Metrics
from gateway.kernel.secrets import Keys
from gateway.settings import Settings, SettingsError

log = structlog.get_logger("app")
DRAIN_TIMEOUT_S = 25.0
# A connection on which nobody asked anything for so long is closed without a last answer.
DRAIN_IDLE_S = 2.0
GC_ALLOCATIONS = 50_000


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that shares its port with the other workers'."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    return listening


def _tls_files(settings: Settings) -> TlsFiles | None:
    http = settings.http
    if not http.tls_certificate:
        return None
    client_ca = Path(http.tls_client_ca) if http.tls_client_ca else None
    return TlsFiles(Path(http.tls_certificate), Path(http.tls_key), client_ca)


def _open_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of the port, which takes a renewed certificate at SIGHUP."""
    files = _tls_files(settings)
    if files is None:
        # Without a certificate there is nothing to renew, and nothing to die of.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, log.info, "no certificate")
        return None
    try:
        context = open_context(files)
    except TlsError as error:
        raise SettingsError(str(error)) from None

    def renew() -> None:
        try:
            reload(context, files)
        except TlsError as error:
            log.error("the certificate was not renewed", reason=str(error))
        else:
            log.info("the certificate was renewed")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
    return context


def _connection_limits(settings: Settings) -> ConnectionLimits:
    http = settings.http
    return ConnectionLimits(
        connections_max=http.connections_max,
        head_timeout_s=http.head_timeout_s,
        idle_timeout_s=http.idle_timeout_s,
    )


def _expose(metrics: Metrics, server: HttpServer) -> None:
    metrics.gauge("connections", "Open connections.", lambda: float(server.connections_count))
    metrics.gauge(
        "connections_refused", "Connections too many.", lambda: float(server.refused_count)
    )


async def serve(settings: Settings, keys: Keys, *, ready: asyncio.Event | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT, then finish what is in flight within 25 s.

    SIGTERM drains first: nobody new is let in, and each client is told with its next answer to
    connect anew, which leads to another worker.
    """
    stopping = asyncio.Event()
    is_draining = False

    def drain() -> None:
        nonlocal is_draining
        is_draining = True
        stopping.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    tls = _open_tls(settings)
    crew = Crew(os.environ)
    async with gateway(settings, keys, crew) as front:
        server = make_server(front, _connection_limits(settings))
        _expose(front.metrics, server)
        runner = web.ServerRunner(server, shutdown_timeout=DRAIN_TIMEOUT_S)
        await runner.setup()
        listening = listening_socket(settings.http.host, settings.http.port)
        site = web.SockSite(runner, listening, ssl_context=tls, backlog=4096)
        await site.start()
        # What is alive now stays alive: the collector need not look at it again. What comes dies
        # young and without cycles: looking seldom costs nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 20)
        log.info("serving", port=settings.http.port)
        crew.serves(on_orphaned=drain)
        if ready is not None:
            ready.set()
        await stopping.wait()
        log.info("stopping")
        crew.close()
        front.end_streams()
        if is_draining:
            await site.stop()
            await server.drain(within_s=DRAIN_IDLE_S)
        await runner.cleanup()
