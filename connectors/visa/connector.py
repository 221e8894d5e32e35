"""VISA's flow over one lasting socket.

    0100 -> 0110  authorisation, refund, account check
    0120 -> 0130  completion of a hold (0121 when it is said again)
    0400 -> 0410  cancellation of a hold
    0420 -> 0430  reversal of whatever is not known (0421 when it is said again)

VISA has no inquiry: what is not known is reversed. 0120 and 0420 also arrive unasked; they are
stored first and acknowledged afterwards.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping

from connectors.spi.callbacks import CallbackVerifier
from connectors.spi.outcome import Outcome
from connectors.spi.types import (
    CallbackEvent,
    CardCheck,
    CardData,
    CardLink,
    Condition,
    ConnectorContext,
    Instruction,
    Kind,
    Result,
    SettleBy,
)
from connectors.transport.correlation import Fields
from connectors.transport.faults import TransportFault
from connectors.transport.flow import (
    conclude,
    of_fault,
    pending,
    refused,
    settle,
    unanswered,
    with_references,
)
from connectors.transport.iso8583_tcp import Iso8583Link
from connectors.visa import codec, status
from connectors.visa.advice import of_advice
from connectors.visa.config import Config, read_config
from connectors.visa.reports import VisaReports

# Advices whose answer is outstanding, so that the next try says that it repeats.
_UNACKNOWLEDGED_MAX = 10_000
# Message types of one operation, in the order in which they are tried; the last is repeated.
COMPLETION = ("0120", "0121")
REVERSAL = ("0400", "0420", "0421")
ACKNOWLEDGED = "00"


def create(context: ConnectorContext) -> "VisaConnector":
    """Make the connector. Raises ValueError that names the setting at fault."""
    if context.iso8583 is None:
        raise ValueError(f"{context.name}.iso8583: a codec is required")
    config = read_config(context)
    verifier = CallbackVerifier(
        context.name, context.secrets.get("callback_secret"), status.of_code
    )
    return VisaConnector(context, config, verifier)


class VisaConnector:
    """VISA behind `connectors.spi.types.Connector`."""

    settle_by = SettleBy.REVERSAL
    capture_partial = True
    refund_partial = True

    def __init__(
        self, context: ConnectorContext, config: Config, verifier: CallbackVerifier
    ) -> None:
        assert context.iso8583 is not None, "create has checked it"
        self.name = context.name
        self._acquirer = config.acquirer
        self._checker = config.checker
        self._verifier = verifier
        self._deliver = context.on_advice
        self.reports = VisaReports(context.name, config.place)
        self._link = Iso8583Link(
            context.iso8583,
            config.link,
            on_advice=self._on_advice if context.on_advice is not None else None,
        )
        # How often an operation was advised of and not acknowledged.
        self._unacknowledged: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._checks = 0

    @property
    def link(self) -> Iso8583Link:
        """The socket, for its state and counts."""
        return self._link

    async def start(self) -> None:
        self._link.start()

    async def close(self) -> None:
        await self._link.close()

    def is_ready(self) -> bool:
        return self._link.is_ready()

    def condition(self) -> Condition:
        return self._link.condition()

    def verify_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> CallbackEvent:
        return self._verifier.verify(headers, body, now_ms=now_ms)

    # Cards.

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        """An account check of nothing; the one-time code is ours to send."""
        # No money moves, so that the clock may name it.
        self._checks += 1
        now_ms = time.time_ns() // 1_000_000
        message = codec.names(sequence=now_ms + self._checks, created_at_ms=now_ms)
        request = codec.account_check(card, self._checker, self._acquirer, message)
        result = await settle(self._authorise(request, is_money=False))
        outcome = result.outcome
        return CardCheck(outcome=outcome, processor_code=result.processor_code)

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        """VISA links nothing: the code was ours to check."""
        return CardLink(outcome=Outcome.APPROVED)

    # Money.

    async def authorize(self, instruction: Instruction) -> Result:
        return await settle(self._authorize(instruction))

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        """Advise that the hold is taken. Safe to ask again: it is answered as the first."""
        return await conclude(self._capture(instruction, amount_minor))

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        """0400 of the hold. One that is not there any more is `ORIGINAL_NOT_FOUND`."""
        return await conclude(self._cancel(instruction))

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        """0100 that gives money back. Asked again with the same sequence it is the same message,
        which VISA answers from what it answered before."""
        return await conclude(self._refund(instruction, sequence, amount_minor))

    async def reverse(self, instruction: Instruction) -> Result:
        """0400 of the attempt, then 0420, then 0421 each time, until one is acknowledged."""
        return await conclude(self._reverse(instruction), unanswered)

    async def inquire(self, instruction: Instruction) -> Result:
        """There is no inquiry: `PENDING`, and nothing is sent."""
        return pending("no-inquiry", sent=False)

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        """There is no inquiry: ask `refund` again, with the same sequence."""
        return pending("no-inquiry", sent=False)

    # Flows.

    async def _authorize(self, instruction: Instruction) -> Result:
        if instruction.kind not in codec.PROCESSING:
            raise refused("kind-unsupported")
        self._check(instruction, instruction.amount_minor)
        request = codec.authorisation(instruction, self._acquirer)
        references = {
            "rrn": str(request[37]),
            "stan": str(request[11]),
            "transmitted": str(request[7]),
        }
        try:
            return await self._authorise(request, references)
        except TransportFault as fault:
            if not fault.sent:
                return of_fault(fault)
            # The names were given by us: what arrives later unasked is found by them.
            return with_references(pending(fault.code), **references)

    async def _authorise(
        self, request: Fields, references: Mapping[str, str] | None = None, *, is_money: bool = True
    ) -> Result:
        """Exchange an 0100 and read its answer."""
        names = dict(references or {})
        answer = await self._exchange("0100", request)
        code = codec.text(answer, 39)
        if code is None:
            return with_references(pending("response-missing"), **names)
        outcome = status.of_response(code)
        if outcome is Outcome.APPROVED_PARTIAL:
            return Result(outcome=outcome, processor_code=code, references=names)
        if not codec.is_echo(request, answer, is_money=is_money and outcome.is_approved):
            return with_references(pending("echo-mismatch"), **names)
        if not outcome.is_approved:
            return Result(outcome=outcome, processor_code=code, references=names)
        approval_code = codec.text(answer, 38)
        if approval_code is not None:
            names["approval_code"] = approval_code
        return Result(
            outcome=outcome,
            processor_code=code,
            rrn=codec.text(answer, 37),
            approval_code=approval_code,
            references=names,
        )

    async def _capture(self, instruction: Instruction, amount_minor: int) -> Result:
        self._check(instruction, amount_minor)
        request = codec.completion(instruction, self._acquirer, amount_minor)
        answer = await self._advise(COMPLETION, instruction, request)
        code = codec.text(answer, 39)
        if code != "00":
            outcome = status.of_response(code) if code is not None else Outcome.PENDING
            if outcome.money_may_have_moved:
                outcome = Outcome.PENDING
            return Result(outcome=outcome, processor_code=code)
        if not codec.is_echo(request, answer, is_money=False):
            return pending("echo-mismatch")
        return Result(
            outcome=Outcome.APPROVED,
            processor_code=code,
            rrn=codec.text(answer, 37),
            references={"captured_minor": str(amount_minor)},
        )

    async def _cancel(self, instruction: Instruction) -> Result:
        self._check(instruction, instruction.amount_minor)
        request = codec.reversal(instruction, self._acquirer)
        return _reversed(request, await self._exchange("0400", request))

    async def _refund(self, instruction: Instruction, sequence: int, amount_minor: int) -> Result:
        self._check(instruction, amount_minor)
        request = codec.refund(
            instruction, self._acquirer, sequence=sequence, amount_minor=amount_minor
        )
        names = codec.names(sequence=sequence, created_at_ms=instruction.created_at_ms)
        return await self._authorise(request, {"refund_rrn": names.reference})

    async def _reverse(self, instruction: Instruction) -> Result:
        self._check(instruction, instruction.amount_minor)
        request = codec.reversal(instruction, self._acquirer)
        answer = await self._advise(REVERSAL, instruction, request)
        return _reversed(request, answer)

    # Leaves.

    def _check(self, instruction: Instruction, amount_minor: int) -> None:
        """Refuse what no message can say. Raises Ended."""
        if instruction.kind is Kind.TRANSFER:
            raise refused("kind-unsupported")
        if instruction.currency not in codec.CURRENCIES:
            raise refused("currency-unsupported")
        if not 0 < amount_minor <= codec.AMOUNT_MAX:
            raise refused("amount-unsupported", Outcome.INVALID_AMOUNT)

    async def _exchange(self, mti: str, request: Fields) -> Fields:
        try:
            _, answer = await self._link.request(mti, request)
        except ValueError:
            raise refused("message-unsupported") from None
        return answer

    async def _advise(
        self, types: tuple[str, ...], instruction: Instruction, request: Fields
    ) -> Fields:
        """Exchange an advice: as the next of `types` each time, until one is acknowledged.

        What is not acknowledged is kept by whoever asks, and asked again (store and forward). A
        process that has forgotten how often begins anew, which the processor takes for the same.
        """
        key = (types[0], instruction.reference)
        times = self._unacknowledged.get(key, 0)
        try:
            answer = await self._exchange(types[min(times, len(types) - 1)], request)
        except TransportFault as fault:
            if fault.sent:
                self._advise_again(key, times)
            raise
        if codec.text(answer, 39) == ACKNOWLEDGED:
            self._unacknowledged.pop(key, None)
        else:
            self._advise_again(key, times)
        return answer

    def _advise_again(self, key: tuple[str, str], times: int) -> None:
        self._unacknowledged[key] = times + 1
        if len(self._unacknowledged) > _UNACKNOWLEDGED_MAX:
            self._unacknowledged.popitem(last=False)

    async def _on_advice(self, mti: str, fields: Fields) -> bool:
        """Hand an unasked message on; whether it was stored and may be acknowledged."""
        event = of_advice(mti, fields)
        if event is None or self._deliver is None:
            return False
        await self._deliver(event)
        return True


def _reversed(request: Fields, answer: Fields) -> Result:
    code = codec.text(answer, 39)
    if code is None or not codec.is_echo(request, answer, is_money=False):
        return pending("echo-mismatch" if code else "response-missing")
    return Result(outcome=status.of_reversal(code), processor_code=code, rrn=codec.text(answer, 37))
