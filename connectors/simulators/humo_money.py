"""HUMO's operations on money: create, confirm, cancel, return.

Creating authorises and locks the money; only the confirm moves it. A refusal of the create or of
the confirm ends the payment, except that a hold outlives a refused capture.
"""

from connectors.simulators.humo_book import (
    ASK_LATER,
    DESCRIPTIONS,
    RETRYABLE,
    STATUS_CODES,
    Book,
    HumoEntry,
)
from connectors.simulators.humo_xml import SoapRequest
from connectors.simulators.ledger import Account

KIND_OF_BILLER = {
    "SOAP_SMS": "purchase",
    "SOAP_DMS": "hold",
    "SOAP_TOCARD": "credit",
    "SOAP_TOCARD_2": "credit",
}
REF_LENGTH_MAX = 64
AMOUNT_DIGITS_MAX = 16
SENDER_FIELDS = ("sender_first_name", "sender_surname", "sender_person_code")


class Declined(Exception):
    """A SOAP Fault to be answered; `code` is an ISO 8583:1993 action code or -1."""

    def __init__(self, code: int, description: str | None = None) -> None:
        super().__init__(description or DESCRIPTIONS.get(code, "Declined"))
        self.code = code


class Money:
    """The operations over one book."""

    def __init__(self, book: Book, sender_data_from: int | None) -> None:
        self._book = book
        self._ledger = book.ledger
        self._sender_data_from = sender_data_from

    def create(self, request: SoapRequest, decline: int) -> HumoEntry:
        """`Payment` with a billerRef: lock the money of a purchase or hold, or plan a credit."""
        biller, details = request.fields["billerRef"], request.details
        kind = KIND_OF_BILLER.get(biller)
        if kind is None:
            raise Declined(-1, "Unknown billerRef")
        ref, again = self._fresh_ref(request)
        _require(details, "amount", "merchant_id", "terminal_id")
        account = self._account(details.get("pan2" if kind == "credit" else "pan"))
        entry = self._book.entry(
            ref=ref,
            kind=kind,
            account=account,
            amount=_amount(details["amount"]),
            biller=biller,
            terminal=_plain(details["terminal_id"]),
        )
        if kind == "credit":
            refusal = _status_refusal(account) or self._sender_refusal(entry, details)
        else:
            refusal = self._debit_refusal(account, details.get("expiry"), entry.amount)
        self._settle([entry], again, refusal or _currency_refusal(details), decline)
        return entry

    def request(self, request: SoapRequest, decline: int) -> HumoEntry:
        """`Request`: lock what a card-to-card transfer takes, charge included."""
        details = request.details
        ref, again = self._fresh_ref(request)
        _require(details, "pan", "pan2", "amount", "merchant_id", "terminal_id")
        sender, recipient = self._account(details["pan"]), self._account(details["pan2"])
        amount = _amount(details["amount"])
        fee = _amount(details["amount_fee"], least=0) if details.get("amount_fee") else 0
        terminal = _plain(details["terminal_id"])
        debit = self._book.entry(
            ref=ref,
            kind="debit",
            account=sender,
            amount=amount + fee,
            biller="P2P",
            terminal=terminal,
        )
        credit = self._book.entry(
            ref=ref,
            kind="credit",
            account=recipient,
            amount=amount,
            biller="P2P",
            terminal=terminal,
        )
        debit.fee = fee
        refusal = _status_refusal(recipient) or self._debit_refusal(
            sender, details.get("expiry"), amount + fee
        )
        self._settle([debit, credit], again, refusal or _currency_refusal(details), decline)
        return debit

    def confirm(self, request: SoapRequest, decline: int) -> HumoEntry:
        """`Payment` confirmed and finished; `details/amount` captures less of a hold.

        Notes: a finished payment confirmed again for the same amount is answered as the first time.
        """
        fields = request.fields
        if fields.get("confirmed") != "true" or fields.get("finished") != "true":
            raise Declined(-1)
        entry = self._book.find(fields)
        if entry is None or entry.is_expired or entry.stage in ("cancelled", "refunded"):
            raise Declined(914)
        told = request.details.get("amount")
        amount = entry.amount if not told else _amount(told) + entry.fee
        if entry.stage == "finished":
            if amount != entry.captured_amount:
                raise Declined(913)
            return entry
        if amount > entry.amount or (amount != entry.amount and entry.pair >= 0):
            raise Declined(110)
        entries = [entry] if entry.pair < 0 else [entry, self._ledger.entries[entry.pair]]
        if decline and decline not in ASK_LATER:
            self._refuse_confirm(entries, decline)
        for half in entries:
            half.stage = "finished"
            half.state = "captured" if half.kind == "hold" else "approved"
            half.captured_amount = amount if half is entry else half.amount
            half.expires_ms = 0
        if entry.kind in ("purchase", "credit"):
            # A changed amount of a one-step payment is its amount from then on.
            entry.amount = amount
        self._ledger.save(*entries)
        if decline:
            raise Declined(decline)
        return entry

    def cancel(self, request: SoapRequest) -> None:
        """`CancelRequest`: let go of what was created and not finished; safe to repeat."""
        entry = self._book.find(request.fields)
        if entry is None:
            raise Declined(914)
        if entry.stage in ("finished", "refunded"):
            raise Declined(-1, "Payment is finished")
        if entry.stage == "cancelled" or entry.is_expired:
            return
        entries = [entry] if entry.pair < 0 else [entry, self._ledger.entries[entry.pair]]
        for half in entries:
            half.stage = "cancelled"
            half.state = "released"
        self._ledger.save(*entries)

    def give_back(self, request: SoapRequest) -> None:
        """`ReturnPayment`: refund what is left, or the bare item `amount` of it.

        Notes: a `refund_ref` seen before is answered as the first time.
        """
        items = request.items
        entry = self._book.find(request.fields)
        if entry is None:
            raise Declined(914)
        refund_ref = _plain(items.get("refund_ref", ""))
        told = _amount(items["amount"]) if items.get("amount") else None
        if refund_ref in entry.refunds:
            if told is not None and told != entry.refunds[refund_ref]:
                raise Declined(913)
            return
        if entry.stage == "refunded":
            raise Declined(914)
        if entry.stage != "finished":
            raise Declined(-1, "Payment is not finished")
        _require(items, "merchant_id", "terminal_id")
        left = entry.captured_amount - entry.refunded_amount
        amount = left if told is None else told
        if amount > left:
            raise Declined(110)
        if entry.pair >= 0 or entry.kind == "credit":
            self._undo(entry, whole=told is None or told == left, refund_ref=refund_ref)
            return
        entry.refunded_amount += amount
        if refund_ref:
            entry.refunds[refund_ref] = amount
        entry.returns.append((refund_ref, amount, self._book.clock.now_ms()))
        if entry.refunded_amount == entry.captured_amount:
            entry.stage = entry.state = "refunded"
        self._ledger.save(entry)

    # -- leaves ----------------------------------------------------------------------------------

    def _undo(self, entry: HumoEntry, *, whole: bool, refund_ref: str) -> None:
        """Undo a transfer or a credit, which is possible only as a whole."""
        if not whole:
            raise Declined(110)
        if refund_ref:
            entry.refunds[refund_ref] = entry.amount
        entries = [entry] if entry.pair < 0 else [entry, self._ledger.entries[entry.pair]]
        for half in entries:
            half.stage = "refunded"
            half.state = "reversed"
        self._ledger.save(*entries)

    def _fresh_ref(self, request: SoapRequest) -> tuple[str, HumoEntry | None]:
        """Return the paymentRef and the failed try that it may replace."""
        ref = request.fields.get("paymentRef", "")
        if not 1 <= len(ref) <= REF_LENGTH_MAX:
            raise Declined(-1)
        before = self._book.by_ref(ref)
        if before is None:
            return ref, None
        if before.state == "declined" and int(before.code) in RETRYABLE:
            return ref, before
        raise Declined(913)

    def _account(self, pan: str | None) -> Account:
        account = self._ledger.account(pan) if pan else None
        if account is None:
            raise Declined(111)
        return account

    def _debit_refusal(self, account: Account, expiry: str | None, amount: int) -> int:
        refusal = _status_refusal(account)
        if refusal:
            return refusal
        for known in (expiry, account.expiry):
            if known and self._book.clock.is_past_expiry(known):
                return 101
        if expiry and account.expiry and expiry != account.expiry:
            return 111
        return 116 if account.balance < amount else 0

    def _sender_refusal(self, entry: HumoEntry, details: dict[str, str]) -> int:
        if self._sender_data_from is None or entry.amount < self._sender_data_from:
            return 0
        is_told = all(details.get(name) for name in SENDER_FIELDS)
        return 0 if entry.biller == "SOAP_TOCARD_2" and is_told else -1

    def _refuse_confirm(self, entries: list[HumoEntry], code: int) -> None:
        # An issuer that was away decided nothing: the payment still awaits its confirm.
        if entries[0].kind != "hold" and code not in RETRYABLE:
            for half in entries:
                half.state = "declined"
                half.stage = "cancelled"
                half.code = str(code)
            self._ledger.save(*entries)
        raise Declined(code)

    def _settle(
        self, entries: list[HumoEntry], again: HumoEntry | None, refusal: int, decline: int
    ) -> None:
        """Record new entries as created or declined, and refuse when they were."""
        if again is not None:
            entries[0].number = again.number
            if len(entries) == 2:
                entries[1].number = again.pair
        if decline and decline not in ASK_LATER:
            refusal = refusal or decline
        if refusal:
            for entry in entries:
                entry.state = "declined"
                entry.stage = "cancelled"
                entry.code = str(refusal)
        if len(entries) == 2:
            # The debit carries the number of its credit, which only saving gives.
            after = len(self._ledger.entries) + (entries[0].number < 0)
            entries[0].pair = entries[1].number if entries[1].number >= 0 else after
        self._ledger.save(*entries)
        self._book.index(entries[0])
        if refusal or decline:
            raise Declined(refusal or decline)


def _require(values: dict[str, str], *names: str) -> None:
    for name in names:
        if not values.get(name):
            raise Declined(-1, f"Not enough input to start session: {name}")


def _amount(text: str, *, least: int = 1) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= AMOUNT_DIGITS_MAX):
        raise Declined(110)
    amount = int(text)
    if amount < least:
        raise Declined(110)
    return amount


def _plain(text: str) -> str:
    """Return a text that replies may carry as it is; refuse one that needs escaping."""
    if len(text) > REF_LENGTH_MAX or any(sign in text for sign in "<>&,"):
        raise Declined(-1)
    return text


def _status_refusal(account: Account) -> int:
    code = STATUS_CODES.get(account.status, account.status)
    return int(code)


def _currency_refusal(details: dict[str, str]) -> int:
    return 0 if details.get("ccy_code", "860") == "860" else 904
