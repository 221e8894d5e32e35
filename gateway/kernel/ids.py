"""Ids: a prefix and 26 characters that sort by time (48 bits of milliseconds, 80 random bits)."""

import os

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
LENGTH = 26


def new_id(prefix: str, now_ms: int) -> str:
    """Return `prefix` + 26 characters of Crockford's base 32, greater than any of an earlier ms."""
    number = (now_ms << 80) | int.from_bytes(os.urandom(10), "big")
    pairs = _PAIRS
    return prefix + "".join([pairs[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def attempt_id(payment_id: str, leg: int) -> str:
    """Return the id of a payment's attempt: the payment's own characters and the leg's digit."""
    return f"att_{payment_id[4:]}{leg}"


def payment_of_attempt(attempt: str) -> str:
    """Return the id of the payment an attempt belongs to."""
    return f"pay_{attempt[4 : 4 + LENGTH]}"
