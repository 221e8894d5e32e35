"""Seals what must not be readable in the database: AES-256-GCM, bound to the row it belongs to.

Layout of what is sealed: data key (1 byte), nonce (12 bytes), ciphertext with tag. The associated
data names table, column and row, so that a sealed value moved elsewhere does not open.
"""

import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class Vault:
    """Opens and seals with numbered data keys.

    Args:
        keys: 32-byte keys by number, 1 to 255.
        sealing: the number of the one that seals; by default the greatest.
    """

    def __init__(self, keys: Mapping[int, bytes], sealing: int | None = None) -> None:
        self._ciphers: dict[int, AESGCM] = {}
        self._sealing = 0
        self.use(keys, max(keys) if sealing is None else sealing)

    def use(self, keys: Mapping[int, bytes], sealing: int) -> None:
        """Open with these keys from now on, and seal with one of them."""
        assert sealing in keys, "what is sealed must open"
        self._ciphers = {number: AESGCM(key) for number, key in keys.items()}
        self._sealing = sealing

    @property
    def sealing(self) -> int:
        """The number of the key that seals."""
        return self._sealing

    def seal(self, plaintext: str, *, bound_to: str) -> bytes:
        """Return the sealed text; `bound_to` must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        sealing = self._sealing
        sealed = self._ciphers[sealing].encrypt(nonce, plaintext.encode(), bound_to.encode())
        return bytes([sealing]) + nonce + sealed

    def open(self, sealed: bytes, *, bound_to: str) -> str:
        """Return the text.

        Raises:
            cryptography.exceptions.InvalidTag: it was not sealed so.
            KeyError: its key is not known here.
        """
        cipher = self._ciphers[sealed[0]]
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        return cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], bound_to.encode()).decode()
