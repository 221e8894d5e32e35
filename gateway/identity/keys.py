"""The keys access tokens are signed with. Private keys are in the database sealed, in memory open.

Every worker knows every key, and signs with the newest that every other worker has had time to
read.
"""

import base64
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from gateway.core import Core
from gateway.kernel.clock import Clock
from gateway.kernel.ids import new_id
from gateway.kernel.secrets import KeysError

LOCK_KEYS = "SELECT pg_advisory_xact_lock(7276545801)"
GET_KEYS = """
SELECT kid, private_key, public_key, created_at FROM signing_keys ORDER BY created_at, kid
"""
ADD_KEY = """
INSERT INTO signing_keys (kid, private_key, public_key, created_at) VALUES ($1, $2, $3, $4)
"""

# A key signs once every worker has read it: they do so every minute.
SIGNS_AFTER_S = 180


class Sealer(Protocol):
    """Seals texts that the database keeps; the card vault is one."""

    def seal(self, plaintext: str, *, bound_to: str) -> bytes:
        """Return the sealed text."""
        ...

    def open(self, sealed: bytes, *, bound_to: str) -> str:
        """Return the text that was sealed."""
        ...


def key_binding(kid: str) -> str:
    """Return what a signing key is sealed to."""
    return f"signing_keys|private_key|{kid}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class SigningKeys:
    """The key to sign with, and the public halves of all.

    Call `load` before anything else.
    """

    def __init__(self, *, pool: asyncpg.Pool, vault: Sealer, core: Core, clock: Clock) -> None:
        self._pool = pool
        self._vault = vault
        self._core = core
        self._clock = clock
        self._kid = ""
        self._key: OKPKey | None = None
        self._public: dict[str, bytes] = {}

    async def load(self) -> None:
        """Read every key, make the first when there is none, and teach them to the core.

        Raises:
            KeysError: a key was sealed under a vault key that is not in the keys file.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            # Workers that start together agree on one first key.
            await connection.execute(LOCK_KEYS)
            rows = await connection.fetch(GET_KEYS)
            if not rows:
                await self._add(connection)
                rows = await connection.fetch(GET_KEYS)
        for row in rows:
            self._core.add_key(row["kid"], row["public_key"])
            self._public[row["kid"]] = row["public_key"]
        now_s = self._clock() / 1_000
        ripe = [row for row in rows if row["created_at"].timestamp() + SIGNS_AFTER_S <= now_s]
        # Before any key is ripe there is only the first, which every worker reads as it starts.
        chosen = ripe[-1] if ripe else rows[0]
        if chosen["kid"] != self._kid:
            self._key = self._open(chosen)
            self._kid = chosen["kid"]

    async def rotate(self) -> str:
        """Add a key and return its id; it signs in a few minutes, and the old ones verify on."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_KEYS)
            kid = await self._add(connection)
        await self.load()
        return kid

    async def _add(self, connection: Any) -> str:
        now_ms = self._clock()
        kid = new_id("key_", now_ms)
        private = Ed25519PrivateKey.generate()
        sealed = self._vault.seal(
            _base64url(private.private_bytes_raw()), bound_to=key_binding(kid)
        )
        public = private.public_key().public_bytes_raw()
        created_at = datetime.fromtimestamp(now_ms / 1_000, UTC)
        await connection.execute(ADD_KEY, kid, sealed, public, created_at)
        return kid

    def _open(self, row: asyncpg.Record) -> OKPKey:
        try:
            private = self._vault.open(row["private_key"], bound_to=key_binding(row["kid"]))
        except (InvalidTag, KeyError):
            message = "a signing key was sealed under a vault key that the keys file lacks"
            raise KeysError(message) from None
        public = _base64url(row["public_key"])
        return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": public, "d": private})

    @property
    def current(self) -> tuple[str, OKPKey]:
        """The id of the key to sign with, and the key."""
        assert self._key is not None, "the signing keys were not loaded"
        return self._kid, self._key

    def jwks(self) -> list[dict[str, str]]:
        """Return the public keys (RFC 7517, RFC 8037), the oldest first."""
        return [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "alg": "EdDSA",
                "use": "sig",
                "kid": kid,
                "x": _base64url(public),
            }
            for kid, public in self._public.items()
        ]
