"""UZCARD against the simulator's ledger: the contract, and what is SVGate's alone."""

from typing import Any

import pytest

from connectors.spi import Connector, ConnectorContext, Kind, Merchant, Outcome
from connectors.spi.contract import CALLBACK_SECRET, ConnectorContract, Create, Subject
from connectors.uzcard.connector import create
from tests.connectors.cards import card, closed_port
from tests.connectors.conftest import Simulator


class TestUzcard(ConnectorContract):
    @pytest.fixture
    def create(self) -> Create:
        return create

    @pytest.fixture
    def context(self, simulators: dict[str, Any]) -> ConnectorContext:
        return ConnectorContext(
            name="uzcard",
            settings={
                "base_url": simulators["uzcard"]["url"],
                "login": "oqim",
                "timeout_ms": 700,
                "breaker_failures_max": 1_000,
            },
            secrets={"password": "sandbox", "callback_secret": CALLBACK_SECRET},
        )

    @pytest.fixture
    async def processor(self, uzcard: Simulator) -> Simulator:
        return uzcard

    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(
            card=card("uzcard", "860003123456"),
            destination=card("uzcard", "561468123456"),
            merchant=Merchant("90510000001", "92400001", "5999", "OQIM TEST SHOP"),
            kinds=frozenset(Kind),
            decline=("-240", Outcome.INSUFFICIENT_FUNDS),
            ledger_ref=lambda instruction, result: result.references.get(
                "hold_id", instruction.reference
            ),
            bad_settings={
                "base_url": "ftp://user:hunter2@host",
                "login": "a:b",
                "timeout_ms": 0,
                "merchant_id": "not digits",
                "hold_minutes": True,
                "credit_sender": {"legalName": 1},
                "tls_ca_file": "/nonexistent-certificate",
            },
            required=("base_url", "login"),
            unreachable={"base_url": f"http://127.0.0.1:{closed_port()}"},
        )

    async def test_a_card_is_linked_by_its_one_time_code(
        self, connector: Connector, processor: Simulator, subject: Subject
    ) -> None:
        """SVGate sends the code to the phone; the right one gives a token that pays."""
        phone = "+998901112233"
        await processor.post("cards", {"pan": subject.card.pan.reveal(), "phone": phone})
        checked = await connector.check_card(subject.card, phone=phone, reference="card_1")
        assert checked.outcome is Outcome.APPROVED
        assert checked.challenge is not None
        sent = await processor.get("messages", to=phone)
        code = sent[-1]["code"]
        wrong = "111111" if code != "111111" else "222222"
        refused = await connector.link_card(subject.card, challenge=checked.challenge, code=wrong)
        assert refused.outcome is Outcome.OTP_WRONG
        linked = await connector.link_card(subject.card, challenge=checked.challenge, code=code)
        assert linked.outcome is Outcome.APPROVED
        assert linked.token is not None
        assert linked.token not in repr(linked)

    async def test_a_lost_reply_is_read_when_sent_again(
        self, connector: Connector, processor: Simulator, subject: Subject
    ) -> None:
        """The second message of a used `ext` is answered -207; the result is read with it."""
        instruction = self.make(subject)
        await processor.arm("drop_reply_after_commit")
        lost = await connector.authorize(instruction)
        assert lost.outcome is Outcome.PENDING
        again = await connector.authorize(instruction)
        assert again.outcome is Outcome.APPROVED
        assert again.rrn == again.references["ref_num"]
