"""Data keys: wrapped in the database, unwrapped in memory, and followed while they change.

A new key is `new` until every worker can open what it seals, `sealing` while it seals, `opening`
until nothing is sealed by it any more, then `destroyed`: its row stays, its bytes do not.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import asyncpg
import structlog

from gateway.kernel.errors import Unavailable
from gateway.kernel.secrets import KeysError
from gateway.kernel.vault.providers import Provider
from gateway.kernel.vault.vault import Vault

log = structlog.get_logger("vault")

_KEY_BYTES = 32
LOCK = "SELECT pg_advisory_xact_lock(7276545812)"
READ = "SELECT id, state, kek, wrapped FROM data_keys WHERE state <> 'destroyed' ORDER BY id"
ADD = "INSERT INTO data_keys (id, state, kek, wrapped) VALUES ($1, $2, $3, $4)"


def binding(number: int) -> str:
    """Return what a data key is wrapped to."""
    return f"data_keys|wrapped|{number}"


def new_key() -> bytes:
    """Return a data key."""
    return secrets.token_bytes(_KEY_BYTES)


class Keyring:
    """Keeps a vault up to date with the data keys there are.

    Call `load` before the vault is used, then `read` from time to time.

    Args:
        provider: unwraps them.
        first: keys of a file from before there was a key-encryption key; taken over when the
            database has none.
    """

    def __init__(self, provider: Provider, first: Mapping[int, bytes] | None = None) -> None:
        self._provider = provider
        self._first = dict(first or {})
        self._rows: list[tuple[int, str, str]] = []
        self._vault: Vault | None = None

    @property
    def vault(self) -> Vault:
        """The vault that is kept up to date."""
        assert self._vault is not None, "the keys were not loaded"
        return self._vault

    async def load(self, pool: asyncpg.Pool) -> Vault:
        """Read the keys; make the first when there is none.

        Raises:
            KeysError: they are wrapped by another key-encryption key.
        """
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK)
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM data_keys)"):
                await self._begin(connection)
            await self._read(connection)
        return self.vault

    async def _begin(self, connection: Any) -> None:
        keys = self._first or {1: new_key()}
        for number, key in keys.items():
            state = "sealing" if number == max(keys) else "opening"
            wrapped = self._provider.wrap(key, bound_to=binding(number))
            await connection.execute(ADD, number, state, self._provider.kek, wrapped)
        log.info("data keys were made", count=len(keys), kek=self._provider.kek)

    async def read(self, connection: Any) -> None:
        """Learn of keys that changed.

        Raises:
            Unavailable: one cannot be unwrapped here; nothing that was known is forgotten.
        """
        try:
            await self._read(connection)
        except KeysError as error:
            log.error("a data key cannot be used", reason=str(error))
            raise Unavailable("a data key cannot be used") from None

    async def _read(self, connection: Any) -> None:
        rows = await connection.fetch(READ)
        seen = [(row["id"], row["state"], row["kek"]) for row in rows]
        if seen == self._rows:
            return
        keys = {
            row["id"]: self._provider.unwrap(row["wrapped"], bound_to=binding(row["id"]))
            for row in rows
        }
        (sealing,) = [number for number, state, _ in seen if state == "sealing"]
        if self._vault is None:
            self._vault = Vault(keys, sealing)
        else:
            self._vault.use(keys, sealing)
            log.info("data keys changed", sealing=sealing, keys=sorted(keys))
        self._rows = seen
