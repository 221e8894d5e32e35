"""One-time codes: how they are made, and the keyed hash that is all we keep of one."""

import hashlib
import hmac
import secrets

# Without 0 and O, 1, I and L: a customer copies a code from one screen to another.
DIGITS = "23456789"
LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ"
_ALPHABET = DIGITS + LETTERS


class Codes:
    """Makes codes and hashes them.

    Args:
        key: HMAC key, 32 bytes; a code is short, so that a hash without a key would be guessed.
        length: characters of a code, 6 or more.
    """

    def __init__(self, *, key: bytes, length: int) -> None:
        if length < 2:
            raise ValueError("a code needs a digit and a letter")
        self._key = key
        self._length = length

    def new(self) -> str:
        """Return a code with at least one digit and one Latin letter."""
        while True:
            code = "".join(secrets.choice(_ALPHABET) for _ in range(self._length))
            if any(one in DIGITS for one in code) and any(one in LETTERS for one in code):
                return code

    def hash(self, code: str, *, bound_to: str) -> bytes:
        """Return the keyed hash of a code for one purpose; letters count the same in either case.

        Args:
            bound_to: the challenge or card; the same code elsewhere hashes to something else.
        """
        text = f"{bound_to}\x00{code.strip().upper()}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).digest()

    def tag(self, text: str) -> str:
        """Return 16 characters that stand for `text` where it must not be read."""
        return hmac.new(self._key, f"tag\x00{text}".encode(), hashlib.sha256).hexdigest()[:16]


def is_same(one: bytes, other: bytes) -> bool:
    """Compare two hashes in constant time."""
    return hmac.compare_digest(one, other)
