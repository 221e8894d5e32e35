"""Several workers' buckets of one client: how much passes, whatever comes where and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.quotas.bucket import Bucket, Verdict
from gateway.quotas.gcra import SECOND_US, Pace, arrive, pace_of

INTERVAL_US = 50_000


@dataclass(slots=True)
class Shared:
    """What Redis holds of one client, by the same arithmetic."""

    tat_us: int = 0

    def exchange(self, bucket: Bucket, now_us: int, *, asks: int = 0) -> bool:
        """Tell and learn; returns whether one that asks passes."""
        spent = bucket.tell()
        if spent.total_us:
            self.tat_us = spent.on(self.tat_us)
        passes = False
        if asks:
            after = arrive(self.tat_us, now_us, asks)
            passes = after - now_us <= bucket.pace.tolerance_us
            self.tat_us = after if passes else self.tat_us
        bucket.learn(now_us, self.tat_us - now_us, 0)
        return passes


@dataclass(slots=True)
class Client:
    """A client of several workers."""

    pace: Pace
    workers: int
    shared: Shared = field(default_factory=Shared)
    buckets: list[Bucket] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [Bucket("c", "quota:{c}", self.pace, 0) for _ in range(self.workers)]

    def ask(self, worker: int, now_us: int) -> None:
        """Ask one worker; whoever must wait is decided in an exchange."""
        bucket, cost = self.buckets[worker], self.pace.emission_us
        verdict = bucket.admit(now_us, cost, unseen_us_max=INTERVAL_US)
        if verdict is Verdict.WAIT:
            passes = self.shared.exchange(bucket, now_us, asks=cost)
            verdict = Verdict.PASS if passes else Verdict.REFUSE
        if verdict is Verdict.PASS:
            self.passed.append(now_us)

    def ask_alone(self, worker: int, now_us: int) -> None:
        """Ask one worker while Redis is away."""
        bucket = self.buckets[worker]
        verdict = bucket.admit_alone(now_us, self.pace.emission_us, workers=self.workers)
        if verdict is Verdict.PASS:
            self.passed.append(now_us)

    def exchange_all(self, now_us: int) -> None:
        """Let every worker tell and learn."""
        for bucket in self.buckets:
            self.shared.exchange(bucket, now_us)

    def most_over(self, rate: int, burst: int) -> float:
        """Return by how many requests the fullest window went over its due."""
        over = [
            count - burst - (end - start) * rate / SECOND_US
            for first, start in enumerate(self.passed)
            for count, end in enumerate(self.passed[first:], start=1)
        ]
        return max(over, default=0.0)


ASKED = st.lists(
    st.tuples(st.integers(0, 40_000), st.integers(0, 3), st.integers(1, 12)), max_size=40
)


@settings(max_examples=200)
@given(ASKED, st.integers(1, 400), st.integers(1, 30), st.integers(1, 4))
def test_workers_together_pass_the_rate_and_at_most_an_interval_of_each_other_one(
    asked: list[tuple[int, int, int]], rate: int, burst: int, workers: int
) -> None:
    """The bound: (workers - 1) x max(rate x interval, one request) over, wherever it comes."""
    client, now_us, told_us = Client(pace_of(rate, burst), workers), SECOND_US, SECOND_US
    for pause_us, worker, times in asked:
        now_us += pause_us
        if now_us - told_us >= INTERVAL_US:
            told_us = now_us
            client.exchange_all(now_us)
        for _ in range(times):
            client.ask(worker % workers, now_us)
    unseen = max(1.0, rate * INTERVAL_US / SECOND_US)
    assert client.most_over(rate, burst) <= (workers - 1) * unseen + 1e-6


@given(ASKED, st.integers(1, 400), st.integers(1, 30))
def test_one_worker_passes_exactly_what_the_rate_permits(
    asked: list[tuple[int, int, int]], rate: int, burst: int
) -> None:
    """Telling and learning moves nothing for a client that one worker serves."""
    pace, now_us, tat_us = pace_of(rate, burst), SECOND_US, 0
    client, expected = Client(pace, 1), []
    for pause_us, _, times in asked:
        now_us += pause_us
        client.exchange_all(now_us)
        for _ in range(times):
            client.ask(0, now_us)
            after = arrive(tat_us, now_us, pace.emission_us)
            if after - now_us <= pace.tolerance_us:
                tat_us = after
                expected.append(now_us)
    assert client.passed == expected


@given(ASKED, st.integers(1, 400), st.integers(1, 30), st.integers(1, 4))
def test_workers_that_know_nothing_of_each_other_hold_the_rate_together(
    asked: list[tuple[int, int, int]], rate: int, burst: int, workers: int
) -> None:
    """Redis away: nothing over, but that each passes one where the burst has not one for each."""
    client, now_us = Client(pace_of(rate, burst), workers), SECOND_US
    for pause_us, worker, times in asked:
        now_us += pause_us
        for _ in range(times):
            client.ask_alone(worker % workers, now_us)
    assert client.most_over(rate, max(burst, workers)) <= 1e-6


def test_whoever_asks_for_more_than_an_interval_makes_waits_for_an_exchange() -> None:
    """100 a second make 5 in 50 ms: those pass without a word to anybody."""
    pace = pace_of(100, 50)
    bucket = Bucket("c", "quota:{c}", pace, 0)
    verdicts = [
        bucket.admit(SECOND_US, pace.emission_us, unseen_us_max=INTERVAL_US) for _ in range(6)
    ]
    assert verdicts == [Verdict.PASS] * 5 + [Verdict.WAIT]


def test_what_is_known_to_be_too_much_is_refused_without_asking() -> None:
    pace = pace_of(10, 2)
    bucket = Bucket("c", "quota:{c}", pace, 0)
    bucket.learn(SECOND_US, pace.tolerance_us, 0)
    verdict = bucket.admit(SECOND_US, pace.emission_us, unseen_us_max=INTERVAL_US)
    assert verdict is Verdict.REFUSE


def test_what_passes_while_an_exchange_is_under_way_comes_on_top_of_what_it_shows() -> None:
    # Two in an interval.
    pace = pace_of(40, 5)
    bucket = Bucket("c", "quota:{c}", pace, 0)
    bucket.admit(SECOND_US, pace.emission_us, unseen_us_max=INTERVAL_US)
    # It is told of, and another passes before the answer comes.
    bucket.tell()
    bucket.admit(SECOND_US, pace.emission_us, unseen_us_max=INTERVAL_US)
    bucket.learn(SECOND_US, pace.emission_us, 0)
    assert bucket.tat_us == SECOND_US + 2 * pace.emission_us


def test_what_was_told_and_is_not_answered_is_as_unseen_as_what_was_not_told() -> None:
    """However long an exchange takes, no more than an interval's work passes by what was known."""
    pace = pace_of(20, 1)
    bucket = Bucket("c", "quota:{c}", pace, 0)

    def asks(now_us: int) -> Verdict:
        return bucket.admit(now_us, pace.emission_us, unseen_us_max=INTERVAL_US)

    assert asks(SECOND_US) is Verdict.PASS
    assert bucket.tell().total_us == pace.emission_us
    assert asks(2 * SECOND_US) is Verdict.WAIT
    bucket.learn(2 * SECOND_US, 0, 0)
    assert asks(2 * SECOND_US) is Verdict.PASS


def test_while_redis_decides_about_a_bucket_nothing_else_of_it_passes() -> None:
    pace = pace_of(10, 5)
    bucket = Bucket("c", "quota:{c}", pace, 0)
    bucket.is_asking = True
    verdict = bucket.admit(SECOND_US, pace.emission_us, unseen_us_max=INTERVAL_US)
    assert verdict is Verdict.WAIT


FRESH_US = 3 * INTERVAL_US


def test_requests_at_once_are_counted_over_all_workers() -> None:
    """As long as what was learned of the others is fresh."""
    bucket = Bucket("c", "quota:{c}", pace_of(1, 1), 4)
    bucket.learn(0, 0, 2)
    bucket.in_flight = 1
    assert room(bucket) is Verdict.PASS
    bucket.learn(0, 0, 3)
    assert room(bucket) is Verdict.REFUSE


def room(bucket: Bucket, *, at_us: int = 0, workers: int = 2, is_alone: bool = False) -> Verdict:
    return bucket.has_room(at_us, workers=workers, is_alone=is_alone, fresh_us=FRESH_US)


def test_a_worker_that_has_heard_nothing_lets_its_share_run_and_asks_before_more() -> None:
    bucket = Bucket("c", "quota:{c}", pace_of(1, 1), 4)
    bucket.learn(0, 0, 4)
    late_us = FRESH_US + 1
    assert room(bucket, at_us=late_us) is Verdict.PASS
    bucket.in_flight = 2
    assert room(bucket, at_us=late_us) is Verdict.WAIT
    assert room(bucket, at_us=late_us, workers=1) is Verdict.PASS


def test_a_worker_alone_lets_its_share_run_and_one_at_least() -> None:
    bucket = Bucket("c", "quota:{c}", pace_of(1, 1), 4)
    bucket.in_flight = 1
    assert room(bucket, is_alone=True) is Verdict.PASS
    assert room(bucket, is_alone=True, workers=4) is Verdict.REFUSE
    bucket.in_flight = 0
    assert room(bucket, is_alone=True, workers=64) is Verdict.PASS
