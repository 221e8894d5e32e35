"""Seals card numbers and processors' tokens: AES-256-GCM, bound to the row they belong to.

Layout of what is sealed: key version (1 byte), nonce (12 bytes), ciphertext with tag. The
associated data names table, column and row, so that a sealed value moved elsewhere does not open.
"""

import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class Vault:
    """Opens and seals with versioned keys.

    Args:
        keys: 32-byte keys by version, 1 to 255; the greatest version seals.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self._sealing_version = max(keys)

    def seal(self, plaintext: str, *, bound_to: str) -> bytes:
        """Return the sealed text; `bound_to` must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._sealing_version]
        sealed = cipher.encrypt(nonce, plaintext.encode(), bound_to.encode())
        return bytes([self._sealing_version]) + nonce + sealed

    def open(self, sealed: bytes, *, bound_to: str) -> str:
        """Return the text. Raises cryptography.exceptions.InvalidTag when it was not sealed so."""
        cipher = self._ciphers[sealed[0]]
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        return cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], bound_to.encode()).decode()
