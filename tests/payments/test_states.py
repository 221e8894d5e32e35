"""States are tables; the page that shows them is drawn from them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.payments.model import (
    ACTION_TRANSITIONS,
    ATTEMPT_TRANSITIONS,
    OPEN_ATTEMPT_STATES,
    PAYMENT_TRANSITIONS,
    Attempt,
    move_attempt,
)
from scripts.draw_states import PAGE, page

TABLES = [PAYMENT_TRANSITIONS, ATTEMPT_TRANSITIONS, ACTION_TRANSITIONS]


def test_the_page_is_drawn_from_the_tables() -> None:
    """Run `python scripts/draw_states.py` when it is not."""
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("transitions", TABLES)
def test_every_state_is_known_and_every_one_can_end(
    transitions: Mapping[str, frozenset[str]],
) -> None:
    """No arrow leads nowhere, and from each state a terminal one is reached."""
    for following in transitions.values():
        assert following <= transitions.keys()
    ending = {state for state, following in transitions.items() if not following}
    assert ending
    for _ in transitions:
        ending |= {state for state, following in transitions.items() if following & ending}
    assert ending == set(transitions)


def test_what_is_open_is_not_terminal() -> None:
    """Recovery looks only at what can still move."""
    assert all(ATTEMPT_TRANSITIONS[state] for state in OPEN_ATTEMPT_STATES)


@pytest.mark.parametrize("before", ATTEMPT_TRANSITIONS)
@pytest.mark.parametrize("after", ATTEMPT_TRANSITIONS)
def test_an_attempt_moves_as_the_table_says_and_no_other_way(before: str, after: str) -> None:
    """Anything else is a fault of ours, and stops there."""
    attempt = Attempt("att_1", "pay_1", 1, "visa", "purchase", before, 1, 0)
    if after in ATTEMPT_TRANSITIONS[before]:
        move_attempt(attempt, after)
        assert attempt.state == after
        return
    with pytest.raises(AssertionError, match="cannot become"):
        move_attempt(attempt, after)
    assert attempt.state == before
