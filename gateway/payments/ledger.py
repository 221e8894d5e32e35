"""The ledger: what each kind of fact posts. Double entry, debit positive, credit negative.

Accounts: `processor:<connector>` (what a processor owes us, or we it), `merchant:<id>` (what we owe
a merchant), `commission:income`, `commission:borne` (what the bank carries itself), `vat:payable`.
Every entry sums to zero in its one currency.
"""

from dataclasses import dataclass

from gateway.payments.model import Payment

INCOME = "commission:income"
BORNE = "commission:borne"
VAT = "vat:payable"


@dataclass(frozen=True, slots=True)
class Posting:
    """One line. `entry_id` names the journal entry: the payment's or the action's id."""

    entry_id: str
    line: int
    account: str
    amount_minor: int
    currency: str


def _entry(entry_id: str, currency: str, lines: list[tuple[str, int]]) -> list[Posting]:
    if sum(amount for _, amount in lines) != 0:
        raise AssertionError(f"{entry_id}: the postings do not sum to zero")
    moving = [(account, amount) for account, amount in lines if amount != 0]
    return [
        Posting(entry_id, number, account, amount, currency)
        for number, (account, amount) in enumerate(moving, start=1)
    ]


def _source_account(payment: Payment) -> str:
    if payment.operation == "payout":
        return f"merchant:{payment.merchant_id}"
    return f"processor:{payment.legs[0][0]}"


def _destination_account(payment: Payment) -> str:
    if payment.operation == "purchase":
        return f"merchant:{payment.merchant_id}"
    return f"processor:{payment.legs[-1][0]}"


def settled(payment: Payment, entry_id: str) -> list[Posting]:
    """Post a payment that succeeded, or a capture: debit, credit, commission and its VAT."""
    borne = payment.commission_total if payment.commission_payer == "bank" else 0
    lines = [
        (_source_account(payment), payment.total_debit),
        (BORNE, borne),
        (_destination_account(payment), -payment.total_credit),
        (INCOME, -(payment.commission_total - payment.commission_vat)),
        (VAT, -payment.commission_vat),
    ]
    return _entry(entry_id, payment.currency, lines)


def refunded(payment: Payment, entry_id: str, amount_minor: int) -> list[Posting]:
    """Post a refund: the merchant gives back what the processor returns to the card."""
    lines = [
        (f"merchant:{payment.merchant_id}", amount_minor),
        (f"processor:{payment.legs[0][0]}", -amount_minor),
    ]
    return _entry(entry_id, payment.currency, lines)
