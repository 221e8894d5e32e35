"""Ids: a prefix and 26 characters that sort by time (48 bits of milliseconds, 80 random bits).

The first ten random bits of a payment's id are its customer's place instead, two characters that
all of a customer's payments share, and everything that belongs to them: tables could be spread by
it. A place tells nothing else of a customer, and a thousandth of all customers have the same.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
LENGTH = 26
_CHANCE_LENGTH = 16
# One random byte makes one character: five of its bits, each as likely as the others.
_CHARACTERS = (ALPHABET * 8).encode()


def new_id(prefix: str, now_ms: int, place: str | None = None) -> str:
    """Return `prefix` + 26 characters of Crockford's base 32, greater than any of an earlier ms.

    Args:
        place: two of those characters, for what lies where its customer does.
    """
    chance = _chance.next()
    if place is None:
        return f"{prefix}{_time_part(now_ms)}{chance}"
    return f"{prefix}{_time_part(now_ms)}{place}{chance[2:]}"


class _Chance:
    """Random characters, made for many ids at a time: a system call costs more than what it reads.

    Each is given out once, also when threads ask at the same time or the process has forked.
    """

    MADE = 400

    def __init__(self) -> None:
        self._made: Iterator[str] = iter(())
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Give out none of what was made."""
        self._made = iter(())

    def next(self) -> str:
        """Return 16 characters, 80 random bits."""
        while (chance := next(self._made, None)) is None:
            text = os.urandom(_CHANCE_LENGTH * self.MADE).translate(_CHARACTERS).decode("ascii")
            self._made = iter(
                [text[at : at + _CHANCE_LENGTH] for at in range(0, len(text), _CHANCE_LENGTH)]
            )
        return chance


_chance = _Chance()


@lru_cache(maxsize=16)
def _time_part(now_ms: int) -> str:
    """Return the first 10 characters: the same for all ids of a millisecond."""
    return "".join([_PAIRS[now_ms >> shift & 1023] for shift in range(40, -1, -10)])


@lru_cache(maxsize=8_192)
def place_of(owner: str) -> str:
    """Return where a customer lies: the first ten bits of SHA-256 of the customer's id."""
    return _PAIRS[int.from_bytes(hashlib.sha256(owner.encode()).digest()[:2], "big") >> 6]


def place_in(payment_id: str) -> str:
    """Return where a payment lies."""
    return payment_id[14:16]


def attempt_id(payment_id: str, leg: int) -> str:
    """Return the id of a payment's attempt: the payment's own characters and the leg's digit."""
    return f"att_{payment_id[4:]}{leg}"


def payment_of_attempt(attempt: str) -> str:
    """Return the id of the payment an attempt belongs to."""
    return f"pay_{attempt[4 : 4 + LENGTH]}"
