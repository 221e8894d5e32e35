"""PostgreSQL and Valkey for the sandbox and for tests: real servers, from wheels, in a data
directory.

    async with EmbeddedServices(Path("var"), Progress()) as services:
        services.database_url, services.redis_url

Owns the order in which the two are prepared and started, and the ports they get. Production gives
two URLs and never imports this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.sandbox import postgres, state, valkey
from gateway.sandbox.datadir import free_port, require_port
from gateway.sandbox.errors import ChildNotReady
from gateway.sandbox.progress import Progress
from gateway.sandbox.supervisor import ChildSpec, Supervisor

PORT_TRIES = 3


class EmbeddedServices:
    """A PostgreSQL and a Valkey that run until `stop`, or until our process ends.

    Starting twice in one data directory at a time is refused; starting again later finds the data
    of PostgreSQL as they were, after a kill too.
    """

    def __init__(
        self,
        data_dir: Path,
        progress: Progress,
        *,
        supervisor: Supervisor | None = None,
        postgres_port: int | None = None,
        valkey_port: int | None = None,
        places: Sequence[Path] | None = None,
    ) -> None:
        """Name what to use; nothing is touched before `start`.

        Args:
            data_dir: The data directory; made when it is not there.
            progress: Where to tell.
            supervisor: Who runs the servers: one that is open, holds `data_dir`, and stops them
                when it ends. None: a supervisor of our own.
            postgres_port: A fixed port; None is any free one, the last one used if possible.
            valkey_port: The same for Valkey.
            places: See `postgres.prepare`.
        """
        self._supervisor = supervisor or Supervisor(data_dir, progress)
        self._is_supervisor_ours = supervisor is None
        self._progress = progress
        self._ports = (postgres_port, valkey_port)
        self._places = places
        self._urls: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"EmbeddedServices({str(self._supervisor.directory.path)!r})"

    @property
    def database_url(self) -> str:
        """The URL of PostgreSQL's database `oqim`, with the password: a secret."""
        return self._started()[0]

    @property
    def redis_url(self) -> str:
        """The URL of Valkey's database 0, with the password: a secret."""
        return self._started()[1]

    async def start(self) -> None:
        """Start both, and return when both answer.

        Raises:
            SandboxError: its message says why not, and what to do.
        """
        if self._is_supervisor_ours:
            await self._supervisor.__aenter__()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop both, unless that is the given supervisor's work; a second call does nothing."""
        self._urls = None
        if self._is_supervisor_ours:
            await self._supervisor.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        directory = self._supervisor.directory
        known = state.load(directory)
        state.save(directory, known)  # before the cluster that has this password
        cluster = await postgres.prepare(
            directory, known.postgres, self._progress, places=self._places
        )
        state.save(directory, known)

        def valkey_spec(port: int) -> ChildSpec:
            return valkey.spec(directory, port, known.valkey.password)

        with self._progress.step("Starting PostgreSQL and Valkey"):
            postgres_port, valkey_port = await asyncio.gather(
                self._start_on_port(cluster.spec, self._ports[0], known.postgres.port),
                self._start_on_port(valkey_spec, self._ports[1], known.valkey.port),
            )
        known.postgres.port, known.valkey.port = postgres_port, valkey_port
        state.save(directory, known)
        self._urls = (
            cluster.url(postgres_port),
            valkey.url(valkey_port, known.valkey.password),
        )

    async def _start_on_port(
        self, spec: Callable[[int], ChildSpec], wanted: int | None, last: int | None
    ) -> int:
        """Start a server on the wanted port, or on a free one; return the port.

        Between finding a port free and the server's taking it, another program may: then the next
        free one is tried.
        """
        if wanted is not None:
            name = spec(wanted).name
            require_port(wanted, variable=f"OQIM_{name.upper()}_PORT")
        for attempt in range(1, PORT_TRIES + 1):
            port = free_port(last) if wanted is None else wanted
            try:
                await self._supervisor.start(spec(port))
            except ChildNotReady:
                was_taken = wanted is None and free_port(port) != port
                if not was_taken or attempt == PORT_TRIES:
                    raise
            else:
                return port
        raise AssertionError("the loop returns or raises")

    def _started(self) -> tuple[str, str]:
        if self._urls is None:
            raise RuntimeError("the embedded services are not running")
        return self._urls
