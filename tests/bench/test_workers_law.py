"""The law of workers: who took the cores is told of everybody, each once."""

from dataclasses import replace

import pytest

from gateway.bench import page, results
from gateway.bench.workers_law import Spent, law_of
from tests.bench.measured import conditions, reading

AT_FIRST = replace(reading(0), cpu_s={}, busy_s=0.0, idle_s=0.0)


def spent(workers: int, *, per_second: float, **cpu_s: float) -> Spent:
    """Return what a second of two cores went to, of which 0.1 s were idle."""
    found = Spent(workers)
    told = {"created": per_second - 10, "late": 10, "until_last_s": 1.0}
    before = replace(AT_FIRST, cpu_s=dict.fromkeys(cpu_s, 0.0))
    after = replace(AT_FIRST, cpu_s=cpu_s, busy_s=1.9, idle_s=0.1)
    found.add([told], before, after)
    return found


def test_the_time_of_the_cores_is_told_whole() -> None:
    """Both gateways are workers when both are asked; what nobody named is other programs'."""
    one = spent(1, per_second=1_000, gateway=0.9, beside=0.02, generator=0.2, postgres=0.1)
    two = spent(2, per_second=2_000, gateway=0.6, beside=0.7, generator=0.3, postgres=0.1)
    assert one.cpu_us["the workers asked"] == pytest.approx(900)
    assert one.cpu_us["the worker not asked"] == pytest.approx(20)
    assert two.cpu_us == pytest.approx(
        {
            "the workers asked": 650,
            "the generators": 150,
            "PostgreSQL": 50,
            "all other programs": 100,
            "nobody: idle": 50,
        }
    )
    assert sum(two.cpu_us.values()) == pytest.approx(2e6 / two.rate)
    assert two.ours_us == pytest.approx(850)


@pytest.mark.parametrize(("rate", "is_met"), [(1_700, True), (1_690, False)])
def test_the_goal_is_by_the_clock(rate: float, is_met: bool) -> None:
    one = spent(1, per_second=1_000, gateway=0.9, beside=0.0, valkey=0.0)
    two = spent(2, per_second=rate, gateway=0.8, beside=0.8, valkey=0.0)
    law = law_of(one, two, ())
    assert law.is_met is is_met
    assert "Valkey" not in law.cpu_us
    assert not law_of(one, two, ("an answer was 500",)).is_met


def test_a_page_shows_who_took_the_cores() -> None:
    one = spent(1, per_second=1_000, gateway=0.9, beside=0.0)
    two = spent(2, per_second=2_000, gateway=0.9, beside=0.9)
    law = law_of(one, two, ())
    shown = page.page(conditions(), [results.small_figures(law)])
    assert "| of a core, us: the workers asked | 900.0 | 900.0 |" in shown
    assert "| of a core, us: nobody: idle | 100.0 | 50.0 |" in shown
