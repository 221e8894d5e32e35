"""VISA against the simulator's ledger: the contract, and what is VISA's alone."""

import asyncio
import dataclasses
from typing import Any

import pytest

from connectors.spi import (
    CallbackEvent,
    Connector,
    ConnectorContext,
    Iso8583Codec,
    Kind,
    Merchant,
    Outcome,
)
from connectors.spi.contract import CALLBACK_SECRET, ConnectorContract, Create, Subject, until
from connectors.visa.codec import original_names
from connectors.visa.connector import VisaConnector, create
from tests.connectors.cards import card, closed_port
from tests.connectors.conftest import Simulator


class TestVisa(ConnectorContract):
    @pytest.fixture
    def create(self) -> Create:
        return create

    @pytest.fixture
    def advices(self) -> "asyncio.Queue[CallbackEvent]":
        return asyncio.Queue()

    @pytest.fixture
    def context(
        self,
        simulators: dict[str, Any],
        codec: Iso8583Codec,
        advices: "asyncio.Queue[CallbackEvent]",
    ) -> ConnectorContext:
        return ConnectorContext(
            name="visa",
            settings={
                "host": simulators["visa"]["host"],
                "port": simulators["visa"]["port"],
                "acquirer_id": "412345",
                "timeout_ms": 500,
                "breaker_failures_max": 1_000,
            },
            secrets={"callback_secret": CALLBACK_SECRET},
            iso8583=codec,
            on_advice=advices.put,
        )

    @pytest.fixture
    async def processor(self, visa: Simulator) -> Simulator:
        return visa

    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(
            card=card("visa", "424242123456"),
            destination=card("visa", "400000123456"),
            merchant=Merchant("MERCHANT0000001", "TERM0001", "5999", "OQIM TEST SHOP"),
            kinds=frozenset(Kind) - {Kind.TRANSFER},
            decline=("51", Outcome.INSUFFICIENT_FUNDS),
            ledger_ref=lambda instruction, result: original_names(instruction).reference,
            bad_settings={
                "host": "not a host",
                "port": 70_000,
                "acquirer_id": "12",
                "source_station": "x",
                "timeout_ms": "10",
                "echo_interval_ms": 0,
            },
            required=("host", "port", "acquirer_id"),
            unreachable={"port": closed_port()},
        )

    async def test_an_account_is_checked_without_money(
        self, connector: Connector, subject: Subject
    ) -> None:
        """Adding a card asks VISA for nothing but whether the account is good."""
        checked = await connector.check_card(
            subject.card, phone="+998901112233", reference="card_1"
        )
        assert checked.outcome is Outcome.APPROVED
        assert checked.challenge is None
        linked = await connector.link_card(subject.card, challenge=None, code="A1B2C3")
        assert linked.outcome is Outcome.APPROVED

    async def test_answers_find_their_requests_among_many(
        self, connector: Connector, subject: Subject
    ) -> None:
        """Hundreds in flight on one socket are each answered with their own reference."""
        instructions = [self.make(subject, amount_minor=10_000 + n) for n in range(300)]
        results = await asyncio.gather(*map(connector.authorize, instructions))
        assert {result.outcome for result in results} == {Outcome.APPROVED}
        expected = [original_names(instruction).reference for instruction in instructions]
        assert [result.rrn for result in results] == expected

    @pytest.mark.parametrize("mti", ["0120", "0420"])
    async def test_an_unasked_advice_is_stored_and_acknowledged(
        self,
        connector: VisaConnector,
        processor: Simulator,
        subject: Subject,
        advices: "asyncio.Queue[CallbackEvent]",
        mti: str,
    ) -> None:
        """What VISA says unasked becomes an event that names the attempt."""
        instruction = self.make(subject)
        result = await connector.authorize(instruction)
        await processor.post("advices", {"kind": mti, "rrn": result.rrn})
        async with asyncio.timeout(5):
            event = await advices.get()
        assert event.lookup["rrn"] == result.rrn
        assert event.reversed is (mti == "0420")
        assert event.amount_minor == instruction.amount_minor
        assert event.currency == "UZS"
        assert event.reference is None
        await until(lambda: connector.link.stats.advices == 1)

    async def test_a_reversal_that_came_first_forbids_its_original(
        self, connector: Connector, processor: Simulator, subject: Subject
    ) -> None:
        """Reversed before it arrived, an authorisation is never approved afterwards."""
        instruction = self.make(subject)
        undone = await connector.reverse(instruction)
        assert undone.outcome is Outcome.ORIGINAL_NOT_FOUND
        late = await connector.authorize(instruction)
        assert not late.outcome.is_approved
        assert not await self.state(processor, subject, instruction, late) & {"approved"}

    async def test_what_no_message_can_say_is_refused_unsent(
        self, connector: Connector, subject: Subject
    ) -> None:
        """Amounts of thirteen digits and unknown currencies never leave."""
        for changes, outcome in (
            ({"amount_minor": 10**12}, Outcome.INVALID_AMOUNT),
            ({"currency": "XXX"}, Outcome.FORMAT_ERROR),
            ({"card": dataclasses.replace(subject.card, expiry="30-12")}, Outcome.FORMAT_ERROR),
        ):
            result = await connector.authorize(self.make(subject, **changes))
            assert (result.outcome, result.sent) == (outcome, False)
