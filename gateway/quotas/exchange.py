"""What the workers tell one another of their buckets, through Redis and in the background.

Every interval a worker tells what passed in it, many buckets in a command, and learns what all of
them did; whoever may not pass without asking is decided in the same command. Nothing is lost with
Redis but knowledge of the last moments: buckets are then decided alone, and told of again when it
is back.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog
from redis.exceptions import NoScriptError, RedisError

from gateway.kernel.clock import steady_s
from gateway.kernel.errors import Unavailable
from gateway.kernel.metrics import Metrics
from gateway.kernel.redis import BoundedRedis, end
from gateway.quotas.bucket import Bucket, Waiter
from gateway.quotas.gcra import SECOND_US

log = structlog.get_logger("quotas")

# KEYS: buckets, one client's. ARGV: the worker, for how long its count of requests in flight is
# believed, then five for each bucket: what passed and its latest (against now), the tolerance, the
# costs that wait, requests in flight. Returns three for each: how far the arrival time is ahead of
# now, how many of those that wait may pass, requests in flight elsewhere. Times in microseconds,
# by Redis's own clock, so that no two hosts' are compared.
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local mine, told = 'w' .. ARGV[1], {}
for index, key in ipairs(KEYS) do
  local at = index * 5 - 2
  local tat, others = 0, 0
  local held = redis.call('HGETALL', key)
  for one = 1, #held, 2 do
    if held[one] == 'tat' then tat = tonumber(held[one + 1])
    elseif held[one] ~= mine then
      local count, until_us = string.match(held[one + 1], '(%d+) (%d+)')
      if tonumber(until_us) > now then others = others + tonumber(count)
      else redis.call('HDEL', key, held[one]) end
    end
  end
  local spent = tonumber(ARGV[at])
  if spent > 0 then tat = math.max(tat + spent, now + tonumber(ARGV[at + 1])) end
  local passed = 0
  for cost in string.gmatch(ARGV[at + 3], '%d+') do
    local after = math.max(tat, now) + tonumber(cost)
    if after - now > tonumber(ARGV[at + 2]) then break end
    tat, passed = after, passed + 1
  end
  redis.call('HSET', key, 'tat', string.format('%.0f', tat))
  if tonumber(ARGV[at + 4]) > 0 then
    redis.call('HSET', key, mine, ARGV[at + 4] .. ' ' .. string.format('%.0f', now + ARGV[2]))
  else redis.call('HDEL', key, mine) end
  redis.call('PEXPIRE', key, math.ceil(math.max(tat - now, 0) / 1000) + 10000)
  told[index * 3 - 2], told[index * 3 - 1], told[index * 3] = tat - now, passed, others
end
return told
"""
_SHA = hashlib.sha1(_SCRIPT.encode()).hexdigest()
_KEYS_MAX = 100
"""Buckets in one command: a script holds Redis up for less than a millisecond."""
_BUCKETS_MAX = 1_000
"""Buckets in one exchange; more wait for the next."""
# For so long the count of a worker that is not heard of is believed.
_COUNT_KEPT_US = 3 * SECOND_US
_TELL_AGAIN_US = SECOND_US
_SWEPT_AT_ONCE = 200


def now_us() -> int:
    """Return microseconds that never jump."""
    return int(steady_s() * SECOND_US)


class Exchange:
    """One worker's buckets, and what tells others of them.

    Args:
        interval_s: between two exchanges.
        steady_us: microseconds that never jump.

    Attributes:
        is_away: whether the last exchange failed.
        unseen_us_max: the interval; what a bucket may let pass in it without asking.
        fresh_us: for how long what an exchange has shown is taken for known.
    """

    def __init__(
        self,
        *,
        redis: BoundedRedis,
        metrics: Metrics,
        interval_s: float,
        steady_us: Callable[[], int] = now_us,
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._interval_s = interval_s
        self._steady_us = steady_us
        self._worker = secrets.token_hex(6)
        self._buckets: dict[str, Bucket] = {}
        # To be told of, in order.
        self._changed: dict[Bucket, None] = {}
        self._sweeping: Iterator[Bucket] = iter(())
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_away = False
        self.unseen_us_max = round(interval_s * SECOND_US)
        self.fresh_us = 3 * self.unseen_us_max

    @property
    def size(self) -> int:
        """Buckets held here."""
        return len(self._buckets)

    def start(self) -> None:
        """Begin to tell; returns at once."""
        self._task = asyncio.create_task(self._run(), name="quotas-exchange")

    async def close(self) -> None:
        """Tell what passed, and stop; whoever waits is decided here."""
        if self._task is not None:
            await end(self._task)
            with contextlib.suppress(Unavailable, RedisError):
                await self.exchange()
        for bucket in self._buckets.values():
            _answer(bucket.waiting, None)
            bucket.waiting = []

    def find(self, key: str) -> Bucket | None:
        """Return a bucket that is held here."""
        return self._buckets.get(key)

    def hold(self, bucket: Bucket) -> None:
        """Hold a bucket from now on."""
        self._buckets[bucket.key] = bucket

    def note(self, bucket: Bucket) -> None:
        """Note that there is something to tell of a bucket."""
        self._changed[bucket] = None

    async def ask(self, bucket: Bucket, cost_us: int) -> bool | None:
        """Wait for an exchange, begun now, that says whether a request may pass.

        Returns:
            None when Redis is away.
        """
        waiter = Waiter(cost_us, asyncio.get_running_loop().create_future())
        bucket.waiting.append(waiter)
        self._changed[bucket] = None
        self._wake.set()
        try:
            return await waiter.told
        finally:
            # One that was canceled asks for nothing any more.
            if waiter in bucket.waiting:
                bucket.waiting.remove(waiter)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            self._wake.clear()
            self._sweep()
            if not self._changed:
                continue
            try:
                await self.exchange()
                if self.is_away:
                    log.info("rates are shared again")
                self.is_away = False
            except Exception as error:
                # Whatever it was, requests are decided here meanwhile.
                if not isinstance(error, (Unavailable, RedisError)):
                    log.exception("buckets were not told of")
                elif not self.is_away:
                    log.warning("rates are held by each worker alone", error=type(error).__name__)
                self.is_away = True
                self._metrics.count("quotas_exchange", "failed")

    async def exchange(self) -> None:
        """Tell of every bucket that changed, and learn. Raises Unavailable, RedisError."""
        buckets = list(self._changed)[:_BUCKETS_MAX]
        for bucket in buckets:
            del self._changed[bucket]
        groups = list(_grouped(buckets))
        arguments = [self._arguments(group) for group in groups]
        asked = [bucket.waiting for bucket in buckets]
        for bucket in buckets:
            bucket.is_asking, bucket.waiting = bool(bucket.waiting), []
        try:
            answers = await self._execute(groups, arguments)
        except BaseException:
            for bucket, waiting in zip(buckets, asked, strict=True):
                # Decided alone now, by what is known.
                bucket.unanswered_us = 0
                _answer(waiting, None)
            raise
        finally:
            for bucket in buckets:
                bucket.is_asking = False
        waiting_of = dict(zip(buckets, asked, strict=True))
        learned_us = self._steady_us()
        for group, answer in zip(groups, answers, strict=True):
            told = iter(answer)
            for bucket, debt_us, passed, others in zip(group, told, told, told, strict=True):
                bucket.learn(learned_us, debt_us, others)
                if others and bucket.concurrency_max:
                    # Where others have requests under way, what is known must stay fresh.
                    self._changed[bucket] = None
                waiting = waiting_of[bucket]
                _answer(waiting[:passed], True)
                _answer(waiting[passed:], False)
        if self._changed and any(one.waiting for one in self._changed):
            self._wake.set()

    def _arguments(self, group: list[Bucket]) -> list[str | int]:
        """Return what is told of some buckets; it counts as told from now on."""
        at_us = self._steady_us()
        found: list[str | int] = [self._worker, _COUNT_KEPT_US]
        for bucket in group:
            spent = bucket.tell()
            bucket.told = bucket.in_flight if bucket.concurrency_max else 0
            bucket.told_at_us = at_us
            found += (
                spent.total_us,
                spent.latest_us - at_us,
                bucket.pace.tolerance_us,
                " ".join(str(one.cost_us) for one in bucket.waiting),
                bucket.told,
            )
        return found

    async def _execute(
        self, groups: list[list[Bucket]], arguments: list[list[str | int]]
    ) -> list[list[int]]:
        async def send() -> list[list[int]]:
            pipeline: Any = self._redis.pipeline(transaction=False)
            for group, given in zip(groups, arguments, strict=True):
                pipeline.evalsha(_SHA, len(group), *(one.key for one in group), *given)
            answers: list[list[int]] = await pipeline.execute()
            return answers

        try:
            return await send()
        except NoScriptError:
            # A Redis that was started anew knows none, and has carried out nothing.
            await self._redis.script_load(_SCRIPT)
            return await send()

    def _sweep(self) -> None:
        """Let go of some buckets that say nothing, and tell again of requests that take long."""
        at_us = self._steady_us()
        for _ in range(_SWEPT_AT_ONCE):
            bucket = next(self._sweeping, None)
            if bucket is None:
                self._sweeping = iter(list(self._buckets.values()))
                return
            if bucket.is_idle(at_us):
                self._buckets.pop(bucket.key, None)
            elif bucket.told and at_us - bucket.told_at_us > _TELL_AGAIN_US:
                self._changed[bucket] = None


def _grouped(buckets: Iterable[Bucket]) -> Iterator[list[Bucket]]:
    """Return buckets by client, some at once: a command's keys must be of one slot."""
    by_tag: dict[str, list[Bucket]] = {}
    for bucket in buckets:
        by_tag.setdefault(bucket.tag, []).append(bucket)
    for group in by_tag.values():
        for start in range(0, len(group), _KEYS_MAX):
            yield group[start : start + _KEYS_MAX]


def _answer(waiting: list[Waiter], told: bool | None) -> None:
    for waiter in waiting:
        if not waiter.told.done():
            waiter.told.set_result(told)
