"""Clients: apps that carry customers, and servers that act for a merchant.

A server authenticates by a secret, kept as argon2id alone, or by assertions that its own private
key signs; never by both. Only its public keys are known here.
"""

import base64
import binascii
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_plus

import asyncpg
import msgspec

from gateway.identity import jose, store
from gateway.identity.assertions import ASSERTION_TYPE, Assertions
from gateway.kernel.http.problems import Problem
from gateway.kernel.passwords import Hasher

MOBILE = "mobile"
SECRET_LENGTH_MAX = 256

Dpop = Literal["off", "optional", "required"]
"""Whether a client's tokens are bound to a key: never; when it proves one; always."""


class Client(msgspec.Struct, frozen=True):
    """One client.

    Attributes:
        subject: whom it acts for; None when it only carries customers.
        jwks: JSON of its public keys, when it authenticates by assertions.
    """

    id: str
    channel: str
    subject: str | None
    secret_hash: str | None
    jwks: str | None
    scopes: list[str]
    dpop: Dpop

    @property
    def is_confidential(self) -> bool:
        """Whether it must authenticate."""
        return self.secret_hash is not None or self.jwks is not None

    def __repr__(self) -> str:
        return f"Client({self.id!r})"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says of its client. Never printed.

    Args:
        authorization: the Authorization header.
        client_id, client_secret, assertion_type, assertion: of the form.
    """

    authorization: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    assertion_type: str | None = None
    assertion: str | None = field(default=None, repr=False)


def new_secret() -> str:
    """Return a client secret of 256 random bits."""
    return secrets.token_urlsafe(32)


class Clients:
    """Finds clients and makes sure that they are who they say.

    Args:
        check_network: refuses a client, by id and channel, that asks from where it may not.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        assertions: Assertions,
        check_network: Callable[[str, str], None] = lambda client_id, channel: None,
    ) -> None:
        self._pool = pool
        self._assertions = assertions
        self._check_network = check_network
        self._hasher = Hasher()

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        row = await self._pool.fetchrow(store.GET_CLIENT, client_id)
        return None if row is None else Client(**row)

    async def put(
        self,
        *,
        client_id: str,
        channel: str,
        subject: str | None,
        secret: str | None,
        scopes: list[str],
        dpop: Dpop = "off",
        jwks: str | None = None,
    ) -> None:
        """Add a client, or change it.

        Args:
            secret: what it authenticates by; None for one that cannot keep any, or that has keys.
            jwks: JSON of its public keys instead, as `jose.read_keys` takes it.
        """
        secret_hash = None if secret is None else await self._hasher.hash(secret)
        await self._pool.execute(
            store.PUT_CLIENT, client_id, channel, subject, secret_hash, jwks, scopes, dpop
        )

    async def identify(self, said: Credentials) -> Client | None:
        """Return the client that a request says it is, or None when it says nothing.

        A client that has a secret must give it, by HTTP Basic or in the form (RFC 6749, 2.3.1);
        one that has keys must give an assertion (RFC 7523, 2.2).

        Raises:
            Problem: `invalid-request` when it authenticates in two ways, `invalid-client`,
                `client-network-not-allowed`.
        """
        client = await self._identified(said)
        if client is not None:
            self._check_network(client.id, client.channel)
        return client

    async def _identified(self, said: Credentials) -> Client | None:
        basic = _basic(said.authorization)
        if (basic, said.client_secret, said.assertion).count(None) < 2:
            raise Problem("invalid-request", "Authenticate in one way.")
        if said.assertion is not None or said.assertion_type is not None:
            return await self._identify_by_assertion(said)
        client_id, secret = said.client_id, said.client_secret
        if basic is not None:
            said_id, secret = basic
            if client_id not in (None, said_id):
                raise Problem("invalid-request", "client_id is not the client that authenticates.")
            client_id = said_id
        if client_id is None:
            return None
        client = await self.get(client_id)
        if client is None or client.is_confidential or secret is not None:
            await self._check_secret(client, secret or "")
        return client

    async def _check_secret(self, client: Client | None, secret: str) -> None:
        secret_hash = None if client is None else client.secret_hash
        is_right = False
        if len(secret) <= SECRET_LENGTH_MAX:
            is_right = await self._hasher.matches(secret, secret_hash)
        if not is_right:
            raise Problem("invalid-client", "The client is not known, or its secret is not right.")

    async def _identify_by_assertion(self, said: Credentials) -> Client:
        if said.assertion is None or said.assertion_type is None:
            raise Problem("invalid-request", "Give client_assertion and client_assertion_type.")
        if said.assertion_type != ASSERTION_TYPE:
            raise Problem("invalid-client", f"The type of the assertion is {ASSERTION_TYPE}.")
        client_id, token = self._assertions.read(said.assertion)
        if said.client_id not in (None, client_id):
            raise Problem("invalid-client", "client_id is not the client of the assertion.")
        client = await self.get(client_id)
        jwks = None if client is None else client.jwks
        keys = [] if jwks is None else jose.read_keys(jwks.encode())
        await self._assertions.check(token, client_id=client_id, keys=keys)
        assert client is not None, "nobody has no keys"
        return client


async def add(connection: Any, client: Client) -> bool:
    """Add a client in the connection's open transaction; False when there is one of its id."""
    added = await connection.fetchval(
        store.ADD_CLIENT,
        client.id,
        client.channel,
        client.subject,
        client.secret_hash,
        client.jwks,
        client.scopes,
        client.dpop,
    )
    return added is not None


def _basic(authorization: str | None) -> tuple[str, str] | None:
    """Return id and secret of HTTP Basic; None where there is none."""
    if authorization is None:
        return None
    kind, _, encoded = authorization.partition(" ")
    # An app may send its access token with everything; that says nothing of the client.
    if kind.lower() in ("bearer", "dpop"):
        return None
    invalid = Problem("invalid-client", "Authenticate with HTTP Basic: client id and secret.")
    if kind.lower() != "basic":
        raise invalid
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
        client_id, colon, secret = text.partition(":")
        # Each is form-encoded before they are joined (RFC 6749, 2.3.1).
        said = (unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict"))
    except (binascii.Error, UnicodeDecodeError):
        raise invalid from None
    if not colon or any("\x00" in one for one in said):
        raise invalid
    return said
