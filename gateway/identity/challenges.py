"""One-time codes of a login: asked for, tried, used once.

They live in Redis alone: what is lost with it is a code that must be asked for again. A challenge
and the state of its phone share a hash tag, so that one script sees both, in a cluster too. The
phone is not in a key, and the code is kept as a keyed hash.
"""

import re
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from gateway.identity.codes import Codes
from gateway.identity.messenger import Messenger
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.settings import Identity

PREFIX = "chl_"
_ID = re.compile(PREFIX + r"[0-9A-Z]{26}_([0-9a-f]{16})\Z")

# Both scripts: KEYS phone state, challenge; ARGV[1] now in ms, ARGV[2] how long keys are kept, ms.
_ASK = """
local state = redis.call('HMGET', KEYS[1], 'locked_until', 'resend_at')
if tonumber(state[1] or 0) > tonumber(ARGV[1]) then return {'locked', state[1]} end
if tonumber(state[2] or 0) > tonumber(ARGV[1]) then return {'early', state[2]} end
if redis.call('HINCRBY', KEYS[1], 'sends', 1) > tonumber(ARGV[8]) then
    redis.call('HSET', KEYS[1], 'locked_until', ARGV[9])
    redis.call('HDEL', KEYS[1], 'sends', 'wrong')
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {'locked', ARGV[9]}
end
redis.call('HSET', KEYS[1], 'current', ARGV[3], 'resend_at', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'phone', ARGV[4], 'hash', ARGV[5], 'expires_at', ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {'asked', ''}
"""
_TRY = """
local challenge = redis.call('HMGET', KEYS[2], 'phone', 'hash', 'expires_at', 'used')
if not challenge[1] then return {'unknown', ''} end
if challenge[4] then return {'used', ''} end
local state = redis.call('HMGET', KEYS[1], 'locked_until', 'current')
if tonumber(state[1] or 0) > tonumber(ARGV[1]) then return {'locked', state[1]} end
local is_over = tonumber(challenge[3]) <= tonumber(ARGV[1])
if is_over or state[2] ~= ARGV[3] then return {'expired', ''} end
if challenge[2] == ARGV[4] then
    redis.call('HSET', KEYS[2], 'used', '1')
    redis.call('HDEL', KEYS[2], 'hash')
    redis.call('HDEL', KEYS[1], 'wrong', 'resend_at', 'sends')
    return {'right', challenge[1]}
end
if redis.call('HINCRBY', KEYS[1], 'wrong', 1) >= tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[1], 'locked_until', ARGV[6])
    redis.call('HDEL', KEYS[1], 'wrong')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'wrong', ''}
"""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that was sent. Times are Unix milliseconds."""

    id: str
    expires_at_ms: int
    resend_at_ms: int


class Challenges:
    """Asks phones for codes.

    Args:
        redis: a client that answers bytes.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        messenger: Messenger,
        codes: Codes,
        settings: Identity,
        clock: Clock,
    ) -> None:
        self._messenger = messenger
        self._codes = codes
        self._settings = settings
        self._clock = clock
        self._kept_ms = (settings.code_lock_s + settings.code_ttl_s) * 1_000
        self._ask_script = redis.register_script(_ASK)
        self._try_script = redis.register_script(_TRY)

    async def ask(self, phone: str) -> Challenge:
        """Send a new code to a phone; the one before it stops working.

        Args:
            phone: E.164.

        Raises:
            Problem: `rate-limited` before the resend time; `otp-locked` after too many wrong
                codes, or too many that were sent; both with Retry-After.
        """
        now_ms = self._clock()
        tag = self._codes.tag(phone)
        challenge = Challenge(
            f"{new_id(PREFIX, now_ms)}_{tag}",
            now_ms + self._settings.code_ttl_s * 1_000,
            now_ms + self._settings.code_resend_s * 1_000,
        )
        code = self._codes.new()
        verdict, detail = await self._run(
            self._ask_script,
            challenge.id,
            tag,
            now_ms,
            challenge.id,
            phone,
            self._codes.hash(code, bound_to=challenge.id).hex(),
            challenge.expires_at_ms,
            challenge.resend_at_ms,
            self._settings.code_sends_max,
            now_ms + self._settings.code_lock_s * 1_000,
        )
        if verdict == "locked":
            raise locked(int(detail) - now_ms)
        if verdict == "early":
            raise too_early(int(detail) - now_ms)
        text = f"Oqim: {code} is your code. Tell it to nobody."
        await self._messenger.send(to=phone, text=text, code=code)
        return challenge

    async def use(self, challenge_id: str, code: str) -> str:
        """Use a code up and return the phone it proves.

        Raises:
            Problem: `invalid-grant` (no such challenge), `otp-already-used`, `otp-locked`,
                `otp-expired`, `otp-invalid`, in this order.
        """
        found = _ID.match(challenge_id)
        if found is None:
            raise _unknown()
        now_ms = self._clock()
        verdict, detail = await self._run(
            self._try_script,
            challenge_id,
            found.group(1),
            now_ms,
            challenge_id,
            self._codes.hash(code, bound_to=challenge_id).hex(),
            self._settings.code_tries_max,
            now_ms + self._settings.code_lock_s * 1_000,
        )
        if verdict == "right":
            return detail
        if verdict == "locked":
            raise locked(int(detail) - now_ms)
        raise {
            "unknown": _unknown(),
            "used": Problem("otp-already-used", "Ask for a new code."),
            "expired": Problem("otp-expired", "Ask for a new code."),
            "wrong": Problem("otp-invalid", "Enter the code that was sent last."),
        }[verdict]

    async def _run(
        self, script: Any, challenge_id: str, tag: str, now_ms: int, *arguments: str | int
    ) -> tuple[str, str]:
        keys = [f"otp:{{{tag}}}:phone", f"otp:{{{tag}}}:{challenge_id}"]
        verdict, detail = await script(keys=keys, args=[now_ms, self._kept_ms, *arguments])
        return verdict.decode(), detail.decode()


def _unknown() -> Problem:
    return Problem("invalid-grant", "There is no such challenge; ask for a code.")


def locked(wait_ms: int) -> Problem:
    """Return the problem of too many codes, wrong or sent."""
    detail = "Too many codes were wrong, or were sent; wait before asking for another."
    return Problem("otp-locked", detail, headers=(_retry_after(wait_ms),))


def too_early(wait_ms: int) -> Problem:
    """Return the problem of a code asked for again too early."""
    detail = "A code was sent a moment ago; wait before asking for another."
    return Problem("rate-limited", detail, headers=(_retry_after(wait_ms),))


def _retry_after(wait_ms: int) -> tuple[str, str]:
    return ("Retry-After", str(max(1, -(-wait_ms // 1_000))))
