"""Processors behind TLS: a certificate that is not to be believed, and one that is."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.faults.conftest import SEEDS
from tests.faults.invariants import hold_all
from tests.faults.wires import proxied
from tests.faults.world import Clients, ask, ask_through, worker_beside
from tests.house import House, until
from tests.payments.books import SCHEMES, fresh_amount

DAY = datetime.timedelta(days=1)
CURVE = ec.SECP256R1()
KINDS = ("expired", "another's", "unknown")
# Each scheme with one kind; `make faults` tries every pair.
TRIED = (
    list(itertools.product(SCHEMES, KINDS)) if SEEDS > 1 else list(zip(SCHEMES, KINDS, strict=True))
)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that signs certificates of processors."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(CURVE))

    @property
    def ca_file(self) -> Path:
        """Return its own certificate's file."""
        path = self.folder / "ca.pem"
        if not path.exists():
            made = self._certificate("authority", self.key.public_key(), is_authority=True)
            path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return path

    def chain(self, kind: str) -> Path:
        """Return a file of a processor's certificate and key.

        Args:
            kind: good; expired; another's, for another name; or unknown, signed by nobody known.
        """
        key = ec.generate_private_key(CURVE)
        signer = ec.generate_private_key(CURVE) if kind == "unknown" else self.key
        made = self._certificate(
            "processor",
            key.public_key(),
            signer=signer,
            address="192.0.2.1" if kind == "another's" else "127.0.0.1",
            until=-DAY if kind == "expired" else DAY,
        )
        path = self.folder / f"{kind}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        *,
        signer: ec.EllipticCurvePrivateKey | None = None,
        address: str = "127.0.0.1",
        until: datetime.timedelta = DAY,
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
                critical=False,
            )
        )
        return builder.sign(signer or self.key, hashes.SHA256())


@dataclass(slots=True)
class Front:
    """TLS before a processor that speaks without."""

    host: str
    port: int
    context: ssl.SSLContext
    listening_port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def show(self, chain: Path) -> None:
        """Show another certificate from now on, and end what there is."""
        self.context.load_cert_chain(chain)
        for writer in list(self._writers):
            writer.transport.abort()

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection whose handshake was made."""
        there, back = await asyncio.open_connection(self.host, self.port)
        pair = {writer, back}
        self._writers |= pair
        try:
            await asyncio.gather(_carry(reader, back), _carry(there, writer))
        finally:
            self._writers -= pair
            for one in pair:
                one.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def front_before(host: str, port: int, chain: Path) -> AsyncIterator[Front]:
    """Run a front, and end it with its connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    front = Front(host, port, context)
    server = await asyncio.start_server(front.on_connection, "127.0.0.1", 0, ssl=context)
    front.listening_port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        front.show(chain)
        await server.wait_closed()


@pytest.mark.fault(rows=[14], what="certificates expired, another's, and of an unknown authority")
@pytest.mark.parametrize(("scheme", "kind"), TRIED)
async def test_a_processor_that_cannot_be_believed(
    sandbox: House, clients: Clients, tmp_path: Path, scheme: str, kind: str
) -> None:
    """Row 14: nothing is sent, the payment is refused, and all is well once it can be believed."""
    authority = Authority(tmp_path)
    good = authority.chain("good")
    async with proxied(sandbox) as wires:
        proxy = wires.proxies[scheme]
        async with front_before(proxy.host, proxy.port, good) as front:
            settings = dict(wires.connectors[scheme]) | {"tls_ca_file": str(authority.ca_file)}
            if "base_url" in settings:
                secure = settings["base_url"].replace("http:", "https:")
                at = f":{front.listening_port}"
                settings["base_url"] = secure.replace(f":{proxy.listening_port}", at)
            else:
                settings["port"] = front.listening_port
            async with worker_beside(sandbox, connectors={scheme: settings}) as beside:
                first = clients.want(24, sandbox.purchase(24, scheme, fresh_amount()))
                assert (await ask_through(beside.door, first)).status == 201
                front.show(authority.chain(kind))
                before = len(await sandbox.ledger(scheme))
                second = clients.want(25, sandbox.purchase(25, scheme, fresh_amount()))
                reply = await ask(beside.door, second)
                assert reply is not None, "the worker lives"
                assert (reply.status, reply.code) == (503, "processor-unavailable"), reply.raw
                assert len(await sandbox.ledger(scheme)) == before, "nothing was sent"
                front.show(good)

                async def is_paid() -> bool:
                    reply = await ask(beside.door, second)
                    assert reply is not None, "the worker lives"
                    return reply.status == 201

                await until(is_paid, within_s=15)
    await hold_all(sandbox, clients)
