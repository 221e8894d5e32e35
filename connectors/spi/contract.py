"""The test-suite that every connector passes, against a processor that misbehaves on demand.

Subclass `ConnectorContract` in a test module and override its fixtures `create`, `context`,
`processor` and `subject`; pytest then collects every test. It imports nothing but `connectors.spi`
and pytest, so that a connector outside of this repository can be held to it. Needs pytest-asyncio
in auto mode.
"""

import asyncio
import dataclasses
import itertools
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from hmac import new as hmac
from typing import Any, Protocol

import pytest

from connectors.spi.outcome import Outcome
from connectors.spi.types import (
    CallbackRefused,
    CardData,
    Connector,
    ConnectorContext,
    Instruction,
    Kind,
    Merchant,
    Result,
    SettleBy,
)

Create = Callable[[ConnectorContext], Connector]

FINAL_REVERSALS = (Outcome.APPROVED, Outcome.ALREADY_REVERSED, Outcome.ORIGINAL_NOT_FOUND)
STANDING = frozenset({"approved", "captured"})
UNDONE = frozenset({"released", "reversed", "refunded"})

CALLBACK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

# Traces and references repeat after a million, so that one run starts where time says.
_sequences = itertools.count(time.time_ns() // 1_000_000)


class Processor(Protocol):
    """The other side, with a ledger of its own and faults that can be armed.

    Fault kinds: `decline` (with `code`), `drop_reply_after_commit`, `drop_request`, `garbage`,
    `wrong_amount`, `duplicate_reply`.
    """

    async def arm(self, kind: str, *, count: int = 1, **options: Any) -> None: ...

    async def clear(self) -> None: ...

    async def ledger(self, ref: str) -> list[dict[str, Any]]:
        """Entries `{ref, kind, amount, state, captured_amount, refunded_amount, ...}` of a name."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the suite must know of the connector under test.

    Args:
        card: a good card with plenty of money; `destination` another one of the same processor.
        merchant: an acceptor the processor takes.
        kinds: the kinds the connector does.
        decline: a processor's code and the outcome it must become.
        ledger_ref: the name under which the processor holds an attempt.
        bad_settings: for each key a value that must be refused with the key named.
        required: keys of settings that may not be missing.
        unreachable: settings of an endpoint where nobody listens.
    """

    card: CardData
    destination: CardData
    merchant: Merchant
    kinds: frozenset[Kind]
    decline: tuple[str, Outcome]
    ledger_ref: Callable[[Instruction, Result], str]
    bad_settings: Mapping[str, Any]
    required: tuple[str, ...]
    unreachable: Mapping[str, Any]
    amount_minor: int = 12_500_00
    currency: str = "UZS"


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait until something is so. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.005)


def sign(event_id: str, timestamp: int, body: bytes, secret: str = CALLBACK_SECRET) -> str:
    """A Standard Webhooks signature, made without the library that verifies it."""
    key = b64decode(secret.removeprefix("whsec_"))
    mac = hmac(key, f"{event_id}.{timestamp}.".encode() + body, sha256)
    return "v1," + b64encode(mac.digest()).decode()


class ConnectorContract:
    """Rules of `connectors.spi.types`, one test each."""

    @pytest.fixture
    def create(self) -> Create:
        raise NotImplementedError("override: the connector's `create`")

    @pytest.fixture
    def context(self) -> ConnectorContext:
        raise NotImplementedError("override: a context that reaches `processor`")

    @pytest.fixture
    async def processor(self) -> Processor:
        raise NotImplementedError("override: the other side")

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError("override: what to know of the connector")

    @pytest.fixture
    async def connector(
        self, create: Create, context: ConnectorContext, processor: Processor
    ) -> AsyncIterator[Connector]:
        await processor.clear()
        connector = create(context)
        await connector.start()
        await until(connector.is_ready)
        yield connector
        await connector.close()
        await processor.clear()

    @staticmethod
    def make(subject: Subject, kind: Kind = Kind.PURCHASE, **changes: Any) -> Instruction:
        """A new attempt."""
        values: dict[str, Any] = {
            "kind": kind,
            "reference": f"att_{uuid.uuid4().hex[:26]}",
            "sequence": next(_sequences),
            "created_at_ms": time.time_ns() // 1_000_000,
            "amount_minor": subject.amount_minor,
            "currency": subject.currency,
            "card": subject.card,
            "merchant": subject.merchant,
        }
        if kind is Kind.TRANSFER:
            values["destination"] = subject.destination
            values["credit_minor"] = subject.amount_minor - 10_00
        return Instruction(**{**values, **changes})

    @staticmethod
    def known(instruction: Instruction, *results: Result) -> Instruction:
        """The attempt with what its results answered."""
        references = dict(instruction.references)
        for result in results:
            references.update(result.references)
        return dataclasses.replace(instruction, references=references)

    @staticmethod
    def need(subject: Subject, kind: Kind) -> None:
        if kind not in subject.kinds:
            pytest.skip(f"this connector does no {kind.value}")

    async def state(
        self, processor: Processor, subject: Subject, instruction: Instruction, result: Result
    ) -> set[str]:
        """The states of the attempt's entries in the processor's ledger."""
        entries = await processor.ledger(subject.ledger_ref(instruction, result))
        return {entry["state"] for entry in entries}

    async def settled(
        self,
        connector: Connector,
        processor: Processor,
        subject: Subject,
        instruction: Instruction,
        result: Result,
    ) -> Result:
        """Settle an unknown outcome as recovery does, and hold it against the ledger."""
        instruction = self.known(instruction, result)
        if connector.settle_by is SettleBy.REVERSAL:
            settled = await connector.reverse(instruction)
            assert settled.outcome in FINAL_REVERSALS
            states = await self.state(processor, subject, instruction, settled)
            assert not states & STANDING
            return settled
        settled = await connector.inquire(instruction)
        states = await self.state(processor, subject, instruction, settled)
        if settled.outcome is Outcome.APPROVED:
            assert states
            assert states <= STANDING
        else:
            assert not states & STANDING
            assert settled.outcome in (Outcome.ALREADY_REVERSED, Outcome.ORIGINAL_NOT_FOUND)
        return settled

    # Outcomes of a money message.

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_an_approval_is_in_the_ledger(
        self, connector: Connector, processor: Processor, subject: Subject, kind: Kind
    ) -> None:
        """Each kind the connector does is approved, and the processor holds the same amount."""
        self.need(subject, kind)
        instruction = self.make(subject, kind)
        result = await connector.authorize(instruction)
        assert (result.outcome, result.sent) == (Outcome.APPROVED, True)
        entries = await processor.ledger(subject.ledger_ref(instruction, result))
        amounts = {entry["kind"]: entry["amount"] for entry in entries}
        assert instruction.amount_minor in amounts.values()
        if kind is Kind.TRANSFER:
            assert instruction.credit_minor == amounts["credit"]
        assert {entry["state"] for entry in entries} <= STANDING

    async def test_a_kind_not_done_is_refused_unsent(
        self, connector: Connector, subject: Subject
    ) -> None:
        """What the connector cannot ask of its processor fails before a byte leaves."""
        for kind in set(Kind) - subject.kinds:
            result = await connector.authorize(self.make(subject, kind))
            assert (result.outcome, result.sent) == (Outcome.FORMAT_ERROR, False)

    async def test_a_decline_is_mapped(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """A processor's code becomes its outcome, and keeps its name for the operator."""
        code, outcome = subject.decline
        await processor.arm("decline", code=code)
        result = await connector.authorize(self.make(subject))
        assert (outcome, True) == (result.outcome, result.sent)
        assert code == result.processor_code

    @pytest.mark.parametrize("kind", [Kind.PURCHASE, Kind.HOLD, Kind.TRANSFER, Kind.CREDIT])
    @pytest.mark.parametrize("fault", ["drop_reply_after_commit", "drop_request"])
    async def test_a_timeout_after_send_is_pending(
        self,
        connector: Connector,
        processor: Processor,
        subject: Subject,
        fault: str,
        kind: Kind,
    ) -> None:
        """Silence is never a decline; it is settled to what the processor's ledger holds."""
        self.need(subject, kind)
        # An amount of its own: a processor without a key for holds is searched by amount.
        amount = subject.amount_minor + next(_sequences) % 100_000
        instruction = self.make(subject, kind, amount_minor=amount)
        await processor.arm(fault)
        result = await connector.authorize(instruction)
        assert (result.outcome, result.sent) == (Outcome.PENDING, True)
        await processor.clear()
        await self.settled(connector, processor, subject, instruction, result)

    @pytest.mark.parametrize("fault", ["garbage", "wrong_amount"])
    async def test_an_unbelievable_answer_is_pending(
        self, connector: Connector, processor: Processor, subject: Subject, fault: str
    ) -> None:
        """An answer that cannot be read, or speaks of another amount, says nothing."""
        instruction = self.make(subject)
        await processor.arm(fault)
        result = await connector.authorize(instruction)
        assert (result.outcome, result.sent) == (Outcome.PENDING, True)
        await processor.clear()
        await self.settled(connector, processor, subject, instruction, result)

    async def test_a_refused_connection_is_not_sent(
        self, create: Create, context: ConnectorContext, subject: Subject
    ) -> None:
        """Nobody listens: provably no byte left, and the connector says so."""
        settings = {**context.settings, **subject.unreachable}
        connector = create(dataclasses.replace(context, settings=settings))
        await connector.start()
        try:
            result = await connector.authorize(self.make(subject))
            assert not result.sent
            assert not result.outcome.money_may_have_moved
            undone = await connector.reverse(self.make(subject))
            assert not undone.sent
            assert undone.outcome not in FINAL_REVERSALS
        finally:
            await connector.close()

    async def test_a_connector_not_started_sends_nothing(
        self, create: Create, context: ConnectorContext, subject: Subject
    ) -> None:
        """`create` opens nothing, and what was not opened is not ready."""
        connector = create(context)
        assert not connector.is_ready()
        result = await connector.authorize(self.make(subject))
        assert not result.sent
        await connector.close()

    async def test_a_second_answer_disturbs_nobody(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """A duplicate reply is not taken for the answer to another message."""
        await processor.arm("duplicate_reply")
        first = await connector.authorize(self.make(subject))
        second = await connector.authorize(self.make(subject))
        assert [first.outcome, second.outcome] == [Outcome.APPROVED] * 2

    async def test_the_same_instruction_moves_money_once(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """Sent again, an instruction names the same operation to the processor."""
        instruction = self.make(subject)
        first = await connector.authorize(instruction)
        second = await connector.authorize(instruction)
        assert Outcome.APPROVED is first.outcome
        assert second.outcome.is_approved or second.outcome.is_unknown
        entries = await processor.ledger(subject.ledger_ref(instruction, first))
        assert len(entries) == 1
        assert instruction.amount_minor == entries[0]["amount"]

    async def test_a_cancelled_caller_leaves_the_connector_usable(
        self, connector: Connector, subject: Subject
    ) -> None:
        """A caller may go away at any await; the next one is served."""
        task = asyncio.create_task(connector.authorize(self.make(subject)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await connector.authorize(self.make(subject))
        assert Outcome.APPROVED is result.outcome

    # Settling.

    async def test_an_unseen_attempt_is_known_as_unseen(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """An attempt that never left is not found, by inquiry or by reversal, every time."""
        for kind in (Kind.PURCHASE, Kind.HOLD):
            instruction = self.make(subject, kind, amount_minor=subject.amount_minor + 7)
            for _ in range(2):
                if connector.settle_by is SettleBy.INQUIRY:
                    asked = await connector.inquire(instruction)
                    assert Outcome.ORIGINAL_NOT_FOUND is asked.outcome
                undone = await connector.reverse(instruction)
                assert Outcome.ORIGINAL_NOT_FOUND is undone.outcome

    @pytest.mark.parametrize("keeps_references", [True, False])
    @pytest.mark.parametrize("kind", list(Kind))
    async def test_reversal_undoes_once_and_may_be_repeated(
        self,
        connector: Connector,
        processor: Processor,
        subject: Subject,
        kind: Kind,
        keeps_references: bool,
    ) -> None:
        """An approved attempt is undone, also after a crash; undoing it again changes nothing."""
        self.need(subject, kind)
        amount = subject.amount_minor + next(_sequences) % 100_000
        instruction = self.make(subject, kind, amount_minor=amount)
        result = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, result)
        if keeps_references:
            instruction = self.known(instruction, result)
        first = await connector.reverse(instruction)
        assert Outcome.APPROVED is first.outcome
        states = {entry["state"] for entry in await processor.ledger(ledger_ref)}
        assert states
        assert states <= UNDONE
        second = await connector.reverse(instruction)
        assert second.outcome in FINAL_REVERSALS

    async def test_inquiry_is_repeatable(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """Asking changes nothing about what is done."""
        instruction = self.make(subject)
        result = await connector.authorize(instruction)
        expected = Outcome.APPROVED if connector.settle_by is SettleBy.INQUIRY else Outcome.PENDING
        for _ in range(3):
            assert expected is (await connector.inquire(instruction)).outcome
        assert await self.state(processor, subject, instruction, result) <= STANDING

    # Holds.

    @pytest.mark.parametrize("keeps_references", [True, False])
    @pytest.mark.parametrize("share", [1, 2])
    async def test_capture_takes_what_was_asked_once(
        self,
        connector: Connector,
        processor: Processor,
        subject: Subject,
        share: int,
        keeps_references: bool,
    ) -> None:
        """A hold is captured in full or in part; asked again it is answered as done."""
        self.need(subject, Kind.HOLD)
        if share > 1 and not connector.capture_partial:
            pytest.skip("this connector captures in full only")
        amount = subject.amount_minor + next(_sequences) % 100_000
        instruction = self.make(subject, Kind.HOLD, amount_minor=amount)
        held = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, held)
        if keeps_references:
            instruction = self.known(instruction, held)
        taken = amount // share
        reference = f"cap_{uuid.uuid4().hex[:26]}"
        for _ in range(2):
            result = await connector.capture(instruction, reference=reference, amount_minor=taken)
            assert Outcome.APPROVED is result.outcome
            (entry,) = await processor.ledger(ledger_ref)
            assert ("captured", taken) == (entry["state"], entry["captured_amount"])

    async def test_a_capture_without_an_answer_may_be_asked_again(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """The lost reply to a capture is pending, and the next try finds it done."""
        self.need(subject, Kind.HOLD)
        instruction = self.make(subject, Kind.HOLD)
        held = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, held)
        instruction = self.known(instruction, held)
        reference = f"cap_{uuid.uuid4().hex[:26]}"
        amount = instruction.amount_minor
        await processor.arm("drop_reply_after_commit")
        lost = await connector.capture(instruction, reference=reference, amount_minor=amount)
        assert (lost.outcome, lost.sent) == (Outcome.PENDING, True)
        await processor.clear()
        found = await connector.capture(instruction, reference=reference, amount_minor=amount)
        assert Outcome.APPROVED is found.outcome
        (entry,) = await processor.ledger(ledger_ref)
        assert amount == entry["captured_amount"]

    @pytest.mark.parametrize("keeps_references", [True, False])
    async def test_cancel_releases_a_hold(
        self,
        connector: Connector,
        processor: Processor,
        subject: Subject,
        keeps_references: bool,
    ) -> None:
        """A hold is released, and cannot be captured afterwards."""
        self.need(subject, Kind.HOLD)
        amount = subject.amount_minor + next(_sequences) % 100_000
        instruction = self.make(subject, Kind.HOLD, amount_minor=amount)
        held = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, held)
        if keeps_references:
            instruction = self.known(instruction, held)
        reference = f"can_{uuid.uuid4().hex[:26]}"
        result = await connector.cancel(instruction, reference=reference)
        assert Outcome.APPROVED is result.outcome
        (entry,) = await processor.ledger(ledger_ref)
        assert entry["state"] == "released"
        again = await connector.cancel(instruction, reference=reference)
        assert again.outcome in FINAL_REVERSALS
        late = await connector.capture(
            instruction, reference=f"cap_{uuid.uuid4().hex[:26]}", amount_minor=amount
        )
        assert Outcome.APPROVED is not late.outcome

    # Refunds.

    async def refund(
        self, connector: Connector, instruction: Instruction, reference: str, amount: int
    ) -> Result:
        return await connector.refund(
            instruction, reference=reference, sequence=next(_sequences), amount_minor=amount
        )

    @pytest.mark.parametrize("kind", [Kind.PURCHASE, Kind.HOLD])
    async def test_a_full_refund_gives_everything_back(
        self, connector: Connector, processor: Processor, subject: Subject, kind: Kind
    ) -> None:
        """Money taken, at once or by capture, goes back whole."""
        self.need(subject, kind)
        instruction = self.make(subject, kind)
        result = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, result)
        instruction = self.known(instruction, result)
        amount = instruction.amount_minor
        if kind is Kind.HOLD:
            captured = await connector.capture(
                instruction, reference=f"cap_{uuid.uuid4().hex[:26]}", amount_minor=amount
            )
            instruction = self.known(instruction, captured)
        reference = f"rfd_{uuid.uuid4().hex[:26]}"
        refunded = await self.refund(connector, instruction, reference, amount)
        assert Outcome.APPROVED is refunded.outcome
        entries = await processor.ledger(ledger_ref)
        assert [("refunded", amount)] == [
            (entry["state"], entry["refunded_amount"]) for entry in entries
        ]
        if connector.settle_by is SettleBy.INQUIRY:
            asked = await connector.inquire_refund(instruction, reference=reference)
            assert Outcome.APPROVED is asked.outcome

    async def test_partial_refunds_add_up_and_repeat_once(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """Parts are given back one after another; the same part asked again counts once."""
        if not connector.refund_partial:
            pytest.skip("this connector refunds in full only")
        instruction = self.make(subject)
        result = await connector.authorize(instruction)
        ledger_ref = subject.ledger_ref(instruction, result)
        instruction = self.known(instruction, result)
        given = 0
        for part in (100_00, 250_00):
            reference, sequence = f"rfd_{uuid.uuid4().hex[:26]}", next(_sequences)
            for _ in range(2):
                refunded = await connector.refund(
                    instruction, reference=reference, sequence=sequence, amount_minor=part
                )
                assert Outcome.APPROVED is refunded.outcome
            given += part
            (entry,) = await processor.ledger(ledger_ref)
            assert given == entry["refunded_amount"]
            if connector.settle_by is SettleBy.INQUIRY:
                asked = await connector.inquire_refund(instruction, reference=reference)
                assert Outcome.APPROVED is asked.outcome
        if connector.settle_by is SettleBy.INQUIRY:
            unseen = await connector.inquire_refund(instruction, reference="rfd_never_sent")
            assert Outcome.ORIGINAL_NOT_FOUND is unseen.outcome

    async def test_a_refund_finds_its_original_after_a_crash(
        self, connector: Connector, processor: Processor, subject: Subject
    ) -> None:
        """Without any reference kept, the original is named by the instruction alone."""
        instruction = self.make(subject)
        result = await connector.authorize(instruction)
        refunded = await self.refund(
            connector, instruction, f"rfd_{uuid.uuid4().hex[:26]}", instruction.amount_minor
        )
        assert Outcome.APPROVED is refunded.outcome
        states = await self.state(processor, subject, instruction, result)
        assert {"refunded"} == states

    # Callbacks.

    @staticmethod
    def callback(body: bytes, **changes: str) -> dict[str, str]:
        """Headers of a callback signed now, with changes made afterwards."""
        now = int(time.time())
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(now),
            "webhook-signature": sign("evt_1", now, body),
        }
        return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}

    BODY = (
        b'{"type":"operation.updated","data":{"reference":"att_1","state":"approved",'
        b'"amount":150000,"currency":"UZS","rrn":"632514000123"}}'
    )

    def test_a_signed_callback_is_believed(self, create: Create, context: ConnectorContext) -> None:
        """What a signed body says arrives in our words."""
        event = create(context).verify_callback(
            self.callback(self.BODY), self.BODY, now_ms=time.time_ns() // 1_000_000
        )
        assert (
            event.event_id,
            event.reference,
            event.amount_minor,
            event.currency,
        ) == ("evt_1", "att_1", 150_000, "UZS")
        assert Outcome.APPROVED is event.result.outcome
        assert not event.reversed

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"webhook_signature": "v1,AAAA"}, "callback-signature-invalid"),
            ({"webhook_signature": "garbage"}, "callback-signature-invalid"),
            ({"webhook_signature": ""}, "callback-signature-invalid"),
            ({"webhook_signature": "v1,\udcff"}, "callback-signature-invalid"),
            ({"webhook_timestamp": "1.5"}, "callback-timestamp-invalid"),
            ({"webhook_timestamp": ""}, "callback-timestamp-invalid"),
            ({"webhook_timestamp": "1614265330"}, "callback-timestamp-invalid"),
            ({"webhook_id": ""}, "callback-invalid"),
            ({"webhook_id": "evt.1"}, "callback-invalid"),
        ],
    )
    def test_a_forged_callback_is_refused(
        self,
        create: Create,
        context: ConnectorContext,
        changes: Mapping[str, str],
        code: str,
    ) -> None:
        """A wrong signature, time or name is refused with its own code."""
        with pytest.raises(CallbackRefused) as refused:
            create(context).verify_callback(
                self.callback(self.BODY, **changes),
                self.BODY,
                now_ms=time.time_ns() // 1_000_000,
            )
        assert code == refused.value.code

    def test_an_altered_callback_is_refused(
        self, create: Create, context: ConnectorContext
    ) -> None:
        """One byte of the body changed, and it is not the body that was signed."""
        with pytest.raises(CallbackRefused) as refused:
            create(context).verify_callback(
                self.callback(self.BODY),
                self.BODY.replace(b"150000", b"150001"),
                now_ms=time.time_ns() // 1_000_000,
            )
        assert refused.value.code == "callback-signature-invalid"

    # What is shown, and what is refused at the start.

    async def test_nothing_shown_has_a_card_or_a_secret(
        self,
        connector: Connector,
        context: ConnectorContext,
        subject: Subject,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """No text of an instruction, result, connector or log line has a PAN, expiry or secret."""
        caplog.set_level("DEBUG")
        instruction = self.make(subject)
        result = await connector.authorize(instruction)
        checked = await connector.check_card(
            subject.card, phone="+998901234567", reference=instruction.reference
        )
        shown = " ".join(
            text(value)
            for value in (instruction, result, checked, connector, context, vars(connector))
            for text in (repr, str)
        )
        shown += " ".join((caplog.text, *result.references.values()))
        hidden = [subject.card.pan.reveal(), *context.secrets.values()]
        if subject.card.token:
            hidden.append(subject.card.token)
        for secret in hidden:
            assert secret not in shown

    def test_a_wrong_setting_is_named(
        self, create: Create, context: ConnectorContext, subject: Subject
    ) -> None:
        """Each wrong, missing or unknown key is refused by `create`, by name, without its value."""
        for key, value in subject.bad_settings.items():
            settings = {**context.settings, key: value}
            with pytest.raises(ValueError, match=key) as refused:
                create(dataclasses.replace(context, settings=settings))
            if isinstance(value, str) and value:
                assert value not in str(refused.value)
        for key in subject.required:
            settings = {name: value for name, value in context.settings.items() if name != key}
            with pytest.raises(ValueError, match=key):
                create(dataclasses.replace(context, settings=settings))
        with pytest.raises(ValueError, match="no_such_setting"):
            create(
                dataclasses.replace(context, settings={**context.settings, "no_such_setting": 1})
            )

    def test_a_wrong_secret_is_named(self, create: Create, context: ConnectorContext) -> None:
        """Each secret that is missing is named; a callback secret that is none, too."""
        for key in context.secrets:
            if key == "callback_secret":
                continue
            secrets = {name: value for name, value in context.secrets.items() if name != key}
            with pytest.raises(ValueError, match=key):
                create(dataclasses.replace(context, secrets=secrets))
        secrets = {**context.secrets, "callback_secret": "not base64!"}
        with pytest.raises(ValueError, match="callback_secret"):
            create(dataclasses.replace(context, secrets=secrets))
