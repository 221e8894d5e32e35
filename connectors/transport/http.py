"""Pooled HTTP/1.1 client for processors: one POST, one bounded answer, one deadline.

Owns connections, the bulkhead and the breaker of one endpoint. Must never follow a redirect,
decompress, retry, keep cookies or read a proxy from the environment: each could send a payment
twice or elsewhere. Used by the connectors that speak HTTP.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from connectors.spi.types import Condition
from connectors.transport.breaker import Breaker, BreakerPolicy
from connectors.transport.bulkhead import Bulkhead, is_settling
from connectors.transport.faults import NotSent, OutcomeUnknown
from connectors.transport.http_pool import HttpPool, HttpReply, Origin
from connectors.transport.settings import SettingsReader

# A proxy in between answers these for a processor that is not there.
_GATEWAY_FAILURES = frozenset({502, 503, 504})
# A connector has a few addresses, known from its settings.
_HEADS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """Bounds of one endpoint; every one of them is a setting of the same name.

    Args:
        connect_timeout_ms: for name, TCP and TLS together.
        timeout_ms: for a whole operation, which may be several messages.
        in_flight_max: messages at once that begin something.
        settling_max: messages at once that settle, beside those.
        queue_size_max, queue_timeout_ms: who waits for a connection, and how long.
        reply_size_max: bytes of an answer's body.
        keepalive_timeout_ms: how long an idle connection is kept; shorter than the processor's, so
            that a request does not meet a connection that is just being closed.
        tls: verified client context, when the endpoint is https.
    """

    connect_timeout_ms: int = 3_000
    timeout_ms: int = 10_000
    in_flight_max: int = 256
    settling_max: int = 32
    queue_size_max: int = 1_024
    queue_timeout_ms: int = 1_000
    reply_size_max: int = 1 << 20
    keepalive_timeout_ms: int = 15_000
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    tls: ssl.SSLContext | None = None


def read_http_policy(reader: SettingsReader) -> HttpPolicy:
    """Take the policy's settings out of a connector's section. Raises ValueError naming the key."""
    default = HttpPolicy()
    minute = 60_000
    return HttpPolicy(
        connect_timeout_ms=reader.integer(
            "connect_timeout_ms", default.connect_timeout_ms, least=1, most=minute
        ),
        timeout_ms=reader.integer("timeout_ms", default.timeout_ms, least=1, most=5 * minute),
        in_flight_max=reader.integer("in_flight_max", default.in_flight_max, least=1, most=65_536),
        settling_max=reader.integer("settling_max", default.settling_max, least=1, most=1_024),
        queue_size_max=reader.integer(
            "queue_size_max", default.queue_size_max, least=0, most=1 << 20
        ),
        queue_timeout_ms=reader.integer(
            "queue_timeout_ms", default.queue_timeout_ms, least=1, most=minute
        ),
        reply_size_max=reader.integer(
            "reply_size_max", default.reply_size_max, least=256, most=1 << 26
        ),
        keepalive_timeout_ms=reader.integer(
            "keepalive_timeout_ms", default.keepalive_timeout_ms, least=1, most=60 * minute
        ),
        breaker=read_breaker_policy(reader),
        tls=reader.tls(),
    )


def read_breaker_policy(reader: SettingsReader) -> BreakerPolicy:
    """Take the breaker's settings out of a connector's section."""
    default = BreakerPolicy()
    return BreakerPolicy(
        failures_max=reader.integer(
            "breaker_failures_max", default.failures_max, least=1, most=1 << 20
        ),
        open_ms=reader.integer("breaker_open_ms", default.open_ms, least=1, most=3_600_000),
        probes_max=reader.integer("breaker_probes_max", default.probes_max, least=1, most=1_024),
        settling_probes_max=reader.integer(
            "breaker_settling_probes_max", default.settling_probes_max, least=1, most=1_024
        ),
    )


class HttpTransport:
    """Posts to one processor.

    Args:
        policy: the bounds.
        headers: sent with every request (authorization and content type included).
    """

    def __init__(self, policy: HttpPolicy, headers: Mapping[str, str]) -> None:
        self._policy = policy
        self._headers = _lines({"Accept-Encoding": "identity", "Accept": "*/*", **headers})
        # What every message to an address begins with.
        self._heads: dict[URL, tuple[Origin, bytes]] = {}
        self._breaker = Breaker(policy.breaker)
        self._bulkhead = Bulkhead(
            in_flight_max=policy.in_flight_max,
            settling_max=policy.settling_max,
            queue_size_max=policy.queue_size_max,
            queue_timeout_ms=policy.queue_timeout_ms,
        )
        self._connect_s = policy.connect_timeout_ms / 1000
        self._pool: HttpPool | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Make the pool; connects to nothing yet."""
        if self._pool is None:
            self._pool = HttpPool(
                tls=self._policy.tls,
                keepalive_s=self._policy.keepalive_timeout_ms / 1000,
                reply_size_max=self._policy.reply_size_max,
            )

    async def close(self) -> None:
        """Wait for what is in flight, at most one operation's deadline, then close the pool."""
        pool, self._pool = self._pool, None
        if self._in_flight:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._policy.timeout_ms / 1000):
                    await self._idle.wait()
        if pool is not None:
            pool.close()

    def is_ready(self) -> bool:
        """Whether a message would leave now."""
        return self._pool is not None and self._breaker.would_admit()

    def condition(self) -> Condition:
        """How the link to the processor is now."""
        return Condition(
            breaker=self._breaker.state.value,
            in_flight=self._in_flight,
            waiting=self._bulkhead.waiting,
        )

    def deadline(self) -> float:
        """The deadline of an operation that starts now, on the running loop's clock."""
        return asyncio.get_running_loop().time() + self._policy.timeout_ms / 1000

    async def post(
        self,
        url: URL,
        body: bytes,
        *,
        deadline: float,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Post `body` and return the whole answer, whatever its status.

        Args:
            url: absolute, made once.
            deadline: on the running loop's clock, of the operation this message is part of.
            headers: in addition to the transport's.

        Raises:
            NotSent: provably no byte left.
            OutcomeUnknown: anything later.

        Notes:
            When the caller is cancelled the connection is closed; a byte may have left.
        """
        pool = self._pool
        if pool is None:
            raise NotSent("closed")
        settles = is_settling()
        if not self._breaker.would_admit(is_settling=settles):
            raise NotSent("breaker-open")
        await self._bulkhead.acquire(deadline, is_settling=settles)
        self._in_flight += 1
        ticket = 0
        try:
            if asyncio.get_running_loop().time() >= deadline:
                raise NotSent("deadline")
            ticket = self._breaker.admit(is_settling=settles)
            if ticket == 0:
                raise NotSent("breaker-open")
            reply = await self._exchange(pool, url, body, deadline, headers)
        except (NotSent, OutcomeUnknown):
            self._breaker.fail(ticket)
            raise
        except BaseException:
            self._breaker.release(ticket)
            raise
        finally:
            self._bulkhead.release(is_settling=settles)
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()
        if reply.status in _GATEWAY_FAILURES:
            self._breaker.fail(ticket)
        else:
            self._breaker.succeed(ticket)
        return reply

    async def _exchange(
        self,
        pool: HttpPool,
        url: URL,
        body: bytes,
        deadline: float,
        headers: Mapping[str, str] | None,
    ) -> HttpReply:
        origin, head = self._heads.get(url) or self._head(url)
        own = _lines(headers) if headers else b""
        message = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, own, len(body), body)
        now = asyncio.get_running_loop().time()
        # Connecting must end first: only then is it known that no byte left.
        connect_by = now + min(self._connect_s, (deadline - now) * 0.9)
        return await pool.exchange(origin, message, connect_by=connect_by, deadline=deadline)

    def _head(self, url: URL) -> tuple[Origin, bytes]:
        host, port = url.raw_host, url.port
        if url.scheme not in ("http", "https") or host is None or port is None:
            raise ValueError("a processor's address is an absolute URL of http or https")
        first = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
        head = Origin(host, port, url.scheme == "https"), first.encode() + self._headers
        if len(self._heads) < _HEADS_MAX:
            self._heads[url] = head
        return head


def _lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent. Raises ValueError when one would be two."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line end")
    return "".join([f"{line}\r\n" for line in lines]).encode()
