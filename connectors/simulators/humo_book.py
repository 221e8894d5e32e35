"""HUMO's payments: the entry, its indexes, and the details that replies carry."""

import time
from typing import Any

import msgspec

from connectors.simulators.clock import SimClock
from connectors.simulators.ledger import Account, Entry, Ledger

CREATED, FINISHED = 4, 10
OK_CODE = "000"

DESCRIPTIONS: dict[int, str] = {
    -1: "Not enough input to start session",
    101: "Expired card",
    104: "Restricted card",
    110: "Invalid amount",
    111: "Invalid card number",
    116: "Not sufficient funds",
    129: "Suspected counterfeit card",
    280: "Card is blocked by the bank",
    281: "Card is blocked by the holder",
    208: "Lost card",
    209: "Stolen card",
    907: "Issuer is inoperative",
    909: "System malfunction",
    911: "Issuer timed out",
    913: "Duplicate transmission",
    914: "Not able to trace back to original transaction",
}

# Unknown to the client whether it was done: the simulator does it, then says this.
ASK_LATER = frozenset({909, 911, 913})
# Nothing was done and the same paymentRef may be tried again.
RETRYABLE = frozenset({906, 907, 910, 912})

STATUS_CODES: dict[str, str] = {
    "active": "000",
    "expired": "101",
    "restricted": "104",
    "blocked": "280",
    "lost": "208",
    "stolen": "209",
    "fraud": "129",
}


class HumoEntry(Entry, omit_defaults=True, gc=False):
    """One payment, or half of a transfer.

    Attributes:
        payment_id: the processor's number.
        biller: billerRef, or `P2P`.
        stage: `created | finished | cancelled | refunded`; an expired one is told by `is_expired`.
        fee: part of `amount` that is the bank's charge.
        pair: number of the credit entry of a transfer, on its debit entry.
        refunds: applied refund references with their amounts.
        returns: every refund: its reference, amount and moment in Unix milliseconds.
    """

    payment_id: int = 0
    biller: str = ""
    stage: str = "created"
    fee: int = 0
    pair: int = -1
    approval: str = ""
    terminal: str = ""
    refunds: dict[str, int] = msgspec.field(default_factory=dict)
    returns: list[tuple[str, int, int]] = msgspec.field(default_factory=list)


class Book:
    """The ledger with its indexes by paymentRef and paymentID."""

    def __init__(self, ledger: Ledger[HumoEntry], clock: SimClock, ttl_minutes: int) -> None:
        self.ledger = ledger
        self.clock = clock
        self.ttl_minutes = ttl_minutes
        self._by_ref: dict[str, HumoEntry] = {}
        self._by_id: dict[str, HumoEntry] = {}
        self._sequence = clock.now_ms() // 1000 * 100 % 10**11
        self._stamp_second = -1
        self._stamp = ("", "")
        ledger.load(self.index)

    def index(self, entry: HumoEntry) -> None:
        """Make an entry findable; the credit half of a transfer is found through its debit."""
        if entry.kind == "credit" and entry.biller == "P2P":
            return
        self._by_ref[entry.ref] = entry
        self._by_id[str(entry.payment_id)] = entry
        self._sequence = max(self._sequence, entry.payment_id)

    def clear(self) -> None:
        """Forget everything but the numbers already given out."""
        self.ledger.reset()
        self._by_ref.clear()
        self._by_id.clear()

    def find(self, fields: dict[str, str]) -> HumoEntry | None:
        """Find a payment by paymentID or paymentRef; both given must name the same."""
        payment_id, payment_ref = fields.get("paymentID"), fields.get("paymentRef")
        entry = None
        if payment_id:
            entry = self._by_id.get(payment_id)
            if entry is not None and payment_ref and entry.ref != payment_ref:
                return None
        elif payment_ref:
            entry = self._by_ref.get(payment_ref)
        return entry

    def by_ref(self, payment_ref: str) -> HumoEntry | None:
        """Find a payment by the client's key."""
        return self._by_ref.get(payment_ref)

    def next_number(self) -> int:
        """Return a number never given out before."""
        self._sequence += 1
        return self._sequence

    def entry(
        self, *, ref: str, kind: str, account: Account, amount: int, biller: str, terminal: str
    ) -> HumoEntry:
        """Make an entry that is not yet saved, `approved` for a hold and else `pending`."""
        number = self.next_number()
        now = self.clock.now_ms()
        stan = number % 1_000_000
        return HumoEntry(
            ref=ref,
            kind=kind,
            amount=amount,
            state="approved" if kind == "hold" else "pending",
            account=account.token,
            pan_last4=account.masked[-4:],
            created_ms=now,
            rrn=f"{self._stamps(now)[1]}{stan:06d}",
            expires_ms=now + self.ttl_minutes * 60_000,
            payment_id=number,
            biller=biller,
            approval=f"{stan:06d}",
            terminal=terminal,
            refunds={},
        )

    def details(self, entry: HumoEntry, shift: int = 0) -> dict[str, Any]:
        """Return the items a reply about `entry` carries. Args: shift is added to amounts."""
        account = self.ledger.account_by_token(entry.account)
        is_finished = entry.stage in ("finished", "refunded")
        amount = (entry.captured_amount if is_finished else entry.amount) - entry.fee + shift
        remaining = amount - entry.refunded_amount
        code = entry.code.zfill(3) if entry.state == "declined" else OK_CODE
        shown: dict[str, Any] = {
            "internal_pan_masked": "" if account is None else account.masked,
            "netsw_proccode": "000000",
            "sli": "210",
            "amount": amount,
            "transaction_amount": amount,
            "cardholder_amount1a": amount,
            "cardholder_ccy_code": "860",
            "conversion_rate": "1.000000000000000",
            "auth_action_code": code,
            "auth_action_code_final": code,
            "auth_appr_code": entry.approval,
            "auth_ref_number": entry.rrn,
            "auth_stan": entry.approval,
            "auth_time": self._stamps(entry.created_ms)[0],
            "card_type": "01",
            "ret_ref_numb1a": entry.rrn,
            "terminal_id": entry.terminal,
            "ttl": self.ttl_minutes,
            "ttl_action": "0001",
        }
        if entry.pair >= 0:
            other = self.ledger.entries[entry.pair]
            shown["amount_fee"] = entry.fee
            shown["fld_126_P2PR"] = other.approval
            shown["auth_ref_number2"] = other.rrn
            shown["auth_action_code_final2"] = code
        shown["remaining_amount"] = remaining if entry.state != "released" else 0
        shown["refunded_amount"] = entry.refunded_amount
        return shown

    def inquiry_details(self, entry: HumoEntry, shift: int = 0) -> dict[str, Any]:
        """Return what `GetPayment` tells: the details, with state, action and refunds."""
        shown = self.details(entry, shift)
        shown["action"] = self.action(entry)
        shown["state"] = "expired" if entry.is_expired else entry.stage
        if entry.refunds:
            shown["refund_refs"] = ",".join(entry.refunds)
        return shown

    def action(self, entry: HumoEntry) -> int:
        """Return 4 while the payment awaits its confirm, 10 afterwards."""
        return CREATED if entry.stage == "created" and not entry.is_expired else FINISHED

    def _stamps(self, moment_ms: int) -> tuple[str, str]:
        """Return `YYYYMMDDhhmmss` and `YDDDHH` of a moment; the last second's are kept."""
        second = moment_ms // 1000
        if second != self._stamp_second:
            moment = time.gmtime(second)
            self._stamp = (
                time.strftime("%Y%m%d%H%M%S", moment),
                f"{moment.tm_year % 10}{moment.tm_yday:03d}{moment.tm_hour:02d}",
            )
            self._stamp_second = second
        return self._stamp
