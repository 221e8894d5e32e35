"""GCRA, the one algorithm that rates are held by: pure arithmetic on whole microseconds.

A rate and a burst are two times: what one unit of work takes up (`emission_us`), and how far ahead
of the clock work may run (`tolerance_us`). What has been done is one number, the theoretical
arrival time: when all of it would have ended, had it been done at the rate. It owns no clock.
"""

from typing import NamedTuple

SECOND_US = 1_000_000


class Pace(NamedTuple):
    """A rate and a burst.

    Args:
        emission_us: what a unit of work takes up.
        tolerance_us: how far ahead the arrival time may be after the work.
    """

    emission_us: int
    tolerance_us: int


def pace_of(rate_per_s: int, burst: int) -> Pace:
    """Return the pace of a rate; a unit is rounded up to a microsecond, so never above it."""
    emission_us = -(-SECOND_US // rate_per_s)
    return Pace(emission_us, emission_us * burst)


def arrive(tat_us: int, now_us: int, cost_us: int) -> int:
    """Return the arrival time after work that comes now."""
    return max(tat_us, now_us) + cost_us


def wait_us(tat_us: int, now_us: int, cost_us: int, tolerance_us: int) -> int:
    """Return how long work must wait before it may come; 0: it may come now."""
    return max(0, arrive(tat_us, now_us, cost_us) - now_us - tolerance_us)


class Spent(NamedTuple):
    """What several arrivals do to whatever arrival time they meet, as one step.

    An arrival takes `tat` to `max(tat, at) + cost`. Any number of them, one after another, take it
    to `max(tat + total_us, latest_us)`: two numbers, however many they were.
    """

    total_us: int
    latest_us: int

    def then(self, now_us: int, cost_us: int) -> "Spent":
        """Return this and one arrival more."""
        return Spent(self.total_us + cost_us, max(self.latest_us, now_us) + cost_us)

    def on(self, tat_us: int) -> int:
        """Return the arrival time after all of them."""
        return max(tat_us + self.total_us, self.latest_us)


NOTHING = Spent(0, -(2**62))
"""No arrivals."""
