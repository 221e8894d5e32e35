"""SVGate's methods that move money, and those that give it back.

Each validates everything, then decides, then records; `decline` is the code of an armed fault.
A refusal met after the card was known is recorded as a declined transaction under its ext.
"""

from typing import Any

from connectors.simulators import uzcard_params as params
from connectors.simulators.ledger import Account
from connectors.simulators.uzcard_book import Book, UzcardEntry
from connectors.simulators.uzcard_codes import ASK_LATER, MESSAGES, RETRYABLE, refusal_of_status

REFERENCE_WIDTH = 16
HOLD_MINUTES_MAX = 30 * 24 * 60


class Refused(Exception):
    """An SVGate error. The message is its table text: it never holds a card number."""

    def __init__(self, code: int, note: str = "") -> None:
        text = MESSAGES.get(code, "Processing error")
        super().__init__(f"{text} {note}" if note else text)
        self.code = code


class Money:
    """The money methods over one book."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ledger = book.ledger

    # -- one-step payments -----------------------------------------------------------------------

    def pay(self, request: params.PayPurpose, decline: int, shift: int) -> dict[str, Any]:
        """`trans.pay.purpose`: debit amount and commission at once."""
        tran = request.tran
        again = self._again(tran.ext)
        account = self._account(tran.cardId)
        merchant, terminal = _acceptor(tran.merchantId, tran.terminalId)
        if tran.commission < 0 or str(tran.currency) != "860":
            raise Refused(-103)
        total = tran.amount + tran.commission
        entry = self._book.entry(
            ref=tran.ext,
            kind="purchase",
            account=account,
            amount=total,
            merchant=merchant,
            terminal=terminal,
        )
        entry.tran_type = "DEBIT"
        entry.fee = tran.commission
        refusal = _amount_refusal(tran.amount) or self._debit_refusal(account, total, -240)
        self._settle([entry], again, refusal, decline)
        return self._book.transaction(entry, shift)

    def transfer(self, request: params.P2pUniversal, decline: int, shift: int) -> dict[str, Any]:
        """`p2p.universal`: debit the sender amount and fee, credit the recipient the amount."""
        order = request.p2p
        again = self._again(order.ext)
        sender, recipient = self._account(order.sender), self._account(order.recipient)
        merchant, terminal = _acceptor(order.merchantId, order.terminalId)
        if order.feeAmount < 0:
            raise Refused(-103)
        total = order.amount + order.feeAmount
        make = self._book.entry
        debit = make(
            ref=order.ext,
            kind="debit",
            account=sender,
            amount=total,
            merchant=merchant,
            terminal=terminal,
        )
        credit = make(
            ref=order.ext,
            kind="credit",
            account=recipient,
            amount=order.amount,
            merchant=merchant,
            terminal=terminal,
        )
        debit.tran_type = credit.tran_type = "P2P"
        debit.fee = order.feeAmount
        debit.rrn_credit = credit.rrn
        debit.pan2 = recipient.masked
        refusal = (
            _amount_refusal(order.amount)
            or refusal_of_status(recipient.status)
            or self._debit_refusal(sender, total, -240)
        )
        self._settle([debit, credit], again, refusal, decline)
        return self._book.transaction(debit, shift)

    def credit(self, request: params.P2pCredit, decline: int, shift: int) -> dict[str, Any]:
        """`p2p.universal.credit`: credit a card."""
        order = request.credit
        again = self._again(order.ext)
        account = self._account(order.recipient)
        merchant, terminal = _acceptor(order.merchantId, order.terminalId)
        entry = self._book.entry(
            ref=order.ext,
            kind="credit",
            account=account,
            amount=order.amount,
            merchant=merchant,
            terminal=terminal,
        )
        entry.tran_type = "CREDIT"
        refusal = _amount_refusal(order.amount) or refusal_of_status(account.status)
        self._settle([entry], again, refusal, decline)
        return self._book.transaction(entry, shift)

    # -- holds -----------------------------------------------------------------------------------

    def hold_create(self, request: params.HoldCreate, decline: int, shift: int) -> dict[str, Any]:
        """`hold.create`: set money aside for `time` minutes. It has no key of the client's."""
        order = request.hold
        account = self._account(order.cardId)
        merchant, terminal = _acceptor(order.merchantId, order.terminalId)
        if not 1 <= order.time <= HOLD_MINUTES_MAX:
            raise Refused(-241)
        entry = self._book.entry(
            ref=str(self._book.next_number()),
            kind="hold",
            account=account,
            amount=order.amount,
            merchant=merchant,
            terminal=terminal,
        )
        entry.rrn = ""
        entry.tran_type = "HOLD"
        entry.minutes = order.time
        entry.expires_ms = entry.created_ms + order.time * 60_000
        refusal = _amount_refusal(order.amount) or self._debit_refusal(account, order.amount, -239)
        self._settle([entry], None, refusal, decline)
        return {"id": int(entry.ref), "status": 0, "description": "Hold is created"}

    def hold_charge(self, request: params.HoldCharge, decline: int, shift: int) -> dict[str, Any]:
        """`hold.dismiss.charge`: take all or a part of a hold; the rest is let go."""
        order = request.hold
        if order.ext in self._book.by_ext:
            raise Refused(-207)
        entry = self._active_hold(str(order.holdId))
        merchant, terminal = _acceptor(order.merchantId, order.terminalId)
        if not 1 <= order.amount <= entry.amount:
            raise Refused(-245)
        if decline and decline not in ASK_LATER:
            raise Refused(decline)
        entry.state = "captured"
        entry.captured_amount = order.amount
        entry.capture_ref = order.ext
        entry.rrn = f"{self._book.next_number():012d}"
        entry.tran_type = "DEBIT"
        entry.merchant, entry.terminal = merchant, terminal
        self._ledger.save(entry)
        self._book.index(entry)
        if decline:
            raise Refused(decline)
        return self._book.transaction(entry, shift)

    def hold_dismiss(self, request: params.HoldDismiss, decline: int, shift: int) -> dict[str, Any]:
        """`hold.dismiss`: let a hold go."""
        order = request.hold
        entry = self._active_hold(str(order.holdId))
        if order.amount is not None and not 1 <= order.amount <= entry.amount:
            raise Refused(-245)
        if decline and decline not in ASK_LATER:
            raise Refused(decline)
        entry.state = "released"
        self._ledger.save(entry)
        if decline:
            raise Refused(decline)
        return {"id": int(entry.ref), "status": 0, "description": "Hold is dismissed"}

    # -- giving back -----------------------------------------------------------------------------

    def reverse(self, request: params.TranId, decline: int, shift: int) -> list[dict[str, Any]]:
        """`trans.reverse`: undo a whole transaction. Status `ROK` when done, `RER` when it cannot.

        Notes: a payment becomes `refunded`, both halves of a transfer (or a credit) `reversed`.
        """
        entry = self._done(request.tranId)
        if decline and decline not in ASK_LATER:
            raise Refused(decline)
        if entry.refunded_amount:
            return [{**self._book.transaction(entry, shift), "status": "RER"}]
        if entry.kind in ("purchase", "hold"):
            entry.refunded_amount = entry.captured_amount
            entry.state = "refunded"
            entry.undone_ms = self._book.clock.now_ms()
            self._ledger.save(entry)
        else:
            halves = [entry] if entry.pair < 0 else [entry, self._ledger.entries[entry.pair]]
            for half in halves:
                half.state = "reversed"
            self._ledger.save(*halves)
        if decline:
            raise Refused(decline)
        return [self._book.transaction(entry, shift)]

    def reverse_partial(
        self, request: params.ReversePartial, decline: int, shift: int
    ) -> dict[str, Any]:
        """`trans.reverse.partial`: give back a part; repeatable up to what was taken."""
        order = request.tran
        if order.ext in self._book.by_ext:
            raise Refused(-207)
        entry = self._done(order.tranId)
        if entry.kind not in ("purchase", "hold"):
            raise Refused(-245, "for a transfer")
        if not 1 <= order.reverseAmount <= entry.captured_amount - entry.refunded_amount:
            raise Refused(-245)
        if decline and decline not in ASK_LATER:
            raise Refused(decline)
        account = self._account(entry.account)
        part = self._book.entry(
            ref=order.ext,
            kind="refund",
            account=account,
            amount=order.reverseAmount,
            merchant=entry.merchant,
            terminal=entry.terminal,
        )
        part.tran_type = "REVERSAL"
        part.parent = entry.number
        entry.refunded_amount += order.reverseAmount
        if entry.refunded_amount == entry.captured_amount:
            entry.state = "refunded"
        self._ledger.save(entry, part)
        self._book.index(part)
        if decline:
            raise Refused(decline)
        return self._book.transaction(part, shift)

    # -- leaves ----------------------------------------------------------------------------------

    def _again(self, ext: str) -> UzcardEntry | None:
        """Return the failed try that this ext may replace; refuse an ext that was used up."""
        before = self._book.by_ext.get(ext)
        if before is None:
            return None
        if before.state == "declined" and int(before.code) in RETRYABLE:
            return before
        raise Refused(-207)

    def _account(self, token: str) -> Account:
        account = self._ledger.account_by_token(token)
        if account is None:
            raise Refused(-257)
        return account

    def _debit_refusal(self, account: Account, amount: int, no_funds: int) -> int:
        refusal = refusal_of_status(account.status)
        if not refusal and account.expiry and self._book.clock.is_past_expiry(account.expiry):
            refusal = -201
        if not refusal and account.balance < amount:
            refusal = no_funds
        return refusal

    def _active_hold(self, hold_id: str) -> UzcardEntry:
        entry = self._book.holds.get(hold_id)
        if entry is None or entry.state != "approved":
            raise Refused(-242)
        return entry

    def _done(self, reference: str) -> UzcardEntry:
        entry = self._book.by_rrn.get(reference)
        if entry is None:
            by_ext = self._book.by_ext.get(reference)
            # An ext is no reference: SVGate says so when it knows the transaction.
            raise Refused(-208 if by_ext is None or by_ext.state == "declined" else -380)
        if entry.state == "declined" or entry.kind == "refund":
            raise Refused(-208)
        if entry.state in ("reversed", "refunded"):
            raise Refused(-389)
        return entry

    def _settle(
        self, entries: list[UzcardEntry], again: UzcardEntry | None, refusal: int, decline: int
    ) -> None:
        """Record new entries as done or declined, and refuse when they were."""
        if again is not None:
            entries[0].number = again.number
            if len(entries) == 2:
                entries[1].number = again.pair
        if decline and decline not in ASK_LATER:
            refusal = refusal or decline
        for entry in entries:
            if refusal:
                entry.state = "declined"
                entry.code = str(refusal)
            elif entry.kind != "hold":
                entry.captured_amount = entry.amount
        if len(entries) == 2:
            # The debit carries the number of its credit, which only saving gives.
            entries[0].pair = self._pair_number(entries)
        self._ledger.save(*entries)
        for entry in entries:
            self._book.index(entry)
        if refusal or decline:
            raise Refused(refusal or decline)

    def _pair_number(self, entries: list[UzcardEntry]) -> int:
        if entries[1].number >= 0:
            return entries[1].number
        return len(self._ledger.entries) + (entries[0].number < 0)


def _acceptor(merchant: str | int, terminal: str | int) -> tuple[str, str]:
    merchant, terminal = str(merchant), str(terminal)
    if not 1 <= len(merchant) <= REFERENCE_WIDTH:
        raise Refused(-237)
    if not 1 <= len(terminal) <= REFERENCE_WIDTH:
        raise Refused(-236)
    return merchant, terminal


def _amount_refusal(amount: int) -> int:
    return 0 if amount > 0 else -245
