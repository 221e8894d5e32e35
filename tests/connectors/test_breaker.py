"""The circuit breaker, with a clock of the test's own, and the bulkhead."""

import asyncio

import pytest

from connectors.transport.breaker import Breaker, BreakerPolicy, BreakerState
from connectors.transport.bulkhead import Bulkhead
from connectors.transport.faults import NotSent


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(BreakerPolicy(failures_max=3, open_ms=1_000, probes_max=1), clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.fail(breaker.admit())


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    """Three in a row open it; a success in between begins the count anew."""
    fail(breaker, 2)
    breaker.succeed(breaker.admit())
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit() == 0
    assert not breaker.would_admit()


def test_one_probe_closes_or_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    """After its time one call is let through, and decides."""
    fail(breaker, 3)
    clock.now += 1.0
    assert breaker.would_admit()
    probe = breaker.admit()
    assert probe
    assert breaker.admit() == 0
    breaker.fail(probe)
    assert breaker.state is BreakerState.OPEN
    clock.now += 1.0
    breaker.succeed(breaker.admit())
    assert breaker.state is BreakerState.CLOSED
    assert breaker.admit()


def test_a_probe_whose_caller_went_away_leaves_room_for_another(
    breaker: Breaker, clock: Clock
) -> None:
    """A cancelled probe tells nothing and keeps no place."""
    fail(breaker, 3)
    clock.now += 1.0
    breaker.release(breaker.admit())
    assert breaker.admit()


def test_a_slow_call_from_before_changes_nothing(breaker: Breaker, clock: Clock) -> None:
    """A ticket of an earlier state neither closes an open breaker nor opens a closed one."""
    old = breaker.admit()
    fail(breaker, 3)
    breaker.succeed(old)
    assert breaker.state is BreakerState.OPEN
    clock.now += 1.0
    breaker.succeed(breaker.admit())
    for _ in range(5):
        breaker.fail(old)
    assert breaker.state is BreakerState.CLOSED


async def test_the_bulkhead_bounds_calls_and_waiting() -> None:
    """One at once, one waiting for so long; the rest are told at once that nothing was sent."""
    bulkhead = Bulkhead(in_flight_max=1, settling_max=1, queue_size_max=1, queue_timeout_ms=50)
    deadline = asyncio.get_running_loop().time() + 5
    await bulkhead.acquire(deadline)
    waiting = asyncio.create_task(bulkhead.acquire(deadline))
    await asyncio.sleep(0)
    with pytest.raises(NotSent, match="queue-full"):
        await bulkhead.acquire(deadline)
    with pytest.raises(NotSent, match="queue-timeout"):
        await waiting
    second = asyncio.create_task(bulkhead.acquire(deadline))
    await asyncio.sleep(0)
    bulkhead.release()
    await second


async def test_what_settles_has_places_of_its_own() -> None:
    """Payments that fill all of theirs keep no reversal waiting, nor the other way round."""
    bulkhead = Bulkhead(in_flight_max=1, settling_max=1, queue_size_max=0, queue_timeout_ms=50)
    deadline = asyncio.get_running_loop().time() + 5
    await bulkhead.acquire(deadline)
    await bulkhead.acquire(deadline, is_settling=True)
    for is_settling in (False, True):
        with pytest.raises(NotSent, match="queue-full"):
            await bulkhead.acquire(deadline, is_settling=is_settling)
    bulkhead.release(is_settling=True)
    await bulkhead.acquire(deadline, is_settling=True)
    with pytest.raises(NotSent, match="queue-full"):
        await bulkhead.acquire(deadline)


def test_a_few_that_settle_pass_an_open_breaker(clock: Clock) -> None:
    """Doubt can end while new payments are refused; no more than a few ask at once."""
    policy = BreakerPolicy(failures_max=1, open_ms=1_000, settling_probes_max=2)
    breaker = Breaker(policy, clock=clock)
    fail(breaker, 1)
    assert not breaker.would_admit()
    first, second = (breaker.admit(is_settling=True) for _ in range(2))
    assert first
    assert second
    assert breaker.admit(is_settling=True) == 0
    breaker.fail(first)
    assert breaker.state is BreakerState.OPEN
    third = breaker.admit(is_settling=True)
    assert third
    breaker.release(third)
    assert breaker.admit(is_settling=True)


def test_an_answer_to_what_settles_lets_a_payment_try(clock: Clock) -> None:
    """It answers again: a payment may probe at once, and its own answer closes the breaker."""
    breaker = Breaker(BreakerPolicy(failures_max=1, open_ms=60_000), clock=clock)
    fail(breaker, 1)
    breaker.succeed(breaker.admit(is_settling=True))
    assert breaker.state is BreakerState.HALF_OPEN
    probe = breaker.admit()
    assert probe
    assert breaker.admit() == 0
    breaker.succeed(probe)
    assert breaker.state is BreakerState.CLOSED


def test_silence_to_what_settles_opens_a_closed_breaker(breaker: Breaker) -> None:
    """While it is closed a reversal is a call like any other, and tells as much."""
    for _ in range(3):
        breaker.fail(breaker.admit(is_settling=True))
    assert breaker.state is BreakerState.OPEN
