"""The product as its users have it: `oqim sandbox` in a process of its own, and a client.

Everything goes through the public door; the database is read only to look, never to arrange.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from gateway.sandbox.datadir import free_port
from tests import clusters
from tests.services import open_folder

READY_WITHIN_S = 60.0
CONFIG = Path(__file__).resolve().parent.parent / "config"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: status, headers with names in lower case, raw body, and the body read."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str | None:
        """The slug of a problem."""
        is_problem = self.headers["content-type"] == "application/problem+json"
        return self.body["code"] if is_problem else None


def new_key() -> str:
    """Return an idempotency key never used before."""
    return f"test-{secrets.token_hex(8)}-{next(_numbers)}"


@dataclass(slots=True)
class House:
    """A running sandbox and a client of it.

    Args:
        process: the `oqim sandbox` process; None while it is killed.
    """

    data_dir: Path
    environment: dict[str, str]
    http: aiohttp.ClientSession
    process: subprocess.Popen[bytes] | None = None
    description: dict[str, Any] = field(default_factory=dict)

    # The process ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the sandbox and wait until it says that it is ready."""
        told = self.data_dir / "sandbox.json"
        told.unlink(missing_ok=True)
        with (self.data_dir / "sandbox.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
                [sys.executable, "-m", "gateway", "sandbox"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await until(lambda: told.exists() or self._died(), within_s=READY_WITHIN_S)
        assert told.exists(), (self.data_dir / "sandbox.log").read_text()
        self.description = json.loads(told.read_text())
        # It is ready when one worker answers; whoever wants several is given several.
        workers = int(self.environment["OQIM_WORKERS"])
        if workers > 1:
            await until(lambda: self._all_listen(workers), within_s=READY_WITHIN_S)

    async def _all_listen(self, workers: int) -> bool:
        reply = await self.call("GET", "/metrics")
        listening = re.findall(rb'^oqim_connections\{worker="(\d+)"\}', reply.raw, re.MULTILINE)
        return len(set(listening)) == workers

    def _died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    async def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does; returns its exit code."""
        assert self.process is not None, "it runs"
        self.process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(self.process.wait, 60)
        self.process = None
        return code

    async def kill(self) -> None:
        """Kill it as the kernel would."""
        assert self.process is not None, "it runs"
        self.process.kill()
        await asyncio.to_thread(self.process.wait, 10)
        self.process = None

    def pids_of(self, *words: str) -> list[int]:
        """Return the processes of this sandbox whose command line has all of `words`."""
        found = []
        mark = str(self.data_dir).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            is_ours = mark in environment or mark in command
            if is_ours and all(word.encode() in command for word in words):
                found.append(int(entry.name))
        return found

    async def kill_workers(self, count: int | None = None) -> None:
        """Kill gateway workers, all by default, as the kernel would; they are started again."""
        pids = self.worker_pids()[:count]
        assert pids, "the workers run"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not set(pids) & set(self.worker_pids()), within_s=10)

    @asynccontextmanager
    async def without_processors(self) -> AsyncIterator[None]:
        """Have nobody listen where the processors are; afterwards they are started again.

        The sandbox itself is stopped meanwhile (SIGSTOP), so that it starts nothing again.
        """
        assert self.process is not None, "it runs"
        self.process.send_signal(signal.SIGSTOP)
        try:
            for pid in self.pids_of("-m\x00connectors.simulators"):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not self.pids_of("-m\x00connectors.simulators"), within_s=10)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
            await until(self._processors_answer, within_s=20)

    async def _processors_answer(self) -> bool:
        try:
            for scheme in self.description["simulators"]:
                await self.simulator("GET", scheme, "/_sim/clock")
        except aiohttp.ClientError:
            return False
        return await self.is_ready()

    async def is_ready(self) -> bool:
        """Return whether a worker answers that it is ready."""
        try:
            return (await self.call("GET", "/readyz")).status == 200
        except aiohttp.ClientError:
            return False

    def worker_pids(self) -> list[int]:
        """Return the gateway workers."""
        return self.pids_of("-m\x00gateway\x00serve")

    # The client -------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return str(self.description["base_url"])

    def user(self, number: int) -> dict[str, Any]:
        """Return a seeded user, 0 to 49."""
        user: dict[str, Any] = self.description["users"][number]
        return user

    @property
    def merchant(self) -> dict[str, str]:
        merchant: dict[str, str] = self.description["merchant"]
        return merchant

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | Mapping[str, str] | None = None,
    ) -> Reply:
        """Make one request.

        Args:
            body: sent as JSON when given.
            data: sent as it is, or as a form, instead.
            key: the Idempotency-Key.
        """
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if key is not None:
            sent["Idempotency-Key"] = key
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        async with self.http.request(
            method, self.base_url + path, data=data, headers=sent, allow_redirects=False
        ) as reply:
            names = {name.lower(): value for name, value in reply.headers.items()}
            return Reply(reply.status, names, await reply.read())

    async def send(self, data: bytes, *, within_s: float = 10.0) -> Reply | None:
        """Send bytes as they are on a connection of their own.

        Returns:
            The first final answer; None when the server closed without one.
        """
        address = urlsplit(self.base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            async with asyncio.timeout(within_s):
                writer.write(data)
                return await _read_reply(reader)
        finally:
            writer.transport.abort()

    def purchase(self, user: int, scheme: str, amount: int, **changes: Any) -> dict[str, Any]:
        """Return the body of a purchase at the seeded merchant."""
        return {
            "operation": "purchase",
            "amount": amount,
            "currency": "UZS",
            "source": {"card": self.user(user)["cards"][scheme]},
            "destination": {"merchant": self.merchant["id"]},
        } | changes

    def transfer(
        self, user: int, source: str, other: int, destination: str, amount: int
    ) -> dict[str, Any]:
        """Return the body of a transfer between two seeded users' cards."""
        return {
            "operation": "transfer",
            "amount": amount,
            "currency": "UZS",
            "source": {"card": self.user(user)["cards"][source]},
            "destination": {"card": self.user(other)["cards"][destination]},
        }

    async def pay(self, user: int, body: dict[str, Any], *, key: str | None = None) -> Reply:
        """Pay as a seeded user."""
        token = self.user(user)["access_token"]
        return await self.call("POST", "/v1/payments", body, token=token, key=key or new_key())

    async def merchant_token(self) -> str:
        """Return an access token of the merchant's server."""
        reply = await self.call(
            "POST",
            "/oauth/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.merchant["client_id"],
                "client_secret": self.merchant["client_secret"],
            },
        )
        assert reply.status == 200, reply.raw
        return str(reply.body["access_token"])

    # The command line ---------------------------------------------------------------------------

    def oqim(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line beside the sandbox, with what the sandbox has of its own."""
        shares = sorted(str(path) for path in self.data_dir.glob("kek-*.share"))
        own = {
            "OQIM_DATABASE_URL": self.description["database_url"],
            "OQIM_REDIS_URL": self.description["redis_url"],
            "OQIM_KEYS_FILE": str(self.data_dir / "keys.json"),
            "OQIM_KEK_SHARES": os.pathsep.join(shares),
        }
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={**self.environment, **own, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    # The processors' side -----------------------------------------------------------------------

    async def simulator(self, method: str, scheme: str, path: str, body: Any = None) -> Any:
        """Use a simulator's control URL."""
        url = self.description["simulators"][scheme] + path
        async with self.http.request(method, url, json=body) as reply:
            assert reply.status < 300, await reply.text()
            return await reply.json()

    async def ledger(self, scheme: str, ref: str | None = None) -> list[dict[str, Any]]:
        """Return what a processor holds to have happened."""
        query = f"?ref={ref}" if ref else ""
        entries: list[dict[str, Any]] = await self.simulator("GET", scheme, f"/_sim/ledger{query}")
        return entries

    @asynccontextmanager
    async def fault(self, scheme: str, **fault: Any) -> AsyncIterator[None]:
        """Arm a fault, and clear all of the scheme's afterwards."""
        await self.simulator("POST", scheme, "/_sim/faults", fault)
        try:
            yield
        finally:
            await self.simulator("DELETE", scheme, "/_sim/faults")

    async def settled(self, user: int, payment_id: str, *, within_s: float = 30.0) -> Any:
        """Return a payment once it is no longer processing."""
        token = self.user(user)["access_token"]

        async def final() -> Any:
            reply = await self.call("GET", f"/v1/payments/{payment_id}", token=token)
            return reply.body if reply.body["status"] != "processing" else None

        return await until(final, within_s=within_s)

    # The books ----------------------------------------------------------------------------------

    async def rows(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Read from the database."""
        connection = await asyncpg.connect(self.description["database_url"])
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return found
        finally:
            await connection.close()


async def _read_reply(reader: asyncio.StreamReader) -> Reply | None:
    status = 100
    while status < 200:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        pairs = [line.split(":", 1) for line in lines[1:] if line]
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
    return Reply(status, headers, await reader.readexactly(int(headers["content-length"])))


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], *, within_s: float
) -> Any:
    """Return the first true answer of `condition`, asked until the time is up."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.05)


@contextmanager
def changed_config(**changes: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Give the environment of a sandbox whose configuration is the repository's, changed.

    Args:
        changes: by file without `.toml`: what is in it, and what stands there instead. The file's
            whole text is replaced when the first is `""`.
    """
    with open_folder("oqim-config-") as folder:
        for source in CONFIG.glob("*.toml"):
            text = source.read_text()
            for before, after in changes.get(source.stem, {}).items():
                assert before in text, f"{source.name} has no {before!r}"
                text = text.replace(before, after) if before else after
            (folder / source.name).write_text(text)
        yield {"OQIM_CONFIG_DIR": str(folder)}


@asynccontextmanager
async def running_house(
    *,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    is_bare: bool = False,
) -> AsyncIterator[House]:
    """Run a sandbox of its own, in a folder of its own unless one is given, and end it.

    Args:
        is_bare: it makes its database itself; a folder that is given is always bare.
    """
    with open_folder("oqim-house-") as made:
        data_dir = folder or made
        if folder is None and not is_bare:
            await clusters.furnish(data_dir)
        variables = {
            **os.environ,
            "OQIM_PORT": str(free_port()),
            "OQIM_WORKERS": str(workers),
            "OQIM_DATA_DIR": str(data_dir),
            **(environment or {}),
        }
        async with aiohttp.ClientSession() as http:
            house = House(data_dir, variables, http)
            await house.start()
            try:
                yield house
            finally:
                if house.process is not None:
                    await house.stop()
