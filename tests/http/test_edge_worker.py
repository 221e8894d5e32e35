"""A worker of its own behind TLS, as `oqim serve` runs it."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.sandbox.datadir import free_port
from tests.faults.test_tls import Authority
from tests.faults.world import worker_beside, worker_environment
from tests.house import House, changed_config, new_key, until


@dataclass(slots=True)
class Secure:
    """A worker that speaks TLS, and a client that believes its authority."""

    process: subprocess.Popen[bytes]
    port: int
    tls: ssl.SSLContext

    async def serial(self) -> str | None:
        """Return its certificate's number; None while it does not answer."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        except OSError:
            return None
        try:
            return str(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])
        finally:
            writer.transport.abort()


@asynccontextmanager
async def secure_worker(
    house: House, authority: Authority, certificate: Path
) -> AsyncIterator[Secure]:
    """Run a worker beside the sandbox's that shows a certificate, and end it."""
    changes = {
        'tls_certificate = ""': f'tls_certificate = "{certificate}"',
        'tls_key = ""': f'tls_key = "{certificate}"',
    }
    port = free_port()
    with (
        changed_config(settings=changes) as environment,
        (authority.folder / "log").open("wb") as log,
    ):
        process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            [sys.executable, "-m", "gateway", "serve"],
            env=worker_environment(house)
            | environment
            | {"OQIM_PORT": str(port), "OQIM_WORKER": "secure"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        tls = ssl.create_default_context(cafile=authority.ca_file)
        worker = Secure(process, port, tls)
        try:
            await until(lambda: process.poll() is not None or worker.serial(), within_s=20)
            yield worker
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)


async def test_a_worker_pays_over_tls_and_takes_a_renewed_certificate(
    house: House, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate = authority.chain("good")
    certificate.chmod(0o600)
    async with secure_worker(house, authority, certificate) as worker:
        first = await until(worker.serial, within_s=20)
        token = house.user(42)["access_token"]
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"https://127.0.0.1:{worker.port}/v1/payments",
                json=house.purchase(42, "humo", 100_000),
                headers={"Authorization": f"Bearer {token}", "Idempotency-Key": new_key()},
                ssl=worker.tls,
            ) as reply,
        ):
            assert reply.status == 201, await reply.text()
            assert reply.headers["Strict-Transport-Security"].startswith("max-age=31536000")
        # Written over with rubbish, it goes on with what it has; with a good one, it takes it.
        certificate.write_bytes(b"rubbish")
        worker.process.send_signal(signal.SIGHUP)
        log = tmp_path / "log"
        await until(lambda: "was not renewed" in log.read_text(), within_s=10)
        assert await worker.serial() == first
        authority.chain("good")
        worker.process.send_signal(signal.SIGHUP)

        async def is_renewed() -> bool:
            return await worker.serial() not in (first, None)

        await until(is_renewed, within_s=10)
        assert worker.process.poll() is None


async def test_a_worker_without_tls_lives_through_the_signal(house: House) -> None:
    """Whoever renews certificates may tell every worker, those that have none too."""
    async with worker_beside(house) as beside:
        beside.process.send_signal(signal.SIGHUP)
        log = house.data_dir / "beside.log"
        await until(lambda: "no certificate" in log.read_text(), within_s=10)
        assert not beside.is_dead
        assert await beside.door.is_ready()


async def test_a_worker_without_its_certificate_does_not_start(
    house: House, tmp_path: Path
) -> None:
    """It never falls back to plain text."""
    async with secure_worker(house, Authority(tmp_path), tmp_path / "missing.pem") as worker:
        assert worker.process.poll() == 2
        assert "missing.pem" in (tmp_path / "log").read_text()
