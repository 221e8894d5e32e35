"""HUMO's flow. A payment is always two messages: create and confirm; only a hold stops between.

    created --confirm--> finished --ReturnPayment--> refunded
    created --CancelRequest--> cancelled            created --its time to live--> expired

A create whose confirm is not answered is `PENDING`; the inquiry then cancels what is half made,
for unconfirmed money stays locked for a week.
"""

from collections.abc import Mapping

from connectors.humo import codec, status
from connectors.humo.client import HumoClient
from connectors.humo.config import Config, read_config
from connectors.humo.reports import HumoReports
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
    conclude,
    of_fault,
    pending,
    refused,
    settle,
    unanswered,
)

CREATED, FINISHED = "created", "finished"
UNDONE = frozenset({"cancelled", "refunded", "expired"})

_BILLERS = {
    Kind.PURCHASE: "SOAP_SMS",
    Kind.DEBIT: "SOAP_SMS",
    Kind.HOLD: "SOAP_DMS",
    Kind.CREDIT: "SOAP_TOCARD",
}


def create(context: ConnectorContext) -> "HumoConnector":
    """Make the connector. Raises ValueError that names the setting at fault."""
    config = read_config(context)
    verifier = CallbackVerifier(
        context.name, context.secrets.get("callback_secret"), status.of_code
    )
    return HumoConnector(context.name, config, verifier)


class HumoConnector:
    """HUMO behind `connectors.spi.types.Connector`."""

    settle_by = SettleBy.INQUIRY
    capture_partial = True

    def __init__(self, name: str, config: Config, verifier: CallbackVerifier) -> None:
        self.name = name
        self.refund_partial = config.is_partial_refund
        self._config = config
        self._verifier = verifier
        self._client = HumoClient(config)
        self.reports = HumoReports(name, config.place)

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
        """A card is usable when its status is 000 and its phone service is on; the bank's code
        goes to the phone that comes back."""
        try:
            info = await self._client.card(card.pan.reveal(), reference)
        except Ended as ended:
            return card_check(ended.result)
        except TransportFault as fault:
            return card_check(of_fault(fault))
        if isinstance(info, int):
            return CardCheck(outcome=status.of_action(info), processor_code=str(info))
        code = f"{info.action_code:03d}"
        if info.action_code != 0:
            return CardCheck(outcome=status.of_action(info.action_code), processor_code=code)
        if not info.is_phone_on:
            return CardCheck(outcome=Outcome.NOT_PERMITTED_CARD, processor_code="mb-off")
        if info.expiry is not None and card.expiry is not None and info.expiry != card.expiry:
            return CardCheck(outcome=Outcome.INVALID_CARD, processor_code="expiry-mismatch")
        return CardCheck(outcome=Outcome.APPROVED, phone=info.phone, processor_code=code)

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        """HUMO links nothing: the code was ours or the bank's to check."""
        return CardLink(outcome=Outcome.APPROVED)

    # Money.

    async def authorize(self, instruction: Instruction) -> Result:
        """Create and, unless it is a hold, confirm."""
        return await settle(self._authorize(instruction))

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        """Confirm, for less when asked. Safe to ask again: what is finished is compared."""
        return await conclude(self._capture(instruction, amount_minor))

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        """`CancelRequest`. A hold that is already cancelled or expired is `APPROVED`."""
        return await conclude(self._cancel(instruction))

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        """`ReturnPayment`, named by `refund_ref`: a repeated one is answered as the first."""
        return await conclude(self._refund(instruction, reference, amount_minor))

    async def reverse(self, instruction: Instruction) -> Result:
        """Cancel what is created, return what is finished."""
        return await conclude(self._reverse(instruction), unanswered)

    async def inquire(self, instruction: Instruction) -> Result:
        """`GetPayment`; a payment that is created and not confirmed is cancelled, a hold is not."""
        return await conclude(self._inquire(instruction), unanswered)

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        """Whether `GetPayment` lists the refund among those applied."""
        return await conclude(self._inquire_refund(instruction, reference), unanswered)

    # Flows.

    async def _authorize(self, instruction: Instruction) -> Result:
        message = self._create_message(instruction)
        deadline = self._client.deadline()
        reference = instruction.reference
        answer = await self._client.call(message, reference, deadline)
        if answer.error is not None:
            if status.of_action(answer.error) is not Outcome.DUPLICATE:
                return _declined(answer.error)
            known = await self._client.payment(reference, deadline)
            if known is None:
                return pending(str(answer.error))
            if _state(known) != CREATED:
                return self._settled(instruction, known)
            answer = known
        elif answer.action not in (codec.ACTION_CREATED, codec.ACTION_FINISHED):
            return pending("action-unknown", payment_id=answer.payment_id)
        if not answer.payment_ref or not _is_amount(answer, _sent_amount(instruction)):
            return pending("echo-mismatch", payment_id=answer.payment_id)
        if answer.final_code not in (None, 0):
            return _declined(answer.final_code or 0)
        if instruction.kind is Kind.HOLD:
            return _approved(answer)
        return await self._confirm(instruction, answer.payment_id, deadline)

    async def _confirm(self, instruction: Instruction, payment_id: str, deadline: float) -> Result:
        """The second half: whatever goes wrong from here on, the first half was sent."""
        reference = instruction.reference
        try:
            answer = await self._client.call(
                codec.confirm(reference, self._config.login), reference, deadline
            )
            if answer.error is None:
                return self._finished(instruction, answer)
            outcome = status.of_action(answer.error)
            if outcome.money_may_have_moved:
                return pending(str(answer.error), payment_id=payment_id)
            # Refused, but still created: without this the money stays locked.
            if await self._client.cancel(reference, deadline) is None:
                return _declined(answer.error)
            return pending(str(answer.error), payment_id=payment_id)
        except TransportFault as fault:
            return pending(fault.code, payment_id=payment_id)
        except Ended as ended:
            return pending(ended.result.processor_code or "", payment_id=payment_id)

    def _finished(self, instruction: Instruction, answer: codec.Reply) -> Result:
        """What a confirmation says, once it is known to be of this payment and amount."""
        if answer.action != codec.ACTION_FINISHED or not answer.payment_ref:
            return pending("action-unknown", payment_id=answer.payment_id)
        if not _is_amount(answer, _sent_amount(instruction)):
            return pending("echo-mismatch", payment_id=answer.payment_id)
        return _of_final(answer)

    def _settled(self, instruction: Instruction, known: codec.Reply) -> Result:
        """What a payment that is not merely created has come to."""
        state = _state(known)
        if state in UNDONE:
            return Result(
                outcome=Outcome.ALREADY_REVERSED, references={"payment_id": known.payment_id}
            )
        if state != FINISHED:
            return pending("state-unknown", payment_id=known.payment_id)
        # A captured hold may be finished for less.
        if instruction.kind is not Kind.HOLD and not _is_amount(known, _sent_amount(instruction)):
            return pending("echo-mismatch", payment_id=known.payment_id)
        return _of_final(known)

    async def _capture(self, instruction: Instruction, amount_minor: int) -> Result:
        deadline = self._client.deadline()
        reference = instruction.reference
        known = await self._client.payment(reference, deadline)
        if known is None:
            return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)
        if _state(known) == CREATED:
            less = amount_minor if amount_minor != instruction.amount_minor else None
            known = await self._client.call(
                codec.confirm(reference, self._config.login, less), reference, deadline
            )
            if known.error is not None:
                return _declined(known.error)
            if known.action != codec.ACTION_FINISHED:
                return pending("action-unknown", payment_id=known.payment_id)
        elif _state(known) != FINISHED:
            return self._settled(instruction, known)
        if not _is_amount(known, amount_minor):
            return pending("echo-mismatch", payment_id=known.payment_id)
        result = _of_final(known)
        if result.outcome is not Outcome.APPROVED:
            return result
        return _approved(known, captured_minor=str(amount_minor))

    async def _cancel(self, instruction: Instruction) -> Result:
        deadline = self._client.deadline()
        error = await self._client.cancel(instruction.reference, deadline)
        if error is None:
            return Result(outcome=Outcome.APPROVED)
        known = await self._client.payment(instruction.reference, deadline)
        if known is not None and _state(known) in ("cancelled", "expired"):
            return Result(outcome=Outcome.APPROVED)
        return _declined(error)

    async def _refund(self, instruction: Instruction, reference: str, amount_minor: int) -> Result:
        captured = int(instruction.references.get("captured_minor", instruction.amount_minor))
        is_full = amount_minor == captured
        if not is_full and not self.refund_partial:
            raise refused("partial-refund-unsupported", Outcome.INVALID_AMOUNT)
        items = self._return_items(instruction, reference)
        if not is_full:
            items.append(("amount", str(amount_minor)))
        return await self._give_back(instruction, items)

    async def _give_back(self, instruction: Instruction, items: list[tuple[str, str]]) -> Result:
        answer = await self._client.call(
            codec.give_back(instruction.reference, items, self._config.login),
            instruction.reference,
            self._client.deadline(),
        )
        if answer.error is not None:
            return _declined(answer.error)
        if answer.name != "ReturnPaymentResponse":
            return pending("reply-mismatch")
        return Result(outcome=Outcome.APPROVED)

    async def _reverse(self, instruction: Instruction) -> Result:
        deadline = self._client.deadline()
        known = await self._client.payment(instruction.reference, deadline)
        if known is None:
            return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)
        state = _state(known)
        if state in UNDONE:
            return Result(outcome=Outcome.ALREADY_REVERSED)
        if state == CREATED:
            error = await self._client.cancel(instruction.reference, deadline)
            return Result(outcome=Outcome.APPROVED) if error is None else pending(str(error))
        if state != FINISHED:
            return pending("state-unknown")
        if known.final_code not in (None, 0):
            # It finished as a decline: there is nothing to undo.
            return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)
        items = self._return_items(instruction, instruction.reference)
        return await self._give_back(instruction, items)

    async def _inquire(self, instruction: Instruction) -> Result:
        deadline = self._client.deadline()
        known = await self._client.payment(instruction.reference, deadline)
        if known is None:
            return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)
        if _state(known) != CREATED:
            return self._settled(instruction, known)
        if instruction.kind is Kind.HOLD:
            if not _is_amount(known, instruction.amount_minor):
                return pending("echo-mismatch", payment_id=known.payment_id)
            return _of_final(known)
        error = await self._client.cancel(instruction.reference, deadline)
        if error is not None:
            return pending(str(error), payment_id=known.payment_id)
        return Result(outcome=Outcome.ALREADY_REVERSED, references={"payment_id": known.payment_id})

    async def _inquire_refund(self, instruction: Instruction, reference: str) -> Result:
        known = await self._client.payment(instruction.reference, self._client.deadline())
        refunds = known.details.get("refund_refs", "").split(",") if known is not None else []
        is_applied = reference in (refund.strip() for refund in refunds)
        return Result(outcome=Outcome.APPROVED if is_applied else Outcome.ORIGINAL_NOT_FOUND)

    # Leaves.

    def _return_items(self, instruction: Instruction, reference: str) -> list[tuple[str, str]]:
        return [
            *self._acceptor(instruction),
            ("centre_id", self._config.centre(instruction.card.pan)),
            ("refund_ref", reference),
        ]

    def _acceptor(self, instruction: Instruction) -> list[tuple[str, str]]:
        merchant = instruction.merchant
        return [
            ("merchant_id", self._config.merchant_id or merchant.id),
            ("terminal_id", self._config.terminal_id or merchant.terminal_id),
        ]

    def _create_message(self, instruction: Instruction) -> bytes:
        """The message that creates the payment. Raises Ended for what HUMO cannot be asked."""
        config, card, reference = self._config, instruction.card, instruction.reference
        if instruction.currency != "UZS":
            raise refused("currency-unsupported")
        if card.expiry is None and instruction.kind is not Kind.CREDIT:
            raise refused("expiry-missing")
        common = [("ccy_code", codec.CURRENCY), *self._acceptor(instruction)]
        amount = ("amount", str(_sent_amount(instruction)))
        debited = [("pan", card.pan.reveal()), ("expiry", card.expiry or "")]
        if instruction.kind is Kind.TRANSFER:
            destination, credit = instruction.destination, instruction.credit_minor
            if destination is None or credit is None or not 0 < credit <= instruction.amount_minor:
                raise refused("destination-missing")
            charge = ("amount_fee", str(instruction.amount_minor - credit))
            items = [*debited, ("pan2", destination.pan.reveal()), amount, charge, *common]
            is_same_bank = destination.pan.first6 == card.pan.first6
            switching = config.switching_same_bank if is_same_bank else config.switching_other_bank
            return codec.create_transfer(switching, reference, items, config.login)
        place = [("point_code", config.point_code), ("centre_id", config.centre(card.pan))]
        biller = _BILLERS[instruction.kind]
        if instruction.kind is Kind.CREDIT:
            sender = list(config.credit_sender.items())
            if not sender and instruction.amount_minor >= config.sender_data_from_minor:
                raise refused("sender-data-missing")
            biller = "SOAP_TOCARD_2" if sender else biller
            items = [("pan2", card.pan.reveal()), amount, *common, *place, *sender]
        else:
            items = [*debited, amount, *common, *place]
        return codec.create(biller, reference, items, config.login)


def _sent_amount(instruction: Instruction) -> int:
    """What `amount` says: for a transfer what is credited, for the rest what is moved."""
    if instruction.kind is Kind.TRANSFER and instruction.credit_minor is not None:
        return instruction.credit_minor
    return instruction.amount_minor


def _is_amount(answer: codec.Reply, amount_minor: int) -> bool:
    """Whether amount and currency, where told, are the ones asked for."""
    return answer.amount in (None, amount_minor) and answer.currency in (None, codec.CURRENCY)


def _state(known: codec.Reply) -> str:
    """The payment's state, from `state` or else from the action."""
    state = known.details.get("state", "")
    if state:
        return state
    return {codec.ACTION_CREATED: CREATED, codec.ACTION_FINISHED: FINISHED}.get(
        known.action or 0, ""
    )


def _of_final(answer: codec.Reply) -> Result:
    """A finished payment, by its final action code: a reply without a fault may be a decline."""
    code = answer.final_code
    if code is None:
        return pending("final-code-missing", payment_id=answer.payment_id)
    outcome = status.of_action(code)
    if outcome is Outcome.APPROVED:
        return _approved(answer)
    if outcome.money_may_have_moved:
        return pending(f"{code:03d}", payment_id=answer.payment_id)
    return Result(outcome=outcome, processor_code=f"{code:03d}")


def _approved(answer: codec.Reply, **references: str) -> Result:
    rrn = answer.details.get("auth_ref_number") or None
    approval_code = answer.details.get("auth_appr_code") or None
    known = {"payment_id": answer.payment_id, "rrn": rrn or "", **references}
    return Result(
        outcome=Outcome.APPROVED,
        rrn=rrn,
        approval_code=approval_code,
        references={name: value for name, value in known.items() if value},
    )


def _declined(code: int) -> Result:
    outcome = status.of_action(code)
    if outcome is Outcome.APPROVED:
        outcome = Outcome.PENDING  # a fault that says approved contradicts itself
    return Result(outcome=outcome, processor_code=str(code))
