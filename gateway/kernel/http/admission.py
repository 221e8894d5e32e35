"""The door: how much this worker takes on at once, and who is turned away first when it is full.

Counts what is *inside*: requests that the worker itself has work with. One that waits for a
processor is outside meanwhile, so that a slow processor takes no places of others. How many may be
inside follows the time that they spend there: by Little's law, the number that would spend just
`delay_target_ms`. Whoever is less important may fill a smaller share of it, and counts whoever is
as important or more: nobody is turned away because of somebody who matters less.

Decides by a few comparisons, never awaits, and knows neither routes nor what is asked.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

INTERVAL_S = 0.1
# Requests of one kind in one interval, before their time says something.
SAMPLES_MIN = 3
# An interval moves the limit by a part of the way, down faster than up.
_DOWN, _UP = 0.3, 1.1
_PRESSED_FOR_INTERVALS = 20
_UNBOUNDED = 1 << 62


class Priority(IntEnum):
    """What a route is for. The higher the number, the sooner it is turned away."""

    SYSTEM = 0
    """Health and metrics: never turned away."""
    SETTLING = 1
    """What ends doubt, frees money or ends access: callbacks, captures, cancels, refunds,
    revocations."""
    PAYMENT = 2
    """Payments, and what must come before them."""
    READ = 3
    """One customer's or merchant's own things."""
    REPORT = 4
    """Lists over everything, trial balances, replays, exports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorPolicy:
    """How the door decides.

    Args:
        in_flight_max: requests at once, those that wait for processors included.
        inside_first, inside_min, inside_max: where the limit of requests inside begins, and the
            bounds it moves between.
        delay_target_ms: how long a request may spend inside, on average, before fewer are let in.
        payments_percent, reads_percent, reports_percent: the share of either limit that each may
            fill together with whatever matters more; what settles may fill all of it.
    """

    in_flight_max: int = 4_096
    inside_first: int = 512
    inside_min: int = 64
    inside_max: int = 2_048
    delay_target_ms: float = 250.0
    payments_percent: int = 90
    reads_percent: int = 60
    reports_percent: int = 30


class DelayLimit:
    """The limit of requests inside, moved by how long they stay. Pure: time is given."""

    def __init__(self, policy: DoorPolicy) -> None:
        self._policy = policy
        self._target_s = policy.delay_target_ms / 1000
        self.value = float(policy.inside_first)

    def update(self, *, delay_s: float, inside_max: int, is_short: bool) -> int:
        """Move the limit by what one interval has shown.

        Args:
            delay_s: mean time inside.
            inside_max: the most that were inside at once.
            is_short: whether anybody was turned away.

        Returns:
            The limit.
        """
        policy = self._policy
        if delay_s > self._target_s:
            # When few were inside it was not their number that took so long.
            if inside_max * 2 > self.value:
                wanted = inside_max * self._target_s / delay_s
                self.value -= _DOWN * (self.value - min(self.value, wanted))
        elif is_short:
            self.value *= _UP
        self.value = min(max(self.value, policy.inside_min), policy.inside_max)
        return int(self.value)


class Ticket:
    """One request's place: inside, outside while it waits for a processor, then given back.

    Attributes:
        task: what answers the request.
    """

    __slots__ = (
        "_door",
        "_is_open",
        "_left_at",
        "_outside",
        "_outside_s",
        "_started",
        "priority",
        "task",
    )

    def __init__(self, door: "Door", priority: Priority) -> None:
        self.task: asyncio.Task[object] | None = None
        self._door = door
        self.priority = priority
        self._is_open = True
        # Waits for processors under way; a request may have several at once.
        self._outside = 0
        self._left_at = 0.0
        self._outside_s = 0.0
        self._started = time.perf_counter()

    @property
    def is_patient(self) -> bool:
        """Whether this request may wait long: it settles something, or something was sent."""
        return self.priority <= Priority.SETTLING or bool(self._outside or self._outside_s)

    @property
    def is_open(self) -> bool:
        """Whether the request is still to be answered."""
        return self._is_open

    def leave(self) -> None:
        """Wait for a processor from now on."""
        self._outside += 1
        if self._outside == 1 and self._is_open:
            self._left_at = time.perf_counter()
            self._door.inside[self.priority] -= 1

    def come_back(self) -> None:
        """Go on: never refused, since what was sent must be brought to its end."""
        self._outside -= 1
        if self._outside == 0 and self._is_open:
            self._outside_s += time.perf_counter() - self._left_at
            self._door.inside[self.priority] += 1

    def close(self) -> float:
        """Give the place back, once; returns the seconds since it was taken."""
        now = time.perf_counter()
        if self._outside:
            self._outside_s += now - self._left_at
        self._is_open = False
        # The task's context holds the ticket: together they would be a cycle.
        self.task = None
        spent_s = now - self._started
        self._door.left(self.priority, spent_s - self._outside_s, is_inside=not self._outside)
        return spent_s


CURRENT: ContextVar[Ticket | None] = ContextVar("oqim_ticket", default=None)
"""The request that the current task works for. A task that serves many inherits its first's."""


class outside:  # it reads as a statement: with outside()
    """Marks that the current request, if there is one, waits for a processor."""

    __slots__ = ("_ticket",)

    def __enter__(self) -> None:
        ticket = self._ticket = CURRENT.get()
        if ticket is not None:
            ticket.leave()

    def __exit__(self, *_: object) -> None:
        if self._ticket is not None:
            self._ticket.come_back()


def patience_of(*, own_s: float, shared_s: float) -> Callable[[], float | None]:
    """Return how long the current task may wait for something that all requests share.

    Args:
        own_s: for the own task of a read or a report. A payment's own task waits: what it has made
            durable must be carried on.
        shared_s: for a task that a request has begun before anything of it was sent, and that
            others may wait for as well.
    """

    def patience_s() -> float | None:
        ticket = CURRENT.get()
        # A task that outlives the request it began for works for all.
        if ticket is None or not ticket.is_open or ticket.is_patient:
            return None
        if ticket.task is not asyncio.current_task():
            return shared_s
        return own_s if ticket.priority >= Priority.READ else None

    return patience_s


class Door:
    """Counts requests and decides who comes in.

    Attributes:
        inside: requests that the worker has work with, by priority; among them those let in by
            their first bytes that are not looked at yet.
        in_flight: those and the ones that wait for processors.
        is_pressed: whether anybody was turned away lately.
        shed: how many were turned away, by priority.
        limit: how many may be inside.
    """

    def __init__(self, policy: DoorPolicy) -> None:
        self.inside = [0] * len(Priority)
        self.in_flight = 0
        self.is_pressed = False
        self.shed = [0] * len(Priority)
        self._policy = policy
        self._shares = (
            0,
            100,
            policy.payments_percent,
            policy.reads_percent,
            policy.reports_percent,
        )
        self._limit = DelayLimit(policy)
        self._in_flight_bounds = self._bounds_of(policy.in_flight_max)
        self.limit = int(self._limit.value)
        self._bounds = self._bounds_of(self.limit)
        self._delays_s = [0.0] * len(Priority)
        self._samples = [0] * len(Priority)
        self._inside_max = 0
        self._shed_before = 0
        self._calm_intervals = 0
        self._timer: asyncio.TimerHandle | None = None

    def _bounds_of(self, limit: int) -> list[int]:
        bounds = [max(1, limit * share // 100) for share in self._shares]
        bounds[Priority.SYSTEM] = _UNBOUNDED
        return bounds

    def admits(self, priority: Priority) -> bool:
        """Whether one more of this kind may come in; one that may not is counted."""
        if (
            sum(self.inside[: priority + 1]) < self._bounds[priority]
            and self.in_flight < self._in_flight_bounds[priority]
        ):
            return True
        self.shed[priority] += 1
        self.is_pressed = True
        self._calm_intervals = 0
        return False

    def enter(self, priority: Priority) -> Ticket:
        """Take a place for a request that was admitted; to be closed."""
        self.in_flight += 1
        self.inside[priority] += 1
        inside = sum(self.inside)
        if inside > self._inside_max:
            self._inside_max = inside
        return Ticket(self, priority)

    def left(self, priority: Priority, inside_s: float, *, is_inside: bool) -> None:
        """Take note of a request that was answered after so long inside."""
        self.in_flight -= 1
        self.inside[priority] -= is_inside
        self._delays_s[priority] += inside_s
        self._samples[priority] += 1

    def start(self) -> None:
        """Begin to move the limit, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._on_time)

    def stop(self) -> None:
        """Leave the limit where it is."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_time(self) -> None:
        self.tick()
        self.start()

    def tick(self) -> None:
        """End an interval: move the limit by what it has shown."""
        shed = sum(self.shed)
        # Reports are slow by nature: their time says nothing of the load.
        means = [
            total / samples
            for total, samples in zip(
                self._delays_s[: Priority.REPORT], self._samples[: Priority.REPORT], strict=True
            )
            if samples >= SAMPLES_MIN
        ]
        if means:
            self.limit = self._limit.update(
                delay_s=max(means),
                inside_max=self._inside_max,
                is_short=shed > self._shed_before,
            )
            self._bounds = self._bounds_of(self.limit)
        self._delays_s = [0.0] * len(Priority)
        self._samples = [0] * len(Priority)
        self._inside_max = sum(self.inside)
        self._shed_before = shed
        self._calm_intervals += 1
        if self._calm_intervals > _PRESSED_FOR_INTERVALS:
            self.is_pressed = False
