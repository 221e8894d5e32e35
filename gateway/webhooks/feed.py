"""The feed: events as they happen, to whoever listens, each once and in order.

One reader a worker reads what is new for all who listen to it. A listener first reads for itself
what it has missed, up to where the reader stands as it joins, and is handed from then on what the
reader reads: no event lies in both parts or in neither, whichever worker it listens to.

The events of one payment come in its order. Over payments the order is that of their
transactions, the same on every worker and at every reading.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import asyncpg
import structlog

from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.http.problems import Problem
from gateway.kernel.metrics import Metrics
from gateway.settings import Events as EventSettings
from gateway.webhooks import store
from gateway.webhooks.model import Event, Position, key_of

log = structlog.get_logger("events")

_BATCH_SIZE_MAX = 500
# Behind by more than this, a listener is cut off: it comes again and reads for itself.
_BEHIND_MAX = 1_000
# Reading what was missed is dear; a crowd that comes again at once takes turns.
_CATCHING_UP_MAX = 4
# After every event of one transaction.
_NUMBER_MAX = 2**63 - 1


@dataclass(slots=True, eq=False)
class Listener:
    """One open stream.

    Args:
        subject: whose events it is told.
        joined_at: where the reader stood; it is handed what comes after.
        after: what it was told already, here or elsewhere.
    """

    subject: str
    joined_at: Position
    after: Position
    waiting: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(_BEHIND_MAX))
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a stream tells: an event, or only that everything up to here was told."""

    position: Position
    event: Event | None = None


class Feed:
    """Who listens to this worker, and the one reader for all of them."""

    def __init__(self, pool: asyncpg.Pool, metrics: Metrics, settings: EventSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._listeners: dict[str, set[Listener]] = {}
        self._count = 0
        self._at: Position = ("0", 0)
        self._joining = asyncio.Lock()
        self._catching_up = asyncio.Semaphore(_CATCHING_UP_MAX)
        self._has_listeners = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        metrics.gauge("event_streams", "Streams of events open.", lambda: float(self._count))

    def start(self) -> None:
        """Begin to read for whoever will listen; returns at once."""
        self._reader = asyncio.create_task(self._read_forever())

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    # Joining ------------------------------------------------------------------------------------

    async def join(self, subject: str, after: Position | None) -> Listener:
        """Add a listener, who must be given to `leave` in the end.

        Args:
            after: the last position it was told; None: it is told what happens from now on.

        Raises:
            Problem: `rate-limited`, `overloaded`, or `invalid-cursor` when the position is not
                one that can be gone on from.
        """
        async with self._joining:
            if len(self._listeners.get(subject, ())) >= self._settings.streams_per_user_max:
                detail = f"{self._settings.streams_per_user_max} streams are the most; close one."
                raise Problem("rate-limited", detail)
            if self._count >= self._settings.streams_max:
                raise Problem("overloaded", "Too many streams are open; try again soon.")
            if after is not None or not self._count:
                horizon = await self._check(after)
                if not self._count:
                    # Nobody is read for: whoever listens first need not wait for what came before.
                    self._at = (str(horizon - 1), _NUMBER_MAX)
            listener = Listener(subject, self._at, after or self._at)
            self._listeners.setdefault(subject, set()).add(listener)
            self._count += 1
            self._has_listeners.set()
            return listener

    async def _check(self, after: Position | None) -> int:
        """Return the oldest transaction that runs; refuse a position that is beyond it or gone."""
        row = await self._pool.fetchrow(store.GET_BOUNDS)
        assert row is not None, "the migration made it"
        horizon = int(row["horizon"])
        if after is not None:
            is_gone = key_of(after) < key_of((row["xid"], row["id"]))
            if is_gone or int(after[0]) >= horizon:
                detail = "This event is not kept any more. Start anew, and read your payments."
                raise Problem("invalid-cursor", detail)
        return horizon

    def leave(self, listener: Listener) -> None:
        """Take a listener away; a second time changes nothing."""
        of_subject = self._listeners.get(listener.subject, set())
        if listener not in of_subject:
            return
        of_subject.discard(listener)
        if not of_subject:
            del self._listeners[listener.subject]
        self._count -= 1
        if not self._count:
            self._has_listeners.clear()

    # Telling ------------------------------------------------------------------------------------

    async def told(self, listener: Listener) -> AsyncGenerator[Told, None]:
        """Give everything after `listener.after`, without a gap and once, and signs of life.

        It ends when the listener does not keep up.
        """
        last = listener.after
        yield Told(last)
        async with aclosing(self._missed(listener)) as missed:
            async for told in missed:
                last = told.position
                yield told
        while not listener.is_cut_off:
            try:
                event = await asyncio.wait_for(listener.waiting.get(), self._settings.heartbeat_s)
            except TimeoutError:
                if listener.waiting.empty():
                    # All that was read for it was told.
                    last = max(last, self._at, key=key_of)
                    yield Told(last)
                continue
            # One that comes from another worker may have been told more than was read here.
            if key_of(event.position) > key_of(last):
                last = event.position
                yield Told(last, event)

    async def _missed(self, listener: Listener) -> AsyncGenerator[Told, None]:
        """Give what lies after `after`, at least up to `joined_at`."""
        last, until = listener.after, key_of(listener.joined_at)
        # A customer has few payments and the index finds them; of a merchant's, which are many,
        # it is cheaper to look at everything that happened since.
        is_customer = not listener.subject.startswith("mer_")
        while key_of(last) < until:
            async with self._catching_up:
                if is_customer:
                    rows = await self._pool.fetch(
                        store.READ_OWN_EVENTS, *last, _BATCH_SIZE_MAX, listener.subject
                    )
                else:
                    rows = await self._pool.fetch(store.READ_EVENTS, *last, _BATCH_SIZE_MAX)
            for event in map(store.event_of, rows):
                last = event.position
                if event.is_for(listener.subject):
                    yield Told(last, event)
            if len(rows) < _BATCH_SIZE_MAX:
                return
            yield Told(last)

    # Reading ------------------------------------------------------------------------------------

    async def _read_forever(self) -> None:
        while True:
            await self._has_listeners.wait()
            read = 0
            try:
                read = await self._read()
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                log.warning("events wait for the database", error=repr(error))
            except Exception:
                log.exception("events could not be read")
            if read < _BATCH_SIZE_MAX:
                await asyncio.sleep(self._settings.poll_s)

    async def _read(self) -> int:
        at = self._at
        rows = await self._pool.fetch(store.READ_EVENTS, *at, _BATCH_SIZE_MAX)
        if not rows or self._at is not at:
            # All left meanwhile, and who came then begins elsewhere.
            return 0
        for event in map(store.event_of, rows):
            for subject in {event.owner, event.merchant_id} - {None}:
                for listener in self._listeners.get(str(subject), ()):
                    _hand(listener, event)
            self._at = event.position
        return len(rows)


def _hand(listener: Listener, event: Event) -> None:
    """Give an event to a listener; one that is too far behind is cut off and comes again."""
    if listener.is_cut_off:
        return
    try:
        listener.waiting.put_nowait(event)
    except asyncio.QueueFull:
        listener.is_cut_off = True
