"""HUMO against the simulator's ledger: the contract, and what is HUMO's alone."""

from typing import Any

import pytest

from connectors.humo.connector import create
from connectors.spi import Connector, ConnectorContext, Kind, Merchant, Outcome
from connectors.spi.contract import CALLBACK_SECRET, ConnectorContract, Create, Subject
from tests.connectors.cards import card, closed_port
from tests.connectors.conftest import Simulator


class TestHumo(ConnectorContract):
    @pytest.fixture
    def create(self) -> Create:
        return create

    @pytest.fixture
    def context(self, simulators: dict[str, Any]) -> ConnectorContext:
        return ConnectorContext(
            name="humo",
            settings={
                "base_url": simulators["humo"]["url"],
                "login": "oqim",
                "timeout_ms": 700,
                "breaker_failures_max": 1_000,
            },
            secrets={
                "password": "sandbox",
                "token": "sandbox",
                "callback_secret": CALLBACK_SECRET,
            },
        )

    @pytest.fixture
    async def processor(self, humo: Simulator) -> Simulator:
        return humo

    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(
            card=card("humo", "986009123456"),
            destination=card("humo", "986012123456"),
            merchant=Merchant("011860000000001", "23610001", "5999", "OQIM TEST SHOP"),
            kinds=frozenset(Kind),
            decline=("116", Outcome.INSUFFICIENT_FUNDS),
            ledger_ref=lambda instruction, result: instruction.reference,
            bad_settings={
                "base_url": "http://user:hunter2@host",
                "card_url": 5,
                "card_path": "no-slash",
                "login": "",
                "point_code": "??",
                "partial_refund": "perhaps",
                "in_flight_max": 0,
            },
            required=("base_url", "login"),
            unreachable={"base_url": f"http://127.0.0.1:{closed_port()}"},
        )

    async def test_a_usable_card_tells_its_phone(
        self, connector: Connector, processor: Simulator, subject: Subject
    ) -> None:
        """Status 000 and the phone service on: the bank's code goes to the phone told."""
        phone = "+998901112233"
        await processor.post("cards", {"pan": subject.card.pan.reveal(), "phone": phone})
        checked = await connector.check_card(subject.card, phone=phone, reference="card_1")
        assert (checked.outcome, checked.phone) == (Outcome.APPROVED, phone)
        linked = await connector.link_card(subject.card, challenge=None, code="A1B2C3")
        assert (linked.outcome, linked.token) == (Outcome.APPROVED, None)

    async def test_a_confirm_without_an_answer_is_pending_and_settles(
        self, connector: Connector, processor: Simulator, subject: Subject
    ) -> None:
        """Created and perhaps confirmed: whatever it is, money is not left locked."""
        for fault in ("drop_request", "drop_reply_after_commit"):
            instruction = self.make(subject)
            await processor.arm(fault, method="confirm")
            result = await connector.authorize(instruction)
            assert (result.outcome, result.sent) == (Outcome.PENDING, True)
            await processor.clear()
            settled = await self.settled(connector, processor, subject, instruction, result)
            states = await self.state(processor, subject, instruction, result)
            if fault == "drop_request":
                assert settled.outcome is Outcome.ALREADY_REVERSED
                assert states == {"released"}
            else:
                assert settled.outcome is Outcome.APPROVED
                assert states == {"approved"}
