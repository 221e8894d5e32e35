"""The immediate connector: it approves, says the same each time, and is had by nobody unasked."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from connectors.spi import (
    CallbackRefused,
    CardData,
    Connector,
    ConnectorContext,
    Instruction,
    Kind,
    Merchant,
    Outcome,
    Pan,
)
from gateway.measuring.config import CONNECTOR

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "loadtests" / "immediate"
CARD = CardData("direct", Pan("4242420000000018"), "3012")


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ConnectorContext], Connector]]:
    """Its entry point, found as the gateway finds it where its folder is on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    found = {point.name: point for point in entry_points(group="oqim.connectors")}
    yield found[CONNECTOR].load()
    sys.modules.pop("oqim_immediate", None)


def context(**settings: Any) -> ConnectorContext:
    return ConnectorContext(name=CONNECTOR, settings=settings, secrets={})


def instruction(sequence: int) -> Instruction:
    return Instruction(
        kind=Kind.PURCHASE,
        reference=f"att_{sequence}",
        sequence=sequence,
        created_at_ms=1_795_237_200_000,
        amount_minor=100,
        currency="UZS",
        card=CARD,
        merchant=Merchant(id="M", terminal_id="T", mcc="5411", name="Shop"),
    )


def test_nothing_that_is_shipped_has_it() -> None:
    """No entry point without its folder, no configuration, no package of the wheel."""
    assert CONNECTOR not in {point.name for point in entry_points(group="oqim.connectors")}
    for path in (ROOT / "config").glob("*.toml"):
        assert CONNECTOR not in path.read_text(), path.name
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["maturin"]
    assert built["python-packages"] == ["gateway", "connectors"]


@pytest.mark.parametrize("settings", [{}, {"moves": "money"}, {"moves": "nothing", "host": "x"}])
def test_it_must_be_said_that_it_moves_nothing(
    create: Callable[[ConnectorContext], Connector], settings: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"immediate\.moves"):
        create(context(**settings))


async def test_everything_is_approved_and_the_same_at_each_asking(
    create: Callable[[ConnectorContext], Connector],
) -> None:
    one, other = create(context(moves="nothing")), create(context(moves="nothing"))
    await one.start()
    assert one.is_ready()
    asked = instruction(7)
    first = await one.authorize(asked)
    assert (first.outcome, first.sent, first.rrn) == (Outcome.APPROVED, True, "000000000007")
    # Another process, which has forgotten it.
    assert await other.inquire(asked) == first
    assert await one.authorize(instruction(8)) != first
    for result in (
        await one.capture(asked, reference="r", amount_minor=1),
        await one.cancel(asked, reference="r"),
        await one.refund(asked, reference="r", sequence=9, amount_minor=1),
        await one.reverse(asked),
        await one.inquire_refund(asked, reference="r"),
    ):
        assert result.outcome is Outcome.APPROVED
    assert (await one.check_card(CARD, phone="", reference="r")).challenge is None
    assert (await one.link_card(CARD, challenge=None, code="")).outcome is Outcome.APPROVED
    with pytest.raises(CallbackRefused):
        one.verify_callback({}, b"", now_ms=0)
    await one.close()
