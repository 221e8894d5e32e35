"""One client's or customer's bucket in one worker: what may pass by what is known here.

A worker knows what the others did as of its last exchange with Redis, and what it let pass since.
Until it learns more it lets pass what the client's rate makes in one interval; whoever wants more
waits for the next exchange, in which Redis decides for all who wait, in one command. So the others
never fail to know more than `rate x interval` of each worker. While Redis is away every worker
holds the share that is left to it when all workers take as much as it does.

Pure: time is given, nothing is awaited.
"""

import asyncio
from dataclasses import dataclass, field
from enum import Enum

from gateway.quotas.gcra import NOTHING, Pace, Spent, arrive


class Verdict(Enum):
    """What becomes of a request."""

    PASS = "pass"
    WAIT = "wait"
    """Redis must be asked, with all others that wait."""
    REFUSE = "refuse"


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for an exchange; told True, False, or None when Redis was away."""

    cost_us: int
    told: asyncio.Future[bool | None]


@dataclass(slots=True, eq=False)
class Bucket:
    """One.

    Args:
        tag: the client's, which all its buckets share in a cluster.
        key: in Redis.
        pace: its rate and burst.
        concurrency_max: requests at once, over all workers; 0: as many as come.

    Attributes:
        tat_us: the shared arrival time as known here, by this worker's steady clock.
        spent: what passed here and was not told yet.
        unanswered_us: what was told, and is not answered yet: what others did is no better known.
        in_flight, others: requests here; and elsewhere, as of the last exchange.
        learned_at_us: when that was.
        told, told_at_us: `in_flight` as the others know it, and since when.
        waiting: requests that wait for the next exchange, in order.
        is_asking: whether Redis is deciding about some of this bucket just now. Whatever passed
            meanwhile it could not know of.
    """

    tag: str
    key: str
    pace: Pace
    concurrency_max: int
    tat_us: int = 0
    spent: Spent = NOTHING
    unanswered_us: int = 0
    in_flight: int = 0
    others: int = 0
    learned_at_us: int = -(2**62)
    told: int = 0
    told_at_us: int = 0
    waiting: list[Waiter] = field(default_factory=list)
    is_asking: bool = False

    def cost_us(self, units: int) -> int:
        """Return what a request takes up; one dearer than the whole burst takes the burst."""
        return min(self.pace.emission_us * units, self.pace.tolerance_us)

    def admit(self, now_us: int, cost_us: int, *, unseen_us_max: int) -> Verdict:
        """Decide by what is known, while Redis answers; what passes is counted.

        Args:
            unseen_us_max: the interval between two exchanges.
        """
        tat_us = arrive(self.tat_us, now_us, cost_us)
        if tat_us - now_us > self.pace.tolerance_us:
            return Verdict.REFUSE
        total_us = self.unanswered_us + self.spent.total_us
        if self.waiting or self.is_asking or (total_us and total_us + cost_us > unseen_us_max):
            return Verdict.WAIT
        self.tat_us = tat_us
        self.spent = self.spent.then(now_us, cost_us)
        return Verdict.PASS

    def admit_alone(self, now_us: int, cost_us: int, *, workers: int) -> Verdict:
        """Decide while Redis is away: as if every worker did what this one does.

        At least one request passes, and then no other for as long as all workers' share of one
        takes.
        """
        share_us = cost_us * workers
        tat_us = arrive(self.tat_us, now_us, share_us)
        if tat_us - now_us > max(self.pace.tolerance_us, share_us):
            return Verdict.REFUSE
        self.tat_us = tat_us
        return Verdict.PASS

    def has_room(self, now_us: int, *, workers: int, is_alone: bool, fresh_us: int) -> Verdict:
        """Decide whether one more request may run beside those that do.

        A worker that has heard nothing lately lets its share run, and asks before it lets more.

        Args:
            fresh_us: for how long what was learned is taken for known.
        """
        if not self.concurrency_max:
            return Verdict.PASS
        if not is_alone and now_us - self.learned_at_us <= fresh_us:
            is_free = self.in_flight + self.others < self.concurrency_max
            return Verdict.PASS if is_free else Verdict.REFUSE
        if self.in_flight < max(1, self.concurrency_max // workers):
            return Verdict.PASS
        return Verdict.REFUSE if is_alone else Verdict.WAIT

    def tell(self) -> Spent:
        """Return what passed since it was last told of; it counts as told from now on."""
        spent, self.spent = self.spent, NOTHING
        self.unanswered_us = spent.total_us
        return spent

    def learn(self, now_us: int, debt_us: int, others: int) -> None:
        """Take what an exchange has shown; what passed since it was asked for comes on top.

        Args:
            debt_us: how far the shared arrival time is ahead of the clock; may be negative.
        """
        self.tat_us = now_us + debt_us
        if self.spent.total_us:
            self.tat_us = self.spent.on(self.tat_us)
        self.unanswered_us = 0
        self.others = others
        self.learned_at_us = now_us

    def is_idle(self, now_us: int) -> bool:
        """Whether a new bucket would decide the same."""
        return (
            self.tat_us <= now_us
            and not self.in_flight
            and not self.told
            and not self.waiting
            and not self.spent.total_us
        )
