"""Whose address a request came from.

Owns the word alone: the front writes it, and it is read while a request is handled. Headers are not
believed, for anybody can send them: behind a balancer that does not hand addresses on it is the
balancer's.
"""

from contextvars import ContextVar

_PEER: ContextVar[str] = ContextVar("peer", default="")


def met(address: str) -> None:
    """Take note of who sent the request that the current task answers."""
    _PEER.set(address)


def peer() -> str:
    """Return the address of whoever sent the request that is being handled, or ""."""
    return _PEER.get()
