"""UZCARD's flow: which SVGate method does what, and what its answer means for the attempt.

`ext` is the idempotency key of everything but `hold.create`, which has none: a hold whose answer
was lost is looked for among the card's holds. A used `ext` is answered -207, never with the old
result, which is then read with `trans.ext`.
"""

from collections.abc import Mapping
from typing import Any

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
from connectors.transport.faults import TransportFault
from connectors.transport.flow import (
    Ended,
    card_check,
    card_link,
    conclude,
    of_fault,
    pending,
    refused,
    settle,
    unanswered,
)
from connectors.uzcard import codec, status
from connectors.uzcard.client import SvgateClient, declined, of_transaction
from connectors.uzcard.config import Config, read_config
from connectors.uzcard.holds import Holds, of_hold
from connectors.uzcard.reports import UzcardReports


def create(context: ConnectorContext) -> "UzcardConnector":
    """Make the connector. Raises ValueError that names the setting at fault."""
    config = read_config(context)
    verifier = CallbackVerifier(
        context.name, context.secrets.get("callback_secret"), status.of_code
    )
    return UzcardConnector(context.name, config, verifier)


class UzcardConnector:
    """SVGate behind `connectors.spi.types.Connector`."""

    settle_by = SettleBy.INQUIRY
    capture_partial = True
    refund_partial = True

    def __init__(self, name: str, config: Config, verifier: CallbackVerifier) -> None:
        self.name = name
        self._config = config
        self._verifier = verifier
        self._client = SvgateClient(config)
        self._holds = Holds(config, self._client)
        self.reports = UzcardReports(self._client)

    async def start(self) -> None:
        await self._client.http.start()

    async def close(self) -> None:
        await self._client.http.close()

    def is_ready(self) -> bool:
        return self._client.http.is_ready()

    def condition(self) -> Condition:
        return self._client.http.condition()

    def verify_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> CallbackEvent:
        return self._verifier.verify(headers, body, now_ms=now_ms)

    # Cards.

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        """`cards.new.otp`: SVGate sends its one-time code to `phone`."""
        if card.expiry is None:
            return CardCheck(outcome=Outcome.FORMAT_ERROR, processor_code="expiry-missing")
        params = {
            "card": {"pan": card.pan.reveal(), "expiry": card.expiry},
            "serviceName": self._config.service_name,
            "requestorPhone": phone.removeprefix("+"),
        }
        try:
            result = await self._ask("cards.new.otp", params, reference)
            challenge = codec.text(result.get("id"))
        except Ended as ended:
            return card_check(ended.result)
        except TransportFault as fault:
            return card_check(of_fault(fault))
        if not challenge:
            return CardCheck(outcome=Outcome.SYSTEM_ERROR, processor_code="challenge-missing")
        return CardCheck(outcome=Outcome.APPROVED, challenge=challenge)

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        """`cards.new.verify`: exchange the one-time code for the card's token."""
        if challenge is None or not challenge.isdigit():
            return CardLink(outcome=Outcome.FORMAT_ERROR, processor_code="challenge-missing")
        params = {"otp": {"id": int(challenge), "code": code}}
        try:
            result = await self._ask("cards.new.verify", params, challenge)
            token = codec.text(result.get("id"), size_max=32)
            card_status = codec.number(result.get("status", 0))
        except Ended as ended:
            return card_link(ended.result)
        except TransportFault as fault:
            return card_link(of_fault(fault))
        outcome = status.CARD_STATUSES.get(card_status, Outcome.DO_NOT_HONOR)
        if outcome is not Outcome.APPROVED:
            return CardLink(outcome=outcome, processor_code=f"card-{card_status}")
        if not token:
            return CardLink(outcome=Outcome.SYSTEM_ERROR, processor_code="token-missing")
        return CardLink(outcome=Outcome.APPROVED, token=token)

    async def _ask(
        self, method: str, params: Mapping[str, Any], reference: str
    ) -> Mapping[str, Any]:
        reply = await self._client.call(method, params, reference, self._client.deadline())
        if reply.error is not None:
            raise Ended(declined(reply.error))
        return codec.mapping(reply.result)

    # Money.

    async def authorize(self, instruction: Instruction) -> Result:
        return await settle(self._authorize(instruction))

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        """`hold.dismiss.charge` with `ext` = `reference`. Safe to ask again."""
        return await conclude(self._holds.capture(instruction, reference, amount_minor))

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        """`hold.dismiss`. A hold that is already dismissed or expired is `APPROVED`."""
        return await conclude(self._holds.cancel(instruction, reference))

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        """`trans.reverse` of everything that was taken, else `trans.reverse.partial`."""
        return await conclude(self._refund(instruction, reference, amount_minor))

    async def reverse(self, instruction: Instruction) -> Result:
        """Undo by what `trans.ext` (or the hold's state) says there is to undo."""
        return await conclude(self._undo(instruction), unanswered)

    async def inquire(self, instruction: Instruction) -> Result:
        """`trans.ext`, or for a hold its state. A hold that was charged counts as done."""
        return await conclude(self._inquire(instruction), unanswered)

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        """`trans.ext` of a partial refund; a full one shows on the original."""
        return await conclude(self._inquire_refund(instruction, reference), unanswered)

    # Flows.

    async def _authorize(self, instruction: Instruction) -> Result:
        if instruction.currency != "UZS":
            raise refused("currency-unsupported")
        deadline = self._client.deadline()
        if instruction.kind is Kind.HOLD:
            return await self._holds.create(instruction, deadline)
        method, params = await self._order(instruction, deadline)
        reply = await self._client.call(method, params, instruction.reference, deadline)
        if reply.error is None:
            return self._done(instruction, codec.transaction(reply.result))
        if status.of_error(reply.error) is Outcome.DUPLICATE:
            return await self._read(instruction, deadline, Outcome.PENDING)
        return declined(reply.error)

    async def _refund(self, instruction: Instruction, reference: str, amount_minor: int) -> Result:
        deadline = self._client.deadline()
        ref_num = await self._ref_num(instruction, deadline)
        captured = int(instruction.references.get("captured_minor", instruction.amount_minor))
        if amount_minor == captured:
            return await self._reverse(ref_num, reference, deadline, again=Outcome.APPROVED)
        params = {"tran": {"tranId": ref_num, "reverseAmount": amount_minor, "ext": reference}}
        reply = await self._client.call("trans.reverse.partial", params, reference, deadline)
        if reply.error is None:
            return of_transaction(codec.transaction(reply.result), reference, amount_minor)
        # A part of what was wholly given back meanwhile: perhaps this very part.
        if status.of_error(reply.error) not in (Outcome.DUPLICATE, Outcome.ALREADY_REVERSED):
            return declined(reply.error)
        found = await self._client.find(reference, deadline)
        if found:
            return of_transaction(found[0], reference, amount_minor)
        if status.of_error(reply.error) is Outcome.DUPLICATE:
            return pending(str(reply.error))
        return declined(reply.error)

    async def _undo(self, instruction: Instruction) -> Result:
        deadline = self._client.deadline()
        reference = instruction.reference
        if instruction.kind is Kind.HOLD and "ref_num" not in instruction.references:
            hold = await self._holds.find(instruction, deadline)
            state = of_hold(hold)
            if hold is None or state.outcome is Outcome.ALREADY_REVERSED:
                return state
            return await self._holds.dismiss(instruction, hold.hold_id, reference, deadline)
        ref_num = await self._ref_num(instruction, deadline, any_amount=True)
        again = Outcome.ALREADY_REVERSED
        return await self._reverse(ref_num, reference, deadline, again=again)

    async def _inquire(self, instruction: Instruction) -> Result:
        deadline = self._client.deadline()
        if instruction.kind is Kind.HOLD:
            return of_hold(await self._holds.find(instruction, deadline))
        return await self._read(instruction, deadline, Outcome.ORIGINAL_NOT_FOUND)

    async def _inquire_refund(self, instruction: Instruction, reference: str) -> Result:
        deadline = self._client.deadline()
        found = await self._client.find(reference, deadline)
        if found:
            return of_transaction(found[0], reference, found[0].amount)
        original = instruction.references.get("capture_ref", instruction.reference)
        found = await self._client.find(original, deadline)
        if found and found[0].is_reversed:
            return Result(outcome=Outcome.APPROVED, rrn=found[0].ref_num)
        return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)

    # Leaves.

    async def _order(self, instruction: Instruction, deadline: float) -> tuple[str, dict[str, Any]]:
        """Method and parameters that move the money of anything but a hold."""
        common: dict[str, Any] = {
            "ext": instruction.reference,
            **self._client.acceptor(instruction),
        }
        card = await self._client.token(instruction.card, instruction.reference, deadline)
        amount = instruction.amount_minor
        if instruction.kind is Kind.TRANSFER:
            destination, credit = instruction.destination, instruction.credit_minor
            if destination is None or credit is None or not 0 < credit <= amount:
                raise refused("destination-missing")
            recipient = await self._client.token(destination, instruction.reference, deadline)
            order = {"sender": card, "recipient": recipient, "amount": credit}
            return "p2p.universal", {"p2p": {**order, "feeAmount": amount - credit, **common}}
        if instruction.kind is Kind.CREDIT:
            order = {"recipient": card, "amount": amount, "sender": self._config.credit_sender}
            return "p2p.universal.credit", {"credit": {**order, **common}}
        order = {
            "purpose": self._config.purpose,
            "receiverId": instruction.merchant.id,
            "cardId": card,
            "amount": amount,
            "commission": 0,
            "currency": codec.CURRENCY,
        }
        return "trans.pay.purpose", {"tran": {**order, **common}}

    async def _read(self, instruction: Instruction, deadline: float, absent: Outcome) -> Result:
        found = await self._client.find(instruction.reference, deadline)
        if not found:
            return Result(outcome=absent)
        return self._done(instruction, found[0])

    def _done(self, instruction: Instruction, transaction: codec.Transaction) -> Result:
        amount = instruction.amount_minor
        if instruction.kind is Kind.TRANSFER:
            amount = instruction.credit_minor or amount
        return of_transaction(transaction, instruction.reference, amount)

    async def _ref_num(
        self, instruction: Instruction, deadline: float, *, any_amount: bool = False
    ) -> str:
        """SVGate's number of what was taken, recovered by `ext` when it is not known.

        Args:
            any_amount: also when another amount was taken than was asked for, to undo it.
        """
        ref_num = instruction.references.get("ref_num")
        if ref_num:
            return ref_num
        if instruction.kind is Kind.HOLD:
            raise refused("capture-reference-missing")
        found = await self._client.find(instruction.reference, deadline)
        if not found:
            raise Ended(Result(outcome=Outcome.ORIGINAL_NOT_FOUND))
        result = self._done(instruction, found[0])
        if result.outcome is Outcome.APPROVED or (any_amount and found[0].is_done):
            return found[0].ref_num
        if result.outcome is Outcome.PENDING or result.outcome is Outcome.ALREADY_REVERSED:
            raise Ended(result)
        # It was declined: there is nothing to undo.
        raise Ended(
            Result(outcome=Outcome.ORIGINAL_NOT_FOUND, processor_code=result.processor_code)
        )

    async def _reverse(
        self, ref_num: str, reference: str, deadline: float, *, again: Outcome
    ) -> Result:
        """`trans.reverse`; `again` is what a second one means to the caller."""
        reply = await self._client.call("trans.reverse", {"tranId": ref_num}, reference, deadline)
        if reply.error is not None:
            outcome = status.of_error(reply.error)
            if outcome is Outcome.ALREADY_REVERSED:
                return Result(outcome=again, processor_code=str(reply.error), rrn=ref_num)
            return declined(reply.error)
        items = codec.transactions(reply.result)
        if items and all(item.is_reversed for item in items):
            return Result(outcome=Outcome.APPROVED, rrn=ref_num)
        if any(item.status == "RER" for item in items):
            return Result(outcome=Outcome.DO_NOT_HONOR, processor_code="RER")
        return pending("status-unknown")
