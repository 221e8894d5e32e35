"""The limits library against the core: what it costs to take from eight limits at once.

The same: eight limits on eight keys, all of them looked at and counted for each request. Not the
same, and all in the library's favour: it counts requests, not amounts; it knows rolling windows
and no calendar of a country, no rules with versions, no account of why. What stands beside it is a
whole `core.admit`: token, body, routing, commission and limits together, forgotten again.

Its storage in memory is one process's; the one in Redis is what several share, as ours share what
the database holds. There a round trip a limit is made, over the loopback address.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from limits import RateLimitItem, RateLimitItemPerHour
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from gateway.bench.rows import Ratio
from gateway.bench.small_rows import (
    POLICIES_THAT_CANNOT_MATCH,
    Call,
    Subject,
    headers_of,
    ratio_of,
    timed,
    token,
)
from gateway.sandbox.datadir import free_port
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.installs import bare_environment, find_valkey
from gateway.sandbox.progress import Progress

LIMITS, MOST = 8, 1_000_000
# A moving window keeps every hit: so many keys take turns that none grows long.
CUSTOMERS = 500
READY_WITHIN_S = 10.0

_STRATEGIES: tuple[tuple[str, type[RateLimiter]], ...] = (
    ("sliding window counter", SlidingWindowCounterRateLimiter),
    ("moving window", MovingWindowRateLimiter),
)


def limits(*, rounds: int, progress: Progress) -> list[Ratio]:
    """Compare a whole admission with eight limits of the library, by strategy and storage."""
    subject = Subject(Ed25519PrivateKey.from_private_bytes(bytes(32)), POLICIES_THAT_CANNOT_MATCH)
    headers = headers_of(token(Ed25519PrivateKey.from_private_bytes(bytes(32)), 0))
    with _valkey() as url:
        storages: tuple[tuple[str, Storage, int], ...] = (
            ("in memory", MemoryStorage(), 500),
            ("in Redis", RedisStorage(url), 50),
        )
        theirs = [
            (f"limits, {strategy}, {place}", _taker(limiter(storage)), count)
            for strategy, limiter in _STRATEGIES
            for place, storage, count in storages
        ]
        calls: list[tuple[Call, int]] = [(lambda: subject.admit(headers), 5_000)]
        calls += [(take, count) for _, take, count in theirs]
        ours, *others = timed(calls, rounds=rounds, title="limits", progress=progress)
    what = f"`core.admit`, all of it, beside {LIMITS} limits taken"
    return [
        ratio_of("limits", what, against, ours, timing, goal=1.0)
        for (against, _, _), timing in zip(theirs, others, strict=True)
    ]


def _taker(limiter: RateLimiter) -> Callable[[], None]:
    """Return what takes from eight limits of the next customer. Raises SandboxError if refused."""
    item: RateLimitItem = RateLimitItemPerHour(MOST)
    keys = cycle(
        [[(f"limit-{n}", f"usr_{who}") for n in range(LIMITS)] for who in range(CUSTOMERS)]
    )

    def take() -> None:
        for key in next(keys):
            if not limiter.hit(item, *key):
                raise SandboxError("the limits library refused what is within its limits")

    return take


@contextmanager
def _valkey() -> Iterator[str]:
    """Run a server that keeps nothing; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="oqim-bench-") as folder:
        port = free_port()
        arguments = [str(find_valkey()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen(
            [*arguments, "--dir", folder, "--logfile", str(Path(folder) / "log")],
            env=bare_environment(),
        )
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _until_ready(url)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise SandboxError("Valkey did not start for the row `limits`") from None
                time.sleep(0.02)
            else:
                return


MICRO: dict[str, Callable[..., list[Ratio]]] = {"limits": limits}
