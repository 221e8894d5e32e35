"""Ids: a prefix and 26 characters that sort by time (48 bits of milliseconds, 80 random bits)."""

import os
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
LENGTH = 26


def new_id(prefix: str, now_ms: int) -> str:
    """Return `prefix` + 26 characters of Crockford's base 32, greater than any of an earlier ms."""
    pairs, chance = _PAIRS, int.from_bytes(os.urandom(10), "big")
    return (
        f"{prefix}{_time_part(now_ms)}"
        f"{pairs[chance >> 70]}{pairs[chance >> 60 & 1023]}{pairs[chance >> 50 & 1023]}"
        f"{pairs[chance >> 40 & 1023]}{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}"
        f"{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )


@lru_cache(maxsize=16)
def _time_part(now_ms: int) -> str:
    """Return the first 10 characters: the same for all ids of a millisecond."""
    return "".join([_PAIRS[now_ms >> shift & 1023] for shift in range(40, -1, -10)])


def attempt_id(payment_id: str, leg: int) -> str:
    """Return the id of a payment's attempt: the payment's own characters and the leg's digit."""
    return f"att_{payment_id[4:]}{leg}"


def payment_of_attempt(attempt: str) -> str:
    """Return the id of the payment an attempt belongs to."""
    return f"pay_{attempt[4 : 4 + LENGTH]}"
