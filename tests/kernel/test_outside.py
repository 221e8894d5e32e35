"""Connectors as the gateway calls them: nothing is changed, and who waits is outside."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from connectors.spi import Connector, SettleBy
from gateway.kernel.http.admission import CURRENT, Door, DoorPolicy, Priority
from gateway.kernel.metrics import Histograms, Metrics
from gateway.kernel.outside import Outside

CALLS = [
    name
    for name, member in inspect.getmembers(Connector)
    if not name.startswith("_") and inspect.iscoroutinefunction(member)
]
MONEY = [name for name in CALLS if name not in ("start", "close")]


class Recorder:
    """A connector that says what it was called with, and how the door was meanwhile."""

    name = "recorder"
    settle_by = SettleBy.REVERSAL
    capture_partial = False
    refund_partial = True

    def __init__(self, door: Door) -> None:
        self._door = door
        self.error: Exception | None = None

    def is_ready(self) -> bool:
        return False

    def further(self) -> str:
        return "of its own"

    def __getattr__(self, name: str) -> Any:
        async def called(*arguments: Any, **named: Any) -> Any:
            if self.error is not None:
                raise self.error
            return name, arguments, named, sum(self._door.inside)

        return called


def call_seconds() -> Histograms:
    """Return where calls are timed."""
    return Metrics().histograms("connector_call_seconds", "Calls.", ("connector", "call"))


def arguments_of(name: str) -> tuple[list[object], dict[str, object]]:
    """Return an argument of its own for each parameter of a method."""
    parameters = list(inspect.signature(getattr(Connector, name)).parameters.values())[1:]
    by_place = [object() for one in parameters if one.kind is not one.KEYWORD_ONLY]
    named = {one.name: object() for one in parameters if one.kind is one.KEYWORD_ONLY}
    return by_place, named


def test_the_interface_is_whole() -> None:
    """Whatever a connector must have is passed on by name, not by chance."""
    wanted = {*CALLS, "is_ready", "verify_callback"}
    assert wanted <= set(vars(Outside))
    assert len(MONEY) == 9
    watched = Outside(Recorder(Door(DoorPolicy())), call_seconds())
    assert (watched.name, watched.settle_by) == ("recorder", SettleBy.REVERSAL)
    assert (watched.capture_partial, watched.refund_partial) == (False, True)
    assert not watched.is_ready()
    assert watched.further() == "of its own"


@pytest.mark.parametrize("name", MONEY)
async def test_a_call_is_made_as_it_is_outside(name: str) -> None:
    """Every argument arrives, the place is free meanwhile and taken again, and the call is timed,
    whatever happens.
    """
    door = Door(DoorPolicy())
    connector = Recorder(door)
    seconds = call_seconds()
    watched = Outside(connector, seconds)
    by_place, named = arguments_of(name)
    token = CURRENT.set(door.enter(Priority.PAYMENT))
    try:
        told = await getattr(watched, name)(*by_place, **named)
        assert told == (name, tuple(by_place), named, 0)
        assert (sum(door.inside), watched.in_flight) == (1, 0)
        connector.error = RuntimeError("gone")
        with pytest.raises(RuntimeError, match="gone"):
            await getattr(watched, name)(*by_place, **named)
        assert (sum(door.inside), watched.in_flight) == (1, 0)
        assert seconds.counts() == {("recorder", name): 2}
    finally:
        CURRENT.reset(token)


async def test_a_call_that_no_request_waits_for_moves_nothing() -> None:
    """Recovery asks beside the requests."""
    door = Door(DoorPolicy())
    door.enter(Priority.PAYMENT)
    by_place, named = arguments_of("inquire")
    *_, inside = await Outside(Recorder(door), call_seconds()).inquire(*by_place, **named)
    assert inside == 1
