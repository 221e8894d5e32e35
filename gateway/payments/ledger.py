"""The ledger: what each kind of fact posts. Double entry, debit positive, credit negative.

Accounts: `processor:<connector>` (what a processor owes us, or we it), `merchant:<id>` (what we
owe a merchant), `partner:<party>` (what we owe those a commission is divided with),
`commission:income`, `commission:borne` (what the bank carries itself), `vat:payable`. VAT is the
bank's to pay: it is in the bank's share of a divided commission. Every entry sums to zero in its
one currency.
"""

from dataclasses import dataclass

from gateway.payments.model import Action, Payment

INCOME = "commission:income"
BORNE = "commission:borne"
VAT = "vat:payable"
# The party of a divided commission that is the bank itself.
BANK = "bank"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Postings of one fact in one currency, which sum to zero.

    Args:
        entry_id: the payment's or the action's id.
        accounts, amounts_minor: list[n], the same order; no amount is zero.
    """

    entry_id: str
    currency: str
    accounts: list[str]
    amounts_minor: list[int]


def _entry(entry_id: str, currency: str, lines: list[tuple[str, int]]) -> JournalEntry:
    moving = [line for line in lines if line[1] != 0]
    amounts = [amount for _, amount in moving]
    if sum(amounts) != 0:
        raise AssertionError(f"{entry_id}: the postings do not sum to zero")
    return JournalEntry(entry_id, currency, [account for account, _ in moving], amounts)


def _source_account(payment: Payment) -> str:
    if payment.operation == "payout":
        return f"merchant:{payment.merchant_id}"
    return f"processor:{payment.legs[0][0]}"


def _destination_account(payment: Payment) -> str:
    if payment.operation == "purchase":
        return f"merchant:{payment.merchant_id}"
    return f"processor:{payment.legs[-1][0]}"


def settled(payment: Payment, entry_id: str) -> JournalEntry:
    """Post a payment that succeeded, or a capture: debit, credit, commission and its VAT."""
    borne = payment.commission_total if payment.commission_payer == "bank" else 0
    lines = [
        (_source_account(payment), payment.total_debit),
        (BORNE, borne),
        (_destination_account(payment), -payment.total_credit),
        *_commission(payment, payment.commission_total, sign=-1),
    ]
    return _entry(entry_id, payment.currency, lines)


def _part(payment: Payment, part: int, so_far: int) -> int:
    """The part of what has been of the commission so far, floored; the whole at the end."""
    return part * so_far // payment.commission_total if payment.commission_total else 0


def _commission(payment: Payment, so_far: int, *, sign: int) -> list[tuple[str, int]]:
    """Divide what has been of a commission so far among VAT, partners and the bank's income."""
    vat = _part(payment, payment.commission_vat, so_far)
    partners = [
        (f"partner:{party}", _part(payment, part, so_far))
        for party, part in payment.commission_split
        if party != BANK
    ]
    income = so_far - vat - sum(part for _, part in partners)
    divided = [(INCOME, income), *partners, (VAT, vat)]
    return [(account, sign * amount) for account, amount in divided]


def refunded(payment: Payment, action: Action) -> JournalEntry:
    """Post a refund: the merchant gives back what the processor returns to the card.

    What goes back of the commission goes to whoever had paid it. Successive refunds post the
    differences of what has gone back so far, so that they add up.

    Args:
        payment: as it was before the refund.
    """
    returned = action.commission_returned
    before = payment.commission_returned
    commission = [
        (account, after - earlier)
        for (account, after), (_, earlier) in zip(
            _commission(payment, before + returned, sign=1),
            _commission(payment, before, sign=1),
            strict=True,
        )
    ]
    payer = payment.commission_payer
    lines = [
        (
            f"merchant:{payment.merchant_id}",
            action.amount_minor - (returned if payer == "receiver" else 0),
        ),
        *commission,
        (BORNE, -returned if payer == "bank" else 0),
        (
            f"processor:{payment.legs[0][0]}",
            -action.amount_minor - (returned if payer == "sender" else 0),
        ),
    ]
    return _entry(action.id, payment.currency, lines)
