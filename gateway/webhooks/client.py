"""One try of one delivery over HTTP: to exactly the address that was checked, and not further.

Redirects are not followed and what is answered is not kept: a merchant learns the status alone.
Nothing of a URL, a body or a secret is logged or put into an error.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.webhooks.addresses import Policy, may_connect, why_not
from gateway.webhooks.model import Outcome

# Names are looked up apart from the loop's own threads: one that hangs must not delay logins.
_LOOKUPS_AT_ONCE_MAX = 8
# Enough to let a receiver finish its answer; nothing of it is used.
_ANSWER_BYTES_MAX = 16_384

NOT_PERMITTED = "the address is not permitted"
UNKNOWN_HOST = "the host could not be found"
TIMED_OUT = "no answer in time"
NO_CONNECTION = "no connection"
NOT_TRUSTED = "the certificate is not valid for the host"
NOT_HTTP = "the answer is not HTTP"

Lookup = Callable[[str, int, socket.AddressFamily], Awaitable[list[tuple[Any, ...]]]]
"""What `getaddrinfo` is: host, port and family in; its five-tuples out. Raises OSError."""


class NotPermitted(OSError):
    """A name led to an address that no connection may go to."""


class SystemLookup:
    """Looks names up as the machine does, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE_MAX, thread_name_prefix="lookup")

    async def __call__(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> list[tuple[Any, ...]]:
        """Return what getaddrinfo finds."""

        def look_up() -> list[tuple[Any, ...]]:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    def close(self) -> None:
        """End the threads; one that waits for an answer is left to it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """Resolves for a connector, which connects to nothing but what is returned here.

    One forbidden address among many forbids them all: a name that is half ours is an attack or a
    mistake.
    """

    def __init__(self, policy: Policy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises OSError, NotPermitted among them."""
        results: list[ResolveResult] = []
        for kind, _, protocol, _, address in await self._lookup(host, port, family):
            # A scope, where there is one, stays with the address and is refused with it.
            if not may_connect(host, ip_address(address[0]), self._policy):
                raise NotPermitted(NOT_PERMITTED)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address[0],
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is kept."""


class Client:
    """Sends deliveries.

    Args:
        timeout_s: of a whole try, from the look-up to the answer's end.
        lookup: finds addresses; the machine's own unless given.
    """

    def __init__(self, policy: Policy, *, timeout_s: float, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._own_lookup = SystemLookup() if lookup is None else None
        resolver = CheckedResolver(policy, lookup or self._own_lookup or SystemLookup())
        self._session = aiohttp.ClientSession(
            # A connection serves one try: the next is resolved and checked anew, and never meets
            # a connection that the receiver has just closed.
            connector=aiohttp.TCPConnector(
                resolver=resolver, use_dns_cache=False, force_close=True, limit=0
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # No proxy from the environment: it would resolve names for itself.
            trust_env=False,
        )

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> Outcome:
        """Send one try and return what came of it; raises nothing for what a receiver does."""
        # What was permitted when the endpoint was made need not be any more.
        if why_not(url, self._policy) is not None:
            return Outcome(error=NOT_PERMITTED)
        sent = {"Content-Type": "application/json", "User-Agent": "Oqim-Webhooks/1"} | headers
        try:
            async with self._session.post(
                url, data=body, headers=sent, allow_redirects=False
            ) as answer:
                outcome = Outcome(answer.status, retry_after_s=_retry_after_s(answer))
                # The status decides; a body that never ends does not undo it.
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await answer.content.read(_ANSWER_BYTES_MAX)
                return outcome
        except TimeoutError:
            return Outcome(error=TIMED_OUT)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(error=_why(error))

    async def close(self) -> None:
        """Close connections."""
        await self._session.close()
        if self._own_lookup is not None:
            self._own_lookup.close()


def _why(error: Exception) -> str:
    """Return what went wrong in words of ours: an exception's own may name the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotPermitted):
            return NOT_PERMITTED
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UNKNOWN_HOST
    if isinstance(error, aiohttp.ClientSSLError):
        return NOT_TRUSTED
    if isinstance(error, aiohttp.ClientResponseError):
        return NOT_HTTP
    return NO_CONNECTION


def _retry_after_s(answer: aiohttp.ClientResponse) -> float | None:
    """Return what Retry-After asks for (RFC 9110, 10.2.3): seconds, or a date."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
