"""The way to Redis: every call short, and none at all for a while after several have failed.

What is behind it may be slow, stopped, empty or older than it was; whoever uses it must be able to
go on without. It never retries: the caller knows whether that is worth its time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import redis.asyncio
import redis.exceptions
import structlog
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.kernel.clock import steady_s
from gateway.kernel.errors import Unavailable

log = structlog.get_logger("redis")

FAILURES_MAX = 3
"""Failures in a row after which it is left alone."""
OPEN_S = 0.5
"""How long it is left alone; then one call tries it, and the others go on being refused."""

_CLUSTER, _CLUSTER_TLS = "redis+cluster://", "rediss+cluster://"
_MEET_WITHIN_S = 5.0

AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    # Of a cluster: a node is gone, or nobody knows which has a slot.
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    OSError,
    # The event loop's own word for a connection that was closed under what was being written.
    RuntimeError,
)
"""After which nobody knows whether a command was carried out."""

Result = TypeVar("Result")

_CANCELED_WITHIN_S = 1.0


async def end(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task that calls Redis, and wait for its end; None has ended already.

    The library may keep a cancellation that comes while it connects or is answered: it is then
    asked again.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCELED_WITHIN_S)


class Breaker:
    """Bounds each call's time, and spares everybody the wait for a server that does not answer.

    Args:
        timeout_s: of a whole call, connecting included.
        steady: seconds that never jump.
    """

    def __init__(self, *, timeout_s: float, steady: Callable[[], float] = steady_s) -> None:
        self._timeout_s = timeout_s
        self._steady = steady
        self._failures = 0
        self._closed_at_s = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused without being made."""
        if self._failures < FAILURES_MAX:
            return False
        return self._is_probing or self._steady() < self._closed_at_s

    async def run(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Make one call.

        Raises:
            Unavailable: it failed or took too long, or would have.
        """
        if self.is_open:
            raise Unavailable("redis is left alone after it failed")
        is_probe = self._failures >= FAILURES_MAX
        self._is_probing = is_probe
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await call()
        except AWAY as error:
            self._note_failure(error)
            raise Unavailable("redis does not answer") from error
        else:
            self._note_success()
            return result
        finally:
            if is_probe:
                self._is_probing = False

    def _note_failure(self, error: BaseException) -> None:
        self._failures += 1
        self._closed_at_s = self._steady() + OPEN_S
        if self._failures == FAILURES_MAX:
            log.warning("redis is away", error=type(error).__name__)

    def _note_success(self) -> None:
        if self._failures >= FAILURES_MAX:
            log.info("redis is back")
        self._failures = 0


class BoundedRedis(redis.asyncio.Redis):
    """A client whose every command and pipeline passes a breaker; made by `open_redis`."""

    breaker: Breaker

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Carry out one command. Raises Unavailable."""
        command: Callable[..., Awaitable[Any]] = super().execute_command
        return await self.breaker.run(lambda: command(*args, **options))

    def pipeline(
        self, transaction: bool = True, shard_hint: str | None = None
    ) -> "BoundedPipeline":
        """Return a pipeline that passes the breaker as one call."""
        made = BoundedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.breaker = self.breaker
        return made


class BoundedPipeline(Pipeline):
    """Several commands in one round trip."""

    breaker: Breaker

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Carry out what was gathered. Raises Unavailable."""
        carry_out = super().execute
        return await self.breaker.run(lambda: carry_out(raise_on_error))


class BoundedCluster(RedisCluster):
    """A cluster's client whose every command and pipeline passes a breaker, as `BoundedRedis`."""

    breaker: Breaker

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Carry out one command. Raises Unavailable."""
        command: Callable[..., Awaitable[Any]] = super().execute_command
        return await self.breaker.run(lambda: command(*args, **options))

    def pipeline(
        self, transaction: bool | None = True, shard_hint: str | None = None
    ) -> "BoundedClusterPipeline":
        """Return a pipeline that passes the breaker as one call; one of a transaction is of one
        slot."""
        made = BoundedClusterPipeline(self, transaction)  # type: ignore[abstract]  # theirs is too
        made.breaker = self.breaker
        return made


class BoundedClusterPipeline(ClusterPipeline):
    """Several commands, one round trip to each node that they are for."""

    breaker: Breaker

    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        """Carry out what was gathered. Raises Unavailable."""
        carry_out = super().execute
        return await self.breaker.run(lambda: carry_out(raise_on_error, allow_redirections))


def open_redis(url: str, *, timeout_s: float) -> BoundedRedis:
    """Return a client; it connects when it is first used.

    Args:
        url: `redis://`, or `redis+cluster://` of any node of a cluster (`rediss...` over TLS).
        timeout_s: of a whole call.
    """
    breaker = Breaker(timeout_s=timeout_s)
    if _is_cluster(url):
        cluster = BoundedCluster.from_url(_plain(url), **_bounds(timeout_s))
        assert isinstance(cluster, BoundedCluster), "it is made by its own class"
        cluster.breaker = breaker
        # It has the same commands; what is asked of it together is of one slot by its keys' tags.
        return cast(BoundedRedis, cluster)
    pool = redis.asyncio.ConnectionPool.from_url(url, **_bounds(timeout_s))
    client = BoundedRedis(connection_pool=pool)
    # Closing the client closes its connections.
    client.auto_close_connection_pool = True
    client.breaker = breaker
    return client


def open_ear(url: str, *, timeout_s: float, connect_timeout_s: float) -> redis.asyncio.Redis:
    """Return a client for calls that wait long for something to come: no breaker bounds them."""
    bounds = _bounds(timeout_s) | {"socket_connect_timeout": connect_timeout_s}
    if _is_cluster(url):
        return cast(redis.asyncio.Redis, RedisCluster.from_url(_plain(url), **bounds))
    return redis.asyncio.Redis.from_url(url, **bounds)


async def meet(client: BoundedRedis) -> None:
    """Learn which node of a cluster has what, before calls are short; nothing, when it is away."""
    if isinstance(client, RedisCluster):
        with suppress(*AWAY, TimeoutError):
            async with asyncio.timeout(_MEET_WITHIN_S):
                await client.initialize()


def _bounds(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }


def _is_cluster(url: str) -> bool:
    return url.startswith((_CLUSTER, _CLUSTER_TLS))


def _plain(url: str) -> str:
    return url.replace("+cluster://", "://", 1)
