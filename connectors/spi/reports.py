"""A processor's report of a business day: its lines in our words, and who reads and fetches it.

A reader is sans-IO: bytes in, lines out, nothing kept but the line that is not whole yet. Whatever
does not fit is a `ReportError` with the line's number; nothing of a line's content is in its text.
A report is only ever believed whole: a trailer counts its lines.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date, timedelta, timezone
from enum import StrEnum
from typing import Protocol

LINE_BYTES_MAX = 4_096
LINES_MAX = 20_000_000
AMOUNT_MAX = 10**15

TASHKENT = timezone(timedelta(hours=5))
"""Whose midnight ends a business day."""

_DIGITS = re.compile(r"[0-9]{1,16}\Z")
_NAME = re.compile(r"[A-Za-z0-9_./:-]{0,75}\Z")
_DAY = re.compile(r"[0-9]{4}(-[0-9]{2}-[0-9]{2}|[0-9]{4})\Z")
_LIKE_A_CARD = re.compile(r"[0-9]{13,19}\Z")
_FORMULA = ("=", "+", "-", "@")


class Movement(StrEnum):
    """What a line says was done."""

    DEBIT = "debit"  # a card was debited
    CREDIT = "credit"  # a card was credited
    TRANSFER = "transfer"  # both, inside one processor
    REFUND = "refund"  # something done before was given back, in part or whole


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One line of a report. Amounts are minor units of `currency`.

    Args:
        number: of the line in the report, from 1.
        movement: what was done.
        is_approved: False of what the processor declined; it moved nothing.
        reference: ours, where the processor repeats it; of a refund the refund's own, or else the
            reference of what was undone as a whole. Empty when the report carries none.
        processor_reference: the processor's own, such as an RRN; of a refund without an own one,
            that of what was undone.
        amount_minor: 0 to 10**15; of a transfer what was credited.
        commission_minor: what of a transfer was debited beyond `amount_minor`; None: not told.
        fee_minor: what the processor charges us for it.
        net_minor: what the processor owes us for it (negative: we owe), its fee left aside.
        currency: ISO 4217 alpha-3.
        day: the processor's date of it, in Tashkent.
    """

    number: int
    movement: Movement
    is_approved: bool
    reference: str
    processor_reference: str
    amount_minor: int
    commission_minor: int | None
    fee_minor: int
    net_minor: int
    currency: str
    day: date


class ReportError(ValueError):
    """A report that cannot be used. Safe to log: it names the place and the rule, never a value."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what


class ReportUnavailable(Exception):
    """The report cannot be had now. Safe to log."""


class ReportReader(Protocol):
    """Reads one report."""

    def feed(self, data: bytes) -> Iterator[ReportLine]:
        """Return the lines that are whole with these bytes. Raises ReportError."""
        ...

    def finish(self) -> None:
        """Say that no more comes. Raises ReportError: the report is not whole."""
        ...


class Reports(Protocol):
    """A connector's reports; a connector that has them carries them as `reports`."""

    file_suffix: str
    """What a file of it is called after its first dot."""

    def reader(self, day: date) -> ReportReader:
        """Return a reader of one business day's report; one of another day is refused."""
        ...

    def fetch(self, day: date) -> AsyncIterator[bytes]:
        """Give the day's report as the processor keeps it, in parts.

        Raises:
            ReportUnavailable: it cannot be had, or broke off.
        """
        ...

    def name_of(self, *, sequence: int, created_at_ms: int) -> str | None:
        """Return the processor's reference of a message of ours; None when only it knows."""
        ...


class Lines:
    """Cuts bytes into lines, strictly: one kind of line end, ASCII, no line without a bound.

    Raises:
        ReportError: from `feed` and `finish`.
    """

    def __init__(self) -> None:
        self._left = b""
        self._is_crlf: bool | None = None
        self.number = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """Return the lines that are whole now, without their ends."""
        parts = (self._left + data).split(b"\n")
        self._left = parts.pop()
        for part in parts:
            self.number += 1
            yield self._line(part)
        if len(self._left) > LINE_BYTES_MAX:
            raise ReportError(self.number + 1, f"is longer than {LINE_BYTES_MAX} bytes")

    def finish(self) -> None:
        """Refuse a last line without an end: it may have been cut off."""
        if self._left:
            raise ReportError(self.number + 1, "does not end")

    def _line(self, part: bytes) -> str:
        number = self.number
        if number > LINES_MAX:
            raise ReportError(number, f"there are more than {LINES_MAX} lines")
        if len(part) > LINE_BYTES_MAX:
            raise ReportError(number, f"is longer than {LINE_BYTES_MAX} bytes")
        if number == 1 and part.startswith(b"\xef\xbb\xbf"):
            raise ReportError(1, "begins with a byte order mark")
        is_crlf = part.endswith(b"\r")
        if is_crlf:
            part = part[:-1]
        if self._is_crlf is None:
            self._is_crlf = is_crlf
        if is_crlf is not self._is_crlf or b"\r" in part:
            raise ReportError(number, "line ends are mixed")
        try:
            text = part.decode("ascii")
        except UnicodeDecodeError:
            raise ReportError(number, "is not ASCII") from None
        if not text.isprintable():
            raise ReportError(number, "holds a control character, or is no text")
        return text


def cells(number: int, text: str, separator: str, count: int) -> list[str]:
    """Cut a line into exactly `count` cells; what a spreadsheet would run is refused."""
    found = text.split(separator, count)
    if len(found) != count:
        raise ReportError(number, f"must have {count} cells")
    for cell in found:
        if cell.startswith(_FORMULA):
            raise ReportError(number, "a cell begins like a formula")
        if '"' in cell:
            raise ReportError(number, "a cell is quoted")
    return found


def amount(number: int, text: str) -> int:
    """Read minor units: 1 to 16 digits; an empty cell is not zero."""
    if not _DIGITS.match(text) or int(text) > AMOUNT_MAX:
        raise ReportError(number, "an amount is not digits within bounds")
    return int(text)


def name(number: int, text: str) -> str:
    """Read a reference. One that looks like a card's number is masked: it may be one."""
    if not _NAME.match(text):
        raise ReportError(number, "a reference holds a character that none has, or is too long")
    return f"{text[:6]}...{text[-4:]}" if _LIKE_A_CARD.match(text) else text


def day(number: int, text: str) -> date:
    """Read `YYYY-MM-DD` or `YYYYMMDD`."""
    try:
        if _DAY.match(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ReportError(number, "a date is not one")


class TrailedReader(ABC):
    """What every reader of lines with a trailer does: a report without it was cut off.

    A reader gives `_read_line` what stands before its trailer, and sets `_is_ended` at it.

    Attributes:
        kind, trailer: what the report and its last line are called in errors.
    """

    kind = "file"
    trailer = "trailer"

    def __init__(self, business_day: date) -> None:
        self._day = business_day
        self._lines = Lines()
        self._count = 0
        self._is_ended = False

    def feed(self, data: bytes) -> Iterator[ReportLine]:
        """Return the lines that are whole with these bytes. Raises ReportError."""
        for text in self._lines.feed(data):
            number = self._lines.number
            if self._is_ended:
                raise ReportError(number, f"something follows the {self.trailer}")
            line = self._read_line(number, text)
            if line is not None:
                yield line

    def finish(self) -> None:
        """Raises ReportError: the report ends before its trailer."""
        self._lines.finish()
        if not self._is_ended:
            raise ReportError(
                self._lines.number, f"the {self.kind} has no {self.trailer}: it was cut off"
            )

    @abstractmethod
    def _read_line(self, number: int, text: str) -> ReportLine | None:
        """Return what a line says of money, or None. Raises ReportError."""
