"""The core's work costs no more instructions than it did."""

import pytest

from tests.core import instructions


@pytest.mark.timeout(900)
def test_no_work_costs_a_tenth_more_instructions_than_stored() -> None:
    """Whoever makes something dearer on purpose stores the new count, and says why."""
    if tool := instructions.missing_tool():
        pytest.skip(f"{tool} is not here, and instructions cannot be counted without it")
    stored = instructions.stored()
    if (stored.rustc, stored.machine) != instructions.conditions():
        pytest.skip(
            f"the counts are of {stored.rustc} on {stored.machine}; "
            "another compiler or processor has others"
        )

    counted = instructions.count().by_case

    assert stored.by_case.keys() == counted.keys()
    grown = {
        case: (stored.by_case[case], number)
        for case, number in counted.items()
        if number > stored.by_case[case] * (1 + instructions.GROWTH_MAX)
    }
    assert grown == {}
