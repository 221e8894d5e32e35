"""GCRA's arithmetic, against what a rate and a burst mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas.gcra import NOTHING, SECOND_US, Spent, arrive, pace_of, wait_us

RATES = st.integers(1, 100_000)
BURSTS = st.integers(1, 1_000)
MOMENTS = st.lists(st.integers(0, 5 * SECOND_US), min_size=1, max_size=60).map(sorted)
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)), min_size=1, max_size=20
).map(lambda pairs: sorted(pairs, key=lambda pair: pair[0]))


def passed(moments: list[int], rate: int, burst: int, units: int = 1) -> list[int]:
    """Return the moments at which work passed."""
    pace, tat, found = pace_of(rate, burst), 0, []
    cost = pace.emission_us * units
    for at in moments:
        if wait_us(tat, at, cost, pace.tolerance_us) == 0:
            tat = arrive(tat, at, cost)
            found.append(at)
    return found


@given(MOMENTS, st.integers(1, 500), st.integers(1, 20))
def test_no_window_holds_more_than_the_burst_and_what_the_rate_makes_in_it(
    moments: list[int], rate: int, burst: int
) -> None:
    """Every window, of every length; exact, in whole microseconds."""
    found = passed(moments, rate, burst)
    for first, start in enumerate(found):
        for count, end in enumerate(found[first:], start=1):
            assert count * SECOND_US <= burst * SECOND_US + (end - start) * rate


@given(RATES, BURSTS)
def test_a_burst_passes_at_once_and_not_one_more(rate: int, burst: int) -> None:
    assert len(passed([7] * (burst + 1), rate, burst)) == burst


@given(st.integers(1, 1_000), st.integers(1, 50))
def test_a_client_that_keeps_to_its_rate_is_never_refused(rate: int, count: int) -> None:
    moments = [number * pace_of(rate, 1).emission_us for number in range(count)]
    assert passed(moments, rate, 1) == moments


@given(RATES)
def test_a_pace_is_never_above_its_rate(rate: int) -> None:
    emission_us = pace_of(rate, 1).emission_us
    assert emission_us * rate >= SECOND_US
    assert (emission_us - 1) * rate < SECOND_US


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 10**8))
def test_what_is_told_to_wait_passes_then_and_not_before(
    tat: int, now: int, cost: int, tolerance: int
) -> None:
    wait = wait_us(tat, now, cost, tolerance)
    if wait and cost <= tolerance:
        assert wait_us(tat, now + wait, cost, tolerance) == 0
        assert wait_us(tat, now + wait - 1, cost, tolerance) == 1


@given(st.integers(-(10**9), 10**9), ARRIVALS)
def test_arrivals_told_together_are_arrivals_told_one_by_one(
    tat: int, arrivals: list[tuple[int, int]]
) -> None:
    """Whatever they meet, and whenever it is told."""
    spent, expected = NOTHING, tat
    for at, cost in arrivals:
        spent, expected = spent.then(at, cost), arrive(expected, at, cost)
    assert spent.on(tat) == expected


def test_nothing_spent_changes_nothing() -> None:
    assert Spent(*NOTHING).on(-5) == -5
