"""What the generators know of the gateway: who asks, with which bytes, and where an answer ends.

The few bytes of HTTP/1.1 that our own servers answer (a Content-Length, no chunks): no generator
may ever be pointed at anything else. When something is asked, and what its answer means, is each
generator's own.
"""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import cast

PAYMENTS = b"/v1/payments"
AMOUNT = 10_000

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]+)")
_ID_AT, _ID_LENGTH = len(b'{"id":"'), 30
_REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: oqim-bench\r\n"
    b"Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer %b\r\n"
    b"Idempotency-Key: %b\r\nContent-Length: %d\r\n\r\n%b%b%b"
)


@dataclass(slots=True)
class Seeded:
    """Who pays: access tokens, and each user's card of a scheme, by the same index."""

    tokens: list[bytes]
    cards: dict[str, list[bytes]]
    merchant: bytes

    @classmethod
    def read(cls, path: Path) -> "Seeded":
        """Read what `loadtests/seed.py` wrote."""
        raw = json.loads(path.read_text())
        return cls(
            [token.encode() for token in raw["tokens"]],
            {scheme: [card.encode() for card in cards] for scheme, cards in raw["cards"].items()},
            raw["merchant"].encode(),
        )

    def around_card(self, amount: int = AMOUNT) -> tuple[bytes, bytes]:
        """Return what is before a card's id in the body of a payment, and what is after it."""
        return (
            b'{"operation":"purchase","amount":%d,"currency":"UZS","source":{"card":"' % amount,
            b'"},"destination":{"merchant":"%b"},"capture":"automatic","description":"load",'
            b'"metadata":{"order":"1001"}}' % self.merchant,
        )


def request(
    token: bytes, key: bytes, card: bytes, around: tuple[bytes, bytes], path: bytes = PAYMENTS
) -> bytes:
    """Return the bytes of a payment's request, or of another that has the same body.

    Args:
        around: of the card, as `Seeded.around_card` gives it.
    """
    before, after = around
    length = len(before) + len(card) + len(after)
    return _REQUEST % (path, token, key, length, before, card, after)


def length_of(data: bytes, head_end: int) -> int | None:
    """Return how long the body of an answer is; None when its head does not say."""
    found = _LENGTH.search(data, 0, head_end)
    return int(found[1]) if found else None


def payment_id(data: bytes, body_at: int) -> bytes:
    """Return the id of the payment that the body of an answer begins with."""
    return data[body_at + _ID_AT : body_at + _ID_AT + _ID_LENGTH]


def is_replay(data: bytes, body_at: int) -> bool:
    """Return whether an answer says that it was given before; headers come in either case."""
    return b"idempotent-replayed: true" in data[:body_at].lower()


class Connection(asyncio.Protocol, ABC):
    """One connection with one request under way at most: cuts what comes into whole answers."""

    __slots__ = ("received", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, and are used like them.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end >= 0:
            length, body_at = length_of(data, head_end), head_end + 4
            if length is None:
                self.complain("an answer has no Content-Length")
                self.transport.abort()
                return
            if len(data) >= body_at + length:
                self.received = b""
                self.answered(int(data[9:12]), data, body_at)
                return
        self.received = data

    @abstractmethod
    def answered(self, status: int, data: bytes, body_at: int) -> None:
        """Take one whole answer into account and go on."""

    @abstractmethod
    def complain(self, problem: str) -> None:
        """Note that the peer is not what this was made for."""
