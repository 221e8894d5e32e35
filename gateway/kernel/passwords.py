"""Passwords and secrets as they are kept: argon2id (RFC 9106) in PHC form, and nothing else.

Hashing takes tens of milliseconds of a core: never on the event loop, and a few at a time.
"""

import asyncio
import os

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

# OWASP's least: 19 MiB, two passes, one lane.
_MEMORY_KIB, _PASSES, _LANES, _SALT_BYTES, _HASH_BYTES = 19 * 1_024, 2, 1, 16, 32
_AT_ONCE_MAX = 2


def hash_secret(secret: str) -> str:
    """Return what is kept of a secret."""
    hasher = Argon2id(
        salt=os.urandom(_SALT_BYTES),
        length=_HASH_BYTES,
        iterations=_PASSES,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    )
    return hasher.derive_phc_encoded(secret.encode())


def matches(secret: str, secret_hash: str) -> bool:
    """Whether a secret is the one that was hashed."""
    try:
        Argon2id.verify_phc_encoded(secret.encode(), secret_hash)
    except InvalidKey:
        return False
    return True


class Hasher:
    """Checks secrets off the event loop."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE_MAX)
        # Checked where there is nothing to check, so that its absence takes as long to tell.
        self._nobody = hash_secret(os.urandom(16).hex())

    async def matches(self, secret: str, secret_hash: str | None) -> bool:
        """Whether a secret is the one that was hashed; never without a hash, and as late."""
        async with self._slots:
            found = await asyncio.to_thread(matches, secret, secret_hash or self._nobody)
        return found and secret_hash is not None

    async def hash(self, secret: str) -> str:
        """Return what is kept of a secret."""
        async with self._slots:
            return await asyncio.to_thread(hash_secret, secret)
