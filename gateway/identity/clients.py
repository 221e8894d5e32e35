"""Clients: apps that carry customers, and merchants' servers that act for themselves.

A secret is kept as argon2id alone.
"""

import base64
import binascii
import secrets
from urllib.parse import unquote_plus

import asyncpg
import msgspec

from gateway.kernel.http.problems import Problem
from gateway.kernel.passwords import Hasher

GET_CLIENT = "SELECT id, channel, subject, secret_hash, scopes FROM clients WHERE id = $1"
PUT_CLIENT = """
INSERT INTO clients (id, channel, subject, secret_hash, scopes) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET channel = excluded.channel, subject = excluded.subject,
    secret_hash = excluded.secret_hash, scopes = excluded.scopes
"""

MOBILE = "mobile"
SECRET_LENGTH_MAX = 256


class Client(msgspec.Struct, frozen=True):
    """One client. `subject` is whom it acts for; None when it only carries customers."""

    id: str
    channel: str
    subject: str | None
    secret_hash: str | None
    scopes: list[str]

    def __repr__(self) -> str:
        return f"Client({self.id!r})"


def new_secret() -> str:
    """Return a client secret of 256 random bits."""
    return secrets.token_urlsafe(32)


class Clients:
    """Finds clients and checks their secrets."""

    def __init__(self, *, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._hasher = Hasher()

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        row = await self._pool.fetchrow(GET_CLIENT, client_id)
        return None if row is None else Client(**row)

    async def put(
        self,
        *,
        client_id: str,
        channel: str,
        subject: str | None,
        secret: str | None,
        scopes: list[str],
    ) -> None:
        """Add a client, or change it."""
        secret_hash = None if secret is None else await self._hasher.hash(secret)
        await self._pool.execute(PUT_CLIENT, client_id, channel, subject, secret_hash, scopes)

    async def identify(
        self, *, authorization: str | None, client_id: str | None, client_secret: str | None
    ) -> Client | None:
        """Return the client that a request says it is, or None when it says nothing.

        A client that has a secret must give it, by HTTP Basic or in the form (RFC 6749, 2.3.1).

        Raises:
            Problem: `invalid-request` when it authenticates in two ways, `invalid-client`.
        """
        # An app may send its access token with everything; that says nothing of the client.
        if authorization is not None and not authorization.lower().startswith("bearer "):
            if client_secret is not None:
                raise Problem("invalid-request", "Authenticate in one way.")
            said_id, client_secret = _basic(authorization)
            if client_id not in (None, said_id):
                raise Problem("invalid-request", "client_id is not the client that authenticates.")
            client_id = said_id
        if client_id is None:
            return None
        client = await self.get(client_id)
        if client is None or client.secret_hash is not None or client_secret is not None:
            await self._check(client, client_secret or "")
        return client

    async def _check(self, client: Client | None, secret: str) -> None:
        secret_hash = None if client is None else client.secret_hash
        is_right = False
        if len(secret) <= SECRET_LENGTH_MAX:
            is_right = await self._hasher.matches(secret, secret_hash)
        if not is_right:
            raise Problem("invalid-client", "The client is not known, or its secret is not right.")


def _basic(authorization: str) -> tuple[str, str]:
    invalid = Problem("invalid-client", "Authenticate with HTTP Basic: client id and secret.")
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic":
        raise invalid
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise invalid from None
    client_id, colon, secret = text.partition(":")
    if not colon or "\x00" in text:
        raise invalid
    return unquote_plus(client_id), unquote_plus(secret)
