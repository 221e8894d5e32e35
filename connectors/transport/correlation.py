"""Which answer belongs to which request, on a socket with many in flight. Pure: time is given.

Requests are matched by message class and (F7, F11, F32, F37): a trace number alone has six digits
and comes round again.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from enum import Enum

Fields = dict[int, str | bytes]
Answer = tuple[str, Fields]
Key = tuple[str, str | bytes | None, str | bytes | None, str | bytes | None, str | bytes | None]

RESPONSE_MTI: Mapping[str, str] = {
    "0100": "0110",
    "0120": "0130",
    "0121": "0130",
    "0400": "0410",
    "0401": "0410",
    "0420": "0430",
    "0421": "0430",
    "0800": "0810",
}

# Finished requests whose late or second answers are still recognised.
RECENT_MAX = 8_192


class Stray(Enum):
    """An answer nobody waits for."""

    LATE = "late"  # its request had given up
    DUPLICATE = "duplicate"  # its request was answered before
    UNMATCHED = "unmatched"  # no such request is remembered


def key_of(response_mti: str, fields: Mapping[int, str | bytes]) -> Key:
    """The key under which the answer `response_mti` to a message is awaited."""
    get = fields.get
    return (response_mti, get(7), get(11), get(32), get(37))


class Pending:
    """One request in flight. `written` is set once the socket was given its bytes."""

    __slots__ = ("deadline", "frame", "future", "key", "ticket", "written")

    def __init__(
        self,
        key: Key,
        frame: bytes,
        future: asyncio.Future[Answer],
        deadline: float,
        ticket: int,
    ) -> None:
        self.key = key
        self.frame = frame
        self.future = future
        self.deadline = deadline
        self.ticket = ticket
        self.written = False

    def take_ticket(self) -> int:
        """The breaker's ticket, which is given back once; 0 when it was."""
        ticket, self.ticket = self.ticket, 0
        return ticket


class Pendings:
    """The requests in flight, and lately finished ones."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Pending] = {}
        # All requests wait equally long, so that the first in is the first to expire.
        self._by_age: deque[Pending] = deque()
        self._recent: OrderedDict[Key, Stray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def add(self, pending: Pending) -> None:
        """Await an answer; the key must be free and the deadline no earlier than the last one's."""
        self._by_key[pending.key] = pending
        self._by_age.append(pending)

    def answered(self, key: Key) -> Pending | None:
        """The request an answer belongs to, which is then no longer in flight."""
        pending = self._by_key.pop(key, None)
        if pending is not None:
            self._remember(key, Stray.DUPLICATE)
            self._trim()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for this one any more."""
        if self._by_key.pop(pending.key, None) is not None:
            self._remember(pending.key, Stray.LATE)

    def expired(self, now: float) -> list[Pending]:
        """The requests whose deadline has passed, which are then no longer in flight."""
        expired = []
        self._trim()
        while self._by_age and self._by_age[0].deadline <= now:
            pending = self._by_age.popleft()
            if self._by_key.get(pending.key) is pending:
                self.abandon(pending)
                expired.append(pending)
            self._trim()
        return expired

    def next_deadline(self) -> float | None:
        """When `expired` next has something to say, at the earliest."""
        self._trim()
        return self._by_age[0].deadline if self._by_age else None

    def drain(self) -> list[Pending]:
        """All requests in flight; none is, afterwards."""
        drained = list(self._by_key.values())
        for pending in drained:
            self.abandon(pending)
        self._by_age.clear()
        return drained

    def stray(self, key: Key) -> Stray:
        """What an answer is that no request waits for."""
        return self._recent.get(key, Stray.UNMATCHED)

    def _trim(self) -> None:
        while self._by_age and self._by_key.get(self._by_age[0].key) is not self._by_age[0]:
            self._by_age.popleft()

    def _remember(self, key: Key, stray: Stray) -> None:
        self._recent[key] = stray
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
