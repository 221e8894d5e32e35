"""A worker's wires to what it speaks to, each through a proxy that may spoil it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from tests.faults.proxy import Proxy, proxy_before
from tests.faults.world import Beside, worker_beside, worker_environment
from tests.house import House


@dataclass(frozen=True, slots=True)
class Wires:
    """A proxy before each thing a worker speaks to, and the worker's settings that lead there.

    Attributes:
        proxies: by scheme, and `database` and `redis`.
    """

    house: House
    proxies: dict[str, Proxy]
    connectors: dict[str, dict[str, Any]]
    environment: dict[str, str]

    def worker_beside(
        self,
        *,
        failpoints: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Beside]:
        """Run a worker beside the sandbox's, with every wire through its proxy."""
        return worker_beside(
            self.house,
            failpoints=failpoints,
            connectors=self.connectors,
            environment=self.environment | dict(environment or {}),
        )


@asynccontextmanager
async def proxied(house: House) -> AsyncIterator[Wires]:
    """Lay the wires of one worker, and cut them at the end."""
    variables = worker_environment(house)
    settings = json.loads(variables["OQIM_CONNECTORS"])
    urls = {scheme: urlsplit(settings[scheme]["base_url"]) for scheme in ("uzcard", "humo")}
    urls["database"] = urlsplit(variables["OQIM_DATABASE_URL"])
    urls["redis"] = urlsplit(variables["OQIM_REDIS_URL"])
    addresses = {name: (str(url.hostname), int(url.port or 0)) for name, url in urls.items()}
    addresses["visa"] = (settings["visa"]["host"], int(settings["visa"]["port"]))
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(proxy_before(*address))
            for name, address in addresses.items()
        }
        ports = {name: proxy.listening_port for name, proxy in proxies.items()}
        moved = {name: _moved(url, ports[name]) for name, url in urls.items()}
        yield Wires(
            house,
            proxies,
            connectors={scheme: {"base_url": moved[scheme]} for scheme in ("uzcard", "humo")}
            | {"visa": {"host": "127.0.0.1", "port": ports["visa"]}},
            environment={
                "OQIM_DATABASE_URL": moved["database"],
                "OQIM_REDIS_URL": moved["redis"],
            },
        )


def _moved(url: SplitResult, port: int) -> str:
    """Return a URL with its secret, at another port of this machine."""
    secret, at, _ = url.netloc.rpartition("@")
    return urlunsplit(url._replace(netloc=f"{secret}{at}127.0.0.1:{port}"))
