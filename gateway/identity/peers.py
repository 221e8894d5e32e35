"""Whose address a request came from, for the sessions that are begun and seen by it.

Owns the word alone: it is told by whoever holds the connection, and read while a request is
handled. Headers are not believed, for anybody can send them: behind a balancer that does not hand
addresses on it is the balancer's.
"""

from contextvars import ContextVar

from aiohttp import web

from gateway.kernel.http.server import HttpFront

_PEER: ContextVar[str] = ContextVar("peer", default="")


def peer() -> str:
    """Return the address of whoever sent the request that is being handled, or ""."""
    return _PEER.get()


class PeerFront(HttpFront):
    """The front, which tells the peer's address before it hands a request on."""

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one aiohttp request."""
        _PEER.set(http.remote or "")
        return await super().handle(http)
