"""How many card numbers a customer may try: who has a list of stolen ones finds out little here.

Counted in Redis, over all workers, before the issuer is asked: different numbers within an hour,
and numbers that issuers refused. While Redis is away no number is tried: issuers that are asked for
everybody are worse than a customer who adds a card a minute later. Numbers are counted by a digest
of their keyed hash; nothing else of them gets there.
"""

import hashlib
from typing import Any

from redis.asyncio import Redis

from gateway.kernel.http.problems import Problem

WINDOW_MS = 3_600_000

# KEYS: numbers tried, refusals; of one customer. ARGV: the number's digest, the most of either, how
# long they are counted. Returns how long to wait, in ms; 0: the number may be tried, and counts.
_BEGIN = """
local refused = tonumber(redis.call('GET', KEYS[2]) or 0)
if refused >= tonumber(ARGV[3]) then return redis.call('PTTL', KEYS[2]) end
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 0 end
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return redis.call('PTTL', KEYS[1]) end
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 0
"""
_REFUSED = """
if redis.call('INCR', KEYS[1]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 0
"""


class Tries:
    """Counts the numbers that customers try.

    Args:
        redis: a client that answers bytes.
        numbers_max: different ones within an hour.
        refusals_max: that issuers refused, within an hour.
    """

    def __init__(self, *, redis: Redis, numbers_max: int, refusals_max: int) -> None:
        self._numbers_max = numbers_max
        self._refusals_max = refusals_max
        self._begin = redis.register_script(_BEGIN)
        self._refused = redis.register_script(_REFUSED)

    async def begin(self, owner: str, lookup: str) -> None:
        """Count a number that is about to be tried; the same one again counts once.

        Args:
            lookup: its keyed hash.

        Raises:
            Problem: `rate-limited`, with Retry-After.
            Unavailable: Redis is away.
        """
        digest = hashlib.sha256(lookup.encode()).hexdigest()[:16]
        tried, refused = _keys(owner)
        given: list[Any] = [digest, self._numbers_max, self._refusals_max, WINDOW_MS]
        wait_ms = int(await self._begin(keys=[tried, refused], args=given))
        if wait_ms:
            detail = "Too many card numbers were tried; wait before trying another."
            wait_s = max(1, -(-wait_ms // 1_000))
            raise Problem("rate-limited", detail, headers=(("Retry-After", str(wait_s)),))

    async def refuse(self, owner: str) -> None:
        """Count a number that its issuer refused. Raises Unavailable."""
        await self._refused(keys=[_keys(owner)[1]], args=[WINDOW_MS])


def _keys(owner: str) -> tuple[str, str]:
    return f"cards:{{{owner}}}:tried", f"cards:{{{owner}}}:refused"
