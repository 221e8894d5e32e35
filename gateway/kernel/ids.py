"""Ids: a prefix and 26 characters that sort by time (48 bits of milliseconds, 80 random bits).

The first ten random bits of a payment's id are its customer's place instead, two characters that
all of a customer's payments share, and everything that belongs to them: tables could be spread by
it. A place tells nothing else of a customer, and a thousandth of all customers have the same.
"""

import hashlib
import os
from functools import lru_cache
from struct import calcsize, iter_unpack

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
LENGTH = 26
_CHANCE = "10s"


def new_id(prefix: str, now_ms: int, place: str | None = None) -> str:
    """Return `prefix` + 26 characters of Crockford's base 32, greater than any of an earlier ms.

    Args:
        place: two of those characters, for what lies where its customer does.
    """
    pairs, chance = _PAIRS, _chance.next()
    return (
        f"{prefix}{_time_part(now_ms)}"
        f"{place or pairs[chance >> 70]}{pairs[chance >> 60 & 1023]}{pairs[chance >> 50 & 1023]}"
        f"{pairs[chance >> 40 & 1023]}{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}"
        f"{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )


class _Chance:
    """The system's random numbers, read many at a time: a call costs more than what it reads.

    Each is given out once, also when threads ask at the same time or the process has forked.
    """

    READ = 400

    def __init__(self) -> None:
        self._numbers = iter_unpack(_CHANCE, b"")
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Give out none of what was read."""
        self._numbers = iter_unpack(_CHANCE, b"")

    def next(self) -> int:
        """Return 80 random bits."""
        while (number := next(self._numbers, None)) is None:
            self._numbers = iter_unpack(_CHANCE, os.urandom(calcsize(_CHANCE) * self.READ))
        return int.from_bytes(number[0], "big")


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
