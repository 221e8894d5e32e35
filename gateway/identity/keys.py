"""The keys access tokens are signed with. Private keys are in the database sealed, in memory open.

Every worker knows every key, and signs with the newest that every other worker has had time to
read. A key lives on, unused, until the last token it can have signed must have expired; then it is
forgotten everywhere: nothing it signed is accepted, and nobody is shown it.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Protocol

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from gateway.core import Core
from gateway.kernel import audit
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
DROP_KEYS = "DELETE FROM signing_keys WHERE kid = ANY($1::text[]) RETURNING kid"

# No token lives longer: a revocation is kept for as long as a token it refuses may live, and a key
# for as long as one it signed.
ACCESS_TOKEN_TTL_S_MAX = 12 * 3_600
# A key signs once every worker has read it: they do so every minute.
SIGNS_AFTER_S = 180
# And the one before it has signed nothing any more this long after that.
ENDS_AFTER_S = 600
_ITSELF = "gateway"


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


def ends_at_s(next_created_s: float) -> float:
    """Return when a key is forgotten, in Unix seconds, by when the next one was made."""
    return next_created_s + SIGNS_AFTER_S + ENDS_AFTER_S + ACCESS_TOKEN_TTL_S_MAX


class SigningKeys:
    """The key to sign with, and the public halves of all.

    Call `load` before anything else, and again every minute.

    Args:
        core: learns the public halves; None where nothing is verified.
        life_s: after which a new key takes the newest one's place by itself; 0 for never.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        vault: Sealer,
        core: Core | None,
        clock: Clock,
        life_s: int = 0,
    ) -> None:
        self._pool = pool
        self._life_s = life_s
        self._vault = vault
        self._core = core
        self._clock = clock
        self._kid = ""
        self._key: OKPKey | None = None
        self._public: dict[str, bytes] = {}
        # When each key was made, in Unix seconds, the oldest first.
        self.made_at_s: dict[str, float] = {}

    async def load(self) -> None:
        """Read every key, make one when it is time, forget those that have ended, tell the core.

        Raises:
            KeysError: a key was sealed under a vault key that is not in the keys file.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            # Workers that start together agree on one first key.
            await connection.execute(LOCK_KEYS)
            rows = await connection.fetch(GET_KEYS)
            if self._is_time_for_another(rows):
                await self._add(connection, _ITSELF if rows else None)
                rows = await connection.fetch(GET_KEYS)
            ended = self._ended(rows)
            if ended:
                await self._drop(connection, ended, _ITSELF)
                rows = [row for row in rows if row["kid"] not in ended]
        self._tell(rows)
        now_s = self._clock() / 1_000
        ripe = [row for row in rows if row["created_at"].timestamp() + SIGNS_AFTER_S <= now_s]
        # Before any key is ripe there is only the first, which every worker reads as it starts.
        chosen = ripe[-1] if ripe else rows[0]
        if chosen["kid"] != self._kid:
            self._key = self._open(chosen)
            self._kid = chosen["kid"]

    def _is_time_for_another(self, rows: Sequence[asyncpg.Record]) -> bool:
        if not rows:
            return True
        age_s: float = self._clock() / 1_000 - rows[-1]["created_at"].timestamp()
        return 0 < self._life_s <= age_s

    def _ended(self, rows: Sequence[asyncpg.Record]) -> list[str]:
        """Return the keys of which every token must have expired."""
        now_s = self._clock() / 1_000
        return [
            row["kid"]
            for row, following in pairwise(rows)
            if ends_at_s(following["created_at"].timestamp()) <= now_s
        ]

    def _tell(self, rows: Sequence[asyncpg.Record]) -> None:
        self.made_at_s = {row["kid"]: row["created_at"].timestamp() for row in rows}
        public = {row["kid"]: row["public_key"] for row in rows}
        if self._core is not None:
            for kid in self._public.keys() - public.keys():
                self._core.remove_key(kid)
            for kid, key in public.items():
                self._core.add_key(kid, key)
        self._public = public

    async def rotate(self, *, actor: str = _ITSELF) -> str:
        """Add a key and return its id; it signs in a few minutes, and the old ones verify on."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_KEYS)
            kid = await self._add(connection, actor)
        await self.load()
        return kid

    async def drop(self, kid: str, *, actor: str) -> bool:
        """Forget a key at once, whatever it signed: for one that somebody else may have.

        Every worker refuses its tokens within a minute, and signs by another.

        Returns:
            False when there is no such key.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_KEYS)
            dropped = await self._drop(connection, [kid], actor)
        await self.load()
        return dropped

    async def _drop(self, connection: Any, kids: list[str], actor: str) -> bool:
        dropped: list[asyncpg.Record] = await connection.fetch(DROP_KEYS, kids)
        for row in dropped:
            await self._note(connection, "signing_key.drop", row["kid"], actor)
        return bool(dropped)

    async def _note(self, connection: Any, action: str, kid: str, actor: str) -> None:
        await audit.record(
            connection, at_ms=self._clock(), actor=actor, action=action, object=kid, detail={}
        )

    async def _add(self, connection: Any, actor: str | None) -> str:
        """Add a key, and note it unless it is the first, of which there is nothing to tell."""
        now_ms = self._clock()
        kid = new_id("key_", now_ms)
        private = Ed25519PrivateKey.generate()
        sealed = self._vault.seal(
            _base64url(private.private_bytes_raw()), bound_to=key_binding(kid)
        )
        public = private.public_key().public_bytes_raw()
        created_at = datetime.fromtimestamp(now_ms / 1_000, UTC)
        await connection.execute(ADD_KEY, kid, sealed, public, created_at)
        if actor is not None:
            await self._note(connection, "signing_key.add", kid, actor)
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
