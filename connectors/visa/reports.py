"""VISA's clearing of a day: a CSV file, read strictly, line by line.

    business_date,transaction_code,processing_code,rrn,approval_code,card_last4,amount,currency,
    processing_fee,transaction_date                                     (the first line, in one)
    2026-11-21,05,000000,632514000123,000123,4242,125000,UZS,125,2026-11-21
    TRAILER,1,125000                                        lines, and the sum of their amounts

Transaction codes: 05 a sale, 06 a credit (F3 20: a refund, 26: a credit to a card), 25 and 26 undo
one that was cleared before. VISA carries no reference of ours: a line is known by its RRN (F37).
"""

from collections.abc import AsyncIterator
from datetime import date

from connectors.spi.reports import (
    Movement,
    ReportError,
    ReportLine,
    TrailedReader,
    amount,
    cells,
    day,
    name,
)
from connectors.transport.places import Place, fetch
from connectors.visa.codec import CURRENCIES, names

COLUMNS = (
    "business_date",
    "transaction_code",
    "processing_code",
    "rrn",
    "approval_code",
    "card_last4",
    "amount",
    "currency",
    "processing_fee",
    "transaction_date",
)

# Transaction code and the first two digits of F3: what was done, and the sign of what VISA owes.
_MEANINGS: dict[tuple[str, str], tuple[Movement, int]] = {
    ("05", "00"): (Movement.DEBIT, 1),
    ("05", "01"): (Movement.DEBIT, 1),
    ("05", "10"): (Movement.DEBIT, 1),
    ("06", "20"): (Movement.REFUND, -1),
    ("06", "26"): (Movement.CREDIT, -1),
    ("25", "00"): (Movement.REFUND, -1),
    ("25", "01"): (Movement.REFUND, -1),
    ("25", "10"): (Movement.REFUND, -1),
    ("26", "20"): (Movement.DEBIT, 1),
    ("26", "26"): (Movement.REFUND, 1),
}


class VisaReports:
    """VISA's reports behind `connectors.spi.reports.Reports`."""

    file_suffix = "csv"

    def __init__(self, connector: str, place: Place) -> None:
        self._connector = connector
        self._place = place

    def reader(self, day: date) -> "ClearingReader":
        return ClearingReader(day)

    def fetch(self, day: date) -> AsyncIterator[bytes]:
        return fetch(self._place, f"{self._connector}-{day}.{self.file_suffix}", day)

    def name_of(self, *, sequence: int, created_at_ms: int) -> str | None:
        return names(sequence=sequence, created_at_ms=created_at_ms).reference


class ClearingReader(TrailedReader):
    """Reads one clearing file."""

    def __init__(self, business_day: date) -> None:
        super().__init__(business_day)
        self._sum = 0

    def _read_line(self, number: int, text: str) -> ReportLine | None:
        if number == 1:
            if text != ",".join(COLUMNS):
                raise ReportError(1, "the first line does not name the columns")
            return None
        if text.startswith("TRAILER,"):
            self._end(number, text)
            return None
        line = _line(number, cells(number, text, ",", len(COLUMNS)), self._day)
        self._count += 1
        self._sum += line.amount_minor
        return line

    def _end(self, number: int, text: str) -> None:
        _, count, total = cells(number, text, ",", 3)
        if count != str(self._count):
            raise ReportError(number, "the trailer counts other lines than there are")
        if total != str(self._sum):
            raise ReportError(number, "the trailer's sum is another than that of the lines")
        self._is_ended = True


def _line(number: int, values: list[str], business_day: date) -> ReportLine:
    told_day, code, processing, rrn, _, last4, minor, currency, fee, done = values
    if day(number, told_day) != business_day:
        raise ReportError(number, "is of another business day")
    meaning = _MEANINGS.get((code, processing[:2]))
    if meaning is None:
        raise ReportError(number, "the transaction code is not known")
    if len(rrn) != 12 or not rrn.isalnum():
        raise ReportError(number, "the RRN is not 12 characters")
    if len(last4) > 4:
        raise ReportError(number, "more of a card's number than its last four digits")
    if currency not in CURRENCIES:
        raise ReportError(number, "the currency is not known")
    movement, sign = meaning
    moved = amount(number, minor)
    return ReportLine(
        number=number,
        movement=movement,
        is_approved=True,
        reference="",
        processor_reference=name(number, rrn),
        amount_minor=moved,
        commission_minor=None,
        fee_minor=amount(number, fee),
        net_minor=sign * moved,
        currency=currency,
        day=day(number, done),
    )
