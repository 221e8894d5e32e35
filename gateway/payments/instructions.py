"""From a payment's attempt to what a connector is told, the same before and after a crash."""

from connectors.spi import CardData, Instruction, Kind, Merchant, Pan
from gateway.cards.directory import Directory
from gateway.core import Core
from gateway.kernel.vault import Vault
from gateway.payments.model import Attempt, Payment


def destination_binding(payment_id: str) -> str:
    """Return what a payment's sealed destination number is bound to."""
    return f"payments|destination|{payment_id}"


class Instructions:
    """Builds instructions from durable facts alone.

    Args:
        acceptor: the bank's own card acceptor, for what has no merchant.
    """

    def __init__(self, core: Core, directory: Directory, vault: Vault, acceptor: Merchant) -> None:
        self._core = core
        self._directory = directory
        self._vault = vault
        self._acceptor = acceptor

    async def of(self, payment: Payment, attempt: Attempt) -> Instruction:
        """Return the instruction of an attempt. Raises LookupError when its card is gone."""
        kind = Kind(attempt.kind)
        merchant = self._acceptor
        if payment.merchant_id is not None:
            merchant = await self._directory.merchant(payment.merchant_id)
        destination = None
        if kind is Kind.CREDIT:
            card = await self._destination(payment)
        else:
            assert payment.source_card_id is not None, "only a payout has no source"
            card = await self._directory.card(payment.source_card_id)
            if kind is Kind.TRANSFER:
                destination = await self._destination(payment)
        return Instruction(
            kind=kind,
            reference=attempt.id,
            sequence=attempt.sequence,
            created_at_ms=attempt.created_at_ms,
            amount_minor=payment.total_credit if kind is Kind.CREDIT else payment.total_debit,
            credit_minor=payment.total_credit if kind is Kind.TRANSFER else None,
            currency=payment.currency,
            card=card,
            destination=destination,
            merchant=merchant,
            references=attempt.references,
        )

    async def _destination(self, payment: Payment) -> CardData:
        if payment.destination_card_id is not None:
            return await self._directory.card(payment.destination_card_id)
        assert payment.destination_pan is not None, "a destination is a card or a number"
        pan = self._vault.open(payment.destination_pan, bound_to=destination_binding(payment.id))
        return CardData(scheme=self._core.scheme_of(pan) or "", pan=Pan(pan))

    def seal_destination(self, payment_id: str, pan: Pan) -> bytes:
        """Seal a destination given by number, for the payment's row."""
        return self._vault.seal(pan.reveal(), bound_to=destination_binding(payment_id))
