"""What VISA decides about each message: no bytes, no sockets.

`Rules.decide` takes a decoded message, records what it does and returns F39 and F38. Duplicates
(same F2, F3, F4, F7, F11, F32, F37) are answered as the first time; the same trace with anything
else different is F39 94.
"""

from connectors.simulators.ledger import Account
from connectors.simulators.visa_book import (
    ASK_LATER,
    CURRENCIES,
    ORIGINAL_WIDTH,
    STATUS_CODES,
    Book,
    VisaEntry,
    original_of,
)

Doc = dict[str, str]

REPLY_MTI = {
    "0100": "0110",
    "0101": "0110",
    "0120": "0130",
    "0121": "0130",
    "0400": "0410",
    "0401": "0410",
    "0420": "0430",
    "0421": "0430",
    "0800": "0810",
}
NETWORK_CODES = frozenset({"001", "002", "301", "071", "072", "078", "079"})
SIGN_ON, SIGN_OFF = frozenset({"001", "071"}), frozenset({"002", "072"})

_NEEDED = {
    "0100": ("2", "3", "4", "7", "11", "32", "37", "49"),
    "0120": ("4", "7", "11", "32", "37", "90"),
    "0400": ("7", "11", "32", "37", "90"),
    "0420": ("7", "11", "32", "90"),
    "0800": ("7", "11", "70"),
}
_NUMERIC = ("2", "3", "4", "7", "11", "14", "25", "32", "49", "70", "90")
_KIND_OF_PROC = {"00": "purchase", "01": "purchase", "10": "debit", "26": "credit", "20": "refund"}
PREAUTHORISED, ACCOUNT_CHECK = "06", "51"


class Decision:
    """The outcome of one message. `code` is F39, `approval` F38 or empty."""

    __slots__ = ("approval", "code")

    def __init__(self, code: str, approval: str = "") -> None:
        self.code = code
        self.approval = approval


def kind_of(doc: Doc) -> str:
    """Classify a 0100: `purchase | hold | debit | credit | refund | check`, or empty."""
    if doc.get("25") == ACCOUNT_CHECK and not doc.get("4", "").strip("0"):
        return "check"
    kind = _KIND_OF_PROC.get(doc.get("3", "")[:2], "")
    return "hold" if kind == "purchase" and doc.get("25") == PREAUTHORISED else kind


class Rules:
    """Decides messages over one book."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ledger = book.ledger

    def decide(self, doc: Doc, decline: str | None) -> Decision:
        """Decide a message and record what it does. Args: decline is an armed fault's F39."""
        mti = doc["t"]
        base = mti[:3] + "0"
        if any(number not in doc for number in _NEEDED[base]):
            return Decision("30")
        # Packed digits may be any nibble on the wire.
        if any(number in doc and not doc[number].isdecimal() for number in _NUMERIC):
            return Decision("30")
        if base == "0100":
            return self._authorise(doc, decline)
        if base == "0120":
            return self._complete(doc, decline)
        if base in ("0400", "0420"):
            return self._reverse(doc, decline)
        return Decision("00" if doc["70"] in NETWORK_CODES else "12")

    # -- authorisations --------------------------------------------------------------------------

    def _authorise(self, doc: Doc, decline: str | None) -> Decision:
        kind = kind_of(doc)
        account = self._ledger.account(doc["2"])
        if kind == "check":
            return self._check(doc, account, decline)
        original = original_of("0100", doc)
        before = self._book.by_original.get(original)
        if before is not None:
            return _repeated(before, doc, account)
        amount = int(doc["4"])
        entry = self._entry(doc, kind or "purchase", account, amount, original)
        parent = self._parent(doc) if kind == "refund" else None
        refusal = self._refusal(doc, kind, account, amount, parent)
        if not refusal and decline is not None and decline not in ASK_LATER:
            refusal = decline
        if refusal:
            entry.state, entry.code, entry.approval = "declined", refusal, ""
        elif kind != "hold":
            entry.captured_amount = amount
        if parent is not None and not refusal:
            entry.parent = parent.number
            parent.refunded_amount += amount
            if parent.refunded_amount == parent.captured_amount:
                parent.state = "refunded"
            self._ledger.save(parent, entry)
        else:
            self._ledger.save(entry)
        self._book.index(entry)
        if refusal:
            return Decision(refusal)
        return Decision("00", entry.approval) if decline is None else Decision(decline)

    def _entry(
        self, doc: Doc, kind: str, account: Account | None, amount: int, original: str
    ) -> VisaEntry:
        return VisaEntry(
            ref=doc["37"],
            kind=kind,
            amount=amount,
            state="approved",
            account="" if account is None else account.token,
            pan_last4=doc["2"][-4:],
            rrn=doc["37"],
            currency=CURRENCIES.get(doc["49"], doc["49"]),
            created_ms=self._book.clock.now_ms(),
            original=original,
            proc=doc["3"],
            condition=doc.get("25", ""),
            stan=doc["11"],
            sent_at=doc["7"],
            acquirer=doc["32"],
            terminal=doc.get("41", ""),
            merchant=doc.get("42", ""),
            approval=f"{self._book.next_number():06d}",
        )

    def _refusal(
        self, doc: Doc, kind: str, account: Account | None, amount: int, parent: VisaEntry | None
    ) -> str:
        """Return F39 of the first reason to refuse, in order of precedence; empty for none."""
        if not kind:
            return "12"
        if account is None:
            return "14"
        if amount < 1:
            return "13"
        if kind == "refund":
            if parent is None:
                return "25"
            if parent.account != account.token:
                return "14"
            return "13" if amount > parent.captured_amount - parent.refunded_amount else ""
        refusal = self._card_refusal(doc, account)
        if not refusal and kind != "credit" and account.balance < amount:
            return "51"
        return refusal

    def _card_refusal(self, doc: Doc, account: Account) -> str:
        code = STATUS_CODES.get(account.status, account.status)
        if code != "00":
            return code
        told = doc.get("14")
        for expiry in (told, account.expiry):
            if expiry and self._book.clock.is_past_expiry(expiry):
                return "54"
        return "14" if told and account.expiry and told != account.expiry else ""

    def _check(self, doc: Doc, account: Account | None, decline: str | None) -> Decision:
        """Account check: 85 is "no reason to decline"."""
        if decline is not None:
            return Decision(decline)
        if account is None:
            return Decision("14")
        return Decision(self._card_refusal(doc, account) or "85")

    def _parent(self, doc: Doc) -> VisaEntry | None:
        """Find what a refund gives back: captured, or approved at once, and not undone."""
        parent = self._book.by_original.get(doc.get("90", "")[:ORIGINAL_WIDTH])
        if parent is None or parent.kind in ("refund", "tombstone", "credit"):
            return None
        is_taken = parent.captured_amount and parent.state in ("approved", "captured", "refunded")
        return parent if is_taken else None

    # -- completions -----------------------------------------------------------------------------

    def _complete(self, doc: Doc, decline: str | None) -> Decision:
        """Capture a hold; the same completion again is answered as the first time."""
        entry = self._book.by_original.get(doc["90"][:ORIGINAL_WIDTH])
        if entry is None or entry.kind == "tombstone" or entry.state == "declined":
            return Decision("25")
        amount = int(doc["4"])
        if entry.kind != "hold":
            return Decision("12")
        if entry.state in ("captured", "refunded"):
            is_same = amount == entry.captured_amount
            return Decision("00", entry.approval) if is_same else Decision("94")
        if entry.state != "approved":
            return Decision("21")
        if not 1 <= amount <= entry.amount:
            return Decision("13")
        if decline is not None and decline not in ASK_LATER:
            return Decision(decline)
        entry.state = "captured"
        entry.captured_amount = amount
        entry.capture_ref = doc["37"]
        self._ledger.save(entry)
        return Decision("00", entry.approval) if decline is None else Decision(decline)

    # -- reversals -------------------------------------------------------------------------------

    def _reverse(self, doc: Doc, decline: str | None) -> Decision:
        """Undo the original that F90 names.

        Notes: F39 25 for an original that never arrived, which is remembered; 21 for one that
        there is nothing to undo of.
        """
        named = doc["90"][:ORIGINAL_WIDTH]
        own = original_of(doc["t"][:3] + "0", doc)
        entry = self._book.by_original.get(named)
        if decline is not None and decline not in ASK_LATER:
            return Decision(decline)
        if entry is None:
            account = self._ledger.account(doc.get("2", ""))
            self._book.remember_unknown(named, account, doc.get("37", ""))
            return Decision("25")
        if entry.kind == "tombstone":
            return Decision("25")
        if entry.undone_by == own:
            return Decision("00")
        is_request = doc["t"].startswith("040")
        if entry.state not in ("approved", "captured", "refunded"):
            return Decision("21")
        if is_request and entry.kind == "hold" and entry.state != "approved":
            # A cancel undoes a hold; what was captured is refunded, or reversed by advice.
            return Decision("12")
        self._undo(entry, "released" if is_request and entry.kind == "hold" else "reversed", own)
        return Decision("00") if decline is None else Decision(decline)

    def _undo(self, entry: VisaEntry, state: str, own: str) -> None:
        entry.state = state
        entry.undone_by = own
        if entry.kind != "refund":
            self._ledger.save(entry)
            return
        parent = self._ledger.entries[entry.parent]
        parent.refunded_amount -= entry.amount
        if parent.state == "refunded":
            parent.state = "captured" if parent.kind == "hold" else "approved"
        self._ledger.save(parent, entry)


def _repeated(before: VisaEntry, doc: Doc, account: Account | None) -> Decision:
    """Answer a trace seen before: as the first time when it is the same message, else 94."""
    is_same = (
        before.kind != "tombstone"
        and before.account == ("" if account is None else account.token)
        and before.rrn == doc["37"]
        and before.amount == int(doc["4"])
        and before.proc == doc["3"]
    )
    if not is_same:
        return Decision("94")
    if before.state == "declined":
        return Decision(before.code)
    # What was undone meanwhile must not be told as approved again.
    return Decision("94") if before.undone_by else Decision("00", before.approval)
