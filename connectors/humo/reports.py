"""HUMO's file of a day: lines of cells between semicolons, read strictly.

    H;HUMO;20261121
    D;operation;original;paymentRef;paymentID;rrn;action_code;amount;amount_fee;860;YYYYMMDDhhmmss
    T;lines;debits_number;debits_amount;credits_reversal_number;credits_reversal_amount

`operation` is the `billerRef` that made the payment, `P2P` of a transfer, `RETURN` of a refund
(its `paymentRef` is the refund's own reference) or `REVERSAL` of what was undone as a whole;
`original` is what those two gave back. An action code other than 000 declined. The trailer says
what `SOAP_RECO` says of the same day.
"""

from collections.abc import AsyncIterator
from datetime import date

from connectors.humo.codec import CURRENCY
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

_CELLS = 11
_OK = "000"
_TIME_LENGTH = 14
_DEBITS = frozenset({"SOAP_SMS", "SOAP_DMS"})
_CREDITS = frozenset({"SOAP_TOCARD", "SOAP_TOCARD_2"})
_TRANSFER = "P2P"
_RETURNS = frozenset({"RETURN", "REVERSAL"})


class HumoReports:
    """HUMO's reports behind `connectors.spi.reports.Reports`."""

    file_suffix = "txt"

    def __init__(self, connector: str, place: Place) -> None:
        self._connector = connector
        self._place = place

    def reader(self, day: date) -> "DayFileReader":
        return DayFileReader(day)

    def fetch(self, day: date) -> AsyncIterator[bytes]:
        return fetch(self._place, f"{self._connector}-{day}.{self.file_suffix}", day)

    def name_of(self, *, sequence: int, created_at_ms: int) -> str | None:
        """HUMO names what it does by our reference."""
        return None


class DayFileReader(TrailedReader):
    """Reads one file."""

    def __init__(self, business_day: date) -> None:
        super().__init__(business_day)
        # Debits' number and amount, credits' and returns' number and amount.
        self._sums = [0, 0, 0, 0]

    def _read_line(self, number: int, text: str) -> ReportLine | None:
        if number == 1:
            self._begin(text)
            return None
        if text.startswith("T;"):
            self._end(number, text)
            return None
        line = _line(number, cells(number, text, ";", _CELLS))
        self._count += 1
        if line.is_approved:
            at = 2 if line.movement in (Movement.CREDIT, Movement.REFUND) else 0
            self._sums[at] += 1
            self._sums[at + 1] += line.amount_minor + (line.commission_minor or 0)
        return line

    def _begin(self, text: str) -> None:
        mark, who, told_day = cells(1, text, ";", 3)
        if (mark, who) != ("H", "HUMO"):
            raise ReportError(1, "the first line is not HUMO's header")
        if day(1, told_day) != self._day:
            raise ReportError(1, "is of another business day")

    def _end(self, number: int, text: str) -> None:
        _, count, *sums = cells(number, text, ";", 6)
        if count != str(self._count):
            raise ReportError(number, "the trailer counts other lines than there are")
        if sums != [str(one) for one in self._sums]:
            raise ReportError(number, "the trailer's sums are others than those of the lines")
        self._is_ended = True


def _line(number: int, values: list[str]) -> ReportLine:
    mark, operation, original, ref, _, rrn, code, minor, fee, currency, moment = values
    if mark != "D":
        raise ReportError(number, "begins with a mark that is not known")
    if currency != CURRENCY:
        raise ReportError(number, "the currency is not 860")
    if len(code) != len(_OK) or not code.isdigit():
        raise ReportError(number, "the action code is not three digits")
    if len(moment) != _TIME_LENGTH or not moment.isdigit():
        raise ReportError(number, "the time is not YYYYMMDDhhmmss")
    if not ref:
        raise ReportError(number, "has no reference")
    moved, charged = amount(number, minor), amount(number, fee)
    movement = _movement(number, operation)
    is_approved = code == _OK
    return ReportLine(
        number=number,
        movement=movement,
        is_approved=is_approved,
        reference=name(number, ref),
        processor_reference=name(number, rrn),
        amount_minor=moved,
        commission_minor=charged,
        fee_minor=0,
        net_minor=_net(number, operation, original, moved, charged) if is_approved else 0,
        currency="UZS",
        day=day(number, moment[:8]),
    )


def _movement(number: int, operation: str) -> Movement:
    if operation in _DEBITS:
        return Movement.DEBIT
    if operation in _CREDITS:
        return Movement.CREDIT
    if operation == _TRANSFER:
        return Movement.TRANSFER
    if operation in _RETURNS:
        return Movement.REFUND
    raise ReportError(number, "the operation is not known")


def _net(number: int, operation: str, original: str, moved: int, charged: int) -> int:
    """What HUMO owes us for it: what was debited, less what was credited."""
    if operation in _RETURNS:
        if original in _RETURNS:
            raise ReportError(number, "gives back what was given back")
        return -_net(number, original, "", moved, charged)
    movement = _movement(number, operation)
    if movement is Movement.TRANSFER:
        return charged
    return -moved if movement is Movement.CREDIT else moved
