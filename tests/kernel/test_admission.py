"""The door by itself: who comes in, what is counted, and how the limit follows the load."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from gateway.kernel.http.admission import (
    CURRENT,
    DelayLimit,
    Door,
    DoorPolicy,
    Priority,
    Ticket,
    outside,
    patience_of,
)

GATEWAY = Path(__file__).resolve().parents[2] / "gateway"
POLICY = DoorPolicy(
    in_flight_max=1_000,
    inside_first=100,
    inside_min=10,
    inside_max=500,
    delay_target_ms=100,
    payments_percent=90,
    reads_percent=60,
    reports_percent=30,
)


def filled(door: Door, count: int) -> list[Ticket]:
    return [door.enter(Priority.PAYMENT) for _ in range(count)]


# Who comes in -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "admitted"),
    [
        (0, {"SETTLING", "PAYMENT", "READ", "REPORT"}),
        (29, {"SETTLING", "PAYMENT", "READ", "REPORT"}),
        (30, {"SETTLING", "PAYMENT", "READ"}),
        (59, {"SETTLING", "PAYMENT", "READ"}),
        (60, {"SETTLING", "PAYMENT"}),
        (89, {"SETTLING", "PAYMENT"}),
        (90, {"SETTLING"}),
        (999, {"SETTLING"}),
        (1_000, set()),
    ],
)
def test_whoever_matters_less_is_turned_away_sooner(inside: int, admitted: set[str]) -> None:
    """Payments inside leave no place to what matters less; only all in flight turns away more."""
    door = Door(POLICY)
    filled(door, inside)
    expected = admitted | {"SYSTEM"}
    assert expected == {one.name for one in Priority if door.admits(one)}
    assert [0 if one.name in expected else 1 for one in Priority] == door.shed
    assert door.is_pressed == (len(expected) < len(Priority))


def test_the_door_is_not_pressed_for_long_after_the_last_was_turned_away() -> None:
    door = Door(POLICY)
    tickets = filled(door, 100)
    assert not door.admits(Priority.PAYMENT)
    for ticket in tickets:
        ticket.close()
    for _ in range(20):
        door.tick()
        assert door.is_pressed
    door.tick()
    assert not door.is_pressed


def test_nobody_is_turned_away_because_of_what_matters_less() -> None:
    """A flood of each kind stops at its own share, and leaves those above it theirs."""
    door = Door(POLICY)
    expected = {Priority.REPORT: 30, Priority.READ: 60, Priority.PAYMENT: 90}
    for priority, most in expected.items():
        for _ in range(most):
            assert door.admits(priority)
            door.enter(priority)
        assert not door.admits(priority)
    for _ in range(100):
        assert door.admits(Priority.SETTLING)
        door.enter(Priority.SETTLING)
    assert not any(door.admits(one) for one in Priority if one is not Priority.SYSTEM)


# Waiting for processors ---------------------------------------------------------------------


def test_who_waits_for_a_processor_takes_no_place() -> None:
    """A thousand waits for a slow processor leave the door open, up to everything in flight."""
    door = Door(POLICY)
    tickets = filled(door, 899)
    for ticket in tickets:
        ticket.leave()
    assert (sum(door.inside), door.in_flight) == (0, 899)
    assert door.admits(Priority.PAYMENT)
    filled(door, 1)[0].leave()
    assert not door.admits(Priority.PAYMENT)
    assert door.admits(Priority.SETTLING), "what ends doubt still comes in"
    for ticket in tickets:
        ticket.come_back()
    assert (sum(door.inside), door.in_flight) == (899, 900)


def test_time_outside_says_nothing_of_the_load() -> None:
    """Payments that take long at a processor leave the limit where it is."""
    door = Door(POLICY)
    limit = door.limit
    for _ in range(50):
        tickets = filled(door, 90)
        for ticket in tickets:
            ticket._started -= 5.0
            ticket.leave()
            ticket._left_at -= 5.0
            ticket.come_back()
            ticket.close()
        door.tick()
    assert limit == door.limit
    for _ in range(50):
        for ticket in filled(door, 90):
            ticket._started -= 5.0
            ticket.close()
        # As many were inside at once.
        door.tick()
    assert POLICY.inside_min == door.limit, "the same time inside does"


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_place_is_given_back_once(is_outside: bool) -> None:
    """Also when the caller's patience ended while its payment was at the processor."""
    door = Door(POLICY)
    ticket = door.enter(Priority.PAYMENT)
    if is_outside:
        ticket.leave()
    ticket.close()
    assert (sum(door.inside), door.in_flight) == (0, 0)
    if is_outside:
        ticket.come_back()
    ticket.leave()
    ticket.come_back()
    assert (sum(door.inside), door.in_flight) == (0, 0)


def test_several_waits_at_once_are_one() -> None:
    door = Door(POLICY)
    ticket = door.enter(Priority.PAYMENT)
    ticket.leave()
    ticket.leave()
    ticket.come_back()
    assert sum(door.inside) == 0
    ticket.come_back()
    assert sum(door.inside) == 1


def test_a_wait_that_fails_comes_back() -> None:
    """An exception of a connector leaves the place taken by a request that goes on."""
    door = Door(POLICY)
    token = CURRENT.set(door.enter(Priority.PAYMENT))
    try:
        with pytest.raises(ZeroDivisionError), outside():
            assert 1 // sum(door.inside), "nothing is inside"
        assert sum(door.inside) == 1
    finally:
        CURRENT.reset(token)


# The limit ----------------------------------------------------------------------------------


def settled(limit: DelayLimit, per_second: float, *, offered: int, intervals: int = 200) -> int:
    """Return where the limit comes to rest under a server that does so much a second.

    Args:
        offered: requests that would be inside if nobody were turned away.
    """
    value = int(limit.value)
    for _ in range(intervals):
        inside = min(offered, value)
        # Little's law.
        value = limit.update(
            delay_s=inside / per_second, inside_max=inside, is_short=offered > value
        )
    return value


@pytest.mark.parametrize("per_second", [500.0, 1_000.0, 3_000.0, 4_900.0])
def test_the_limit_comes_to_rest_where_a_request_takes_the_target(per_second: float) -> None:
    """Twice the load or ten times: what is let in takes about as long as it should."""
    for offered in (2_000, 20_000):
        value = settled(DelayLimit(POLICY), per_second, offered=offered)
        assert per_second * 0.1 * 0.85 <= value <= per_second * 0.1 * 1.15


def test_the_limit_follows_a_server_that_slows_down_and_recovers() -> None:
    limit = DelayLimit(POLICY)
    assert settled(limit, 4_000, offered=5_000) == pytest.approx(400, rel=0.15)
    assert settled(limit, 800, offered=5_000, intervals=30) == pytest.approx(80, rel=0.15)
    assert settled(limit, 4_000, offered=5_000, intervals=30) == pytest.approx(400, rel=0.15)


def test_the_limit_keeps_its_bounds() -> None:
    assert settled(DelayLimit(POLICY), 10, offered=5_000) == POLICY.inside_min
    assert settled(DelayLimit(POLICY), 10**6, offered=5_000) == POLICY.inside_max


def test_a_limit_that_nobody_meets_stays() -> None:
    """Neither idle hours nor a few slow requests say how much the worker could take."""
    limit = DelayLimit(POLICY)
    for delay_s in (0.001, 3.0):
        for _ in range(1_000):
            limit.update(delay_s=delay_s, inside_max=5, is_short=False)
        assert limit.value == POLICY.inside_first


def test_reports_are_slow_by_nature() -> None:
    """A trial balance that takes seconds does not make the door close to payments."""
    door = Door(POLICY)
    for _ in range(20):
        filled(door, 90)
        door._inside_max = 90
        for _ in range(10):
            door.left(Priority.REPORT, 5.0, is_inside=True)
        for _ in range(80):
            door.left(Priority.PAYMENT, 0.01, is_inside=True)
        door.tick()
    assert POLICY.inside_first == door.limit


def test_the_slowest_kind_decides() -> None:
    """A crowd of quick reads does not hide that payments take too long."""
    door = Door(POLICY)
    filled(door, 90)
    for _ in range(1_000):
        door.enter(Priority.READ).close()
    for _ in range(5):
        door.left(Priority.PAYMENT, 0.2, is_inside=True)
    door.tick()
    assert door.limit < POLICY.inside_first


# The routes ---------------------------------------------------------------------------------


def test_every_route_says_its_priority() -> None:
    """None is what it is by forgetting."""
    seen = 0
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Route":
                names = {keyword.arg for keyword in node.keywords}
                assert "priority" in names, f"{path.relative_to(GATEWAY)}:{node.lineno}"
                seen += 1
    assert seen > 50, "the routes were found"


# Patience -----------------------------------------------------------------------------------


async def test_how_long_a_request_waits_for_what_all_share() -> None:
    """A read's own task little, what is begun for others longer; money as long as it takes."""
    door, patience_s = Door(POLICY), patience_of(own_s=0.1, shared_s=1.0)

    async def asked() -> float | None:
        return patience_s()

    assert patience_s() is None, "no request waits"
    ticket = door.enter(Priority.READ)
    ticket.task = asyncio.current_task()
    token = CURRENT.set(ticket)
    try:
        assert patience_s() == 0.1
        assert await asyncio.create_task(asked()) == 1.0
        ticket.leave()
        assert patience_s() is None
        ticket.come_back()
        assert patience_s() is None
        ticket.close()
        assert await asyncio.create_task(asked()) is None
        paying = door.enter(Priority.PAYMENT)
        paying.task = asyncio.current_task()
        CURRENT.set(paying)
        assert patience_s() is None
        assert await asyncio.create_task(asked()) == 1.0
        CURRENT.set(door.enter(Priority.SETTLING))
        assert patience_s() is None
        assert await asyncio.create_task(asked()) is None
    finally:
        CURRENT.reset(token)
