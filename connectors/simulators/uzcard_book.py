"""UZCARD's transactions and holds: the entry, its indexes, and how SVGate shows it."""

import sys
from itertools import islice
from typing import Any

from connectors.simulators.clock import SimClock
from connectors.simulators.ledger import Account, Entry, Ledger
from connectors.simulators.uzcard_codes import RESP_DEFAULT, RESP_OF

NO_REFERENCE = "000000000000"
HOLDS_LISTED_MAX = 200
HOLD_ACTIVE, HOLD_CAPTURED, HOLD_RELEASED, HOLD_EXPIRED = range(4)
HOLD_REMARKS = ("ACTIVE", "CAPTURED", "RELEASED", "EXPIRED")


class UzcardEntry(Entry, omit_defaults=True, gc=False):
    """One SVGate transaction or hold.

    Attributes:
        tran_id: SVGate's own id of the transaction.
        tran_type: DEBIT | P2P | CREDIT | REVERSAL | HOLD.
        fee: the part of `amount` that is a fee (commission, feeAmount).
        pair: number of the credit entry of a transfer, on its debit entry.
        rrn_credit: reference of the credit half of a transfer.
        pan2: masked recipient.
        minutes: how long a hold was asked for.
    """

    tran_id: str = ""
    tran_type: str = ""
    fee: int = 0
    pair: int = -1
    rrn_credit: str = ""
    pan2: str = ""
    approval: str = ""
    merchant: str = ""
    terminal: str = ""
    minutes: int = 0


class Book:
    """The ledger with the indexes that SVGate's inquiries need."""

    def __init__(self, ledger: Ledger[UzcardEntry], clock: SimClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.by_ext: dict[str, UzcardEntry] = {}
        self.by_rrn: dict[str, UzcardEntry] = {}
        self.holds: dict[str, UzcardEntry] = {}
        self._holds_of_card: dict[str, list[UzcardEntry]] = {}
        # Distinct from those of an earlier run that lost its journal, without being random.
        self._sequence = clock.now_ms() // 1000 * 100 % 10**11
        ledger.load(self.index)

    def index(self, entry: UzcardEntry) -> None:
        """Make an entry findable by ext, reference, hold id and card."""
        if entry.kind == "credit" and entry.tran_type == "P2P":
            # Half of a transfer: its debit is what both references find.
            return
        for reference in (entry.rrn, entry.rrn_credit):
            if reference:
                self.by_rrn[reference] = entry
                self._sequence = max(self._sequence, int(reference))
        if entry.kind == "hold":
            if entry.ref not in self.holds:
                self.holds[entry.ref] = entry
                self._holds_of_card.setdefault(entry.account, []).append(entry)
                self._sequence = max(self._sequence, int(entry.ref))
            if entry.capture_ref:
                self.by_ext[entry.capture_ref] = entry
        else:
            self.by_ext[entry.ref] = entry

    def clear(self) -> None:
        """Forget everything but the numbers already given out."""
        self.ledger.reset()
        self.by_ext.clear()
        self.by_rrn.clear()
        self.holds.clear()
        self._holds_of_card.clear()

    def next_number(self) -> int:
        """Return a number never given out before, below 10**12."""
        self._sequence = (self._sequence + 1) % 10**12
        return self._sequence

    def holds_of(self, token: str) -> list[UzcardEntry]:
        """List the newest holds of a card, newest first, at most 200."""
        return list(islice(reversed(self._holds_of_card.get(token, ())), HOLDS_LISTED_MAX))

    def entry(
        self, *, ref: str, kind: str, account: Account, amount: int, merchant: str, terminal: str
    ) -> UzcardEntry:
        """Make an entry that is not yet saved."""
        number = self.next_number()
        return UzcardEntry(
            ref=ref,
            kind=kind,
            amount=amount,
            state="approved",
            account=account.token,
            pan_last4=account.masked[-4:],
            created_ms=self.clock.now_ms(),
            rrn=f"{number:012d}",
            tran_id=str(1_000_000_000 + number % 9_000_000_000),
            approval=f"{number % 1_000_000:06d}",
            merchant=sys.intern(merchant),
            terminal=sys.intern(terminal),
        )

    def transaction(self, entry: UzcardEntry, shift: int = 0) -> dict[str, Any]:
        """Show an entry as SVGate's transaction object. Args: shift is added to the amount."""
        account = self.ledger.account_by_token(entry.account)
        date7, date12 = self.clock.stamps(entry.created_ms)
        is_declined = entry.state == "declined"
        amount = entry.captured_amount if entry.kind == "hold" else entry.amount - entry.fee
        resp = RESP_OF.get(int(entry.code), RESP_DEFAULT) if is_declined else 0
        shown: dict[str, Any] = {
            "id": entry.tran_id,
            "username": "oqim",
            "refNum": NO_REFERENCE if is_declined else entry.rrn,
            "ext": entry.capture_ref or entry.ref,
            "pan": "" if account is None else account.masked,
            "expiry": "" if account is None else account.expiry,
            "tranType": entry.tran_type,
            "date7": date7,
            "date12": date12,
            "amount": amount + shift,
            "currency": 860,
            "stan": int(entry.approval or 0),
            "field38": "" if is_declined else entry.approval,
            "field48": "",
            "field91": "",
            "merchantId": entry.merchant,
            "terminalId": entry.terminal,
            "resp": resp,
            "respText": "Declined" if is_declined else "Successful transaction",
            "respSV": f"{resp:02d}",
            "status": _status(entry.state),
        }
        if entry.pan2:
            shown["pan2"] = entry.pan2
        if entry.fee:
            shown["commission"] = entry.fee
        if entry.rrn_credit:
            shown["transType"] = 1
            shown["refNumDebit"] = entry.rrn
            shown["refNumCredit"] = entry.rrn_credit
        return shown

    def hold_view(self, entry: UzcardEntry) -> dict[str, Any]:
        """Show a hold as `hold.get.id` does; `createTime` is in Unix milliseconds."""
        account = self.ledger.account_by_token(entry.account)
        status = _hold_status(entry)
        return {
            "hid": int(entry.ref),
            "crefNo": entry.approval,
            "reqamt": entry.amount,
            "createTime": entry.created_ms,
            "waitingTime": entry.minutes,
            "status": status,
            "remark": HOLD_REMARKS[status],
            "accNo": "" if account is None else account.masked,
            "userName": "oqim",
        }


def _status(state: str) -> str:
    if state in ("reversed", "refunded"):
        return "ROK"
    return "ERR" if state == "declined" else "OK"


def _hold_status(entry: UzcardEntry) -> int:
    if entry.state == "approved":
        return HOLD_ACTIVE
    if entry.is_expired:
        return HOLD_EXPIRED
    return HOLD_CAPTURED if entry.captured_amount else HOLD_RELEASED
