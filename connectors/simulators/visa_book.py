"""VISA's authorisations: the entry and its indexes by original data (F90) and reference."""

from connectors.simulators.clock import SimClock
from connectors.simulators.ledger import Account, Entry, Ledger

CURRENCIES = {"860": "UZS", "840": "USD", "978": "EUR", "643": "RUB"}
CURRENCY_NUMBERS = {name: number for number, name in CURRENCIES.items()}
ACQUIRER_WIDTH = 11
ORIGINAL_WIDTH = 31

STATUS_CODES: dict[str, str] = {
    "active": "00",
    "expired": "54",
    "restricted": "62",
    "blocked": "62",
    "lost": "41",
    "stolen": "43",
    "fraud": "59",
}

# "Nobody can say yet": the simulator approves, records, and then says this.
ASK_LATER = frozenset({"68", "94"})


class VisaEntry(Entry, omit_defaults=True, gc=False):
    """One authorisation, refund (`refund`, inner) or remembered reversal (`tombstone`, inner).

    Attributes:
        original: MTI, F11, F7 and F32 (11 digits), as F90 names it.
        proc: F3. condition: F25. stan: F11. sent_at: F7. acquirer: F32.
        terminal: F41. merchant: F42. approval: F38.
        undone_by: `original` of the reversal that undid it, so that its repeat is told apart.
    """

    original: str = ""
    proc: str = ""
    condition: str = ""
    stan: str = ""
    sent_at: str = ""
    acquirer: str = ""
    terminal: str = ""
    merchant: str = ""
    approval: str = ""
    undone_by: str = ""


class Book:
    """The ledger with the indexes that reversals, captures and duplicates need."""

    def __init__(self, ledger: Ledger[VisaEntry], clock: SimClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.by_original: dict[str, VisaEntry] = {}
        self.by_rrn: dict[str, VisaEntry] = {}
        self._sequence = clock.now_ms() // 1000 % 1_000_000
        ledger.load(self.index)

    def index(self, entry: VisaEntry) -> None:
        """Make an entry findable by its original data, and by reference when it is shown."""
        self.by_original[entry.original] = entry
        if entry.kind not in ("refund", "tombstone"):
            self.by_rrn[entry.rrn] = entry

    def clear(self) -> None:
        """Forget everything."""
        self.ledger.reset()
        self.by_original.clear()
        self.by_rrn.clear()

    def next_number(self) -> int:
        """Return the next of 999999 numbers, from 1: trace numbers and approval codes."""
        self._sequence = self._sequence % 999_999 + 1
        return self._sequence

    def remember_unknown(self, original: str, account: Account | None, rrn: str) -> None:
        """Remember a reversal whose original never arrived, so that it is refused when it does."""
        tombstone = VisaEntry(
            ref=rrn,
            kind="tombstone",
            amount=0,
            state="reversed",
            account="" if account is None else account.token,
            pan_last4="" if account is None else account.masked[-4:],
            created_ms=self.clock.now_ms(),
            original=original,
        )
        self.ledger.save(tombstone)
        self.index(tombstone)


def original_of(mti: str, doc: dict[str, str]) -> str:
    """Name a message as F90 does, without the forwarder: MTI, F11, F7, F32 in 11 digits."""
    return f"{mti}{doc['11']}{doc['7']}{doc.get('32', '').zfill(ACQUIRER_WIDTH)}"
