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

import aiohttp
from yarl import URL

from connectors.spi.types import Condition
from connectors.transport.breaker import Breaker, BreakerPolicy
from connectors.transport.bulkhead import Bulkhead, is_settling
from connectors.transport.faults import NotSent, OutcomeUnknown
from connectors.transport.settings import SettingsReader

# A proxy in between answers these for a processor that is not there.
_GATEWAY_FAILURES = frozenset({502, 503, 504})


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


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer, whole. `repr` shows no body: it may hold a token."""

    status: int
    body: bytes = field(repr=False)


class HttpTransport:
    """Posts to one processor.

    Args:
        policy: the bounds.
        headers: sent with every request (authorization and content type included).
    """

    def __init__(self, policy: HttpPolicy, headers: Mapping[str, str]) -> None:
        self._policy = policy
        self._headers = {"Accept-Encoding": "identity", **headers}
        self._breaker = Breaker(policy.breaker)
        self._bulkhead = Bulkhead(
            in_flight_max=policy.in_flight_max,
            settling_max=policy.settling_max,
            queue_size_max=policy.queue_size_max,
            queue_timeout_ms=policy.queue_timeout_ms,
        )
        self._connect_s = policy.connect_timeout_ms / 1000
        self._timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_s)
        self._session: aiohttp.ClientSession | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Make the pool; connects to nothing yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._policy.in_flight_max + self._policy.settling_max,
                    keepalive_timeout=self._policy.keepalive_timeout_ms / 1000,
                    ssl=self._policy.tls or True,
                ),
                headers=self._headers,
                skip_auto_headers=("User-Agent",),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=self._timeout,
            )

    async def close(self) -> None:
        """Wait for what is in flight, at most one operation's deadline, then close the pool."""
        session, self._session = self._session, None
        if self._in_flight:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._policy.timeout_ms / 1000):
                    await self._idle.wait()
        if session is not None:
            await session.close()

    def is_ready(self) -> bool:
        """Whether a message would leave now."""
        return self._session is not None and self._breaker.would_admit()

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
        session = self._session
        if session is None:
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
            reply = await self._exchange(session, url, body, deadline, headers)
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
        session: aiohttp.ClientSession,
        url: URL,
        body: bytes,
        deadline: float,
        headers: Mapping[str, str] | None,
    ) -> HttpReply:
        timeout = self._timeout
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s < self._connect_s:
            # Connecting must end first: only then is it known that no byte left.
            timeout = aiohttp.ClientTimeout(total=None, connect=left_s * 0.9)
        try:
            async with (
                asyncio.timeout_at(deadline),
                session.post(
                    url, data=body, headers=headers, allow_redirects=False, timeout=timeout
                ) as response,
            ):
                return HttpReply(response.status, await self._read(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise NotSent("connect-failed") from None
        except TimeoutError:
            raise OutcomeUnknown("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise OutcomeUnknown("connection-lost") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        size_max = self._policy.reply_size_max
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise OutcomeUnknown("reply-encoded")
        if (response.content_length or 0) > size_max:
            response.close()
            raise OutcomeUnknown("reply-too-large")
        body = b""
        while not response.content.at_eof():
            body += await response.content.readany()
            if len(body) > size_max:
                response.close()
                raise OutcomeUnknown("reply-too-large")
        return body
